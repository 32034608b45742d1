"""A learner that dream-env does not ship: random search for a linear policy (Mania et al. 2018, "simple random search").

Every dream tries weights of its own, ``W + σ δ`` or ``W − σ δ`` in pairs; then ``W`` goes along each ``δ`` by as much as the
first of its pair fared better: no gradient, no network, and enough to see what a learner has to do.

Examine it with ``python -c "from dream_env.testing import check_learner; check_learner('random-search')"``.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dream_env.checkpoint import Store
from dream_env.device import own_random_numbers
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError
from dream_env.plugin import Learner, Policy, Progress, ignore


class LinearPolicy(Policy):
    """The largest of ``W x`` is the action; of a Box ``W x`` is, from −1 to 1, between its bounds."""

    def __init__(self, weights: np.ndarray, low: np.ndarray | int, high: np.ndarray | None = None) -> None:
        self.weights, self.low, self.high = weights, low, high

    @classmethod
    def zeros(cls, dream: DreamEnv) -> "LinearPolicy":
        """That of a dream, which does not look at anything yet."""
        action, size = dream.single_action_space, dream.single_observation_space.shape[0]
        if isinstance(action, spaces.Discrete):
            return cls(np.zeros((int(action.n), size), np.float32), int(action.start))
        return cls(np.zeros((*action.shape, size), np.float32), action.low, action.high)

    def act(self, weights: np.ndarray, observation: np.ndarray) -> np.ndarray:
        """Actions of N observations, with weights for each or for all."""
        found = np.einsum(
            "...f,...f->...", weights, observation.reshape(len(observation), *[1] * (weights.ndim - 2), -1)
        )
        if self.high is None:
            return self.low + found.argmax(axis=-1)
        return self.low + (self.high - self.low) * (found.clip(-1.0, 1.0) + 1.0) / 2.0

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Model states (N, feat) to actions (N, ...), which are the same whether ``deterministic`` or not; it has no memory."""
        return self.act(self.weights[None], observation), None

    def config(self) -> dict[str, Any]:
        """Bounds of its actions."""
        return {"low": np.asarray(self.low).tolist(), "high": None if self.high is None else self.high.tolist()}

    def state_dict(self) -> dict[str, Tensor]:
        """The weights; the policy goes on with its own."""
        return {"weights": torch.from_numpy(self.weights.copy())}


@dataclass(frozen=True)
class RandomSearch(Learner):
    """Random search for a linear policy."""

    sigma: float = 0.05
    """How far from the weights is tried."""
    rate: float = 0.02
    """Length of a step along all directions, in standard deviations of what dreams earn."""

    def __post_init__(self) -> None:
        for option in ("sigma", "rate"):
            if not getattr(self, option) > 0.0:
                raise ConfigError(f"{option} must be above 0, not {getattr(self, option)}")

    def check(self, dream: DreamEnv) -> None:
        """Refuse a dream by itself: directions are tried in pairs."""
        if dream.num_envs % 2:
            raise ConfigError(f"random search tries pairs, but num_envs is {dream.num_envs}; give an even number")

    def learn(
        self, dream: DreamEnv, steps: int, *, seed: int = 0, progress: Progress = ignore, store: Store | None = None
    ) -> LinearPolicy:
        """Learn for ``steps`` dream steps, whole updates of ``num_envs · horizon``; see ``Learner.learn``.

        Each update draws from a seed of its own. So all there is to save is the weights and what the reward has learned.
        """
        self.check(dream)
        policy, update = LinearPolicy.zeros(dream), 0
        saved = store.latest(dream.device) if store is not None else None
        if saved is not None:
            update, tensors = saved[2]["update"], saved[1]
            policy.weights = tensors.pop("weights").cpu().numpy()
            dream.reward.load_state_dict({name.removeprefix("reward/"): tensor for name, tensor in tensors.items()})
        with own_random_numbers(dream.device):  # torch's and numpy's are as they were when this is over
            while update * dream.num_envs * dream.horizon < steps:
                earned = self._update(policy, dream, seed, update)
                update += 1
                done = update * dream.num_envs * dream.horizon
                progress(policy, {"steps": float(done), "return": earned})
                if store is not None and (done >= steps or store.due()):
                    reward = {f"reward/{name}": tensor for name, tensor in dream.reward.state_dict().items()}
                    store.save(done, {"weights": torch.from_numpy(policy.weights), **reward}, {"update": update})
        return policy

    def _update(self, policy: LinearPolicy, dream: DreamEnv, seed: int, update: int) -> float:
        generator = np.random.default_rng([seed, update])
        torch.manual_seed(int(generator.integers(2**31)))  # rewards that learn draw from torch's
        tried = generator.standard_normal((dream.num_envs // 2, *policy.weights.shape), dtype=np.float32)
        weights = policy.weights + self.sigma * np.concatenate([tried, -tried])
        observation, _ = dream.reset(seed=int(generator.integers(2**31)))
        earned, dreaming = np.zeros(dream.num_envs), np.ones(dream.num_envs, bool)
        for _ in range(dream.horizon):
            observation, reward, terminated, _, _ = dream.step(policy.act(weights, observation))
            earned += reward * dreaming
            dreaming &= ~terminated  # with terminate=True: what a dream earns after its end is another's
        better = (earned[: len(tried)] - earned[len(tried) :]) / (earned.std() + 1e-8)
        direction = np.tensordot(better.astype(np.float32), tried, axes=1) / len(tried)
        policy.weights = policy.weights + np.float32(self.rate) * direction
        return float(earned.mean())

    @classmethod
    def restore(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> LinearPolicy:
        """The policy that was kept."""
        low, high = np.asarray(config["low"], np.float32), config["high"]
        bounds = (int(low),) if high is None else (low, np.asarray(high, np.float32))
        return LinearPolicy(weights["weights"].cpu().numpy(), *bounds)
