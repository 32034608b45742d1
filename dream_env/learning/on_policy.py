"""Any Stable-Baselines3 on-policy algorithm as a Learner: PPO, A2C, TRPO, RecurrentPPO, or a class of your own.

The algorithm learns in the dream through ``as_sb3``. Around it stand a policy cloned in the expert's latents to start from
(``warm_start``), cloning steps in between (``anchor``), standardised rewards, and checkpoints from which a killed run
goes on exactly. What is kept of the result are weights and constructor arguments, never SB3's own pickled zip.
"""

import contextlib
import inspect
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from dream_env.checkpoint import Store, load_optimizer, optimizer_tensors
from dream_env.device import own_random_numbers, random_states, restore_random_states
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, PluginError, check_choices
from dream_env.json_options import json_options
from dream_env.learning.cloning import clone
from dream_env.learning.sb3 import (
    BootstrapTogether,
    SB3VecEnv,
    StandardizedReward,
    as_sb3,
    first_action,
    numbered_from_zero,
)
from dream_env.plugin import Learner, Policy, Progress, find, first_seed, ignore, load_learner
from dream_env.spaces import ActionSpec

if TYPE_CHECKING:
    from dream_env.model.encoded import EncodedDemos

Activation = Literal["tanh", "relu", "silu", "elu"]
Bootstrap = Literal["batched", "sb3"]
WarmStart = Literal["none", "bc"]
_ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "silu": torch.nn.SiLU, "elu": torch.nn.ELU}


