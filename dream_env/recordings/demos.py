"""Demonstrations: any Minari dataset as time-major batches of windows, never held in memory.

An episode of T steps has T + 1 rows. Row t holds ``obs_t`` and ``action_tm1``, the action that led to it (0 on row 0).
Rewards are read for ``returns``, which reports show; nothing that learns sees them.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from dream_env.errors import DatasetError
from dream_env.recordings.cache import Converted, cache_root, converted
from dream_env.recordings.datasets import find_dataset
from dream_env.recordings.streaming import BulkReader
from dream_env.spaces import ActionSpec, ObservationConfig, ObservationSpec, Statistics


@dataclass(frozen=True)
class Source:
    """Where recordings come from: kept in the model, so that evaluation can use the same environment."""

    dataset: str
    """Minari id."""
    environment: str
    """Gymnasium id, such as ``ALE/Pong-v5``; empty if it was not recorded."""
    env_spec: str | None
    """JSON of the ``EnvSpec`` with all wrappers."""
    protocol: dict[str, Any]
    """What was recorded about how the data were made: algorithm, author, requirements, versions."""
    folder: str = ""
    """Where the recordings lay, if that is not where Minari looks for their id."""

    @property
    def where(self) -> str:
        """What to give ``Demos.load`` to open them again: the folder if it is there, else the id."""
        return self.folder if self.folder and Path(self.folder).is_dir() else self.dataset


@dataclass(frozen=True)
class Batch:
    """Windows of episodes, time-major."""

    obs: dict[str, Tensor]
    """Packed observations: uint8 (time, batch, H, W, C) or float32 (time, batch, n)."""
    action_tm1: Tensor
    """Action that led to each row, as the environment takes it; zero on row 0, where it belongs to no window."""
    is_first: Bool[Tensor, "time batch"]
    """Rows that nothing came before; row 0 always."""
    is_terminal: Bool[Tensor, "time batch"]
    """Rows whose observation ended the episode for good, not by a time limit."""

    def to(self, device: str | torch.device) -> "Batch":
        """The same batch on another device."""
        return Batch(
            {name: x.to(device) for name, x in self.obs.items()},
            self.action_tm1.to(device),
            self.is_first.to(device),
            self.is_terminal.to(device),
        )


@dataclass(frozen=True)
class Episode:
    """One episode of T steps, mapped."""

    obs: dict[str, np.ndarray]
    """Packed observations, (T + 1, ...)."""
    action_t: np.ndarray
    """Action taken at each of the first T rows, (T, ...)."""
    slip_t: np.ndarray
    """Whether that was an accident, none of the expert's choice, (T,) bool."""
    is_terminal: np.ndarray
    """(T + 1,) bool; true at most on the last row."""

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.action_t)


