"""An agent for the real environment: the world model as a filter from observations to model states, and a policy.

A policy that observes observations (``Policy.observes``) needs no filter: of the world model the agent then uses the spec
by which observations are packed, and the latent in its state stays where it began.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

import numpy as np
import torch

from dream_env import checkpoint
from dream_env.checkpoint import provenance, read_json, read_tensors, write_json, write_tensors
from dream_env.device import check_device
from dream_env.errors import CheckpointError
from dream_env.filtering import FilterState, LatentFilter, count
from dream_env.filtering import LatentObservation as LatentObservation
from dream_env.model.world_model import WorldModel
from dream_env.plugin import Learner, Policy, find

FORMAT = 1
"""Raised when a folder of today could not be read by yesterday's code."""


class Agent:
    """World model and policy. ``predict`` has the signature of SB3's models, on raw observations (N, ...)."""

    def __init__(self, world_model: WorldModel, policy: Policy, *, sample: bool = True, seed: int = 0) -> None:
        """Put the two together.

        Args:
            world_model: the filter.
            policy: what acts on its states.
            sample: whether the filter samples ``z`` or takes its mode.
            seed: of the filter's samples in ``predict`` without a state; environment ``i`` gets ``seed + i``.
        """
        self.world_model = world_model
        self.policy = policy
        self.filter = LatentFilter(world_model, sample=sample)
        self.seed = seed

    def start(self, seeds: Sequence[int]) -> FilterState:
        """The state before the first observations of environments with the given seeds."""
        return self.filter.start(seeds)

    def predict(
        self,
        observation: Any,
        state: FilterState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, FilterState]:
        """Act in N environments at once.

        Args:
            observation: array (N, ...), or dictionary of such, as the environments give them.
            state: what the call before returned; None at the beginning.
            episode_start: (N,) bool, where an episode begins; all at the beginning, else none, unless given.
            deterministic: take the likeliest action instead of sampling one. The filter samples either way.

        Returns:
            Actions (N, ...), and the state for the next call.
        """
        n = count(observation)
        if state is None:
            state = self.start(range(self.seed, self.seed + n))
            episode_start = np.ones(n, dtype=bool)
        elif episode_start is None:
            episode_start = np.zeros(n, dtype=bool)
        is_first = torch.as_tensor(np.asarray(episode_start, dtype=bool))
        seen: Any
        if self.policy.observes == "observation":
            seen = self.world_model.observation_spec.pack(observation, batch_dims=1)
        else:
            state = self.filter.step(state, observation, is_first)
            seen = state.latent.feat.float().cpu().numpy()
        action, memory = self.policy.predict(seen, state.policy_state, np.asarray(episode_start), deterministic)
        # Copied: a policy may hand out the same buffer each time.
        action_tm1 = torch.tensor(action, dtype=state.action_tm1.dtype, device=state.action_tm1.device)
        return action, replace(state, action_tm1=action_tm1.reshape(state.action_tm1.shape), policy_state=memory)


# ------------------------------------------------------------------------------------------------------- agents on disk


