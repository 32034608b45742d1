"""Put a small trained dream into the package: ``python examples/ship_dream.py runs/pong-0/wm pong``.

Weights in half precision and the first few encoded demonstrations, so that ``gymnasium.make("Dream-Pong-v0")`` works with no
world model at hand. Which run it came from, and what was changed, is written into its ``meta.json``. A model of that name that
is there stays until the new one is whole.
"""

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from runner import start
from tyro.conf import Positional

from dream_env.checkpoint import SHIPPED, model_folder, read_json, read_tensors, write_folder, write_json, write_tensors
from dream_env.errors import CheckpointError, ConfigError
from dream_env.model.encoded import load_encoded, save_encoded

LIMIT_MB = 15
"""Most that a package should carry."""


@dataclass(frozen=True)
class Ship:
    """Which model, and how much of its demonstrations."""

    wm: Positional[Path]
    """Folder that `dream-env fit` left."""
    name: Positional[str]
    """What it will be called: wm="shipped:NAME"."""
    train: int = 6
    """Encoded expert episodes to start dreams from."""
    held_out: int = 1
    """Encoded episodes to measure on."""


def main(config: Ship) -> None:
    """Write ``dream_env/shipped/NAME``.

    Raises:
        CheckpointError: if there is no world model to ship.
        ConfigError: if it would be too big.
    """
    if not config.wm.is_dir():
        raise CheckpointError(
            f"there is no folder {config.wm}; give the one that `dream-env fit ... --out FOLDER` left"
        )
    model_folder(config.wm)  # refuses one that is no world model, or not finished
    target = SHIPPED / config.name
    with write_folder(target) as folder:
        _write(config, folder)
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        if size > LIMIT_MB:
            raise ConfigError(f"{size:.1f} MB is more than {LIMIT_MB} MB: take fewer episodes; nothing was shipped")
    print(f"{target}: {size:.1f} MB")


def _write(config: Ship, folder: Path) -> None:
    shutil.copy(config.wm / "config.json", folder)
    weights = read_tensors(config.wm / "weights.safetensors")
    halved = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    write_tensors(folder / "weights.safetensors", halved)
    for split, episodes in (("train", config.train), ("held_out", config.held_out)):
        save_encoded(load_encoded(config.wm, split).take(episodes), folder, split)  # type: ignore[arg-type]
    changed = {
        "weights": "float16", "train_episodes": config.train, "held_out_episodes": config.held_out,
        "command": shlex.join(["python", *sys.argv]),
    }  # fmt: skip
    meta = read_json(config.wm / "meta.json")
    fit = meta.get("fit") or read_json(config.wm / "run.json")  # how it was made; models of before have it there alone
    write_json(folder / "meta.json", {**meta, "fit": fit, "shipped": changed})


if __name__ == "__main__":
    start(main, Ship)
