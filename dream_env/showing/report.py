"""The report of a run: tables and curves, made from the files that the stages left. Nothing is played or dreamed."""

import math
from pathlib import Path

from rich.console import Console

from dream_env.checkpoint import read_json, write_file
from dream_env.errors import CheckpointError
from dream_env.measuring import results
from dream_env.measuring.results import Row
from dream_env.measuring.selection import correlations, metrics_and_returns, write_correlations
from dream_env.measuring.statistics import bootstrap_interval, iqm
from dream_env.measuring.tables import HEAD, cells, interval, markdown, number, rich_table
from dream_env.measuring.tables import results_table as results_table
from dream_env.playing.game_log import GameLog
from dream_env.run_folder import read_metrics
from dream_env.showing.figures import correlation_figure, fit_figure, imitate_figure, reward_by_step_figure


def report(run_folder: str | Path, *, seed: int = 0, progress: bool = True) -> Path:
    """Draw everything there is to draw in a run's folder and write ``report.md``; returns its path.

    Args:
        run_folder: with the stages' folders in it, as ``dream-env run`` leaves it; unfinished stages are left out.
        seed: of the bootstrap.
        progress: print the final tables.

    Raises:
        CheckpointError: if there is no such folder, or nothing of ours in it.
    """
    folder = Path(run_folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}; give the one that `dream-env run ... --out FOLDER` left")
    found = [(read_json(path).get("stage", ""), path.parent) for path in sorted(folder.glob("*/run.json"))]
    stages = sorted(found, key=lambda stage: stage[0] != "fit")  # the world model first
    parts = [
        part for kind, stage in stages for part in _stage_report(folder, kind, stage, seed=seed, progress=progress)
    ]
    if not parts:
        raise CheckpointError(
            f"{folder} holds no stage of a run with metrics in it; give the folder that has wm/ and the agents' in it"
        )
    path = folder / "report.md"
    write_file(path, "\n\n".join([f"# {folder.resolve().name}", *parts]) + "\n")
    return path


def _stage_report(folder: Path, kind: str, stage: Path, *, seed: int, progress: bool) -> list[str]:
    if not (stage / "metrics.csv").is_file():
        return []
    if kind == "fit":
        return _fit_report(folder, stage)
    return _imitate_report(folder, stage, seed=seed, progress=progress) if kind == "imitate" else []


def _fit_report(folder: Path, stage: Path) -> list[str]:
    rows = read_metrics(stage / "metrics.csv")
    parts = [f"## World model: {stage.name}", _facts(rows[-1], ("update", "updates"), ("minutes", "minutes"))]
    parts.append(_image("curves of the world model", fit_figure(rows, stage / "fit.png"), folder))
    parts += _link("Truth, dream and difference", stage / "open_loop.mp4", folder)
    return parts


def _imitate_report(folder: Path, stage: Path, *, seed: int, progress: bool) -> list[str]:
    rows = read_metrics(stage / "metrics.csv")
    parts = [f"## Agent: {stage.name}", _facts(rows[-1], ("steps", "dream steps"), ("minutes", "minutes"))]
    evaluation = stage / "evaluation.csv"
    table = [_with_interval(row, seed) for row in results.read(evaluation)] if evaluation.is_file() else []
    if table:
        parts.append(markdown(HEAD, map(cells, table)))
        parts.append(
            "IQM: interquartile mean over the episodes. Interval: percentile bootstrap of the IQM over episodes. "
            "Normalized: (mean − random) / (expert − random)."
        )
        if progress:
            Console().print(rich_table(table, title=f"{table[0].environment}, {stage}"))
    levels = {row.method: row.return_iqm for row in table}  # as the points of the curve are
    returns = GameLog(stage / "episodes.csv").through_training()
    figure = imitate_figure(
        rows, stage / "imitate.png", returns=returns, expert=levels.get("expert"), random=levels.get("random")
    )
    parts.append(_image("curves of the learner", figure, folder))
    parts += _correlation_report(folder, stage, rows, returns)
    if (stage / "reward_by_step.csv").is_file():
        steps = read_metrics(stage / "reward_by_step.csv")
        parts.append(_image("reward by step", reward_by_step_figure(steps, stage / "reward_by_step.png"), folder))
    parts += _link("A game of the agent", stage / "agent.mp4", folder)
    return parts


def _correlation_report(
    folder: Path, stage: Path, rows: list[dict[str, float]], returns: dict[int, list[float]]
) -> list[str]:
    points = metrics_and_returns(rows, returns)
    found = {name: c for name, c in correlations(points).items() if not math.isnan(c.low)}
    if not found:
        return []  # fewer than four policies were played, or they all scored the same
    write_correlations(found, stage / "correlations.csv")
    figure = correlation_figure(points, found, stage / "correlations.png")
    lines = [(name, str(c.n), number(c.rho, 2), interval(c.low, c.high, 2)) for name, c in found.items()]
    return [
        markdown(("offline metric", "policies", "Spearman", "95 % interval"), lines, text_columns=1),
        "Rank correlation with the real return (IQM) over the policies kept on the way. A metric to choose a policy by has "
        "−1 where less of it is better (latent_distance, and action_agreement of continuous actions), else 1.",
        _image("real return over offline metrics", figure, folder),
    ]


def _with_interval(row: Row, seed: int) -> Row:
    if seed == 0 or not row.returns:
        return row
    low, high = bootstrap_interval(row.returns, iqm, seed=seed)
    return Row(**{**row.__dict__, "return_low": low, "return_high": high})


def _facts(row: dict[str, float], *names: tuple[str, str]) -> str:
    return ", ".join(f"{row[name]:,.0f} {text}" for name, text in names if name in row)


def _image(text: str, path: Path, folder: Path) -> str:
    return f"![{text}]({path.relative_to(folder)})"


def _link(text: str, path: Path, folder: Path) -> list[str]:
    return [f"{text}: [{path.name}]({path.relative_to(folder)})"] if path.is_file() else []
