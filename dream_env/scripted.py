"""Experts written by hand, playing from the emulator's memory: no download, no training, real games.

Both games are played with a paddle that lags behind the controls, so following the ball fails. These plan: they know where
the ball will arrive, try every sequence of movements in a model of the paddle, and take the first step of the best one.
Addresses are those of AtariARI's map and of our own looking; constants were fitted to the emulator frame by frame. Units:
pixels of the emulator's screen, y downwards, and frames; a step is ``FRAME_SKIP`` frames.
"""

import itertools
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dream_env.environments import FRAME_SKIP, Env
from dream_env.errors import ConfigError

_LOOKAHEAD = 4
_PLANS = {
    steps: np.array(list(itertools.product((0, -1, 1), repeat=steps))) for steps in range(1, _LOOKAHEAD + 1)
}  # fmt: skip
"""Every sequence of movements (−1, 0, 1 along the paddle's axis) of so many steps, (3^steps, steps)."""
_EFFORT = 0.05
"""Cost of moving in one step of a plan: of two plans that meet the ball alike, the calmer is taken."""
_LATE = 0.2
"""Cost of moving, for each step that it comes later: the paddle then stands still when the ball arrives, which is the more
robust and the easier thing to imitate. In games with 5 % random actions it raised the score from 18.3 to 19.8."""
_FAR = 44
"""Frames before the ball arrives from which on there is always time to come back from anywhere: exploring is harmless."""


