"""The network of a Stable-Baselines3 agent, built from the names and shapes of its weights: nothing is unpickled.

An SB3 zip holds weights (``policy.pth``), and settings as JSON whose values are pickles, which run code when opened;
those of gym's time cannot even be opened without gym. Beside each pickle stands how it prints, which is enough.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from dream_env.errors import ConfigError
from dream_env.real.environments import Env

_STACKS = {
    # Beginning of the weights' names → (stacks of layers from features to output, in order).
    "actor-critic": ("mlp_extractor.shared_net.", "mlp_extractor.policy_net.", "action_net."),
    "sac": ("actor.latent_pi.", "actor.mu."),
    "td3": ("actor.mu.",),
    "dqn": ("q_net.q_net.",),
}
_DEFAULT_ACTIVATION = {"actor-critic": "Tanh", "sac": "ReLU", "td3": "ReLU", "dqn": "ReLU"}
_ACTIVATIONS = {name: getattr(nn, name) for name in ("Tanh", "ReLU", "ELU", "LeakyReLU", "SiLU", "GELU", "Sigmoid")}


class UnknownPolicy(Exception):
    """The weights are of no network we know how to build."""


class WeightsPolicy(nn.Module):
    """The acting half of an SB3 policy, built from its weights."""

    def __init__(
        self,
        kind: str,
        features: nn.Module,
        head: nn.Sequential,
        channels: int,
        noise: "_Noise | None" = None,
        exploration: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind, self.features, self.head, self.noise = kind, features, head, noise
        self.channels, self.exploration = channels, exploration
        linears = [(index, layer) for index, layer in enumerate(head) if isinstance(layer, nn.Linear)]
        self._last, last = linears[-1]
        self.features_size, self.outputs = linears[0][1].in_features, last.out_features

    @classmethod
    def read(cls, path: Path) -> "WeightsPolicy":
        """Build it from ``policy.pth`` and the readable part of ``data``."""
        weights, settings = _read_zip(path)
        kind = _kind(weights)
        if any("lstm" in name for name in weights):
            raise UnknownPolicy("it is recurrent")
        activation = _activation(settings, kind)
        features, channels = _features(weights, {"dqn": "q_net.", "sac": "actor.", "td3": "actor."}.get(kind, ""))
        layers: list[nn.Module] = []
        for prefix in _STACKS[kind]:
            linears = _linears(weights, prefix)
            last = prefix == _STACKS[kind][-1]
            for i, linear in enumerate(linears):
                layers.append(linear)
                if not (last and i == len(linears) - 1):
                    layers.append(activation())
        if not layers:
            raise UnknownPolicy("its acting network has no layers")
        if kind == "sac" and "actor.mu.0.weight" in weights:  # gSDE's mean goes through a clamp, which has no weights
            clip = _number(_policy_kwargs(settings).get("clip_mean", 2.0), "the bound of its mean action")
            layers.append(nn.Hardtanh(-clip, clip))
        if kind == "actor-critic" and _policy_kwargs(settings).get("squash_output"):
            raise UnknownPolicy("its actions are squashed")
        noise = _noise(weights, settings, kind, [layer for layer in layers if isinstance(layer, nn.Linear)][-1])
        exploration = _number(settings.get("exploration_rate", 0.0), "its exploration rate")
        return cls(kind, features, nn.Sequential(*layers), channels, noise, exploration).eval()

    def reset(self, env: Env, seed: int) -> None:
        """Check that the environment shows and takes what the network was made for."""
        if self.noise is not None:
            self.noise.reset()
        space = env.action_space
        wanted = int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or (1,)))
        if self.outputs != wanted:
            raise ConfigError(f"this agent was made for {self.outputs} actions, but the environment takes {space}")

    @torch.no_grad()
    def act(self, seen: np.ndarray, space: spaces.Space[Any], deterministic: bool, generator: torch.Generator) -> Any:
        """Choose an action of ``space`` for one observation, (n,) or (84, 84, C).

        Where it is not to be deterministic, by the policy's own chance as in SB3's ``predict``; TD3 and DDPG have none there
        either. DQN takes a random action as often as it did at the end of its training.
        """
        x = torch.as_tensor(seen)
        if self.channels:
            x = x.permute(2, 0, 1).float() / 255.0
        elif x.numel() != self.features_size:
            raise ConfigError(
                f"this agent was made for observations of {self.features_size} numbers, but saw an array of shape "
                f"{seen.shape}"
            )
        device = next(self.head.parameters()).device
        latent = self.head[: self._last](self.features(x.unsqueeze(0).to(device)))
        out = self.head[self._last :](latent)[0].cpu()  # where actions are sampled: the same whatever the device
        if isinstance(space, spaces.Discrete):
            if deterministic or self.kind == "dqn":
                explores = not deterministic and float(torch.rand((), generator=generator)) < self.exploration
                best = torch.randint(len(out), (), generator=generator) if explores else out.argmax()
                return int(best) + int(space.start)
            return int(torch.multinomial(out.softmax(-1), 1, generator=generator)) + int(space.start)
        assert isinstance(space, spaces.Box), space
        if not deterministic and self.kind != "td3":
            if self.noise is None:
                raise ConfigError(
                    f"this agent's weights hold no noise (log_std) to sample actions of {space} with: it was made for discrete "
                    f"actions; take an agent that was made for this environment"
                )
            out = out + self.noise.draw(latent[0], generator)
        out = out.numpy().astype(space.dtype).reshape(space.shape)
        if self.kind in ("sac", "td3"):  # these networks act in [−1, 1]
            return space.low + 0.5 * (np.tanh(out) + 1.0) * (space.high - space.low)
        return np.clip(out, space.low, space.high)


class _Noise(nn.Module):
    """What SB3 adds to the mean of continuous actions; drawn on the CPU, so that it is the same whatever the device.

    Its deviations are one an action (PPO, A2C, TRPO), or come from a layer (SAC), or are those of a matrix (gSDE, Raffin et
    al. 2021). The matrix times what the last layer sees is the noise. It is drawn once a game, as SB3 draws it once for all
    that a loaded agent plays: so a game depends on its seed alone.
    """

    def __init__(self, std: Tensor | None, log_std: nn.Linear | None = None) -> None:
        super().__init__()
        self.log_std = log_std
        self._std = std
        self._matrix: Tensor | None = None

    def reset(self) -> None:
        """Begin a game."""
        self._matrix = None

    def draw(self, latent: Tensor, generator: torch.Generator) -> Tensor:
        """The noise for one action, given what the last layer sees."""
        if self.log_std is not None:
            std: Tensor = self.log_std(latent).clamp(-20.0, 2.0).exp().cpu()  # SB3's bounds
            return torch.randn(std.shape, generator=generator) * std
        assert self._std is not None
        if self._std.ndim == 1:
            return torch.randn(self._std.shape, generator=generator) * self._std
        if self._matrix is None:
            self._matrix = torch.randn(self._std.shape, generator=generator) * self._std
        return latent.cpu() @ self._matrix


def _read_zip(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            settings: dict[str, Any] = json.loads(archive.read("data"))
            with archive.open("policy.pth") as file:
                weights = torch.load(file, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ConfigError(f"{path} is not an agent saved by Stable-Baselines3: {error}") from error
    return weights, settings


def _kind(weights: dict[str, Tensor]) -> str:
    if "action_net.weight" in weights:
        return "actor-critic"
    if any(name.startswith("actor.log_std") for name in weights):
        return "sac"
    if "actor.mu.0.weight" in weights:  # with gSDE SAC has one too
        return "td3"
    if "q_net.q_net.0.weight" in weights:
        return "dqn"
    raise UnknownPolicy(f"no acting network among its weights, which begin with {', '.join(list(weights)[:3])}")


def _noise(weights: dict[str, Tensor], settings: dict[str, Any], kind: str, last: nn.Linear) -> _Noise | None:
    """The noise of a policy of continuous actions; None where SB3 has none in the weights."""
    name = {"actor-critic": "log_std", "sac": "actor.log_std"}.get(kind, "")
    if f"{name}.weight" in weights:
        (layer,) = _linears(weights, f"{name}.")
        return _Noise(None, layer)
    if name not in weights:
        return None
    log_std, actions = weights[name].float(), last.out_features
    if log_std.shape == (actions,):
        return _Noise(log_std.exp())
    if log_std.shape not in ((last.in_features, actions), (last.in_features, 1)):
        raise UnknownPolicy(f"its noise has the shape {tuple(log_std.shape)}, which is none of SB3's")
    std = log_std.exp()
    if _policy_kwargs(settings).get("use_expln"):  # grows slower than exp above 1
        std = torch.where(log_std > 0, log_std.clamp(min=0).log1p() + 1.0, std)
    return _Noise(std.expand(-1, actions).clone())


def _number(told: Any, what: str) -> float:
    try:
        return float(told)
    except (TypeError, ValueError) as error:
        raise UnknownPolicy(f"{what} cannot be read without unpickling") from error


def _policy_kwargs(settings: dict[str, Any]) -> dict[str, Any]:
    kwargs = settings.get("policy_kwargs") or {}
    return kwargs if isinstance(kwargs, dict) else {}


def _activation(settings: dict[str, Any], kind: str) -> Any:
    # SB3 writes beside each pickle how its parts print: "<class 'torch.nn.modules.activation.ReLU'>".
    printed = str(_policy_kwargs(settings).get("activation_fn", ""))
    name = re.sub(r"[^A-Za-z0-9].*$", "", printed.rsplit(".", 1)[-1]) or _DEFAULT_ACTIVATION[kind]
    if name not in _ACTIVATIONS:
        raise UnknownPolicy(f"its activation function is {printed}")
    return _ACTIVATIONS[name]


def _features(weights: dict[str, Tensor], prefix: str) -> tuple[nn.Module, int]:
    """SB3's NatureCNN if there is one (Mnih et al. 2015), and how many channels it takes; else nothing but
    flattening."""
    start = f"{prefix}features_extractor."
    if f"{start}cnn.0.weight" not in weights:
        start = f"{prefix}pi_features_extractor."
    if f"{start}cnn.0.weight" not in weights:
        if any("features_extractor" in name for name in weights):
            raise UnknownPolicy("it has a feature extractor of its own")
        return nn.Flatten(), 0
    channels = weights[f"{start}cnn.0.weight"].shape[1]
    cnn = nn.Sequential(
        nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1),
        nn.ReLU(), nn.Flatten(), *_linears(weights, f"{start}linear."), nn.ReLU(),
    )  # fmt: skip
    try:
        for index in (0, 2, 4):
            layer = cnn[index]
            layer.load_state_dict({part: weights[f"{start}cnn.{index}.{part}"] for part in ("weight", "bias")})
    except (KeyError, RuntimeError) as error:
        raise UnknownPolicy("its feature extractor is no NatureCNN") from error
    return cnn, channels


def _linears(weights: dict[str, Tensor], prefix: str) -> list[nn.Linear]:
    names = [name for name in weights if re.fullmatch(re.escape(prefix) + r"(\d+\.)?weight", name)]
    layers = []
    for name in names:
        weight, bias = weights[name], weights[name.removesuffix("weight") + "bias"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers.append(layer)
    return layers
