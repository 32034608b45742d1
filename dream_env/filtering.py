"""The filter: real observations to model states, the same for an agent and for a wrapped environment.

Every step of the environment is one step of the filter, ``(latent_tm1, action_tm1, obs_t) → latent_t``, for all
environments that are played side by side at once. ``LatentObservation`` is the filter as a wrapper around one
environment, for anything that wants an ordinary environment, such as SB3's ``evaluate_policy``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import RecordConstructorArgs
from jaxtyping import Bool, Int
from torch import Tensor

from dream_env import checkpoint
from dream_env.dream.opening import latent_space
from dream_env.errors import SpaceError
from dream_env.functional import counter_uniform
from dream_env.latent import Latent
from dream_env.model.world_model import WorldModel
from dream_env.plugin import RowMemory
from dream_env.real.robots import rendering_facts
from dream_env.spaces import ObservationSpec
from dream_env.spaces.observations import leaf_names


@dataclass(frozen=True)
class FilterState:
    """Where the filter is in N environments, and each one's own random stream."""

    latent: Latent
    """(N, ·)."""
    action_tm1: Tensor
    """What was done last, (N, ...), as the environment takes it."""
    seeds: Int[Tensor, " batch"]
    counters: Int[Tensor, " batch"]
    """Steps drawn from each stream."""
    policy_state: tuple[np.ndarray, ...] | None = None
    """Memory of the policy, if it has one."""

    def select(self, rows: Sequence[int]) -> "FilterState":
        """Some of the environments. A memory's axes are the policy's own business, so it must be none or a RowMemory."""
        memory = self.policy_state
        if memory is not None:
            assert isinstance(memory, RowMemory), "the memory of a recurrent policy cannot be cut into rows"
            memory = RowMemory(array[list(rows)] for array in memory)
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.seeds.device)
        return FilterState(self.latent[index], self.action_tm1[index], self.seeds[index], self.counters[index], memory)


class LatentFilter:
    """Observations to model states, for any number of environments.

    ``z`` is sampled from the posterior as it was when the expert was encoded, each environment from a stream of its
    own, so that how many are played side by side changes nothing; ``sample=False`` takes the posterior's mode.
    """

    def __init__(self, world_model: WorldModel, *, sample: bool = True) -> None:
        self.world_model = world_model.eval()
        self.sample = sample

    def start(self, seeds: Sequence[int]) -> FilterState:
        """Before the first observations of environments with the given seeds."""
        device, space = self.world_model.device, self.world_model.action_spec.space
        dtype = torch.int64 if self.world_model.action_spec.discrete else torch.float32
        return FilterState(
            self.world_model.initial(len(seeds)),
            torch.zeros(len(seeds), *(space.shape or ()), dtype=dtype, device=device),
            torch.as_tensor(list(seeds), dtype=torch.int64, device=device),
            torch.zeros(len(seeds), dtype=torch.int64, device=device),
        )

    @torch.no_grad()
    def step(self, state: FilterState, observation: Any, is_first: Bool[Tensor, " batch"]) -> FilterState:
        """Take in one raw observation of each environment; rows where an episode begins forget what was before."""
        device = self.world_model.device
        packed = self.world_model.observation_spec.pack(observation, batch_dims=1)
        obs = {name: torch.as_tensor(array, device=device) for name, array in packed.items()}
        noise = counter_uniform(state.seeds, state.counters, self.world_model.noise_size) if self.sample else None
        latent = self.world_model.observe_step(state.latent, state.action_tm1, obs, is_first.to(device), noise)
        return replace(state, latent=latent, counters=state.counters + 1)


class LatentObservation(gymnasium.Wrapper[np.ndarray, Any, Any, Any], RecordConstructorArgs):
    """Show model states ``(h, z)`` instead of observations: a policy learned in the dream then plays the real thing.

    ``evaluate_policy(model, LatentObservation(env, "runs/pong/wm"))`` is all that SB3 needs.
    """

    def __init__(
        self, env: gymnasium.Env[Any, Any], world_model: WorldModel | str | Path, *, sample: bool = True
    ) -> None:
        """Wrap one environment of the kind that the world model was fitted on.

        Raises:
            SpaceError: if its observations or actions are not what the model takes.
        """
        named = world_model if isinstance(world_model, WorldModel) else str(world_model)  # a path can be JSON
        RecordConstructorArgs.__init__(self, world_model=named, sample=sample, _disable_deepcopy=True)
        gymnasium.Wrapper.__init__(self, env)
        if not isinstance(world_model, WorldModel):
            world_model = checkpoint.load(world_model)
        check_spaces(world_model, env)
        self.filter = LatentFilter(world_model, sample=sample)
        self.observation_space = latent_space(world_model)
        self._state = self.filter.start([0])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset the environment and the filter; a seed begins the filter's random stream anew, else it goes on."""
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._state = self.filter.start([seed])
        return self._filtered(observation, first=True), info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Step the environment, then the filter."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        action_tm1 = torch.tensor(np.asarray(action)[None], dtype=self._state.action_tm1.dtype)
        self._state = replace(self._state, action_tm1=action_tm1.to(self._state.action_tm1.device))
        return self._filtered(observation, first=False), reward, terminated, truncated, info

    @property
    def latent(self) -> Latent:
        """Where the filter is, (1, ·)."""
        return self._state.latent

    def _filtered(self, observation: Any, *, first: bool) -> np.ndarray:
        self._state = self.filter.step(self._state, stack([observation]), torch.tensor([first]))
        feat: np.ndarray = self._state.latent.feat[0].float().cpu().numpy()
        return feat


