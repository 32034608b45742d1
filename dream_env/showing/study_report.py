"""The report of a study: a result file of many runs becomes figures, tables and one Markdown file that shows them.

What it draws are the questions of DITTO's Figures 2 to 4: what predicts the real return through training, how much it takes
of the expert's episodes, how long dreams should be; and an ablation of the reward. Only what there are rows for is drawn.
"""

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dream_env.checkpoint import write_file
from dream_env.errors import ConfigError
from dream_env.measuring import curves, results
from dream_env.measuring.curves import Point
from dream_env.measuring.families import Options
from dream_env.measuring.results import Row
from dream_env.measuring.statistics import Correlation, spearman_within
from dream_env.measuring.study import (
    Comparison,
    Lines,
    Study,
    Training,
    comparisons,
    labelled,
    name_of,
    score,
    seeds_said,
    world_models,
)
from dream_env.measuring.tables import interval, markdown, number, rows_table
from dream_env.real.environments import environment_id
from dream_env.showing.last_policies import OFFLINE, cells, last_policies
from dream_env.showing.study_figures import METRICS, Looks, ablation_figure, looks, score_figure, training_figure

SAME_SEEDS = (
    "By expert episodes, horizon and reward only runs of the same training seeds are compared: all points of a panel or table "
    "are of the n seeds above it, those that the most points have. Where a set of more seeds, which fewer points have, makes "
    "more runs in all, these points have a panel of their own. Points in neither are named, and the table of all rows has "
    "every run."
)
"""The rule of ``study.comparisons``, for readers of the report."""
WHAT_THEY_MEASURE = (
    "A line is the mean over its n training seeds, a band one standard error to both sides; lines of different n are no fair "
    "comparison. Steps are those of the dream, of clones expert states. Above two panels: Spearman's rank correlation with the "
    "real return within world models, over the policies of all lines. Less latent distance is better; agreement of continuous "
    "actions is a squared error. Latent distance is 1 − r with DITTO's r (eq. 8) on the deterministic half h of the model's "
    "state, whatever reward a policy learned from, averaged over the horizon of its own training: it compares runs of one "
    "horizon only."
)
WITHIN_MODELS = (
    "Rank correlation of what can be measured without the environment with the real return, over the policies kept on the "
    "way. A world model measures latent distances in a space of its own, so policies are ranked among those that share one "
    "(recording, fit and seed), and the ranks of all models, as shares, correlated. Intervals are of these models: the "
    "second table, with each model by itself, shows how far models differ. Of one training policies learn from one another, "
    "so intervals are too narrow; few games each draw the correlation to 0."
)
"""What ``correlations`` does, for readers of the report."""


