"""The axis legend, and the one container that everything between model and learner passes around.

==========  ============================================================================
axis        meaning
==========  ============================================================================
``time``    steps of a sequence, always the first axis of a sequence (time-major)
``batch``   independent sequences, dreams or environments
``groups``  categorical variables of one latent (32 in DreamerV2)
``classes`` classes of one categorical variable (32 in DreamerV2)
``deter``   the recurrent, deterministic half ``h`` of the model state
``stoch``   the sampled half ``z``: ``groups * classes`` one-hot numbers, or Gaussian dimensions
``feat``    ``deter + stoch``: what policies and decoders see
``action``  the encoded action: one-hot or scaled to [-1, 1]
``embed``   what the encoder makes of one observation
==========  ============================================================================

Row ``t`` of an episode holds ``obs_t`` and ``action_tm1``, the action that led to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Latent:
    """A model state ``ŝ = (h, z)``; every method keeps the two halves together."""

    deter: Float[Tensor, "*shape deter"]
    stoch: Float[Tensor, "*shape stoch"]

    @property
    def feat(self) -> Float[Tensor, "*shape feat"]:
        """Both halves side by side, ``(h, z)``."""
        return torch.cat([self.deter, self.stoch], dim=-1)

    @property
    def shape(self) -> torch.Size:
        """The leading axes, without ``deter``/``stoch``."""
        return self.deter.shape[:-1]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Latent":
        """Apply one function to both halves."""
        return Latent(function(self.deter), function(self.stoch))

    def __getitem__(self, index: Any) -> "Latent":
        return self.map(lambda half: half[index])

    def detach(self) -> "Latent":
        """Cut both halves from the graph."""
        return self.map(Tensor.detach)

    def to(self, device: torch.device | str) -> "Latent":
        """Move both halves."""
        return self.map(lambda half: half.to(device))

    @staticmethod
    def stack(latents: Sequence["Latent"], dim: int = 0) -> "Latent":
        """Stack a list of latents along a new axis, time by default."""
        return Latent(
            torch.stack([latent.deter for latent in latents], dim),
            torch.stack([latent.stoch for latent in latents], dim),
        )

    @staticmethod
    def where(mask: Bool[Tensor, "*shape"], yes: "Latent", no: "Latent") -> "Latent":
        """Take ``yes`` where the mask is true, else ``no``."""
        column = mask.unsqueeze(-1)
        return Latent(torch.where(column, yes.deter, no.deter), torch.where(column, yes.stoch, no.stoch))
