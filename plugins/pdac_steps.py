"""Steps of recorded or played episodes as P-DAC's networks see them: the last observations, stacked, standardised, shifted.

**Memory.** ``Steps`` holds no observation of its own: it reads the mapped files of ``Demos`` and ``Replay`` for each batch, and
of each step it keeps two numbers. So a million steps take 16 MB, and a batch of N with a stack of k takes N · (k + 1) pictures;
what the operating system caches of the files it gives back under pressure. SB3's own buffer would hold both stacks of each
step: 25 GB for a million steps of gray 64 × 64 pictures stacked by 3.

**Absorbing states** (DAC §4.2). Where an episode ends for good, a critic takes the rest to be worth 0; with a reward that can
be below 0, such as DAC's, ending early is then a way out, and with one above 0 a loss, whatever the expert did. So an end for
good leads to an absorbing state, which leads to itself, where the discriminator judges as everywhere else and where the critic
learns what that is worth. It is the observation of zeros (in standard units) with a mark beside it, and its action is zero.
Each such end gives one step more. Episodes that a time limit cuts off (Adroit and all other tasks of fixed length) have none of
this: the critic looks beyond their last step as beyond any other.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dream_env.recordings.demos import Demos
from dream_env.spaces import ObservationSpec, Standardizer

ABSORBING = "absorbing"
"""Name of the mark among what the networks see: 1 in an absorbing state, else 0."""


@dataclass(frozen=True)
class Window:
    """N steps, each with the observations around it."""

    packed: dict[str, Tensor]
    """(N, stack + 1, *shape): the first ``stack`` up to where the step began, the last ``stack`` up to where it led."""
    action: Tensor
    """As the environment takes it, (N, *box)."""
    absorbing: Bool[Tensor, "batch 2"]
    """Whether it began, and whether it led, in the absorbing state."""


class Steps:
    """Every step of some episodes, to draw batches from."""

    def __init__(self, demos: Demos, stack: int, *, slips: bool = True) -> None:
        """Look at what episodes there are.

        Args:
            demos: recordings, or what ``Replay.demos`` gives.
            stack: observations in a row that the networks see.
            slips: also the steps that the recording calls an accident, which nobody should imitate.
        """
        self.stack = stack
        self.action_spec = demos.action_spec
        self.episodes = [demos.episode(i) for i in range(demos.num_episodes)]
        rows = []
        for number, episode in enumerate(self.episodes):
            ends_for_good = bool(episode.is_terminal[-1])
            kept = np.ones(episode.num_steps + ends_for_good, dtype=bool)
            if not slips:
                kept[: episode.num_steps] = ~np.asarray(episode.slip_t)
            step = np.flatnonzero(kept)
            rows.append(np.stack([np.full_like(step, number), step], axis=1))
        self.rows: np.ndarray = np.concatenate(rows)
        """(steps, 2) episode and step; step T of an episode of T is that of the absorbing state."""

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, batch: int, rng: np.random.Generator, device: torch.device) -> Window:
        """Some of them, uniformly and with replacement."""
        return self.at(rng.integers(len(self.rows), size=batch), device)

    def at(self, index: np.ndarray, device: torch.device) -> Window:
        """The steps of these numbers. Before an episode's first observation there are copies of it."""
        episode, step = self.rows[index].T
        packed = {
            name: np.empty((len(index), self.stack + 1, *x.shape[1:]), x.dtype)
            for name, x in self.episodes[0].obs.items()
        }
        space = self.action_spec.space
        action = np.zeros((len(index), *(space.shape or ())), space.dtype)
        absorbing = np.zeros((len(index), 2), dtype=bool)
        for number in np.unique(episode):  # mapped arrays, one an episode
            here, of = np.flatnonzero(episode == number), self.episodes[number]
            t, last = step[here], of.num_steps
            around = np.clip(t[:, None] + np.arange(1 - self.stack, 2), 0, last)
            for name, x in packed.items():
                x[here] = of.obs[name][around]
            real = t < last
            action[here[real]] = of.action_t[t[real]]
            absorbing[here] = np.stack([~real, (t + 1 >= last) & of.is_terminal[-1]], axis=1)
        tensors = {name: torch.as_tensor(x, device=device) for name, x in packed.items()}
        return Window(tensors, torch.as_tensor(action, device=device), torch.as_tensor(absorbing, device=device))


class StackedView(nn.Module):
    """Packed observations in a row to what the networks see: standard units, stacked, and the absorbing state's mark."""

    def __init__(self, spec: ObservationSpec, stack: int) -> None:
        super().__init__()
        self.spec = spec
        self.stack = stack
        self.standardizer = Standardizer(spec)

    @property
    def space(self) -> spaces.Space[Any]:
        """What comes out, as Stable-Baselines3 is told: pictures (stack · C, H, W), vectors (stack · n,), the mark (1,)."""
        shapes: dict[str, tuple[int, ...]] = {ABSORBING: (1,)}
        for key in self.spec.keys:
            shape = (key.shape[-1], *key.shape[:-1]) if key.kind == "image" else key.shape
            shapes[key.name] = (self.stack * shape[0], *shape[1:])
        return spaces.Dict({name: spaces.Box(-np.inf, np.inf, shape, np.float32) for name, shape in shapes.items()})

    def forward(self, packed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Packed observations (N, stack, *shape), oldest first, none of them absorbing."""
        seen: dict[str, Tensor] = {name: x.flatten(1, 2) for name, x in self.standardizer(packed).items()}
        some = next(iter(seen.values()))
        seen[ABSORBING] = some.new_zeros(len(some), 1)
        return seen

    def before(self, window: Window, shift: float = 0.0) -> dict[str, Tensor]:
        """What is seen where each step began; pictures moved about by up to ``shift``, a share of their side."""
        return self._seen(
            {name: x[:, : self.stack] for name, x in window.packed.items()}, window.absorbing[:, 0], shift
        )

    def after(self, window: Window, shift: float = 0.0) -> dict[str, Tensor]:
        """What is seen where each step led."""
        return self._seen({name: x[:, 1:] for name, x in window.packed.items()}, window.absorbing[:, 1], shift)

    def _seen(self, packed: dict[str, Tensor], absorbing: Tensor, shift: float) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = self(packed)
        for name, x in seen.items():
            if x.ndim == 4 and (pixels := round(shift * x.shape[-1])):
                seen[name] = shifted(x, pixels)
        if not absorbing.any():
            return seen
        seen = {name: x.masked_fill(absorbing.view(-1, *[1] * (x.ndim - 1)), 0.0) for name, x in seen.items()}
        seen[ABSORBING] = absorbing.float().unsqueeze(1)
        return seen


def shifted(
    image: Float[Tensor, "batch channels height width"], pixels: int
) -> Float[Tensor, "batch channels height width"]:
    """Move each picture by up to ``pixels`` in each direction, the border repeated: DrQ's augmentation (Kostrikov et al. 2021).

    All channels, and so all pictures of a stack, move together. Draws from torch's global generator.
    """
    height, width = image.shape[-2:]
    padded = F.pad(image, [pixels] * 4, mode="replicate")
    corners = torch.randint(2 * pixels + 1, (len(image), 2)).tolist()
    # Slices: on a CPU a third of the time of gathering, a tenth of indexing.
    return torch.stack([padded[i, :, y : y + height, x : x + width] for i, (y, x) in enumerate(corners)])
