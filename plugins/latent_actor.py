"""The networks of ``actor_critic``: an actor and a critic on model states, and the policy that an actor becomes.

Discrete actions have a categorical distribution; a Box has a normal one in every dimension, whose numbers ``u`` on the whole
line become actions by ``Squash``. Densities and entropies are those of actions scaled to [−1, 1], as the world model has
them, so they do not depend on the unit of an action.
"""

import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dream_env.functional import sample_one_hot
from dream_env.model.products import Linear
from dream_env.plugin import Policy
from dream_env.spaces import ActionSpec

Activation = Literal["tanh", "relu", "silu", "elu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "elu": nn.ELU}
SquashKind = Literal["tanh", "clip"]

MIN_STD = 0.1
"""Smallest σ of a normal, in units of ``u`` (DreamerV2's)."""
STD_RANGE = 2.0
"""How much larger σ can get: beyond this a normal over [−1, 1] is all bounds, and an entropy bonus would go there."""
EDGE = 1e-3
"""How far inside its bounds an action is taken to be when its ``u`` is looked for; at a bound it would be infinite."""


@dataclass(frozen=True)
class NetShape:
    """What a network on model states looks like."""

    feat_size: int
    hidden: tuple[int, ...]
    activation: Activation
    layer_norm: bool

    def build(self, output_size: int) -> nn.Sequential:
        """``Linear (→ LayerNorm) → activation`` for each hidden layer, then a Linear of zeros.

        So the first policy knows no preference and the first critic says 0: the chance of initial weights decides nothing.
        """
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise([self.feat_size, *self.hidden]):
            layers.append(Linear(width_in, width_out))
            if self.layer_norm:
                layers.append(nn.LayerNorm(width_out))
            layers.append(_ACTIVATIONS[self.activation]())
        last = Linear([self.feat_size, *self.hidden][-1], output_size)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(*layers, last)


@dataclass(frozen=True)
class Drawn:
    """Actions drawn from a policy, and what the losses need of them."""

    action: Tensor
    """As the environment takes them; differentiable for a Box."""
    log_prob: Float[Tensor, " batch"]
    """log π(a) of these very actions, differentiable in the policy alone."""
    entropy: Float[Tensor, " batch"]
    """In nats; for ``tanh`` an unbiased estimate from this draw."""


class Choice:
    """A categorical distribution over the actions of a Discrete space."""

    def __init__(self, logits: Float[Tensor, "batch actions"], start: int) -> None:
        self._log_p = logits.log_softmax(dim=-1)
        self._start = start

    def draw(self, generator: torch.Generator | None = None) -> Drawn:
        """One action a row."""
        log_p = self._log_p
        uniform = torch.rand(log_p.shape[:-1], generator=generator, device=log_p.device)
        action = sample_one_hot(log_p.detach(), uniform).argmax(dim=-1) + self._start
        return Drawn(action, self.log_prob(action), -(log_p.exp() * log_p).sum(dim=-1))

    def log_prob(self, action: Int[Tensor, " batch"]) -> Float[Tensor, " batch"]:
        """log π(a)."""
        return self._log_p.gather(-1, (action - self._start).unsqueeze(-1)).squeeze(-1)

    def mode(self) -> Int[Tensor, " batch"]:
        """The likeliest action."""
        return self._log_p.argmax(dim=-1) + self._start


class SquashedNormal:
    """A normal distribution in every dimension of a Box, by ``Squash`` brought into its bounds."""

    def __init__(self, params: Float[Tensor, "batch params"], squash: "Squash") -> None:
        self._mean, raw = params.chunk(2, dim=-1)
        self._std = MIN_STD + STD_RANGE * raw.sigmoid()
        self._squash = squash

    def draw(self, generator: torch.Generator | None = None) -> Drawn:
        """One action a row, ``u = μ + σ ε``.

        ``H(a) = H(u) + E[log |da/du|]``: the first is exact, the second is taken at this draw and differentiable through it.
        """
        noise = torch.randn(self._mean.shape, generator=generator, device=self._mean.device)
        u = self._mean + self._std * noise
        entropy = (self._std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1) + self._squash.log_slope(u)
        return Drawn(self._squash(u), self._density(u.detach()), entropy)

    def log_prob(self, action: Float[Tensor, "batch *box"]) -> Float[Tensor, " batch"]:
        """log π(a)."""
        return self._density(self._squash.inverse(action))

    def mode(self) -> Float[Tensor, "batch *box"]:
        """The action of the mean."""
        action: Tensor = self._squash(self._mean)
        return action

    def _density(self, u: Float[Tensor, "batch size"]) -> Float[Tensor, " batch"]:
        z = (u - self._mean) / self._std
        normal = (-0.5 * z.square() - self._std.log() - 0.5 * math.log(2 * math.pi)).sum(dim=-1)
        return normal - self._squash.log_slope(u)


class Squash(nn.Module):
    """From ``u`` on the whole line to actions of a Box.

    ``tanh``: ``a = tanh u``, scaled, in dimensions with two bounds: smooth everywhere. ``clip``: ``a = u``, scaled, and cut
    off at the bounds; its density is that of ``u``, as in SB3, and gradients pass the cut as if it were not there.
    Dimensions without bounds, or with one, keep their unit and are cut off at the bound there is.
    """

    low: Tensor
    high: Tensor
    center: Tensor
    scale: Tensor
    bent: Tensor

    def __init__(self, space: spaces.Box, kind: SquashKind) -> None:
        super().__init__()
        self.shape = space.shape
        low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
        bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
        left, right = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
        numbers = {"low": low, "high": high, "center": (left + right) / 2, "scale": (right - left) / 2}
        for name, array in numbers.items():
            self.register_buffer(name, torch.as_tensor(array, dtype=torch.float32), persistent=False)
        self.register_buffer("bent", torch.as_tensor(bounded & (kind == "tanh")), persistent=False)

    def forward(self, u: Float[Tensor, "*batch size"]) -> Tensor:
        """The action."""
        flat = torch.where(self.bent, u.tanh(), u) * self.scale + self.center
        cut = flat.detach().clamp(self.low, self.high) + (flat - flat.detach())
        return cut.reshape(*u.shape[:-1], *self.shape)

    def inverse(self, action: Tensor) -> Float[Tensor, "*batch size"]:
        """The ``u`` of an action."""
        flat = action.float().reshape(*action.shape[: action.ndim - len(self.shape)], -1)
        scaled = (flat - self.center) / self.scale
        return torch.where(self.bent, scaled.clamp(EDGE - 1.0, 1.0 - EDGE).atanh(), scaled)

    def log_slope(self, u: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch"]:
        """``Σ log |da/du|`` of the scaled action: ``log(1 − tanh² u) = 2 (log 2 − u − softplus(−2u))`` where it is bent."""
        bent = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
        return torch.where(self.bent, bent, 0.0).sum(dim=-1)


class Actor(nn.Module):
    """``a_t ~ π(a_t | ŝ_t)`` (DITTO eq. 13)."""

    def __init__(self, shape: NetShape, action: ActionSpec, squash: SquashKind) -> None:
        super().__init__()
        self.action = action
        self.net = shape.build(action.size if action.discrete else 2 * action.size)
        self.squash = Squash(action.space, squash) if isinstance(action.space, spaces.Box) else None

    def forward(self, feat: Float[Tensor, "batch feat"]) -> Choice | SquashedNormal:
        """The policy's distribution in each model state."""
        params: Tensor = self.net(feat)
        if isinstance(self.action.space, spaces.Discrete):
            return Choice(params, int(self.action.space.start))
        assert self.squash is not None
        return SquashedNormal(params, self.squash)


class Critic(nn.Module):
    """``v(ŝ_t)``: the discounted sum of rewards to come (DITTO eq. 13)."""

    def __init__(self, shape: NetShape) -> None:
        super().__init__()
        self.net = shape.build(1)

    def forward(self, feat: Float[Tensor, "*batch feat"]) -> Float[Tensor, "*batch"]:
        """The value of each model state."""
        value: Tensor = self.net(feat)
        return value.squeeze(-1)


class ActorPolicy(Policy):
    """An actor that acts on model states as numpy arrays; what it samples comes from torch's global generator."""

    def __init__(self, shape: NetShape, action: ActionSpec, squash: SquashKind) -> None:
        self.actor = Actor(shape, action, squash)
        self._config = {"shape": asdict(shape), "action": action.to_json(), "squash": squash}

    @classmethod
    def of(cls, config: dict[str, Any]) -> "ActorPolicy":
        """The policy that ``config`` describes, with fresh weights."""
        shape = NetShape(**{**config["shape"], "hidden": tuple(config["shape"]["hidden"])})
        return cls(shape, ActionSpec.from_json(config["action"]), config["squash"])

    @classmethod
    def restore(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> "ActorPolicy":
        """The policy of ``config()`` and ``state_dict()``, where the weights are: what ``Learner.restore`` is to return."""
        policy = cls.of(config)
        policy.actor.load_state_dict(weights)
        policy.actor.to(next(iter(weights.values())).device)
        return policy

    @torch.no_grad()
    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions (N, ...) of model states (N, feat): sampled, or the mode if ``deterministic``. There is no memory."""
        device = next(self.actor.parameters()).device
        policy = self.actor(torch.as_tensor(observation, dtype=torch.float32, device=device))
        action = (policy.mode() if deterministic else policy.draw().action).cpu().numpy()
        space = self.actor.action.space
        if isinstance(space, spaces.Box):  # bounds that float32 cannot hold exactly are kept exactly too
            action = action.astype(space.dtype).clip(space.low, space.high)
        return action, state

    def config(self) -> dict[str, Any]:
        """Sizes and spaces as JSON."""
        return dict(self._config)

    def state_dict(self) -> dict[str, Tensor]:
        """The actor's weights; the critic has no part in acting."""
        weights: dict[str, Tensor] = self.actor.state_dict()
        return weights
