"""The real environment behind a world model: the one its demonstrations say they were recorded in, or one that is named."""

import hashlib
import json
from typing import Any

from dream_env.errors import ConfigError
from dream_env.model.world_model import WorldModel
from dream_env.playing.games import MakeEnvironment
from dream_env.real.environments import Env, environment_from_spec, make_environment, protocol
from dream_env.real.fire import PressFire
from dream_env.real.robots import Rendering


def environment_of(
    world_model: WorldModel,
    *,
    environment: str = "",
    rendering: Rendering | None = None,
    fire: bool = False,
    render: bool = False,
) -> MakeEnvironment:
    """What makes the environment that a model's demonstrations were recorded in, wrappers and all.

    Args:
        world_model: whose demonstrations.
        environment: short name, Gymnasium id or ``module:Id-v0`` to make instead, with pictures of the size the model takes:
            for recordings that do not name their environment, or not how its pictures were rendered.
        rendering: of ``environment``'s pictures, if that is a robot.
        fire: press FIRE for the agent at the start of an Atari game and after each lost life, whether or not it was recorded so.
        render: make it with ``render_mode="rgb_array"``.

    Raises:
        ConfigError: if neither dataset nor caller says which environment.
    """
    source = world_model.source
    shown: dict[str, Any] = {"render_mode": "rgb_array"} if render else {}
    if environment:
        pictures = [key.source_shape for key in world_model.observation_spec.keys if key.kind == "image"]
        shape = pictures[0] if pictures else (64, 64)
        gray = len(shape) == 2 or shape[-1] == 1
        return lambda: make_environment(environment, size=shape[0], gray=gray, rendering=rendering, fire=fire, **shown)
    if rendering is not None:
        raise ConfigError(
            f"rendering={rendering!r} was asked for, which is recorded with the demonstrations; to play with another one, "
            f"name the environment too (--environment)"
        )
    if source.env_spec is None:
        raise ConfigError(
            f"the dataset {source.dataset} does not say which environment it was recorded in; name it with --environment, "
            f"or make one yourself and call dream_env.evaluate(agent, make_environment)"
        )
    spec = source.env_spec
    if fire and not str(source.environment).startswith("ALE/"):
        raise ConfigError(f"the button FIRE is a matter of the Atari emulator; {source.environment} is no Atari game")
    if fire and "PressFire" not in spec:
        return lambda: PressFire(environment_from_spec(spec, **shown))
    return lambda: environment_from_spec(spec, **shown)


def signature(env: Env, max_steps: int | None = None) -> str:
    """A short text that differs where the environment is set up differently, as ``ALE/Pong-v5 1f0c93ab``.

    ``max_steps`` is told where episodes are cut off by whoever plays, before the environment does it.
    """
    facts = {name: value for name, value in protocol(env).items() if name != "versions"}
    facts |= {} if max_steps is None else {"max_steps": max_steps}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    return f"{facts['environment']} {digest}"
