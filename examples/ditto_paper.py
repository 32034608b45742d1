"""DITTO's experiments as a grid of runs: ``python examples/ditto_paper.py --games pong --demos 4 15 --seeds 0 1 2``.

A cell is (game, method, expert episodes, seed). One world model is fitted for each (game, seed) and shared by its cells; a
cell imitates, then plays the real game. Each is a process of its own that runs ``dream-env`` commands, so a killed grid goes
on where it was and a finished cell is skipped. As soon as a cell is finished, its rows go to ``--results`` (the last policy)
and, beside it, to ``…_curves.csv`` (every policy kept on the way: real return, latent distance, action agreement).
``dream-env report runs/ditto-paper.csv`` makes the paper's figures and the tables of them.

``--engine ray`` spreads the same cells over a Ray cluster (``pip install ray``; ``RAY_ADDRESS`` says which, otherwise Ray
starts one on this machine), a CPU a cell and, with ``--device cuda``, a GPU. All its machines must see, under the same names,
the output folder, the result file, the folders of ``$MINARI_DATASETS_PATH`` and ``$DREAM_ENV_CACHE``, this script's folder, of
which workers import ``runner``, and this Python with the package installed, beside which lies the ``dream-env`` they run.
"""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ditto_methods import METHODS
from gymnasium import spaces
from runner import Engine, finished, note_finished, run, spread, start

from dream_env.cli import peek
from dream_env.collecting.collect import CollectConfig
from dream_env.device import check_device
from dream_env.errors import ConfigError, nearest
from dream_env.imitated import HELD_OUT
from dream_env.measuring import curves, results
from dream_env.real.environments import PIXEL_ENVIRONMENTS, environment_id
from dream_env.recordings.datasets import find_dataset
from dream_env.run import CLUMSY_SEED, PLAYFIELD, RunConfig, clumsy_dataset
from dream_env.stages import FitStage

WALKER = {"BipedalWalker-v3": (24, 56, 0, 32)}
"""Where the walker is in the 64 × 64 recordings (rows 35 to 49, columns 0 to 18 of the expert's): the small preset's 32 × 32
pixels show its thin legs as they were recorded, instead of the sky."""

SIDE = 64
"""Of the pictures that ``PLAYFIELD`` and ``WALKER`` are in coordinates of."""


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
    """Whom to record, as of ``dream-env collect``; or "recorded", if the dataset is there and nothing is to be recorded. In
    it {game} is the short name, and {id} the id without its version, as on the hub: sb3/ppo-{id}NoFrameskip-v4."""
    dataset: str = ""
    """Minari id of the demonstrations, {game} too; recorded if it is not there. Unless given, dream/{game}/slips-v1, which
    ``dream-env run`` records too; of other experts than the scripted one an id of their own, as dream/pong/planner-v1 or
    dream/pong/ppo-pongnoframeskip-v4-v1 (with --fire …-fire-v1), so that no grid meets another's recordings."""
    record: int = 48
    """Games of the expert to record where recordings are not there. Those held out of them (--fit="--held-out 5", two unless
    given) are not imitated: --demos can be at most the rest."""
    imitate: str = ""
    """Minari id of other demonstrations to imitate, {game} too, which are there: then the model learns from the first ones and
    nobody imitates them (the paper's comparison of models fitted to an A2C and to a PPO agent's games)."""
    environment: str = ""
    """Play this one, {game} too, instead of the one that was recorded: for recordings of others that do not say."""
    max_steps: int | None = None
    """Steps after which a game that is recorded here, and a real one, is cut off. 4500 are five minutes, the limit of the
    first papers on Atari: a Breakout agent that waits for a ball it does not serve would stand there for the half hour that the
    emulator allows today."""
    preset: Literal["small", "paper"] = "small"
    """Sizes of the world model."""
    updates: int | None = None
    """Gradient steps of the world model; the preset's unless given."""
    fit: str = ""
    """Further flags of ``dream-env fit``, as --fit="--updates 2500 --held-out 5"."""
    steps: int = 2_000_000
    """Steps of each learner."""
    snapshots: int = 10
    """Policies kept on the way of each."""
    episodes: int = 20
    """Real games of each final policy, sampled and argmax."""
    snapshot_episodes: int = 4
    """Real games of each policy on the way."""
    tail: int = 0
    """Policies after each of the last so many updates that play ``episodes`` games too, in a row of their own: 10 is the
    paper's protocol, and ten times the games."""
    select: Literal["", "latent_distance"] = ""
    """Also play the policy, of those kept on the way, that an offline metric prefers: rows beside the last one's."""
    fire: bool = False
    """Press FIRE for the agents at the start and after each lost life (dream-env evaluate --fire), and for the expert while it
    is recorded (dream-env collect --fire): agents of the hub were trained so, and who imitates them then need not serve. The
    scripted experts serve by themselves, and replay:DATASET does what was done; they are recorded as without it."""
    tag: str = ""
    """Added to the names of methods, in folders and results, for a grid that varies something else: --tag=+random with
    --fit="--also dream/pong/random-v1". (The last --also counts: where clumsy games are recorded too, name them again.)"""
    eval_seed: int = 10_000
    """Seed of the first of them."""
    out: Path = Path("runs/ditto-paper")
    """Folder of all runs."""
    results: Path = Path("runs/ditto-paper.csv")
    """File the rows are added to."""
    workers: int = 2
    """Cells at a time, one thread each; on a Ray cluster its CPUs and GPUs decide."""
    engine: Engine = "processes"
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
        return grid.out / self.game / f"{self.method}{grid.tag}-{self.demos}-{self.seed}"


