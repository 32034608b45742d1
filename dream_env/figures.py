"""Curves of a run as PNG files: one message a panel, drawn from the CSV files that the stages leave."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dream_env.errors import DatasetError
from dream_env.selection import Points
from dream_env.statistics import Correlation, bootstrap_interval, iqm

Rows = Sequence[Mapping[str, float]]

# Okabe & Ito's colours: told apart by everybody, in print too.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
_COLOURS = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9")
_INCHES = (4.6, 3.2)
"""Of a panel."""


def fit_figure(rows: Rows, path: Path) -> Path:
    """Curves of a world model: reconstruction, KL, entropy, open-loop error on held-out episodes."""
    _not_empty(rows, path)
    figure, axes = _panels(2, 2)
    keys = sorted({name.split("/", 1)[1] for row in rows for name in row if name.startswith("unexplained/")})
    several = len(keys) > 1

    def label(text: str, key: str) -> str:
        return f"{text} ({key})" if several else text

    panel = axes[0]
    for i, key in enumerate(keys):
        _line(panel, rows, f"unexplained/{key}", label("all" if several else "whole picture", key), i * 2)
        _line(panel, rows, f"unexplained_moving/{key}", label("moving pixels", key), i * 2 + 1)
    panel.axhline(1.0, color=GREY, linewidth=0.8, linestyle=":")
    _finish(panel, "Reconstruction", "unexplained share of energy", bottom=0.0)

    panel = axes[1]
    _line(panel, rows, "kl_prior", "prior's half, β δ KL(sg q ‖ p)", 0)
    _line(panel, rows, "kl_posterior", "posterior's half, β (1 − δ) KL(q ‖ sg p)", 1)
    _finish(panel, "KL terms of the loss", "nats a step", bottom=0.0)

    panel = axes[2]
    _line(panel, rows, "prior_entropy", "prior", 0)
    _line(panel, rows, "posterior_entropy", "posterior", 1)
    _finish(panel, "Entropy of the latent", "nats")

    panel = axes[3]
    names = sorted({name for row in rows for name in row if name.startswith("open_loop_")}, key=_horizon_and_key)
    for i, name in enumerate(names):
        horizon, key = _horizon_and_key(name)
        _line(panel, rows, name, label("1 step" if horizon == 1 else f"{horizon} steps", key), i, marker="o")
    _finish(panel, "Open-loop error, held-out episodes", "unexplained share, moving pixels", bottom=0.0)
    for panel in axes:
        _x_axis(panel, "update")
    return _save(figure, path)


def imitate_figure(
    rows: Rows, path: Path, *, returns: Mapping[int, Sequence[float]], expert: float | None, random: float | None
) -> Path:
    """Curves of a learner: dream reward, distance to the expert, and the real return of policies kept on the way."""
    _not_empty(rows, path)
    figure, axes = _panels(3, 1, shared=True)
    reward = [row for row in rows if "dream_reward" in row]
    _line(axes[0], reward, "dream_reward", "", 0, x="steps")
    _finish(axes[0], "Reward in the dream", "mean reward a step")
    distance = [row for row in rows if "latent_distance" in row]
    _line(axes[1], distance, "latent_distance", "", 0, x="steps", marker="o")
    _finish(axes[1], "Distance to held-out expert", "1 − r, mean over the horizon")
    _returns(axes[2], returns, expert, random)
    for panel in axes:
        _x_axis(panel, "dream steps")
    return _save(figure, path)


def _returns(panel: Axes, returns: Mapping[int, Sequence[float]], expert: float | None, random: float | None) -> None:
    steps = sorted(returns)
    if steps:
        middle = [float(iqm(returns[step])) for step in steps]
        low, high = np.array([bootstrap_interval(returns[step]) for step in steps]).T
        panel.plot(steps, middle, color=BLUE, marker="o", markersize=4, linewidth=1.5, label="agent, sampled")
        panel.fill_between(steps, low, high, color=BLUE, alpha=0.15, linewidth=0)
    else:
        panel.text(0.5, 0.5, "not evaluated yet", ha="center", va="center", transform=panel.transAxes, color=GREY)
    for value, name, colour in ((expert, "expert", GREEN), (random, "random actions", GREY)):
        if value is not None:
            panel.axhline(value, color=colour, linewidth=1.2, linestyle="--", label=name)
    _finish(panel, "Return in the real environment", "return, IQM")


def reward_by_step_figure(rows: Rows, path: Path) -> Path:
    """Mean reward of each step of a dream: the expert's actions replayed, random ones, the learner."""
    _not_empty(rows, path)
    figure, axes = _panels(1, 1)
    looks = {"expert": ("expert's actions replayed", GREEN), "random": ("random actions", GREY)}
    others = [name for name in rows[0] if name not in ("step", *looks)]
    for i, name in enumerate(("expert", *others, "random")):
        text, colour = looks.get(name, (name, _COLOURS[(0, 1, 3)[i % 3 - 1]]))
        x, y = _xy(rows, "step", name)
        axes[0].plot(x, y, color=colour, linewidth=1.5, marker="o", markersize=3, label=text)
    _finish(axes[0], "Reward along a dream", "mean reward")
    axes[0].set_xlabel("step of the dream", fontsize=9)
    return _save(figure, path)


