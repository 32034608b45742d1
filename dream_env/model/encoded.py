"""The expert in latent space: every row of the demonstrations as the model state the filter was in.

Encoded once after ``fit`` and kept beside the weights, so that a dream needs the model's folder and nothing else.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn import functional as F

from dream_env.checkpoint import read_tensors, write_tensors
from dream_env.errors import CheckpointError, DatasetError, SpaceError
from dream_env.latent import Latent
from dream_env.model.world_model import WorldModel
from dream_env.recordings.demos import Demos
from dream_env.spaces import ObservationKey

Split = Literal["train", "held_out"]


class EncodedDemos:
    """Latents and actions of whole episodes, compact: ``h`` in half precision, categorical ``z`` as class numbers.

    Steps that the recording calls a slip (an accident, no choice of the expert's) are here like all others, since later
    states follow from them, but no window and no row to clone holds one: nobody should imitate them.

    Episodes lie one after another: an episode of T steps takes T + 1 rows, and ``actions(row)`` is what the expert did
    there (zero on an episode's last row, where nothing was done).
    """

    def __init__(
        self,
        deter: Tensor,
        stoch: Tensor,
        action: Tensor,
        lengths: Tensor,
        classes: int,
        indices: Tensor,
        slip: Tensor | None = None,
    ) -> None:
        self._deter = deter  # (rows, deter) float16
        self._stoch = stoch  # (rows, groups) uint8 class numbers, or (rows, dims) float16 if classes == 0
        self._action = action  # (rows,) int64 or (rows, *box) float32
        self._slip = torch.zeros(len(action), dtype=torch.bool, device=action.device) if slip is None else slip
        self._classes = classes
        self._one_hot = torch.eye(classes, device=deter.device)
        self.lengths = lengths  # (E,) steps
        self.indices = indices  # (E,) which episode of the dataset each one is
        self._first_row = torch.cat([lengths.new_zeros(1), (lengths + 1).cumsum(0)])  # (E + 1,)

    @property
    def device(self) -> torch.device:
        """Where the latents live."""
        return self._deter.device

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self.lengths)

    @property
    def num_rows(self) -> int:
        """Number of rows: all steps, and one more for each episode."""
        return len(self._deter)

    def latents(self, rows: Int[Tensor, "*shape"]) -> Latent:
        """The model states at the given rows, of any shape, in float32."""
        # index_select and embedding copy whole rows; indexing and scatter go number by number, several times slower.
        flat = rows.flatten()
        deter = self._deter.index_select(0, flat).float()
        stoch = self._stoch.index_select(0, flat)
        stoch = stoch.float() if self._classes == 0 else F.embedding(stoch.int(), self._one_hot).flatten(-2)
        return Latent(*(half.reshape(*rows.shape, half.shape[-1]) for half in (deter, stoch)))

    def actions(self, rows: Int[Tensor, "*shape"]) -> Tensor:
        """The expert's actions at the given rows, as the environment takes them."""
        return self._action.index_select(0, rows.flatten()).reshape(*rows.shape, *self._action.shape[1:])

    def too_short(self, horizon: int) -> int:
        """Number of episodes of fewer than ``horizon`` steps: they are kept, but no window starts in them."""
        return int((self.lengths < horizon).sum())

    def windows(self, horizon: int) -> Int[Tensor, " windows"]:
        """Every row from which ``horizon`` steps stay inside one episode and none of them is a slip.

        Episodes that are shorter (``too_short`` counts them) have none.

        Raises:
            DatasetError: if the horizon is longer than every episode, or than the expert ever goes without a slip.
        """
        longest = int(self.lengths.argmax())
        if horizon > int(self.lengths[longest]):
            raise DatasetError(
                f"a horizon of {horizon} steps does not fit: episode {int(self.indices[longest])} has "
                f"{int(self.lengths[longest])} steps, and none has more; take a horizon of at most that"
            )
        starts = [
            torch.arange(int(first), int(first + length) - horizon + 1)
            for first, length in zip(self._first_row[:-1], self.lengths, strict=True)
            if length >= horizon
        ]
        rows = torch.cat(starts).to(self.device)
        slips_before = F.pad(self._slip.long().cumsum(0), (1, 0))
        clean: Tensor = rows[slips_before[rows] == slips_before[rows + horizon]]
        if not len(clean):
            raise DatasetError(
                f"nowhere in {self.num_episodes} episodes does the expert go {horizon} steps without a slip; take a "
                f"shorter horizon, or record with fewer slips"
            )
        return clean

    def step_rows(self) -> Int[Tensor, " steps"]:
        """Every row at which the expert acted."""
        return self.windows(1)

    def take(self, n: int) -> "EncodedDemos":
        """The first ``n`` episodes."""
        if not 1 <= n <= self.num_episodes:
            raise DatasetError(f"{n} expert episodes were asked for, but the model has {self.num_episodes} encoded")
        return self.select(range(n))

    def select(self, episodes: Sequence[int]) -> "EncodedDemos":
        """Some episodes, in the given order."""
        chosen = torch.as_tensor(list(episodes), dtype=torch.int64)
        rows = torch.cat([torch.arange(int(self._first_row[e]), int(self._first_row[e + 1])) for e in chosen])
        rows = rows.to(self.device)
        return EncodedDemos(
            self._deter[rows], self._stoch[rows], self._action[rows],
            self.lengths[chosen], self._classes, self.indices[chosen], self._slip[rows],
        )  # fmt: skip

    def to(self, device: str | torch.device) -> "EncodedDemos":
        """The same on another device."""
        deter, stoch, action, slip = (x.to(device) for x in (self._deter, self._stoch, self._action, self._slip))
        return EncodedDemos(deter, stoch, action, self.lengths, self._classes, self.indices, slip)

    def tensors(self) -> dict[str, Tensor]:
        """Everything, by name."""
        return {
            "deter": self._deter, "stoch": self._stoch, "action": self._action, "lengths": self.lengths,
            "indices": self.indices, "classes": torch.tensor(self._classes), "slip": self._slip,
        }  # fmt: skip

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "EncodedDemos":
        """The inverse of ``tensors``."""
        rest = {name: t for name, t in tensors.items() if name != "classes"}
        return cls(**rest, classes=int(tensors["classes"]))


@torch.no_grad()
def encode(
    world_model: WorldModel, demos: Demos, *, seed: int = 0, chunk: int = 16, episodes: int = 64
) -> EncodedDemos:
    """Run the filter along every episode, many episodes side by side, and keep the (sampled) posterior states.

    ``chunk`` steps of up to ``episodes`` episodes are in memory at a time.

    Raises:
        SpaceError: if the demonstrations' spaces are not those the model was fitted on.
    """
    theirs = (demos.observation_spec.keys, demos.action_spec.space)
    ours = (world_model.observation_spec.keys, world_model.action_spec.space)
    if theirs != ours:
        raise SpaceError(
            f"the dataset {demos.source.dataset!r} does not fit the world model (fitted on {world_model.source.dataset!r}): "
            f"it has {_described(*theirs)}, the model takes {_described(*ours)}"
        )
    device = world_model.device
    generator = torch.Generator(device=device).manual_seed(seed)
    # Written in place: a million rows are half a gigabyte, and parts to be joined would be that twice.
    ends = np.cumsum(demos.lengths + 1)
    total, kept = int(ends[-1]), world_model.config.rssm
    deter = torch.empty(total, world_model.deter_size, dtype=torch.float16, device=device)
    stoch = torch.empty(
        total, kept.groups, dtype=torch.uint8 if kept.latent == "categorical" else torch.float16, device=device
    )
    actions = [_with_none_last(torch.as_tensor(demos.episode(e).action_t)) for e in range(demos.num_episodes)]
    order = np.argsort(-demos.lengths, kind="stable")  # long ones together: a group ends when its longest does
    for start in range(0, len(order), episodes):
        group = order[start : start + episodes]
        first_rows = [int(ends[e] - demos.lengths[e] - 1) for e in group]
        for t0, i, latent in _filtered(world_model, demos, group, actions, chunk, generator):
            rows = slice(first_rows[i] + t0, first_rows[i] + t0 + len(latent.deter))
            deter[rows] = latent.deter.half()
            stoch[rows] = _compact(world_model, latent.stoch)
    return EncodedDemos(
        deter,
        stoch,
        torch.cat(actions).to(device),
        torch.as_tensor(demos.lengths, dtype=torch.int64),
        kept.classes if kept.latent == "categorical" else 0,
        torch.as_tensor(demos.indices, dtype=torch.int64),
        torch.cat([torch.as_tensor(np.append(demos.episode(e).slip_t, False)) for e in range(demos.num_episodes)]).to(
            device
        ),
    )


def _described(keys: tuple[ObservationKey, ...], action: Any) -> str:
    return f"{', '.join(f'{key.kind} {key.name!r} {key.shape}' for key in keys)} and actions of {action}"


def _with_none_last(action: Tensor) -> Tensor:
    return torch.cat([action, torch.zeros_like(action[:1])])


def _filtered(
    world_model: WorldModel,
    demos: Demos,
    group: np.ndarray,
    actions: Sequence[Tensor],
    chunk: int,
    generator: torch.Generator,
) -> Iterator[tuple[int, int, Latent]]:
    """The states of a group of episodes: first step of a chunk, place in the group, and that episode's states of the chunk."""
    rows = [int(demos.lengths[index]) + 1 for index in group]
    done = [actions[int(index)] for index in group]
    previous = [torch.cat([torch.zeros_like(action[:1]), action[:-1]]) for action in done]
    latent = world_model.initial(len(group))
    device = world_model.device
    for t0 in range(0, max(rows), chunk):
        alive = [i for i, n in enumerate(rows) if n > t0]
        latent = latent[: len(alive)]  # lengths descend, so the living are the first ones
        span = [min(chunk, rows[i] - t0) for i in alive]
        read = [demos.read(int(group[i]), t0, t0 + n) for i, n in zip(alive, span, strict=True)]
        obs = {
            name: torch.stack([_pad(torch.from_numpy(part[name]), span[0]) for part in read], dim=1) for name in read[0]
        }
        action_tm1 = torch.stack(
            [_pad(previous[i][t0 : t0 + n], span[0]) for i, n in zip(alive, span, strict=True)], dim=1
        ).to(device)
        is_first = torch.zeros(span[0], len(alive), dtype=torch.bool, device=device)
        is_first[0] = t0 == 0
        noise = world_model.draw_noise(span[0], len(alive), generator)
        observed = world_model.observe({k: x.to(device) for k, x in obs.items()}, action_tm1, is_first, noise, latent)
        latent = observed[-1]
        for i, n in zip(alive, span, strict=True):
            yield t0, i, observed[:n, i]


def _compact(world_model: WorldModel, stoch: Tensor) -> Tensor:
    config = world_model.config.rssm
    if config.latent == "gaussian":
        return stoch.half()
    codes: Tensor = stoch.unflatten(-1, (config.groups, config.classes)).argmax(dim=-1).to(torch.uint8)
    return codes


def _pad(x: Tensor, length: int) -> Tensor:
    return x if len(x) == length else torch.cat([x, x[-1:].expand(length - len(x), *x.shape[1:])])


def save_encoded(encoded: EncodedDemos, folder: str | Path, split: Split) -> None:
    """Keep an encoded split beside the model's weights."""
    write_tensors(Path(folder) / f"expert_{split}.safetensors", encoded.tensors())


def load_encoded(folder: str | Path, split: Split = "train", device: str | torch.device = "cpu") -> EncodedDemos:
    """Read an encoded split from a model's folder."""
    path = Path(folder) / f"expert_{split}.safetensors"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has no encoded {split} demonstrations ({path.name} is missing); `dream-env fit` leaves them, or pass "
            f"expert=dream_env.encode(world_model, demos)"
        )
    return EncodedDemos.from_tensors(read_tensors(path)).to(device)