def study_report(
    path: str | Path, out: str | Path | None = None, *, deterministic: bool = False, tail: bool = False
) -> Path:
    """Draw what there are rows for and write ``report.md``; returns its path.

    Args:
        path: a result file, as ``evaluate --results`` leaves; curves through training lie beside it (see ``curves``).
        out: folder for the figures and the Markdown; the file's name without its end unless given.
        deterministic: show likeliest instead of sampled actions; curves through training are of sampled ones always.
        tail: show the policies after the last updates, the paper's protocol, instead of the last policy alone.

    Raises:
        ConfigError: if there is no such file, or no trained policy in it that acts so.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no result file {path}; `dream-env evaluate --results {path}` writes one")
    out = path.with_suffix("") if out is None else Path(out)
    study = Study.read(path, deterministic=deterministic, tail=tail)
    after = ", the policies after each of the last updates (of SB3's learners: after each of the last rollouts)"
    actions = ("argmax" if deterministic else "sampled") + (after if tail else "")
    look = looks(_all_names(study))
    parts = [
        f"# {path.stem}",
        f"Real return, actions {actions}. IQM: interquartile mean over the episodes of all training seeds; bars and intervals: "
        f"95 % percentile bootstrap over training seeds and their episodes, with one seed over episodes only.",
        SAME_SEEDS,
    ]
    kept = curves.read(curves.beside(path)) if curves.beside(path).is_file() else []
    parts += _through_training(study, kept, world_models(results.read(path)), look, out)
    parts += last_policies(study, looks([*look, *study.named.values()]), out)
    parts += _by(study, look, out, "by_demos", "expert episodes", "Return by number of expert episodes")
    parts += _by(study, look, out, "by_horizon", "steps of a dream", "Return by horizon of the dreams")
    for environment in study.environments:
        for name, groups in study.rewards(environment).items():
            parts += _rewards(study, environment, name, groups, out)
    parts += ["## All rows", rows_table(labelled(results.read(path)))]
    out.mkdir(parents=True, exist_ok=True)  # no figure, if nothing can be compared
    write_file(out / "report.md", "\n\n".join(parts) + "\n")
    return out / "report.md"


def _all_names(study: Study) -> list[str]:
    found = [name for environment in study.environments for name in study.by_demos(environment)]
    return found + [name for environment in study.environments for name in study.by_horizon(environment)]


def _by(study: Study, look: Looks, out: Path, what: str, x: str, title: str) -> list[str]:
    """A figure of ``Study.by_demos`` or ``by_horizon`` for the Atari games, and one for all other environments."""
    parts: list[str] = []
    for kind, atari in (("", True), ("_control", False)):
        panels: dict[str, Lines] = {}
        levels, notes = {}, []
        for environment in (name for name in study.environments if name.startswith("ALE/") == atari):
            lines: Lines = getattr(study, what)(environment)
            points = {(name, at): rows for name, line in lines.items() for at, rows in line.items()}
            found = comparisons(points)
            for comparison in found:
                panel = f"{environment}\n{_over(comparison)}"
                levels[panel] = study.levels(environment)
                for (name, at), rows in comparison.points.items():
                    panels.setdefault(panel, {}).setdefault(name, {})[at] = rows
            called = {point: f"{point[0]} at {point[1]:g}" for point in points}
            notes += _left_out(environment, points, found, called)
        if panels:
            figure = score_figure(panels, look, levels, x, out / f"{what}{kind}.png")
            parts.append(f"![{title.lower()}]({figure.name})")
        parts += notes
    return [f"## {title}", *parts] if parts else []


def _rewards(
    study: Study, environment: str, name: str, groups: Mapping[Options, Sequence[Row]], out: Path
) -> list[str]:
    """Figure and table of one of ``Study.rewards``; two of each where there are two comparisons."""
    title = f"What the reward does: {environment}, {name}"
    called = {options: " ".join(_variant(*option) for option in options) for options in groups}
    stem = "reward_" + re.sub(r"[^a-z0-9]+", "_", f"{environment} {name}".lower())
    parts, found = [f"## {title}"], comparisons(groups)
    for comparison, more in zip(found, ("", "_more_seeds"), strict=False):
        shown = {called[options]: rows for options, rows in comparison.points.items()}
        over = _over(comparison)
        head = f"{environment}, {name}\n{over}"
        figure = ablation_figure(shown, study.levels(environment), head, out / f"{stem}{more}.png")
        parts += [f"![{title}, {over}]({figure.name})", f"Over {over}:", _ablation(list(groups), comparison.points)]
    return parts + _left_out(environment, groups, found, called)


def _variant(name: str, value: Any) -> str:
    """A word speaks for itself, a number does not: ``dot``, but ``penalty=10``."""
    return value if isinstance(value, str) else f"{name}={_value(value)}"


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _over(comparison: Comparison[Any]) -> str:
    return f"{seeds_said(comparison.seeds)} (n = {len(comparison.seeds)})"


def _left_out(
    environment: str, points: Mapping[Any, Sequence[Row]], found: Sequence[Comparison[Any]], called: Mapping[Any, str]
) -> list[str]:
    """A sentence that names the points that are in no comparison, and their seeds."""
    missing = [key for key in points if not any(key in comparison.points for comparison in found)]
    if not missing:
        return []
    why = "not compared, for they lack seeds of the others" if found else "nothing is compared, for no two share a seed"
    named = (f"{called[key]} ({seeds_said({row.seeds for row in points[key]})})" for key in missing)
    return [f"{environment}, {why}: {'; '.join(named)}."]


def _ablation(grid: Sequence[Options], groups: Mapping[Options, Sequence[Row]]) -> str:
    """IQM, interval and number of seeds for each combination; a table of two sides where two options differ."""
    said = {options: _said(groups[options]) for options in grid if options in groups}
    keys = [name for name, _ in grid[0]]
    if len(keys) != 2:
        head = (*keys, "real return, IQM")
        lines = [(*(_value(value) for _, value in options), text) for options, text in said.items()]
        return markdown(head, lines, text_columns=len(keys))
    down, across = (list(dict.fromkeys(_value(options[side][1]) for options in grid)) for side in (0, 1))
    cells = {(_value(options[0][1]), _value(options[1][1])): text for options, text in said.items()}
    head = (f"{keys[0]} \\ {keys[1]}", *across)
    return markdown(head, [(row, *(cells.get((row, column), "") for column in across)) for row in down], text_columns=1)


def _said(rows: Sequence[Row]) -> str:
    found = score(rows)
    seeds = f"{found.seeds} seed" + ("s" if found.seeds > 1 else "")
    return f"{number(found.iqm)} ({interval(found.low, found.high)}; {seeds})"


def _through_training(
    study: Study, points: Sequence[Point], models: Mapping[Training, Hashable], look: Looks, out: Path
) -> list[str]:
    ablations = {(row.environment, name_of(row)) for row in study.trained}
    ablations -= {(row.environment, name_of(row)) for row in study.main()}
    points = [point for point in points if (_environment(point.game), point.method) not in ablations]
    look = looks([*look, *(point.method for point in points)])
    parts: list[str] = []
    lines: list[tuple[str, ...]] = []
    by_model: list[tuple[str, ...]] = []
    for game, dataset, demos, protocol in dict.fromkeys(map(_compared, points)):
        these = [point for point in points if _compared(point) == (game, dataset, demos, protocol)]
        several = len({point.dataset for point in points if point.game == game}) > 1
        protocols = list(dict.fromkeys(point.protocol for point in points if point.game == game))
        found = correlations(these, models)
        title = f"{game}, {demos} expert episodes" + (f" of {dataset}" if several else "")
        title += f"\n{protocol or 'protocol not told'}" if len(protocols) > 1 else ""
        nth = f"_{protocols.index(protocol) + 1}" if len(protocols) > 1 else ""
        path = out / f"through_training_{game}_{dataset.replace('/', '-') + '_' if several else ''}{demos}{nth}.png"
        levels = study.levels(_environment(game), "return_mean", dataset=dataset)
        training_figure(these, look, levels, found, title, path)
        parts.append(f"![{title}]({path.name})")
        called = f"{game} ({dataset})" if several else game
        methods = dict.fromkeys(point.method for point in these)
        each = {
            method: correlations([point for point in these if point.method == method], models) for method in methods
        }
        for method, of in {"all": found, **each}.items():
            for name, c in of.items():
                lines.append((called, str(demos), method, METRICS[name], str(c.n), str(c.groups), *cells(c)))
        for some in by_world_model(these, models):
            trainings = ", ".join(dict.fromkeys(point.method for point in some))
            seeds = ", ".join(map(str, sorted({point.seed for point in some})))
            for name, c in correlations(some, models).items():
                by_model.append((called, str(demos), seeds, trainings, METRICS[name], str(c.n), *cells(c)))
    if not parts:
        return []
    if not lines:
        few = "No rank correlation with the real return: too few policies of one world model were played, or they play alike."
        return ["## Through training", *parts, WHAT_THEY_MEASURE, few]
    head = ("game", "demos", "method", "offline metric", "policies", "models", "Spearman", "95 % interval")
    model_head = ("game", "demos", "seed", "methods in this model", *head[3:5], *head[6:])
    return [
        "## Through training", *parts, WHAT_THEY_MEASURE, WITHIN_MODELS, markdown(head, lines, text_columns=4),
        *([markdown(model_head, by_model, text_columns=5)] if by_model else []),
    ]  # fmt: skip


def _compared(point: Point) -> tuple[str, str, int, str]:
    """Equal for policies whose returns are of the same game."""
    return point.game, point.dataset, point.n_expert, point.protocol


def by_world_model(points: Sequence[Point], models: Mapping[Training, Hashable]) -> list[list[Point]]:
    """Policies in groups that share one world model, as the result rows of their trainings tell (``world_models``).

    Latent distances are measured in the model's own space: a model whose states lie closer together gives smaller ones,
    for the same play. A training without a row is a group by itself.
    """
    found: dict[Hashable, list[Point]] = {}
    for point in points:
        training = (_environment(point.game), point.dataset, point.method, point.n_expert, point.seed)
        found.setdefault(models.get(training, training), []).append(point)
    return list(found.values())


def correlations(points: Sequence[Point], models: Mapping[Training, Hashable]) -> dict[str, Correlation]:
    """Spearman's rank correlation of each offline metric with the real return, within world models (``spearman_within``).

    Pooled, policies of different models would be ranked by whose model gives small distances, as much as by how they play.
    """
    found = {}
    for name in OFFLINE:
        known = by_world_model([point for point in points if getattr(point, name) is not None], models)
        c = spearman_within([([getattr(p, name) for p in of], [p.return_mean for p in of]) for of in known])
        if not math.isnan(c.low):
            found[name] = c
    return found


def _environment(game: str) -> str:
    try:
        return environment_id(game)
    except ConfigError:  # the name of another library's
        return game
