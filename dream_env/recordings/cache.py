"""Datasets converted once into packed arrays that training maps into memory instead of reading.

::

    ~/.cache/dream-env/datasets/pong/scripted-v0/1f0c…-93ab…/       what was asked for, then what the data were
        obs.image.npy      (rows, 64, 64, 1) uint8      an episode of T steps takes T + 1 rows
        action_tm1.npy     (rows,) int64                the action that led to the row, 0 on an episode's first
        slip_tm1.npy       (rows,) bool                 whether that was an accident of the expert's
        statistics.….npy   mean and std of each key over all rows, (2, ...) float32
        meta.json          spaces, lengths, returns, terminations; written last

A folder is built under a temporary name and renamed, so it is whole or not there; of two processes that build it
at once, the second throws its own away.
"""

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dream_env.errors import DatasetError, SpaceError
from dream_env.progress import progress_bar
from dream_env.recordings.datasets import Dataset, RawEpisode
from dream_env.recordings.streaming import ArrayWriter, Moments
from dream_env.spaces import ActionSpec, ObservationConfig, ObservationSpec, Statistics

FORMAT = 2
"""Raised when the layout changes; caches of another format are built again."""
_ABANDONED_SECONDS = 24 * 3600
"""Temporary folders older than this belong to nobody."""


@dataclass(frozen=True)
class Converted:
    """A dataset in its converted form; the arrays are mapped, and writing to them reaches neither the files nor ``bulk``, which
    batches and encoding read."""

    meta: dict[str, Any]
    obs: dict[str, np.ndarray]
    action_tm1: np.ndarray
    slip_tm1: np.ndarray
    statistics: Statistics
    bulk: dict[str, np.ndarray] | None = None
    """``obs`` mapped once more, read-only, for a ``BulkReader``; None of arrays in memory."""


def cache_root(cache: Path | None = None) -> Path:
    """``cache``, or ``$DREAM_ENV_CACHE``, or ``~/.cache/dream-env``."""
    return cache or Path(os.environ.get("DREAM_ENV_CACHE") or Path.home() / ".cache" / "dream-env").expanduser()


def converted(dataset: Dataset, config: ObservationConfig, root: Path, *, progress: bool = False) -> Converted:
    """Map the dataset's converted form, making it first if it is not there, stale or damaged."""
    asked = _digest([FORMAT, str(dataset.folder.resolve()), config.size, config.gray, config.crop, config.keys])
    folder = root / "datasets" / dataset.id / f"{asked}-{_digest(dataset.fingerprint())}"
    for _ in range(3):  # once is enough, unless another process replaces a damaged folder at the same moment
        found = _open(folder)
        if found is not None:
            return found
        temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            temporary.mkdir(parents=True)
            _convert(dataset, config, temporary, progress)
            _install(temporary, folder)
            _clean(folder, asked)
        except OSError as error:
            raise DatasetError(
                f"cannot keep the converted dataset under {root}: {error}. Make room, "
                f"or set DREAM_ENV_CACHE to another folder"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    raise DatasetError(f"the converted dataset in {folder} cannot be read back; delete the folder and start again")


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:12]


def _open(folder: Path) -> Converted | None:
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta["format"] != FORMAT:
            return None
        arrays = {name: _map(folder / f"{name}.npy") for name in meta["arrays"]}
        if any(list(array.shape) != meta["arrays"][name] for name, array in arrays.items()):
            return None
        obs = {name: arrays[file] for name, file in meta["obs"].items()}
        if not _packed_so(ObservationSpec.from_json(meta["observation"]), obs):
            return None
        bulk: dict[str, np.ndarray] = {
            name: np.load(folder / f"{file}.npy", mmap_mode="r") for name, file in meta["obs"].items()
        }
        statistics = {}
        for name, file in meta["obs"].items():
            mean, std = np.load(folder / f"statistics.{file}.npy")
            statistics[name] = (mean, std)
        return Converted(meta, obs, arrays["action_tm1"], arrays["slip_tm1"], statistics, bulk)
    except (OSError, ValueError, KeyError, EOFError, TypeError):  # missing, truncated or garbled: build it again
        return None


def _packed_so(spec: ObservationSpec, obs: dict[str, np.ndarray]) -> bool:
    """Whether the arrays are what the spec makes of the space today; what is a picture was once decided otherwise."""
    today = {key.name: (key.shape, key.kind == "image") for key in spec.keys}
    return today == {name: (array.shape[1:], array.dtype == np.uint8) for name, array in obs.items()}


def _map(path: Path) -> np.ndarray:
    try:
        # Copy-on-write: what a user does to an array stays theirs, and PyTorch takes it without a warning.
        mapped = np.load(path, mmap_mode="c")
    except OSError as error:
        if error.errno != errno.ENOMEM:  # some kernels refuse private maps beyond the memory there is
            raise
        mapped = np.load(path, mmap_mode="r")
    return np.asarray(mapped)


