"""Minari datasets on disk: find one by id or folder, fetch it if asked, read it episode by episode, say what is wrong.

Minari counts a half-downloaded folder as present and fails later with an error of HDF5's, so all is checked here.
"""

import json
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dream_env.errors import DatasetError, nearest

SLIP = "expert_slip"
"""Key among a dataset's infos: true where the action that led there was none of the expert's choice."""
_LAYOUT = frozenset(("data_format", "dataset_id", "dataset_size", "total_episodes", "total_steps"))
_ELSEWHERE = frozenset(("action_space", "observation_space", "env_spec", "author_email"))
"""Metadata that says how the data are laid out, or is kept elsewhere or nowhere; the rest says how they were made."""


@dataclass(frozen=True)
class RawEpisode:
    """One recorded episode of T steps as it lies in the dataset."""

    observations: Any
    """Arrays of T + 1 rows, or nested dictionaries of them."""
    actions: Any
    """(T, ...)."""
    rewards: np.ndarray
    """(T,)."""
    terminated: bool
    """Whether the last observation ended the episode for good, rather than cut it off."""
    slip: np.ndarray
    """(T,) bool, true where the action was an accident; all false unless the dataset says so."""


@dataclass(frozen=True)
class Dataset:
    """A Minari dataset on disk."""

    folder: Path
    """Where metadata.json lies (Minari's ``<id>/data``)."""
    metadata: dict[str, Any]
    """The whole of metadata.json."""

    @property
    def id(self) -> str:
        """``namespace/name-v0``."""
        return str(self.metadata["dataset_id"])

    @property
    def elsewhere(self) -> str:
        """The folder, absolute, if it is not the one that the id leads to; else an empty string."""
        from minari.storage import get_dataset_path

        try:
            here, usual = self.folder.resolve(), (Path(get_dataset_path(self.id)) / "data").resolve()
        except OSError:  # Minari makes its folder, which a read-only home does not let it
            return str(self.folder.resolve())
        return "" if here == usual else str(here)

    @property
    def num_episodes(self) -> int:
        """Number of episodes, as recorded."""
        return int(self.metadata["total_episodes"])

    @property
    def num_steps(self) -> int:
        """Number of steps, as recorded."""
        return int(self.metadata["total_steps"])

    @property
    def env_spec(self) -> str | None:
        """JSON of the recorded ``EnvSpec``."""
        spec = self.metadata.get("env_spec")
        return None if spec is None else str(spec)

    @property
    def environment(self) -> str:
        """Gymnasium id of the recorded environment, or an empty string."""
        return "" if self.env_spec is None else str(json.loads(self.env_spec)["id"])

    @property
    def protocol(self) -> dict[str, Any]:
        """What was recorded about how the data were made."""
        return {name: self.metadata[name] for name in sorted(self.metadata.keys() - _LAYOUT - _ELSEWHERE)}

    def fingerprint(self) -> str:
        """A text that changes when the data do: names, sizes and times of all files."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        stats = [(str(path.relative_to(self.folder)), path.stat()) for path in files]
        return json.dumps([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])

    def damaged(self, what: str) -> DatasetError:
        """The error to raise when something in the files cannot be."""
        return DatasetError(
            f"dataset {self.id!r} in {self.folder} is damaged or only half there: {what}. Delete the folder "
            f"{self.folder.parent} and download or collect it again"
        )

    def open(self) -> Any:
        """Return the ``minari.MinariDataset``."""
        from minari import MinariDataset

        try:
            return MinariDataset(self.folder)
        except ImportError as error:
            storage = self.metadata.get("data_format")
            raise DatasetError(
                f"dataset {self.id!r} is stored as {storage}, and a library for it is missing: {error}"
            ) from error
        except Exception as error:  # Minari and h5py raise anything from KeyError to AssertionError here
            if "does not support" in str(error):
                raise DatasetError(
                    f"dataset {self.id!r}: {error} Upgrade with: pip install --upgrade minari"
                ) from error
            raise self.damaged(_cause(error)) from error

    def episodes(self) -> Iterator[RawEpisode]:
        """Yield one episode after another, each read when asked for."""
        opened = self.open()
        for index in range(self.num_episodes):
            yield self._episode(opened, index)  # bound to no name here: it is gone before the next one is read

    def _episode(self, opened: Any, index: int) -> RawEpisode:
        try:
            # One at a time: Minari's Arrow reader would otherwise read many episodes ahead.
            episode = next(iter(opened.iterate_episodes([index])))
            terminations = np.asarray(episode.terminations)
            return RawEpisode(
                episode.observations,
                episode.actions,
                np.asarray(episode.rewards, dtype=np.float64),
                bool(len(terminations) and terminations[-1]),
                _slips(episode),
            )
        except Exception as error:  # h5py, pyarrow and Pillow have an error class for every kind of broken file
            raise self.damaged(f"episode {index} cannot be read ({_cause(error)})") from error


def find_dataset(dataset: str | os.PathLike[str], *, download: bool = True) -> Dataset:
    """Find a dataset by its id (in Minari's own root, fetched if it is not there) or by its folder.

    Raises:
        DatasetError: if it is not there and cannot be fetched, or is not a whole Minari dataset.
    """
    from minari.storage import get_dataset_path

    name = os.fspath(dataset)
    folder = Path(name).expanduser()
    if isinstance(dataset, os.PathLike) or name.startswith((".", "/", "~")) or Path(name).is_absolute():
        if not folder.is_dir():
            raise DatasetError(f"there is no dataset folder {folder}")
        return _read(folder)
    local_id = _without_remote(name)
    local = get_dataset_path(local_id)
    if not (local / "data").exists() and folder.is_dir():
        return _read(folder)
    _check_id(local_id)
    if not local.is_dir():
        if not download:
            raise DatasetError(f"there is no dataset {name!r} in {get_dataset_path()}.{_near(local_id)}{_advice(name)}")
        _download(name, local_id)
    return _read(local)


def _read(folder: Path) -> Dataset:
    data = folder if (folder / "metadata.json").is_file() else folder / "data"
    if not (data / "metadata.json").is_file():
        raise DatasetError(
            f"{folder} is not a whole Minari dataset: there is no {data / 'metadata.json'}. If it is a download or a "
            f"collection that was cut off, delete the folder and start it again"
        )
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        found = Dataset(data, json.loads((data / "metadata.json").read_text()))
        parse_dataset_id(found.id)  # it will name a folder of the cache
        _ = found.num_episodes, found.num_steps
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{data / 'metadata.json'} is not the metadata of a finished Minari dataset ({_cause(error)}). If it is a "
            f"download or a collection that was cut off, delete {folder} and start it again"
        ) from error
    if found.num_episodes == 0:
        raise DatasetError(f"dataset {found.id!r} in {data} is empty: it has no episode; collect some first")
    return found


def _download(name: str, local_id: str) -> None:
    import minari

    try:
        minari.download_dataset(name)
    except Exception as error:  # no network, no such id, no such remote: many libraries, many classes
        raise DatasetError(
            f"dataset {name!r} is not in {minari.storage.get_dataset_path()} and could not be downloaded "
            f"({_cause(error)}).{_near(local_id)}{_advice(name)}"
        ) from error


def _advice(name: str) -> str:
    return (
        f" Download it where there is a network with minari.download_dataset({name!r}), "
        f"or record it with: dream-env collect GAME --dataset {name}"
    )


def _near(name: str) -> str:
    return nearest(name, _local_ids())


def _local_ids() -> list[str]:
    from minari import list_local_datasets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other datasets' troubles are not the question here
        try:
            return list(list_local_datasets())
        except (OSError, TypeError, ValueError):  # nor is a folder there whose name is no id
            return []


def _check_id(name: str) -> None:
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        parse_dataset_id(name)
    except (ValueError, TypeError) as error:  # TypeError: an id without a version
        raise DatasetError(
            f"{name!r} is neither a folder nor a dataset id; ids look like pong/scripted-v0 (a namespace of two or "
            f"more characters, a name, a version).{_near(name)}"
        ) from error


def _without_remote(name: str) -> str:
    # hf://user/namespace/name-v0: the part before the id says where to fetch it from.
    return name.split("://", 1)[1].split("/", 1)[-1] if "://" in name else name


def _slips(episode: Any) -> np.ndarray:
    recorded = (episode.infos or {}).get(SLIP)
    steps = len(episode.rewards)
    if recorded is None:
        return np.zeros(steps, dtype=bool)
    slip: np.ndarray = np.asarray(recorded, dtype=bool)[-steps:]  # infos come with the reset's before them
    if slip.shape != (steps,):
        raise ValueError(f"{len(slip)} infos {SLIP!r} for {steps} steps")
    return slip


def _cause(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
