"""Figures of a study of many runs: return by expert episodes, by horizon and by reward, and curves through training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dream_env.measuring.curves import Point
from dream_env.measuring.results import Row
from dream_env.measuring.statistics import Correlation
from dream_env.measuring.study import Lines, score
from dream_env.showing.drawing import COLOURS, GREEN, GREY, finish, panels, save, x_axis

Levels = Mapping[str, float]
"""``random`` and each expert → return."""
Looks = Mapping[str, Mapping[str, Any]]

METRICS = {"latent_distance": "latent distance", "action_agreement": "action agreement", "return_mean": "real return"}
"""Column of the curves → what a panel of it is called."""
_MARKERS = "os^Dv*Xp<>"
_LEGEND_LINES = 15
"""So many find room beside a row of panels."""


def looks(names: Iterable[str]) -> Looks:
    """A colour, a marker and a dash for each line, the same in every figure of a study."""
    return {
        name: {
            "color": COLOURS[i % len(COLOURS)], "marker": _MARKERS[i % len(_MARKERS)],
            "linestyle": ("-", "--", ":")[i // len(COLOURS) % 3],
        }
        for i, name in enumerate(dict.fromkeys(names))
    }  # fmt: skip


def score_figure(by_title: Mapping[str, Lines], look: Looks, levels: Mapping[str, Levels], x: str, path: Path) -> Path:
    """IQM of the real return over x, a panel a title; bars are 95 % intervals over training seeds and episodes."""
    figure, axes = panels(min(3, len(by_title)), -(-len(by_title) // 3))
    for panel, (title, lines) in zip(axes, by_title.items(), strict=False):
        ticks = sorted({at for line in lines.values() for at in line})
        gap = min(np.diff(np.log(ticks)), default=-2.0 * np.log(0.75))
        for i, (name, line) in enumerate(lines.items()):
            at = sorted(line)
            scores = [score(line[value]) for value in at]
            # A little to the side of one another: bars that lie on one another cannot be read.
            side = np.exp(min(0.04, 0.35 * gap / len(lines)) * (i - (len(lines) - 1) / 2))
            middle = np.array([s.iqm for s in scores])
            # An interval of percentiles need not hold the number it is of; a bar that does not reach it ends at it.
            bars = np.array([[max(0.0, s.iqm - s.low) for s in scores], [max(0.0, s.high - s.iqm) for s in scores]])
            style = {"linewidth": 1.2, "markersize": 4, "capsize": 2, "elinewidth": 0.8, **look[name]}
            panel.errorbar(np.array(at) * side, middle, bars, label=name, **style)
        _levels(panel.axhline, levels.get(title, {}), "IQM")
        panel.set_xscale("log")
        panel.set_xlim(0.75 * ticks[0], ticks[-1] / 0.75)
        panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set_xlabel(x, fontsize=9)
        finish(panel, title, "real return, IQM")
    for panel in axes[len(by_title) :]:
        panel.set_visible(False)
    return save(_with_legend(figure, axes), path)


def ablation_figure(groups: Mapping[str, Sequence[Row]], levels: Levels, title: str, path: Path) -> Path:
    """IQM of the real return of each variant, one below the other; bars are 95 % intervals over training seeds and episodes."""
    figure, (panel,) = panels(1, 1)
    figure.set_figheight(1.6 + 0.25 * len(groups))
    for at, rows in enumerate(groups.values()):
        found = score(rows)
        bar = [[max(0.0, found.iqm - found.low)], [max(0.0, found.high - found.iqm)]]
        panel.errorbar(found.iqm, at, xerr=bar, fmt="o", color=COLOURS[0], markersize=4, capsize=2, elinewidth=0.8)
    _levels(panel.axvline, levels, "IQM")
    panel.set_yticks(range(len(groups)), list(groups))
    panel.invert_yaxis()
    panel.set_xlabel("real return, IQM", fontsize=9)
    finish(panel, "", "")
    # From the figure's edge: beside long names of variants no title of any length has room over the panel.
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return save(_with_legend(figure, [panel], below=True), path)


def training_figure(
    points: Sequence[Point], look: Looks, levels: Levels, found: Mapping[str, Correlation], title: str, path: Path
) -> Path:
    """Latent distance, action agreement and real return through training; a line a method, its mean over its n training seeds.

    Bands are ± one standard error, where there are two seeds. Above the metrics, their rank correlation with the real return
    within world models.
    """
    figure, axes = panels(len(METRICS), 1)
    seeds = {
        name: {point.seed for point in points if point.method == name} for name in (point.method for point in points)
    }
    for panel, column in zip(axes, METRICS, strict=True):
        for name in dict.fromkeys(point.method for point in points):
            at, mean, error = _mean_curve([point for point in points if point.method == name], column)
            if len(at):
                style = {"linewidth": 1.2, "markersize": 3, **look[name]}
                panel.plot(at, mean, label=f"{name} (n = {len(seeds[name])})", **style)
                panel.fill_between(at, mean - error, mean + error, color=look[name]["color"], alpha=0.15, linewidth=0)
        c = found.get(column)
        head = _spearman(c) if c else title
        if column == "return_mean":
            _levels(panel.axhline, levels, "mean")
        x_axis(panel, "steps")
        finish(panel, head, _unit(column))
    return save(_with_legend(figure, axes), path)


def last_policies_figure(
    shown: Mapping[str, Mapping[Row, str]],
    look: Looks,
    levels: Levels,
    found: Mapping[str, Correlation],
    title: str,
    path: Path,
) -> Path:
    """Real return over each offline metric, a point a training; above, their rank correlation within world models.

    Args:
        shown: for each metric the rows that have it, with their names.
        look: of the names.
        levels: returns to compare with.
        found: the metrics' correlations.
        title: of all panels.
        path: of the figure.
    """
    figure, axes = panels(len(shown), 1)
    for panel, (column, rows) in zip(axes, shown.items(), strict=True):
        for name in dict.fromkeys(rows.values()):
            of = [row for row, called in rows.items() if called == name]
            style = {"markersize": 4, **look[name], "linestyle": "none"}
            panel.plot([getattr(row, column) for row in of], [row.return_iqm for row in of], label=name, **style)
        _levels(panel.axhline, levels, "IQM")
        panel.set_xlabel(_unit(column).replace("\n", " "), fontsize=9)
        finish(panel, f"{title}\n{_spearman(found[column])}", "real return, IQM")
    return save(_with_legend(figure, axes), path)


def _unit(column: str) -> str:
    return f"{METRICS[column]}\n(continuous: squared error)" if column == "action_agreement" else METRICS[column]


def _spearman(c: Correlation) -> str:
    return f"Spearman with real return\n{c.rho:.2f} ({c.low:.2f} … {c.high:.2f})".replace("-", "−")


def _mean_curve(points: Sequence[Point], column: str) -> tuple[Any, Any, Any]:
    values: dict[int, list[float]] = {}
    for point in points:
        value = getattr(point, column)
        if value is not None:
            values.setdefault(point.steps, []).append(value)
    at = sorted(values)
    mean = np.array([np.mean(values[step]) for step in at])
    error = np.array([np.std(of, ddof=1) / np.sqrt(len(of)) if len(of := values[step]) > 1 else 0.0 for step in at])
    return at, mean, error


def _with_legend(figure: Figure, axes: Sequence[Axes], *, below: bool = False) -> Figure:
    """One legend for all panels, beside or below them: there are too many lines for one inside."""
    named: dict[str, Any] = {}
    for panel in axes:
        handles, names = panel.get_legend_handles_labels()
        named |= dict(zip(names, handles, strict=True))
        if (legend := panel.get_legend()) is not None:
            legend.remove()
    grid = axes[0].get_gridspec()
    columns = -(-len(named) // (_LEGEND_LINES * (grid.nrows if grid else 1)))
    figure.set_figwidth(figure.get_figwidth() + 1.5 * (columns - 1))
    where: Any = {"loc": "outside right center", "ncols": columns}
    if below:
        where = {"loc": "outside lower center", "ncols": max(1, len(named))}
    figure.legend(list(named.values()), list(named.keys()), fontsize=8, frameon=False, **where)
    return figure


def _levels(line: Callable[..., object], levels: Levels, statistic: str) -> None:
    """Level lines (``axhline``, ``axvline`` of a panel), by the statistic that the points beside them are.

    Several experts, and random games of several protocols, have a dash each.
    """
    dashes = {colour: iter(("--", "-.", ":") * len(levels)) for colour in (GREY, GREEN)}
    for name, value in levels.items():
        colour = GREY if name.startswith("random") else GREEN
        line(value, color=colour, linewidth=1.0, linestyle=next(dashes[colour]), label=f"{name}, {statistic}")
