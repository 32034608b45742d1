"""Planning with a lagging paddle: what the scripted experts of Pong and Breakout share.

Addresses are those of AtariARI's map and of our own looking; constants were fitted to the emulator frame by frame.
Units: pixels of the emulator's screen, y downwards, and frames; a step is ``FRAME_SKIP`` frames.
"""

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dream_env.errors import ConfigError
from dream_env.real.environments import FRAME_SKIP, Env

LOOKAHEAD = 4
PLANS = {
    steps: np.array(list(itertools.product((0, -1, 1), repeat=steps))) for steps in range(1, LOOKAHEAD + 1)
}  # fmt: skip
"""Every sequence of movements (−1, 0, 1 along the paddle's axis) of so many steps, (3^steps, steps)."""


@dataclass(frozen=True)
class Paddle:
    """ALE's paddle controller and the game's filter behind it.

    The emulator moves a knob by one click a frame while RIGHT or LEFT is held. The game reads it as ``s = origin +
    click · k``, rounded down to even and limited to its screen, and every ``period`` frames moves the paddle half of
    the way, ``p ← (p + s) / 2``. One step of holding moves the knob by 23 pixels, about as much as the whole paddle:
    where the paddle can come to rest is a grid that coarse, and what lies between must be met in passing.
    """

    origin: float
    """Where the knob points at the start, in pixels."""
    click: float
    """Pixels a click."""
    low: int
    """Least reading of the knob."""
    high: int
    """Greatest reading."""
    period: int
    """Frames between two moves of the paddle."""
    mirror: int | None = None
    """The paddle goes to ``mirror − s`` instead, if given."""

    CLICKS = (790_196 - 408_823) / 23_000
    """Most clicks either way: resistances of ALE's paddle (maximum, middle) over its step (``Paddles.cxx``)."""

    def turn(self, knob: Any, move: Any) -> Any:
        """The knob after one frame; ``move`` in −1, 0, 1 of the knob's own direction."""
        return np.clip(knob + move, -self.CLICKS, self.CLICKS)

    def target(self, knob: Any) -> Any:
        """Where the paddle goes to."""
        reading = np.clip(2 * np.floor((self.origin + self.click * knob) / 2), self.low, self.high).astype(np.int64)
        return reading if self.mirror is None else self.mirror - reading


