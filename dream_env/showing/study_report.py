"""The report of a study: a result file of many runs becomes figures, tables and one Markdown file that shows them.

What it draws are the questions of DITTO's Figures 2 to 4: what predicts the real return through training, how much it takes
of the expert's episodes, how long dreams should be; and an ablation of the reward. Only what there are rows for is drawn.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from dream_env.checkpoint import write_file
from dream_env.errors import ConfigError
from dream_env.measuring import curves, results
from dream_env.measuring.curves import Point
from dream_env.measuring.families import Options
from dream_env.measuring.results import Row
from dream_env.measuring.statistics import Correlation, spearman
from dream_env.measuring.study import Study, labelled, name_of, score
from dream_env.measuring.tables import interval, markdown, number, rows_table
from dream_env.real.environments import environment_id
from dream_env.showing.study_figures import METRICS, Looks, ablation_figure, looks, score_figure, training_figure

OFFLINE = tuple(name for name in METRICS if name != "return_mean")


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
    actions = ("argmax" if deterministic else "sampled") + (", the policies after the last updates" if tail else "")
    look = looks(_all_names(study))
    parts = [
        f"# {path.stem}",
        f"Real return, actions {actions}. IQM: interquartile mean over the episodes of all training seeds; bars and intervals: "
        f"95 % percentile bootstrap over training seeds and their episodes, with one seed over episodes only.",
    ]
    kept = curves.read(curves.beside(path)) if curves.beside(path).is_file() else []
    parts += _through_training(study, kept, look, out)
    parts += _by(study, look, out, "by_demos", "expert episodes", "Return by number of expert episodes")
    parts += _by(study, look, out, "by_horizon", "steps of a dream", "Return by horizon of the dreams")
    for environment in study.environments:
        for name, groups in study.rewards(environment).items():
            title = f"What the reward does: {environment}, {name}"
            called = {" ".join(str(value) for _, value in options): rows for options, rows in groups.items()}
            file = out / f"reward_{re.sub(r'[^a-z0-9]+', '_', f'{environment} {name}'.lower())}.png"
            figure = ablation_figure(called, study.levels(environment), f"{environment}, {name}", file)
            parts += [f"## {title}", f"![{title}]({figure.name})", _ablation(groups)]
    parts += ["## All rows", rows_table(labelled(results.read(path)))]
    write_file(out / "report.md", "\n\n".join(parts) + "\n")
    return out / "report.md"


def _all_names(study: Study) -> list[str]:
    found = [name for environment in study.environments for name in study.by_demos(environment)]
    return found + [name for environment in study.environments for name in study.by_horizon(environment)]


def _by(study: Study, look: Looks, out: Path, what: str, x: str, title: str) -> list[str]:
    """A figure of ``Study.by_demos`` or ``by_horizon`` for the Atari games, and one for all other environments."""
    parts = []
    for kind, atari in (("", True), ("_control", False)):
        found = {
            environment: lines
            for environment in study.environments
            if environment.startswith("ALE/") == atari and (lines := getattr(study, what)(environment))
        }
        if found:
            levels = {environment: study.levels(environment) for environment in found}
            figure = score_figure(found, look, levels, x, out / f"{what}{kind}.png")
            parts.append(f"![{title.lower()}]({figure.name})")
    return [f"## {title}", *parts] if parts else []


def _ablation(groups: Mapping[Options, Sequence[Row]]) -> str:
    """IQM, interval and number of seeds for each combination; a table of two sides where two options differ."""
    said = {options: _said(rows) for options, rows in groups.items()}
    keys = [name for name, _ in next(iter(groups))]
    if len(keys) != 2:
        head = (*keys, "real return, IQM")
        lines = [(*(str(value) for _, value in options), text) for options, text in said.items()]
        return markdown(head, lines, text_columns=len(keys))
    down, across = (list(dict.fromkeys(str(options[side][1]) for options in groups)) for side in (0, 1))
    cells = {(str(options[0][1]), str(options[1][1])): text for options, text in said.items()}
    head = (f"{keys[0]} \\ {keys[1]}", *across)
    return markdown(head, [(row, *(cells.get((row, column), "") for column in across)) for row in down], text_columns=1)


def _said(rows: Sequence[Row]) -> str:
    found = score(rows)
    seeds = f"{found.seeds} seed" + ("s" if found.seeds > 1 else "")
    return f"{number(found.iqm)} ({interval(found.low, found.high)}; {seeds})"


def _through_training(study: Study, points: Sequence[Point], look: Looks, out: Path) -> list[str]:
    ablations = {(row.environment, name_of(row)) for row in study.trained}
    ablations -= {(row.environment, name_of(row)) for row in study.main()}
    points = [point for point in points if (_environment(point.game), point.method) not in ablations]
    look = looks([*look, *(point.method for point in points)])
    parts: list[str] = []
    lines: list[tuple[str, ...]] = []
    for game, dataset, demos in dict.fromkeys((point.game, point.dataset, point.n_expert) for point in points):
        these = [p for p in points if (p.game, p.dataset, p.n_expert) == (game, dataset, demos)]
        several = len({point.dataset for point in points if point.game == game}) > 1
        found = correlations(these)
        title = f"{game}, {demos} expert episodes" + (f" of {dataset}" if several else "")
        path = out / f"through_training_{game}_{dataset.replace('/', '-') + '_' if several else ''}{demos}.png"
        levels = study.levels(_environment(game), "return_mean", dataset=dataset)
        training_figure(these, look, levels, found, title, path)
        parts.append(f"![{title}]({path.name})")
        called = f"{game} ({dataset})" if several else game
        methods = dict.fromkeys(point.method for point in these)
        each = {method: correlations([point for point in these if point.method == method]) for method in methods}
        for method, of in {"all": found, **each}.items():
            for name, c in of.items():
                lines.append((called, str(demos), method, METRICS[name], str(c.n), *_cells(c)))
    if not parts:
        return []
    head = ("game", "demos", "method", "offline metric", "policies", "Spearman", "95 % interval")
    return [
        "## Through training",
        *parts,
        "Rank correlation of what can be measured without the environment with the real return, over the policies kept on the "
        "way. Of one training they learn from one another, so intervals are too narrow; few games each draw it to 0. Less "
        "latent distance is better; agreement of continuous actions is a squared error. Latent distance is 1 − r with DITTO's r "
        "(eq. 8) on the deterministic half h of the model's state, whatever reward a policy learned from, averaged over the "
        "horizon of its own training: it compares runs of one horizon only.",
        markdown(head, lines, text_columns=4),
    ]


def correlations(points: Sequence[Point]) -> dict[str, Correlation]:
    """Spearman's rank correlation of each offline metric with the real return, over all the given policies."""
    found = {}
    for name in OFFLINE:
        pairs = [(getattr(point, name), point.return_mean) for point in points if getattr(point, name) is not None]
        c = spearman([x for x, _ in pairs], [y for _, y in pairs])
        if not math.isnan(c.low):
            found[name] = c
    return found


def _cells(c: Correlation) -> tuple[str, str]:
    return number(c.rho, 2), interval(c.low, c.high, 2)


def _environment(game: str) -> str:
    try:
        return environment_id(game)
    except ConfigError:  # the name of another library's
        return game
