"""The folder of one stage: whose it is, its metrics as CSV and TensorBoard, and what it was made with.

``run.json`` is written first and says which command the folder belongs to, so that the same command goes on where it was
and another one is refused before it overwrites anything.
"""

import csv
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from dream_env.checkpoint import read_json, write_file, write_json
from dream_env.errors import CheckpointError

SEEN = "fingerprint"
"""Key of ``run.json``: of what the run learns from, which may change under the same name."""


def claim(
    folder: Path, stage: str, config: dict[str, Any], *, usual: dict[str, Any] | None = None, seen: str = ""
) -> None:
    """Take a folder for a stage's command, or find it taken by the same one.

    Args:
        folder: of the run.
        stage: name of the command.
        config: all that makes the run this one.
        usual: the same with all options at their defaults: one that an earlier version did not have counts as that.
        seen: fingerprint of what the run learns from.

    Raises:
        CheckpointError: as of ``check_claim``; if the run began with something else of the same name; if another process is at
            work there.
    """
    check_claim(folder, stage, config, usual=usual)  # before the folder is made: what is refused leaves none
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder):  # or two that start together would both find it free
        check_claim(folder, stage, config, usual=usual)
        path = folder / "run.json"
        if not path.is_file():
            write_json(path, {"stage": stage, **config, **({SEEN: seen} if seen else {})})
        begun, finished = read_json(path), (folder / "meta.json").is_file()
        if seen and begun.get(SEEN, seen) != seen:
            raise CheckpointError(
                f"what {folder} learned from has changed since it was begun, under the same name; what is there was made of "
                f"the old one. Delete the folder, or choose another --out"
            )
        if finished:
            return
        _hold(path)
        if seen and SEEN not in begun:  # by a version that did not note it
            write_json(path, {**begun, SEEN: seen})
            _hold(path)  # which is another file now


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, where the system has such locks: for moments, in which a file is read and written anew.

    Whoever comes meanwhile waits, and in one process too: not to be asked for twice, one inside the other.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # which lets the lock go


_held: dict[Path, int] = {}
"""Open descriptors of the ``run.json`` of this process's runs; the system lets go of their locks when the process ends."""


def _hold(path: Path) -> None:
    """Keep other processes out of a run's folder, where the system has such locks.

    Raises:
        CheckpointError: if another process is at work there.
    """
    if sys.platform == "win32":
        return
    import fcntl

    path = path.resolve()
    if path in _held:
        if os.fstat(_held[path]).st_ino == path.stat().st_ino:
            return
        os.close(_held.pop(path))  # of a folder that was deleted since
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise CheckpointError(
            f"another process is at work in {path.parent}, where two would undo each other's work; wait for it, stop it (a "
            f"notebook that was interrupted there: restart it), or choose another --out"
        ) from error
    except OSError:  # a file system without locks
        os.close(descriptor)
        return
    _held[path] = descriptor


def check_claim(folder: Path, stage: str, config: dict[str, Any], *, usual: dict[str, Any] | None = None) -> None:
    """Refuse a folder that ``claim`` would refuse, and leave it as it is: for stages with long work before they claim.

    Raises:
        CheckpointError: if the folder holds another run; the options that differ are named. If it cannot be written.
    """
    path = folder / "run.json"
    if path.is_file():
        other = {name: value for name, value in read_json(path).items() if name != SEEN}
        now = _flat({"stage": stage, **config})
        before = {name: value for name, value in _flat(usual or {}).items() if name in now} | _flat(other)
        difference = _difference(before, now)
        if difference:
            raise CheckpointError(
                f"{folder} already holds another run: {difference}. Choose another --out, delete the folder, or repeat the "
                f"command it was made with to go on there"
            )
    elif folder.is_dir() and any(not _unfinished(file) for file in folder.iterdir()):
        raise CheckpointError(f"{folder} exists, is not empty and is no run of dream-env; choose another --out")
    if (folder / "meta.json").is_file():
        return  # finished: nothing will be written
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise CheckpointError(
            f"{folder} cannot be written: {there} is no folder that you may write to; choose another --out"
        )


def _unfinished(file: Path) -> bool:
    return file.name.startswith(".run.json.tmp-")  # of a kill in the very first moment


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    shown = [f"{name} is {before.get(name)!r} there and {now.get(name)!r} here" for name in names[:3]]
    return "; ".join(shown) + (f"; and {len(names) - 3} more" if len(names) > 3 else "")


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


class MetricsLog:
    """``metrics.csv`` and TensorBoard of one stage. Rows beyond ``start`` are dropped, since a resumed run makes them again;
    all of them where it is 0, since a run from the beginning also repeats what it reported before its first step."""

    def __init__(self, folder: Path, index: str, start: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.path = folder / "metrics.csv"
        self.index = index
        before = read_metrics(self.path) if start and self.path.is_file() else []
        self.rows = [row for row in before if row[index] <= start]
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1)

    def add(self, metrics: dict[str, float]) -> None:
        """Append one row; a column that was not there before may appear, and cells may stay empty."""
        self.rows.append(dict(metrics))
        columns = list(dict.fromkeys([self.index, *(name for row in self.rows for name in row)]))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: self._cell(name, value) for name, value in row.items()} for row in self.rows)
        write_file(self.path, text.getvalue())
        for name, value in metrics.items():
            if name != self.index:
                self._board.add_scalar(name, value, int(metrics[self.index]))

    def _cell(self, name: str, value: float) -> str:
        # 1,007,616 steps are not 1.00762e+06
        return str(int(value)) if name in (self.index, "updates") else f"{value:.6g}"

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board.close()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv``; empty cells are left out."""
    with path.open(newline="") as file:
        return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(file)]


class Clock:
    """Minutes that a stage has taken, all its tries together: the time of earlier tries is read from its metrics."""

    def __init__(self, folder: Path, start: int) -> None:
        path = folder / "metrics.csv"
        rows = read_metrics(path) if start and path.is_file() else []
        self._before = max((row["minutes"] for row in rows if "minutes" in row), default=0.0)
        self._start = time.monotonic()

    def minutes(self) -> float:
        """Minutes so far."""
        return self._before + (time.monotonic() - self._start) / 60.0


def plain(data: Any) -> Any:
    """As it will be read back from JSON."""
    return json.loads(json.dumps(data, default=str))
