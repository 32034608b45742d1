"""From an environment and an expert to a Minari dataset on disk: one file an episode, joined at the end.

Minari keeps what it writes uncompressed and in one file, which a kill leaves broken. So every episode is written by
Minari on its own, packed (60 times smaller for Atari frames, and exact), renamed into place, and joined once all are
there.
"""

import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.dataset.minari_storage import MinariStorage
from minari.namespace import create_namespace, list_local_namespaces
from minari.storage import get_dataset_path

from dream_env.errors import SpaceError
from dream_env.real.arrays import own, taken
from dream_env.real.environments import Env, not_finite, play_step, protocol
from dream_env.real.success import SuccessTracker
from dream_env.recordings.datasets import SLIP

_MAIN_FILE = "main_data.hdf5"
_CHUNK_ROWS = 64
"""Rows packed together: the more, the smaller the file and the slower a single row."""


_MEANS = ("success", "tasks")
"""Facts of an episode whose mean over all episodes goes into the dataset's metadata, if all have it."""
_COUNTS = {"dropped": "dropped_episodes"}
"""Facts of an episode whose sum goes there, and what it is called there."""


class NotFinite(SpaceError):
    """A simulation broke down: it showed or paid something that is no number. The episode means nothing."""


def play_episode(
    env: Env, act: Callable[[Any], Any], observation: Any, seed: int, tracker: SuccessTracker | None = None
) -> EpisodeBuffer:
    """Play from a reset environment's first ``observation`` to the end of the episode; T steps, T + 1 observations.

    A ``tracker`` is shown the ``info`` of every step. What is recorded is copied, so environment and ``act`` may reuse their
    arrays; an action of another type than the environment's (NumPy's float64, say) is brought to that.

    Of an ``act`` with an attribute ``slip``, which says after each call whether the action was an accident, the slips
    are recorded among the infos, as (T + 1,) bool: like any info, where the step led to.

    Raises:
        SpaceError: if ``act`` chooses what the environment does not take.
        NotFinite: if an observation or a reward is not finite.
    """
    _check_finite(not_finite(observation, "observation"), env, 0, seed)
    observations, actions, rewards = [own(observation, env.observation_space)], list[Any](), list[float]()
    terminations, truncations, slips = list[bool](), list[bool](), [False]
    terminated = truncated = False
    while not (terminated or truncated):
        action = _in_space(act(observation), env.action_space, len(actions))
        actions.append(own(action, env.action_space))  # before the environment has it, which may change it in place
        observation, reward, terminated, truncated, info = play_step(env, action)
        broken = not_finite(observation, "observation") or not_finite(reward, "reward")
        _check_finite(broken, env, len(actions), seed)
        if tracker is not None:
            tracker.step(info)
        observations.append(own(observation, env.observation_space))
        rewards.append(reward)
        terminations.append(terminated)
        truncations.append(truncated)
        slips.append(bool(getattr(act, "slip", False)))
    return EpisodeBuffer(
        seed=seed, observations=_stack(observations, env.observation_space), actions=_stack(actions, env.action_space),
        rewards=rewards, terminations=terminations, truncations=truncations,
        infos={SLIP: np.asarray(slips)} if hasattr(act, "slip") else None,
    )  # fmt: skip


def _in_space(action: Any, space: spaces.Space[Any], step: int) -> Any:
    if space.contains(action):
        return action
    cast = taken(action, space)
    if cast is None or not np.allclose(cast, action):  # integers made of 0.7 would be another action
        raise SpaceError(
            f"the expert chose {action!r} ({type(action).__name__}) at step {step}, which is not in the environment's {space}"
        )
    return cast