def check_spaces(world_model: WorldModel, env: gymnasium.Env[Any, Any]) -> None:
    """Refuse an environment whose observations or actions are not those the model was fitted on.

    Raises:
        SpaceError: if they are of other kinds or shapes, if actions have other bounds, or if a robot's pictures are rendered
            in another way.
    """
    name = env.spec.id if env.spec else type(env.unwrapped).__name__
    spec, ours = world_model.observation_spec, world_model.action_spec.space
    dataset = world_model.source.dataset
    if not _same_actions(env.action_space, ours):
        raise SpaceError(
            f"{name} takes actions of {env.action_space}, but the world model (dataset {dataset}) was fitted on {ours}; set "
            f"the environment up as it was when it was recorded"
        )
    if not _same_keys(env.observation_space, spec.space):
        raise SpaceError(
            f"{name} shows {_described(env.observation_space)}, but the world model (dataset {dataset}) was fitted on "
            f"{_described(spec.space)}; set the environment up as it was when it was recorded, or let a wrapper show the same "
            f"(gymnasium.wrappers.TransformObservation)"
        )
    keys = tuple(key.name for key in spec.keys) if isinstance(spec.space, gymnasium.spaces.Dict) else ()
    theirs = ObservationSpec.from_space(env.observation_space, replace(spec.config, keys=keys)).keys
    for key, other in zip(sorted(spec.keys, key=str), sorted(theirs, key=str), strict=True):
        if key != other:
            raise SpaceError(
                f"{name} shows {other.kind} {other.name!r} of shape {other.source_shape}, but the world model "
                f"(dataset {dataset}) was fitted on {key.kind} {key.name!r} of shape {key.source_shape}; set the "
                f"environment up as it was when it was recorded"
            )
    if any(key.kind == "image" for key in spec.keys):
        _check_pictures(world_model, env, name)


def _same_keys(theirs: gymnasium.spaces.Space[Any], ours: gymnasium.spaces.Space[Any]) -> bool:
    # A dictionary may hold more than the model takes; a single array has its kind for a name, which is compared with the rest.
    if isinstance(ours, gymnasium.spaces.Dict):
        return isinstance(theirs, gymnasium.spaces.Dict) and set(leaf_names(ours)) <= set(leaf_names(theirs))
    return not isinstance(theirs, gymnasium.spaces.Dict)


def _described(space: gymnasium.spaces.Space[Any]) -> str:
    if isinstance(space, gymnasium.spaces.Dict):
        return f"a dictionary of {', '.join(leaf_names(space))}"
    return f"one {type(space).__name__} of shape {space.shape}"


def _same_actions(theirs: gymnasium.spaces.Space[Any], ours: gymnasium.spaces.Box | gymnasium.spaces.Discrete) -> bool:
    # An action means the same only between the same bounds, which the model scales to [−1, 1], and counted from the same start.
    if isinstance(ours, gymnasium.spaces.Discrete):
        return isinstance(theirs, gymnasium.spaces.Discrete) and (theirs.n, theirs.start) == (ours.n, ours.start)
    return (
        isinstance(theirs, gymnasium.spaces.Box)
        and theirs.shape == ours.shape
        and np.allclose(theirs.low, ours.low)
        and np.allclose(theirs.high, ours.high)
    )


def _check_pictures(world_model: WorldModel, env: gymnasium.Env[Any, Any], name: str) -> None:
    recorded = world_model.source.protocol.get("protocol") or {}
    for fact, value in rendering_facts(env).items():
        if fact in ("rendering", "camera") and fact in recorded and recorded[fact] != value:
            raise SpaceError(
                f"{name} shows pictures with {fact} {value!r}, but the world model (dataset "
                f"{world_model.source.dataset}) was fitted on pictures with {fact} {recorded[fact]!r}, which look "
                f"different. Make the environment the same way: dream_env.real.environments.make_environment, or evaluate with "
                f"--environment, takes a rendering"
            )


def stack(observations: Sequence[Any]) -> Any:
    """Observations of N environments as one, with a leading axis; dictionaries are stacked by key."""
    if isinstance(observations[0], Mapping):
        return {name: stack([observation[name] for observation in observations]) for name in observations[0]}
    return np.stack([np.asarray(observation) for observation in observations])


def count(observation: Any) -> int:
    """N of stacked observations."""
    while isinstance(observation, Mapping):
        observation = next(iter(observation.values()))
    return len(observation)
