"""P-DAC's discriminator: the expert's steps against the learner's, and the reward that follows (Kostrikov et al. 2019).

``D(s, a)`` is the probability that a step is the expert's, ``logit`` its log-odds. It descends, on a batch of the expert's steps
and one of all that was ever played (DAC eq. 3: off-policy, without importance weights),

    L = E_expert[−log D] + E_replay[−log(1 − D)] + λ E[(‖∇ logit‖ − 1)²],        λ = 10, between pairs of the two batches

and the reward is ``log D − log(1 − D) = logit``: above 0 where the expert is the likelier one, below 0 elsewhere, so that it says
neither "live long" nor "end soon" (DAC §4.1; what it says at an end for good is in ``pdac_steps.py``).

What it sees of a state, from pictures, are features of the *target* critic's encoder, which follows the critic's slowly; it does
not train them. Behind pixels of its own it would tell one recording from the other by their noise. The features lie between −1
and 1, which gives the gradient's penalty a scale; vectors are in standard units.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dream_env.model.nets import mlp


class Discriminator(nn.Module):
    """Features and actions to log-odds of being the expert's. At first it knows nothing: all are 0."""

    def __init__(
        self, features: int, action: int, hidden: tuple[int, ...], learning_rate: float, penalty: float
    ) -> None:
        super().__init__()
        self.network = mlp([features + action, *hidden, 1], "silu")
        for parameter in self.network[-1].parameters():
            nn.init.zeros_(parameter)
        self.penalty = penalty
        self.optimizer = torch.optim.Adam(self.parameters(), learning_rate)

    def forward(self, step: Float[Tensor, "batch size"]) -> Float[Tensor, " batch"]:
        """The reward of steps, features and actions side by side."""
        logit: Tensor = self.network(step).squeeze(-1)
        return logit

    def learn(
        self, expert: Float[Tensor, "batch size"], learner: Float[Tensor, "batch size"]
    ) -> dict[str, Float[Tensor, ""]]:
        """One gradient step; draws from torch's global generator.

        Returns:
            ``discriminator_loss`` in nats (0.69 · 2 knows nothing), ``accuracy_expert`` and ``accuracy_learner`` (shares on
            the right side of 1/2), ``gradient_penalty`` unweighted; before the step.
        """
        on_expert, on_learner = self(torch.cat([expert, learner])).chunk(2)
        loss = F.softplus(-on_expert).mean() + F.softplus(on_learner).mean()  # −log D = softplus(−logit), and so on
        between = torch.lerp(expert, learner, torch.rand_like(expert[:, :1])).requires_grad_()
        (gradient,) = torch.autograd.grad(self(between).sum(), between, create_graph=True)
        penalty = (torch.linalg.vector_norm(gradient, dim=-1) - 1.0).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        (loss + self.penalty * penalty).backward()
        self.optimizer.step()
        return {
            "discriminator_loss": loss.detach(), "gradient_penalty": penalty.detach(),
            "accuracy_expert": (on_expert > 0.0).float().mean(), "accuracy_learner": (on_learner < 0.0).float().mean(),
        }  # fmt: skip
