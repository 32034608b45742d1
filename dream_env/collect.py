"""Let an expert play real games and record them as a Minari dataset; killed at any moment, it goes on where it was."""

import json
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import minari
import numpy as np
from minari.dataset.minari_dataset import parse_dataset_id
from tyro.conf import Positional

from dream_env.environments import Env, environment_id, make_environment
from dream_env.errors import ConfigError, DatasetError
from dream_env.experts import Act, Expert, expert_name, make_expert
from dream_env.progress import progress_bar
from dream_env.recording import (
    dataset_folder,
    join_episodes,
    play_episode,
    read_metadata,
    unfinished_folder,
    write_episode,
)


@dataclass(frozen=True)
class CollectConfig:
    """Let an expert play real games and record them as a Minari dataset."""

    environment: Positional[str]
    """What to play: an Atari game by short name (pong, breakout …), bipedalwalker, or any Gymnasium id."""
    dataset: str = ""
    """Minari id to record under, as dream/pong/scripted-v0 (which is what it is called unless given)."""
    episodes: int = 20
    """Games to record."""
    expert: str = "scripted"
    """scripted (Pong, Breakout), planner (any Atari game: tries actions in the emulator, sees no pictures; 5 to 10 steps a
    second), random, an SB3 .zip, a hub id (sb3/ppo-PongNoFrameskip-v4), or module:function."""
    seed: int = 0
    """Game i is played with seed + i."""
    explore: float | None = None
    """Scripted experts: probability of a random action where it does no harm; the expert's own default unless given."""
    noise: float | None = None
    """Scripted experts: probability of a random action in any step; costs points, and shows the model what slips lead
    to."""
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
        expert = re.split(r"[/:]", self.expert)[-1].removesuffix(".zip").lower()
        return f"dream/{game}/{expert}-v0"

    def identity(self) -> dict[str, Any]:
        """What decides what is recorded: the games are a function of it."""
        options = asdict(self)
        for name in ("dataset", "workers", "trust", "device"):
            options.pop(name)
        return {**options, "environment": environment_id(self.environment)}


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
        DatasetError: the disk is full or cannot be written.
    """
    _check(config, expert)
    identity = config.identity()
    if expert is not None:
        identity["expert"] = expert_name(expert)
    folder, unfinished = dataset_folder(config.dataset_id), unfinished_folder(config.dataset_id)
    if folder.exists():
        return _finished(folder, config, identity, progress)
    try:
        _claim(unfinished, config, {name: value for name, value in identity.items() if name != "episodes"})
        files = [unfinished / f"episode_{index:05d}.hdf5" for index in range(config.episodes)]
        todo = [index for index, path in enumerate(files) if not path.exists()]
        start = len(files) - len(todo)
        with progress_bar("collect", config.episodes, "games", start=start, enabled=progress) as advance:
            for done, (score, steps) in enumerate(_play(config, expert, todo), start=start + 1):
                advance(done, score=score, steps=float(steps))
        env = _make(config)
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


def _play(config: CollectConfig, expert: Expert | Act | None, todo: list[int]) -> Iterator[tuple[float, int]]:
    if config.workers == 1:
        player = _Player(config, expert)
        for index in todo:
            yield player.play(index)
        player.env.close()
        return
    # Spawned rather than forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    count = min(config.workers, max(1, len(todo)))
    with ProcessPoolExecutor(count, context, initializer=_leave_with_parent, initargs=(os.getpid(),)) as pool:
        games = [pool.submit(_play_in_worker, config, index) for index in todo]
        try:
            for game in as_completed(games):
                yield game.result()
        finally:
            pool.shutdown(cancel_futures=True)


class _Player:
    """An environment and an expert, kept for many games; each game depends on its own seed alone."""

    def __init__(self, config: CollectConfig, expert: Expert | Act | None = None) -> None:
        self.config = config
        self.env = _make(config)
        self.expert = expert or make_expert(
            config.expert, config.environment, explore=config.explore, noise=config.noise, lapse=config.lapse,
            deterministic=config.deterministic, trust=config.trust, device=config.device,
        )  # fmt: skip

    def play(self, index: int) -> tuple[float, int]:
        seed = self.config.seed + index
        observation, _ = self.env.reset(seed=seed)
        if isinstance(self.expert, Expert):
            self.expert.reset(self.env, seed)
        episode = play_episode(self.env, self.expert, observation, seed)
        path = unfinished_folder(self.config.dataset_id) / f"episode_{index:05d}.hdf5"
        write_episode(path, episode, self.env)
        return float(np.sum(episode.rewards)), len(episode)


def _leave_with_parent(parent: int) -> None:
    """Let a worker end soon after a killed parent; left alone it would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@lru_cache(maxsize=1)
