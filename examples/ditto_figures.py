"""DITTO's figures and table from the rows of ``examples/ditto_paper.py``: ``python examples/ditto_figures.py``.

``fig2_GAME.png``: real return, latent distance and action agreement through training, a line a method (paper, Fig. 2).
``fig3.png``: real return by number of expert episodes (Fig. 3). ``fig4_horizon.png``: by horizon (Fig. 4, right).
``metrics.md``: the ablation of what the reward compares. ``results.md``: everything, with intervals.
Whatever has no rows is left out. Lines are means over training seeds, with ± one standard error, as in the paper.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import matplotlib
import numpy as np
import tyro

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from dream_env import results
from dream_env.results import Row
from dream_env.tables import markdown, number, results_table

PREFIX = "ditto-paper/"
Points = Mapping[str, Mapping[float, Sequence[float]]]
"""Line → x → a value for each training seed."""


@dataclass(frozen=True)
class Figures:
    """Draw what there are rows for."""

    rows: Path = Path("examples/results/ditto.csv")
    """Result file of the grid."""
    out: Path = Path("examples/results/ditto")
    """Folder for figures and tables."""
    deterministic: bool = False
    """Show argmax instead of sampled actions."""


def main(config: Figures) -> None:
    """Read, draw, write."""
    config.out.mkdir(parents=True, exist_ok=True)
    rows = [row for row in results.read(config.rows) if row.experiment.startswith(PREFIX)]
    trained = [row for row in rows if row.trained and row.deterministic == config.deterministic]
    levels = {row.method: row.return_mean for row in rows if not row.trained}
    main_rows = [row for row in trained if not _method(row).startswith(("horizon-", *_METRICS))]
    by_demos = _group(main_rows, lambda row: float(row.n_expert))
    if by_demos:
        _draw(by_demos, config.out / "fig3.png", "expert episodes", "real return", levels=levels)
    by_horizon = {float(horizon): values for horizon, values in _values(trained, "horizon-").items()}
    if by_horizon:
        _draw({"ditto": by_horizon}, config.out / "fig4_horizon.png", "horizon, steps", "real return", levels=levels)
    ablation = [row for row in trained if _method(row).startswith(_METRICS)]
    if ablation:
        (config.out / "metrics.md").write_text(_ablation(ablation) + "\n")
    _through_training(config)
    (config.out / "results.md").write_text(results_table([config.rows]) + "\n")


_METRICS = ("dot-", "l2-", "cosine-", "nearest-")


def _method(row: Row) -> str:
    return row.experiment.removeprefix(PREFIX)


def _group(rows: Sequence[Row], x: Callable[[Row], float]) -> dict[str, dict[float, list[float]]]:
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[_method(row)][x(row)].append(row.return_mean)
    return found


def _values(rows: Sequence[Row], prefix: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if _method(row).startswith(prefix):
            found[_method(row).removeprefix(prefix)].append(row.return_mean)
    return found


def _ablation(rows: Sequence[Row]) -> str:
    cells: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        metric, space = _method(row).split("-")
        cells[metric][space].append(row.return_mean)
    lines = [
        (metric, *(number(float(np.mean(of[space]))) if of[space] else "" for space in ("h", "z", "both")))
        for metric, of in cells.items()
    ]
    return markdown(("metric", "h", "z", "both"), lines, text_columns=1)


def _through_training(config: Figures) -> None:
    path = config.rows.with_name(f"{config.rows.stem}_curves.csv")
    if not path.is_file():
        return
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if not row["method"].startswith(("horizon-", *_METRICS))]
    for game in sorted({row["game"] for row in rows}):
        methods = sorted({row["method"] for row in rows if row["game"] == game})
        colours = {method: f"C{i}" for i, method in enumerate(methods)}  # the same in all panels; bc is in two of them
        figure, panels = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
        for panel, (name, label) in zip(
            panels,
            (("return_mean", "real return"), ("latent_distance", "latent distance"), ("action_agreement", "agreement")),
            strict=True,
        ):
            lines: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
            for row in rows:
                if row["game"] == game and row[name]:
                    lines[row["method"]][float(row["steps"])].append(float(row[name]))
            _lines(panel, lines, colours)
            panel.set_xlabel("steps")
            panel.set_ylabel(label)
        panels[0].legend(fontsize="x-small")
        figure.savefig(config.out / f"fig2_{game}.png", dpi=110)
        plt.close(figure)


def _draw(points: Points, path: Path, x: str, y: str, *, levels: Mapping[str, float]) -> None:
    figure, panel = plt.subplots(figsize=(6, 4), layout="constrained")
    _lines(panel, points)
    for name, level in levels.items():
        panel.axhline(level, color="grey", linewidth=0.8, linestyle="--")
        panel.annotate(name, (0.01, level), xycoords=("axes fraction", "data"), fontsize="x-small", va="bottom")
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    panel.legend(fontsize="x-small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _lines(panel: plt.Axes, points: Points, colours: Mapping[str, str] = MappingProxyType({})) -> None:
    for name, line in sorted(points.items()):
        xs = sorted(line)
        mean = np.array([np.mean(line[x]) for x in xs])
        error = np.array([np.std(line[x]) / np.sqrt(len(line[x])) for x in xs])
        (drawn,) = panel.plot(xs, mean, marker="o", markersize=3, label=name, color=colours.get(name))
        panel.fill_between(xs, mean - error, mean + error, alpha=0.2, color=drawn.get_color())


if __name__ == "__main__":
    main(tyro.cli(Figures))
