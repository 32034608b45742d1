"""Result rows as tables: on the terminal after an evaluation, in a run's report, in the README."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from dream_env import results
from dream_env.results import Row
from dream_env.statistics import iqm

HEAD = ("policy", "actions", "episodes", "mean", "IQM", "95 % interval", "normalized")


def cells(row: Row) -> tuple[str, ...]:
    """One line of the final table."""
    return (
        policy_name(row), actions_name(row), str(row.episodes), number(row.return_mean), number(row.return_iqm),
        interval(row.return_low, row.return_high), number(row.normalized, 2),
    )  # fmt: skip


def policy_name(row: Row) -> str:
    """What acted, as ``ditto + ppo from bc``; chosen among the policies kept on the way, with `` by latent_distance``."""
    name = f"{row.method} + {row.learner}" if row.learner else row.method
    name += f" from {row.warm_start}" if row.warm_start not in ("", "none") else ""
    return name + (f" by {row.select}" if row.select else "")


def actions_name(row: Row) -> str:
    """How it chose its actions."""
    if row.method == "expert":
        return "recorded"
    return "argmax" if row.deterministic else "sampled"


def number(value: float, digits: int = 1) -> str:
    """With a real minus sign. One decimal of a return is finer than any of these intervals."""
    return f"{value:.{digits}f}".replace("-", "−")


def interval(low: float, high: float, digits: int = 1) -> str:
    """``low … high``."""
    return f"{number(low, digits)} … {number(high, digits)}"


def rich_table(rows: Iterable[Row], title: str = "") -> Table:
    """The final table for a terminal."""
    # As narrow as it gets: a terminal of 80 columns shows it whole, the longest names on two lines.
    table = Table(title=title or None, box=box.SIMPLE, padding=0)
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=i > 0)
    for row in rows:
        table.add_row(*cells(row))
    return table


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]], *, text_columns: int = 2) -> str:
    """A Markdown table; the first columns to the left, numbers to the right."""
    rule = ["---" if i < text_columns else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def results_table(paths: Iterable[str | Path]) -> str:
    """Result files as one Markdown table: a line for each way to act, over all training seeds.

    *mean*: of the seeds' mean returns; *IQM*: over the episodes of all seeds together. The interval resamples training
    seeds and, in each, episodes (2000 times): with one seed it speaks of episodes only.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for path in paths:
        for row in results.read(Path(path)):
            same = (row.environment, row.method, row.learner, row.warm_start, row.options, row.preset, row.n_expert)
            key = (*(same if row.trained else (row.environment, row.method)), row.deterministic)
            rows = groups.setdefault(key, [])
            if not any(_same_games(row, other) for other in rows):
                rows.append(row)
    order = {"random": 0, "expert": 1}
    lines = [_group_line(rows) for rows in sorted(
        groups.values(), key=lambda rows: (rows[0].environment, order.get(rows[0].method, 2))
    )]  # fmt: skip
    head = ("environment", *HEAD[:2], "demos", "seeds", *HEAD[2:], "minutes")
    return markdown(head, lines, text_columns=3)


def _same_games(row: Row, other: Row) -> bool:
    # Every run plays the same random games; an agent evaluated twice, once with --select, is still one training seed.
    same_run = (row.experiment, row.seed) == (other.experiment, other.seed)
    return row.returns == other.returns and (same_run and bool(row.returns) if row.trained else True)


def _group_line(rows: Sequence[Row]) -> tuple[str, ...]:
    first = rows[0]
    runs = [np.asarray(row.returns or (row.return_iqm,), dtype=np.float64) for row in rows]
    low, high = _interval_over_seeds(runs)
    minutes = np.mean([row.wall_minutes for row in rows])
    return (
        first.environment, policy_name(first), actions_name(first), str(first.n_expert or "") if first.trained else "",
        str(len(rows)) if first.trained else "",
        str(sum(row.episodes for row in rows)), number(float(np.mean([row.return_mean for row in rows]))),
        number(float(iqm(np.concatenate(runs)))), interval(low, high),
        number(float(np.mean([row.normalized for row in rows])), 2), f"{minutes:.0f}" if minutes else "",
    )  # fmt: skip


def _interval_over_seeds(runs: Sequence[Any], *, n: int = 2000, seed: int = 0) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    statistics = []
    for _ in range(n):
        chosen = [runs[i] for i in rng.integers(len(runs), size=len(runs))]
        statistics.append(iqm(np.concatenate([rng.choice(run, len(run)) for run in chosen])))
    low, high = np.quantile(statistics, [0.025, 0.975])
    return float(low), float(high)
