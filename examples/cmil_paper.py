"""CMIL's experiments as a grid of runs: ``python examples/cmil_paper.py --environment adroit-door --seeds 0 1 2``.

A cell is (method, seed). One world model is fitted to the demonstrations for each seed and shared by its cells; a cell imitates,
offline or with ``--online-steps`` real steps, then plays the real environment. Cells are processes that run ``dream-env``
commands, so a killed grid goes on where it was and a finished cell is skipped.

Rows of finished cells go to ``--results``; what happened on the way (success and return of the real episodes, the two parts of
CMIL's bound) to ``…_online.csv`` beside it. From those two files

- ``fig2_NAME.png`` success rate and return against real steps, mean over seeds with 95 % bootstrap intervals; offline
  methods are level lines
- ``fig3_NAME.png`` the discriminator's gap, the ensemble's disagreement and the gap to the expert's return, each scaled to
  0 … 1
- ``results.md`` a table

are drawn with ``--figures`` (in the folder named like the results, without the suffix). Results of one method that were trained
on other demonstrations, or for longer, stay apart: lines of the table and figures of their own, with what differs in their names.
"""

import csv
import io
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Literal

import numpy as np
from runner import Engine, finished, note_finished, run, spread, start

from dream_env.checkpoint import read_json, write_file
from dream_env.device import check_device
from dream_env.errors import ConfigError, nearest
from dream_env.measuring import results
from dream_env.measuring.families import config_of, differing_keys, grouped, told_apart, told_of
from dream_env.measuring.study import name_of
from dream_env.run_folder import read_metrics
from dream_env.showing.drawing import COLOURS, finish, panels, save, x_axis

DREAMS = ("--num-envs", "128")
"""In the dream alone: eight sequences of 16 starts an update, so that a million steps are 520 of them."""
RATE = "3e-4"
"""Step size of the discriminator: at the released code's 3e-5 it has learned nothing after the few hundred updates that a CPU
has time for (seen on Adroit's door: both accuracies 0.50 after 300)."""
CMIL_REWARD, VMAIL_REWARD = ("--cmil.learning-rate", RATE), ("--vmail.learning-rate", RATE)
CMIL = ("--learner", "cmil", *DREAMS, *CMIL_REWARD)

OFFLINE: dict[str, tuple[str, ...]] = {
    "bc": ("--learner", "bc"),
    "dbc": ("--learner", "dbc"),
    "cmil-offline": CMIL,
    "vmail-offline": ("--learner", "vmail", *DREAMS, *VMAIL_REWARD),
    "ppo-cmil": ("--learner", "ppo", "--reward", "cmil", *CMIL_REWARD, "--warm-start", "bc", "--anchor", "4"),
    # Sensitivities of the offline learner (the paper: resilient to α and β, the noise is integral).
    **{f"alpha-{alpha}": (*CMIL, "--cmil.alpha", str(alpha)) for alpha in (1, 100)},
    **{f"beta-{beta}": (*CMIL, "--anchor", str(beta)) for beta in (0, 1, 100)},
    **{f"noise-{noise:g}": (*CMIL, "--cmil.input-noise", str(noise)) for noise in (0.0, 2.5)},
}
"""Name → flags of ``dream-env imitate``; α = 0 is ``vmail-offline``, and the defaults are ``cmil-offline``."""
CMIL_ONLINE = ("--learner", "cmil", *CMIL_REWARD)
ONLINE: dict[str, tuple[str, ...]] = {
    "cmil": CMIL_ONLINE,
    "vmail": ("--learner", "vmail", *VMAIL_REWARD),
    "pdac": ("--learner", "pdac"),
    "cmil-released": ("--learner", "cmil", "--reward", "cmil-released", "--cmil-released.learning-rate", RATE),
    # The sensitivities where the discriminator has something to learn from: the policy's own real episodes.
    **{f"cmil-alpha-{alpha}": (*CMIL_ONLINE, "--cmil.alpha", str(alpha)) for alpha in (1, 100)},
    **{f"cmil-beta-{beta}": (*CMIL_ONLINE, "--anchor", str(beta)) for beta in (0, 1, 100)},
    **{f"cmil-noise-{noise:g}": (*CMIL_ONLINE, "--cmil.input-noise", str(noise)) for noise in (0.0, 2.5)},
}
METHODS = OFFLINE | ONLINE

