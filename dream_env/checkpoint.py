"""Folders on disk: a world model (config.json, weights.safetensors, meta.json) and the state of a training on its way.

Everything is written under a temporary name and renamed, so a kill at any moment leaves either the old or the new, never a
half. Nothing here opens a pickle: numbers are safetensors, the rest is JSON.
"""

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import time
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dream_env.device import check_device
from dream_env.errors import CheckpointError, ConfigError, nearest
from dream_env.model.world_model import WorldModel, WorldModelConfig
from dream_env.recordings.demos import Source
from dream_env.spaces import ActionSpec, ObservationSpec

FORMAT = 1
"""Raised when a folder of today could not be read by yesterday's code."""

SHIPPED = Path(__file__).parent / "shipped"
"""World models that come with the package, a folder each; opened as ``wm="shipped:NAME"``."""
SHIPPED_PREFIX = "shipped:"
_SHIPPED_FILES = "[!.]*/config.json"  # of whole folders: one that is being written has a dot before its name

_MODEL_FILES = ("config.json", "weights.safetensors", "meta.json")


# --------------------------------------------------------------------------------------------------- files and folders


def write_file(path: Path, data: bytes | str) -> None:
    """Write a whole file under a temporary name, flush it to the disk, rename it."""
    raw = data.encode() if isinstance(data, str) else data
    _write(path, len(raw), lambda temporary: temporary.write_bytes(raw))


def _write(path: Path, num_bytes: int, write: Callable[[Path], object]) -> None:
    try:
        # A folder of its own, since safetensors writes under a random name beside the file: all goes with the folder.
        with _temporary(path) as folder:
            write(folder / path.name)
            with (folder / path.name).open("rb+") as file:
                os.fsync(file.fileno())
            (folder / path.name).replace(path)
    except (OSError, safetensors.SafetensorError) as error:  # the latter of a full disk, when it is what wrote
        raise CheckpointError(
            f"could not write {path} ({num_bytes / 2**20:.1f} MiB): {getattr(error, 'strerror', None) or error}; what was "
            f"saved before is intact. Free some disk space (or choose another --out) and run the same command again to go on"
        ) from error


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    folder = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def write_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes ``path`` when the block ends, or vanishes if the block raises.

    What was there before is set aside first, which takes no time, and removed last, which may take some.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.old")
    with _temporary(path) as temporary:
        yield temporary
        try:
            if path.exists():
                shutil.rmtree(aside, ignore_errors=True)  # of a kill before
                path.replace(aside)
            temporary.replace(path)
        finally:
            if not path.exists() and aside.exists():
                aside.replace(path)
        shutil.rmtree(aside, ignore_errors=True)