def main(grid: Grid) -> None:
    """Record, fit, imitate, play; whatever is finished is not done again."""
    for method in grid.methods:
        if method not in METHODS:
            raise ConfigError(f"there is no method {method!r}.{nearest(method, METHODS)} One of: {', '.join(METHODS)}")
    if grid.expert == "recorded" and (grid.max_steps is not None or grid.record != Grid.record):
        raise ConfigError(
            f"--{'record' if grid.max_steps is None else 'max-steps'} is of the games that this grid records, and its "
            "policies play what was recorded; with --expert recorded the recordings say how many they are and when a "
            "game is cut off: leave it out"
        )
    if grid.engine == "processes":  # Ray's workers may have what this machine has not
        check_device(grid.device)
    grid = replace(
        grid, out=grid.out.resolve(), results=grid.results.resolve()
    )  # Ray's workers run in folders of their own
    for game in grid.games:
        _check_demos(grid, game)
    for game in grid.games:
        _collect(grid, game)
    models = [(game, seed) for game in grid.games for seed in grid.seeds]
    options: dict[str, Any] = {"workers": grid.workers, "engine": grid.engine, "device": grid.device}
    spread([lambda game=game, seed=seed: _fit(grid, game, seed) for game, seed in models], **options)
    cells = [
        Cell(game, method, demos, seed)
        for seed in grid.seeds  # a whole comparison first, then the next seed's
        for game in grid.games
        for demos in grid.demos
        for method in grid.methods
    ]
    spread([lambda cell=cell: _imitate(grid, cell) for cell in cells], **options)


def _check_demos(grid: Grid, game: str) -> None:
    """Refuse now what would fail in every cell after the fit; recordings that are there, or on the hub, are counted."""
    recorded = bool(grid.imitate) or grid.expert == "recorded"
    dataset = _imitated(grid, game)
    there = find_dataset(dataset).num_episodes if recorded else grid.record
    held_out = HELD_OUT if grid.imitate else int(peek(shlex.split(grid.fit), "--held-out", str(FitStage.held_out)))
    if (most := max(grid.demos, default=0)) > there - held_out:
        more = "" if recorded else f", or --record {most + held_out} (under another --dataset where fewer are recorded)"
        raise ConfigError(
            f"--demos {most} were asked for, but {dataset} {'has' if recorded else 'is to have'} {there} episodes, of which "
            f"{held_out} are held out to measure on: give at most {there - held_out}{more}"
        )


def _dataset(grid: Grid, game: str) -> str:
    """Minari id of what the world model is fitted to."""
    if grid.dataset or grid.expert in ("scripted", "recorded"):
        return (grid.dataset or "dream/{game}/slips-v1").format(game=game)
    name = CollectConfig(game, expert=_expert(grid, game)).dataset_id.rpartition("-v")[0]
    return f"{name}{'-fire' if _served(grid) else ''}-v1"


def _imitated(grid: Grid, game: str) -> str:
    """Minari id of what is imitated."""
    return grid.imitate.format(game=game) or _dataset(grid, game)


def _expert(grid: Grid, game: str) -> str:
    return grid.expert.format(game=game, id=environment_id(game).split("/")[-1].rpartition("-")[0])


def _served(grid: Grid) -> bool:
    """Whether FIRE is pressed for the expert."""
    return grid.fire and grid.expert != "scripted" and not grid.expert.startswith("replay:")


