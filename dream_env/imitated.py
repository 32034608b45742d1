"""Whom a policy imitates, and in which world model: the recordings it was fitted to, or those of another dataset.

A world model may come from anybody's play: the more different from the expert, the more it knows of what happens off the
expert's path (DITTO §4.1 fits it to one agent's games and imitates another's). ``dream-env imitate --dataset ID`` takes the
world model as it is, runs its filter along the other recordings, and keeps the model with them in ``OUT/imitated``, a world
model's folder like any other: the agent refers to it, and returns are compared with that expert's.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dream_env import checkpoint
from dream_env.checkpoint import model_folder, read_json, write_folder
from dream_env.device import check_device
from dream_env.dream.opening import game_of
from dream_env.errors import DatasetError, EnvironmentMismatch
from dream_env.model.encoded import EncodedDemos, encode, load_encoded, save_encoded
from dream_env.model.world_model import WorldModel
from dream_env.recordings.datasets import Dataset, find_dataset
from dream_env.recordings.demos import Demos, Source

HELD_OUT = 2
"""Episodes of another dataset that are kept back to measure on."""


@dataclass(frozen=True)
class Imitated:
    """A world model with the expert's episodes as it sees them."""

    wm: str | Path
    """Where it lies, or will after ``keep``."""
    world_model: WorldModel
    train: EncodedDemos
    """Episodes to imitate."""
    held_out: EncodedDemos
    """Episodes to measure on."""
    meta: dict[str, Any] | None = None
    """What is to be kept with it, if it is not kept yet."""

    def keep(self) -> None:
        """Write the folder, unless it is there; whole or not at all."""
        if self.meta is None:
            return
        with write_folder(Path(self.wm)) as folder:
            save_encoded(self.train, folder, "train")
            save_encoded(self.held_out, folder, "held_out")
            checkpoint.save(self.world_model, folder, self.meta)


def imitated(wm: str | Path, dataset: str, out: Path, device: str = "cpu", *, progress: bool = True) -> Imitated:
    """Open a world model with the recordings to imitate.

    Args:
        wm: its folder, hub id or ``shipped:…``.
        dataset: Minari id of the recordings; empty for those it was fitted to.
        out: folder of the run; a model with other recordings is kept in ``out/imitated``, and opened there if it is.
        device: where to compute.

    Raises:
        EnvironmentMismatch: if the recordings are of another environment than the model.
        SpaceError: if their observations or actions are not what the model takes.
        DatasetError: if there are too few episodes.
        ConfigError: if there is no such device.
    """
    check_device(device)  # before a download
    kept = out / "imitated"
    wm = kept if dataset and kept.is_dir() else wm
    folder = model_folder(wm)
    world_model = checkpoint.load(folder, device)
    if not dataset or wm == kept:
        return Imitated(
            wm, world_model, load_encoded(folder, "train", device), load_encoded(folder, "held_out", device)
        )
    before = world_model.source
    _check(find_dataset(dataset), before)  # before a conversion that may take minutes
    demos = Demos.load(dataset, world_model.observation_spec.config, progress=progress)
    now = demos.source
    train, held_out = (encode(world_model, part) for part in demos.split(HELD_OUT))
    world_model.source = now
    if not now.env_spec:  # how to make the environment, and what its pictures are, the model's own recordings say
        shown = {"protocol": before.protocol["protocol"]} if "protocol" in before.protocol else {}
        world_model.source = replace(before, dataset=now.dataset, folder=now.folder, protocol={**shown, **now.protocol})
    meta: dict[str, Any] = {
        **read_json(folder / "meta.json"), "expert_returns": [float(x) for x in demos.returns],
        "episodes": train.num_episodes,
    }  # fmt: skip
    return Imitated(kept, world_model, train, held_out, meta)


def _check(dataset: Dataset, before: Source) -> None:
    if before.environment and dataset.environment and game_of(before.environment) != game_of(dataset.environment):
        raise EnvironmentMismatch(
            f"the recordings {dataset.id!r} are of {dataset.environment}, but the world model (dataset {before.dataset}) is "
            f"of {before.environment}; take recordings of that, or fit a model to these"
        )
    if dataset.num_episodes <= HELD_OUT:
        raise DatasetError(
            f"{dataset.id} has {dataset.num_episodes} episodes, of which {HELD_OUT} are held out to measure on; it needs at "
            f"least one more to imitate"
        )
