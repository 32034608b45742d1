"""Whether an episode succeeded: what robot environments say beside the reward, in their ``info``, as two numbers.

Papers on robots report success rather than return, and the two can disagree: a hand may collect reward beside a door
that it never opens.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium

STEPS_OF_SUCCESS = 25
"""An Adroit episode counts as a success if more than this many of its steps do: the convention of Rajeswaran et al.
2018 (DAPG), whose code asks for the door to stay open, the pen to stay turned, and so on."""


class SuccessTracker:
    """Fed with the ``info`` of every step of an episode; knows at its end whether it succeeded.

    - FrankaKitchen tells which tasks were completed so far: ``tasks`` is their number, and an episode succeeds if none
      of those given is left.
    - Adroit tells for each step whether it is one of success: more than ``STEPS_OF_SUCCESS`` of them are asked for.
    - Any other environment that puts ``success`` or ``is_success`` into its info (Meta-World, Fetch, your own): one
      such step is enough.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        adroit = env.spec is not None and env.spec.id.startswith("AdroitHand")
        self._needed = STEPS_OF_SUCCESS + 1 if adroit else 1
        self.reset()

    def reset(self) -> None:
        """A new episode begins."""
        self._good: int | None = None  # steps of success so far
        self._done: set[str] | None = None
        self._left: set[str] = set()

    def step(self, info: Mapping[str, Any]) -> None:
        """Take what one step said."""
        if "episode_task_completions" in info:
            self._done = set(info["episode_task_completions"])
            self._left = set(info.get("tasks_to_complete", ())) - self._done
        for name in ("success", "is_success"):
            if name in info:
                self._good = (self._good or 0) + bool(info[name])
                break

    @property
    def tasks(self) -> float | None:
        """Number of tasks completed so far; None where the environment has no such list."""
        return None if self._done is None else float(len(self._done))

    @property
    def success(self) -> float | None:
        """1.0 for a success so far, 0.0 for none; None where the environment does not say."""
        if self._done is not None:
            return float(not self._left)
        return None if self._good is None else float(self._good >= self._needed)
