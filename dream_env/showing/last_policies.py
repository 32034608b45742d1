"""Whether what can be measured without the environment ranks the policies that trainings ended with: figure and table of a study.

Curves through training (DITTO, Fig. 2) ask the same of the policies on the way, of which the untrained ones are easily told;
here each training gives one policy, played in as many games as its row has.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path

from dream_env.measuring.families import frozen, usual_horizon
from dream_env.measuring.results import Row
from dream_env.measuring.statistics import Correlation, spearman_within
from dream_env.measuring.study import Study, Training, training_of
from dream_env.measuring.tables import interval, markdown, number
from dream_env.showing.study_figures import METRICS, Looks, last_policies_figure

OFFLINE = tuple(name for name in METRICS if name != "return_mean")
"""Columns of rows and curves that need no environment."""

WHAT_IS_RANKED = (
    "Each training's last policy, whatever it learned from and from however many episodes: rank correlation, within world "
    "models, of its latent distance and of its agreement with the expert's actions on held-out recordings with its real "
    "return (IQM of its games). Latent distances are averaged over the horizon of a training, so that trainings with another "
    "horizon than most are left out. Agreement of continuous actions is a squared error: less is better."
)
"""For readers of the report."""


def last_policies(study: Study, models: Mapping[Training, Hashable], look: Looks, out: Path) -> list[str]:
    """The section of a study's report; empty where fewer than four policies of one model are known."""
    parts: list[str] = []
    lines = []
    for environment in study.environments:
        rows = [row for row in study.trained if row.environment == environment and _measured(row)]
        games = list(dict.fromkeys(frozen(row.played) for row in rows))
        for nth, game in enumerate(games, start=1):
            these = [row for row in rows if frozen(row.played) == game]
            these = [row for row in these if row.horizon == usual_horizon(these)]
            found = correlations_of_rows(these, models)
            if not found:
                continue
            more = f"_{nth}" if len(games) > 1 else ""
            path = out / f"last_policies_{environment.split('/')[-1].lower()}{more}.png"
            named = {row: study.named[row] for row in these}
            last_policies_figure(named, look, study.levels(environment), found, environment, path)
            parts.append(f"![real return over offline metrics, {environment}]({path.name})")
            for name, c in found.items():
                measured = (number(c.rho, 2), interval(c.low, c.high, 2))
                lines.append((environment, METRICS[name], str(c.n), str(c.groups), *measured))
    head = ("environment", "offline metric", "policies", "models", "Spearman", "95 % interval")
    return ["## Last policies", *parts, WHAT_IS_RANKED, markdown(head, lines, text_columns=2)] if parts else []


def correlations_of_rows(rows: Sequence[Row], models: Mapping[Training, Hashable]) -> dict[str, Correlation]:
    """Spearman's rank correlation of each offline metric with the real return's IQM, within world models."""
    found = {}
    for name in OFFLINE:
        groups: dict[Hashable, list[Row]] = {}
        for row in rows:
            if getattr(row, name) is not None:
                groups.setdefault(models[training_of(row)], []).append(row)
        pairs = [([getattr(row, name) for row in of], [row.return_iqm for row in of]) for of in groups.values()]
        c = spearman_within(pairs)
        if not math.isnan(c.low):
            found[name] = c
    return found


def _measured(row: Row) -> bool:
    return any(getattr(row, name) is not None for name in OFFLINE)