def write_episode(
    path: Path, episode: EpisodeBuffer, env: Env, facts: Mapping[str, float | None] | None = None
) -> None:
    """Leave one packed episode at ``path``; it is there whole or not at all.

    ``facts`` that are not None are kept beside it (Minari shows them with the episode's metadata).
    """
    folder = path.with_suffix(f".tmp-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        storage = _new_storage(folder / "raw", env)
        storage.update_episodes([episode])
        packed = folder / path.name
        with h5py.File(folder / "raw" / _MAIN_FILE, "r") as source, h5py.File(packed, "w") as target:
            _pack(source["episode_0"], target)
            for name, value in (facts or {}).items():
                if value is not None:
                    target.attrs[name] = value
        packed.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def join_episodes(
    dataset: str, episodes: Sequence[Path], env: Env, metadata: Mapping[str, Any]
) -> minari.MinariDataset:
    """Make the dataset of the given episode files, in their order, and return it.

    Its metadata say, beside what is given, which share of the episodes succeeded, and the like: see ``write_episode``.
    """
    final = dataset_folder(dataset)
    temporary = episodes[0].parent / "joined"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    data = temporary / "data"
    storage = _new_storage(data, env)
    steps = 0
    kept: dict[str, list[float]] = {}
    with h5py.File(data / _MAIN_FILE, "w", track_order=True) as target:
        for index, path in enumerate(episodes):
            with h5py.File(path, "r") as source:
                group = target.create_group(f"episode_{index}")
                for name, value in source.attrs.items():
                    group.attrs[name] = value
                group.attrs["id"] = index
                for name in source:
                    source.copy(name, group)
                steps += int(source.attrs["total_steps"])
                for name in (*_MEANS, *_COUNTS):
                    if name in source.attrs:
                        kept.setdefault(name, []).append(float(source.attrs[name]))
    facts = protocol(env)
    storage.update_metadata({
        "dataset_id": dataset, "minari_version": minari.__version__, "total_episodes": len(episodes),
        "total_steps": steps,
        "protocol": facts, "requirements": [f"{name}=={version}" for name, version in facts["versions"].items()],
        "dream_env_version": _version(), **_summed_up(kept, len(episodes)), **metadata,
    })  # fmt: skip
    storage.update_metadata({"dataset_size": float(storage.get_size())})
    _make_namespace(dataset)
    temporary.replace(final)
    shutil.rmtree(episodes[0].parent)
    return minari.MinariDataset(final / "data")


def dataset_folder(dataset: str) -> Path:
    """Where Minari keeps a dataset."""
    return Path(get_dataset_path(dataset))


def unfinished_folder(dataset: str) -> Path:
    """Where its episodes wait until all are there; Minari does not look into hidden folders."""
    return Path(get_dataset_path()) / ".dream-env" / dataset


def read_metadata(folder: Path) -> dict[str, Any]:
    """``metadata.json`` of a finished dataset."""
    metadata: dict[str, Any] = json.loads((folder / "data" / "metadata.json").read_text())
    return metadata


def _summed_up(kept: Mapping[str, list[float]], episodes: int) -> dict[str, float]:
    means = {name: float(np.mean(kept[name])) for name in _MEANS if len(kept.get(name, ())) == episodes}
    return means | {_COUNTS[name]: int(sum(kept[name])) for name in _COUNTS if sum(kept.get(name, ())) > 0}


def _check_finite(broken: str, env: Env, step: int, seed: int) -> None:
    if broken:
        name = env.spec.id if env.spec else type(env.unwrapped).__name__
        raise NotFinite(f"{name} gave a {broken} at step {step} of the episode with seed {seed}")


def _new_storage(folder: Path, env: Env) -> MinariStorage:
    # Minari appends a relative folder to itself.
    return MinariStorage.new(
        folder.resolve(), env.observation_space, env.action_space, env.spec, jpeg_encoding=False
    )  # fmt: skip


def _stack(rows: list[Any], space: spaces.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {name: _stack([row[name] for row in rows], sub) for name, sub in space.spaces.items()}
    return np.stack(rows)


def _pack(source: h5py.Group, target: h5py.Group) -> None:
    for name, value in source.attrs.items():
        target.attrs[name] = value
    for name, item in source.items():
        if isinstance(item, h5py.Group):
            _pack(item, target.create_group(name))
        else:
            chunks = (min(_CHUNK_ROWS, len(item)), *item.shape[1:])
            target.create_dataset(
                name, data=item[()], chunks=chunks, maxshape=item.maxshape, compression="gzip", compression_opts=4,
                shuffle=True,
            )  # fmt: skip


def _make_namespace(dataset: str) -> None:
    namespace = parse_dataset_id(dataset)[0]
    if namespace is not None and namespace not in list_local_namespaces():
        create_namespace(namespace)


def _version() -> str:
    return importlib.metadata.version("dream-env")
