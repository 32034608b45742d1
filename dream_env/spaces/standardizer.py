"""Packed observations to what the networks see, and back."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dream_env.spaces.observations import ObservationConfig, ObservationKey, ObservationSpec

Statistics = dict[str, tuple[np.ndarray, np.ndarray]]
"""Per key the mean and the standard deviation over all recorded observations, float32, of the packed shape."""


class Standardizer(nn.Module):
    """Packed arrays to what the networks see, and back: ``(x − mean) / std`` with statistics of the recordings.

    Pictures: ``std`` has ``std_floor`` grey levels added. With one mean and std for the whole picture a ball of four
    pixels is lost in the background for thousands of updates; with each pixel's own, rare moving things weigh most.

    An agent shows the model what no recording showed: an expert that never lost leaves the other side's score at 0, and a
    digit that then lights up would be dozens of standard deviations away and drown everything else. So what never changed in
    the recordings, pixel or entry of a vector, is ignored (weights that only saw 0 have learned nothing about it), and no
    picture's entry is taken for more than ``LIMIT`` deviations.
    """

    STILL_PIXEL = 0.01
    """A pixel with a smaller standard deviation, in grey levels, never changed; the rest is rounding."""
    STILL = 1e-4
    """A vector entry with a smaller standard deviation never changed: dividing by it would only amplify noise."""
    LIMIT = 10.0
    """Standard deviations beyond which a pixel is cut off."""

    def __init__(self, spec: ObservationSpec, statistics: Statistics | None = None) -> None:
        super().__init__()
        self.keys = spec.keys
        for key in spec.keys:
            mean, std = _affine(key, spec.config, statistics)
            for name, value in (("mean", mean), ("std", std)):
                shaped = np.broadcast_to(np.asarray(value, np.float32), key.shape).copy()
                self.register_buffer(f"{name}_{key.module_name}", torch.from_numpy(shaped))

    def _mean_std(self, key: ObservationKey) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"mean_{key.module_name}"), self.get_buffer(f"std_{key.module_name}")

    def forward(self, packed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Packed (..., H, W, C) uint8 or (..., n) to float32 (..., C, H, W) or (..., n)."""
        result: dict[str, Tensor] = {}
        for key in self.keys:
            mean, std = self._mean_std(key)
            gain = torch.where(std > 0, 1.0 / std, 0.0)
            x = packed[key.name].to(torch.float32, copy=True).sub_(mean).mul_(gain)
            result[key.name] = x.clamp_(-self.LIMIT, self.LIMIT).movedim(-1, -3) if key.kind == "image" else x
        return result

    def inverse(self, standardized: dict[str, Tensor]) -> dict[str, Tensor]:
        """Back to the packed domain, in float32; pictures are clamped to 0…255."""
        result: dict[str, Tensor] = {}
        for key in self.keys:
            mean, std = self._mean_std(key)
            x = standardized[key.name]
            if key.kind == "image":
                result[key.name] = (x.movedim(-3, -1) * std + mean).clamp(0.0, 255.0)
            else:
                result[key.name] = x * std + mean
        return result


def _affine(key: ObservationKey, config: ObservationConfig, statistics: Statistics | None) -> tuple[Any, Any]:
    if statistics is None or config.standardize == "none":
        return (127.5, 255.0) if key.kind == "image" else (0.0, 1.0)
    mean, std = (np.asarray(x, np.float64) for x in statistics[key.name])
    if key.kind == "vector":
        return mean, np.where(std > Standardizer.STILL, std, 0.0)
    if config.standardize == "global":
        variance = (std**2).mean() + mean.var()  # law of total variance
        mean, std = mean.mean(), np.sqrt(variance)
    # As of vectors, 0 marks a pixel that never changed; in pictures with one deviation for all there is none.
    return mean, np.where(std > Standardizer.STILL_PIXEL, std + config.std_floor, 0.0)
