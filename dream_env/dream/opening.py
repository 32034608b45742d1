"""From what a user names to what a dream needs: the world model and its expert, of the right environment."""

import re
from pathlib import Path
from typing import get_args

import gymnasium
import numpy as np
import torch

from dream_env import checkpoint
from dream_env.device import check_device
from dream_env.errors import ConfigError, EnvironmentMismatch, SpaceError, nearest
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
    model and expert on one device.

    Raises:
        ConfigError: if there is nothing to open, or no such split.
        SpaceError: if the expert was encoded by another model, or acts in another space.
    """
    check_device(device or "cpu")
    splits = get_args(Split)
    if split not in splits:
        raise ConfigError(f"split must be one of {', '.join(splits)}, not {split!r}.{nearest(str(split), splits)}")
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
    _check_expert(world_model, expert)
    return world_model, expert.to(world_model.device)


def _check_expert(world_model: WorldModel, expert: EncodedDemos) -> None:
    again = "encode the demonstrations with this model: expert=dream_env.encode(world_model, demos)"
    tensors, rssm = expert.tensors(), world_model.config.rssm
    classes = rssm.classes if rssm.latent == "categorical" else 0
    ours = _sizes(world_model.deter_size, rssm.groups, classes)
    theirs = _sizes(tensors["deter"].shape[1], tensors["stoch"].shape[1], int(tensors["classes"]))
    if theirs != ours:
        raise SpaceError(f"the expert's states are {theirs}, but the world model's are {ours}; {again}")
    action, spec = tensors["action"], world_model.action_spec
    shape = spec.space.shape or ()
    if tuple(action.shape[1:]) != shape or action.is_floating_point() == spec.discrete:
        raise SpaceError(
            f"the expert's actions are {action.dtype} of shape {tuple(action.shape[1:])}, but the world model takes "
            f"{spec.space}; take demonstrations of the same environment, and {again}"
        )
    if spec.discrete:  # a Box's bounds say nothing of another Box's actions, most of which lie in them
        done = torch.ones(len(action), dtype=torch.bool)
        done[(expert.lengths.cpu() + 1).cumsum(0) - 1] = False  # an episode's last row, where nothing was done, holds 0
        try:
            spec.validate(action[done.to(action.device)].cpu().numpy(), each="expert step")
        except SpaceError as error:
            raise SpaceError(f"{error}; take demonstrations of the same environment, and {again}") from error


def _sizes(deter: int, groups: int, classes: int) -> str:
    return f"{deter} + {groups}" + (f" × {classes} (categorical)" if classes else " (Gaussian)")


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