def _install(temporary: Path, folder: Path) -> None:
    if folder.exists() and _open(folder) is None:
        trash = temporary.with_name(f"{temporary.name}-damaged")
        with suppress(FileNotFoundError):  # another process took it away
            folder.rename(trash)
            shutil.rmtree(trash, ignore_errors=True)
    try:
        temporary.rename(folder)
    except OSError as error:
        # Another process was first, with the same result: use that.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _clean(folder: Path, asked: str) -> None:
    # Conversions of what the dataset was before, and temporary folders of processes that were killed.
    for other in folder.parent.iterdir():
        with suppress(FileNotFoundError):
            abandoned = ".tmp-" in other.name and time.time() - other.stat().st_mtime > _ABANDONED_SECONDS
            stale = ".tmp-" not in other.name and other.name.startswith(f"{asked}-") and other != folder
            if abandoned or stale:
                shutil.rmtree(other, ignore_errors=True)


def _convert(dataset: Dataset, config: ObservationConfig, folder: Path, progress: bool) -> None:
    opened = dataset.open()
    spec = ObservationSpec.from_space(opened.observation_space, config)
    action_spec = ActionSpec.from_space(opened.action_space)
    rows = dataset.num_steps + dataset.num_episodes
    files = {key.name: "obs." + key.name.replace("/", ".") for key in spec.keys}
    layout: dict[str, tuple[tuple[int, ...], type]] = {
        files[key.name]: (key.shape, np.uint8 if key.kind == "image" else np.float32) for key in spec.keys
    }
    layout["action_tm1"] = (action_spec.space.shape or (), np.int64 if action_spec.discrete else np.float32)
    layout["slip_tm1"] = ((), np.bool_)
    moments = {key.name: Moments(key.shape) for key in spec.keys}
    lengths: list[int] = []
    returns: list[float] = []
    terminated: list[bool] = []
    with ExitStack() as stack:
        writers = {
            file: stack.enter_context(ArrayWriter(folder / f"{file}.npy", (rows, *shape), np.dtype(kind)))
            for file, (shape, kind) in layout.items()
        }
        _check_room(dataset, folder, sum(writer.num_bytes for writer in writers.values()))
        advance = stack.enter_context(
            progress_bar(f"convert {dataset.id}", dataset.num_steps, "steps", enabled=progress)
        )
        for episode in dataset.episodes():  # no enumerate: it would keep the last episode while the next is read
            obs, action_tm1 = _pack_episode(dataset, len(lengths), episode, spec, action_spec)
            for name, array in obs.items():
                writers[files[name]].append(array)
                moments[name].add(array)
            writers["action_tm1"].append(action_tm1)
            writers["slip_tm1"].append(np.concatenate([[False], episode.slip]))
            lengths.append(len(action_tm1) - 1)
            returns.append(float(episode.rewards.sum()))
            terminated.append(episode.terminated)
            advance(sum(lengths))
            del episode, obs, action_tm1  # before the next one is read
    if sum(lengths) != dataset.num_steps:
        raise dataset.damaged(f"metadata.json speaks of {dataset.num_steps} steps, the files hold {sum(lengths)}")
    for name, moment in moments.items():
        np.save(folder / f"statistics.{files[name]}.npy", np.stack(moment.mean_std()))
    meta = {
        "format": FORMAT,
        "arrays": {name: list(writer.shape) for name, writer in writers.items()},
        "obs": files,
        "observation": spec.to_json(),
        "action": action_spec.to_json(),
        "lengths": lengths,
        "returns": returns,
        "terminated": terminated,
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def _check_room(dataset: Dataset, folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DatasetError(
            f"converting {dataset.id!r} takes {needed / 1e6:.0f} MB, but {folder.parent} has {free / 1e6:.0f} MB free. "
            f"Make room, or set DREAM_ENV_CACHE to another folder"
        )


def _pack_episode(
    dataset: Dataset, index: int, episode: RawEpisode, spec: ObservationSpec, action_spec: ActionSpec
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    try:
        obs = spec.pack(episode.observations, batch_dims=1)
        actions = np.asarray(episode.actions)
        actions = actions.reshape(len(actions), *(action_spec.space.shape or ()))
        if not np.isfinite(actions).all():
            raise SpaceError(f"action {int(np.argwhere(~np.isfinite(actions))[0, 0])} is not finite")
        _check_bounds(actions, action_spec)
    except (SpaceError, ValueError) as error:
        raise DatasetError(f"episode {index} of dataset {dataset.id!r}: {error}") from error
    for name, array in obs.items():
        if len(array) != len(actions) + 1:
            raise dataset.damaged(
                f"episode {index} has {len(array)} observations {name!r} and {len(actions)} actions, not one less"
            )
    dtype = np.int64 if action_spec.discrete else np.float32
    return obs, np.concatenate([np.zeros((1, *actions.shape[1:]), dtype), actions.astype(dtype)])


def _check_bounds(actions: np.ndarray, action_spec: ActionSpec) -> None:
    # A simulator may cut a policy's action off and the recording keep what the policy said. The model would learn from a number
    # that did something else, and that no dream ever takes. (Minari's own collector refuses such actions when it records.)
    try:
        action_spec.validate(actions, each="step")
    except SpaceError as error:
        if action_spec.discrete:
            raise
        raise SpaceError(
            f"{error}. Record what the simulator made of it (numpy.clip, if it cuts actions off), or declare the space that "
            f"holds the actions"
        ) from error
