"""DITTO's reward: how near the dream's model state lies to the expert's at the same step (DITTO eq. 8).

``r_t = (zᴱ · zᵖⁱ) / max(‖zᴱ‖, ‖zᵖⁱ‖)²``   in [−1, 1], dimensionless; 1 exactly where the dream is on the expert's.

It is cosine similarity times the ratio of the shorter to the longer norm, so it drops with angle *and* with length;
DITTO found it better than the L2 distance and the plain cosine.

What ``z`` is differs between the paper and its code:

1. the whole model state ``ŝ = (h, z)``: the paper's text (§3.1 "model states", algorithm 1); here ``space="both"``.
2. the deterministic half ``h`` only: the released code (``max_cos`` on ``state[..., :1024]``); here ``space="h"``, the
   default, since the published curves came from that code.
3. the stochastic half ``z`` only: the letter in eq. 8 read literally; here ``space="z"``. For one-hot latents it is the
   share of categorical variables on which dream and expert agree, a noisy number.

Which step is compared: the state that the action led to, ``latent_tp1``, with the expert's state of the same step. The
start is shared, so its reward would be 1 whatever the learner does. The released code gives 0 for the last step of each
unroll; ``last_step_zero`` does the same, off by default because nothing in the paper asks for it.

Seen on an early Pong model: the expert's own actions replayed in the dream earn 0.98 … 0.88 over 15 steps, random
actions 0.96 … 0.75. The range is narrow: compare with these two lines, not with 0 and 1, and normalise advantages.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from dream_env.errors import ConfigError, nearest
from dream_env.latent import Latent
from dream_env.plugin import Reward, Transition

Space = Literal["h", "z", "both"]


@dataclass(frozen=True)
class Ditto(Reward):
    """Similarity of model states, DITTO eq. 8; see the module for the variants."""

    name: ClassVar[str] = "ditto"

    space: Space = "h"
    """What is compared: the deterministic half h (the released code), the stochastic z, or both (the paper)."""
    last_step_zero: bool = False
    """Give no reward for the last step of a dream, as the released code does."""

    def __post_init__(self) -> None:
        if self.space not in get_args(Space):
            raise ConfigError(
                f"ditto compares space h, z or both, not {self.space!r}.{nearest(str(self.space), get_args(Space))}"
            )

    @property
    def bounds(self) -> tuple[float, float]:
        """−1 for opposite states, 1 for equal ones."""
        return (-1.0, 1.0)

    def __call__(self, transition: Transition) -> Float[Tensor, " batch"]:
        """Eq. 8 on the states that the step led to."""
        reward = max_cosine(self._part(transition.expert_latent_tp1), self._part(transition.latent_tp1))
        if self.last_step_zero:
            reward = reward.masked_fill(transition.step_t == transition.horizon - 1, 0.0)
        return reward

    def _part(self, latent: Latent) -> Float[Tensor, "batch size"]:
        if self.space == "both":
            return latent.feat
        return latent.deter if self.space == "h" else latent.stoch


def max_cosine(a: Float[Tensor, "*shape size"], b: Float[Tensor, "*shape size"]) -> Float[Tensor, "*shape"]:
    """``(a · b) / max(‖a‖, ‖b‖)²`` (DITTO eq. 8), in [−1, 1]; 0 where both are zero.

    The squared norms are compared instead of the norms: the same maximum, without two roots.
    """
    dot = (a * b).sum(dim=-1)
    longest = torch.maximum(a.square().sum(dim=-1), b.square().sum(dim=-1))
    # |a · b| ≤ max(‖a‖, ‖b‖)² holds for real numbers; the clamp takes off what rounding adds.
    return (dot / longest.clamp_min(torch.finfo(dot.dtype).tiny)).clamp(-1.0, 1.0)
