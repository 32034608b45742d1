"""Stable-Baselines3's view of a Gymnasium vector environment: ``as_sb3(envs)`` is an SB3 ``VecEnv``.

SB3 takes no ``gymnasium.vector.VectorEnv``; its ``VecEnv`` is an older interface (four return values, one dict a sub-environment,
reset in the same step). This adapter translates and keeps the semantics: ``terminal_observation``, ``TimeLimit.truncated`` and
episode statistics are given where SB3 looks for them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from dream_env.errors import ConfigError


def as_sb3(envs: VectorEnv[Any, Any, Any]) -> "SB3VecEnv":
    """Wrap a vector environment (a ``DreamEnv``, or any other with SAME_STEP autoreset) for Stable-Baselines3.

    Observations are what SB3 takes: one array, or a flat Dict of arrays. What sub-environments say of a step (``is_success``)
    is in each one's info, at an episode's end as well.

    SB3 numbers discrete actions from 0. Where the environment's start at another number (``Discrete(3, start=1)``), that is added
    on the way in; add it too to what ``model.predict`` gives before it is done anywhere else.

    Raises:
        ConfigError: if the environment resets in another step, gives tensors (``output="torch"``), or shows what SB3 does not
            take.
    """
    return SB3VecEnv(envs)


def first_action(space: spaces.Space[Any]) -> int:
    """The number of the first of discrete actions, which is 0 for SB3; 0 for actions of any other kind."""
    return int(space.start) if isinstance(space, spaces.Discrete) else 0


def numbered_from_zero(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The action space as SB3 is told of it: discrete actions start at 0."""
    return spaces.Discrete(int(space.n)) if isinstance(space, spaces.Discrete) and first_action(space) else space


def _can_be_shown(space: spaces.Space[Any]) -> bool:
    # One-hot numbers are counted from 0 by SB3, as actions are.
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return not np.any(space.start)
    return isinstance(space, spaces.Box | spaces.MultiBinary)


def _arrays(observation: Any) -> np.ndarray | dict[str, np.ndarray]:
    """Observations of all sub-environments, or of one: an array, or a dict of arrays for a Dict space."""
    if isinstance(observation, Mapping):
        return {name: np.asarray(part) for name, part in observation.items()}
    return np.asarray(observation)


def _info_of(infos: Mapping[str, Any], i: int) -> dict[str, Any]:
    """What Gymnasium's infos of all say of sub-environment ``i``: the mask ``_key`` tells whether ``key`` does."""
    return {
        key: _info_of(values, i) if isinstance(values, Mapping) else values[i]
        for key, values in infos.items()
        if f"_{key}" in infos and infos[f"_{key}"][i]
    }


