"""What an environment takes, and how it becomes vectors for the world model."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from torch import Tensor

from dream_env.box import inside
from dream_env.errors import SpaceError
from dream_env.spaces.space_json import space_from_json, space_to_json


@dataclass(frozen=True)
class ActionSpec:
    """The action space of an environment: Discrete as one-hot, Box flat and scaled to [−1, 1] where it is bounded."""

    space: spaces.Box | spaces.Discrete
    _affine: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def from_space(cls, space: spaces.Space[Any]) -> "ActionSpec":
        """Take a Discrete or Box space.

        Raises:
            SpaceError: for any other space.
        """
        if not isinstance(space, spaces.Box | spaces.Discrete):
            raise SpaceError(f"actions of {space} cannot be learned; expected Discrete or Box")
        return cls(space)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able description."""
        return {"space": space_to_json(self.space)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ActionSpec":
        """Return the spec that ``to_json`` described."""
        return cls.from_space(space_from_json(data["space"]))

    @property
    def discrete(self) -> bool:
        """Whether actions are numbers of choices (int64) rather than vectors (float32)."""
        return isinstance(self.space, spaces.Discrete)

    @property
    def size(self) -> int:
        """Number of choices, or of dimensions of a Box: the width of the encoded vector."""
        return int(self.space.n) if isinstance(self.space, spaces.Discrete) else int(np.prod(self.space.shape))

    def encode(self, action: Tensor) -> Float[Tensor, "*shape size"]:
        """Turn raw actions, (*shape) int64 or (*shape, *box) float32, into vectors.

        A discrete action outside the space becomes zeros: before an episode's first row nothing was done, and the 0
        that stands there need not be an action.
        """
        if isinstance(self.space, spaces.Discrete):
            start = int(self.space.start)
            choices = torch.arange(start, start + self.size, device=action.device)
            return (action.unsqueeze(-1) == choices).float()
        flat = action.float().reshape(*action.shape[: action.ndim - len(self.space.shape)], self.size)
        center, scale = self._center_scale(flat.device)
        return (flat - center) / scale

    def _center_scale(self, device: torch.device) -> tuple[Tensor, Tensor]:
        # Kept for each device: copying two small tensors to a GPU at every step would stall it.
        if str(device) not in self._affine:
            assert isinstance(self.space, spaces.Box)
            low, high = self.space.low.astype(np.float64).ravel(), self.space.high.astype(np.float64).ravel()
            bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
            low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
            with torch.inference_mode(False):  # they outlive the block that happens to be first
                center = torch.as_tensor((low + high) / 2, dtype=torch.float32, device=device)
                scale = torch.as_tensor((high - low) / 2, dtype=torch.float32, device=device)
            self._affine[str(device)] = (center, scale)
        return self._affine[str(device)]

    def validate(self, action: np.ndarray | np.generic | int, *, each: str = "sub-environment") -> None:
        """Check raw actions of one or of many sub-environments, (*shape) or (N, *shape).

        What float32 rounded out of a Box is let pass.

        Args:
            action: one or many.
            each: what messages call one of many.

        Raises:
            SpaceError: naming the action and the sub-environment.
        """
        array = np.asarray(action)
        shape = self.space.shape or ()
        batched = array.ndim == len(shape) + 1
        if array.shape[batched:] != shape:
            raise SpaceError(f"an action of shape {array.shape} came; expected {shape} or (N, ...) of {self.space}")
        rows = array if batched else array[None]
        if isinstance(self.space, spaces.Discrete):
            if not np.issubdtype(array.dtype, np.integer):
                raise SpaceError(f"actions of {array.dtype} came; expected integers of {self.space}")
            bad: np.ndarray = np.asarray((rows < self.space.start) | (rows >= self.space.start + self.space.n))
        else:
            bad = np.asarray(~inside(rows, self.space).reshape(len(rows), self.size).all(axis=1))
        if bad.any():
            index = int(np.flatnonzero(bad)[0])
            where = f" of {each} {index}" if batched else ""
            raise SpaceError(f"action {rows[index]}{where} is outside {self.space}")
