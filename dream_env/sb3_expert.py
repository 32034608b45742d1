"""Stable-Baselines3 agents as experts: a ``.zip`` on disk or on the Hugging Face hub, of any age, without unpickling.

An SB3 zip holds weights (``policy.pth``), and settings as JSON whose values are pickles, which run code when opened and
which gym-era ones cannot be opened without gym. So the network is built from the weights' names and shapes, and the
settings' readable halves. What cannot be read that way needs ``trust=True``, and then SB3 loads the file.
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

from dream_env.environments import Env
from dream_env.errors import ConfigError
from dream_env.sb3_normalize import Normalizer
from dream_env.sb3_view import AtariView

_STACKS = {
    # Beginning of the weights' names → (stacks of layers from features to output, in order).
    "actor-critic": ("mlp_extractor.shared_net.", "mlp_extractor.policy_net.", "action_net."),
    "sac": ("actor.latent_pi.", "actor.mu."),
    "td3": ("actor.mu.",),
    "dqn": ("q_net.q_net.",),
}
_DEFAULT_ACTIVATION = {"actor-critic": "Tanh", "sac": "ReLU", "td3": "ReLU", "dqn": "ReLU"}
_ACTIVATIONS = {name: getattr(nn, name) for name in ("Tanh", "ReLU", "ELU", "LeakyReLU", "SiLU", "GELU", "Sigmoid")}


class SB3Expert:
    """Plays as a Stable-Baselines3 agent does.

    Args:
        source: path of a ``.zip``, or hub id as ``sb3/ppo-PongNoFrameskip-v4``. Statistics of a ``VecNormalize`` are taken from
            ``vec_normalize.pkl``, ``vecnormalize.pkl`` or ``<name>-vecnormalize.pkl`` beside it.
        deterministic: the most likely action. By default only where actions are continuous: a game without other chance would
            be the same game every time.
        trust: let SB3 unpickle the file, which runs whatever code is in it, if its policy cannot be built from the weights.
    """

    def __init__(self, source: str, *, deterministic: bool | None = None, trust: bool = False) -> None:
        self.path = find_zip(source)
        self.deterministic = deterministic
        self.normalizer = Normalizer.beside(self.path)
        try:
            self.policy: Any = WeightsPolicy.read(self.path)
        except UnknownPolicy as error:
            if not trust:
                raise ConfigError(
                    f"{self.path} cannot be played from its weights alone ({error}). SB3 can load it by unpickling, which "
                    f"runs any code its author put in: if you trust the author, allow it with --trust (trust=True)"
                ) from error
            self.policy = TrustedPolicy(self.path)
        self._view: AtariView | None = None
        self._generator = torch.Generator()

    def reset(self, env: Env, seed: int) -> None:
        """Begin a game: forget stacked frames and recurrent state."""
        self._generator.manual_seed(seed)
        self.policy.reset(env, seed)
        self._space = env.action_space
        self._view = AtariView(env, self.policy.channels) if self.policy.channels else None

    def __call__(self, observation: Any) -> Any:
        """Choose an action from the agent's own view of the environment."""
        if self._view is not None:
            pressed = self._view.serve()
            if pressed is not None:
                return pressed
            seen = self._view.frames()
        else:
            state = observation["state"] if isinstance(observation, dict) and "state" in observation else observation
            seen = self.normalizer(np.asarray(state, dtype=np.float32))
        discrete = isinstance(self._space, spaces.Discrete)
        deterministic = not discrete if self.deterministic is None else self.deterministic
        return self.policy.act(seen, self._space, deterministic, self._generator)


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
        if kind == "actor-critic" and "squash_output" in _policy_kwargs(settings):
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
                f"this agent was made for observations of {self.features_size} numbers, but saw an array of shape {seen.shape}"
            )
        out = self.head(self.features(x.unsqueeze(0)))[0]
        if isinstance(space, spaces.Discrete):
            if deterministic or self.kind == "dqn":
                return int(out.argmax()) + int(space.start)
            return int(torch.multinomial(out.softmax(-1), 1, generator=generator)) + int(space.start)
        assert isinstance(space, spaces.Box), space
        out = out.numpy().astype(space.dtype).reshape(space.shape)
        if self.kind in ("sac", "td3"):  # these networks act in [−1, 1]
            return space.low + 0.5 * (np.tanh(out) + 1.0) * (space.high - space.low)
        return np.clip(out, space.low, space.high)


