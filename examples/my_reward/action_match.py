"""A reward that dream-env does not ship: do as the expert does.

``r_t = exp(−‖a_t − aᴱ_t‖² / (2 width²))`` for Box actions, ``r_t = 1 if a_t = aᴱ_t else 0`` for Discrete; in [0, 1].

It is what behaviour cloning maximises, but over the states the *learner* gets into. It shows why DITTO compares states
instead: three steps after a different choice, the expert's action at step t no longer says what is right here.

Examine it with ``python -c "from dream_env.testing import check_reward; check_reward('action-match')"``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dream_env.errors import ConfigError
from dream_env.plugin import Reward, Transition


@dataclass(frozen=True)
class ActionMatch(Reward):
    """Do as the expert does at the same step."""

    name: ClassVar[str] = "action-match"

    width: float = 0.5
    """Distance of Box actions, in the environment's own units, at which the reward has fallen to 0.61."""

    def __post_init__(self) -> None:
        if not self.width > 0.0:
            raise ConfigError(f"action-match needs a width above 0, not {self.width}")

    @property
    def bounds(self) -> tuple[float, float]:
        """0 for another choice, 1 for the same action."""
        return (0.0, 1.0)

    def __call__(self, transition: Transition) -> Tensor:
        """(N,): how near the learner's action is to the expert's."""
        action, expert = transition.action_t, transition.expert_action_t
        if not action.is_floating_point():
            return (action == expert).float()
        distance = (action - expert).flatten(1).norm(dim=1)
        return torch.exp(-0.5 * (distance / self.width) ** 2)
