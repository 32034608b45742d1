"""The work that is the same for every system of these benchmarks: sizes, data, and what surrounds a loss.

Nothing of dream-env is imported here, so that a peer's process holds the peer and no more.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ACTIONS = 6
SIDE = 64
HORIZON = 15
"""Steps of a dream."""


@dataclass(frozen=True)
class Size:
    """Sizes of a world model with DreamerV2's convolutions on gray pictures of 64 × 64, and of its batches."""

    name: str
    depth: int
    """Channels of the first convolution."""
    deter: int
    groups: int
    classes: int
    hidden: int
    batch: int
    time: int
    dreams: int
    activation: str = "elu"
    """Nonlinearity where a system leaves the choice: DreamerV2's elu, or silu, which costs less."""

    @property
    def label(self) -> str:
        """As it stands in the rows."""
        return f"{self.name} (64 × 64, CNN {self.depth}, deter {self.deter}, {self.groups} × {self.classes})"

    @property
    def stoch(self) -> int:
        """Width of the stochastic half of the state."""
        return self.groups * self.classes

    @property
    def embed(self) -> int:
        """Width of an encoded picture: 8 · depth channels of 2 × 2."""
        return 8 * self.depth * 2 * 2

    def json(self) -> dict[str, Any]:
        """For the pipe to another process; ``Size(**json)`` is the inverse."""
        return asdict(self)


SIZES = {
    size.name: size
    for size in (
        Size("S", depth=16, deter=256, groups=16, classes=16, hidden=256, batch=16, time=32, dreams=512),
        # The papers' 50 sequences have 50 frames; a fifth of that costs the same a frame and a fifth of the patience.
        Size("P", depth=48, deter=1024, groups=32, classes=32, hidden=1000, batch=50, time=10, dreams=2500),
        Size("tiny", depth=2, deter=8, groups=2, classes=4, hidden=8, batch=2, time=3, dreams=4),
    )
}
"""By name: a CPU's, the paper's, and one for trying whether anything runs."""


def random_batch(size: Size, device: str) -> dict[str, Tensor]:
    """Noise and random actions, time-major: what is in the pictures does not change what a step costs."""
    rng = np.random.default_rng(0)
    shape = (size.time, size.batch)
    pictures = torch.from_numpy(rng.integers(256, size=(*shape, 1, SIDE, SIDE), dtype=np.uint8))
    action = torch.nn.functional.one_hot(torch.from_numpy(rng.integers(ACTIONS, size=shape)), ACTIONS).float()
    is_first = torch.zeros(*shape, 1, dtype=torch.bool)
    is_first[0] = True
    return {name: x.to(device) for name, x in (("pictures", pictures), ("action", action), ("is_first", is_first))}


def gradient_step(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    """Zero, loss, backward, clip, Adam."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 100.0)
        optimizer.step()

    return step