def correlation_figure(points: Mapping[str, Points], found: Mapping[str, Correlation], path: Path) -> Path:
    """Real return over each offline metric, a dot for each policy kept on the way, with the steps it had learned from."""
    _not_empty([{"n": float(c.n)} for c in found.values()], path)
    figure, axes = _panels(len(found), 1)
    for panel, (name, c) in zip(axes, found.items(), strict=True):
        for steps, metric, value in points[name]:
            panel.plot(metric, value, "o", color=BLUE, markersize=5)
            panel.annotate(
                _short(float(steps)), (metric, value), (4, 3), textcoords="offset points", fontsize=6, color=GREY
            )
        _finish(panel, f"Spearman {c.rho:.2f} ({c.low:.2f} … {c.high:.2f})".replace("-", "−"), "real return, IQM")
        panel.set_xlabel(name.replace("_", " "), fontsize=9)
    return _save(figure, path)


# ------------------------------------------------------------------------------------------------------------ drawing


def _panels(columns: int, rows: int, *, shared: bool = False) -> tuple[Figure, list[Axes]]:
    # Without pyplot: no global state, no window, nothing to close.
    figure = Figure(figsize=(_INCHES[0] * columns, _INCHES[1] * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=shared)
    return figure, list(axes.flat)


def _line(panel: Axes, rows: Rows, name: str, text: str, colour: int, *, x: str = "update", **look: Any) -> None:
    at, y = _xy(rows, x, name)
    if at:
        look = {"linewidth": 1.5, "markersize": 4, "label": text or None, **look}
        panel.plot(at, y, color=_COLOURS[colour % len(_COLOURS)], **look)


def _xy(rows: Rows, x: str, y: str) -> tuple[list[float], list[float]]:
    there = [(row[x], row[y]) for row in rows if x in row and y in row]
    return [a for a, _ in there], [b for _, b in there]


def _finish(panel: Axes, title: str, unit: str, *, bottom: float | None = None) -> None:
    panel.set_title(title, fontsize=10, loc="left", fontweight="bold")
    panel.set_ylabel(unit, fontsize=9)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.25, linewidth=0.6)
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    if bottom is not None and panel.lines:
        panel.set_ylim(bottom, panel.dataLim.ymax + 0.06 * (panel.dataLim.ymax - bottom))
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=8, frameon=False)


def _x_axis(panel: Axes, text: str) -> None:
    panel.set_xlabel(text, fontsize=9)
    panel.xaxis.set_major_formatter(lambda value, _: _short(value))


def _short(value: float) -> str:
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def _horizon_and_key(name: str) -> tuple[int, str]:
    horizon, key = name.removeprefix("open_loop_").split("/", 1)
    return int(horizon), key


def _not_empty(rows: Rows, path: Path) -> None:
    if not rows:
        raise DatasetError(f"there are no rows to draw {path.name} from; has the stage been run?")


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.png")
    figure.savefig(temporary)
    temporary.replace(path)
    return path
