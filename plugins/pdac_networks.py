"""P-DAC's actor and critics: Stable-Baselines3's SAC, or sb3-contrib's TQC, behind an encoder of pictures; and its policy.

SAC from raw pixels is known not to learn well (SAC-AE, Yarats et al. 2021; DrQ, Kostrikov et al. 2021). What these works changed
is done here: (1) one encoder, trained by the critic's loss alone; the actor looks through it without moving it; (2) behind the
convolutions a linear layer to a few features, LayerNorm and tanh; (3) pictures shifted at random (``pdac_steps.py``).
SB3 has either an encoder for each of actor and critic, or one that the *actor's* loss trains; so the actor is given the critic's
after SB3 has made its networks. Everything else is SB3's: losses, targets, optimisers, entropy coefficient.

Vectors have no encoder: the networks take them as they are, in standard units, as DAC's do.
"""

import inspect
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from jaxtyping import Float
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import DictReplayBufferSamples
from stable_baselines3.sac.policies import Actor
from torch import Tensor, nn

from dream_env.checkpoint import config_from_json
from dream_env.errors import ConfigError, PluginError
from dream_env.json_options import json_options
from dream_env.model.world_model import WorldModelConfig, make_encoder
from dream_env.plugin import find
from dream_env.spaces import ActionSpec, ObservationSpec

from .bc import ObservationPolicy
from .cloning_learners import ActionHead, ClonedPolicy
from .pdac_steps import ABSORBING, StackedView


class Encoder(BaseFeaturesExtractor):
    """What a ``StackedView`` shows to features: of each picture ``size`` between −1 and 1, all vectors, the absorbing mark."""

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        config: WorldModelConfig,
        spec: ObservationSpec,
        stack: int,
        size: int,
    ) -> None:
        images = [key for key in spec.keys if key.kind == "image"]
        vectors = [key for key in spec.keys if key.kind == "vector"]
        super().__init__(observation_space, len(images) * size + stack * sum(key.shape[0] for key in vectors) + 1)
        self.images = [key.name for key in images]
        self.plain = [*(key.name for key in vectors), ABSORBING]
        self.networks = nn.ModuleList()
        for key in images:  # the world model's own kind of encoder and its sizes
            encoder = make_encoder(config, replace(key, shape=(*key.shape[:-1], stack * key.shape[-1])))
            layers = [encoder, nn.Linear(encoder.embed_size, size), nn.LayerNorm(size), nn.Tanh()]
            self.networks.append(nn.Sequential(*layers))
        self.fast = config.precision == "bfloat16"

    def forward(self, seen: dict[str, Tensor]) -> Float[Tensor, "batch features"]:
        # In the arithmetic that the world model was trained in; play and targets are in float32.
        with torch.autocast(seen[ABSORBING].device.type, torch.bfloat16, enabled=self.fast and self.training):
            parts = [network(seen[name]).float() for network, name in zip(self.networks, self.images, strict=True)]
        return torch.cat([*parts, *(seen[name] for name in self.plain)], dim=-1)


class Looking(nn.Module):
    """Somebody else's encoder: nothing of it is among this module's parameters, and no gradient goes into it."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self._encoder = (encoder,)  # a tuple hides it from torch
        self.learns = False
        """Let gradients through all the same, for cloning, which has no critic."""

    def forward(self, seen: dict[str, Tensor]) -> Float[Tensor, "batch features"]:
        with torch.set_grad_enabled(self.learns and torch.is_grad_enabled()):
            features: Tensor = self._encoder[0](seen)
        return features


class ActingNet(nn.Module):
    """Packed observations to actions: all that is kept of a finished learner."""

    def __init__(self, view: StackedView, encoder: Encoder, actor: Any) -> None:
        super().__init__()
        self.names = [key.name for key in view.spec.keys]
        self.view = view
        self.encoder = encoder
        self.actor = actor

    def forward(self, packed: dict[str, Tensor], deterministic: bool) -> Float[Tensor, "batch action"]:
        """Observations (N, stack, *shape) to actions between −1 and 1, sampled with torch's global generator."""
        self.encoder.train(False)  # else in the lower precision of training
        action: Tensor = self.actor(self.view(packed), deterministic)
        return action


