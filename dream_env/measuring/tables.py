"""Result rows as tables: on the terminal after an evaluation, in a run's report, in the README."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from dream_env.measuring import results
from dream_env.measuring.families import frozen, told_apart
from dream_env.measuring.results import Row
from dream_env.measuring.statistics import interval_over_runs, iqm

HEAD = ("policy", "actions", "episodes", "mean", "IQM", "95 % interval", "normalized")


def cells(row: Row, *, successes: tuple[str, ...] = ()) -> tuple[str, ...]:
    """One line of the final table; ``successes`` as ``success_columns`` gave them."""
    return (
        policy_name(row), actions_name(row), str(row.episodes), number(row.return_mean), number(row.return_iqm),
        interval(row.return_low, row.return_high), number(row.normalized, 2),
        *(optional(getattr(row, name)) for name in successes),
    )  # fmt: skip


def success_columns(rows: Iterable[Row]) -> tuple[str, ...]:
    """``success`` and ``tasks``, as far as any of the rows has them: most environments know neither."""
    rows = list(rows)
    return tuple(name for name in ("success", "tasks") if any(getattr(row, name) is not None for row in rows))


def policy_name(row: Row) -> str:
    """What acted, as ``ditto + ppo from bc``; chosen among the policies kept on the way, with `` by latent_distance``; the
    policies after the last updates, with ``, last 10``; served by ``--fire``, with ``, FIRE pressed for it``."""
    chosen = (f" by {row.select}" if row.select else "") + (f", last {row.tail}" if row.tail else "")
    return training_name(row) + chosen + (", FIRE pressed for it" if row.fire and row.method != "expert" else "")


def training_name(row: Row) -> str:
    """How it was trained, whichever of its policies played: ``ditto + ppo from bc``."""
    name = f"{row.method} + {row.learner}" if row.learner else row.method
    return name + (f" from {row.warm_start}" if row.warm_start not in ("", "none") else "")


def actions_name(row: Row) -> str:
    """How it chose its actions."""
    if row.method == "expert":
        return "recorded"
    return "argmax" if row.deterministic else "sampled"


def number(value: float, digits: int = 1) -> str:
    """With a real minus sign. One decimal of a return is finer than any of these intervals."""
    return f"{value:.{digits}f}".replace("-", "−")


def optional(value: float | None) -> str:
    """Two decimals; nothing where nothing is known."""
    return "" if value is None else number(value, 2)


def interval(low: float, high: float, digits: int = 1) -> str:
    """``low … high``."""
    return f"{number(low, digits)} … {number(high, digits)}"


def rich_table(rows: Iterable[Row], title: str = "") -> Table:
    """The final table for a terminal."""
    # As narrow as it gets: a terminal of 80 columns shows it whole, the longest names on two lines.
    table = Table(title=title or None, box=box.SIMPLE, padding=0)
    rows = list(rows)
    successes = success_columns(rows)
    for i, name in enumerate((*HEAD, *successes)):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=i > 0)
    for row in rows:
        table.add_row(*cells(row, successes=successes))
    return table


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]], *, text_columns: int = 2) -> str:
    """A Markdown table; the first columns to the left, numbers to the right."""
    rule = ["---" if i < text_columns else "---:" for i in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def results_table(paths: Iterable[str | Path]) -> str:
    """Result files as one Markdown table: a line for each way to act, and for each protocol, over all training seeds.

    *mean*: of the seeds' mean returns; *IQM*: over the episodes of all seeds together. The interval resamples training
    seeds and, in each, episodes (2000 times): with one seed it speaks of episodes only.
    """
    return rows_table([row for path in paths for row in results.read(Path(path))])


def rows_table(rows: Iterable[Row]) -> str:
    """The same of rows that are at hand.

    Where an environment has recordings of several data sets a column says which; where games of it were played under several
    protocols, what differs.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    datasets: dict[str, set[str]] = {}
    protocols: dict[str, list[Row]] = {}
    for row in rows:
        key: tuple[Any, ...] = (row.environment, row.method, row.deterministic)
        if row.method != "expert":  # who played before
            key += (frozen(row.played),)
            protocols.setdefault(row.environment, []).append(row)
        if row.method != "random":  # who plays the same whatever was recorded
            key += (row.dataset,)
            datasets.setdefault(row.environment, set()).add(row.dataset)
        if row.trained:
            options = {name: x for name, x in json.loads(row.options or "{}").items() if name != "fit.seed"}
            key += (row.learner, row.warm_start, json.dumps(options), row.preset, row.n_expert, row.horizon)
        same = groups.setdefault(key, [])
        again = [i for i, other in enumerate(same) if same_games(row, other)]
        if again and (row.trained or len(row.returns) > len(same[again[0]].returns)):
            same[again[0]] = row  # of two evaluations the later one, as in the figures; of random play all its games
        elif not again:
            same.append(row)
    order = {"random": 0, "expert": 1}
    successes = success_columns(row for rows in groups.values() for row in rows)
    games = {
        row: said
        for of in protocols.values()
        for row, said in zip(of, told_apart([row.played for row in of], but=("fire",)), strict=True)
    }
    several = {"dataset": any(len(of) > 1 for of in datasets.values()), "game": any(games.values())}
    lines = []
    for same in sorted(groups.values(), key=lambda rows: (rows[0].environment, order.get(rows[0].method, 2))):
        first = same[0]
        facts = {"dataset": first.dataset if first.method != "random" else "", "game": games.get(first, "")}
        lines.append(_group_line(same, [fact for name, fact in facts.items() if several[name]], successes))
    shown = [name for name in several if several[name]]
    head = ("environment", *shown, *HEAD[:2], "demos", "seeds", *HEAD[2:], *successes, "minutes")
    return markdown(head, lines, text_columns=3 + len(shown))


def same_games(row: Row, other: Row) -> bool:
    """Whether two rows of one group are the same episodes written down twice, or the same training evaluated twice."""
    # Every run plays the same random games, perhaps more of them; an agent evaluated twice is still one training seed.
    if not row.trained:
        few, many = sorted((row.returns, other.returns), key=len)
        return few == many or (bool(few) and row.eval_seed == other.eval_seed and few == many[: len(few)])
    named = row.experiment == other.experiment or (bool(row.returns) and row.returns == other.returns)
    return named and row.seeds == other.seeds


def _group_line(rows: Sequence[Row], facts: Sequence[str], successes: tuple[str, ...]) -> tuple[str, ...]:
    first = rows[0]
    runs = [np.asarray(row.returns or (row.return_iqm,), dtype=np.float64) for row in rows]
    low, high = interval_over_runs(runs)
    minutes = np.mean([row.wall_minutes for row in rows])
    return (
        first.environment, *facts, policy_name(first), actions_name(first),
        str(first.n_expert or "") if first.trained else "", str(len(rows)) if first.trained else "",
        str(sum(row.episodes for row in rows)), number(float(np.mean([row.return_mean for row in rows]))),
        number(float(iqm(np.concatenate(runs)))), interval(low, high),
        number(float(np.mean([row.normalized for row in rows])), 2),
        *(optional(_mean_over(rows, name)) for name in successes), f"{minutes:.0f}" if minutes else "",
    )  # fmt: skip


def _mean_over(rows: Sequence[Row], name: str) -> float | None:
    values = [getattr(row, name) for row in rows if getattr(row, name) is not None]
    return float(np.mean(values)) if values else None