@dataclass(frozen=True)
class Paddle:
    """ALE's paddle controller and the game's filter behind it.

    The emulator moves a knob by one click a frame while RIGHT or LEFT is held. The game reads it as ``s = origin + click ·
    k``, rounded down to even and limited to its screen, and every ``period`` frames moves the paddle half of the way,
    ``p ← (p + s) / 2``. One step of holding moves the knob by 23 pixels, about as much as the whole paddle: where the
    paddle can come to rest is a grid that coarse, and what lies between must be met in passing.
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
class _Scripted(ABC):
    """What both games share: planning, exploring, the emulator's actions."""

    explore: float = 0.1
    """Probability of a random movement in each step in which it cannot do harm, so that recordings hold many positions of
    the paddle and the ways back from there."""
    noise: float = 0.0
    """Probability of a random movement in any step, harm or not: costs points, and shows what the world does after a slip."""

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
        self._knob, self._position = 0.0, (-1, 0)
        self.begin()

    def __call__(self, observation: Any) -> int:
        """Choose an action from the emulator's memory; the observation is not looked at."""
        ram = self._ale.getRAM()
        move = self.choose(ram)
        if move is None:
            return int(self._fire)
        if self.noise and self._rng.random() < self.noise:
            move = int(self._rng.integers(-1, 2))
        self._resynchronise(ram)
        for _ in range(FRAME_SKIP):
            self._knob = float(self.paddle.turn(self._knob, move))
        return int(self._buttons[move])

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
        """First movement of the cheapest plan."""
        effort = np.abs(plans) @ (_EFFORT + _LATE * np.arange(1, plans.shape[1] + 1))
        return int(plans[np.argmin(cost + effort), 0])

    def foresee(self, position: int, plans: Any, frames: int) -> Any:
        """Where each plan's paddle is drawn after so many frames, (plans,)."""
        paddle = self.paddle
        knob = np.full(len(plans), self._knob)
        current = np.full(len(plans), position)
        drawn = current
        odd = self._ale.getEpisodeFrameNumber() % 2
        for frame in range(frames):
            if frame // FRAME_SKIP < plans.shape[1]:
                knob = paddle.turn(knob, plans[:, frame // FRAME_SKIP])
            if paddle.period == 1:
                drawn, current = current, (current + paddle.target(knob)) // 2
            elif (frame + odd) % 2 == 0:
                current = (current + paddle.target(knob)) // 2
            else:
                drawn = current
        return drawn

    def wander(self, move: int) -> int:
        """Now and then something else."""
        return int(self._rng.integers(-1, 2)) if self._rng.random() < self.explore else move

    def _resynchronise(self, ram: Any) -> None:
        # Sticky actions are not seen here; a paddle at rest tells where the knob really is.
        now = self.where(ram)
        rested = self._position[1] + 1 if now == self._position[0] else 0
        self._position = (now, rested)
        target = now if self.paddle.mirror is None else self.paddle.mirror - now
        inside = self.paddle.low + 3 < target < self.paddle.high - 3
        if rested >= 3 and inside and abs(int(self.paddle.target(self._knob)) - now) > 3:
            self._knob = (target + 0.5 - self.paddle.origin) / self.paddle.click


@dataclass
class ScriptedPong(_Scripted):
    """Meets the ball with the very edge of the paddle, which sends it off steeply; three in four such balls score.

    What a ball does after the paddle depends only on where it meets it, ``offset = ball y − paddle y``: at −2…0 it leaves
    upwards at 2 pixels a frame, at 13…16 downwards at 2, between them at 0 or 1, which never scores; beyond it is lost.
    Horizontally it moves one pixel a frame, always.
    """

    home: float = 110.0
    """Where to wait, in pixels."""
    home_spread: float = 15.0
    """Each rally waits somewhere else, uniformly so far from home."""
    variety: float = 0.15
    """Share of rallies that prefer the lower edge: without it some games are one killing shot twenty times over."""

    game = "pong"
    paddle = Paddle(origin=110.25, click=5.7445, low=38, high=204, period=2)
    growing = "LEFT"
    shrinking = "RIGHT"

    BALL_X, BALL_Y, PADDLE = 49, 54, 60
    """Addresses; 60 is the paddle after this frame's move, drawn a frame later (51). Ball y is 0 when there is none."""
    SPEED_Y, SPEED_X = 56, 58
    """Signed speeds in pixels a frame; the horizontal one is negated."""
    CONTACT_X = 188
    """The ball's x when paddle and ball are compared."""
    TOP, BOTTOM = 45, 206
    """At or beyond, a ball that moves outwards turns round."""

    def begin(self) -> None:
        """Forget the rally."""
        self._rest, self._costs, self._coming = self.home, _UPPER_EDGE, False

    def where(self, ram: Any) -> int:
        """The paddle's y."""
        return int(ram[self.PADDLE])

    def choose(self, ram: Any) -> int:
        """Plan while the ball comes, wait at home while it goes."""
        paddle, x, y = self.where(ram), int(ram[self.BALL_X]), int(ram[self.BALL_Y])
        speed_x, speed_y = -_signed(ram[self.SPEED_X]), _signed(ram[self.SPEED_Y])
        if y == 0 or speed_x <= 0 or x > self.CONTACT_X:
            self._coming = False
            plans = _PLANS[2]
            cost = np.abs(self.foresee(paddle, plans, 4 * FRAME_SKIP) - self._rest) / 10
            move = self.best(cost, plans)
            return self.wander(move) if y and speed_x < 0 else move
        if not self._coming:
            self._coming = True
            self._rest = self.home + self._rng.uniform(-self.home_spread, self.home_spread)
            self._costs = _LOWER_EDGE if self._rng.random() < self.variety else _UPPER_EDGE
        frames = (self.CONTACT_X - x) // speed_x
        arrival = self._arrival(y, speed_y, frames)
        if frames > _LOOKAHEAD * FRAME_SKIP:
            plans = _PLANS[2]
            move = self.best(np.abs(arrival - self.foresee(paddle, plans, 4 * FRAME_SKIP)) / 10, plans)
            return self.wander(move) if frames > _FAR else move
        plans = _PLANS[max(1, -(-frames // FRAME_SKIP))]
        offset = np.clip(arrival - self.foresee(paddle, plans, frames), -_REACH, _REACH)
        return self.best(self._costs[offset + _REACH], plans)

    def _arrival(self, y: int, speed: int, frames: int) -> int:
        for _ in range(frames):
            if (speed < 0 and y <= self.TOP) or (speed > 0 and y >= self.BOTTOM):
                speed = -speed
                y += int(np.sign(speed))
            y += speed
        return y


@dataclass
class ScriptedBreakout(_Scripted):
    """Stands where the ball comes down, not always with the same part of the paddle."""

    center: float = 8.0
    """Offset ``ball x − paddle x`` to meet the ball at; the paddle is 16 wide, and half that after the ball reached the wall
    at the top."""
    spread: float = 3.0
    """Each ball is met somewhere else, uniformly so far from the center."""

    game = "breakout"
    paddle = Paddle(origin=89.15, click=5.7445, low=0, high=254, period=1, mirror=235)
    growing = "LEFT"
    shrinking = "RIGHT"

    BALL_X, BALL_Y, PADDLE = 99, 101, 72
    """Addresses. Ball y is 0 when there is none."""
    CONTACT_Y = 178
    """The ball's y when it meets the paddle."""
    LEFT_WALL, RIGHT_WALL = 55, 201
    """Where the ball turns round."""
    LOOSE_Y = 140
    """Above, there is time to come back from anywhere."""

    def begin(self) -> None:
        """Forget the ball."""
        self._before: tuple[int, int] | None = None
        self._speed = (1.0, 1.0)
        self._aim = self.center

    def where(self, ram: Any) -> int:
        """The paddle's x."""
        return int(ram[self.PADDLE])

    def choose(self, ram: Any) -> int | None:
        """Serve, go to where the ball comes down, or play about while it is up."""
        paddle, x, y = self.where(ram), int(ram[self.BALL_X]), int(ram[self.BALL_Y])
        if y == 0:
            self._before = None
            return None
        falling = self._watch(x, y)
        if not falling:
            self._aim = self.center + self._rng.uniform(-self.spread, self.spread)
        arrival = self._arrival(x, y) if falling else float(x)
        frames = int((self.CONTACT_Y - y) / self._speed[1]) if falling and y < self.CONTACT_Y else 0
        near = falling and 0 < frames <= _LOOKAHEAD * FRAME_SKIP
        plans = _PLANS[max(1, -(-frames // FRAME_SKIP)) if near else 2]
        reached = self.foresee(paddle, plans, frames if near else 3 * FRAME_SKIP)
        move = self.best(np.abs(arrival - self._aim - reached) / (1 if near else 10), plans)
        return self.wander(move) if not falling or y < self.LOOSE_Y else move

    def _watch(self, x: int, y: int) -> bool:
        """Take in where the ball is; return whether it falls. Speeds are its way in a step, unless it bounced meanwhile."""
        if self._before is None:
            self._before = (x, y)
            return True
        way_x, way_y = ((now - before) / FRAME_SKIP for now, before in zip((x, y), self._before, strict=True))
        self._before = (x, y)
        bounced = x <= self.LEFT_WALL + 8 or x >= self.RIGHT_WALL - 8
        speed_x = self._speed[0] if bounced and abs(way_x) < abs(self._speed[0]) else way_x
        if bounced:
            inwards = 1.0 if x < 128 else -1.0
            speed_x = inwards * abs(speed_x) if way_x * inwards >= 0 else way_x
        self._speed = (speed_x, abs(way_y) if abs(way_y) >= 0.75 else self._speed[1])
        return way_y > 0

    def _arrival(self, x: int, y: int) -> float:
        width = self.RIGHT_WALL - self.LEFT_WALL
        way = self._speed[0] * max(0, self.CONTACT_Y - y) / self._speed[1]
        folded = (x - self.LEFT_WALL + way) % (2 * width)
        return self.LEFT_WALL + min(folded, 2 * width - folded)


def _signed(byte: Any) -> int:
    return (int(byte) + 128) % 256 - 128


_REACH = 60
"""Offsets beyond are all alike."""


def _edge_costs(preferred: dict[int, float]) -> Any:
    """Cost of each offset −60…60 of Pong: 0 the best, 6 a return that does not score, from 50 on a lost ball."""
    offset = np.arange(-_REACH, _REACH + 1)
    cost = np.full(len(offset), 6.0)
    cost[offset < -2] = 50.0 + (-2 - offset[offset < -2])
    cost[offset > 16] = 50.0 + (offset[offset > 16] - 16)
    for at, value in preferred.items():
        cost[at + _REACH] = value
    return cost


# Nearer to the miss than to the middle costs more: an imitator will be a pixel or two off.
_UPPER_EDGE = _edge_costs(
    {-2: 1.5, -1: 0.4, 0: 0.0, 1: 4.0, 2: 4.0, 3: 4.0, 4: 4.0, 12: 5.0, 13: 1.0, 14: 0.3, 15: 0.7, 16: 1.7}
)
_LOWER_EDGE = _edge_costs({12: 3.0, 13: 0.5, 14: 0.0, 15: 0.5, 16: 1.5})

SCRIPTED: dict[str, type[_Scripted]] = {"ALE/Pong-v5": ScriptedPong, "ALE/Breakout-v5": ScriptedBreakout}
"""Gymnasium id → its scripted expert."""