PAPER = (
    "--learning-rate", "8e-5", "--critic-learning-rate", "8e-5", "--hidden", "400", "400", "400", "400", "--activation", "elu",
    "--no-layer-norm", "--warm-start-updates", "100", "--batch", "50", "--expert-batch", "50", "--length", "50", "--rows", "50",
    "--train-every", "5", "--seed-steps", "5000",
)  # fmt: skip
"""Sizes of actor, critics and batches with ``--preset paper-gaussian``: DreamerV2's for control, as CMIL's released code has
them. The rewards' own rates are then their defaults, the code's 3e-5."""


@dataclass(frozen=True)
class Grid:
    """Which runs."""

    dataset: str = "dream/adroit-door/expert-v0"
    """Minari id of the demonstrations; they must be there (``dream-env collect`` records or converts them)."""
    environment: str = ""
    """What is played, by short name, its pictures rendered the fast way; the environment of the recordings, as it was recorded,
    unless given."""
    methods: tuple[str, ...] = ("bc", "dbc", "cmil-offline", "vmail-offline", "cmil", "vmail", "pdac")
    """Methods by name; ``METHODS`` lists them."""
    demos: int = 20
    """Expert episodes to imitate."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds, of world model and learner alike."""
    preset: Literal["small-gaussian", "paper-gaussian"] = "small-gaussian"
    """Sizes of the world model."""
    fit: str = ""
    """Further flags of ``dream-env fit``, as --fit="--updates 2500 --held-out 5"."""
    steps: int = 1_000_000
    """Dream steps of offline methods (expert states of those that clone)."""
    online_steps: int = 20_000
    """Real steps of the others; 250,000 is where the paper's method is near the expert."""
    online: str = ""
    """Further flags of ``dream-env imitate`` for cmil and vmail, as --online="--train-every 20"."""
    pdac: str = ""
    """And for pdac, as --pdac="--updates-per-step 0.25"."""
    episodes: int = 20
    """Real episodes of each final policy, sampled and argmax."""
    eval_seed: int = 10_000
    """Seed of the first of them."""
    out: Path = Path("runs/cmil-paper")
    """Folder of all runs."""
    results: Path = Path("runs/cmil-paper.csv")
    """File the rows are added to. (What has been run stands in examples/results/cmil.csv.)"""
    figures: bool = False
    """Run nothing; draw what the result files hold."""
    workers: int = 2
    """Cells at a time, one thread each."""
    engine: Engine = "processes"
    """Where the cells run: this machine, or a Ray cluster."""
    device: str = "cpu"
    """Where to train."""


def main(grid: Grid) -> None:
    """Fit, imitate, play; whatever is finished is not done again."""
    for method in grid.methods:
        if method not in METHODS:
            raise ConfigError(f"there is no method {method!r}.{nearest(method, METHODS)} One of: {', '.join(METHODS)}")
    if grid.engine == "processes":  # Ray's workers may have what this machine has not
        check_device(grid.device)
    grid = replace(
        grid, out=grid.out.resolve(), results=grid.results.resolve()
    )  # Ray's workers run in folders of their own
    if not grid.figures:
        options = {"workers": grid.workers, "engine": grid.engine, "device": grid.device}
        spread([lambda seed=seed: _fit(grid, seed) for seed in grid.seeds], **options)
        cells = [(method, seed) for seed in grid.seeds for method in grid.methods]
        spread([lambda cell=cell: _cell(grid, *cell) for cell in cells], **options)
    draw(grid.results)


def _name(grid: Grid) -> str:
    return grid.environment or grid.dataset.replace("/", "-")


def _flags(grid: Grid, method: str) -> list[str]:
    """A method's, in the sizes of the preset."""
    flags = list(METHODS[method])
    if grid.preset == "paper-gaussian" and method in ONLINE and method != "pdac":
        at = next(i for i, word in enumerate(flags) if word.endswith(".learning-rate"))
        flags = [*flags[:at], *flags[at + 2 :], *PAPER]
    return flags


def _fit(grid: Grid, seed: int) -> None:
    run([
        "fit", grid.dataset, "--out", str(_model(grid, seed)), "--preset", grid.preset, "--seed", str(seed),
        "--observation.keys", "pixels", "--device", grid.device, *shlex.split(grid.fit),
    ])  # fmt: skip


def _model(grid: Grid, seed: int) -> Path:
    return grid.out / _name(grid) / f"wm-{seed}"


