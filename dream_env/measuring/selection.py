"""Policies kept on the way: which one to take by what the dream alone says of it, and how good a guide that is.

DITTO's released code chooses its checkpoint by the return in the real environment (``ac_trainer.py``), which is more than a
method without the environment can know. The paper reports (Fig. 2, BeamRider) that the latent distance to held-out
expert windows predicts that return, and that agreement with the expert's actions does not, or the wrong way round. Here
a policy is chosen by such an offline metric or not at all, and stands beside the last one; what the metric was worth, its
rank correlation with the real returns says afterwards.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from dream_env.checkpoint import write_file
from dream_env.errors import ConfigError, nearest
from dream_env.measuring.statistics import Correlation, iqm, spearman
from dream_env.run_folder import read_metrics

Select = Literal["last", "latent_distance", "action_agreement"]
SELECT: tuple[Select, ...] = get_args(Select)
"""Ways to choose a policy of those kept on the way; the real return is none of them."""

OFFLINE = ("latent_distance", "action_agreement", "dream_reward")
"""Columns of an agent's ``metrics.csv`` that are held against the real returns."""

DIGITS = 1e-5
"""Runs of before had their steps rounded to six digits in ``metrics.csv``: numbers that differ by less are the same."""

Rows = Sequence[Mapping[str, float]]
Points = list[tuple[int, float, float]]
"""Of each policy kept on the way: the dream steps it had learned from, an offline metric, the IQM of its real returns."""


def snapshots(agent: Path) -> dict[int, Path]:
    """Dream steps → weights of the policies kept in an agent's folder."""
    return {int(path.stem): path for path in sorted((agent / "snapshots").glob("*.safetensors"))}


def select_snapshot(agent: Path, by: str, *, less: bool) -> tuple[int, Path]:
    """Dream steps and weights of the policy that an offline metric prefers; of equal ones, the one trained longest.

    Args:
        agent: an agent's folder, with ``snapshots/`` and ``metrics.csv``; nothing else is looked at.
        by: the metric's column.
        less: whether less is better.

    Raises:
        ConfigError: if it is no offline metric, or there is nothing to choose from.
    """
    if by not in SELECT[1:]:
        raise ConfigError(
            f"a policy cannot be selected by {by!r}.{nearest(by, SELECT)} One of: {', '.join(SELECT)}. The real return is "
            f"none of them: who chooses by it has not imitated without the environment"
        )
    kept = snapshots(agent)
    if not kept:
        raise ConfigError(
            f"{agent} holds no policies kept on the way (snapshots/*.safetensors), so there is nothing to select by {by}; "
            f"imitate with --snapshots 10, or evaluate with --select last"
        )
    path = agent / "metrics.csv"
    rows = rows_of(read_metrics(path) if path.is_file() else [], kept)
    values = {steps: row[by] for steps, row in rows.items() if math.isfinite(row.get(by, math.nan))}
    if not values:
        raise ConfigError(
            f"{path} has no {by} for any of the {len(kept)} policies in {agent / 'snapshots'}; select by another metric, or "
            f"evaluate with --select last"
        )
    best = min(values, key=lambda steps: (values[steps] if less else -values[steps], -steps))
    return best, kept[best]


def rows_of(rows: Rows, steps: Iterable[int]) -> dict[int, Mapping[str, float]]:
    """The row of ``metrics.csv`` that was written at each of the given dream steps; those without one are left out."""
    found = {}
    for mark in steps:
        row = min(rows, key=lambda row: abs(row["steps"] - mark), default=None)
        if row is not None and abs(row["steps"] - mark) <= DIGITS * mark:
            found[mark] = row
    return found


def metrics_and_returns(rows: Rows, returns: Mapping[int, Sequence[float]]) -> dict[str, Points]:
    """Each offline metric beside the real return of the same policies.

    Args:
        rows: of ``metrics.csv``.
        returns: dream steps → real returns of the policy of that time.
    """
    there = sorted(rows_of(rows, returns).items())
    points = {
        name: [
            (steps, row[name], float(iqm(returns[steps])))
            for steps, row in there
            if math.isfinite(row.get(name, math.nan))
        ]
        for name in OFFLINE
    }
    return {name: of_metric for name, of_metric in points.items() if of_metric}


def correlations(points: Mapping[str, Points]) -> dict[str, Correlation]:
    """Spearman's correlation of each metric with the real return, over the policies of one training.

    These learn from one another and are no independent sample, so the interval is too narrow if anything; and few games
    for each make the returns noisy, which draws the correlation to 0.
    """
    return {name: spearman([x for _, x, _ in of], [y for _, _, y in of]) for name, of in points.items()}


def write_correlations(found: Mapping[str, Correlation], path: Path) -> Path:
    """A line a metric: ``metric,policies,spearman,low,high``; NaN where it is not defined."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("metric", "policies", "spearman", "low", "high"))
    for name, c in found.items():
        writer.writerow((name, c.n, *(f"{value:.6g}" for value in (c.rho, c.low, c.high))))
    write_file(path, text.getvalue())
    return path