def _collect(grid: Grid, game: str) -> None:
    if grid.expert == "recorded":
        find_dataset(_dataset(grid, game))  # of the hub: fetched once, rather than by several fits at a time
        return
    defaults = RunConfig(game, grid.out)
    options = ["--expert", _expert(grid, game), "--episodes", str(grid.record), "--workers", str(grid.workers)]
    options += ["--max-steps", str(grid.max_steps)] if grid.max_steps else []
    options += ["--fire"] if _served(grid) else []
    lapses = ["--explore", str(defaults.explore), "--noise", str(defaults.noise), "--lapse"]
    dataset = _dataset(grid, game)
    run(["collect", game, "--dataset", dataset, *options, *(lapses if grid.expert == "scripted" else []),
          *([str(defaults.lapse)] if grid.expert == "scripted" else [])])  # fmt: skip
    if grid.expert == "scripted":
        options[3] = str(defaults.clumsy)
        run(["collect", game, "--dataset", clumsy_dataset(dataset), *options, *lapses, str(defaults.clumsy_lapse),
              "--seed", str(CLUMSY_SEED)])  # fmt: skip


def _fit(grid: Grid, game: str, seed: int) -> None:
    dataset = _dataset(grid, game)
    words = ["fit", dataset, "--out", str(_model(grid, game, seed)), "--preset", grid.preset, "--seed", str(seed)]
    words += ["--also", clumsy_dataset(dataset)] if grid.expert == "scripted" else []
    words += ["--updates", str(grid.updates)] if grid.updates else []
    run([*words, *_observation(grid, game), *shlex.split(grid.fit), "--device", grid.device])


def _observation(grid: Grid, game: str) -> list[str]:
    gym_id = environment_id(game)
    words = (
        ["--observation.keys", "pixels"] if gym_id in PIXEL_ENVIRONMENTS.values() else []
    )  # not the state beside them
    crop = {**PLAYFIELD, **WALKER}.get(gym_id)
    if crop is None or grid.preset != "small":  # the paper shows the whole screen
        return words
    picture = _picture(grid, game)
    return words + (["--observation.crop", *map(str, _scaled(crop, *picture))] if picture else [])


def _picture(grid: Grid, game: str) -> tuple[int, int] | None:
    """Height and width of the recorded pictures; None if there are none."""
    if grid.expert != "recorded":
        return CollectConfig.size, CollectConfig.size
    space = find_dataset(_dataset(grid, game)).open().observation_space
    parts = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return next((part.shape[:2] for part in parts if part.dtype == np.uint8 and len(part.shape) in (2, 3)), None)


def _scaled(crop: tuple[int, int, int, int], height: int, width: int) -> list[int]:
    """The same part of pictures of another size: others' recordings may be 84 × 84, or the raw 210 × 160."""
    sides = (height, height, width, width)
    return [round(at * side / SIDE) for at, side in zip(crop, sides, strict=True)]


def _model(grid: Grid, game: str, seed: int) -> Path:
    return grid.out / game / f"wm{grid.tag}-{seed}"


def _imitate(grid: Grid, cell: Cell) -> None:
    folder = cell.folder(grid)
    imitate = [
        "imitate", str(_model(grid, cell.game, cell.seed)), "--out", str(folder), "--seed", str(cell.seed),
        "--demos", str(cell.demos), "--steps", str(grid.steps), "--snapshots", str(grid.snapshots),
        "--tail", str(grid.tail), "--device", grid.device, *METHODS[cell.method],
        *(["--dataset", grid.imitate.format(game=cell.game)] if grid.imitate else []),
    ]  # fmt: skip
    evaluate = [
        "evaluate", str(folder), "--episodes", str(grid.episodes), "--seed", str(grid.eval_seed), "--no-video",
        "--snapshot-episodes", str(grid.snapshot_episodes), "--device", grid.device,
        "--experiment", f"ditto-paper/{cell.method}{grid.tag}", "--results", str(grid.results),
        *(["--tail-episodes", str(grid.episodes)] if grid.tail else []),
        *(["--select", grid.select] if grid.select and cell.method != "bc" else []),  # bc sees no dream to measure it in
        *(["--fire"] if grid.fire else []),
        *(["--environment", grid.environment.format(game=cell.game)] if grid.environment else []),
    ]  # fmt: skip
    if finished(folder, (imitate, evaluate)):
        results.append(grid.results, results.read(folder / "evaluation.csv"))  # if somebody removed the file since
    else:
        run(imitate)
        run(evaluate)
    dataset = _imitated(grid, cell.game)
    points = curves.of_agent(
        folder, dataset=dataset, game=cell.game, method=cell.method + grid.tag, n_expert=cell.demos, seed=cell.seed
    )
    curves.append(curves.beside(grid.results), points)
    note_finished(folder, (imitate, evaluate))


if __name__ == "__main__":
    start(main, Grid)
