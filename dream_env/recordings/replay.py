"""What was played in the real environment, on disk, sampled as demonstrations are; it grows while a learner goes on.

::

    replay/
        replay.json             whose episodes these are: environment, spaces, how observations are packed; written first
        obs.image.bin           (rows, 64, 64, 1) uint8: all episodes end to end, an episode of T steps takes T + 1 rows
        action_tm1.bin          (rows,) int64, the action that led to the row, 0 on an episode's first
        episode_00000.hdf5      the episode as it was played, for ``to_minari``
        episode_00000.json      its length, return and whatever else is known of it; written last

The index is what lies in the folder: an episode is there if its ``.json`` is, and those of all before it; whatever a kill
left beyond that is written over. There is one file for each key and not for each episode, because thousands of episodes
would need thousands of open files, or one to be opened for every window that is drawn.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from minari import MinariDataset
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id

from dream_env.checkpoint import read_json, write_json
from dream_env.errors import CheckpointError, DatasetError, SpaceError
from dream_env.real.environments import Env
from dream_env.recordings.cache import Converted
from dream_env.recordings.demos import Batch, Demos, Source
from dream_env.recordings.growing import GrowingArray
from dream_env.recordings.recording import dataset_folder, join_episodes, unfinished_folder, write_episode
from dream_env.spaces import ActionSpec, ObservationSpec

FORMAT = 1
"""Raised when the layout changes."""


def check_new_dataset(dataset: str) -> None:
    """See that a dataset of this id can be made.

    Raises:
        DatasetError: if Minari would not take the id, or there is such a dataset already.
    """
    try:
        parse_dataset_id(dataset)
    except (ValueError, TypeError) as error:  # TypeError: an id without a version
        raise DatasetError(f"{dataset!r} is no id for a Minari dataset; ids look like pong/played-v0") from error
    if dataset_folder(dataset).exists():
        raise DatasetError(f"there is a dataset {dataset!r} already; name another, or delete {dataset_folder(dataset)}")


class Replay:
    """Episodes that were played, on disk. Sampled like ``Demos``; grows with ``add``, shrinks with ``cut``."""

    def __init__(
        self, folder: str | Path, observation_spec: ObservationSpec, action_spec: ActionSpec, source: Source
    ) -> None:
        """Open a folder, made if it is missing; with episodes in it, go on with them.

        Args:
            folder: where they are kept; nothing else should write there.
            observation_spec: how observations are packed, as in the world model.
            action_spec: the world model's.
            source: the world model's, for the environment it names.

        Raises:
            CheckpointError: if the folder holds episodes of another environment, or packed in another way.
            DatasetError: if the folder is damaged.
        """
        self.folder = Path(folder)
        self.observation_spec = observation_spec
        self.action_spec = action_spec
        self.source = replace(source, dataset=str(self.folder), folder="")  # what messages call it
        layout: dict[str, tuple[tuple[int, ...], type]] = {
            _file(key.name): (key.shape, np.uint8 if key.kind == "image" else np.float32)
            for key in observation_spec.keys
        }
        layout["action_tm1"] = (action_spec.space.shape or (), np.int64 if action_spec.discrete else np.float32)
        self._arrays = {
            name: GrowingArray(self.folder / f"{name}.bin", shape, np.dtype(kind))
            for name, (shape, kind) in layout.items()
        }
        self._claim()
        for left in list(self.folder.glob("*.tmp-*")):  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        self._episodes: list[dict[str, Any]] = []
        while (path := self._path(len(self._episodes), "json")).is_file():
            self._episodes.append(read_json(path))
        self._map()

    # ------------------------------------------------------------------------------------------------------ what is there

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return len(self._episodes)

    @property
    def num_steps(self) -> int:
        """Number of steps of all episodes."""
        return sum(int(episode["length"]) for episode in self._episodes)

    @property
    def lengths(self) -> np.ndarray:
        """(E,) steps, int64."""
        return np.array([episode["length"] for episode in self._episodes], dtype=np.int64)

    @property
    def returns(self) -> np.ndarray:
        """(E,) sums of rewards, float64, for reports."""
        return np.array([episode["return"] for episode in self._episodes], dtype=np.float64)

    @property
    def successes(self) -> np.ndarray:
        """(E,) float64: ``"success"`` of each episode's meta, NaN where it says nothing."""
        return np.array([episode["meta"].get("success") for episode in self._episodes], dtype=np.float64)

    # ------------------------------------------------------------------------------------------------- growing and shrinking

    def add(self, episode: EpisodeBuffer, *, meta: Mapping[str, Any] | None = None) -> None:
        """Keep one more episode; whatever happens, it is there whole or not at all.

        Args:
            episode: T + 1 observations; T actions, rewards, terminations and truncations.
            meta: what else is known of it, JSON-able (``PlayedEpisode.meta``).

        Raises:
            SpaceError: if it does not fit the specs, or is not finite.
            DatasetError: if the disk is full or cannot be written.
        """
        obs, actions = self._pack(episode)
        rows = {_file(name): array for name, array in obs.items()}
        rows["action_tm1"] = np.concatenate([np.zeros_like(actions[:1]), actions])
        index, first = self.num_episodes, self.num_steps + self.num_episodes
        facts: dict[str, Any] = {
            "length": len(actions),
            "return": float(np.sum(np.asarray(episode.rewards, dtype=np.float64))),
            "terminated": bool(episode.terminations[-1]),
            "meta": dict(meta or {}),
        }
        if not np.isfinite(facts["return"]):
            raise SpaceError(f"the rewards of episode {index} are not finite: they sum to {facts['return']}")
        json.dumps(facts)  # refuses what is no JSON before anything is written
        try:
            for name, array in rows.items():
                self._arrays[name].write(first, array)
            shown = {name: facts["meta"].get(name) for name in ("success", "tasks")}  # in the dataset's metadata too
            write_episode(self._path(index, "hdf5"), episode, _Spaces(self.observation_spec, self.action_spec), shown)
        except OSError as error:
            raise DatasetError(
                f"could not keep an episode in {self.folder}: {error}. What was played before is intact; make room, and "
                f"the same command goes on from there"
            ) from error
        write_json(self._path(index, "json"), facts)
        self._episodes.append(facts)
        self._map()

    def cut(self, num_episodes: int) -> None:
        """Forget all but the first ``num_episodes``: a run that goes on from an earlier state has not played the others."""
        if not 0 <= num_episodes <= self.num_episodes:
            raise DatasetError(
                f"{self.folder} was to be cut back to {num_episodes} episodes, but it holds {self.num_episodes}: it is not "
                f"the folder that belongs to this run, or episodes were deleted from it"
            )
        for index in reversed(range(num_episodes, self.num_episodes)):  # the last first: a kill leaves no gap
            self._path(index, "json").unlink()
            self._path(index, "hdf5").unlink(missing_ok=True)
            self._episodes.pop()
        self._map()

    # ------------------------------------------------------------------------------------------------------------- sampling

    def demos(self, episodes: np.ndarray | None = None) -> Demos:
        """The given episodes (all unless given) as demonstrations, for whatever takes those; ``statistics`` is empty."""
        meta = {
            "observation": self.observation_spec.to_json(),
            "action": self.action_spec.to_json(),
            "lengths": self.lengths,
            "returns": self.returns,
            "terminated": [episode["terminated"] for episode in self._episodes],
        }
        obs = {key.name: self._mapped[_file(key.name)] for key in self.observation_spec.keys}
        actions = self._mapped["action_tm1"]
        slips = np.broadcast_to(np.zeros(1, dtype=bool), len(actions))
        data = Converted(meta, obs, actions, slips, {})
        every = Demos(self.source, self.observation_spec.config, data)
        return every if episodes is None else every.select(episodes)

    def too_short(self, length: int) -> int:
        """Number of episodes that hold no window of ``length`` rows: they are kept, but never drawn from."""
        return int((self.lengths + 1 < length).sum())

    def windows(self, length: int) -> int:
        """Number of windows of ``length`` rows, in the episodes that are long enough; 0 while there is none."""
        view = self._long_enough(length)
        return 0 if view is None else view.windows(length)

    def sample(self, batch_size: int, length: int, rng: np.random.Generator) -> Batch:
        """Draw windows of ``length`` rows uniformly from all there are, as ``Demos.sample`` does.

        Raises:
            DatasetError: if there is none.
        """
        view = self._long_enough(length)
        if view is None:
            raise DatasetError(
                f"{self.folder} has no window of {length} rows to draw: none of its {self.num_episodes} episodes has "
                f"{length - 1} steps. Play more first, or use shorter sequences"
            )
        return view.sample(batch_size, length, rng)

    def _long_enough(self, length: int) -> Demos | None:
        if length not in self._views:
            which = np.flatnonzero(self.lengths + 1 >= length)
            self._views[length] = self.demos(which) if len(which) else None
        return self._views[length]

    # ----------------------------------------------------------------------------------------------------------- a dataset

    def to_minari(self, dataset: str, env: Env, metadata: Mapping[str, Any] | None = None) -> MinariDataset:
        """Join the episodes as they were played into a Minari dataset; they stay here too.

        Args:
            dataset: its id.
            env: the environment they were played in, for the dataset's spaces and ``EnvSpec``.
            metadata: anything else to write down, such as ``algorithm_name``.

        Raises:
            DatasetError: if there is no episode, or such a dataset already.
        """
        if not self._episodes:
            raise DatasetError(f"{self.folder} holds no episode yet, so no dataset {dataset!r} can be made of it")
        check_new_dataset(dataset)
        waiting = unfinished_folder(dataset)
        links = [waiting / self._path(index, "hdf5").name for index in range(self.num_episodes)]
        try:
            waiting.mkdir(parents=True, exist_ok=True)
            for index, link in enumerate(links):  # links, because what was joined is deleted in the end
                link.unlink(missing_ok=True)
                _link(self._path(index, "hdf5").resolve(), link)
            return join_episodes(dataset, links, env, metadata or {})
        except OSError as error:
            raise DatasetError(
                f"could not write the dataset {dataset!r} to {dataset_folder(dataset)}: {error}"
            ) from error

    # ------------------------------------------------------------------------------------------------------ files and maps

    def _path(self, index: int, kind: str) -> Path:
        return self.folder / f"episode_{index:05d}.{kind}"

    def _claim(self) -> None:
        here = {
            "format": FORMAT,
            "environment": self.source.environment,
            "env_spec": self.source.env_spec,
            "observation": self.observation_spec.to_json(),
            "action": self.action_spec.to_json(),
        }
        here = json.loads(json.dumps(here))  # tuples become lists, as in what is read
        path = self.folder / "replay.json"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(path, here)
            return
        there = read_json(path)
        different = [name for name in here if here[name] != there.get(name)]
        if different:
            raise CheckpointError(
                f"{self.folder} holds episodes of {there.get('environment') or 'an environment without a name'} that do not "
                f"go with this world model of {self.source.environment or 'an environment without a name'}: "
                f"{', '.join(different)} differ (see {path}). Use another folder, or delete this one"
            )

    def _pack(self, episode: EpisodeBuffer) -> tuple[dict[str, np.ndarray], np.ndarray]:
        obs = self.observation_spec.pack(episode.observations, batch_dims=1)
        action_tm1 = self._arrays["action_tm1"]
        actions = np.asarray(episode.actions)
        actions = actions.reshape(len(actions), *action_tm1.shape)
        steps = len(actions)
        if not np.isfinite(actions).all():
            raise SpaceError(f"action {int(np.argwhere(~np.isfinite(actions))[0, 0])} of an episode is not finite")
        self.action_spec.validate(actions, each="step")
        sizes = {name: len(array) - 1 for name, array in obs.items()} | {
            name: len(getattr(episode, name)) for name in ("rewards", "terminations", "truncations")
        }
        wrong = {name: size for name, size in sizes.items() if size != steps}
        if steps == 0 or wrong:
            raise SpaceError(
                f"an episode of {steps} actions came with {wrong or sizes} steps in its other parts; it needs at least one "
                f"step, as many of each, and one observation more"
            )
        return obs, actions.astype(action_tm1.dtype)

    def _map(self) -> None:
        rows = self.num_steps + self.num_episodes
        self._mapped = {name: array.map(rows) for name, array in self._arrays.items()}
        self._views: dict[int, Demos | None] = {}


class _Spaces(gymnasium.Env[Any, Any]):
    """Stands for the environment where Minari asks for one: what it writes of it stays out of a single episode's file."""

    def __init__(self, observation_spec: ObservationSpec, action_spec: ActionSpec) -> None:
        self.observation_space = observation_spec.space
        self.action_space = action_spec.space


def _link(file: Path, link: Path) -> None:
    """Let ``link`` stand for a file: on Windows a symbolic link needs rights that few have, a hard one the same disk."""
    for way in (os.symlink, os.link, shutil.copyfile):
        try:
            way(file, link)
            return
        except OSError:
            if way is shutil.copyfile:
                raise


def _file(key: str) -> str:
    return "obs." + key.replace("/", ".")
