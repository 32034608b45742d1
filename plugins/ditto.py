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

How alike, ``metric``:

- ``dot``, eq. 8 above.
- ``cosine``, ``(zᴱ · zᵖⁱ) / (‖zᴱ‖ ‖zᵖⁱ‖)``, in [−1, 1]: does not see lengths. For categorical z it equals eq. 8, since
  all one-hot latents are of one length.
- ``l2``, ``−‖zᴱ − zᵖⁱ‖ / √size``, at most 0: minus the root mean square difference of a component. The paper gives no
  scale; this one does not depend on the model's width. Its "1 −" (eq. 7) is left out: in dreams of one length a constant
  changes nothing. With ``terminate=True`` it does: a reward that is never above 0 makes an early end worth having.
- ``nearest``, eq. 7: eq. 8's similarity to the *nearest* expert state of all demonstrations, ``1 − min d``, in [−1, 1].
  It asks for states that the expert visits, not for them in the expert's order; eq. 8 came of it because the search is
  expensive, and is never above it. Here the search is exact: every dream is compared with every state that a step of the
  expert led to (slips excepted: nobody should imitate them).

``nearest`` is a search (``nearest_state.py``): with 39,000 expert steps and 512 dreams of the small preset on one (busy) core
of a CPU, a step of all dreams takes 10 times as long as with ``dot`` for a ``h`` of 256 numbers, 17 times for z or both.

Seen on an early Pong model with ``dot``: the expert's own actions replayed in the dream earn 0.98 … 0.88 over 15 steps,
random actions 0.96 … 0.75. The range is narrow: compare with these two lines, not with 0 and 1, and normalise advantages.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dream_env.errors import ConfigError, PluginError, nearest
from dream_env.functional import max_cosine as max_cosine
from dream_env.latent import Latent
from dream_env.model.encoded import EncodedDemos
from dream_env.model.world_model import WorldModel
from dream_env.plugin import Reward, Transition

from .nearest_state import NearestState
from .similarity import cosine, negative_distance

Space = Literal["h", "z", "both"]
Metric = Literal["dot", "cosine", "l2", "nearest"]


@dataclass
class Ditto(Reward):
    """Similarity of model states, DITTO eq. 8; see the module for the variants."""

    name: ClassVar[str] = "ditto"

    space: Space = "h"
    """What is compared: the deterministic half h (the released code), the stochastic z, or both (the paper)."""
    last_step_zero: bool = False
    """Give no reward for the last step of a dream, as the released code does."""
    metric: Metric = "dot"
    """How: eq. 8's dot product, its rivals cosine and l2, or eq. 8 with the nearest state of all the expert's (eq. 7)."""

    def __post_init__(self) -> None:
        if self.space not in get_args(Space):
            raise ConfigError(
                f"ditto compares space h, z or both, not {self.space!r}.{nearest(str(self.space), get_args(Space))}"
            )
        if self.metric not in get_args(Metric):
            raise ConfigError(
                f"ditto's metric is dot, cosine, l2 or nearest, not {self.metric!r}."
                f"{nearest(str(self.metric), get_args(Metric))}"
            )
        self._nearest: NearestState | None = None

    @property
    def bounds(self) -> tuple[float, float]:
        """−1 for opposite states, 1 for equal ones; of the distance, no smallest number and 0."""
        return (-np.inf, 0.0) if self.metric == "l2" else (-1.0, 1.0)

    def prepare(self, world_model: WorldModel, expert: EncodedDemos) -> None:
        """Keep the expert's states, encoded as they are, if they are to be searched."""
        if self.metric == "nearest":
            rows = expert.step_rows() + 1  # what each step led to; nothing leads to an episode's first state
            self._nearest = NearestState(lambda some: self._part(expert.latents(rows[some])), len(rows), rows.device)

    def __call__(self, transition: Transition) -> Float[Tensor, " batch"]:
        """The metric on the states that the step led to."""
        theirs, own = self._part(transition.expert_latent_tp1), self._part(transition.latent_tp1)
        if self.metric == "l2":
            reward = negative_distance(theirs, own)
        elif self.metric == "cosine":
            reward = cosine(theirs, own)
        elif self.metric == "nearest":
            reward = max_cosine(self._nearest_to(own), own)
        else:
            reward = max_cosine(theirs, own)
        if self.last_step_zero:
            reward = reward.masked_fill(transition.step_t == transition.horizon - 1, 0.0)
        return reward

    def _nearest_to(self, own: Float[Tensor, "batch size"]) -> Float[Tensor, "batch size"]:
        if self._nearest is None:
            raise PluginError('ditto with metric "nearest" searches the demonstrations; call prepare(...) first')
        return self._nearest.states(self._nearest(own))

    def _part(self, latent: Latent) -> Float[Tensor, "batch size"]:
        if self.space == "both":
            return latent.feat
        return latent.deter if self.space == "h" else latent.stoch