def write_json(path: Path, data: Any) -> None:
    """Write JSON a person can read."""
    write_file(path, json.dumps(data, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON, or say which file is broken."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); the folder is damaged, make it again") from error


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors as one safetensors file, from where they are: they may fill half of the memory."""
    rows = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    size = sum(t.nbytes for t in rows.values())

    def write(temporary: Path) -> None:
        temporary.touch()
        mode = temporary.stat().st_mode
        safetensors.torch.save_file(rows, temporary)  # into a file that nobody but its owner may read
        temporary.chmod(mode)

    _write(path, size, write)


def read_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Read a safetensors file, or say that it is missing or cut short."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; the folder {path.parent} is not complete, make it again")
    try:
        loaded = safetensors.torch.load_file(path, device=str(device))
    except safetensors.SafetensorError as error:
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} is damaged or cut short ({size} bytes; {error}); copy it again, or make the folder again"
        ) from error
    # Copied to memory of their own: where in a file a tensor begins decides on its alignment, and matrix products of numbers
    # that are aligned differently differ in the last bit, so that a resumed run would not equal an unbroken one.
    return {name: tensor.clone() for name, tensor in loaded.items()}


# ------------------------------------------------------------------------------------------------------ configurations


def config_to_json(config: Any) -> dict[str, Any]:
    """A (nested) config dataclass as a JSON object."""
    return dataclasses.asdict(config)


def config_from_json(cls: type[Any], data: dict[str, Any], where: str) -> Any:
    """A JSON object as a (nested) config dataclass; unknown keys are refused with the nearest name."""
    hints = typing.get_type_hints(cls)
    fields = {f.name for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name not in fields:
            raise ConfigError(f"{where}: {cls.__name__} has no option {name!r}.{nearest(name, fields)}")
        values[name] = _value_from_json(hints[name], value, where)
    return cls(**values)


def _value_from_json(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return config_from_json(typing.cast(type[Any], hint), value, where)
    if isinstance(value, list) and _takes_tuple(hint):
        return tuple(value)
    return value


def _takes_tuple(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_takes_tuple(arm) for arm in typing.get_args(hint))
    return hint is tuple or origin is tuple


# ---------------------------------------------------------------------------------------------------------- world model


def save(world_model: WorldModel, path: str | Path, meta: dict[str, Any] | None = None) -> Path:
    """Write a world model into a folder (made if missing) and return the folder."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "format": FORMAT,
        "world_model": config_to_json(world_model.config),
        "observation": world_model.observation_spec.to_json(),
        "action": world_model.action_spec.to_json(),
        "source": {
            name: value for name, value in config_to_json(world_model.source).items() if name != "folder" or value
        },
    }
    write_tensors(folder / "weights.safetensors", world_model.state_dict())
    write_json(folder / "config.json", config)
    write_json(folder / "meta.json", {**provenance(), **(meta or {})})
    return folder


def load(path: str | Path, device: str | torch.device = "cpu") -> WorldModel:
    """Read a world model from its folder, or from a hub id ``user/repository`` if there is no such folder."""
    check_device(device)
    folder = model_folder(path)
    config = read_json(folder / "config.json")
    if config.get("format", 0) > FORMAT:
        raise CheckpointError(
            f"{folder} was written by a newer dream-env (folder format {config['format']}, this one reads up to {FORMAT}); "
            f"upgrade with: pip install --upgrade dream-env"
        )
    weights = read_tensors(folder / "weights.safetensors", device)
    where = str(folder / "config.json")
    world_model = WorldModel(
        config_from_json(WorldModelConfig, config["world_model"], where),
        ObservationSpec.from_json(config["observation"]),
        ActionSpec.from_json(config["action"]),
        config_from_json(Source, config["source"], where),
    )
    own = world_model.state_dict()
    wrong = sorted(own.keys() ^ weights.keys()) or [n for n in own if own[n].shape != weights[n].shape]
    if wrong:
        raise CheckpointError(
            f"{folder}: weights.safetensors does not fit config.json, first at {wrong[0]!r}; the two files are of different "
            f"models, copy both again. (Or it was fitted by an earlier version to uint8 arrays smaller than 16 x 16, which were "
            f"taken for pictures and are vectors now: fit it anew)"
        )
    world_model.load_state_dict(weights)
    return world_model.to(device).eval()


def model_folder(path: str | PurePath) -> Path:
    """The local folder of a world model: ``path`` itself, one in this package (``shipped:pong``), or a download."""
    name = path.as_posix() if isinstance(path, PurePath) else path  # on Windows a path's own slashes are backward
    if name.startswith(SHIPPED_PREFIX):
        return _shipped(name.removeprefix(SHIPPED_PREFIX))
    folder = Path(path)
    if folder.is_dir():
        missing = [name for name in _MODEL_FILES if not (folder / name).is_file()]
        if missing:
            resume = Store(folder).latest_folder()
            hint = (
                f"its training has not finished; run the same `dream-env fit` command again to go on, "
                f"or use what there is: {resume}"
                if resume
                else "a world model's folder is what `dream-env fit ... --out FOLDER` leaves"
            )
            raise CheckpointError(f"{folder} is not a world model: {', '.join(missing)} missing; {hint}")
        return folder
    if folder.exists():
        raise CheckpointError(f"wm={str(path)!r} is a file; a world model is a folder with {', '.join(_MODEL_FILES)}")
    if _looks_like_hub_id(name):
        return _download(name)
    raise CheckpointError(
        f"there is no folder {str(path)!r}; give the folder that `dream-env fit ... --out FOLDER` left, or a hub id "
        f"'user/repository'"
    )


