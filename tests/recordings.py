"""Small real Minari datasets for tests: random observations and actions, each frame different from all others."""

import warnings
from typing import Any

import minari
import numpy as np
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

GRAY = spaces.Box(0, 255, (64, 64), np.uint8)
DISCRETE = spaces.Discrete(4)


def draw(space: spaces.Space[Any], rows: int, rng: np.random.Generator) -> Any:
    """``rows`` elements of a space, stacked as Minari keeps them."""
    if isinstance(space, spaces.Dict):
        return {name: draw(sub, rows, rng) for name, sub in space.spaces.items()}
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.start, space.start + space.n, rows)
    assert isinstance(space, spaces.Box)
    if space.dtype == np.uint8:
        return rng.integers(0, 256, (rows, *space.shape), np.uint8)
    return rng.uniform(-1, 1, (rows, *space.shape)).astype(space.dtype)


def buffers(
    observation_space: spaces.Space[Any] = GRAY,
    action_space: spaces.Space[Any] = DISCRETE,
    lengths: tuple[int, ...] = (7, 5, 9),
    seed: int = 0,
) -> list[EpisodeBuffer]:
    """Episodes of the given lengths; even ones end by termination, odd ones are cut off; the reward is 1 a step."""
    rng = np.random.default_rng(seed)
    return [
        EpisodeBuffer(
            observations=draw(observation_space, steps + 1, rng),
            actions=draw(action_space, steps, rng),
            rewards=[1.0] * steps,
            terminations=[False] * (steps - 1) + [index % 2 == 0],
            truncations=[False] * (steps - 1) + [index % 2 == 1],
        )
        for index, steps in enumerate(lengths)
    ]


def record(
    name: str,
    episodes: list[EpisodeBuffer] | None = None,
    observation_space: spaces.Space[Any] = GRAY,
    action_space: spaces.Space[Any] = DISCRETE,
    **kwargs: Any,
) -> list[EpisodeBuffer]:
    """Write a lossless dataset and return what was written."""
    episodes = buffers(observation_space, action_space) if episodes is None else episodes
    options = {"jpeg_encoding": False, "algorithm_name": "random", "author": "a test", **kwargs}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is (set to )?None")  # Minari asks for more than a test has to tell
        minari.create_dataset_from_buffers(
            name, episodes, observation_space=observation_space, action_space=action_space, **options
        )
    return episodes
