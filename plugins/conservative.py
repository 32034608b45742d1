"""CMIL's learner: twin critics, gradients through the dream, real data beside it, cloning as a leash (CMIL §5).

One update, on recorded sequences ``(ŝ_j, a_j)``, j = 1 … T, whose model states the filter gave:

1. from every ``ŝ_j`` (online: of the last ``rows`` of each sequence alone, whose steps are also the recorded ones of 4) the
   actor dreams H steps (``branching.py``); each step is rewarded by the dream's reward, with CMIL's an adversary's minus the
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

Discrete actions are refused: no gradient goes through them.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dream_env.checkpoint import Store
from dream_env.device import own_random_numbers
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError
from dream_env.latent import Latent
from dream_env.learning.online import OnlineLearner, RealWorld
from dream_env.model.encoded import EncodedDemos
from dream_env.plugin import Policy, Progress, ignore

from .branching import Sequences
from .conservative_run import ConservativeRun, Pairs
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
    """Rows of each sequence that dreams start on, in a row: the real-data loss needs each with the next."""
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
        for option in ("anchor", "entropy", "max_gradient_norm", "seed_steps", "warm_start_updates"):
            if not getattr(self, option) >= 0:
                raise ConfigError(f"{option} must be at least 0, not {getattr(self, option)}")
        for option in ("target_period", "report_every", "train_every", "round_episodes", "batch", "expert_batch"):
            if getattr(self, option) < 1:
                raise ConfigError(f"{option} must be at least 1, not {getattr(self, option)}")
        for option in ("rows", "length"):
            if getattr(self, option) < 2:
                raise ConfigError(f"{option} must be at least 2, one step, not {getattr(self, option)}")

    def check(self, dream: DreamEnv) -> None:
        """Refuse what cannot be learned.

        Raises:
            ConfigError: for discrete actions.
        """
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
        with own_random_numbers(dream.device):
            torch.manual_seed(seed)
            run, windows = ConservativeRun(self, dream, seed), ExpertWindows(dream, self.rows)
            if store is not None and (saved := store.latest(dream.device)) is not None:
                run.restore(saved[1], saved[2])
            else:
                loss = 0.0
                for _ in range(self.warm_start_updates):
                    loss = run.clone(windows.draw(run.generator)[0])
                progress(run.policy, {"steps": 0.0, "clone_loss": loss})
            while run.steps < steps:
                expert, pairs = windows.draw(run.generator)
                run.update(expert, expert, pairs)
                finished = run.steps >= steps
                if finished or run.updates % self.report_every == 0:
                    progress(run.policy, {"steps": float(run.steps), **run.report(), **run.bound(expert)})
                if store is not None and (finished or store.due()):
                    store.save(run.steps, *run.take())
            return run.policy

    # ---------------------------------------------------------------------------------------------- and in the real world

    def check_online(self, dream: DreamEnv) -> None:
        """Refuse what cannot be learned with real steps.

        Raises:
            ConfigError: for discrete actions, and for a reward that needs an expert beside each dream.
        """
        self.check(dream)
        if dream.reward.paired:
            raise ConfigError(
                f"reward {dream.reward.name!r} compares each step with the expert's from the same start, but online most "
                f"dreams start where no expert was; take one that judges a step by itself: cmil, gail"
            )

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
        with own_random_numbers(dream.device):
            torch.manual_seed(seed)
            return OnlineLoop(self, dream, real, seed).run(progress, store)

    def net_shape(self, size: int) -> NetShape:
        """Actor and critics, but for their outputs."""
        return NetShape(size, tuple(self.hidden), self.activation, self.layer_norm)

    @classmethod
    def restore(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> ActorPolicy:
        """Rebuild the policy from its sizes and weights, where the weights are."""
        policy = ActorPolicy.of(config)
        policy.actor.load_state_dict(weights)
        policy.actor.to(next(iter(weights.values())).device)
        return policy


@dataclass(frozen=True)
class Vmail(Conservative):
    """The learner ``vmail``: the same without conservatism (Rafailov et al. 2021)."""

    usual_reward: ClassVar[str] = "vmail"


class ExpertWindows:
    """Windows of the dream's expert as sequences, with the expert's steps beside each branch."""

    def __init__(self, dream: DreamEnv, rows: int) -> None:
        self.expert: EncodedDemos = dream.expert
        self.horizon = dream.horizon
        lengths = dream.expert.lengths
        fits = lengths[lengths > dream.horizon]  # the others have no two starts whatever is asked for
        self.rows = min(rows, int(fits.min()) + 1 - dream.horizon) if len(fits) else 0
        if self.rows < 2:
            raise ConfigError(
                f"the longest expert episode has {int(lengths.max())} steps, too few for two starts with a "
                f"horizon of {dream.horizon} after each; take a shorter horizon"
            )
        self.starts = dream.expert.windows(self.rows - 1 + dream.horizon)
        self.count = max(1, dream.num_envs // self.rows)

    def draw(self, generator: torch.Generator) -> tuple[Sequences, Pairs]:
        """Sequences of ``rows`` rows, and the expert's next H steps from each of those rows."""
        device = self.starts.device
        chosen = torch.randint(len(self.starts), (self.count,), generator=generator, device=device)
        row = self.starts[chosen] + torch.arange(self.rows, device=device).unsqueeze(1)  # (T, B)
        ends = torch.zeros(row.shape, dtype=torch.bool, device=device)  # no window reaches past its episode's last row
        sequences = Sequences(self.expert.latents(row), self.expert.actions(row[:-1]), ends)
        beside = row.flatten() + torch.arange(self.horizon + 1, device=device).unsqueeze(1)  # (H + 1, T · B)
        pairs: tuple[Latent, Tensor] = (self.expert.latents(beside), self.expert.actions(beside[:-1]))
        return sequences, pairs
