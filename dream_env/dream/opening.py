"""From what a user names to what a dream needs: the world model and its expert, of the right environment."""

import re
from pathlib import Path

import gymnasium
import numpy as np

from dream_env import checkpoint
from dream_env.device import check_device
from dream_env.errors import ConfigError, EnvironmentMismatch
from dream_env.model.encoded import EncodedDemos, Split, load_encoded
from dream_env.model.world_model import WorldModel


def latent_space(world_model: WorldModel) -> gymnasium.spaces.Box:
    """Where model states can be: ``h``, a mix of tanhs, in [−1, 1]; one-hot ``z`` in [0, 1], Gaussian anywhere."""
    deter = np.ones(world_model.deter_size, dtype=np.float32)
    stoch = np.ones(world_model.stoch_size, dtype=np.float32)
    low, high = (0.0, 1.0) if world_model.config.rssm.latent == "categorical" else (-np.inf, np.inf)
    return gymnasium.spaces.Box(
        np.concatenate([-deter, stoch * np.float32(low)]),
        np.concatenate([deter, stoch * np.float32(high)]),
        dtype=np.float32,
    )


def open_world_model(
    wm: str | Path | WorldModel | None,
    expert: EncodedDemos | None,
    split: Split,
    device: str | None,
    environment: str | None = None,
) -> tuple[WorldModel, EncodedDemos]:
    """Load what is a folder or a hub id, or else the model of ``environment`` that comes with this package, if any; put
    model and expert on one device."""
    check_device(device or "cpu")
    if wm is None and environment is not None:
        wm = checkpoint.shipped_model(environment)
    if wm is None:
        raise ConfigError(
            "a dream needs a world model: pass wm=, the folder that `dream-env fit ... --out FOLDER` left, a hub id "
            "'user/repository', 'shipped:pong', or a WorldModel"
        )
    if isinstance(wm, WorldModel):
        if expert is None:
            raise ConfigError(
                "a WorldModel by itself has no demonstrations to start dreams from; pass "
                "expert=dream_env.encode(world_model, demos) too, or wm= the folder it was saved in"
            )
        world_model = wm if device is None else wm.to(device)
    else:
        folder = checkpoint.model_folder(wm)
        world_model = checkpoint.load(folder, device or "cpu")
        expert = load_encoded(folder, split) if expert is None else expert
    return world_model, expert.to(world_model.device)


def check_environment(world_model: WorldModel, environment: str) -> None:
    """Refuse a model of another environment, naming both."""
    source = world_model.source
    if game_of(source.environment) != game_of(environment):
        raise EnvironmentMismatch(
            f"this id dreams of {environment}, but the world model is of "
            f"{source.environment or 'an environment that was not recorded'} (dataset {source.dataset}); "
            f"use the id of its own environment, or Dream-v0, which takes any model"
        )


def game_of(environment: str) -> str:
    """A Gymnasium id without version and Atari's spellings, which differ in protocol, not in what is dreamed.

    "ALE/Pong-v5" and "PongNoFrameskip-v4" are Pong.
    """
    return re.sub(r"(NoFrameskip|Deterministic)?-v\d+$", "", environment.removeprefix("ALE/"))