class SB3VecEnv(VecEnv):
    """See ``as_sb3``."""

    def __init__(self, envs: VectorEnv[Any, Any, Any]) -> None:
        mode = envs.metadata.get("autoreset_mode")
        if mode != AutoresetMode.SAME_STEP:
            raise ConfigError(
                f"Stable-Baselines3 needs sub-environments that reset in the same step, but these have autoreset_mode={mode}; "
                f"make them with autoreset_mode='SameStep'"
            )
        if getattr(envs, "output", "numpy") == "torch":
            raise ConfigError(
                'Stable-Baselines3 needs arrays, but these sub-environments give tensors; make them with output="numpy"'
            )
        shown = envs.single_observation_space
        if not all(
            _can_be_shown(part) for part in (shown.spaces.values() if isinstance(shown, spaces.Dict) else [shown])
        ):
            raise ConfigError(
                f"Stable-Baselines3 takes observations of Box, Discrete, MultiDiscrete or MultiBinary, counted from 0, or one "
                f"Dict of these, but these sub-environments show {shown}; wrap each, as in gymnasium.wrappers.FlattenObservation"
            )
        self.envs = envs
        self._first_action = first_action(envs.single_action_space)
        self._actions: Any = None
        self._returns = np.zeros(envs.num_envs)
        self._lengths = np.zeros(envs.num_envs, dtype=np.int64)
        action_space = numbered_from_zero(envs.single_action_space)
        super().__init__(envs.num_envs, shown, action_space)
        # SB3 reads the frames a second of a video here; the render modes are its own, which add "human".
        self.metadata = {**envs.metadata, **self.metadata}

    def reset(self) -> VecEnvObs:
        """Reset all; the seed given by ``seed`` is used once."""
        seed = self._seeds[0]
        options = self._options[0] or None
        observations, _ = self.envs.reset(seed=seed, options=options)
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self.reset_infos = [{} for _ in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return _arrays(observations)

    def step_async(self, actions: np.ndarray) -> None:
        """Remember the actions; the work is done in ``step_wait``."""
        self._actions = actions + self._first_action if self._first_action else actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step all sub-environments and translate what comes back."""
        observations, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        rewards = np.array(rewards, dtype=np.float32)
        dones = np.logical_or(terminated, truncated)
        self._returns += rewards
        self._lengths += 1
        # What is said beside final_info of one that has ended is of its next episode, and SB3 has no place for that.
        final = infos.get("final_info", {})
        listed: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if infos:  # dreams say nothing but at their ends
            listed = [_info_of(final if done else infos, i) for i, done in enumerate(dones)]
        for i in np.flatnonzero(dones):
            listed[i] |= {
                "terminal_observation": _arrays(infos["final_obs"][i]),
                "TimeLimit.truncated": bool(truncated[i]) and not bool(terminated[i]),
                "episode": {"r": float(self._returns[i]), "l": int(self._lengths[i]), "t": 0.0},
            }
        self._returns[dones] = 0.0
        self._lengths[dones] = 0
        return _arrays(observations), rewards, np.asarray(dones), listed

    def state_dict(self) -> dict[str, np.ndarray]:
        """Statistics of the episodes on their way, for an exact resume."""
        return {"returns": self._returns.copy(), "lengths": self._lengths.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """The inverse of ``state_dict``."""
        self._returns[:] = state["returns"]
        self._lengths[:] = state["lengths"]

    def close(self) -> None:
        """Close the vector environment."""
        self.envs.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One frame a sub-environment."""
        frames = self.envs.render()
        return [None] * self.num_envs if frames is None else [np.asarray(frame) for frame in frames]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the vector environment, once for each index: its sub-environments are one object."""
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute for all sub-environments; there is no setting it for some."""
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise ConfigError(f"{attr_name!r} can only be set for all sub-environments at once: they are one object")
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        """Call a method of the vector environment once and return its result for each index."""
        result = getattr(self.envs, method_name)(*args, **kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Never: there is no wrapper around a single sub-environment, which are all one object."""
        return [False for _ in self._get_indices(indices)]


class BootstrapTogether(BaseCallback):
    """Values what the horizon cuts off for all dreams in one call: ``PPO(...).learn(n, callback=BootstrapTogether())``.

    Stable-Baselines3 by itself asks its critic once a dream, which for 512 dreams that end together takes half as long as
    dreaming them. What is learned is the same, through any wrappers: the value is added where the algorithm would add it, to
    what ``step`` has just given it. The environment knows nothing of it, so nothing is left there when learning is broken off.

    Raises:
        ConfigError: when learning starts, if the environment is none of ``as_sb3``, or if the policy is recurrent.
    """

    def _on_training_start(self) -> None:
        envs = self.training_env.unwrapped
        if not isinstance(envs, SB3VecEnv):
            raise ConfigError(
                f"BootstrapTogether is for dream_env.as_sb3(...); this algorithm learns in a {type(envs).__name__}"
            )
        if not hasattr(self.model.policy, "predict_values") or hasattr(self.model, "_last_lstm_states"):
            raise ConfigError(
                f"BootstrapTogether needs a critic of single observations, which {type(self.model).__name__} does not have; "
                f"leave it out, and Stable-Baselines3 does the same more slowly"
            )

    def _on_step(self) -> bool:
        rewards, infos = self.locals["rewards"], self.locals["infos"]
        where = [i for i, info in enumerate(infos) if info.get("TimeLimit.truncated", False)]
        if where:
            rewards[where] += self._discounted_values([infos[i]["terminal_observation"] for i in where])
            for i in where:
                infos[i]["TimeLimit.truncated"] = False  # or the algorithm would add it again
        return True

    def _discounted_values(self, observations: Sequence[Any]) -> np.ndarray:
        """``γ·v`` of many observations at once, by the critic as it is now."""
        model: Any = self.model

        def stacked(arrays: Sequence[np.ndarray]) -> torch.Tensor:
            return torch.as_tensor(np.stack(arrays), device=model.device)

        first = observations[0]
        together = (
            {name: stacked([each[name] for each in observations]) for name in first}
            if isinstance(first, Mapping)
            else stacked(observations)
        )
        with torch.no_grad():
            values = model.policy.predict_values(together)
        return np.asarray((model.gamma * values.flatten()).cpu())


class StandardizedReward(VecEnvWrapper):
    """Rewards standardised for each step index by itself: ``c (rₜ − μₜ) / (σₜ + ε)`` with running statistics, c = ``SCALE``.

    Imitation rewards fall along a dream whatever the policy does, since the model's own noise adds up, and their spread at
    one step is a hundredth of their size. An actor-critic has to find that spread; here it is always the same. Subtracting a
    number that depends on the step alone changes no optimal policy in dreams of a fixed length.
    """

    SCALE = 0.1
    """What a reward of one standard deviation becomes. Rewards of a dream hang together, so returns over a horizon are about
    ten times as large; with returns of size one the critic's gradient does not crowd out the actor's, whose norm SB3 clips
    together with it."""
    RATE = 0.01
    """Weight of the newest batch in the running statistics, once there have been a hundred."""

    def __init__(self, venv: SB3VecEnv, horizon: int) -> None:
        super().__init__(venv)
        self.dream = venv
        self._step = np.zeros(venv.num_envs, dtype=np.int64)
        self._mean = np.zeros(horizon)
        self._square = np.ones(horizon)
        self._count = np.zeros(horizon)

    def reset(self) -> VecEnvObs:
        """Reset all; the statistics stay."""
        self._step[:] = 0
        return self.venv.reset()

    def step_wait(self) -> VecEnvStepReturn:
        """Step, then standardise. What a critic says of a dream's end is in standardised units already; it is added after."""
        observations, rewards, dones, infos = self.dream.step_wait()
        self._update(rewards)
        spread = np.sqrt(np.maximum(self._square - self._mean**2, 0.0)) + 1e-6
        rewards = (self.SCALE * (rewards - self._mean[self._step]) / spread[self._step]).astype(np.float32)
        self._step = np.where(dones, 0, self._step + 1)
        return observations, rewards, dones, infos

    def _update(self, rewards: np.ndarray) -> None:
        for step in np.unique(self._step):
            here = rewards[self._step == step].astype(np.float64)
            self._count[step] += 1
            rate = max(1.0 / self._count[step], self.RATE)
            self._mean[step] += rate * (here.mean() - self._mean[step])
            self._square[step] += rate * ((here**2).mean() - self._square[step])

    def state_dict(self) -> dict[str, np.ndarray]:
        """The statistics, for an exact resume."""
        own = {"step": self._step, "mean": self._mean, "square": self._square, "count": self._count}
        return {**self.dream.state_dict(), **{name: array.copy() for name, array in own.items()}}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """The inverse of ``state_dict``."""
        self.dream.load_state_dict(state)
        self._step[:], self._mean[:] = state["step"], state["mean"]
        self._square[:], self._count[:] = state["square"], state["count"]
