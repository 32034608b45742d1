"""Let an expert play real games and record them as a Minari dataset; killed at any moment, it goes on where it was."""

import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import minari
import numpy as np
from tyro.conf import Positional

from dream_env.collecting.claims import check_dataset_id, claim, finished, print_summary
from dream_env.collecting.npz_episodes import convert
from dream_env.errors import ConfigError, DatasetError
from dream_env.experts.by_name import Act, Expert, expert_name, make_expert
from dream_env.experts.replay_expert import ReplayExpert
from dream_env.progress import progress_bar
from dream_env.real.environments import Env, check_recordable, environment_id, make_environment, rendering_of
from dream_env.real.real_rooms import leave_with_parent
from dream_env.real.robots import Rendering
from dream_env.real.success import SuccessTracker
from dream_env.recordings.recording import NotFinite, join_episodes, play_episode, unfinished_folder, write_episode

FURTHER_SEED = 1_000_000
"""How far from a game's seed lies that of the game played instead, if the simulation breaks down in it."""
_TRIES = 10
"""Games in which the simulation may break down one after the other."""


@dataclass(frozen=True)
class CollectConfig:
    """Let an expert play real games and record them as a Minari dataset."""

    environment: Positional[str]
    """What to play: an Atari game by short name (pong, breakout …), bipedalwalker, any Gymnasium id, or my_env:MyEnv-v0, an id
    that the module my_env registers."""
    dataset: str = ""
    """Minari id to record under, as dream/pong/scripted-v0 (which is what it is called unless given)."""
    episodes: int = 20
    """Games to record."""
    expert: str = "scripted"
    """scripted (Pong, Breakout), planner (any Atari game: tries actions in the emulator, sees no pictures; 5 to 10 steps a
    second), random, an SB3 .zip, a hub id (sb3/ppo-PongNoFrameskip-v4), a DAPG policy's .pickle (Adroit), replay:DATASET (the
    recorded actions, from the recorded seeds), or module:function."""
    seed: int = 0
    """Game i is played with seed + i; one in which the simulation breaks down is replaced by that of seed + i + 1000000."""
    episodes_from: Path | None = None
    """Play nothing; convert a folder of others' Dreamer-style .npz episodes (DreamerV2's and CMIL's format), all of them."""
    explore: float | None = None
    """Scripted experts: probability of a random action where it does no harm; the expert's own default unless given."""
    noise: float | None = None
    """Scripted experts: probability of a random action in any step; costs points, and shows the model what slips lead
    to. DAPG policies: how much of their own exploration noise is added (0.1, say); none unless given."""
    lapse: float | None = None
    """Scripted experts: probability in any step that a lapse of up to 30 steps begins; recorded as slips, which the model
    learns from and nobody imitates."""
    deterministic: bool | None = None
    """SB3 agents: always the most likely action; by default only where actions are continuous."""
    size: int = 64
    """Pictures are size x size."""
    gray: bool = True
    """Atari in one channel instead of three."""
    sticky: float = 0.0
    """Atari: probability that the emulator repeats the last action."""
    fire: bool = False
    """Atari: press FIRE for the expert at the start and after each lost life, as agents of the RL Zoo were trained with."""
    rendering: Rendering | None = None
    """Robots: fast, their default, draws no shadows and no reflections and is 10 to 40 times faster than default, and looks
    different; world model and evaluation take over what is recorded."""
    max_steps: int | None = None
    """Steps after which a game is cut off; the environment's own limit unless given."""
    trust: bool = False
    """SB3 zips: allow unpickling, which runs code of whoever made the file, where weights alone do not suffice."""
    workers: int = 1
    """Processes that play at the same time; the games are the same."""
    device: str = "cpu"
    """SB3 agents: where their network runs, cpu, cuda, cuda:1 …; the games are always played on the CPU."""

    @property
    def dataset_id(self) -> str:
        """The id to record under."""
        if self.dataset:
            return self.dataset
        game = re.sub(r"-v\d+$", "", environment_id(self.environment).split("/")[-1]).lower()
        if self.episodes_from is not None:
            return f"dream/{_for_id(game)}/{_for_id(self.episodes_from.resolve().name)}-v0"
        # Of a file its stem, on any system: C:\agents\ppo.zip is ppo.
        expert = re.split(r"[/:\\]", self.expert)[-1].removesuffix(".zip").removesuffix(".pickle").lower()
        return f"dream/{_for_id(game)}/{_for_id(expert)}-v0"

    def identity(self) -> dict[str, Any]:
        """What decides what is recorded: the games are a function of it."""
        options = asdict(self)
        for name in ("dataset", "workers", "trust", "device", "episodes_from", *(() if self.fire else ("fire",))):
            options.pop(name)  # fire: recordings of before do not tell it
        rendering = rendering_of(self.environment, self.rendering)
        return {**options, "environment": environment_id(self.environment), "rendering": rendering}


