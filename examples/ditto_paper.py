"""DITTO's experiments as a grid of runs: ``python examples/ditto_paper.py --games pong --demos 4 15 --seeds 0 1 2``.

A cell is (game, method, expert episodes, seed). One world model is fitted for each (game, seed) and shared by its cells; a
cell imitates, then plays the real game. Each is a process of its own that runs ``dream-env`` commands, so a killed grid goes
on where it was and a finished cell is skipped. Rows of finished cells go to ``--results`` (final policies) and, beside it, to
``…_curves.csv`` (every policy kept on the way: real return, latent distance, action agreement). ``examples/ditto_figures.py``
makes the paper's figures and the table of them.

``--engine ray`` spreads the same cells over a Ray cluster (``pip install ray``; the output folder must be shared).
"""

import csv
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from dream_env.checkpoint import read_json, write_file
from dream_env.environments import environment_id
from dream_env.errors import ConfigError, nearest
from dream_env.game_log import GameLog
from dream_env.run import CLUMSY_SEED, PLAYFIELD, RunConfig, clumsy_dataset
from dream_env.run_folder import read_metrics
from dream_env.selection import rows_of

STANDARDIZED = ("--learner", "ditto", "--standardize-rewards")
"""DITTO's learner with rewards standardised per step index: table 1's step size and entropy learn little from the plain
reward, whose range is a few hundredths, in the number of steps that a CPU has for them."""

METHODS: dict[str, tuple[str, ...]] = {
    "bc": ("--learner", "bc"),
    "dbc": ("--learner", "dbc"),
    "gail": ("--reward", "gail", *STANDARDIZED),
    "ditto-plain": ("--reward", "ditto", "--learner", "ditto"),  # the paper's, to the letter
    "ditto": ("--reward", "ditto", *STANDARDIZED),
    "ditto-anchor": ("--reward", "ditto", *STANDARDIZED, "--anchor", "0.3", "--warm-start", "bc"),
    "ppo": ("--reward", "ditto", "--learner", "ppo"),
    "ppo-anchor": ("--reward", "ditto", "--learner", "ppo", "--warm-start", "bc", "--anchor", "4"),
    # What is compared, and how (DITTO's metric ablation).
    **{
        f"{metric}-{space}": ("--reward", "ditto", "--ditto.metric", metric, "--ditto.space", space, *STANDARDIZED)
        for metric in ("dot", "l2", "cosine", "nearest")
        for space in ("h", "z", "both")
    },
    # Training horizons (Fig. 4, right).
    **{f"horizon-{h}": ("--reward", "ditto", *STANDARDIZED, "--horizon", str(h)) for h in (3, 5, 10, 15, 30, 50)},
}
"""Name → flags of ``dream-env imitate``."""