def _cell(grid: Grid, method: str, seed: int) -> None:
    folder = grid.out / _name(grid) / f"{method}-{grid.demos}-{seed}"
    online = method in ONLINE
    more = shlex.split(grid.pdac if method == "pdac" else grid.online)
    played = ["--environment", grid.environment] if grid.environment else []
    length = ("--online-steps", str(grid.online_steps), *played, *more)
    imitate = [
        "imitate", str(_model(grid, seed)), "--out", str(folder), "--seed", str(seed), "--demos", str(grid.demos),
        "--device", grid.device, *_flags(grid, method),
        *(length if online else ("--steps", str(grid.steps), "--snapshots", "0")),
    ]  # fmt: skip
    evaluate = [
        "evaluate", str(folder), "--episodes", str(grid.episodes), "--seed", str(grid.eval_seed), "--no-video",
        *played, "--device", grid.device, "--experiment", f"cmil-paper/{method}", "--results", str(grid.results),
    ]  # fmt: skip
    if finished(folder, (imitate, evaluate)):
        return
    run(imitate)
    run(evaluate)
    _append_curve(_curves(grid.results), {
        "environment": _name(grid), "dataset": grid.dataset, "method": method, "seed": str(seed),
        "demos": str(grid.demos), "asked": str(grid.online_steps if online else grid.steps), "preset": grid.preset,
        "commit": str(read_json(folder / "meta.json").get("commit", "")),
    }, read_metrics(folder / "metrics.csv"))  # fmt: skip
    note_finished(folder, (imitate, evaluate))


# --------------------------------------------------------------------------------------------------------------- curves

MEASURED = (
    "steps", "real_return", "real_success", "real_tasks", "discriminator_gap", "disagreement", "dream_reward", "clone_loss",
    "discriminator_loss", "accuracy_expert", "accuracy_learner", "minutes",
)  # fmt: skip


TRAINED = ("dataset", "demos", "asked", "preset")
"""Columns of the curves that say, with method and seed, what was trained: the recording, how many of its episodes, how many steps
were asked for (real ones of methods that make them), the model's sizes. Curves of before tell of the recording alone."""


def _curves(path: Path) -> Path:
    return path.with_name(f"{path.stem}_online.csv")


def _append_curve(path: Path, facts: dict[str, str], metrics: Sequence[dict[str, float]]) -> None:
    """Add a run's lines, in place of those that an earlier run of the same cell left."""
    mine = [{**facts, **{name: f"{row[name]:.6g}" for name in MEASURED if name in row}} for row in metrics]
    same = ("environment", "method", "seed", *TRAINED)
    path.parent.mkdir(parents=True, exist_ok=True)
    with results.alone(path.parent):
        kept = [row for row in _read(path) if any(row.get(name, "") != facts.get(name, "") for name in same)]
        text = io.StringIO()
        writer = csv.DictWriter(text, [*facts, *MEASURED], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *mine])
        write_file(path, text.getvalue())


def _read(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# -------------------------------------------------------------------------------------------------------------- figures


def draw(path: Path) -> None:
    """Both figures of each environment, and of each training there (``TRAINED``); and the table; as far as there are rows."""
    rows, curves = results.read(path) if path.is_file() else [], _read(_curves(path))
    folder = path.with_suffix("")
    for name, own in _by_training([row for row in curves if row["method"] in ONLINE]).items():
        of_it = [row for row in rows if row.dataset == own[0]["dataset"]]
        demos = own[0].get("demos") or None
        sampled = [row for row in of_it if row.trained and not row.deterministic]
        finals = [row for row in sampled if demos in (None, str(row.n_expert))]
        expert = next((row.return_mean for row in of_it if row.method == "expert"), None)
        folder.mkdir(parents=True, exist_ok=True)
        if any(float(row["steps"]) and row["real_return"] for row in own):  # somebody went into the real environment
            _fig2(folder / f"fig2_{name}.png", name, own, finals)
        _fig3(folder / f"fig3_{name}.png", name, own, expert)
    if rows:
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "results.md", table(rows))


