"""Two critics of state and action, and the losses of CMIL §5 as pure functions (eqs. 11 to 15).

Time is the first axis. A branch of H steps has H rewards ``r_t = r(ŝ_t, a_t)`` and, with the action drawn in its last state,
H + 1 values ``min_i Q_i(ŝ_t, a_t)``. The paper counts the reward of a step with the state it leads to (``r^{t+1}``); it is the
same number.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dream_env.latent import Latent
from dream_env.spaces import ActionSpec

from .lambda_return import lambda_returns
from .latent_actor import NetShape


class TwinCritic(nn.Module):
    """``Q_i(ŝ, a)``, i = 1, 2: the discounted sum of rewards after doing ``a``, twice, so that the smaller can be believed."""

    def __init__(self, shape: NetShape, action: ActionSpec) -> None:
        super().__init__()
        self.action = action
        self.nets = nn.ModuleList([shape.build(1) for _ in range(2)])

    def forward(self, latent: Latent, action: Tensor) -> Float[Tensor, "two *batch"]:
        """Both values of each state and action, the action as the environment takes it."""
        seen = torch.cat([latent.feat, self.action.encode(action)], dim=-1)
        return torch.stack([net(seen).squeeze(-1) for net in self.nets])

    def least(self, latent: Latent, action: Tensor) -> Float[Tensor, "*batch"]:
        """``V_0 = min_i Q_i(ŝ, a)``."""
        least: Tensor = self(latent, action).amin(dim=0)
        return least


def branch_values(
    reward_t: Float[Tensor, "horizon batch"],
    value: Float[Tensor, "horizon_plus_1 batch"],
    discount_tp1: Float[Tensor, "horizon batch"],
    td_lambda: float,
) -> Float[Tensor, "horizon_plus_1 batch"]:
    """``V(ŝ_t)``, the TD(λ) estimate along each branch (CMIL eq. 11); in the last state the value itself.

    Eq. 11 weighs the k-step estimates ``V_k`` with ``(1 − λ) λ^{k−1}`` and the longest with ``λ^{H−t−1}``; that is the recursion
    ``V_t = r_t + γ ((1 − λ) V_0(ŝ_{t+1}) + λ V_{t+1})``.
    """
    return torch.cat([lambda_returns(reward_t, value[1:], discount_tp1, td_lambda), value[-1:]])


def mixed(value: Tensor, estimate: Tensor, td_lambda: float) -> Tensor:
    """``(1 − λ) V_0 + λ V``: what the actor raises (eq. 12), and what follows a recorded step (eq. 14)."""
    return (1.0 - td_lambda) * value + td_lambda * estimate


def data_target(
    reward_j: Float[Tensor, "steps batch"],
    value_jp1: Float[Tensor, "steps batch"],
    estimate_jp1: Float[Tensor, "steps batch"],
    discount_jp1: Float[Tensor, "steps batch"],
    td_lambda: float,
) -> Float[Tensor, "steps batch"]:
    """What ``Q_i`` of a recorded step regresses (CMIL eq. 14): its reward, then the target critics at the next recorded row.

    Args:
        reward_j: of the recorded steps, without penalty.
        value_jp1: ``V̄_0`` of the row each step led to.
        estimate_jp1: ``V̄`` of that row: TD(λ) along the dream that branches off there.
        discount_jp1: γ, and 0 where the step ended the episode.
        td_lambda: λ.
    """
    return reward_j + discount_jp1 * mixed(value_jp1, estimate_jp1, td_lambda)


def critic_loss(values: Float[Tensor, "two *batch"], target: Float[Tensor, "*batch"]) -> Float[Tensor, ""]:
    """``(Q_i − V̄)²``, summed over the two critics and averaged over everything else (CMIL eqs. 13 and 14)."""
    return (values - target.detach()).square().sum(dim=0).mean()
