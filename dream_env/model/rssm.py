"""The recurrent state-space model: ``hₜ = f(ŝₜ₋₁, aₜ₋₁)``, prior ``p(ẑₜ | hₜ)``, posterior ``q(zₜ | hₜ, xₜ)`` (DITTO eq. 10).

``observe`` runs the posterior along recorded sequences and is what training unrolls; ``imagine_step`` runs the prior and is
what a dream steps. An ensemble of prior heads (one by default) makes disagreement measurable (CMIL §3).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dream_env.errors import ConfigError
from dream_env.latent import Latent
from dream_env.model.nets import Activation, EnsembleMLP, NormGRUCell, activation_module, mlp
from dream_env.model.products import Linear, Unrolled
from dream_env.model.stochastic import Categorical, Gaussian, Stochastic

MAX_CLASSES = 256
"""Most classes of a categorical variable: ``model.encoded`` keeps their numbers as uint8."""


@dataclass(frozen=True)
class RSSMConfig:
    """Sizes of the recurrent state-space model."""

    latent: Literal["categorical", "gaussian"] = "categorical"
    """Kind of the stochastic half: DreamerV2's one-hot groups, or PlaNet's Gaussian."""
    deter: int = 256
    """Width of the recurrent state h."""
    groups: int = 16
    """Number of categorical variables, or of Gaussian dimensions."""
    classes: int = 16
    """Classes of each categorical variable; a Gaussian latent ignores it."""
    hidden: int = 256
    """Width of the layers around the recurrent cell."""
    ensemble: int = 1
    """Number of prior heads; disagreement needs at least two."""
    activation: Activation = "silu"
    """Nonlinearity of every hidden layer; DITTO and DreamerV2 have elu."""

    def __post_init__(self) -> None:
        """Refuse what cannot be kept.

        Raises:
            ConfigError: for more classes than a byte can number, in which encoded demonstrations have them.
        """
        if self.latent == "categorical" and self.classes > MAX_CLASSES:
            raise ConfigError(
                f"a latent of {self.classes} classes was asked for; model states are kept with one byte a class number, so "
                f"{MAX_CLASSES} is the most. Take fewer classes and more groups"
            )


@dataclass(frozen=True)
class Observed:
    """What ``observe`` returns for a sequence: latents, and both distributions' parameters."""

    latent: Latent
    posterior: Float[Tensor, "time batch params"]
    prior: Float[Tensor, "time batch params"]


@dataclass(frozen=True)
class _Products:
    """The layers that every step of the filter needs: as they are, or made for a whole sequence."""

    cell_from_stoch: Callable[[Tensor], Tensor]
    gates: Callable[[Tensor], Tensor]
    posterior_from_deter: Callable[[Tensor], Tensor]
    posterior_out: Callable[[Tensor], Tensor]


