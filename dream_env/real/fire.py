"""FIRE pressed for the player, as in the preprocessing that the papers' Atari scores come from."""

from typing import Any

import gymnasium
from gymnasium.utils import RecordConstructorArgs


class PressFire(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Press FIRE at the start of an Atari game and after each lost life: some games wait for it with the ball.

    SB3's ``FireResetEnv`` does it after a reset, which its ``EpisodicLifeEnv`` makes of each lost life; whole games, as they
    are played here, need both. A game without that button is left as it is. What a step with FIRE earns after a life
    is added to the step before it; serving earns nothing.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        game: Any = env.unwrapped
        meanings = game.get_action_meanings()
        self._fire = meanings.index("FIRE") if "FIRE" in meanings else None
        self._ale = game.ale
        self._lives = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a game, and serve."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._lives = self._ale.lives()
        if self._fire is not None:
            observation, _, terminated, truncated, info = self.env.step(self._fire)
            if terminated or truncated:  # a limit of one step
                observation, info = self.env.reset(options=options)
        return observation, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """One step, and one more with FIRE if it cost a life."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        lost, self._lives = self._ale.lives() < self._lives, self._ale.lives()
        if lost and self._fire is not None and not (terminated or truncated):
            observation, more, terminated, truncated, info = self.env.step(self._fire)
            reward = float(reward) + float(more)
        return observation, float(reward), terminated, truncated, info
