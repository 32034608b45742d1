"""Whether what can be measured without the environment ranks the policies that trainings ended with: figure and table of a study.

Curves through training (DITTO, Fig. 2) ask the same of the policies on the way, of which the untrained ones are easily told;
here each training gives one policy, played in as many games as its row has.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from dream_env.measuring.families import frozen, grouped, told_apart
from dream_env.measuring.results import Row
from dream_env.measuring.statistics import Correlation, spearman_within
from dream_env.measuring.study import Study, world_model_of
from dream_env.measuring.tables import interval, markdown, number
from dream_env.showing.study_figures import METRICS, Looks, last_policies_figure

OFFLINE = tuple(name for name in METRICS if name != "return_mean")
"""Columns of rows and curves that need no environment."""

WHAT_IS_RANKED = (
    "Each training's last policy, whatever it learned from and from however many episodes: rank correlation, within world "
    "models, of its latent distance and of its agreement with the expert's actions on held-out recordings with its real "
    "return (IQM of its games). Latent distances are averaged over the horizon of a training: they are of those with the "
    "most frequent horizon. The figures show all models side by side, whose distances are each of its own space. Agreement "
    "of continuous actions is a squared error: less is better."
)
"""For readers of the report."""


def last_policies(study: Study, look: Looks, out: Path) -> list[str]:
    """The section of a study's report; empty where fewer than four policies of one model are known."""
    parts: list[str] = []
    lines = []
    for environment in study.environments:
        rows = [row for row in study.trained if row.environment == environment]
        games = list(grouped(rows, lambda row: frozen(row.played)).values())
        for nth, (of_game, said) in enumerate(
            zip(games, told_apart([of[0].played for of in games]), strict=True), start=1
        ):
            measured = {name: _measured(of_game, name) for name in OFFLINE}
            found = {name: c for name, of in measured.items() if not math.isnan((c := within_models(of, name)).low)}
            if not found:
                continue
            title = f"{environment} ({said})" if said else environment
            stem = re.sub(r"[^a-z0-9]+", "_", f"last_policies_{environment}".lower())
            path = out / f"{stem}{f'_{nth}' if len(games) > 1 else ''}.png"
            shown = {name: {row: study.named[row] for row in measured[name]} for name in found}
            last_policies_figure(shown, look, study.levels(environment), found, title, path)
            parts.append(f"![real return over offline metrics, {title}]({path.name})")
            lines += [(title, METRICS[name], str(c.n), str(c.groups), *cells(c)) for name, c in found.items()]
    head = ("environment", "offline metric", "policies", "models", "Spearman", "95 % interval")
    return ["## Last policies", *parts, WHAT_IS_RANKED, markdown(head, lines, text_columns=2)] if parts else []


def within_models(rows: Iterable[Row], name: str) -> Correlation:
    """Spearman's rank correlation of an offline metric with the real return's IQM, within world models."""
    models = grouped(rows, world_model_of).values()
    return spearman_within([([getattr(row, name) for row in of], [row.return_iqm for row in of]) for of in models])


def cells(c: Correlation) -> tuple[str, str]:
    """A correlation and its interval, for a table."""
    return number(c.rho, 2), interval(c.low, c.high, 2)


def _measured(rows: Sequence[Row], name: str) -> list[Row]:
    """Those that have a metric; of latent distances, which are averaged over a horizon, those of the most frequent one."""
    known = [row for row in rows if getattr(row, name) is not None]
    if name != "latent_distance" or not known:
        return known
    ((most, _),) = Counter(row.horizon for row in known).most_common(1)
    return [row for row in known if row.horizon == most]
