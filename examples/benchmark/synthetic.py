"""Recordings that cost no emulator: a bright square that wanders over a fixed gray noise, as 64 × 64 pictures or smaller.

What is in the pictures changes no rate here; that most of it stands still lets the dataset's files be packed like a game's.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from work import ACTIONS

from dream_env.model.encoded import EncodedDemos
from dream_env.model.world_model import WorldModel, WorldModelConfig
from dream_env.recordings.cache import Converted
from dream_env.recordings.demos import Demos, Source
from dream_env.recordings.recording import dataset_folder, join_episodes, unfinished_folder, write_episode
from dream_env.spaces import ActionSpec, ObservationConfig, ObservationSpec

_SQUARE = 6


class Pictures(gymnasium.Env[np.ndarray, int]):
    """Stands for an environment where a dataset asks for one: it has spaces and nothing else."""

    def __init__(self, side: int) -> None:
        self.observation_space = spaces.Box(0, 255, (side, side), np.uint8)
        self.action_space = spaces.Discrete(ACTIONS)  # type: ignore[assignment]


def episode(side: int, steps: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (T + 1, side, side) and actions (T,)."""
    background = np.random.default_rng(0).integers(64, 192, (side, side), dtype=np.uint8)
    pictures = np.repeat(background[None], steps + 1, axis=0)
    corner = np.abs(rng.integers(-1, 2, (2, steps + 1)).cumsum(axis=1) + side // 2) % (side - _SQUARE)
    for picture, row, column in zip(pictures, *corner, strict=True):
        picture[row : row + _SQUARE, column : column + _SQUARE] = 255
    return pictures, rng.integers(ACTIONS, size=steps)


def in_memory(side: int, episodes: int, steps: int, config: ObservationConfig) -> Demos:
    """Demonstrations that are on no disk."""
    rng = np.random.default_rng(1)
    played = [episode(side, steps, rng) for _ in range(episodes)]
    env = Pictures(side)
    spec = ObservationSpec.from_space(env.observation_space, config)
    packed = np.concatenate([spec.pack(pictures, batch_dims=1)["image"] for pictures, _ in played])
    action_tm1 = np.concatenate([np.append(0, actions) for _, actions in played])
    meta = {
        "observation": spec.to_json(), "action": ActionSpec(env.action_space).to_json(),  # type: ignore[arg-type]
        "lengths": [steps] * episodes, "returns": [0.0] * episodes, "terminated": [False] * episodes,
    }  # fmt: skip
    statistics = {"image": (packed.mean(axis=0, dtype=np.float32), packed.std(axis=0, dtype=np.float32))}
    data = Converted(meta, {"image": packed}, action_tm1, np.zeros(len(action_tm1), bool), statistics)
    return Demos(Source("bench/memory-v0", "", None, {}), spec.config, data)


def record(folder: Path, side: int, episodes: int, steps: int) -> Path:
    """Write a Minari dataset below ``folder``, an episode at a time, and return where it lies."""
    os.environ["MINARI_DATASETS_PATH"] = str(folder)
    name, env, rng = "bench/squares-v0", Pictures(side), np.random.default_rng(1)
    waiting = unfinished_folder(name)

    def files() -> Iterator[Path]:
        for index in range(episodes):
            pictures, actions = episode(side, steps, rng)
            flags = [False] * (steps - 1)
            path = waiting / f"episode_{index:05d}.hdf5"
            buffer = EpisodeBuffer(
                observations=pictures, actions=actions, rewards=[0.0] * steps, terminations=[*flags, False],
                truncations=[*flags, True],
            )  # fmt: skip
            write_episode(path, buffer, env)
            yield path

    waiting.mkdir(parents=True)
    join_episodes(name, list(files()), env, {"algorithm_name": "none"})
    return dataset_folder(name)


def encoded(deter: int, groups: int, classes: int, rows: int) -> EncodedDemos:
    """Encoded demonstrations that no model has seen, in one episode."""
    generator = torch.Generator().manual_seed(0)
    return EncodedDemos(
        torch.rand(rows + 1, deter, generator=generator).half(),
        torch.randint(classes, (rows + 1, groups), generator=generator, dtype=torch.uint8),
        torch.randint(ACTIONS, (rows + 1,), generator=generator),
        torch.tensor([rows]), classes, torch.zeros(1, dtype=torch.int64),
    )  # fmt: skip


def world_model(config: WorldModelConfig, demos: Demos) -> WorldModel:
    """A fresh model for such recordings."""
    return WorldModel(config, demos.observation_spec, demos.action_spec, demos.source)