@dataclass(frozen=True)
class Grid:
    """Which runs."""

    games: tuple[str, ...] = ("pong",)
    """Games by short name."""
    methods: tuple[str, ...] = ("bc", "dbc", "gail", "ditto-plain", "ditto", "ditto-anchor", "ppo", "ppo-anchor")
    """Methods by name; ``METHODS`` lists them."""
    demos: tuple[int, ...] = (4, 15)
    """Expert episodes N^E to imitate. The world model learns from all there are."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Training seeds, of world model and learner alike."""
    expert: str = "scripted"
    """Whom to record, as of ``dream-env collect``."""
    dataset: str = "dream/{game}/slips-v1"
    """Minari id of the demonstrations; recorded as ``dream-env run`` does if it is not there."""
    preset: Literal["small", "paper"] = "small"
    """Sizes of the world model."""
    updates: int | None = None
    """Gradient steps of the world model; the preset's unless given."""
    steps: int = 2_000_000
    """Steps of each learner."""
    snapshots: int = 10
    """Policies kept on the way of each."""
    episodes: int = 20
    """Real games of each final policy, sampled and argmax."""
    snapshot_episodes: int = 4
    """Real games of each policy on the way."""
    eval_seed: int = 10_000
    """Seed of the first of them."""
    out: Path = Path("runs/ditto-paper")
    """Folder of all runs."""
    results: Path = Path("examples/results/ditto.csv")
    """File the rows are added to."""
    workers: int = 2
    """Cells at a time, one thread each."""
    engine: Literal["processes", "ray"] = "processes"
    """Where the cells run: this machine, or a Ray cluster."""
    device: str = "cpu"
    """Where to train."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    game: str
    method: str
    demos: int
    seed: int

    def folder(self, grid: Grid) -> Path:
        """Where its agent lies."""
        return grid.out / self.game / f"{self.method}-{self.demos}-{self.seed}"


def main(grid: Grid) -> None:
    """Record, fit, imitate, play; whatever is finished is not done again."""
    for method in grid.methods:
        if method not in METHODS:
            raise ConfigError(f"there is no method {method!r}.{nearest(method, METHODS)} One of: {', '.join(METHODS)}")
    for game in grid.games:
        _collect(grid, game)
    models = [(game, seed) for game in grid.games for seed in grid.seeds]
    _spread(grid, [lambda game=game, seed=seed: _fit(grid, game, seed) for game, seed in models])
    cells = [
        Cell(game, method, demos, seed)
        for seed in grid.seeds  # a whole comparison first, then the next seed's
        for game in grid.games
        for demos in grid.demos
        for method in grid.methods
    ]
    _spread(grid, [lambda cell=cell: _imitate(grid, cell) for cell in cells])
    write_curves(grid, cells)


def _collect(grid: Grid, game: str) -> None:
    defaults = RunConfig(game, grid.out)
    options = ["--expert", grid.expert, "--episodes", str(defaults.episodes), "--workers", str(grid.workers)]
    lapses = ["--explore", str(defaults.explore), "--noise", str(defaults.noise), "--lapse"]
    dataset = grid.dataset.format(game=game)
    _run(["collect", game, "--dataset", dataset, *options, *(lapses if grid.expert == "scripted" else []),
          *([str(defaults.lapse)] if grid.expert == "scripted" else [])])  # fmt: skip
    if grid.expert == "scripted":
        options[3] = str(defaults.clumsy)
        _run(["collect", game, "--dataset", clumsy_dataset(dataset), *options, *lapses, str(defaults.clumsy_lapse),
              "--seed", str(CLUMSY_SEED)])  # fmt: skip


def _fit(grid: Grid, game: str, seed: int) -> None:
    dataset = grid.dataset.format(game=game)
    words = ["fit", dataset, "--out", str(_model(grid, game, seed)), "--preset", grid.preset, "--seed", str(seed)]
    words += ["--also", clumsy_dataset(dataset)] if grid.expert == "scripted" else []
    words += ["--updates", str(grid.updates)] if grid.updates else []
    crop = PLAYFIELD.get(environment_id(game))
    words += ["--observation.crop", *map(str, crop)] if crop else []
    _run([*words, "--device", grid.device])


def _model(grid: Grid, game: str, seed: int) -> Path:
    return grid.out / game / f"wm-{seed}"


def _imitate(grid: Grid, cell: Cell) -> None:
    folder = cell.folder(grid)
    if (folder / "done").is_file():
        return
    _run([
        "imitate", str(_model(grid, cell.game, cell.seed)), "--out", str(folder), "--seed", str(cell.seed),
        "--demos", str(cell.demos), "--steps", str(grid.steps), "--snapshots", str(grid.snapshots),
        "--device", grid.device, *METHODS[cell.method],
    ])  # fmt: skip
    _run([
        "evaluate", str(folder), "--episodes", str(grid.episodes), "--seed", str(grid.eval_seed), "--no-video",
        "--snapshot-episodes", str(grid.snapshot_episodes), "--device", grid.device,
        "--experiment", f"ditto-paper/{cell.method}", "--results", str(grid.results),
    ])  # fmt: skip
    write_file(folder / "done", "")


def write_curves(grid: Grid, cells: Iterable[Cell]) -> Path:
    """Every policy kept on the way of the finished cells; rows of other grids in the file stay."""
    path = grid.results.with_name(f"{grid.results.stem}_curves.csv")
    rows = {}
    if path.is_file():
        with path.open(newline="") as file:
            rows = {tuple(row.values())[:6]: row for row in csv.DictReader(file)}
    for cell in cells:
        folder = cell.folder(grid)
        if not (folder / "done").is_file():
            continue
        returns = GameLog(folder / "episodes.csv").through_training()
        metrics = rows_of(read_metrics(folder / "metrics.csv"), returns)
        meta = read_json(folder / "meta.json")
        for steps, played in returns.items():
            at = metrics.get(steps, {})
            row = {
                "dataset": grid.dataset.format(game=cell.game), "game": cell.game, "method": cell.method,
                "n_expert": cell.demos, "seed": cell.seed, "steps": steps, "episodes": len(played),
                "return_mean": f"{sum(played) / len(played):.6g}",
                "latent_distance": at.get("latent_distance", ""), "action_agreement": at.get("action_agreement", ""),
                "minutes": f"{at.get('minutes', float('nan')):.4g}", "commit": meta.get("commit", ""),
            }  # fmt: skip
            cells_of_row = {name: str(value) for name, value in row.items()}
            rows[tuple(cells_of_row.values())[:6]] = cells_of_row
    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(next(iter(rows.values()))), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows.values())
        write_file(path, text.getvalue())
    return path


def _run(words: Sequence[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    program = str(Path(sys.executable).with_name("dream-env"))
    done = subprocess.run([program, *words], env=environment, capture_output=True, text=True, check=False)
    print(f"{'ok    ' if done.returncode == 0 else 'FAILED'} dream-env {' '.join(words)}", flush=True)
    if done.returncode:
        raise RuntimeError(f"dream-env {words[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def _spread(grid: Grid, jobs: Sequence[Callable[[], None]]) -> None:
    """All jobs, ``workers`` at a time; a job that fails is told of at the end and stops none of the others."""
    failures = []
    if grid.engine == "ray":
        try:
            import ray
        except ImportError as error:
            raise ConfigError("--engine ray needs Ray: pip install ray") from error
        waiting = [ray.remote(num_cpus=1)(job).remote() for job in jobs]
        for one in waiting:
            try:
                ray.get(one)
            except Exception as error:  # any failure of a cell, told below
                failures.append(str(error))
    else:
        with ThreadPoolExecutor(grid.workers) as pool:
            for future in as_completed([pool.submit(job) for job in jobs]):
                if (error := future.exception()) is not None:
                    failures.append(str(error))
    if failures:
        raise SystemExit(
            f"{len(failures)} of {len(jobs)} runs failed; the same command tries them again:\n" + failures[0]
        )


if __name__ == "__main__":
    main(tyro.cli(Grid))