def shipped_model(environment: str) -> str | None:
    """``shipped:NAME`` of the world model of an environment that comes with this package, if there is one."""
    for folder in sorted(SHIPPED.glob(_SHIPPED_FILES)):
        if read_json(folder)["source"]["environment"] == environment:
            return SHIPPED_PREFIX + folder.parent.name
    return None


def _shipped(name: str) -> Path:
    names = sorted(path.parent.name for path in SHIPPED.glob(_SHIPPED_FILES))
    if name not in names:
        raise CheckpointError(
            f"no world model {name!r} comes with this package.{nearest(name, names)} These do: {', '.join(names) or 'none'}"
        )
    return SHIPPED / name


def _looks_like_hub_id(path: str) -> bool:
    parts = path.split("/")
    return len(parts) == 2 and all(part and part[0].isalnum() for part in parts) and not Path(parts[0]).exists()


def _download(hub_id: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(hub_id))
    except Exception as error:
        raise CheckpointError(
            f"{hub_id!r} is neither a folder here nor a world model that could be downloaded from the hub "
            f"({type(error).__name__}: {error})"
        ) from error


def provenance() -> dict[str, Any]:
    """What made a folder: versions, machine and, in a checkout, the commit."""
    packages = ("dream-env", "torch", "gymnasium", "minari", "stable-baselines3", "ale-py", "numpy")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "versions": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "commit": commit(),
    }


def commit() -> str:
    """The short commit of the checkout this package runs from, ``+`` if it was changed since; empty outside a checkout."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():  # installed inside another project's checkout, whose commit says nothing
        return ""
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=10", "--exclude=*"],
            cwd=here, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return run.stdout.strip()


# ------------------------------------------------------------------------------------------- training on its way


class Store:
    """Training states of one run, under ``folder/resume/<step>``; the newest complete one is kept.

    ``save`` writes a new sub-folder, renames it into place and only then removes the one before it.
    """

    def __init__(self, folder: str | Path, every_seconds: float = 120.0) -> None:
        self.folder = Path(folder) / "resume"
        self.every_seconds = every_seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._last >= self.every_seconds

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> Path:
        """Keep a training state: any tensors, any JSON-able object."""
        path = self.folder / f"{step:09d}"
        if path.exists():  # the same step again, beside the state that is there, so that there is one at any moment
            path = self.folder / f"0{step:09d}"
        with write_folder(path) as temporary:
            write_tensors(temporary / "training.safetensors", tensors)
            write_json(temporary / "state.json", state)
        for other in self._complete():
            if other != path:
                shutil.rmtree(other, ignore_errors=True)
        self._last = time.monotonic()
        return path

    def latest(self, device: str | torch.device = "cpu") -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """The newest complete state as (step, tensors, object), or None."""
        path = self.latest_folder()
        if path is None:
            return None
        return int(path.name), read_tensors(path / "training.safetensors", device), read_json(path / "state.json")

    def latest_folder(self) -> Path | None:
        """Where the newest complete state lies."""
        return max(self._complete(), key=lambda path: int(path.name), default=None)

    def clear(self) -> None:
        """Forget everything: the run is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _complete(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        files = ("state.json", "training.safetensors")  # a kill while they were removed may have left either
        return [p for p in self.folder.iterdir() if p.name.isdigit() and all((p / name).is_file() for name in files)]


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The moments and step counts of an optimiser as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"{prefix}/{index}/{name}": torch.as_tensor(value)
        for index, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], prefix: str) -> None:
    """Put back what ``optimizer_tensors`` took; learning rates and options stay as constructed."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.startswith(prefix + "/"):
            index, name = key[len(prefix) + 1 :].split("/")
            # Adam counts its steps on the CPU: on a GPU the host would wait for each count at each update. Where an optimiser
            # does count there (fused, capturable), load_state_dict moves the count to its parameter.
            state.setdefault(int(index), {})[name] = tensor.cpu() if name == "step" else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
