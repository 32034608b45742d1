"""An expert for any Atari game: it plans in a second emulator, which is put where the game is as often as it likes.

For games that nobody wrote a script for and no agent is at hand. It knows nothing of a game but its points and its
lives: before every action it tries sequences of actions from there on, and does the first action of the best. It sees
what will come (without sticky actions the emulator is deterministic), and so it is nobody to compare others with:
DITTO's experts are PPO agents that see pictures only, and the planner's scores say nothing of theirs. It is there for
demonstrations of decent play that are made on one's own machine.
"""

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from dream_env.errors import ConfigError
from dream_env.real.environments import FRAME_SKIP, Env

Plan = np.ndarray[Any, np.dtype[np.int64]]
"""An action a step, (depth,)."""


@dataclass
class PlanningExpert:
    """Random search over sequences of actions, from where the game is, with the best sequence so far kept.

    Each step it tries the sequence kept from the step before, less its first action, and ``rollouts − 1`` others: half of
    them new, half the kept one changed from some step on. The best is kept and its first action done. Of equal ones the
    kept one wins, so that it goes on with what it began while nothing is in sight; among new ones, the first drawn.

    A sequence is worth ``Σ γ^t r_t`` of the game's own points, up to the first lost life, which counts as ``−life`` times
    the most points that have come at once (1 at least), discounted like them.
    """

    rollouts: int = 16
    """Sequences tried at each step; time grows with ``rollouts · depth``."""
    depth: int = 30
    """Steps of a sequence, of ``FRAME_SKIP`` frames each: how far it sees. 30 are two seconds of the game."""
    gamma: float = 0.99
    """Discount a step: of the same points, the sooner the better."""
    life: float = 10.0
    """What a lost life costs, in units of the most points that have come at once in this game, tried or done."""
    hold: int = 8
    """New sequences are made of actions held for 1 … hold steps: a new one every step would hardly leave the spot."""
    keep: bool = True
    """Go on from the best sequence of the step before; False plans each step anew."""

    _game: Any = field(default=None, init=False, repr=False)
    _twin: Any = field(default=None, init=False, repr=False)
    _actions: list[Any] = field(default_factory=list, init=False, repr=False)
    _kept: Plan | None = field(default=None, init=False, repr=False)
    _unit: float = field(default=1.0, init=False, repr=False)
    _rng: np.random.Generator = field(default_factory=np.random.default_rng, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("rollouts", "depth", "hold"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of the planning expert must be at least 1, not {getattr(self, name)}")

    def reset(self, env: Env, seed: int) -> None:
        """Start a game of ``env``, which has just been reset; ``seed`` decides which sequences are tried."""
        game: Any = env.unwrapped
        if not hasattr(game, "ale") or not isinstance(env.action_space, spaces.Discrete):
            name = env.spec.id if env.spec else str(game)
            raise ConfigError(
                f"the planning expert plays Atari games with buttons: it needs an emulator whose state can be copied, and "
                f"{name} has none. Give --expert an SB3 .zip, a hub id, or module:function"
            )
        # In the game's own emulator planning would leave a trace: restoring a state does not restore the last action,
        # which is what sticks where actions are sticky. The second one has random numbers of its own as well: which
        # actions of the game will stick is not for the planner to know.
        self._game = game.ale
        twin = copy.deepcopy(game)  # made anew with the same options
        twin.reset(seed=seed)
        self._twin = twin.ale
        legal, minimal = self._twin.getLegalActionSet(), self._twin.getMinimalActionSet()
        self._actions = legal if env.action_space.n == len(legal) else minimal
        self._rng = np.random.default_rng(seed)
        self._kept, self._unit = None, 1.0

    def __call__(self, observation: Any) -> int:
        """Choose an action; the observation is not looked at."""
        here = self._game.cloneState()
        plans = self._plans()
        points, lost = np.array([self._play(plan, here) for plan in plans]).T
        best = plans[int(np.argmax(points - self.life * self._unit * lost))]  # of equal ones the first
        self._kept = best[1:] if self.keep else None
        return int(best[0])

    def _plans(self) -> list[Plan]:
        if self._kept is None:
            return [self._new(self.depth) for _ in range(self.rollouts)]
        # One step more: its last action is held on, as long on the average as in a new sequence, or another begins.
        hold_on = len(self._kept) > 0 and self._rng.random() >= 2.0 / (self.hold + 1)
        plans = [np.append(self._kept, self._kept[-1:] if hold_on else self._new(1))]
        for i in range(1, self.rollouts):
            changed_from = int(self._rng.integers(self.depth)) if i % 2 else 0
            plans.append(np.append(self._kept[:changed_from], self._new(self.depth - changed_from)))
        return plans

    def _new(self, length: int) -> Plan:
        actions = self._rng.integers(len(self._actions), size=length)
        return np.repeat(actions, self._rng.integers(1, self.hold + 1, size=length))[:length]

    def _play(self, plan: Plan, here: Any) -> tuple[float, float]:
        """Discounted points of a sequence, and the discount of its first lost life; 0 for none."""
        ale = self._twin
        ale.restoreState(here)
        points, discount, lives = 0.0, 1.0, ale.lives()
        for action in plan:
            reward = float(sum(ale.act(self._actions[action]) for _ in range(FRAME_SKIP)))
            self._unit = max(self._unit, abs(reward))
            points += discount * reward
            if ale.lives() < lives:
                return points, discount
            if ale.game_over():
                break
            discount *= self.gamma
        return points, 0.0
