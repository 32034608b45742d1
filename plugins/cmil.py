"""CMIL's reward: an adversary's, made conservative by the world model's doubt (CMIL eq. 10; arXiv 2405.13193).

``r(ŝ, a) = log D(ŝ, a) − log(1 − D(ŝ, a)) − α · disagreement(ŝ, a)``

The discriminator and its sign are ``gail``'s. ``disagreement ≥ 0`` is the standard deviation, over the K prior heads of the
ensemble, of what each predicts for the next latent, averaged over its dimensions (eq. 9): of means for a Gaussian latent, as
in the paper, of class probabilities for a categorical one, which are smaller, so that α means less there. It is subtracted:
where the model does not know what happens, nothing is to be gained. With ``alpha=0`` this is ``gail`` with the same options.

Where the paper and its released code differ:

1. the paper takes the logit of D, the code its probability; here ``form``, by default the paper's ``logit``.
2. the noise on the discriminator's inputs has a variance of 2.5 in the paper, a standard deviation of 2.5 in the code; here
   ``input_noise`` is the standard deviation, by default the paper's.
3. the code has that noise also when it scores the policy; the paper does not say. Here ``score_noise``, by default off. A
   reward is the same for the same step, so where it is on the noise is a function of the step: drawn anew for each, but
   alike whenever that step is asked for.
4. the discriminator has two layers of 200 and a step size of 3e-5 in the code, of which the paper says nothing; here they are.
5. the code makes one gradient step of the discriminator in an update; here ``updates``, by default four, for the fewer updates
   that a CPU has time for.

``cmil-released`` is 1 to 3 as the code has them, and 5. The penalty is for dreamed steps alone: what was recorded did happen
(``on_data``). The learner ``cmil`` (``conservative.py``) is the rest of the method; under any other the reward works as well.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from dream_env.errors import ConfigError
from dream_env.functional import counter_uniform, row_numbers, standard_normal
from dream_env.latent import Latent
from dream_env.model.encoded import EncodedDemos
from dream_env.model.world_model import WorldModel
from dream_env.plugin import Transition

from .gail import Form, Gail


@dataclass
class Cmil(Gail):
    """``gail`` minus α times the ensemble's disagreement, CMIL eq. 10; see the module for the variants."""

    name: ClassVar[str] = "cmil"

    form: Form = "logit"
    """What of D is the reward before the penalty: log D − log(1 − D) (the paper), D (the code), log D or −log(1 − D)."""
    hidden: tuple[int, ...] = (200, 200)
    """Hidden layers of the discriminator (the released code)."""
    learning_rate: float = 3e-5
    """Step size of its optimiser, Adam (the released code)."""
    input_noise: float = 2.5**0.5
    """Standard deviation of the noise the discriminator learns with: √2.5 in the paper, 2.5 in the released code."""
    alpha: float = 10.0
    """Weight of the disagreement that is subtracted (paper, §6); 0 is gail."""
    score_noise: bool = False
    """Add ``input_noise`` also to what the discriminator is asked about (the released code), not only to what it learns from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.alpha >= 0.0:
            raise ConfigError(f"cmil subtracts alpha times the disagreement: alpha is at least 0, not {self.alpha}")

    @property
    def bounds(self) -> tuple[float, float]:
        """The form's upper end; a penalty has no lower one."""
        low, high = super().bounds
        return (low if self.alpha == 0.0 else float("-inf"), high)

    def prepare(self, world_model: WorldModel, expert: EncodedDemos) -> None:
        """Keep the world model, whose ensemble is asked at every step.

        Raises:
            ConfigError: if it has no ensemble and alpha is above 0.
        """
        heads = world_model.config.rssm.ensemble
        if self.alpha and heads < 2:
            raise ConfigError(
                f"cmil needs a world model with an ensemble of prior heads to disagree, but this one has {heads}: fit one "
                f"with `dream-env fit ... --model.rssm.ensemble 10`, or take gail, which is cmil without the penalty"
            )
        super().prepare(world_model, expert)
        self._world_model = world_model

    def __call__(self, transition: Transition) -> Float[Tensor, " batch"]:
        """Eq. 10 at what the learner did."""
        reward = super().__call__(transition)
        if not self.alpha:
            return reward
        disagreement_penalty = self._world_model.disagreement(transition.latent_t, transition.action_t)
        return reward - self.alpha * disagreement_penalty

    def logit(self, latent_t: Latent, action_t: Tensor, latent_tp1: Latent | None = None) -> Float[Tensor, "*shape"]:
        """``log D − log(1 − D)``, with ``score_noise`` at a place beside the step."""
        if not self.score_noise:
            return super().logit(latent_t, action_t, latent_tp1)
        seen = self._seen(latent_t, action_t, latent_tp1)
        logit: Tensor = self.discriminator(
            seen + self.input_noise * noise_of(seen, self._generator.initial_seed())
        ).squeeze(-1)
        return logit

    def on_data(self, transition: Transition) -> Float[Tensor, " batch"]:
        """Without the penalty: what was recorded did happen (§5)."""
        return super().__call__(transition)


@dataclass
class CmilReleased(Cmil):
    """``cmil`` as its released code has it: D itself, a standard deviation of 2.5, noise also in scores, one step an update."""

    name: ClassVar[str] = "cmil-released"

    form: Form = "probability"
    """What of D is the reward before the penalty: log D − log(1 − D) (the paper), D (the code), log D or −log(1 − D)."""
    input_noise: float = 2.5
    """Standard deviation of the noise on the discriminator's inputs."""
    score_noise: bool = True
    """Add it also to what the discriminator is asked about."""
    updates: int = 1
    """Gradient steps of the discriminator in an update."""


@dataclass
class Vmail(Cmil):
    """``cmil`` without its penalty, for the same method without conservatism; VMAIL's own code has ``gail``'s probability."""

    name: ClassVar[str] = "vmail"

    alpha: float = 0.0
    """Weight of the disagreement that is subtracted: none."""


@torch.no_grad()
def noise_of(x: Float[Tensor, "*shape size"], seed: int) -> Float[Tensor, "*shape size"]:
    """Standard normal numbers that are a function of each row of ``x``: any other row has others, the same row the same."""
    rows = row_numbers(x).flatten()
    return standard_normal(counter_uniform(rows, torch.full_like(rows, seed), x.shape[-1])).reshape(x.shape)
