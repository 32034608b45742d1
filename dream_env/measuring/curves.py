"""Real return and offline metrics through training, of many runs in one file: ``RESULTS_curves.csv`` beside ``RESULTS.csv``.

A line for each policy that was kept on the way and played. Result rows say how good the last policies are, these how they
became so, and whether a metric that needs no environment would have told (DITTO, Fig. 2).
"""

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from dream_env.checkpoint import read_json, write_file
from dream_env.errors import ConfigError
from dream_env.measuring.results import alone
from dream_env.measuring.selection import rows_of
from dream_env.playing.game_log import GameLog
from dream_env.run_folder import read_metrics


@dataclass(frozen=True, kw_only=True)
class Point:
    """One policy of one training."""

    dataset: str
    """Minari id of the demonstrations."""
    game: str
    """Short name of the environment."""
    method: str
    """What the study calls the way it was trained."""
    n_expert: int
    """Expert episodes that were imitated."""
    seed: int
    """Of the training."""
    steps: int
    """Dream steps it had learned from."""
    episodes: int
    """Real games it played, with sampled actions."""
    return_mean: float
    """Their mean return."""
    latent_distance: float | None = None
    """To held-out expert windows, in the dream; None of a policy that sees no latents."""
    action_agreement: float | None = None
    """With the expert's actions in held-out episodes; of continuous actions their squared distance."""
    minutes: float | None = None
    """Of training until then."""
    commit: str = ""
    """Of dream-env."""


COLUMNS = tuple(field.name for field in fields(Point))
_SAME = 6
"""So many columns tell which policy it is; a second line of the same replaces the first."""
_KINDS: dict[str, Any] = {name: int for name in ("n_expert", "seed", "steps", "episodes")} | {
    name: float for name in ("return_mean", "latent_distance", "action_agreement", "minutes")
}


def beside(results: Path) -> Path:
    """Where the curves of a result file are."""
    return results.with_name(f"{results.stem}_curves.csv")


def of_agent(folder: Path, *, dataset: str, game: str, method: str, n_expert: int, seed: int) -> list[Point]:
    """The policies kept in an agent's folder that were played."""
    returns = GameLog(folder / "episodes.csv").through_training()
    metrics = rows_of(read_metrics(folder / "metrics.csv"), returns)
    commit = str(read_json(folder / "meta.json").get("commit", ""))
    points = []
    for steps, played in returns.items():
        at = metrics.get(steps, {})
        points.append(
            Point(
                dataset=dataset, game=game, method=method, n_expert=n_expert, seed=seed, steps=steps,
                episodes=len(played), return_mean=sum(played) / len(played), latent_distance=at.get("latent_distance"),
                action_agreement=at.get("action_agreement"), minutes=at.get("minutes"), commit=commit,
            )
        )  # fmt: skip
    return points


def append(path: Path, points: Iterable[Point]) -> None:
    """Add points to a file, made if missing; whole or not at all, and several runs may append at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent):
        rows = {astuple(point)[:_SAME]: point for point in (read(path) if path.is_file() else [])}
        rows |= {astuple(point)[:_SAME]: point for point in points}
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_cell(value) for value in astuple(point)] for point in rows.values())
        write_file(path, text.getvalue())


def read(path: Path) -> list[Point]:
    """The points of a file.

    Raises:
        ConfigError: if it is no such file, or a cell is no number.
    """
    points = []
    with path.open(newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            cells = {name: cell for name, cell in row.items() if name in COLUMNS and cell}
            try:
                points.append(Point(**{name: _KINDS.get(name, str)(cell) for name, cell in cells.items()}))
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"{path}, line {line} is none of a policy on the way: {error}; such a file has the columns "
                    f"{', '.join(COLUMNS)}"
                ) from error
    return points


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