@dataclass
class OnPolicyLearner(Learner):
    """Run ``algorithm`` in the dream. Options of the algorithm that are no field here go into ``options``."""

    reports_each_update: ClassVar[bool] = True

    algorithm: str = "stable_baselines3:PPO"
    """An SB3 on-policy algorithm as ``module:Class``."""
    policy: str = "MlpPolicy"
    """Name of one of the algorithm's own policies."""
    net_arch: tuple[int, ...] = (256, 256)
    """Hidden layers of the actor, and again of the critic."""
    activation: Activation = "tanh"
    """Their nonlinearity."""
    learning_rate: float = 1e-3
    """Step size of the optimiser."""
    n_steps: int = 15
    """Dream steps that each dream makes between two updates; one horizon by default."""
    gamma: float = 0.95
    """Discount a step (DITTO table 1)."""
    gae_lambda: float = 0.95
    """λ of the advantage estimate (DITTO table 1)."""
    ent_coef: float = 0.01
    """Weight of the policy's entropy, in algorithms that have such a term."""
    standardize_rewards: bool = True
    """Give the algorithm rewards standardised per step index; metrics and results always show the plain ones."""
    bootstrap: Bootstrap = "batched"
    """Value of the last state at the horizon: all dreams in one batch, or SB3's own loop over them. Same numbers."""
    warm_start: WarmStart = "none"
    """Where the policy starts: at random, or cloned from the expert's actions in the expert's latents."""
    warm_start_updates: int = 2000
    """Gradient steps of that cloning."""
    anchor: int = 0
    """Cloning steps after each update of the algorithm, a pull towards the expert's actions; 0 is none."""
    clone_batch: int = 512
    """Expert states in one cloning step."""
    clone_learning_rate: float = 1e-3
    """Step size of the cloning before learning starts; in between it is the algorithm's own."""
    clone_entropy: float = 0.0
    """Weight of the policy's entropy in cloning: η_BC of DITTO eq. 9 (0.1 there, for agents that stop at cloning)."""
    options: str = "{}"
    """Further arguments of the algorithm's constructor, as JSON: '{"vf_coef": 1.0}'. All but those that make another network,
    ``policy_kwargs`` and ``use_sde``: weights alone would not restore it."""

    def __post_init__(self) -> None:
        check_choices(self, {"activation": Activation, "bootstrap": Bootstrap, "warm_start": WarmStart})

    def check(self, dream: DreamEnv) -> None:
        """Make the algorithm once, and its policy anew from what is kept of it: what cannot be made is refused here.

        Raises:
            ConfigError: if ``options`` are no JSON object.
            PluginError: if the algorithm does not take them, or its policy is not one that ``restore`` makes.
        """
        with _own_random_state(dream.device):
            model, _ = self._build(dream, 0)
            config = json.loads(json.dumps(self._policy_config(dream)))
            try:
                self.restore(config, model.policy.state_dict())
            except (KeyError, RuntimeError, TypeError, ValueError) as error:
                reason = " ".join(
                    line.strip() for line in str(error).splitlines()[:2]
                )  # of the first layer, not of all
                raise PluginError(
                    f"the policy {self.policy} of {self.algorithm} could be learned, but not be made again from what is kept of "
                    f"it ({type(error).__name__}: {reason}); take one that net_arch and activation describe "
                    f"({', '.join(model.policy_aliases)}), and leave options out that change its layers"
                ) from error

    def learn(
        self,
        dream: DreamEnv,
        steps: int,
        *,
        seed: int = 0,
        progress: Progress = ignore,
        store: Store | None = None,
    ) -> "SB3Policy":
        """Learn for ``steps`` dream steps; see ``Learner.learn``.

        SB3 draws from torch's and numpy's global generators: they are seeded here, saved in checkpoints, and put back
        as they were when learning ends.
        """
        with _own_random_state(dream.device):
            model, venv = self._build(dream, seed)
            policy = SB3Policy(model.policy, self._policy_config(dream))
            state = _RunState(model, venv, dream)
            saved = store.latest() if store is not None else None
            if saved is None:
                venv.seed(first_seed(seed))
                if self.warm_start == "bc":
                    self._warm_start(model, dream.expert, policy, progress)
            else:
                state.restore(saved[1], saved[2])
            if model.num_timesteps < steps:
                between = _Between(self, policy, state, progress, store)
                together = self.bootstrap == "batched" and not hasattr(model, "_last_lstm_states")
                callbacks: list[BaseCallback] = [BootstrapTogether(), between] if together else [between]
                remaining = steps - model.num_timesteps
                model.learn(remaining, callback=callbacks, log_interval=None, reset_num_timesteps=saved is None)  # type: ignore[arg-type]
                between.after_update()
            if store is not None:
                store.save(model.num_timesteps, *state.take())
            return policy

    def _build(self, dream: DreamEnv, seed: int) -> tuple[OnPolicyAlgorithm, SB3VecEnv | StandardizedReward]:
        plain = as_sb3(dream)
        venv = StandardizedReward(plain, dream.horizon) if self.standardize_rewards else plain
        algorithm = _algorithm(self.algorithm)
        arguments = {
            "policy_kwargs": self._policy_kwargs(), "learning_rate": self.learning_rate, "n_steps": self.n_steps,
            "gamma": self.gamma, "gae_lambda": self.gae_lambda,
            **({"ent_coef": self.ent_coef} if _takes(algorithm, "ent_coef") else {}),  # not all have an entropy term
            **self.algorithm_options(dream), **self._more_options(),
        }  # fmt: skip
        try:
            model: OnPolicyAlgorithm = algorithm(
                self.policy, venv, seed=seed, device=dream.device, verbose=0, **arguments
            )
        except (TypeError, ValueError, AssertionError) as error:  # all three are how SB3 refuses arguments
            raise PluginError(f"{self.algorithm} does not take these options: {error}") from error
        model.set_logger(Logger(folder=None, output_formats=[]))
        return model, venv

    def _more_options(self) -> dict[str, Any]:
        options = json_options(self.options, "options are")
        for name in ("policy_kwargs", "use_sde"):
            if options.get(name):
                raise ConfigError(
                    f"options hold {name!r}, which makes another network than can be restored: its layers are net_arch, and "
                    f"their nonlinearity activation. For another one write a learner (dream_env.plugin.Learner)"
                )
        return options

    def algorithm_options(self, dream: DreamEnv) -> dict[str, Any]:
        """Further constructor arguments of a particular algorithm; subclasses with fields of their own fill them in."""
        return {}

    def _policy_kwargs(self) -> dict[str, Any]:
        layers = list(self.net_arch)
        return {"net_arch": {"pi": layers, "vf": layers}, "activation_fn": _ACTIVATIONS[self.activation]}

    def _policy_config(self, dream: DreamEnv) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm, "policy": self.policy, "net_arch": list(self.net_arch),
            "activation": self.activation, "feat_size": int(np.prod(dream.single_observation_space.shape or ())),
            "action": ActionSpec.from_space(dream.single_action_space).to_json(),
        }  # fmt: skip

    def _warm_start(
        self, model: OnPolicyAlgorithm, expert: "EncodedDemos", policy: "SB3Policy", progress: Progress
    ) -> None:
        optimizer = torch.optim.Adam(model.policy.parameters(), self.clone_learning_rate)
        metrics = clone(
            model.policy, optimizer, expert,
            updates=self.warm_start_updates, batch=self.clone_batch, entropy=self.clone_entropy,
            first_action=policy.first_action,
        )  # fmt: skip
        progress(policy, {"steps": 0.0, "updates": 0.0, **metrics})

    @classmethod
    def restore(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> "SB3Policy":
        """Rebuild the policy from its constructor arguments and weights, where the weights are."""
        aliases = _algorithm(config["algorithm"]).policy_aliases
        layers = list(config["net_arch"])
        policy = aliases[config["policy"]](
            spaces.Box(-np.inf, np.inf, (config["feat_size"],), np.float32),
            numbered_from_zero(ActionSpec.from_json(config["action"]).space),
            lambda _: 0.0,
            net_arch={"pi": layers, "vf": layers},
            activation_fn=_ACTIVATIONS[config["activation"]],
        )
        policy.load_state_dict(weights)
        policy.to(next(iter(weights.values())).device)
        return SB3Policy(policy, config)


class SB3Policy(Policy):
    """An SB3 policy network that acts on model states."""

    def __init__(self, network: Any, config: dict[str, Any]) -> None:
        self.network = network
        self.first_action = first_action(ActionSpec.from_json(config["action"]).space)
        """The environment's number of the network's action 0."""
        self._config = config

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """SB3's own ``predict``, in the environment's numbers of actions."""
        action, new_state = self.network.predict(observation, state, episode_start, deterministic)
        return action + self.first_action if self.first_action else action, new_state

    def config(self) -> dict[str, Any]:
        """Constructor arguments as JSON."""
        return dict(self._config)

    def state_dict(self) -> dict[str, Tensor]:
        """The network's weights."""
        weights: dict[str, Tensor] = self.network.state_dict()
        return weights


def resolve_learner(name: str, **options: Any) -> Learner:
    """A learner by name, or by ``module:Class``: a ``Learner``, or any SB3 on-policy algorithm."""
    if ":" in name and not issubclass(find("learners", name), Learner):
        _algorithm(name)
        return OnPolicyLearner(algorithm=name, **options)
    return load_learner(name, **options)


def _algorithm(name: str) -> type[OnPolicyAlgorithm]:
    algorithm = find("learners", name)
    if not (isinstance(algorithm, type) and issubclass(algorithm, OnPolicyAlgorithm)):
        raise PluginError(
            f"{name} is no on-policy algorithm of Stable-Baselines3 (a subclass of OnPolicyAlgorithm); off-policy ones learn "
            f"from a replay buffer, whose dreams a reward that learns would have outgrown"
        )
    return algorithm


def _takes(algorithm: type[OnPolicyAlgorithm], option: str) -> bool:
    """Whether an algorithm's constructor has an option; one that hands on all it is given has those of the class above."""
    for cls in algorithm.__mro__:
        parameters = inspect.signature(vars(cls)["__init__"]).parameters if "__init__" in vars(cls) else None
        if parameters is not None and option in parameters:
            return True
        if parameters is not None and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return False
    return False


class _RunState:
    """Everything an exact resume needs, taken between two updates: weights, moments, dreams, statistics, random states."""

    def __init__(self, model: OnPolicyAlgorithm, venv: SB3VecEnv | StandardizedReward, dream: DreamEnv) -> None:
        self.model = model
        self.venv = venv
        self.dream = dream

    def take(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        model = self.model
        numpy_state: Any = np.random.get_state()
        tensors = {f"policy/{name}": tensor for name, tensor in model.policy.state_dict().items()}
        tensors |= optimizer_tensors(model.policy.optimizer, "optimizer")
        tensors |= {f"dream/{name}": tensor for name, tensor in self.dream.state_dict().items()}
        tensors |= {f"venv/{name}": torch.as_tensor(array) for name, array in self.venv.state_dict().items()}
        tensors["last_obs"] = torch.as_tensor(np.asarray(model._last_obs))
        tensors["last_episode_starts"] = torch.as_tensor(np.asarray(model._last_episode_starts))
        tensors |= random_states(model.device)
        tensors["random/numpy"] = torch.as_tensor(numpy_state[1].astype(np.int64))
        for i, half in enumerate(self._lstm_states()):
            tensors[f"lstm/{i}"] = half
        state = {
            "num_timesteps": model.num_timesteps, "n_updates": getattr(model, "_n_updates", 0),
            "numpy": [numpy_state[0], *numpy_state[2:]], "python": random.getstate(),
        }  # fmt: skip
        return tensors, state

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        model = self.model

        def under(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        model.policy.load_state_dict(under("policy/"))
        load_optimizer(model.policy.optimizer, tensors, "optimizer")
        self.dream.load_state_dict(under("dream/"))
        self.venv.load_state_dict({name: tensor.numpy() for name, tensor in under("venv/").items()})
        model._last_obs = tensors["last_obs"].numpy()
        model._last_episode_starts = tensors["last_episode_starts"].numpy()
        model.num_timesteps = state["num_timesteps"]
        model._n_updates = state["n_updates"]
        halves = under("lstm/")
        if halves:
            kind = type(model._last_lstm_states)  # type: ignore[attr-defined]
            pair = [halves[str(i)].to(model.device) for i in range(4)]
            model._last_lstm_states = kind((pair[0], pair[1]), (pair[2], pair[3]))  # type: ignore[attr-defined]
        restore_random_states(tensors, model.device, step=model.num_timesteps)
        name, *rest = state["numpy"]
        np.random.set_state((name, tensors["random/numpy"].numpy().astype(np.uint32), *rest))
        version, internal, gauss = state["python"]
        random.setstate((version, tuple(internal), gauss))

    def _lstm_states(self) -> list[Tensor]:
        states = getattr(self.model, "_last_lstm_states", None)
        return [] if states is None else [half for pair in (states.pi, states.vf) for half in pair]


class _Between(BaseCallback):
    """What happens between two updates of the algorithm: anchor steps, progress, checkpoints."""

    def __init__(
        self, learner: OnPolicyLearner, policy: SB3Policy, state: _RunState, progress: Progress, store: Store | None
    ) -> None:
        super().__init__()
        self.learner = learner
        self.policy = policy
        self.state = state
        self.progress = progress
        self.store = store
        self._rewards: list[float] = []
        self._first = True

    def _on_step(self) -> bool:
        self._rewards.append(float(self.state.dream.last_rewards.mean()))
        return True

    def _on_rollout_start(self) -> None:
        # SB3 calls this before it collects, so all but the first time an update lies just behind.
        if not self._first:
            self.after_update()
            if self.store is not None and self.store.due():
                self.store.save(self.model.num_timesteps, *self.state.take())
        self._first = False

    def after_update(self) -> None:
        """Anchor, then report."""
        metrics = {"steps": float(self.model.num_timesteps)}
        if self.model._n_updates:  # an algorithm that does not count them leaves it at 0
            metrics["updates"] = float(self.model._n_updates)
        if self._rewards:
            metrics["dream_reward"] = float(np.mean(self._rewards))
        self._rewards.clear()
        for name, value in self.model.logger.name_to_value.items():
            if name.startswith("train/") and name != "train/n_updates":  # as SB3 calls what "updates" is
                metrics[name.removeprefix("train/")] = float(value)
        metrics |= self.state.dream.reward_metrics
        if self.learner.anchor:
            optimizer = self.model.policy.optimizer
            metrics |= clone(
                self.model.policy, optimizer, self.state.dream.expert, updates=self.learner.anchor,
                batch=self.learner.clone_batch, entropy=self.learner.clone_entropy, first_action=self.policy.first_action,
            )  # fmt: skip
        self.progress(self.policy, metrics)


@contextlib.contextmanager
def _own_random_state(device: torch.device) -> Iterator[None]:
    kept = np.random.get_state(), random.getstate()
    with own_random_numbers(device):
        try:
            yield
        finally:
            np.random.set_state(kept[0])
            random.setstate(kept[1])