def _worker_player(config: CollectConfig) -> _Player:
    return _Player(config)


def _play_in_worker(config: CollectConfig, index: int) -> tuple[float, int]:
    return _worker_player(config).play(index)


def _make(config: CollectConfig) -> Env:
    return make_environment(
        config.environment, size=config.size, gray=config.gray, sticky=config.sticky, max_steps=config.max_steps
    )


def _check(config: CollectConfig, expert: Expert | Act | None) -> None:
    if config.episodes < 1 or config.workers < 1:
        raise ConfigError(f"episodes and workers must be at least 1, not {config.episodes} and {config.workers}")
    for name, value in (("explore", config.explore), ("noise", config.noise), ("lapse", config.lapse)):
        if value is not None and (config.expert != "scripted" or not 0.0 <= value <= 1.0):
            raise ConfigError(f"{name} is a probability for scripted experts; got {name}={value} for {config.expert!r}")
    if expert is not None and config.workers > 1:
        raise ConfigError(
            "an expert given as an object plays in this process: workers must be 1, or name it module:function"
        )
    try:
        parse_dataset_id(config.dataset_id)
    except (ValueError, TypeError) as error:  # TypeError: an id without a version
        raise ConfigError(
            f"{config.dataset_id!r} is no id for a Minari dataset; ids look like dream/pong/scripted-v0: namespaces of "
            f"two or more letters, a name, a version"
        ) from error


def _claim(unfinished: Path, config: CollectConfig, identity: dict[str, Any]) -> None:
    unfinished.mkdir(parents=True, exist_ok=True)
    path = unfinished / "collect.json"
    if path.exists():
        _compare(json.loads(path.read_text()), identity, f"the unfinished recording in {unfinished}", config)
        return
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(identity, indent=2))
    temporary.replace(path)


def _finished(folder: Path, config: CollectConfig, identity: dict[str, Any], progress: bool) -> minari.MinariDataset:
    try:
        before = read_metadata(folder).get("collected")
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{folder} is not a whole Minari dataset ({error}); delete it or use another --dataset"
        ) from error
    if before is None:
        raise ConfigError(
            f"dataset {config.dataset_id} exists and was not recorded by dream-env; use it as it is, or record under "
            f"another --dataset"
        )
    _compare(before, identity, f"dataset {config.dataset_id}", config)
    dataset = minari.MinariDataset(folder / "data")
    if progress:
        _print_summary(dataset)
    return dataset


def _compare(before: dict[str, Any], now: dict[str, Any], what: str, config: CollectConfig) -> None:
    names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if names:
        changes = ", ".join(f"{name} {before.get(name)!r}, now {now.get(name)!r}" for name in names)
        raise ConfigError(
            f"{what} was recorded with other options: {changes}. Use the same options, another --dataset, or delete "
            f"{dataset_folder(config.dataset_id)} and {unfinished_folder(config.dataset_id)}"
        )


def _print_summary(dataset: minari.MinariDataset) -> None:
    returns = [float(np.sum(episode.rewards)) for episode in dataset.iterate_episodes()]
    size = dataset.storage.metadata["dataset_size"]
    print(
        f"{dataset.spec.dataset_id}: {len(returns)} games, {dataset.spec.total_steps} steps, return "
        f"{np.mean(returns):.2f} ± {np.std(returns):.2f} ({min(returns):g} … {max(returns):g}), {size} MB"
    )