class PdacPolicy(ObservationPolicy):
    """Stacks observations as the clone from pixels does, and lets SAC's actor choose."""

    network: ActingNet  # type: ignore[assignment]

    def __init__(self, network: ActingNet, config: dict[str, Any]) -> None:
        ClonedPolicy.__init__(self, network, ActionHead(ActionSpec.from_json(config["action"])), config)
        self.stack = config["stack"]

    @classmethod
    def restore(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> "PdacPolicy":
        """Rebuild the acting half; TQC's actor is SAC's."""
        view, encoder = _view_and_encoder(config)
        actor = Actor(view.space, _unit_box(config), config["net_arch"], Looking(encoder), encoder.features_dim)
        network = ActingNet(view, encoder, actor)
        network.load_state_dict(weights)
        network.to(next(iter(weights.values())).device).eval()
        return cls(network, config)

    @torch.no_grad()
    def act(self, seen: Any, deterministic: bool) -> np.ndarray:
        """Actions in the environment's own units."""
        return self.head.raw(self.network(seen, deterministic))


# ------------------------------------------------------------------------------------------------------ SB3's algorithm


class Handed(ReplayBuffer):
    """A buffer that gives the one batch it was handed: ``train`` is to learn from the steps that were judged just now."""

    batch: DictReplayBufferSamples

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """The batch, whatever size is asked for."""
        return self.batch


def make_algorithm(
    name: str, view: StackedView, config: dict[str, Any], *, options: str, device: torch.device, **arguments: Any
) -> Any:
    """SAC or TQC with the shared encoder, ready for ``train``.

    Args:
        name: the algorithm as ``module:Class``.
        view: what the networks see.
        config: of the policy, see ``PdacPolicy``.
        options: further constructor arguments as JSON.
        device: where the networks are.
        arguments: constructor arguments.
    """
    algorithm = find("learners", name)
    if not (isinstance(algorithm, type) and issubclass(algorithm, OffPolicyAlgorithm)):
        raise PluginError(f"{name} is no off-policy algorithm of Stable-Baselines3 (a subclass of OffPolicyAlgorithm)")
    if "ent_coef" not in inspect.signature(algorithm).parameters:
        raise PluginError(
            f"{name} does not sample its actions; pdac runs on SAC (stable_baselines3:SAC) or TQC (sb3_contrib:TQC)"
        )
    try:
        model: Any = algorithm(
            "MultiInputPolicy", _Spaces(view.space, _unit_box(config)), buffer_size=1, device=device,
            policy_kwargs={
                "net_arch": list(config["net_arch"]), "features_extractor_class": Encoder,
                "features_extractor_kwargs": _encoder_arguments(config),
            },
            **{**arguments, **more_options(options)},
        )  # fmt: skip
    except TypeError as error:
        raise PluginError(f"{name} does not take these options: {error}") from error
    model.set_logger(Logger(folder=None, output_formats=[]))
    actor, critic = model.policy.actor, model.policy.critic
    actor.features_extractor = Looking(critic.features_extractor)
    actor.optimizer = type(actor.optimizer)(actor.parameters(), lr=actor.optimizer.param_groups[0]["lr"])
    model.replay_buffer = Handed(1, _unit_box(config), _unit_box(config), device)
    return model


def _view_and_encoder(config: dict[str, Any]) -> tuple[StackedView, Encoder]:
    arguments = _encoder_arguments(config)
    view = StackedView(arguments["spec"], config["stack"])
    return view, Encoder(view.space, **arguments)


def _encoder_arguments(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "config": config_from_json(WorldModelConfig, config["world_model"], "the policy's config"),
        "spec": ObservationSpec.from_json(config["observation"]), "stack": config["stack"], "size": config["features"],
    }  # fmt: skip


def _unit_box(config: dict[str, Any]) -> spaces.Box:
    return spaces.Box(-1.0, 1.0, (ActionSpec.from_json(config["action"]).size,), np.float32)


_LOOP = "pdac plays and learns in rounds of its own (--batch, --seed-steps, --round-episodes, --updates-per-step)"
_NOT_OPTIONS = {
    "use_sde": "its policy has no such noise",
    "seed": "that is --seed",
    **{name: f"that is --{name.replace('_', '-')}" for name in ("learning_rate", "ent_coef", "gamma")},
    **dict.fromkeys(("batch_size", "learning_starts", "train_freq", "gradient_steps", "buffer_size", "n_steps"), _LOOP),
    "target_update_interval": "each of its updates is SB3's first, after which targets move; tau says how far",
}
"""Arguments of SB3's off-policy algorithms that would be ignored here, or would overrule a flag, and why."""


def more_options(options: str) -> dict[str, Any]:
    """Constructor arguments given as JSON.

    Raises:
        ConfigError: if they are no JSON object, or say what is not theirs to say.
    """
    given = json_options(options, "options are")
    for name, why in _NOT_OPTIONS.items():
        if name in given:
            raise ConfigError(f"pdac's options cannot set {name!r}: {why}")
    return given


class _Spaces(gymnasium.Env[Any, Any]):
    """What SB3's constructor wants to know of an environment; nobody steps this one."""

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Box) -> None:
        self.observation_space = observation_space
        self.action_space = action_space
