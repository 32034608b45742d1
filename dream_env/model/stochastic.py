"""The two kinds of stochastic latent ``z``: groups of categorical variables (DreamerV2) and diagonal Gaussians (PlaNet, CMIL).

Both speak of a distribution as one flat tensor of parameters, so that the RSSM never asks which kind it holds.
"""

from typing import Protocol

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dream_env.functional import (
    kl_categorical,
    kl_gaussian,
    sample_one_hot,
    sample_straight_through,
    standard_normal,
)


class Stochastic(Protocol):
    """What the RSSM needs of a latent distribution; ``params`` is its last axis, ``noise`` is uniform in (0, 1)."""

    size: int
    """Width of a sample."""
    params_size: int
    noise_size: int

    def sample(
        self, params: Float[Tensor, "*shape params"], noise: Float[Tensor, "*shape noise"], *, gradient: bool = True
    ) -> Float[Tensor, "*shape stoch"]:
        """Draw ``z``, differentiable in ``params`` unless ``gradient`` is off."""

    def mode(self, params: Float[Tensor, "*shape params"]) -> Float[Tensor, "*shape stoch"]:
        """The most probable ``z``."""

    def kl(
        self, params_q: Float[Tensor, "*shape params"], params_p: Float[Tensor, "*shape params"]
    ) -> Float[Tensor, "*shape"]:
        """``KL(q‖p)`` in nats, summed over all variables."""

    def entropy(self, params: Float[Tensor, "*shape params"]) -> Float[Tensor, "*shape"]:
        """Entropy in nats, summed over all variables (differential for Gaussians)."""

    def center(self, params: Float[Tensor, "*shape params"]) -> Float[Tensor, "*shape center"]:
        """What an ensemble is compared by: class probabilities, or means (CMIL eq. 9)."""


class Categorical:
    """``groups`` independent one-hot variables of ``classes`` classes; ``params`` are logits."""

    def __init__(self, groups: int, classes: int) -> None:
        self.groups = groups
        self.classes = classes
        self.size = groups * classes
        self.params_size = self.size
        self.noise_size = groups

    def _grouped(self, flat: Tensor) -> Tensor:
        grouped: Tensor = flat.unflatten(-1, (self.groups, self.classes))
        return grouped

    def sample(
        self, params: Float[Tensor, "*shape params"], noise: Float[Tensor, "*shape noise"], *, gradient: bool = True
    ) -> Float[Tensor, "*shape stoch"]:
        draw = sample_straight_through if gradient else sample_one_hot
        return draw(self._grouped(params).float(), noise).flatten(-2)

    def mode(self, params: Float[Tensor, "*shape params"]) -> Float[Tensor, "*shape stoch"]:
        grouped = self._grouped(params)
        return F.one_hot(grouped.argmax(dim=-1), self.classes).to(grouped.dtype).flatten(-2)

    def kl(
        self, params_q: Float[Tensor, "*shape params"], params_p: Float[Tensor, "*shape params"]
    ) -> Float[Tensor, "*shape"]:
        return kl_categorical(self._grouped(params_q).float(), self._grouped(params_p).float())

    def entropy(self, params: Float[Tensor, "*shape params"]) -> Float[Tensor, "*shape"]:
        log_p = self._grouped(params).float().log_softmax(dim=-1)
        return -(log_p.exp() * log_p).sum(dim=(-2, -1))

    def center(self, params: Float[Tensor, "*shape params"]) -> Float[Tensor, "*shape center"]:
        return self._grouped(params).softmax(dim=-1).flatten(-2)


class Gaussian:
    """``dims`` independent normal variables; ``params`` are means and raw scales, ``σ = softplus(raw) + 0.1`` (PlaNet)."""

    MIN_STD = 0.1

    def __init__(self, dims: int) -> None:
        self.size = dims
        self.params_size = 2 * dims
        self.noise_size = dims

    def _mean_std(self, params: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = params.float().chunk(2, dim=-1)
        return mean, F.softplus(raw) + self.MIN_STD

    def sample(
        self, params: Float[Tensor, "*shape params"], noise: Float[Tensor, "*shape noise"], *, gradient: bool = True
    ) -> Float[Tensor, "*shape stoch"]:
        mean, std = self._mean_std(params if gradient else params.detach())
        return mean + std * standard_normal(noise)

    def mode(self, params: Float[Tensor, "*shape params"]) -> Float[Tensor, "*shape stoch"]:
        return self._mean_std(params)[0]

    def kl(
        self, params_q: Float[Tensor, "*shape params"], params_p: Float[Tensor, "*shape params"]
    ) -> Float[Tensor, "*shape"]:
        return kl_gaussian(*self._mean_std(params_q), *self._mean_std(params_p))

    def entropy(self, params: Float[Tensor, "*shape params"]) -> Float[Tensor, "*shape"]:
        _, std = self._mean_std(params)
        return (std.log() + 1.4189385332046727).sum(dim=-1)  # ½ log(2πe) a dimension

    def center(self, params: Float[Tensor, "*shape params"]) -> Float[Tensor, "*shape center"]:
        return self._mean_std(params)[0]