class RSSM(nn.Module):
    """See the module; actions come encoded (one-hot or scaled), observations embedded."""

    def __init__(self, config: RSSMConfig, action_size: int, embed_size: int) -> None:
        super().__init__()
        self.config = config
        self.stochastic: Stochastic = (
            Categorical(config.groups, config.classes) if config.latent == "categorical" else Gaussian(config.groups)
        )
        self.deter_size = config.deter
        self.stoch_size = self.stochastic.size
        hidden = config.hidden
        # A layer whose input is a concatenation is written as a sum of two products: the half that is known for the whole
        # sequence (actions, embeddings) is then computed outside the time loop.
        self.cell_from_stoch = Linear(self.stoch_size, hidden)
        self.cell_from_action = Linear(action_size, hidden, bias=False)
        self.cell_norm = nn.LayerNorm(hidden)
        self.cell = NormGRUCell(hidden, config.deter)
        self.posterior_from_deter = Linear(config.deter, hidden)
        self.posterior_from_embed = Linear(embed_size, hidden, bias=False)
        self.posterior_norm = nn.LayerNorm(hidden)
        self.posterior_out = Linear(hidden, self.stochastic.params_size)
        self.activation = activation_module(config.activation)
        params_size = self.stochastic.params_size
        self.prior_net: nn.Module = (
            mlp([config.deter, hidden, params_size], config.activation)
            if config.ensemble == 1
            else EnsembleMLP(config.ensemble, config.deter, hidden, params_size, config.activation)
        )

    @property
    def noise_size(self) -> int:
        """Uniforms that one step takes: those of the latent, and one more to choose the ensemble member."""
        return self.stochastic.noise_size + (self.config.ensemble > 1)

    def initial(self, batch: int) -> Latent:
        """The state before anything was seen: zeros."""
        device = self.cell_from_stoch.weight.device
        return Latent(
            torch.zeros(batch, self.deter_size, device=device), torch.zeros(batch, self.stoch_size, device=device)
        )

    def in_half_precision(self) -> "RSSM":
        """A frozen copy that computes its products in bfloat16, from weights cast once; states stay float32.

        Where the processor has units for it, it dreams 1.4 (small preset) to 1.8 times (paper) as fast.
        """
        half = copy.deepcopy(self).requires_grad_(False)
        for layer in half.modules():
            if isinstance(layer, nn.Linear):
                layer.to(torch.bfloat16)
        half.prior_net.to(torch.bfloat16)  # norms included: what is between its products is not kept
        return half

    def prior(
        self, deter: Float[Tensor, "batch deter"], member_noise: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch params"]:
        """Parameters of ``p(ẑₜ | hₜ)``; with an ensemble, of the member that ``member_noise`` picks for each row."""
        if self.config.ensemble == 1:
            params: Tensor = self.prior_net(deter)
            return params.float()
        if member_noise is None:
            raise ValueError("an ensemble of prior heads needs member_noise to choose a member")
        everyone = self.prior_net(deter)  # (K, N, params)
        member = (member_noise * self.config.ensemble).long().clamp_(max=self.config.ensemble - 1)
        chosen: Tensor = everyone[member, torch.arange(len(member), device=member.device)]
        return chosen.float()

    def _products(self) -> _Products:
        return _Products(self.cell_from_stoch, self.cell.gates, self.posterior_from_deter, self.posterior_out)

    def _unrolled(self) -> _Products:
        layers = self.cell_from_stoch, self.cell.gates, self.posterior_from_deter, self.posterior_out
        return _Products(*(Unrolled(layer) for layer in layers))

    def _advance(
        self, latent_t: Latent, action_part: Tensor, products: _Products | None = None
    ) -> Float[Tensor, "batch deter"]:
        products = products or self._products()
        # .float() is for training under autocast, where products come in half precision; all else stays float32.
        x = self.activation(self.cell_norm((products.cell_from_stoch(latent_t.stoch) + action_part).float()))
        deter: Tensor = self.cell(x, latent_t.deter, products.gates)
        return deter

    def _posterior(
        self, deter: Tensor, embed_part: Tensor, products: _Products | None = None
    ) -> Float[Tensor, "batch params"]:
        products = products or self._products()
        hidden = self.activation(self.posterior_norm((products.posterior_from_deter(deter) + embed_part).float()))
        return products.posterior_out(hidden).float()

    def observe(
        self,
        action_tm1: Float[Tensor, "time batch action"],
        embed: Float[Tensor, "time batch embed"],
        is_first: Bool[Tensor, "time batch"],
        noise: Float[Tensor, "time batch noise"],
        start: Latent | None = None,
    ) -> Observed:
        """Filter recorded sequences from ``start`` on; rows where ``is_first`` start from the zero state."""
        keep = (~is_first).unsqueeze(-1).to(embed.dtype)
        # unbind, not [t] in the loop, whose way back would add a whole sequence of zeros at each step.
        action_parts = self.cell_from_action(action_tm1 * keep).unbind()  # nothing was done before a first row
        embed_parts = self.posterior_from_embed(embed).unbind()
        latent = self.initial(is_first.shape[1]) if start is None else start
        # One look at the flags, not one a step; a GPU would have to stop for even that one, so there every row is multiplied.
        fresh = is_first.any(dim=1).tolist() if embed.device.type == "cpu" else [True] * len(embed)
        products = self._unrolled()
        latents, posteriors = [], []
        sample_noise = noise[..., : self.stochastic.noise_size]
        for t in range(len(embed)):
            if fresh[t]:
                latent = latent.map(lambda half, t=t: half * keep[t])  # type: ignore[misc]
            deter = self._advance(latent, action_parts[t], products)
            posterior = self._posterior(deter, embed_parts[t], products)
            latent = Latent(deter, self.stochastic.sample(posterior, sample_noise[t]))
            latents.append(latent)
            posteriors.append(posterior)
        sequence = Latent.stack(latents)
        member_noise = noise[..., -1].flatten() if self.config.ensemble > 1 else None
        prior = self.prior(sequence.deter.flatten(0, 1), member_noise).unflatten(0, is_first.shape)
        return Observed(sequence, torch.stack(posteriors), prior)

    def observe_step(
        self,
        latent_tm1: Latent,
        action_tm1: Float[Tensor, "batch action"],
        embed: Float[Tensor, "batch embed"],
        is_first: Bool[Tensor, " batch"],
        noise: Float[Tensor, "batch noise"] | None = None,
    ) -> Latent:
        """One step of the filter; without noise the posterior's mode is taken."""
        keep = (~is_first).unsqueeze(-1).to(embed.dtype)
        deter = self._advance(latent_tm1.map(lambda half: half * keep), self.cell_from_action(action_tm1 * keep))
        posterior = self._posterior(deter, self.posterior_from_embed(embed))
        if noise is None:
            return Latent(deter, self.stochastic.mode(posterior).float())
        return Latent(deter, self.stochastic.sample(posterior, noise[:, : self.stochastic.noise_size]))

    def imagine_step(
        self, latent_t: Latent, action_t: Float[Tensor, "batch action"], noise: Float[Tensor, "batch noise"]
    ) -> Latent:
        """One step of the prior: the dream's transition; differentiable in latent and action where gradients are on."""
        deter = self._advance(latent_t, self.cell_from_action(action_t))
        prior = self.prior(deter, noise[:, -1] if self.config.ensemble > 1 else None)
        sample_noise = noise[:, : self.stochastic.noise_size]
        return Latent(deter, self.stochastic.sample(prior, sample_noise, gradient=torch.is_grad_enabled()))

    def disagreement(self, latent_t: Latent, action_t: Float[Tensor, "batch action"]) -> Float[Tensor, " batch"]:
        """Standard deviation over the members of what each predicts for ``ẑₜ₊₁``, averaged over its dimensions (CMIL eq. 9).

        Of means for a Gaussian latent, of class probabilities for a categorical one. Non-negative; 0 where all agree.
        """
        if self.config.ensemble < 2:
            raise ValueError(
                f"disagreement needs an ensemble of at least 2 prior heads; this model has {self.config.ensemble}"
            )
        deter = self._advance(latent_t, self.cell_from_action(action_t))
        return self.stochastic.center(self.prior_net(deter).float()).std(dim=0).mean(dim=-1)