@dataclass
class PaddleExpert(ABC):
    """What both games share: planning, exploring, the emulator's actions."""

    explore: float = 0.1
    """Probability of a random movement in each step in which it cannot do harm, so that recordings hold many
    positions of the paddle and the ways back from there."""
    noise: float = 0.0
    """Probability of a random movement in any step, harm or not: costs points, and shows what the world does after a
    slip."""
    lapse: float = 0.0
    """Probability in any step that it loses its head: for up to ``LAPSE_STEPS`` steps it holds one random movement. Costs
    points, and shows how it recovers: an expert that never loses a ball shows nobody what follows a lost ball."""
    slip: bool = field(default=False, init=False, repr=False)
    """Whether the last action was no choice of the expert's, but of ``noise`` or in a ``lapse``."""

    EFFORT = 0.05
    """Cost of moving in one step of a plan: of two plans that meet the ball alike, the calmer is taken."""
    LATE = 0.0
    """Cost of moving, for each step that it comes later: the paddle then stands still when the ball arrives."""
    TEMPERATURE = 0.0
    """Among first movements whose best plans cost ``q``, one is drawn in proportion to ``exp(-q / TEMPERATURE)``."""
    LAPSE_STEPS = 30

    game = ""
    paddle = Paddle(0.0, 0.0, 0, 0, 1)
    growing = "RIGHT"
    """Button that turns the knob up."""
    shrinking = "LEFT"
    """Button that turns it down."""

    _rng: np.random.Generator = field(default_factory=np.random.default_rng, init=False, repr=False)
    _ale: Any = field(default=None, init=False, repr=False)
    _knob: float = field(default=0.0, init=False, repr=False)
    _position: tuple[int, int] = field(default=(-1, 0), init=False, repr=False)
    _lapse: tuple[int, int] = field(default=(0, 0), init=False, repr=False)  # steps left, movement

    def reset(self, env: Env, seed: int) -> None:
        """Start a game of ``env``, which has just been reset; ``seed`` decides the exploring."""
        playing = str(env.spec.kwargs.get("game", env.spec.id)) if env.spec else "another environment"
        if playing != self.game:
            raise ConfigError(f"this scripted expert plays {self.game}, not {playing}")
        self._ale = env.unwrapped.ale  # type: ignore[attr-defined]
        meanings = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
        self._buttons = {
            0: meanings.index("NOOP"), 1: meanings.index(self.growing), -1: meanings.index(self.shrinking)
        }  # fmt: skip
        self._fire = meanings.index("FIRE")
        self._rng = np.random.default_rng(seed)
        self._knob, self._position, self._lapse, self.slip = 0.0, (-1, 0), (0, 0), False
        self.begin()

    def __call__(self, observation: Any) -> int:
        """Choose an action from the emulator's memory; the observation is not looked at."""
        ram = self._ale.getRAM()
        choice = self.choose(ram)
        slipped = self._maybe_slip()
        self.slip = slipped is not None
        move = slipped if slipped is not None else choice or 0
        self._resynchronise(ram)
        for _ in range(FRAME_SKIP):
            self._knob = float(self.paddle.turn(self._knob, move))
        return int(self._fire if choice is None and not self.slip else self._buttons[move])

    @abstractmethod
    def begin(self) -> None:
        """Forget the game before."""

    @abstractmethod
    def choose(self, ram: Any) -> int | None:
        """Choose a movement −1, 0, 1, or None for FIRE."""

    @abstractmethod
    def where(self, ram: Any) -> int:
        """The paddle's position."""

    def best(self, cost: Any, plans: Any) -> int:
        """First movement of the cheapest plan, or of nearly the cheapest."""
        cost = cost + np.abs(plans) @ (self.EFFORT + self.LATE * np.arange(1, plans.shape[1] + 1))
        if not self.TEMPERATURE:
            return int(plans[np.argmin(cost), 0])
        cheapest = np.array([cost[plans[:, 0] == move].min() for move in (-1, 0, 1)])
        weights = np.exp((cheapest.min() - cheapest) / self.TEMPERATURE)
        return int(self._rng.choice(3, p=weights / weights.sum())) - 1

    def foresee(self, position: int, plans: Any, frames: int) -> Any:
        """Where each plan's paddle is drawn after so many frames, (plans,)."""
        paddle = self.paddle
        knob = np.full(len(plans), self._knob)
        current = np.full(len(plans), position)
        drawn = current
        odd = self._ale.getEpisodeFrameNumber() % 2
        for frame in range(frames):
            before = knob
            if frame // FRAME_SKIP < plans.shape[1]:
                knob = paddle.turn(knob, plans[:, frame // FRAME_SKIP])
            if paddle.period == 1:
                drawn = current = (current + paddle.target(before)) // 2
            elif (frame + odd) % 2 == 0:
                current = (current + paddle.target(knob)) // 2
            else:
                drawn = current
        return drawn

    def wander(self, move: int) -> int:
        """Now and then something else."""
        return int(self._rng.integers(-1, 2)) if self._rng.random() < self.explore else move

    def _maybe_slip(self) -> int | None:
        # Reported also where the expert would have done the same: what is kept of a recording must not depend on that.
        slipped = int(self._rng.integers(-1, 2)) if self.noise and self._rng.random() < self.noise else None
        left, held = self._lapse
        if left == 0 and self.lapse and self._rng.random() < self.lapse:
            left, held = int(self._rng.integers(1, self.LAPSE_STEPS + 1)), int(self._rng.integers(-1, 2))
        self._lapse = (max(0, left - 1), held)
        return held if left else slipped

    def _resynchronise(self, ram: Any) -> None:
        # Sticky actions are not seen here; a paddle at rest tells where the knob really is.
        now = self.where(ram)
        rested = self._position[1] + 1 if now == self._position[0] else 0
        self._position = (now, rested)
        target = now if self.paddle.mirror is None else self.paddle.mirror - now
        inside = self.paddle.low + 3 < target < self.paddle.high - 3
        if rested >= 3 and inside and abs(int(self.paddle.target(self._knob)) - now) > 3:
            self._knob = (target + 0.5 - self.paddle.origin) / self.paddle.click
