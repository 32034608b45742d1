"""The real environments: short names, how each is made, and what is written down about it.

A recording, the world model made from it and the evaluation of its agent must all mean the same game. So every
environment here is made from parts that Gymnasium can write as an ``EnvSpec`` (no lambdas, no outer ``TimeLimit``:
Gymnasium stores that as the innermost limit, where it counts raw frames), and ``environment_from_spec`` makes the
same one again.
"""

import importlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import AddRenderObservation, AtariPreprocessing

from dream_env.errors import ConfigError, nearest
from dream_env.real.fire import PressFire
from dream_env.real.robots import (
    ROBOTS,
    Rendering,
    explained,
    is_robot,
    make_robot,
    register_robots,
    rendering_facts,
    with_rendering,
)

Env = gymnasium.Env[Any, Any]

FRAME_SKIP = 4
"""Emulator frames an action lasts (Mnih et al. 2015)."""
NOOP_MAX = 30
"""Most frames without an action at the start of a game; the number is drawn from the seed."""

PIXEL_ENVIRONMENTS: dict[str, str] = {"bipedalwalker": "BipedalWalker-v3", **ROBOTS}
"""Short name → Gymnasium id of environments whose observation is a state; pictures are added beside it."""


class ResizePixels(gymnasium.ObservationWrapper[dict[str, Any], Any, dict[str, Any]], RecordConstructorArgs):
    """Shrink one picture of a Dict observation to ``size`` × ``size`` by averaging areas; other entries stay as they
    are.

    Gymnasium's ``ResizeObservation`` takes an observation that is nothing but a picture.
    """

    def __init__(self, env: Env, size: int = 64, key: str = "pixels") -> None:
        RecordConstructorArgs.__init__(self, size=size, key=key)
        gymnasium.ObservationWrapper.__init__(self, env)
        space = env.observation_space
        if not isinstance(space, spaces.Dict) or key not in space.spaces:
            raise ConfigError(f"ResizePixels needs a Dict observation with the key {key!r}, but the space is {space}")
        self.size, self.key = size, key
        self.observation_space = spaces.Dict({**space.spaces, key: spaces.Box(0, 255, (size, size, 3), np.uint8)})

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Shrink the picture."""
        import cv2

        small = cv2.resize(observation[self.key], (self.size, self.size), interpolation=cv2.INTER_AREA)
        return {**observation, self.key: small}


def atari_games() -> dict[str, str]:
    """Short name → Gymnasium id of every Atari game that ale-py can play alone: ``{"pong": "ALE/Pong-v5", …}``."""
    _register_atari()
    return {
        str(spec.kwargs["game"]): spec.id for spec in gymnasium.registry.values() if spec.id.startswith("ALE/")
    }  # fmt: skip


def environment_id(name: str) -> str:
    """Return the Gymnasium id for a short name (``pong``, ``space-invaders``, ``Pong``) or for an id itself.

    Of Gymnasium's own form ``my_env:MyEnv-v0`` the module is imported, which is to register the id that follows.

    Raises:
        ConfigError: if there is none, or no such module; the nearest name is suggested.
    """
    module, _, rest = name.rpartition(":")
    if module:
        _import(module, name)
        if rest in gymnasium.registry:
            return rest
        raise ConfigError(
            f"there is no environment {rest!r} after an import of {module!r}.{nearest(rest, gymnasium.registry)} The module "
            f"has to register it: gymnasium.register({rest!r}, entry_point='{module}:ItsClass')"
        )
    known = {**atari_games(), **PIXEL_ENVIRONMENTS}
    plain = {_plain(short): gym_id for short, gym_id in known.items()}
    if name in known.values() or name in gymnasium.registry:
        return name
    if _plain(name) in plain:
        return plain[_plain(name)]
    raise ConfigError(
        f"there is no environment {name!r}.{nearest(name.lower(), known)} Known are the Atari games by short name "
        f"(pong, breakout, space_invaders, …), {', '.join(PIXEL_ENVIRONMENTS)}, any id registered in Gymnasium, and "
        f"module:Id-v0 of one that a module of yours registers"
    )


def make_environment(
    name: str,
    *,
    size: int = 64,
    gray: bool = True,
    sticky: float = 0.0,
    fire: bool = False,
    max_steps: int | None = None,
    render_mode: str | None = None,
    rendering: Rendering | None = None,
) -> Env:
    """Make a real environment as this library records and evaluates it.

    Args:
        name: short name, Gymnasium id, or ``module:Id-v0``.
        size: pictures are ``size`` × ``size``.
        gray: one channel instead of three (Atari only).
        sticky: probability that the emulator repeats the last action instead (Atari only; Machado et al. 2018 use
            0.25).
        fire: press FIRE for the player after a reset and a lost life (Atari only); see ``PressFire``.
        max_steps: steps after which an episode is cut off; the environment's own limit unless given.
        render_mode: as for ``gymnasium.make``; environments that show rendered pictures need ``"rgb_array"``, their
            default.
        rendering: of robots' pictures (kitchen, Adroit): ``"fast"``, their default, or ``"default"``; see ``robots``.

    DITTO's Atari frames came out of SB3's ``AtariWrapper``, which besides presses FIRE after a reset and, in training, ends an
    episode with a life. Here the player serves the ball himself, unless ``fire``, and returns are of whole games always.

    Returns:
        Atari: (size, size, 1 or 3) uint8, each step ``FRAME_SKIP`` frames with the last two max-pooled.
        BipedalWalker, Adroit: a Dict of ``state`` and ``pixels`` (size, size, 3).
        Kitchen: a Dict of ``observation``, two Dicts of goals, and ``pixels`` (size, size, 3).
        Any other id: ``gymnasium.make(id)`` as it is.

    Raises:
        ConfigError: if there is no such environment, or it cannot be made so.
    """
    gym_id = environment_id(name)
    rendering = rendering_of(name, rendering)
    if gym_id.startswith("ALE/"):
        limit: dict[str, Any] = {} if max_steps is None else {"max_num_frames_per_episode": max_steps * FRAME_SKIP}
        env = gymnasium.make(
            gym_id, frameskip=1, repeat_action_probability=sticky, render_mode=render_mode, **limit
        )  # fmt: skip
        env = AtariPreprocessing(
            env, frame_skip=FRAME_SKIP, noop_max=NOOP_MAX, screen_size=size, grayscale_obs=gray, grayscale_newaxis=gray
        )
        return PressFire(env) if fire else env
    if sticky or fire:
        what = "sticky actions are" if sticky else "the button FIRE is"
        raise ConfigError(f"{what} a matter of the Atari emulator; {gym_id} is no Atari game")
    if gym_id not in PIXEL_ENVIRONMENTS.values():
        shown: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}
        with _found(gymnasium.spec(gym_id)):
            return gymnasium.make(gym_id, max_episode_steps=max_steps, **shown)
    if rendering is not None:
        return make_robot(gym_id, size=size, max_steps=max_steps, render_mode=render_mode, rendering=rendering)
    with _found(gymnasium.spec(gym_id)):
        env = gymnasium.make(gym_id, max_episode_steps=max_steps, render_mode=render_mode or "rgb_array")
    return ResizePixels(AddRenderObservation(env, render_only=False), size)


def rendering_of(name: str, rendering: Rendering | None) -> Rendering | None:
    """How pictures are rendered: as asked, else ``"fast"`` for robots and None for all else.

    Raises:
        ConfigError: if it was asked for where MuJoCo renders nothing.
    """
    gym_id = environment_id(name)
    if gym_id in ROBOTS.values():
        return rendering or "fast"
    if rendering is not None:
        raise ConfigError(
            f"rendering={rendering!r} is a setting of robots' pictures ({', '.join(ROBOTS)}); {gym_id} has none, leave it out"
        )
    return None


def environment_from_spec(spec: str, **changes: Any) -> Env:
    """Make the environment of a recorded ``EnvSpec`` (JSON) again; ``changes`` go to ``gymnasium.make``
    (``render_mode``).

    Raises:
        ConfigError: if what it was made of cannot be imported here.
    """
    gym_id = str(json.loads(spec)["id"])
    if gym_id.startswith("ALE/"):
        _register_atari()
    if not is_robot(gym_id):
        recorded = EnvSpec.from_json(spec)
        with _found(recorded):
            return gymnasium.make(recorded, **changes)
    register_robots(gym_id)
    with explained(gym_id):
        return gymnasium.make(with_rendering(EnvSpec.from_json(spec)), **changes)


def check_recordable(env: Env) -> None:
    """See that a recording can say how to make its environment again.

    Raises:
        ConfigError: if the environment was registered, or is wrapped, with what cannot be written down.
    """
    if env.spec is None:
        return
    try:
        env.spec.to_json()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"a recording of {env.spec.id} could not say how to make it again: {error} Register the environment by name, "
            f"gymnasium.register({env.spec.id!r}, entry_point='module:Class'), with arguments that are JSON, in a module that "
            f"can be imported"
        ) from error


def protocol(env: Env) -> dict[str, Any]:
    """What a reader must know to compare a score: frame skip, pooling, stickiness, no-ops, picture, tasks, versions."""
    spec = env.spec
    if spec is None:
        return {"environment": "", "versions": _versions("gymnasium")}
    kwargs = spec.kwargs
    facts: dict[str, Any] = {"environment": spec.id, "max_steps": spec.max_episode_steps, **rendering_facts(env)}
    packages = ["gymnasium", "dream-env"]
    if spec.id.startswith("ALE/"):  # as it is, unless the wrapper below says otherwise
        facts |= {"frame_skip": kwargs["frameskip"], "max_pool": False, "noop_max": 0}
    for wrapper in spec.additional_wrappers:
        options: Mapping[str, Any] = wrapper.kwargs or {}
        if wrapper.name == "AtariPreprocessing":
            facts |= {
                "frame_skip": options["frame_skip"], "max_pool": options["frame_skip"] > 1,
                "noop_max": options["noop_max"], "size": options["screen_size"], "gray": options["grayscale_obs"],
                "terminal_on_life_loss": options["terminal_on_life_loss"],
            }  # fmt: skip
        elif wrapper.name == "PressFire":
            facts |= {"fire": True}
        elif wrapper.name == "ResizePixels":
            facts |= {"size": options["size"], "gray": False}
    if spec.id.startswith("ALE/"):
        facts |= {
            "sticky": kwargs["repeat_action_probability"], "full_action_space": kwargs["full_action_space"],
            "max_frames": kwargs["max_num_frames_per_episode"],
        }  # fmt: skip
        packages.append("ale-py")
    if is_robot(spec.id):
        packages += ["gymnasium-robotics", "mujoco"]
    return {**facts, "versions": _versions(*packages)}


def play_step(env: Env, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """One step: observation, reward, terminated, truncated, info."""
    reward: SupportsFloat
    observation, reward, terminated, truncated, info = env.step(action)
    return observation, float(reward), bool(terminated), bool(truncated), info


def not_finite(value: Any, what: str) -> str:
    """``"observation 'state' that is not finite (nan)"`` of the first part that is not; empty if all of it is."""
    if isinstance(value, Mapping):
        return next((text for name, part in value.items() if (text := not_finite(part, f"{what} {name!r}"))), "")
    numbers = np.asarray(value)
    if numbers.dtype.kind != "f" or np.isfinite(numbers).all():
        return ""
    return f"{what} that is not finite ({numbers[~np.isfinite(numbers)][0]})"


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").replace(" ", "")


def _import(module: str, name: str) -> None:
    try:
        importlib.import_module(module)
    except (ImportError, TypeError) as error:  # TypeError: of a name that begins with a dot
        raise ConfigError(
            f"cannot import {module!r}, which is to register the environment {name!r}: {error}. Start where the module lies, "
            f"or put its folder on PYTHONPATH"
        ) from error


@contextmanager
def _found(spec: EnvSpec) -> Iterator[None]:
    """Name the module where an environment's class or a wrapper is not found, and the package that one lacks; what an
    environment's own code raises stays as it is."""
    for entry in (spec.entry_point, *(wrapper.entry_point for wrapper in spec.additional_wrappers)):
        if not isinstance(entry, str):
            continue
        try:
            load_env_creator(entry)
        except gymnasium.error.DependencyNotInstalled as error:
            raise ConfigError(f"{spec.id} cannot be made: {error}") from error
        except (ImportError, AttributeError, ValueError) as error:
            module = entry.partition(":")[0]
            raise ConfigError(
                f"{spec.id} cannot be made: {entry!r}, which it was recorded or registered with, is not found ({error}). "
                f"Start where the module {module!r} lies, put its folder on PYTHONPATH, or install it"
            ) from error
    try:
        yield
    except gymnasium.error.Error as error:  # a package that is not installed, an id that is out of date
        raise ConfigError(f"{spec.id} cannot be made: {error}") from error


def _register_atari() -> None:
    import ale_py

    if "ALE/Pong-v5" not in gymnasium.registry:
        gymnasium.register_envs(ale_py)


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
