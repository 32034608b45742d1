"""What an Atari agent of Stable-Baselines3 sees, made beside what is recorded: 84 × 84 gray, some frames deep."""

from collections.abc import Iterator
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium.wrappers import AtariPreprocessing
from jaxtyping import UInt8

from dream_env.errors import ConfigError
from dream_env.real.environments import Env
from dream_env.real.fire import PressFire

_SIZE = 84
"""Of SB3's ``WarpFrame`` (Mnih et al. 2015)."""


class AtariView:
    """SB3's ``AtariWrapper`` and ``VecFrameStack`` as a view of a running environment, which it does not change.

    The screen is the one that ``AtariPreprocessing`` has just max-pooled. FIRE is pressed where SB3's training did:
    at the start and after each lost life; where the environment itself does (``PressFire``), every action is the agent's.
    What differs: gray is the emulator's palette rather than OpenCV's mixture.
    """

    def __init__(self, env: Env, channels: int) -> None:
        self._screen = _preprocessing(env)
        self._lives = -1
        self._queue: list[int] = []
        self._fire = "FIRE" in env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        self._served = any(isinstance(layer, PressFire) for layer in _layers(env))
        self._stack = np.zeros((_SIZE, _SIZE, channels), np.uint8)

    def serve(self) -> int | None:
        """The action of SB3's ``FireResetEnv`` if a life begins (1, then 2), else None; the past before it is forgotten."""
        lives = self._screen.ale.lives()
        if self._fire and (lives < self._lives or self._lives == -1):
            self._queue = [] if self._served else [1, 2]
            self._stack[:] = 0
        self._lives = lives
        return self._queue.pop(0) if self._queue else None

    def frames(self) -> UInt8[np.ndarray, "height width channels"]:
        """The stack with the newest frame last; call once a step."""
        screen: Any = self._screen.obs_buffer[0]
        gray = screen if screen.ndim == 2 else cv2.cvtColor(screen, cv2.COLOR_RGB2GRAY)
        self._stack = np.roll(self._stack, -1, axis=-1)
        self._stack[..., -1] = cv2.resize(gray, (_SIZE, _SIZE), interpolation=cv2.INTER_AREA)
        return self._stack


def _preprocessing(env: Env) -> AtariPreprocessing:
    for layer in _layers(env):
        if isinstance(layer, AtariPreprocessing):
            return layer
    raise ConfigError(
        "this agent plays Atari from pictures; the environment is not an Atari game with AtariPreprocessing"
    )


def _layers(env: Env) -> Iterator[Any]:
    layer: Any = env
    while isinstance(layer, gymnasium.Wrapper):
        yield layer
        layer = layer.env
