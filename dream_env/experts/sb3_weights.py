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

    def __init__(self, kind: str, features: nn.Module, head: nn.Module, channels: int, features_size: int) -> None:
        super().__init__()
        self.kind, self.features, self.head = kind, features, head
        self.channels, self.features_size = channels, features_size

    @classmethod
    def read(cls, path: Path) -> "WeightsPolicy":
        """Build it from ``policy.pth`` and the readable part of ``data``."""
        weights, settings = _read_zip(path)
        for kind in _STACKS:
            if f"{_STACKS[kind][-1]}weight" in weights or f"{_STACKS[kind][-1]}0.weight" in weights:
                break
        else:
            raise UnknownPolicy(f"no acting network among its weights, which begin with {', '.join(list(weights)[:3])}")
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
        if kind == "actor-critic" and _policy_kwargs(settings).get("squash_output"):
            raise UnknownPolicy("its actions are squashed")
        first = next(layer for layer in layers if isinstance(layer, nn.Linear))
        return cls(kind, features, nn.Sequential(*layers), channels, first.in_features).eval()

    def reset(self, env: Env, seed: int) -> None:
        """Check that the environment shows and takes what the network was made for."""
        space = env.action_space
        outputs = next(layer for layer in reversed(list(self.head)) if isinstance(layer, nn.Linear)).out_features  # type: ignore[call-overload]
        wanted = int(space.n) if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or (1,)))
        if outputs != wanted:
            raise ConfigError(f"this agent was made for {outputs} actions, but the environment takes {space}")

    @torch.no_grad()
    def act(self, seen: np.ndarray, space: spaces.Space[Any], deterministic: bool, generator: torch.Generator) -> Any:
        """Choose an action of ``space`` for one observation, (n,) or (84, 84, C)."""
        x = torch.as_tensor(seen)
        if self.channels:
            x = x.permute(2, 0, 1).float() / 255.0
        elif x.numel() != self.features_size:
            raise ConfigError(
                f"this agent was made for observations of {self.features_size} numbers, but saw an array of shape "
                f"{seen.shape}"
            )
        device = next(self.head.parameters()).device
        out = self.head(self.features(x.unsqueeze(0).to(device)))[0]
        out = out.cpu()  # where actions are sampled: the same whatever the device
        if isinstance(space, spaces.Discrete):
            if deterministic or self.kind == "dqn":
                return int(out.argmax()) + int(space.start)
            return int(torch.multinomial(out.softmax(-1), 1, generator=generator)) + int(space.start)
        assert isinstance(space, spaces.Box), space
        out = out.numpy().astype(space.dtype).reshape(space.shape)
        if self.kind in ("sac", "td3"):  # these networks act in [−1, 1]
            return space.low + 0.5 * (np.tanh(out) + 1.0) * (space.high - space.low)
        return np.clip(out, space.low, space.high)


def _read_zip(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            settings: dict[str, Any] = json.loads(archive.read("data"))
            with archive.open("policy.pth") as file:
                weights = torch.load(file, map_location="cpu", weights_only=True)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ConfigError(f"{path} is not an agent saved by Stable-Baselines3: {error}") from error
    return weights, settings


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