def _for_id(name: str) -> str:
    return re.sub(r"[^\w-]", "-", name)  # Minari takes nothing else into an id


def collect(
    config: CollectConfig, *, expert: Expert | Act | None = None, progress: bool = True
) -> minari.MinariDataset:
    """Record the games and return the dataset; called again it goes on where it was, or returns what is finished.

    Args:
        config: what to record.
        expert: an expert of your own instead of the one that ``config.expert`` names; kept under its name.
        progress: show a bar and the result.

    Raises:
        ConfigError: an option is wrong, or the dataset's id is taken by other games.
        DatasetError: the disk is full or cannot be written, or a process that played is gone.
    """
    if config.episodes_from is not None:
        return _convert(config, config.episodes_from, expert, progress)
    _check(config, expert)
    identity = config.identity()
    if expert is not None:
        identity["expert"] = expert_name(expert)
    recorded = finished(config.dataset_id, identity)
    if recorded is not None:
        if progress:
            _print_summary(recorded)
        return recorded
    unfinished = unfinished_folder(config.dataset_id)
    env = _make(config)  # before the id is taken: options may not fit the environment, or it cannot be written down
    check_recordable(env)
    try:
        claim(config.dataset_id, {name: value for name, value in identity.items() if name != "episodes"})
        files = [unfinished / f"episode_{index:05d}.hdf5" for index in range(config.episodes)]
        todo = [index for index, path in enumerate(files) if not path.exists()]
        start = len(files) - len(todo)
        with progress_bar("collect", config.episodes, "games", start=start, enabled=progress) as advance:
            for done, game in enumerate(_play(config, expert, todo), start=start + 1):
                advance(done, score=game.score, steps=float(game.steps))
                for message in game.dropped if progress else ():
                    print(message)
        facts = {
            "algorithm_name": str(identity["expert"]),
            "description": f"{environment_id(config.environment)} by {identity['expert']}",
            "collected": identity,
        }
        dataset = join_episodes(config.dataset_id, files, env, facts)
        env.close()
    except OSError as error:
        raise DatasetError(
            f"could not write the recordings to {unfinished}: {error}. Make room or mend it; the same command goes on "
            f"where it was"
        ) from error
    if progress:
        _print_summary(dataset)
    return dataset


def _convert(config: CollectConfig, folder: Path, expert: Expert | Act | None, progress: bool) -> minari.MinariDataset:
    """Make the dataset of others' recordings; options that say how games are played have no meaning then."""
    default = CollectConfig(config.environment)
    meant = ("environment", "dataset", "episodes_from", "rendering", "max_steps")
    given = [name for name, value in asdict(config).items() if name not in meant and value != getattr(default, name)]
    if expert is not None or given:
        raise ConfigError(
            f"with episodes_from nothing is played: leave {', '.join(given or ['expert'])} out, or episodes_from"
        )
    return convert(
        folder, config.environment, config.dataset_id, rendering=config.rendering, max_steps=config.max_steps,
        progress=progress,
    )  # fmt: skip


@dataclass(frozen=True)
class _Game:
    score: float
    steps: int
    dropped: tuple[str, ...]
    """What to say about the games that were played before in its place."""


