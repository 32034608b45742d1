"""Curves of a run as PNG files: one message a panel, drawn from the CSV files that the stages leave."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from dream_env.errors import DatasetError
from dream_env.measuring.selection import Points
from dream_env.measuring.statistics import Correlation, bootstrap_interval, iqm
from dream_env.showing.drawing import BLUE, COLOURS, GREEN, GREY, finish, panels, save, short, x_axis

Rows = Sequence[Mapping[str, float]]


def fit_figure(rows: Rows, path: Path) -> Path:
    """Curves of a world model: reconstruction, KL, entropy, open-loop error on held-out episodes."""
    _not_empty(rows, path)
    figure, axes = panels(2, 2)
    keys = sorted({name.split("/", 1)[1] for row in rows for name in row if name.startswith("unexplained/")})
    several = len(keys) > 1

    def label(text: str, key: str) -> str:
        return f"{text} ({key})" if several else text

    panel = axes[0]
    for i, key in enumerate(keys):
        _line(panel, rows, f"unexplained/{key}", label("all" if several else "whole picture", key), i * 2)
        _line(panel, rows, f"unexplained_moving/{key}", label("moving pixels", key), i * 2 + 1)
    panel.axhline(1.0, color=GREY, linewidth=0.8, linestyle=":")
    finish(panel, "Reconstruction", "unexplained share of energy", bottom=0.0)

    panel = axes[1]
    _line(panel, rows, "kl_prior", "prior's half, β δ KL(sg q ‖ p)", 0)
    _line(panel, rows, "kl_posterior", "posterior's half, β (1 − δ) KL(q ‖ sg p)", 1)
    finish(panel, "KL terms of the loss", "nats a step", bottom=0.0)

    panel = axes[2]
    _line(panel, rows, "prior_entropy", "prior", 0)
    _line(panel, rows, "posterior_entropy", "posterior", 1)
    finish(panel, "Entropy of the latent", "nats")

    panel = axes[3]
    names = sorted({name for row in rows for name in row if name.startswith("open_loop_")}, key=_horizon_and_key)
    for i, name in enumerate(names):
        horizon, key = _horizon_and_key(name)
        _line(panel, rows, name, label("1 step" if horizon == 1 else f"{horizon} steps", key), i, marker="o")
    finish(panel, "Open-loop error, held-out episodes", "unexplained share, moving pixels", bottom=0.0)
    for panel in axes:
        x_axis(panel, "update")
    return save(figure, path)


def imitate_figure(
    rows: Rows, path: Path, *, returns: Mapping[int, Sequence[float]], expert: float | None, random: float | None
) -> Path:
    """Curves of a learner: dream reward, distance to the expert, and the real return of policies kept on the way."""
    _not_empty(rows, path)
    figure, axes = panels(3, 1, shared=True)
    reward = [row for row in rows if "dream_reward" in row]
    _line(axes[0], reward, "dream_reward", "", 0, x="steps")
    finish(axes[0], "Reward in the dream", "mean reward a step")
    distance = [row for row in rows if "latent_distance" in row]
    _line(axes[1], distance, "latent_distance", "", 0, x="steps", marker="o")
    finish(axes[1], "Distance to held-out expert", "1 − r, mean over the horizon")
    _returns(axes[2], returns, expert, random)
    for panel in axes:
        x_axis(panel, "dream steps")
    return save(figure, path)


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
    finish(panel, "Return in the real environment", "return, IQM")


def reward_by_step_figure(rows: Rows, path: Path) -> Path:
    """Mean reward of each step of a dream: the expert's actions replayed, random ones, the learner."""
    _not_empty(rows, path)
    figure, axes = panels(1, 1)
    looks = {"expert": ("expert's actions replayed", GREEN), "random": ("random actions", GREY)}
    others = [name for name in rows[0] if name not in ("step", *looks)]
    for i, name in enumerate(("expert", *others, "random")):
        text, colour = looks.get(name, (name, COLOURS[(0, 1, 3)[i % 3 - 1]]))
        x, y = _xy(rows, "step", name)
        axes[0].plot(x, y, color=colour, linewidth=1.5, marker="o", markersize=3, label=text)
    finish(axes[0], "Reward along a dream", "mean reward")
    axes[0].set_xlabel("step of the dream", fontsize=9)
    return save(figure, path)


def correlation_figure(points: Mapping[str, Points], found: Mapping[str, Correlation], path: Path) -> Path:
    """Real return over each offline metric, a dot for each policy kept on the way, with the steps it had learned from."""
    _not_empty([{"n": float(c.n)} for c in found.values()], path)
    figure, axes = panels(len(found), 1)
    for panel, (name, c) in zip(axes, found.items(), strict=True):
        for steps, metric, value in points[name]:
            panel.plot(metric, value, "o", color=BLUE, markersize=5)
            panel.annotate(
                short(float(steps)), (metric, value), (4, 3), textcoords="offset points", fontsize=6, color=GREY
            )
        finish(panel, f"Spearman {c.rho:.2f} ({c.low:.2f} … {c.high:.2f})".replace("-", "−"), "real return, IQM")
        panel.set_xlabel(name.replace("_", " "), fontsize=9)
    return save(figure, path)


# ------------------------------------------------------------------------------------------------------------ drawing


def _line(panel: Axes, rows: Rows, name: str, text: str, colour: int, *, x: str = "update", **look: Any) -> None:
    at, y = _xy(rows, x, name)
    if at:
        look = {"linewidth": 1.5, "markersize": 4, "label": text or None, **look}
        panel.plot(at, y, color=COLOURS[colour % len(COLOURS)], **look)


def _xy(rows: Rows, x: str, y: str) -> tuple[list[float], list[float]]:
    there = [(row[x], row[y]) for row in rows if x in row and y in row]
    return [a for a, _ in there], [b for _, b in there]


def _horizon_and_key(name: str) -> tuple[int, str]:
    horizon, key = name.removeprefix("open_loop_").split("/", 1)
    return int(horizon), key


def _not_empty(rows: Rows, path: Path) -> None:
    if not rows:
        raise DatasetError(f"there are no rows to draw {path.name} from; has the stage been run?")
