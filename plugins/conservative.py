"""CMIL's learner: twin critics, gradients through the dream, real data beside it, cloning as a leash (CMIL §5).

One update, on recorded sequences ``(ŝ_j, a_j)``, j = 1 … T, whose model states the filter gave:

1. from every ``ŝ_j`` (online: of ``rows`` of each sequence alone, whose steps are also the recorded ones of 4) the actor
   dreams H steps (``branching.py``); each step is rewarded by the dream's reward, with CMIL's an adversary's minus the
   ensemble's disagreement                                                                                        (eq. 10)
2. values along each dream: TD(λ) over ``V_0 = min_i Q_i``                                                         (eq. 11)
3. the actor raises ``λ V + (1 − λ) V_0``, by the gradient through actions, model and reward                       (eq. 12),
   plus ``β`` times the likelihood of the expert's actions in the expert's states
4. both critics regress the target critics' TD(λ), on dreamed steps and on the recorded ones, whose rewards bear no
   penalty                                                                                                  (eqs. 13 to 15)
5. the reward learns, an adversary in ``updates`` gradient steps: to tell the expert's steps from the dreamed ones  (eq. 8)

``vmail`` is the same without conservatism: its usual reward is ``vmail``, which subtracts nothing. (VMAIL as published has one
critic of states, no real-data loss and D itself as reward: ``--no-real-critic --reward gail`` come near.)

``learn`` stays in the dream: sequences are windows of the expert's demonstrations, the world model is left as it is. CMIL is an
online method, and this is its offline beginning. ``learn_online`` (``online_loop.py``) is the whole of it.

Where the paper is silent DreamerV2's values for control are taken, as it says it does: γ 0.99, λ 0.95, H 15 (``--horizon``),
target critics copied every 100 updates, gradients cut to a norm of 100, an entropy weight of 1e-4, step sizes of 8e-5. The step
sizes here are larger, for the fewer updates of a CPU; the help of each flag names the paper's value.

Discrete actions are refused: no gradient goes through them. Where dreams may end (``terminate=True``) an end discounts what comes
after it, and steps after a likely end are learned from like all others (Dreamer weighs them less); CMIL's tasks have no ends.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from dream_env.checkpoint import Store
from dream_env.device import own_random_numbers
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, DatasetError, check_choices
from dream_env.learning.online import OnlineLearner, RealWorld
from dream_env.plugin import Policy, Progress, ignore

from .conservative_run import ConservativeRun
from .expert_windows import ExpertWindows
from .latent_actor import Activation, ActorPolicy, NetShape, SquashKind


@dataclass(frozen=True)
class Conservative(OnlineLearner):
    """The learner ``cmil``; see the module for the equations."""

    usual_reward: ClassVar[str] = "cmil"

    gamma: float = 0.99
    """Discount a step, γ (DreamerV2)."""
    td_lambda: float = 0.95
    """λ of TD(λ) (DreamerV2)."""
    anchor: float = 10.0
    """Weight β of behaviour cloning in the actor's loss (CMIL §6)."""
    entropy: float = 1e-4
    """Weight of the policy's entropy (DreamerV2)."""
    real_critic: bool = True
    """Critics also learn from recorded steps (eq. 14)."""
    learning_rate: float = 3e-4
    """Step size of the actor's Adam; 8e-5 in DreamerV2."""
    critic_learning_rate: float = 3e-4
    """Step size of the critics' Adam; 8e-5 in DreamerV2."""
    target_period: int = 100
    """Updates between two copies of the critics into their targets (DreamerV2)."""
    max_gradient_norm: float = 100.0
    """Gradients of actor and of critics are cut to this norm, each by itself (DreamerV2); 0 is no limit."""
    hidden: tuple[int, ...] = (256, 256)
    """Hidden layers of the actor and of each critic; four of 400 in DreamerV2."""
    activation: Activation = "silu"
    """Their nonlinearity; elu in DreamerV2."""
    layer_norm: bool = True
    """Normalise each hidden layer before its nonlinearity; DreamerV2 does not."""
    squash: SquashKind = "tanh"
    """How a normal distribution gets into the bounds of a Box: tanh bends it, clip cuts it off."""
    rows: int = 16
    """Rows of each sequence that dreams start on, in a row: the real-data loss needs each with the next. Online a part of each
    sequence that is drawn anew for each update; in the paper all of it (``rows`` as large as ``length``), at that much more
    dreaming. Offline sequences get shorter where most of the expert's episodes are too short for so many, with a horizon after
    each."""
    warm_start_updates: int = 2000
    """Cloning steps before anything else; 100 of larger batches in the released code (``pretrain_bc``)."""
    report_every: int = 20
    """Updates between two reports of progress, offline."""
    train_every: int = 5
    """Online: real steps for one update of everything (DreamerV2)."""
    seed_steps: int = 5000
    """Online: real steps of the cloned policy before the first update (the released code)."""
    round_episodes: int = 1
    """Online: real episodes side by side between two rounds of updates; more are cheaper and of an older policy."""
    batch: int = 16
    """Online: recorded sequences in an update, of all episodes there are; 50 in DreamerV2."""
    expert_batch: int = 8
    """Online: sequences of the expert's demonstrations besides."""
    length: int = 32
    """Online: rows of a sequence; 50 in DreamerV2."""
    model_learning_rate: float = 3e-4
    """Online: step size of the world model's Adam (DreamerV2)."""

    def __post_init__(self) -> None:
        for option in ("gamma", "td_lambda"):
            if not 0.0 <= getattr(self, option) <= 1.0:
                raise ConfigError(f"{option} lies between 0 and 1, not at {getattr(self, option)}")
        check_choices(self, {"activation": Activation, "squash": SquashKind})
        for option in ("anchor", "entropy", "max_gradient_norm", "seed_steps", "warm_start_updates", "learning_rate",
                       "critic_learning_rate", "model_learning_rate"):  # fmt: skip
            if not getattr(self, option) >= 0:
                raise ConfigError(f"{option} must be at least 0, not {getattr(self, option)}")
        for option in ("target_period", "report_every", "train_every", "round_episodes", "batch", "expert_batch",
                       "hidden"):  # fmt: skip
            if min(np.atleast_1d(getattr(self, option)), default=1) < 1:
                raise ConfigError(f"{option} must be at least 1, not {getattr(self, option)}")
        for option in ("rows", "length"):
            if getattr(self, option) < 2:
                raise ConfigError(f"{option} must be at least 2, one step, not {getattr(self, option)}")

    def check(self, dream: DreamEnv) -> None:
        """Refuse what cannot be learned in the dream.

        Raises:
            ConfigError: for discrete actions, and if no episode has two starts.
            DatasetError: if the expert slips too often.
        """
        self._check_actions(dream)
        ExpertWindows(dream, self.rows)

    def _check_actions(self, dream: DreamEnv) -> None:
        if dream.world_model.action_spec.discrete:
            raise ConfigError(
                f"this learner sends gradients through actions, which must be numbers, a Box; these are "
                f"{dream.single_action_space}. Take ditto or ppo, with --reward cmil or gail if the reward is what is wanted"
            )

    # ------------------------------------------------------------------------------------------------------ in the dream

    def learn(
        self,
        dream: DreamEnv,
        steps: int,
        *,
        seed: int = 0,
        progress: Progress = ignore,
        store: Store | None = None,
    ) -> ActorPolicy:
        """Learn for ``steps`` dream steps, whole updates of about ``num_envs · horizon``; see ``Learner.learn``."""
        self.check(dream)
        with own_random_numbers(dream.device, seed):
            run, windows = ConservativeRun(self, dream, seed), ExpertWindows(dream, self.rows)
            windows.tell()
            if store is not None and (saved := store.latest(dream.device)) is not None:
                run.restore(saved[1], saved[2])
            else:
                loss = 0.0
                for _ in range(self.warm_start_updates):
                    loss = run.clone(windows.draw(run.generator)[0])
                progress(run.policy, {"steps": 0.0, "updates": 0.0, "clone_loss": loss})
            while run.steps < steps:
                expert, pairs = windows.draw(run.generator)
                run.update(expert, expert, pairs)
                finished = run.steps >= steps
                if finished or run.updates % self.report_every == 0:
                    looked = {**run.means.take(), **run.bound(expert, run.looking())}
                    progress(run.policy, {"steps": float(run.steps), "updates": float(run.updates), **looked})
                if store is not None and (finished or store.due()):
                    store.save(run.steps, *run.take())
            return run.policy

    # ---------------------------------------------------------------------------------------------- and in the real world

    def check_online(self, dream: DreamEnv) -> None:
        """Refuse what cannot be learned with real steps.

        Raises:
            ConfigError: for discrete actions, and for a reward that needs an expert beside each dream.
            DatasetError: if the expert never goes a whole sequence without a slip.
        """
        self._check_actions(dream)
        if dream.reward.paired:
            raise ConfigError(
                f"reward {dream.reward.name!r} compares each step with the expert's from the same start, but online most "
                f"dreams start where no expert was; take one that judges a step by itself: cmil, gail"
            )
        try:
            dream.expert.windows(self.length - 1)
        except DatasetError as error:
            raise DatasetError(
                f"with real steps a sequence is of {self.length} rows, {self.length - 1} steps of one episode without a slip; "
                f"nowhere in {dream.expert.num_episodes} expert episodes are there so many (the longest has "
                f"{int(dream.expert.lengths.max())} steps). Take a shorter --length"
            ) from error

    def learn_online(
        self,
        dream: DreamEnv,
        real: RealWorld,
        *,
        seed: int = 0,
        progress: Progress = ignore,
        store: Store | None = None,
    ) -> Policy:
        """The whole of CMIL: real episodes, and an update of model, reward, actor and critics for every few real steps."""
        from .online_loop import OnlineLoop

        self.check_online(dream)
        with own_random_numbers(dream.device, seed):
            return OnlineLoop(self, dream, real, seed).run(progress, store)

    def net_shape(self, size: int) -> NetShape:
        """Actor and critics, but for their outputs."""
        return NetShape(size, tuple(self.hidden), self.activation, self.layer_norm)

    @classmethod
    def restore(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> ActorPolicy:
        """Rebuild the policy from its sizes and weights, where the weights are."""
        return ActorPolicy.restore(config, weights)


@dataclass(frozen=True)
class Vmail(Conservative):
    """The learner ``vmail``: the same without conservatism (Rafailov et al. 2021)."""

    usual_reward: ClassVar[str] = "vmail"
