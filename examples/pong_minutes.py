"""What each minute of training buys in ``run pong``: ``python examples/pong_minutes.py``.

A world model is fitted with each number of updates, in each arithmetic and with each seed; its agent is cloned and learns in
the dream as in ``dream-env run pong``; what came out plays the real game, the cloned policy as well as those on the way.
``--results`` takes a row for each of these policies: the minutes until it was there, what the model mispredicts of held-out
games, the real return. The games' seeds are not those that ``run`` evaluates on, so its defaults may be chosen from here.

The figure beside the rows shows the real return against wall time, and the held-out error in half and in full precision.
Finished cells are skipped; the recordings are made as ``run`` makes them if they are not there.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

from runner import run, spread, start

from dream_env.checkpoint import read_json, write_file
from dream_env.collecting.collect import collect
from dream_env.measuring import lines
from dream_env.measuring.tables import markdown, number
from dream_env.model.world_model import Precision
from dream_env.playing.game_log import GameLog
from dream_env.real.environments import environment_id
from dream_env.run import PLAYFIELD, PPO_OPTIONS, RunConfig, clumsy_dataset, recordings_of
from dream_env.run_folder import read_metrics
from dream_env.showing.drawing import COLOURS, finish, panels, save, x_axis

DATASET = recordings_of(RunConfig("pong", Path()))[0].dataset


Net = Literal["plain", "cnn"]
_CNN = ("--model.image-net", "cnn", "--model.depth", "16", "--observation.size", "64")


@dataclass(frozen=True)
class Minutes:
    """Which trainings."""

    updates: tuple[int, ...] = (300, 600, 1200, 2400)
    """Gradient steps of a world model."""
    precisions: tuple[Precision, ...] = ("bfloat16",)
    """Arithmetic of its training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of model and learner alike."""
    net: Net = "plain"
    """For pictures: the small preset's plain networks at 32 × 32, or DreamerV2's convolutions at 64 × 64, of depth 16."""
    steps: int = 250_000
    """Dream steps of each learner; 0 fits the models only."""
    snapshots: int = 1
    """Policies kept on the way, beside the cloned one that begins."""
    episodes: int = 6
    """Real games of each."""
    eval_seed: int = 20_000
    """Seed of the first; ``run`` evaluates from 10,000 on."""
    out: Path = Path("runs/pong-minutes")
    """Folder of all runs."""
    results: Path = Path("examples/results/pong_minutes.csv")
    """File the rows are added to; the figure is beside it."""
    workers: int = 1
    """Cells at a time, one thread each."""


@dataclass(frozen=True)
class Point:
    """One policy, or a model without any."""

    net: str
    updates: int
    precision: str
    seed: int
    steps: int | None
    """Dream steps the policy had learned from."""
    fit_minutes: float
    """Wall time of fitting and encoding."""
    minutes: float
    """Wall time until the policy was there, fitting included; of other programs on the machine too."""
    unexplained_moving: float
    """Of the last training batches, the energy of moving pixels that the reconstruction leaves unexplained."""
    open_loop_1: float
    """The same on held-out games, dreamed this many steps ahead."""
    open_loop_5: float
    open_loop_15: float
    episodes: int
    return_mean: float | None
    commit: str


_SAME = 5
"""So many columns tell which policy it is."""
_WHAT = "a policy that was timed"


def main(config: Minutes) -> None:
    """Record, then fit, imitate and play, cell by cell."""
    for recording in recordings_of(RunConfig("pong", config.out)):
        collect(recording)
    cells = [(u, precision, seed) for seed in config.seeds for precision in config.precisions for u in config.updates]
    spread([lambda cell=cell: _cell(config, *cell) for cell in cells], workers=config.workers)  # type: ignore[misc]
    draw(read(config.results), config.results.with_suffix(".png"))
    print(table(read(config.results)))


def _cell(config: Minutes, updates: int, precision: str, seed: int) -> None:
    folder = config.out / f"{config.net}-{updates}-{precision}-{seed}-{config.steps}"
    model, agent, done = folder / "wm", folder / "agent", folder / "done"
    if done.is_file():
        return
    crop = [str(x) for x in PLAYFIELD[environment_id("pong")]]
    run(["fit", DATASET, "--also", clumsy_dataset(DATASET), "--out", str(model), "--seed", str(seed),
          "--updates", str(updates), "--precision", precision, "--observation.crop", *crop,
          *(_CNN if config.net == "cnn" else ())])  # fmt: skip
    if config.steps:
        pull = ["--warm-start", str(PPO_OPTIONS["warm_start"]), "--anchor", str(PPO_OPTIONS["anchor"])]
        run(["imitate", str(model), "--out", str(agent), "--seed", str(seed), "--reward", "ditto", "--learner", "ppo",
              *pull, "--steps", str(config.steps), "--snapshots", str(config.snapshots)])  # fmt: skip
        run(["evaluate", str(agent), "--episodes", "1", "--seed", str(config.eval_seed), "--no-video",
              "--snapshot-episodes", str(config.episodes)])  # fmt: skip
    append(config.results, _points(config.net, model, agent, updates, precision, seed))
    if agent.is_dir():  # a model's gigabyte of states is in nobody's way once it has been played
        shutil.rmtree(model)
    write_file(done, "")


def _points(net: str, model: Path, agent: Path, updates: int, precision: str, seed: int) -> list[Point]:
    meta = read_json(model / "meta.json")
    last = read_metrics(model / "metrics.csv")[-1]
    fit = float(meta["minutes"])

    def point(steps: int | None, minutes: float, played: list[float]) -> Point:
        return Point(
            net, updates, precision, seed, steps, fit, fit + minutes, last["unexplained_moving/image"],
            last["open_loop_1/image"], last["open_loop_5/image"], last["open_loop_15/image"], len(played),
            fmean(played) if played else None, str(meta["commit"]),
        )  # fmt: skip

    if not agent.is_dir():
        return [point(None, 0.0, [])]
    metrics = {int(row["steps"]): row["minutes"] for row in read_metrics(agent / "metrics.csv")}
    returns = GameLog(agent / "episodes.csv").through_training()
    return [point(steps, metrics[steps], played) for steps, played in returns.items()]


def append(path: Path, points: Iterable[Point]) -> None:
    """Add rows, in place of those of the same policy."""
    lines.append(path, Point, points, same=_SAME, what=_WHAT)


def read(path: Path) -> list[Point]:
    """All rows."""
    return lines.read(path, Point, what=_WHAT)


def table(points: list[Point]) -> str:
    """A line for each kind of training: means over its seeds, and the least of them."""
    kinds: dict[tuple[str, str, int, int], list[Point]] = defaultdict(list)
    for point in points:
        # The cloned policy's first report comes after the learner's first few thousand steps.
        kinds[point.net, point.precision, point.updates, -1 if point.steps is None else round(point.steps, -4)].append(
            point
        )
    lines_of = []
    for (net, precision, updates, steps), found in sorted(kinds.items()):
        returns = [p.return_mean for p in found if p.return_mean is not None]
        errors = [fmean(getattr(p, f"open_loop_{k}") for p in found) for k in (1, 5, 15)]
        lines_of.append((
            net, precision, f"{updates:,}", "" if steps < 0 else f"{steps:,}", str(len(found)),
            f"{fmean(p.fit_minutes for p in found):.1f}", f"{fmean(p.minutes for p in found):.1f}",
            *(f"{error:.0%}" for error in errors),
            *((number(fmean(returns)), number(min(returns))) if returns else ("", "")),
        ))  # fmt: skip
    head = (
        "net",
        "precision",
        "updates",
        "dream steps",
        "seeds",
        "minutes to fit",
        "in all",
        "1 ahead",
        "5",
        "15",
        "return",
    )
    return markdown((*head, "worst seed"), lines_of, text_columns=2)


def draw(points: list[Point], path: Path) -> Path:
    """Real return against minutes, and held-out errors against updates by arithmetic."""
    figure, (left, right) = panels(2, 1)
    for colour, updates in zip(COLOURS, sorted({p.updates for p in points}), strict=False):
        for seed in sorted({p.seed for p in points}):
            same = ("plain", updates, seed, "bfloat16")
            line = [p for p in points if (p.net, p.updates, p.seed, p.precision) == same and p.return_mean is not None]
            line.sort(key=lambda p: p.minutes)
            left.plot(
                [p.minutes for p in line], [p.return_mean for p in line], "o-", color=colour, markersize=3, linewidth=0.9,
                label=f"{updates:,} updates" if seed == 0 and line else None,
            )  # fmt: skip
    finish(left, "Real return against wall time", "mean return")
    x_axis(left, "minutes of training")
    for colour, (net, precision) in zip(COLOURS, sorted({(p.net, p.precision) for p in points}), strict=False):
        for ahead, mark in ((1, "o"), (15, "s")):
            kind = [p for p in points if (p.net, p.precision) == (net, precision)]
            found = {(p.updates, p.seed): getattr(p, f"open_loop_{ahead}") for p in kind}
            right.plot(
                [updates for updates, _ in found], list(found.values()), mark, color=colour, markersize=4,
                fillstyle="none", label=f"{net}, {precision}, {ahead} ahead",
            )  # fmt: skip
    finish(right, "Held-out error of moving pixels", "unexplained", bottom=0.0)
    x_axis(right, "updates of the world model")
    return save(figure, path)


if __name__ == "__main__":
    start(main, Minutes)