def fingerprint(world_model: WorldModel) -> str:
    """SHA-256 over weights and spaces: two models of one fingerprint see and dream the same."""
    digest = hashlib.sha256()
    spaces = {"observation": world_model.observation_spec.to_json(), "action": world_model.action_spec.to_json()}
    digest.update(json.dumps(spaces, sort_keys=True).encode())
    for name, tensor in sorted(world_model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_agent(
    agent: Agent,
    folder: str | Path,
    *,
    world_model_folder: str | Path,
    learner: Learner | type[Learner],
    meta: dict[str, Any] | None = None,
) -> Path:
    """Write ``config.json policy.safetensors meta.json``. The world model stays where it is and is referred to.

    Args:
        agent: what to keep.
        folder: made if missing; other files in it stay.
        world_model_folder: where the agent's world model lies, or its hub id; kept as a path relative to ``folder``, or
            absolute where there is none, as between drives.
        learner: whose ``restore`` makes the policy again.
        meta: anything else worth knowing, beside versions and commit.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    cls = learner if isinstance(learner, type) else type(learner)
    wm = Path(world_model_folder)
    config = {
        "format": FORMAT,
        "world_model": _reference(wm, folder) if wm.is_dir() else wm.as_posix(),
        "fingerprint": fingerprint(agent.world_model),
        "sample": agent.filter.sample,
        "learner": f"{cls.__module__}:{cls.__qualname__}",
        "policy": agent.policy.config(),
    }
    write_tensors(folder / "policy.safetensors", agent.policy.state_dict())
    write_json(folder / "config.json", config)
    write_json(folder / "meta.json", {**provenance(), **(meta or {})})  # last: with it the folder is whole
    return folder


def load_agent(folder: str | Path, *, wm: str | Path | WorldModel | None = None, device: str = "cpu") -> Agent:
    """Read an agent and the world model it refers to.

    Args:
        folder: what ``save_agent`` wrote.
        wm: its world model, where that is not where it was.
        device: where to run.

    Raises:
        CheckpointError: if the folder is no agent, or the world model is missing or not the one it was trained with.
        ConfigError: if the device is not there.
    """
    check_device(device)
    folder = Path(folder)
    config = read_agent_config(folder)
    world_model = wm if isinstance(wm, WorldModel) else checkpoint.load(wm or world_model_of(folder), device)
    if fingerprint(world_model) != config["fingerprint"]:
        named = wm if isinstance(wm, str | Path) else config["world_model"]
        raise CheckpointError(
            f"the world model {named} is not the one that {folder} was trained with: its weights or spaces have "
            f"changed since. Pass wm= the old one, or imitate again"
        )
    return Agent(world_model.to(device), load_policy(folder, device=device), sample=config.get("sample", True))


def load_policy(folder: Path, weights: Path | None = None, device: str = "cpu") -> Policy:
    """The policy of an agent's folder; ``weights`` are other weights of it, such as those of a snapshot."""
    config = read_agent_config(folder)
    learner: type[Learner] = find("learners", config["learner"])
    return learner.restore(config["policy"], read_tensors(weights or folder / "policy.safetensors", device))


def _reference(wm: Path, folder: Path) -> str:
    try:
        path = PurePath(os.path.relpath(wm.resolve(), folder.resolve())).as_posix()  # to be read on other systems too
    except ValueError:  # on Windows, where the two lie on different drives
        return wm.resolve().as_posix()
    return path if path.startswith(".") else f"./{path}"  # the dot tells a folder from a hub id


def read_agent_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of an agent's folder."""
    if not (folder / "config.json").is_file() or not (folder / "policy.safetensors").is_file():
        raise CheckpointError(
            f"{folder} is not an agent: config.json or policy.safetensors is missing; an agent's folder is what "
            f"`dream-env imitate ... --out FOLDER` leaves when it is finished"
        )
    config: dict[str, Any] = read_json(folder / "config.json")
    if config.get("format", 0) > FORMAT:
        raise CheckpointError(
            f"{folder} was written by a newer dream-env (folder format {config['format']}, this one reads up to "
            f"{FORMAT}); upgrade with: pip install --upgrade dream-env"
        )
    missing = {"world_model", "fingerprint", "learner", "policy"} - config.keys()
    if missing:
        raise CheckpointError(f"{folder / 'config.json'} is not an agent's: it lacks {', '.join(sorted(missing))}")
    return config


def world_model_of(folder: Path) -> str | Path:
    """The world model's folder that an agent refers to, or its hub id."""
    reference = str(read_agent_config(folder)["world_model"])
    local = (folder / reference).resolve()
    if local.is_dir():
        return local
    # Absolute also if it was written on another system: "C:/wm" has the form of a hub id.
    absolute = Path(reference).is_absolute() or PureWindowsPath(reference).is_absolute()
    if reference.startswith(".") or absolute:
        raise CheckpointError(
            f"{folder} was trained in the world model {reference}, which is not there (looked in {local}); copy it "
            f"there, or pass wm="
        )
    return reference
