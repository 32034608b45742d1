"""Real environments that break in every way; without PyTorch, so that a worker that plays them starts at once."""

import os
import signal
import time

import gymnasium
import numpy as np
from gymnasium import spaces


class Line(gymnasium.Env):
    """A place on a line, 10 steps long, on which nothing breaks."""

    observation_space = spaces.Dict({"place": spaces.Box(-np.inf, np.inf, (1,), np.float32)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.place, self.steps = seed, np.zeros(1, np.float32), 0
        return {"place": self.place}, {}

    def step(self, action):
        self.steps += 1
        self.place += 2 * action - 1  # its buffer is used again and again
        self.trouble()
        return {"place": self.place}, float(self.place[0]), self.steps == 10, False, {"success": self.steps == 4}

    def trouble(self):
        """Nothing happens."""


class Sick(Line):
    """Odd seeds break down in their third step, each in its way."""

    def trouble(self):
        if self.steps == 3 and self.seed == 1:
            self.place[:] = np.nan
        if self.steps == 3 and self.seed == 3:
            raise ZeroDivisionError("singular matrix")

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, np.inf if self.seed == 5 and self.steps == 3 else reward, *rest


class Deadly(Line):
    """Seed 13 kills its process in the fourth step, seed 14 never answers, seed 15 leaves."""

    def trouble(self):
        if self.steps == 4 and self.seed == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.steps == 4 and self.seed == 14:
            time.sleep(1000)
        if self.steps == 4 and self.seed == 15:
            os._exit(3)


class Stillborn(Line):
    """Ends its process when it is begun."""

    def reset(self, *, seed=None, options=None):
        os._exit(1)


class Unmade(Line):
    """Cannot be made."""

    def __init__(self):
        raise FileNotFoundError("no such model: hand.xml")