class TrustedPolicy:
    """An SB3 model loaded by SB3."""

    channels = 0

    def __init__(self, path: Path) -> None:
        import sb3_contrib
        import stable_baselines3

        algorithms = {
            name.lower(): getattr(library, name)
            for library in (sb3_contrib, stable_baselines3) for name in library.__all__ if name.isupper()
        } | {"recurrentppo": sb3_contrib.RecurrentPPO, "ppo_lstm": sb3_contrib.RecurrentPPO}  # fmt: skip
        name = re.split(r"[-.]", path.name.lower())[0]
        if name not in algorithms:
            raise ConfigError(
                f"cannot tell which algorithm made {path.name}: its name should begin with one of "
                f"{', '.join(sorted(algorithms))}, as in ppo-CartPole-v1.zip"
            )
        self._algorithm, self._path = algorithms[name], path
        self._model: Any = None
        self._state: Any = None
        self._start = np.array([True])

    def reset(self, env: Env, seed: int) -> None:
        """Load it for the environment's spaces, so that recorded ones (of gym, maybe) are not needed."""
        self._state, self._start = None, np.array([True])
        if self._model is None:
            space = env.observation_space
            if isinstance(space, spaces.Dict) and "state" in space.spaces:
                space = space.spaces["state"]
            self._model = self._algorithm.load(self._path, device="cpu", custom_objects={
                "lr_schedule": _zero, "clip_range": _zero, "learning_rate": 0.0, "observation_space": space,
                "action_space": env.action_space,
            })  # fmt: skip

    def act(self, seen: np.ndarray, space: spaces.Space[Any], deterministic: bool, generator: torch.Generator) -> Any:
        """SB3's ``predict``, its sampling seeded from the expert's own stream."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            action, self._state = self._model.predict(
                seen, state=self._state, episode_start=self._start, deterministic=deterministic
            )  # fmt: skip
        self._start = np.array([False])
        return int(action) if isinstance(space, spaces.Discrete) else action


def find_zip(source: str) -> Path:
    """Return the local file of a path or hub id, downloaded if need be (with its normalisation, where there is one)."""
    path = Path(source).expanduser()
    if source.endswith(".zip"):
        if not path.is_file():
            raise ConfigError(f"there is no file {path}")
        return path
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    name = source.split("/")[-1]
    try:
        found = Path(huggingface_hub.hf_hub_download(source, f"{name}.zip"))
    except Exception as error:  # no network, no such id, no such file: many libraries, many classes
        raise ConfigError(
            f"could not download {name}.zip of {source} from the Hugging Face hub ({type(error).__name__}: {error}); if "
            f"{source} is a file, its name must end in .zip"
        ) from error
    try:
        huggingface_hub.hf_hub_download(source, "vec_normalize.pkl")
    except EntryNotFoundError:
        pass  # not every agent has one
    return found


def _zero(_: float) -> float:
    return 0.0


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
    """SB3's NatureCNN if there is one (Mnih et al. 2015), and how many channels it takes; else nothing but flattening."""
    start = f"{prefix}features_extractor."
    if f"{start}cnn.0.weight" not in weights:
        start = f"{prefix}pi_features_extractor."
    if f"{start}cnn.0.weight" not in weights:
        if any("features_extractor" in name for name in weights):
            raise UnknownPolicy("it has a feature extractor of its own")
        return nn.Flatten(), 0
    channels = weights[f"{start}cnn.0.weight"].shape[1]
    cnn = nn.Sequential(
        nn.Conv2d(channels, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3, 1), nn.ReLU(),
        nn.Flatten(), *_linears(weights, f"{start}linear."), nn.ReLU(),
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
