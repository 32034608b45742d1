"""Stable-Baselines3 agents as experts: a ``.zip`` on disk or on the Hugging Face hub, of any age."""

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from dream_env.dream.sb3_view import AtariView
from dream_env.errors import ConfigError
from dream_env.experts.sb3_weights import UnknownPolicy, WeightsPolicy
from dream_env.learning.sb3_normalize import Normalizer
from dream_env.real.environments import Env


class SB3Expert:
    """Plays as a Stable-Baselines3 agent does.

    Args:
        source: path of a ``.zip``, or hub id as ``sb3/ppo-PongNoFrameskip-v4``. Statistics of a ``VecNormalize`` are
        taken from
            ``vec_normalize.pkl``, ``vecnormalize.pkl`` or ``<name>-vecnormalize.pkl`` beside it.
        deterministic: the most likely action. By default only where actions are continuous: a game without other
        chance would
            be the same game every time.
        trust: let SB3 unpickle the file, which runs whatever code is in it, if its policy cannot be built from the
        weights.
        device: where the network runs.
    """

    def __init__(
        self, source: str, *, deterministic: bool | None = None, trust: bool = False, device: str = "cpu"
    ) -> None:
        self.path = find_zip(source)
        self.deterministic = deterministic
        self.normalizer = Normalizer.beside(self.path)
        try:
            self.policy: Any = WeightsPolicy.read(self.path).to(device)
        except UnknownPolicy as error:
            if not trust:
                raise ConfigError(
                    f"{self.path} cannot be played from its weights alone ({error}). SB3 can load it by unpickling, "
                    "which runs any code its author put in: if you trust the author, allow it with --trust (trust=True)"
                ) from error
            self.policy = TrustedPolicy(self.path, device)
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


class TrustedPolicy:
    """An SB3 model loaded by SB3."""

    channels = 0

    def __init__(self, path: Path, device: str = "cpu") -> None:
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
        self._algorithm, self._path, self._device = algorithms[name], path, device
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
            self._model = self._algorithm.load(self._path, device=self._device, custom_objects={
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
            f"could not download {name}.zip of {source} from the Hugging Face hub ({type(error).__name__}: {error}); "
            f"if {source} is a file, its name must end in .zip"
        ) from error
    with contextlib.suppress(EntryNotFoundError):  # not every agent has one
        huggingface_hub.hf_hub_download(source, "vec_normalize.pkl")
    return found


def _zero(_: float) -> float:
    return 0.0