def _play(config: CollectConfig, expert: Expert | Act | None, todo: list[int]) -> Iterator[_Game]:
    if config.workers == 1:
        player = _Player(config, expert)
        for index in todo:
            yield player.play(index)
        player.env.close()
        return
    # Spawned rather than forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    count = min(config.workers, max(1, len(todo)))
    with ProcessPoolExecutor(count, context, initializer=leave_with_parent) as pool:
        try:
            games = [pool.submit(_play_in_worker, config, index) for index in todo]
            for game in as_completed(games):
                yield game.result()
        except BrokenProcessPool as error:
            raise DatasetError(
                "a process that played died, and the others were stopped. Try with workers 1; if that works, there may be too "
                "little memory for so many, or the script that starts the workers may lack `if __name__ == '__main__':`. The "
                "same command goes on where it was"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


class _Player:
    """An environment and an expert, kept for many games; each game depends on its own seed alone."""

    def __init__(self, config: CollectConfig, expert: Expert | Act | None = None) -> None:
        self.config = config
        self.env = _make(config)
        self.tracker = SuccessTracker(self.env)
        self.expert = expert or make_expert(
            config.expert, config.environment, explore=config.explore, noise=config.noise, lapse=config.lapse,
            deterministic=config.deterministic, trust=config.trust, device=config.device,
        )  # fmt: skip

    def play(self, index: int) -> _Game:
        dropped: list[str] = []
        seeds = self._seeds(index)
        for number, seed in enumerate(seeds, start=1):
            observation, _ = self.env.reset(seed=seed)
            self.tracker.reset()
            if isinstance(self.expert, ReplayExpert):
                self.expert.take_up(index)
            if isinstance(self.expert, Expert):
                self.expert.reset(self.env, seed)
            try:
                episode = play_episode(self.env, self.expert, observation, seed, self.tracker)
            except NotFinite as error:
                instead = f"; seed {seeds[number]} is played instead" if number < len(seeds) else ""
                dropped.append(f"{error}: the simulation has broken down. Dropped{instead}")
                continue
            path = unfinished_folder(self.config.dataset_id) / f"episode_{index:05d}.hdf5"
            facts = {"success": self.tracker.success, "tasks": self.tracker.tasks, "dropped": float(len(dropped))}
            write_episode(path, episode, self.env, facts)
            return _Game(float(np.sum(episode.rewards)), len(episode), tuple(dropped))
        raise DatasetError(
            f"no game was left to play after {len(dropped)} in which the simulation broke down, the last time so: {dropped[-1]}. "
            f"Nothing was recorded of them; try another expert or another version of the simulator"
        )

    def _seeds(self, index: int) -> list[int]:
        """Of the game to play, and of those to play in its place."""
        known = getattr(self.expert, "seeds", None)
        if known is None:
            return [self.config.seed + index + i * FURTHER_SEED for i in range(_TRIES)]
        if index >= len(known):
            raise ConfigError(
                f"{self.config.expert} has {len(known)} games, and {self.config.episodes} are to be recorded"
            )
        return [int(known[index])]


@lru_cache(maxsize=1)
def _worker_player(config: CollectConfig) -> _Player:
    return _Player(config)


def _play_in_worker(config: CollectConfig, index: int) -> _Game:
    return _worker_player(config).play(index)


def _make(config: CollectConfig) -> Env:
    return make_environment(
        config.environment, size=config.size, gray=config.gray, sticky=config.sticky, fire=config.fire,
        max_steps=config.max_steps,
        rendering=config.rendering,
    )  # fmt: skip


def _check(config: CollectConfig, expert: Expert | Act | None) -> None:
    if config.episodes < 1 or config.workers < 1:
        raise ConfigError(f"episodes and workers must be at least 1, not {config.episodes} and {config.workers}")
    options = {"explore": config.explore, "noise": config.noise, "lapse": config.lapse}
    if config.expert.endswith(".pickle"):
        noise = options.pop("noise")
        if noise is not None and noise < 0.0:
            raise ConfigError(f"noise is a share of a DAPG policy's own, 0 or more; got {noise}")
    for name, value in options.items():
        if value is not None and (config.expert != "scripted" or not 0.0 <= value <= 1.0):
            raise ConfigError(f"{name} is a probability for scripted experts; got {name}={value} for {config.expert!r}")
    if expert is not None and config.workers > 1:
        raise ConfigError(
            "an expert given as an object plays in this process: workers must be 1, or name it module:function"
        )
    check_dataset_id(config.dataset_id)


def _print_summary(dataset: minari.MinariDataset) -> None:
    print_summary(dataset)
    metadata = dataset.storage.metadata
    for name in ("success", "tasks"):
        if name in metadata:
            print(f"{name}: {metadata[name]:.2f} a game, on average")
    if "dropped_episodes" in metadata:
        print(
            f"dropped {metadata['dropped_episodes']} games, in which the simulation broke down; others were played instead"
        )
