"""Who can be recorded: an expert is anything that turns an observation into an action.

``scripted`` (Pong and Breakout), ``planner`` (any Atari game), ``random``, an SB3 zip or hub id, a DAPG policy's pickle,
``replay:DATASET``, ``module:function``, or in Python any callable; one with a ``reset(env, seed)`` is told of every new game,
and one with ``seeds`` says which games it can play.
"""

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from gymnasium import spaces

from dream_env.errors import ConfigError, nearest
from dream_env.experts.dapg_expert import DAPGExpert
from dream_env.experts.planner import PlanningExpert
from dream_env.experts.replay_expert import ReplayExpert
from dream_env.experts.sb3_expert import SB3Expert
from dream_env.experts.scripted import SCRIPTED
from dream_env.real.environments import Env, environment_id

Act = Callable[[Any], Any]
"""Observation to action, both as the environment has them."""

NAMES = ("scripted", "planner", "random")
"""Experts that need no file and no import."""


@runtime_checkable
class Expert(Protocol):
    """An expert that wants to know when a game begins; a plain callable need not."""

    def reset(self, env: Env, seed: int) -> None:
        """A new game of ``env`` has begun (it has just been reset); all of the expert's randomness comes from
        ``seed``."""

    def __call__(self, observation: Any) -> Any:
        """Choose an action."""


class RandomExpert:
    """Uniformly random actions: the floor that scores are measured from."""

    def reset(self, env: Env, seed: int) -> None:
        """Draw from a stream of this game's own."""
        self._act = random_policy(env.action_space, seed)

    def __call__(self, observation: Any) -> Any:
        """Choose any action."""
        return self._act(observation)


def random_policy(action_space: spaces.Space[Any], seed: int) -> Act:
    """Uniformly random actions as a callable; the space's own random state is left alone."""
    space = type(action_space).__new__(type(action_space))
    space.__dict__.update(action_space.__dict__)
    space.seed(seed)
    return lambda observation: space.sample()


def make_expert(
    name: str,
    environment: str,
    *,
    explore: float | None = None,
    noise: float | None = None,
    lapse: float | None = None,
    deterministic: bool | None = None,
    trust: bool = False,
    device: str = "cpu",
) -> Expert | Act:
    """Make the expert of a name for an environment; the options are those of ``CollectConfig``."""
    if name == "random":
        return RandomExpert()
    if name == "planner":
        return PlanningExpert()
    if name == "scripted":
        gym_id = environment_id(environment)
        if gym_id not in SCRIPTED:
            raise ConfigError(
                f"there is no scripted expert for {environment} ({gym_id}), only for {', '.join(SCRIPTED)}; give "
                f"--expert planner (any Atari game), an SB3 .zip, a hub id, or module:function"
            )
        options = {"explore": explore, "noise": noise, "lapse": lapse}
        return SCRIPTED[gym_id](**{option: value for option, value in options.items() if value is not None})
    if name.endswith(".pickle"):
        return DAPGExpert(Path(name), noise=noise or 0.0)
    if name.startswith("replay:"):
        return ReplayExpert(name.removeprefix("replay:"))
    if name.endswith(".zip") or "/" in name:
        return SB3Expert(name, deterministic=deterministic, trust=trust, device=device)
    if ":" in name:
        return _imported(name)
    raise ConfigError(
        f"there is no expert {name!r}.{nearest(name, NAMES)} Known are {', '.join(NAMES)}, a path to an SB3 .zip or a DAPG "
        f".pickle, a hub id with a slash in it, replay:DATASET, and module:function"
    )


def _imported(name: str) -> Expert | Act:
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot import the expert {name!r}: {error}") from error
    found = found() if inspect.isclass(found) else found
    if not callable(found):
        raise ConfigError(f"the expert {name!r} is a {type(found).__name__}, not something to call with an observation")
    expert: Expert | Act = found
    return expert


def expert_name(expert: Any) -> str:
    """``module:name`` of an expert given as an object."""
    named = expert if hasattr(expert, "__qualname__") else type(expert)
    return f"{named.__module__}:{named.__qualname__}"
