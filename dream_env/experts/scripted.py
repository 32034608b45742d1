"""Experts written by hand, playing from the emulator's memory: no download, no training, real games.

Both games are played with a paddle that lags behind the controls, so following the ball fails. These plan: they know
where the ball will arrive, try every sequence of movements in a model of the paddle, and take the first step of the
best one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from dream_env.experts.paddle import LOOKAHEAD, PLANS, Paddle, PaddleExpert
from dream_env.real.environments import FRAME_SKIP


@dataclass
class ScriptedPong(PaddleExpert):
    """Meets the ball with the very edge of the paddle, which sends it off steeply; three in four such balls score.

    What a ball does after the paddle depends only on where it meets it, ``offset = ball y − paddle y``: at −2…0 it
    leaves upwards at 2 pixels a frame, at 13…16 downwards at 2, between them at 0 or 1, which never scores; beyond it
    is lost. Horizontally it moves one pixel a frame, and twice as fast after each hit with FIRE held down.

    After a point of its own, the next ball arrives at 152 from below, nearly always. So it parks the paddle at 136, where
    such a ball meets the lower edge, waits, and presses FIRE: that ball has scored every time we looked. Only other
    balls it has to go and meet. A step turns the knob by 23 pixels, so where the paddle can come to rest depends on where
    the knob has been: turned to its lower end and back by three steps, it comes to rest at 136.

    A shot that repeats and needs no timing is also what can be learned from pictures. An earlier script met each ball in
    passing, timed to the pixel; it won 21 : 0 and its clones lost as clearly.
    """

    park: int = 136
    """Where to wait, in pixels."""
    linger: float = 0.3
    """Probability in each step to wait a little longer before going to meet a ball that is still far: whoever imitates
    and is late then has seen what to do."""
    variety: float = 0.0
    """Share of rallies that prefer the lower edge of the paddle."""

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

    TEMPERATURE = 0.03

    def begin(self) -> None:
        """Forget the rally."""
        self._costs, self._coming = _UPPER_EDGE, False
        knobs = self.paddle.CLICKS - FRAME_SKIP * np.arange(9)
        self._parked = float(knobs[np.argmin(np.abs(self.paddle.target(knobs) - self.park))])

    def where(self, ram: Any) -> int:
        """The paddle's y."""
        return int(ram[self.PADDLE])

    def choose(self, ram: Any) -> int | None:
        """Plan while the ball comes, park while it goes."""
        paddle, x, y = self.where(ram), int(ram[self.BALL_X]), int(ram[self.BALL_Y])
        speed_x, speed_y = -_signed(ram[self.SPEED_X]), _signed(ram[self.SPEED_Y])
        if y == 0 or speed_x <= 0 or x > self.CONTACT_X:
            self._coming = False
            return self.wander(self._to_park())
        if not self._coming:
            self._coming = True
            self._costs = _LOWER_EDGE if self._rng.random() < self.variety else _UPPER_EDGE
        frames = (self.CONTACT_X - x) // speed_x
        arrival = self._arrival(y, speed_y, frames)
        if self._cost(arrival - self.paddle.target(self._parked)) <= _GOOD:
            if frames > LOOKAHEAD * FRAME_SKIP:
                return self._to_park()
            if abs(self._knob - self._parked) < 1:
                return None if frames <= _CONTACT * FRAME_SKIP else 0
        if frames > LOOKAHEAD * FRAME_SKIP:
            if frames > _FAR and self._rng.random() < self.linger:
                return 0
            plans = PLANS[2]
            return self.best(np.abs(arrival - self.foresee(paddle, plans, 4 * FRAME_SKIP)) / 10, plans)
        plans = PLANS[max(1, -(-frames // FRAME_SKIP))]
        return self.best(self._cost(arrival - self.foresee(paddle, plans, frames)), plans)

    def _cost(self, offset: Any) -> Any:
        return self._costs[np.clip(offset, -_REACH, _REACH) + _REACH]

    def _to_park(self) -> int:
        # By way of the knob's end, if it is not a whole number of steps away.
        steps = (self._knob - self._parked) / FRAME_SKIP
        if abs(steps - round(steps)) > 0.05:
            return 1
        return -int(np.sign(round(steps)))

    def _arrival(self, y: int, speed: int, frames: int) -> int:
        for _ in range(frames):
            if (speed < 0 and y <= self.TOP) or (speed > 0 and y >= self.BOTTOM):
                speed = -speed
                y += int(np.sign(speed))
            y += speed
        return y


@dataclass
class ScriptedBreakout(PaddleExpert):
    """Stands where the ball comes down, not always with the same part of the paddle."""

    center: float = 8.0
    """Offset ``ball x − paddle x`` to meet the ball at; the paddle is 16 wide, and half that after the ball reached
    the wall at the top."""
    spread: float = 3.0
    """Each ball is met somewhere else, uniformly so far from the center."""

    LATE = 0.2

    game = "breakout"
    paddle = Paddle(origin=89.15, click=5.7445, low=44, high=180, period=1, mirror=235)
    growing = "LEFT"
    shrinking = "RIGHT"

    patience: int = 6
    """After every so many returns without hitting a brick, aim wider: a ball can bounce the same way for ever."""

    BALL_X, BALL_Y, PADDLE, SCORE = 99, 101, 72, 76
    """Addresses. Ball y is 0 when there is none."""
    CONTACT_Y = 178
    """The ball's y when it meets the paddle."""
    LEFT_WALL, RIGHT_WALL = 55, 201
    """Where the ball turns round."""
    WIDEST = 7.0
    """Spread at the most: the ends of the paddle. Some of these balls are lost."""
    LOOSE_Y = 140
    """Above, there is time to come back from anywhere."""

    def begin(self) -> None:
        """Forget the ball."""
        self._before: tuple[int, int] | None = None
        self._speed = (1.0, 1.0)
        self._aim = self.center
        self._score, self._returned, self._fell = 0, 0, False

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
        if int(ram[self.SCORE]) != self._score:
            self._score, self._returned = int(ram[self.SCORE]), 0
        if self._fell and not falling:
            self._returned += 1
            spread = min(self.spread + 1.5 * (self._returned // self.patience), self.WIDEST)
            self._aim = self.center + self._rng.uniform(-spread, spread)
        self._fell = falling
        arrival = self._arrival(x, y) if falling else float(x)
        frames = int((self.CONTACT_Y - y) / self._speed[1]) if falling and y < self.CONTACT_Y else 0
        near = falling and 0 < frames <= LOOKAHEAD * FRAME_SKIP
        plans = PLANS[max(1, -(-frames // FRAME_SKIP)) if near else 2]
        reached = self.foresee(paddle, plans, frames if near else 3 * FRAME_SKIP)
        move = self.best(np.abs(arrival - self._aim - reached) / (1 if near else 10), plans)
        return self.wander(move) if not falling or y < self.LOOSE_Y else move

    def _watch(self, x: int, y: int) -> bool:
        """Take in where the ball is; return whether it falls. Speeds are its way in a step, unless it bounced
        meanwhile."""
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
_FAR = 28
"""Frames before the ball arrives from which on there is always time to come from anywhere."""
_CONTACT = 2
"""Steps before the ball arrives in which FIRE is pressed."""
_GOOD = 2.0
"""A ball that costs no more than this is one that will probably score."""


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

SCRIPTED: dict[str, type[PaddleExpert]] = {"ALE/Pong-v5": ScriptedPong, "ALE/Breakout-v5": ScriptedBreakout}
"""Gymnasium id → its scripted expert."""
