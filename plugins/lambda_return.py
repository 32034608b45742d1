"""λ-returns and the actor's and critic's losses as pure functions (DITTO appendix C), and rewards standardised per step.

Time is the first axis: row ``t`` of 0 … H − 1 is a step of the dream, from ``ŝ_t`` by ``a_t`` to ``ŝ_{t+1}``, and its reward
``r_t`` is the dream's for that step (``plugins/ditto.py`` says which state it looks at). So there are H rewards and H + 1
states. Eqs. 15 and 16 leave out the last state; algorithm 1 sums the critic's loss over it too, where the target is the slow
critic's own value. Here it is as in the equations: a loss for each state in which something was done, none for the last one.

The paper sums over time; these are means over time and dreams. Adam does not mind a constant factor, and so the weights of
entropy and anchor are per step, whatever the horizon.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dream_env.learning.sb3 import StandardizedReward

Steps = Float[Tensor, "horizon batch"]


def lambda_returns(reward_t: Steps, value_tp1: Steps, discount_tp1: Steps, td_lambda: float) -> Steps:
    """``V_t = r_t + γ_{t+1} ((1 − λ) v(ŝ_{t+1}) + λ V_{t+1})`` with ``V_H = v(ŝ_H)`` (DITTO eq. 14), in units of reward.

    λ = 0 is one-step temporal difference, λ = 1 the Monte Carlo return with the value of the last state behind it.

    Args:
        reward_t: what each step earned.
        value_tp1: v of the state that each step led to.
        discount_tp1: γ, and 0 where the step ended its dream, so that nothing after it counts.
        td_lambda: λ.
    """
    after, returns = value_tp1[-1], []
    for reward, value, discount in zip(reward_t.flip(0), value_tp1.flip(0), discount_tp1.flip(0), strict=True):
        after = reward + discount * ((1.0 - td_lambda) * value + td_lambda * after)
        returns.append(after)
    return torch.stack(returns[::-1])


def mean_over(x: Steps, valid: Bool[Tensor, "horizon batch"]) -> Float[Tensor, ""]:
    """The mean over the steps that were made; the others come after the end of a dream."""
    return (x * valid).sum() / valid.sum()


def critic_loss(value_t: Steps, return_t: Steps, valid: Bool[Tensor, "horizon batch"]) -> Float[Tensor, ""]:
    """``½ (v(ŝ_t) − sg V_t)²`` (DITTO eq. 15)."""
    return mean_over(0.5 * (value_t - return_t.detach()).square(), valid)


def reinforce_loss(log_prob_t: Steps, advantage_t: Steps, valid: Bool[Tensor, "horizon batch"]) -> Float[Tensor, ""]:
    """``−log π(a_t | ŝ_t) sg(A_t)`` (the first term of DITTO eq. 16; Williams 1992). A_t > 0 makes ``a_t`` likelier."""
    return mean_over(-log_prob_t * advantage_t.detach(), valid)


def normalized(advantage_t: Steps, valid: Bool[Tensor, "horizon batch"]) -> Steps:
    """The advantages of one update with mean 0 and standard deviation 1."""
    centered = advantage_t - mean_over(advantage_t, valid)
    return centered / (mean_over(centered.square(), valid).sqrt() + 1e-8)


class StepStandardizer:
    """``0.1 (r_t − μ_t) / (σ_t + ε)``: rewards standardised for each step index by itself, with running statistics.

    The same numbers as ``StandardizedReward`` of ``dream_env/learning/sb3.py``, where its reasons are given, so that learners
    can be compared; this one takes whole dreams at once and lets gradients through, to the rewards and not to the statistics.
    """

    SCALE = StandardizedReward.SCALE
    RATE = StandardizedReward.RATE

    def __init__(self, horizon: int, device: torch.device) -> None:
        zeros = torch.zeros(horizon, 1, dtype=torch.float64, device=device)
        self._state = {"mean": zeros, "square": zeros + 1.0, "count": zeros.clone()}

    def __call__(self, reward_t: Steps, valid: Bool[Tensor, "horizon batch"]) -> Steps:
        """Take the rewards into the statistics, then standardise them."""
        plain, state = reward_t.detach().double() * valid, self._state
        made = valid.sum(dim=1, keepdim=True)
        count = state["count"] + (made > 0)
        rate = torch.where(made > 0, (1.0 / count.clamp_min(1.0)).clamp_min(self.RATE), 0.0)
        made = made.clamp_min(1)
        mean = state["mean"] + rate * (plain.sum(dim=1, keepdim=True) / made - state["mean"])
        square = state["square"] + rate * (plain.square().sum(dim=1, keepdim=True) / made - state["square"])
        self._state = {"mean": mean, "square": square, "count": count}
        spread = (square - mean.square()).clamp_min(0.0).sqrt() + 1e-6
        return self.SCALE * (reward_t - mean.float()) / spread.float()

    def state_dict(self) -> dict[str, Tensor]:
        """The statistics, for an exact resume."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of ``state_dict``."""
        self._state = {name: state[name].to(tensor.device) for name, tensor in self._state.items()}
