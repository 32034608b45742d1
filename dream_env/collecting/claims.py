"""A dataset's id stands for one set of recordings: claimed when they are begun, compared when somebody goes on with them.

What decides what is recorded (an identity: JSON-able names and values) is written beside the unfinished episodes and into
the finished dataset's metadata as ``collected``. Whoever asks for the same gets what is there; other options are refused by
name, so that two kinds of games never mix under one id.
"""

import json
from collections.abc import Mapping
from typing import Any

import minari
import numpy as np
from minari.dataset.minari_dataset import parse_dataset_id

from dream_env.errors import ConfigError, DatasetError
from dream_env.recordings.recording import dataset_folder, read_metadata, unfinished_folder

_FILE = "collect.json"


def check_dataset_id(dataset: str) -> None:
    """See that Minari will take the id.

    Raises:
        ConfigError: if not.
    """
    try:
        parse_dataset_id(dataset)
    except (ValueError, TypeError) as error:  # TypeError: an id without a version
        raise ConfigError(
            f"{dataset!r} is no id for a Minari dataset; ids look like dream/pong/scripted-v0: namespaces of two or more "
            f"letters, a name, a version"
        ) from error


def claim(dataset: str, identity: Mapping[str, Any]) -> None:
    """Begin a recording, or go on with one of the same identity.

    Raises:
        ConfigError: if one of another identity is unfinished under this id.
    """
    folder = unfinished_folder(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _FILE
    if path.exists():
        _compare(json.loads(path.read_text()), identity, f"the unfinished recording in {folder}", dataset)
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(identity, indent=2))
    temporary.replace(path)


def finished(dataset: str, identity: Mapping[str, Any]) -> minari.MinariDataset | None:
    """Return the finished dataset of this id, or None if there is none.

    Raises:
        ConfigError: if there is one of another identity, or one that this library did not record.
        DatasetError: if it is damaged.
    """
    folder = dataset_folder(dataset)
    if not folder.exists():
        return None
    try:
        before = read_metadata(folder).get("collected")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{folder} is not a whole Minari dataset ({error}); delete it or use another --dataset"
        ) from error
    if before is None:
        raise ConfigError(
            f"dataset {dataset} exists and was not recorded by dream-env; use it as it is, or record under another "
            f"--dataset"
        )
    _compare(before, identity, f"dataset {dataset}", dataset)
    return minari.MinariDataset(folder / "data")


def print_summary(dataset: minari.MinariDataset) -> None:
    """Print one line: games, steps, return, size."""
    returns = [float(np.sum(episode.rewards)) for episode in dataset.iterate_episodes()]
    size = dataset.storage.metadata["dataset_size"]
    print(
        f"{dataset.spec.dataset_id}: {len(returns)} games, {dataset.spec.total_steps} steps, return "
        f"{np.mean(returns):.2f} ± {np.std(returns):.2f} ({min(returns):g} … {max(returns):g}), {size} MB"
    )


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], what: str, dataset: str) -> None:
    names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if names:
        changes = ", ".join(f"{name} {before.get(name)!r}, now {now.get(name)!r}" for name in names)
        raise ConfigError(
            f"{what} was recorded with other options: {changes}. Use the same options, another --dataset, or delete "
            f"{dataset_folder(dataset)} and {unfinished_folder(dataset)}"
        )