def _by_training(curves: Sequence[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Lines that belong in one figure, by its name: the environment, and what differs from others of that environment."""
    told: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in curves:
        told[row["environment"]].append({column: row.get(column, "") for column in TRAINED})
    found: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in sorted(curves, key=lambda row: row["environment"]):
        differing = differing_keys(told[row["environment"]])
        said = [f"{column}-{row[column]}".replace("/", "-") for column in differing if row.get(column)]
        found["_".join([row["environment"], *said])].append(row)
    return found


def _series(curves: Sequence[dict[str, str]], method: str, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Real steps (bins,), and the column's mean in each bin for each seed (seeds, bins); NaN where there is none."""
    by_seed: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in curves:
        if row["method"] == method and row.get(column):
            by_seed[row["seed"]].append((float(row["steps"]), float(row[column])))
    if not by_seed:
        return np.empty(0), np.empty((0, 0))
    end = max(steps for points in by_seed.values() for steps, _ in points)
    edges = np.linspace(0.0, end, 11)
    bins = np.full((len(by_seed), 10), np.nan)
    for i, points in enumerate(by_seed.values()):
        steps, values = np.array(points).T
        at = np.clip(np.digitize(steps, edges, right=True) - 1, 0, 9)
        for j in np.unique(at):
            bins[i, j] = values[at == j].mean()
    return edges[1:], bins


def _interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % bootstrap interval of the mean over seeds, bin by bin."""
    chosen = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    means = values[chosen].mean(axis=1)
    return np.percentile(means, 2.5, axis=0), np.percentile(means, 97.5, axis=0)


FIG2 = {"real_success": ("success rate", "success"), "real_return": ("real return", "return_mean")}
"""Column of the curves → what its panel shows, and a row's column of the same."""


def _fig2(path: Path, name: str, curves: Sequence[dict[str, str]], finals: Sequence[results.Row]) -> None:
    shown = {column: what for column, what in FIG2.items() if any(row[column] for row in curves)}
    figure, axes = panels(len(shown), 1)
    for panel, (column, (text, of_row)) in zip(axes, shown.items(), strict=True):
        colours = cycle(COLOURS)
        for method in ("cmil", "vmail", "pdac", "cmil-released"):
            steps, values = _series(curves, method, column)
            if len(steps):
                known = ~np.isnan(values).any(axis=0)
                steps, values = steps[known], values[:, known]
                colour = next(colours)
                panel.plot(steps, values.mean(axis=0), color=colour, label=_label(method, len(values)))
                panel.fill_between(steps, *_interval(values), alpha=0.2, color=colour)
        for method in ("bc", "dbc", "cmil-offline", "vmail-offline"):
            own = [row for row in finals if row.experiment.endswith(f"/{method}")]
            for label, same in _called(method, own).items():
                found = [value for row in same if (value := getattr(row, of_row)) is not None]
                if found:
                    style = {"color": next(colours), "linestyle": "--", "linewidth": 1}
                    panel.axhline(float(np.mean(found)), label=_label(label, len(found)), **style)
        if column == "real_success":
            panel.set_ylim(-0.02, 1.02)
        x_axis(panel, "real steps")
        finish(panel, name, text)
    save(figure, path)


def _label(method: str, seeds: int) -> str:
    return f"{method} ({seeds} seed{'s' if seeds > 1 else ''})"


def _fig3(path: Path, name: str, curves: Sequence[dict[str, str]], expert: float | None) -> None:
    lines = {
        "discriminator_gap": "discriminator gap",
        "disagreement": "disagreement (eq. 9)",
        "real_return": "return gap",
    }
    figure, (axes,) = panels(1, 1)
    for column, label in lines.items():
        steps, values = _series([row for row in curves if row["method"] == "cmil"], "cmil", column)
        if len(steps):
            known = ~np.isnan(values).any(axis=0)  # the bound is measured only once there are updates
            if not known.any():
                continue  # no steps at which every seed was measured
            mean = values[:, known].mean(axis=0)
            mean = (expert or 0.0) - mean if column == "real_return" else mean
            axes.plot(steps[known], (mean - mean.min()) / (np.ptp(mean) or 1.0), label=label)
    x_axis(axes, "real steps")
    finish(axes, f"{name}, cmil", "scaled to 0 … 1")
    if axes.lines:
        save(figure, path)


def _called(method: str, rows: Sequence[results.Row]) -> dict[str, list[results.Row]]:
    """Rows of one method by what was trained: their name is the method's, with what differs in brackets if there are several."""
    trainings = list(grouped(rows, config_of).values())
    said = told_apart([told_of(same[0]) for same in trainings])
    names = [f"{method} ({of or 'defaults'})" if any(said) else method for of in said]
    return dict(zip(names, trainings, strict=True))


def table(rows: Sequence[results.Row]) -> str:
    """Markdown: the mean over its seeds of each training of each method, sampled and argmax."""
    lines = [
        "| environment | method | seeds | return, sampled | argmax | success, sampled | argmax | tasks, sampled | argmax |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    methods = grouped(rows, lambda row: (row.environment, name_of(row) if row.trained else row.method))
    groups = [
        (environment, called, group)
        for (environment, method), own in methods.items() for called, group in _called(method, own).items()
    ]  # fmt: skip
    for environment, method, group in groups:
        halves = [[row for row in group if row.deterministic is kind] for kind in (False, True)]
        cells = [
            _mean([getattr(row, column) for row in half])
            for column in ("return_mean", "success", "tasks")
            for half in halves
        ]
        lines.append(f"| {environment} | {method} | {len({row.seed for row in group})} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):,.2f}".rstrip("0").rstrip(".") if known else ""


if __name__ == "__main__":
    start(main, Grid)
