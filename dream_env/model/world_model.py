"""The world model: encoder + RSSM + decoder (+ continue head), its loss, and the verbs a dream and an agent need of it.

``loss`` is the ELBO of DITTO eq. 11, ``observe_step`` filters real observations, ``imagine_step`` dreams, ``decode`` and
``render`` show what was dreamed.
"""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from dream_env.errors import SpaceError
from dream_env.latent import Latent
from dream_env.model.nets import (
    IMAGE_SIZE,
    ConvDecoder,
    ConvEncoder,
    FlatDecoder,
    FlatEncoder,
    mlp,
)
from dream_env.model.rssm import RSSM, Observed, RSSMConfig
from dream_env.recordings.demos import Batch, Source
from dream_env.spaces import ActionSpec, ObservationKey, ObservationSpec, Standardizer

Precision = Literal["float32", "bfloat16"]
Preset = Literal["small", "paper", "small-gaussian", "paper-gaussian"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
"""Names of sizes: a class method of each config, with an underscore for the dash."""


@dataclass(frozen=True)
class WorldModelConfig:
    """Shape of a world model and of its loss."""

    rssm: RSSMConfig = field(default_factory=RSSMConfig)
    """Sizes of the recurrent state-space model."""
    image_net: Literal["mlp", "cnn"] = "mlp"
    """Network for pictures: mlp learns fastest on a CPU when the camera stands still, cnn is the papers'."""
    depth: int = 16
    """Channels of the first convolution (cnn only)."""
    width: int = 512
    """Width of the plain encoder and decoder layers."""
    layers: int = 2
    """Number of the plain encoder and decoder layers."""
    continue_head: bool = False
    """Also predict whether the episode goes on, so that dreams can end where real episodes end."""
    kl_weight: float = 0.1
    """Weight β of the KL term (DITTO table 1)."""
    kl_balance: float = 0.8
    """Share of the KL gradient that trains the prior (DITTO table 1, DreamerV2 §2)."""
    precision: Precision = "float32"
    """Arithmetic of matrix products while training; weights, the recurrent state and all losses stay float32."""

    @classmethod
    def small(cls) -> "WorldModelConfig":
        """For a CPU: deter 256, 16 × 16 categoricals, plain encoder and decoder."""
        return cls()

    @classmethod
    def paper(cls) -> "WorldModelConfig":
        """DITTO table 1 and appendix B (DreamerV2's sizes): deter 1024, 32 × 32, convolutions of depth 48, ELU."""
        rssm = RSSMConfig(deter=1024, groups=32, classes=32, hidden=1000, activation="elu")
        return cls(rssm=rssm, image_net="cnn", depth=48, width=400, layers=4)

    @classmethod
    def small_gaussian(cls) -> "WorldModelConfig":
        """For continuous control on a CPU: a Gaussian latent, an ensemble of five, plain encoder and decoder."""
        return cls(rssm=RSSMConfig("gaussian", deter=256, groups=48, hidden=256, ensemble=5), kl_weight=1.0)

    @classmethod
    def paper_gaussian(cls) -> "WorldModelConfig":
        """CMIL's: deter 400, a Gaussian latent of 360, an ensemble of ten, DreamerV2's convolutions; the KL weighs 1."""
        rssm = RSSMConfig("gaussian", deter=400, groups=360, hidden=400, ensemble=10, activation="elu")
        return cls(rssm=rssm, image_net="cnn", depth=48, width=400, layers=4, kl_weight=1.0)


@dataclass(frozen=True)
class Losses:
    """The terms of the ELBO, each (time, batch), and what was decoded on the way."""

    terms: dict[str, Float[Tensor, "time batch"]]
    total: Float[Tensor, ""]
    observed: Observed
    decoded: dict[str, Tensor]
    target: dict[str, Tensor]


class WorldModel(nn.Module):
    """See the module. Observations and actions go in as the environment has them; specs and statistics travel inside."""

    def __init__(
        self,
        config: WorldModelConfig,
        observation_spec: ObservationSpec,
        action_spec: ActionSpec,
        source: Source,
        statistics: dict[str, tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.observation_spec = observation_spec
        self.action_spec = action_spec
        self.source = source
        self.standardizer = Standardizer(observation_spec, statistics)
        keys = observation_spec.keys
        self.encoders = nn.ModuleDict({_module_name(key): make_encoder(config, key) for key in keys})
        embed_size = sum(int(encoder.embed_size) for encoder in self.encoders.values())  # type: ignore[arg-type, misc]
        self.rssm = RSSM(config.rssm, action_spec.size, embed_size)
        self.decoders = nn.ModuleDict({_module_name(key): _decoder(config, key, self.feat_size) for key in keys})
        self.continue_net = (
            mlp([self.feat_size] + [config.rssm.hidden] * 2 + [1], config.rssm.activation)
            if config.continue_head
            else None
        )

    # ------------------------------------------------------------------------------------------------------- sizes

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return next(self.parameters()).device

    @property
    def deter_size(self) -> int:
        """Width of the recurrent half ``h``."""
        return self.rssm.deter_size

    @property
    def stoch_size(self) -> int:
        """Width of the stochastic half ``z``."""
        return self.rssm.stoch_size

    @property
    def feat_size(self) -> int:
        """Width of the model state ``(h, z)``: what a policy sees."""
        return self.rssm.deter_size + self.rssm.stoch_size

    @property
    def noise_size(self) -> int:
        """Uniform numbers that one step of the filter or the dream takes, a row."""
        return self.rssm.noise_size

    # ---------------------------------------------------------------------------------------------------- training

    def loss(self, batch: Batch, noise: Float[Tensor, "time batch noise"]) -> Losses:
        """The ELBO of DITTO eq. 11 over a batch of recorded sequences, in nats a step.

        ``L = Σ_keys ½‖x − x̂‖² + β [δ KL(sg q ‖ p) + (1 − δ) KL(q ‖ sg p)] (+ continue cross-entropy)``, with the picture in
        standardised units, so ``½‖·‖²`` is the negative log-likelihood of a unit Gaussian up to a constant.

        Which half of the KL gets δ = 0.8 differs: (1) DITTO eq. 12 as printed gives δ to the posterior regulariser
        ``KL(q ‖ sg p)``; (2) DITTO's text under it, DITTO's code and DreamerV2 eq. 3 give it to the prior, "the prior should
        update more quickly towards the posterior". We do (2); the printed formula contradicts its own explanation.
        """
        target = self.standardizer(batch.obs)
        shape = batch.is_first.shape
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            embed = self._embed({name: x.flatten(0, 1) for name, x in target.items()}).unflatten(0, shape)
            observed = self.rssm.observe(self.action_spec.encode(batch.action_tm1), embed, batch.is_first, noise)
            decoded = self._decode(observed.latent.feat.flatten(0, 1))
        decoded = {name: x.float().unflatten(0, shape) for name, x in decoded.items()}

        terms = {
            # mse_loss is ½‖·‖²'s fastest way: one kernel forward and one back, where a power takes five.
            f"reconstruction/{name}": 0.5 * F.mse_loss(x, target[name], reduction="none").flatten(2).sum(dim=-1)
            for name, x in decoded.items()
        }
        kl = self.rssm.stochastic.kl
        weight, balance = self.config.kl_weight, self.config.kl_balance
        terms["kl_prior"] = weight * balance * kl(observed.posterior.detach(), observed.prior)
        terms["kl_posterior"] = weight * (1.0 - balance) * kl(observed.posterior, observed.prior.detach())
        if self.continue_net is not None:
            logit = self.continue_net(observed.latent.feat).squeeze(-1)
            goes_on = (~batch.is_terminal).float()
            terms["continue"] = F.binary_cross_entropy_with_logits(logit, goes_on, reduction="none")
        total = torch.stack([term.mean() for term in terms.values()]).sum()
        return Losses(terms, total, observed, decoded, target)

    def draw_noise(self, time: int, batch: int, generator: torch.Generator) -> Float[Tensor, "time batch noise"]:
        """Uniforms for a whole sequence at once."""
        return torch.rand(time, batch, self.noise_size, generator=generator, device=generator.device)

    def _embed(self, standardized: dict[str, Tensor]) -> Float[Tensor, "batch embed"]:
        parts = [self.encoders[_module_name(key)](standardized[key.name]) for key in self.observation_spec.keys]
        return torch.cat(parts, dim=-1)

    def _decode(self, feat: Float[Tensor, "batch feat"]) -> dict[str, Tensor]:
        return {key.name: self.decoders[_module_name(key)](feat) for key in self.observation_spec.keys}

    # ------------------------------------------------------------------------------------------ acting and dreaming

    def initial(self, batch: int) -> Latent:
        """The state before anything was seen."""
        return self.rssm.initial(batch)

    def observe_step(
        self,
        latent_tm1: Latent,
        action_tm1: Tensor,
        obs: dict[str, Tensor],
        is_first: Bool[Tensor, " batch"],
        noise: Float[Tensor, "batch noise"] | None = None,
    ) -> Latent:
        """Take in one packed observation a row and return the posterior state; without noise, its mode."""
        embed = self._embed(self.standardizer(obs))
        return self.rssm.observe_step(latent_tm1, self.action_spec.encode(action_tm1), embed, is_first, noise)

    def observe(
        self,
        obs: dict[str, Tensor],
        action_tm1: Tensor,
        is_first: Bool[Tensor, "time batch"],
        noise: Float[Tensor, "time batch noise"],
        start: Latent | None = None,
    ) -> Latent:
        """Filter whole packed sequences (time, batch, ...) from ``start`` on and return the posterior states."""
        standardized = self.standardizer({name: x.flatten(0, 1) for name, x in obs.items()})
        embed = self._embed(standardized).unflatten(0, is_first.shape)
        return self.rssm.observe(self.action_spec.encode(action_tm1), embed, is_first, noise, start).latent

    def imagine_step(self, latent_t: Latent, action_t: Tensor, noise: Float[Tensor, "batch noise"]) -> Latent:
        """Dream one step: the prior's next state under the environment's own kind of action."""
        return self.rssm.imagine_step(latent_t, self.action_spec.encode(action_t), noise)

    def disagreement(self, latent_t: Latent, action_t: Tensor) -> Float[Tensor, " batch"]:
        """How far the ensemble's members differ about the next state; ≥ 0 (CMIL eq. 9)."""
        return self.rssm.disagreement(latent_t, self.action_spec.encode(action_t))

    def decode(self, latent: Latent) -> dict[str, Tensor]:
        """What each state looks like, as packed observations: pictures (..., H, W, C) in 0…255, vectors in their own units."""
        return self.standardizer.inverse(self.decode_standardized(latent))

    def decode_standardized(self, latent: Latent) -> dict[str, Tensor]:
        """What each state looks like in the units of the loss: pictures (..., C, H, W), vectors (..., n)."""
        feat = latent.feat
        flat = self._decode(feat.flatten(0, -2))
        return {name: x.unflatten(0, feat.shape[:-1]) for name, x in flat.items()}

    def continue_probability(self, latent: Latent) -> Float[Tensor, "*shape"]:
        """Probability that the episode goes on from each state; 1 for a model without a continue head."""
        if self.continue_net is None:
            return latent.deter.new_ones(latent.shape)
        logit: Tensor = self.continue_net(latent.feat)
        return logit.squeeze(-1).sigmoid()

    @property
    def image_key(self) -> ObservationKey:
        """The first picture among the observation's keys."""
        for key in self.observation_spec.keys:
            if key.kind == "image":
                return key
        names = ", ".join(key.name for key in self.observation_spec.keys)
        raise SpaceError(f"this world model has no picture to show; its observation has only vectors ({names})")

    @torch.no_grad()
    def render(self, latent: Latent) -> UInt8[np.ndarray, "batch height width 3"]:
        """Each state as an RGB picture."""
        image = self.decode(latent)[self.image_key.name].round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image

    def with_precision(self, precision: Precision) -> "WorldModel":
        """Set the arithmetic of training (weights are float32 either way) and return the model."""
        self.config = replace(self.config, precision=precision)
        return self


def _module_name(key: ObservationKey) -> str:
    return "key_" + key.module_name  # a bare name might be one that ModuleDict has itself, as "values"


def make_encoder(config: WorldModelConfig, key: ObservationKey) -> ConvEncoder | FlatEncoder:
    """A fresh encoder of one observation key: what a world model, or a clone from pictures, looks through."""
    if key.kind == "image" and config.image_net == "cnn":
        _check_image_size(key)
        return ConvEncoder(key.shape[-1], config.depth, config.rssm.activation)
    return FlatEncoder(int(np.prod(key.shape)), config.width, config.layers, config.rssm.activation)


def _decoder(config: WorldModelConfig, key: ObservationKey, feat_size: int) -> ConvDecoder | FlatDecoder:
    if key.kind == "image" and config.image_net == "cnn":
        return ConvDecoder(feat_size, key.shape[-1], config.depth, config.rssm.activation)
    shape = (key.shape[-1], *key.shape[:-1]) if key.kind == "image" else key.shape
    return FlatDecoder(feat_size, shape, config.width, config.layers, config.rssm.activation)


def _check_image_size(key: ObservationKey) -> None:
    if key.shape[:2] != (IMAGE_SIZE, IMAGE_SIZE):
        raise SpaceError(
            f"the convolutional networks take {IMAGE_SIZE} × {IMAGE_SIZE} pictures, but {key.name!r} is "
            f"{key.shape[0]} × {key.shape[1]}; set --observation.size {IMAGE_SIZE} or --image-net mlp"
        )
