"""Learners: Stable-Baselines3's PPO and A2C, sb3-contrib's TRPO and RecurrentPPO, with defaults that suit 512 short dreams.

Any other on-policy algorithm runs by its class: ``--learner my_package:MyAlgorithm``.
"""

from dataclasses import dataclass
from typing import Any

from dream_env.dream.env import DreamEnv
from dream_env.learning.on_policy import OnPolicyLearner


@dataclass
class PPO(OnPolicyLearner):
    """Proximal policy optimisation (Schulman et al. 2017)."""

    n_steps: int = 30
    """Dream steps that each dream makes between two updates; two horizons by default."""
    minibatches: int = 6
    """Parts into which a rollout is cut for one gradient step each."""
    epochs: int = 4
    """Passes over a rollout."""
    clip_range: float = 0.2
    """Largest change of a probability ratio that is rewarded."""
    target_kl: float | None = None
    """Stop the passes over a rollout when the policy has moved this far."""

    def algorithm_options(self, dream: DreamEnv) -> dict[str, Any]:
        size = max(2, self.n_steps * dream.num_envs // self.minibatches)
        return {"batch_size": size, "n_epochs": self.epochs, "clip_range": self.clip_range, "target_kl": self.target_kl}


@dataclass
class A2C(OnPolicyLearner):
    """Synchronous advantage actor-critic (Mnih et al. 2016)."""

    algorithm: str = "stable_baselines3:A2C"
    learning_rate: float = 7e-4
    """Step size of the optimiser (SB3's default for A2C)."""
    normalize_advantage: bool = True
    """Bring the advantages of a rollout to mean 0 and standard deviation 1, as the DITTO code does."""

    def algorithm_options(self, dream: DreamEnv) -> dict[str, Any]:
        return {"normalize_advantage": self.normalize_advantage}


@dataclass
class TRPO(OnPolicyLearner):
    """Trust-region policy optimisation (Schulman et al. 2015)."""

    algorithm: str = "sb3_contrib:TRPO"
    n_steps: int = 30
    """Dream steps that each dream makes between two updates; two horizons by default."""
    learning_rate: float = 1e-3
    """Step size of the critic's optimiser; the actor's step follows from ``target_kl``."""
    target_kl: float = 0.01
    """Size of the trust region."""

    def algorithm_options(self, dream: DreamEnv) -> dict[str, Any]:
        return {"batch_size": max(2, self.n_steps * dream.num_envs // 6), "target_kl": self.target_kl}


@dataclass
class RecurrentPPO(OnPolicyLearner):
    """PPO with an LSTM policy. The model state is Markovian already; use it where the model is too small to remember."""

    algorithm: str = "sb3_contrib:RecurrentPPO"
    policy: str = "MlpLstmPolicy"
    n_steps: int = 30
    """Dream steps that each dream makes between two updates; two horizons by default."""
    minibatches: int = 6
    """Parts into which a rollout is cut for one gradient step each."""
    epochs: int = 4
    """Passes over a rollout."""

    def algorithm_options(self, dream: DreamEnv) -> dict[str, Any]:
        return {"batch_size": max(2, self.n_steps * dream.num_envs // self.minibatches), "n_epochs": self.epochs}
