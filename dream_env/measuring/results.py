"""Result rows: one line of CSV for each way to act that was evaluated, with all it takes to repeat it.

The README's tables are made of these files, so a row carries its command, its commit and every single return.
"""

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from dream_env.checkpoint import write_file
from dream_env.errors import ConfigError, nearest
from dream_env.run_folder import alone as alone


@dataclass(frozen=True, kw_only=True)
class Row:
    """One evaluated way to act. Returns are sums of the real environment's plain rewards over an episode."""

    experiment: str
    """Name that the rows of one study share."""
    environment: str
    """Gymnasium id, as ALE/Pong-v5."""
    dataset: str
    """Minari id of the demonstrations."""
    method: str
    """The reward or algorithm: random, expert, bc, ditto, gail …"""
    learner: str = ""
    """ppo, a2c …; empty for random and expert."""
    warm_start: str = ""
    """none, or bc: the policy started from one cloned in the expert's latents."""
    options: str = ""
    """Options of reward and learner that are not the default, as JSON; and ``select`` and ``tail``, see the properties."""
    n_expert: int = 0
    """Expert episodes that were imitated."""
    horizon: int = 15
    """Steps of a dream in training; 15, the default of all tools, where a file does not say."""
    preset: str = ""
    """Size of the world model: small, paper or custom."""
    seed: int = 0
    """Seed of the training."""
    deterministic: bool = False
    """The likeliest action each time (argmax); otherwise actions are sampled."""
    steps: int | None = None
    """Dream steps that the policy had learned from; expert states of one that cloned, real steps of one that played. None, like
    what follows, where many policies played (``tail``)."""
    updates: int | None = None
    """Updates that the learner had made, as it counts them: gradient steps of the actor or of a clone; SB3's PPO counts
    passes over its rollouts. (Those of the world model are the option ``fit.updates``.) In rows of before they follow from the
    steps."""
    latent_distance: float | None = None
    """Its distance to the expert in the dream, on held-out windows, 1 − DITTO's similarity; None of one that sees no latents."""
    action_agreement: float | None = None
    """With the expert's actions in held-out episodes; of continuous actions their squared distance."""
    episodes: int
    """Episodes that were played."""
    eval_seed: int = 0
    """Seed of the first of them; episode i has ``eval_seed + i``."""
    return_mean: float
    return_iqm: float
    """Interquartile mean."""
    return_low: float
    """Lower end of the 95 % bootstrap interval of the IQM."""
    return_high: float
    """Upper end."""
    normalized: float
    """(mean − random's mean) / (expert's mean − random's mean)."""
    success: float | None = None
    """Share of the episodes that succeeded, where the environment says so (see ``dream_env.real.success``)."""
    tasks: float | None = None
    """Tasks completed in an episode, on average, of environments with a list of them."""
    wall_minutes: float = 0.0
    """Minutes to fit the world model and to imitate."""
    returns: tuple[float, ...] = ()
    """Return of each episode, by seed; for the expert those of the demonstrations."""
    protocol: str = ""
    """How the environment was set up: id, options, wrappers."""
    command: str = ""
    """What made the row."""
    commit: str = ""
    """Of dream-env; a + for a changed checkout."""

    @property
    def select(self) -> str:
        """The offline metric by which this policy was chosen among those kept on the way; empty for the last one."""
        return str(json.loads(self.options).get("select", "")) if self.options else ""

    @property
    def tail(self) -> int:
        """How many policies, one after each of the last updates, played these episodes; 0 if it was one policy."""
        return int(json.loads(self.options).get("tail", 0)) if self.options else 0

    @property
    def played(self) -> dict[str, Any]:
        """What the protocol says of the game itself: returns of games that were cut off earlier, or served, are others.

        What only the pictures or the installation have to do with is left out.
        """
        told = json.loads(self.protocol) if self.protocol else {}
        return {name: value for name, value in told.items() if name not in _NOT_THE_GAME}

    @property
    def fire(self) -> bool:
        """Whether FIRE was pressed for the player."""
        return bool(self.played.get("fire", False))

    @property
    def seeds(self) -> tuple[int, int]:
        """Of the policy's training, and of its world model's: the same unless ``options`` says otherwise."""
        return self.seed, int(json.loads(self.options).get("fit.seed", self.seed)) if self.options else self.seed

    @property
    def trained(self) -> bool:
        """Whether this is a policy that somebody trained here, and no random actions, no recordings and no planner."""
        return self.method not in ("random", "expert") and self.n_expert > 0


_NOT_THE_GAME = ("environment", "versions", "size", "gray", "rendering", "camera")
COLUMNS = tuple(field.name for field in fields(Row))
_TYPES: dict[str, Any] = {field.name: field.type for field in fields(Row)}
_MEASURED = ("steps", "updates", "latent_distance", "action_agreement")
"""What rows of before do not have: one with and one without are the same row."""
_REQUIRED = tuple(field.name for field in fields(Row) if field.default is MISSING)


def write(path: Path, rows: Sequence[Row]) -> None:
    """Replace a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, [_to_cells(row) for row in rows])


def append(path: Path, rows: Iterable[Row]) -> None:
    """Add rows to a result file, made if missing. Whole or not at all; several runs may append at the same time.

    A row that is there already is not added again, and columns that we do not know stay.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent):
        cells = _read_cells(path) if path.is_file() else []
        known = {_identity(row) for row in cells}
        cells += [row for row in map(_to_cells, rows) if _identity(row) not in known]
        _write(path, cells)


def read(path: Path) -> list[Row]:
    """The rows of a result file.

    Raises:
        ConfigError: if the file is no result file, naming the column it lacks or the cell that is no number.
    """
    rows = []
    for number, cells in enumerate(_read_cells(path), start=2):
        for name in _REQUIRED:
            if not cells.get(name):
                raise ConfigError(
                    f"{path}, line {number} has no {name!r}.{nearest(name, cells)} Result files have at least the "
                    f"columns {', '.join(_REQUIRED)}"
                )
        rows.append(Row(**{name: _value(path, number, name, cells[name]) for name in COLUMNS if cells.get(name)}))
    return rows


def _read_cells(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{name: cell or "" for name, cell in row.items() if name} for row in csv.DictReader(file)]


def _identity(cells: dict[str, str]) -> tuple[str, ...]:
    return tuple(cells.get(name, "") for name in COLUMNS if name not in _MEASURED)


def _to_cells(row: Row) -> dict[str, str]:
    return {name: _cell(getattr(row, name)) for name in COLUMNS}


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(f"{number:g}" for number in value)
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(path: Path, line: int, name: str, cell: str) -> Any:
    kind = _TYPES[name]
    try:
        if kind is bool:
            return {"True": True, "False": False}[cell]
        if kind in (int, float):
            return kind(cell)
        if kind in (int | None, float | None):
            return (int if kind == int | None else float)(cell)
        return cell if kind is str else tuple(float(part) for part in cell.split())
    except (KeyError, ValueError) as error:
        wanted = getattr(kind, "__name__", str(kind))
        raise ConfigError(f"{path}, line {line}: {name!r} is {cell!r}, which is no {wanted}") from error


def _write(path: Path, cells: Sequence[dict[str, str]]) -> None:
    text = io.StringIO()
    columns = list(dict.fromkeys([*COLUMNS, *(name for row in cells for name in row)]))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    write_file(path, text.getvalue())
