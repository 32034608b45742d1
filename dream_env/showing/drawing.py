"""What all figures share: colours, panels, axes, and a file that is whole or not there."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe & Ito's colours: told apart by everybody, in print too.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
COLOURS = (
    BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9",
    # Of Tol's and Tableau's, those farthest in CIELAB from all before them: no two are closer than two of the first six are.
    "#332288", "#999933", "#882255", "#000000", "#8B4513", "#2CA02C", "#EE6677", "#0000FF", "#9467BD", "#C5B0D5", "#D62728",
)  # fmt: skip
_INCHES = (4.6, 3.2)
"""Of a panel."""


def panels(columns: int, rows: int, *, shared: bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels."""
    # Without pyplot: no global state, no window, nothing to close.
    figure = Figure(figsize=(_INCHES[0] * columns, _INCHES[1] * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=shared)
    return figure, list(axes.flat)


def finish(panel: Axes, title: str, unit: str, *, bottom: float | None = None) -> None:
    """Title, unit and grid; the legend, if lines have names."""
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


def x_axis(panel: Axes, text: str) -> None:
    """Name the x axis, whose numbers may be large."""
    panel.set_xlabel(text, fontsize=9)
    panel.xaxis.set_major_formatter(lambda value, _: short(value))


def short(value: float) -> str:
    """2,000,000 as 2M."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"


def save(figure: Figure, path: Path) -> Path:
    """Write the figure, all at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.png")
    figure.savefig(temporary)
    temporary.replace(path)
    return path