class Demos:
    """Recorded episodes of one environment. ``take``, ``select`` and ``split`` are views: nothing is copied."""

    def __init__(
        self, source: Source, config: ObservationConfig, data: Converted, indices: np.ndarray | None = None
    ) -> None:
        self.source = source
        self.observation_spec = replace(ObservationSpec.from_json(data.meta["observation"]), config=config)
        self.action_spec = ActionSpec.from_json(data.meta["action"])
        self.statistics: Statistics = data.statistics
        """Mean and standard deviation of each key over all rows of the dataset, of a view as well."""
        self._data = data
        self._bulk = BulkReader(data.obs if data.bulk is None else data.bulk)
        lengths = np.asarray(data.meta["lengths"], dtype=np.int64)
        self.indices: np.ndarray = np.arange(len(lengths)) if indices is None else indices
        """(E,) which episodes of the dataset these are."""
        self.lengths: np.ndarray = lengths[self.indices]
        """(E,) steps."""
        self.returns: np.ndarray = np.asarray(data.meta["returns"], dtype=np.float64)[self.indices]
        """(E,) sum of rewards, for reports."""
        self._terminated = np.asarray(data.meta["terminated"], dtype=bool)[self.indices]
        ends = np.cumsum(lengths + 1)
        self._first_row = (ends - lengths - 1)[self.indices]

    def fingerprint(self) -> str:
        """A short text of the dataset: the same for the same recordings wherever and whenever they were put, and another for
        others. Of a view it is that of the whole."""
        told = hashlib.sha256(np.ascontiguousarray(self._data.action_tm1).tobytes())
        for name, moments in sorted(self.statistics.items()):
            told.update(name.encode())
            for moment in moments:
                told.update(moment.tobytes())
        told.update(str(self._data.meta["lengths"]).encode())
        return told.hexdigest()[:16]

    @classmethod
    def load(
        cls,
        dataset: str | os.PathLike[str],
        config: ObservationConfig = ObservationConfig(),  # noqa: B008 (frozen)
        *,
        download: bool = True,
        cache: Path | None = None,
        progress: bool = False,
    ) -> "Demos":
        """Open a Minari dataset by id or folder; the first time, it is converted into the cache.

        Args:
            dataset: an id such as ``pong/scripted-v0``, or the folder of a dataset.
            config: how observations are prepared.
            download: fetch the dataset if it is not on this machine.
            cache: where conversions are kept; otherwise ``$DREAM_ENV_CACHE`` or ``~/.cache/dream-env``.
            progress: show a bar while converting.

        Raises:
            DatasetError: if the dataset is not there, damaged, empty, or holds numbers that are not finite.
            SpaceError: if its spaces cannot be learned.
        """
        found = find_dataset(dataset, download=download)
        data = converted(found, config, cache_root(cache), progress=progress)
        source = Source(found.id, found.environment, found.env_spec, found.protocol, found.elsewhere)
        return cls(source, config, data)

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self.lengths)

    @property
    def num_steps(self) -> int:
        """Number of steps of all episodes."""
        return int(self.lengths.sum())

    @property
    def num_rows(self) -> int:
        """Number of observations: all steps, and one more for each episode."""
        return self.num_steps + self.num_episodes

    def select(self, episodes: Sequence[int] | np.ndarray) -> "Demos":
        """The given episodes, in the given order."""
        wanted = np.asarray(episodes, dtype=np.int64).reshape(-1)
        if len(wanted) == 0 or wanted.min() < 0 or wanted.max() >= self.num_episodes:
            raise DatasetError(
                f"episodes {wanted.tolist()} were asked of {self.source.dataset!r}, "
                f"which has 0 to {self.num_episodes - 1}"
            )
        return Demos(self.source, self.observation_spec.config, self._data, self.indices[wanted])

    def take(self, n: int) -> "Demos":
        """The first ``n`` episodes."""
        if not 1 <= n <= self.num_episodes:
            raise DatasetError(f"{n} episodes were asked of {self.source.dataset!r}, which has {self.num_episodes}")
        return self.select(np.arange(n))

    def split(self, held_out: int, seed: int = 0) -> tuple["Demos", "Demos"]:
        """Set ``held_out`` episodes, drawn by ``seed``, aside; return (the others, them), each in recorded order."""
        if not 1 <= held_out < self.num_episodes:
            raise DatasetError(
                f"cannot hold {held_out} of the {self.num_episodes} episodes of {self.source.dataset!r} out; "
                f"at least one has to be held out and one to stay"
            )
        order = np.random.default_rng(seed).permutation(self.num_episodes)
        return self.select(np.sort(order[held_out:])), self.select(np.sort(order[:held_out]))

    def episode(self, index: int) -> Episode:
        """One episode, mapped."""
        self._check(index)
        first, steps = int(self._first_row[index]), int(self.lengths[index])
        is_terminal = np.zeros(steps + 1, dtype=bool)
        is_terminal[-1] = self._terminated[index]
        rows = slice(first, first + steps + 1)
        return Episode(
            {name: x[rows] for name, x in self._data.obs.items()},
            self._data.action_tm1[rows][1:],
            self._data.slip_tm1[rows][1:],
            is_terminal,
        )

    def read(self, index: int, start: int, stop: int) -> dict[str, np.ndarray]:
        """Packed observations ``start`` to ``stop`` of an episode, copied: what is read is not held, as ``episode``'s are."""
        self._check(index)
        first = int(self._first_row[index])
        return self._bulk.take(slice(first + start, first + min(stop, int(self.lengths[index]) + 1)))

    def _check(self, index: int) -> None:
        if not 0 <= index < self.num_episodes:
            raise DatasetError(
                f"episode {index} was asked of {self.source.dataset!r}, which has 0 to {self.num_episodes - 1}"
            )

    def too_short(self, length: int) -> int:
        """Number of episodes that hold no window of ``length`` rows: they are kept, but never drawn from."""
        return int((self.lengths + 1 < length).sum())

    def windows(self, length: int) -> int:
        """Number of windows of ``length`` rows, in the episodes that are long enough (``too_short`` counts the others).

        Raises:
            DatasetError: if none is, naming the longest.
        """
        if length < 1:
            raise DatasetError(f"sequences of {length} rows were asked for; they need at least 1")
        total = int(self._windows(length).sum())
        if not total:
            longest = int(self.lengths.argmax())
            rows = int(self.lengths[longest]) + 1
            raise DatasetError(
                f"episode {self.indices[longest]} of {self.source.dataset!r} has {rows - 1} steps ({rows} observations) and none "
                f"has more, sequences need {length}: use sequences of at most {rows}, or record longer episodes"
            )
        return total

    def _windows(self, length: int) -> np.ndarray:
        """(E,) windows in each episode; none in one that is too short."""
        counts: np.ndarray = np.maximum(self.lengths + 2 - length, 0)
        return counts

    def sample(self, batch_size: int, length: int, rng: np.random.Generator) -> Batch:
        """Draw windows of ``length`` rows uniformly from all there are."""
        total = self.windows(length)
        ends = np.cumsum(self._windows(length))  # windows up to and with each episode
        drawn = rng.integers(total, size=batch_size)
        episode = np.searchsorted(ends, drawn, side="right")
        return self.at(episode, (self.lengths[episode] + 1 - length) - (ends[episode] - 1 - drawn), length)

    def at(self, episode: np.ndarray, start: np.ndarray, length: int) -> Batch:
        """The windows of ``length`` rows that begin at row ``start`` of each ``episode``, both (B,); they must lie in it."""
        first = self._first_row[episode]
        last = first + self.lengths[episode]
        rows: np.ndarray = first + start + np.arange(length)[:, None]  # (T, B)
        is_first = rows == first
        is_first[0] = True
        action_tm1 = torch.from_numpy(np.take(self._data.action_tm1, rows, axis=0))
        action_tm1[0] = 0
        return Batch(
            {name: torch.from_numpy(x) for name, x in self._bulk.take(rows).items()},
            action_tm1,
            torch.from_numpy(is_first),
            torch.from_numpy((rows == last) & self._terminated[episode]),
        )
