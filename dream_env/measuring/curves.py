"""Real return and offline metrics through training, of many runs in one file: ``RESULTS_curves.csv`` beside ``RESULTS.csv``.

A line for each policy that was kept on the way and played. Result rows say how good the last policies are, these how they
became so, and whether a metric that needs no environment would have told (DITTO, Fig. 2).
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from dream_env.checkpoint import read_json
from dream_env.measuring import lines
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
    protocol: str = ""
    """Of the environment it played, as ``episodes.csv`` has it: the Gymnasium id and what differs with its options."""
    episodes: int
    """Real games it played, with sampled actions."""
    return_mean: float
    """Their mean return."""
    updates: int | None = None
    """Updates the learner had made, as it counts them; see ``results.Row``."""
    latent_distance: float | None = None
    """To held-out expert windows, in the dream; None of a policy that sees no latents."""
    action_agreement: float | None = None
    """With the expert's actions in held-out episodes; of continuous actions their squared distance."""
    minutes: float | None = None
    """Of training until then."""
    commit: str = ""
    """Of dream-env."""


_SAME = 7
"""So many columns tell which policy it is, and what it played."""
_WHAT = "a policy on the way"


def beside(results: Path) -> Path:
    """Where the curves of a result file are."""
    return results.with_name(f"{results.stem}_curves.csv")


def of_agent(folder: Path, *, dataset: str, game: str, method: str, n_expert: int, seed: int) -> list[Point]:
    """The policies kept in an agent's folder that were played."""
    log = GameLog(folder / "episodes.csv")
    returns = log.through_training()
    metrics = rows_of(read_metrics(folder / "metrics.csv"), returns)
    commit = str(read_json(folder / "meta.json").get("commit", ""))
    points = []
    for steps, played in returns.items():
        at = metrics.get(steps, {})
        updates = int(at["updates"]) if "updates" in at else None
        points.append(
            Point(
                dataset=dataset, game=game, method=method, n_expert=n_expert, seed=seed, steps=steps, updates=updates,
                protocol=log.environment, episodes=len(played), return_mean=sum(played) / len(played),
                latent_distance=at.get("latent_distance"),
                action_agreement=at.get("action_agreement"), minutes=at.get("minutes"), commit=commit,
            )
        )  # fmt: skip
    return points


def append(path: Path, points: Iterable[Point]) -> None:
    """Add points to a file, as ``lines.append``; one of before, when nobody told its protocol, makes room for one that does."""
    points = list(points)
    now = {astuple(replace(point, protocol=""))[:_SAME] for point in points if point.protocol}
    lines.append(path, Point, points, same=_SAME, what=_WHAT, forget=lambda known: astuple(known)[:_SAME] in now)


def read(path: Path) -> list[Point]:
    """The points of a file.

    Raises:
        ConfigError: if it is no such file, or a cell is no number.
    """
    return lines.read(path, Point, what=_WHAT)
