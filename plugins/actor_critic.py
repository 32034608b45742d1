"""DITTO's learner: an actor-critic with λ-returns that lives on the dream's own tensors (DITTO appendix C, algorithm 1).

One update, of which the defaults are algorithm 1 with table 1:

1. B dreams (``num_envs``) of H steps (``horizon``) with actions drawn from the actor.
2. λ-returns ``V_t = r_t + γ ((1 − λ) v̄(ŝ_{t+1}) + λ V_{t+1})``, ``V_H = v̄(ŝ_H)``, v̄ the target critic      (eq. 14)
3. the critic regresses them: ``½ (v(ŝ_t) − sg V_t)²``                                                    (eq. 15)
4. the actor follows ``−log π(a_t | ŝ_t) sg(V_t − v(ŝ_t)) − η H(π(ŝ_t))``                                 (eq. 16)
5. every 100 updates the critic is copied into the target critic.

The updates are in ``actor_critic_run.py``, the pure functions in ``lambda_return.py``, the networks in ``latent_actor.py``.

Where the paper and its released code differ there is an option whose help names both, and whose default is the paper's:
``target_period``, ``normalize_advantage``, ``baseline``; and ``last_step_zero`` of the reward ``ditto``. One default is the
code's: that reward compares h alone, where the paper's text has the whole model state (``--ditto.space both``).

The paper's runs are long. In short ones the target critic, which starts at 0 and is renewed every 100 updates, is what most
of the advantage comes from: how much of the horizon is left, not which action was better. ``standardize_rewards`` takes that
away. On a small Pong model 0.5 million steps (66 updates of 512 dreams, one seed) raised the dream's reward, 0.770 a step at
random, by 0.007; with normalised advantages by 0.010, with standardised rewards by 0.016, and by 0.038 when the learning rate
was also 1e-3 and η 0.01.

``control_variate`` replays the expert's actions beside each dream, from the same start and with the same random numbers, and
learns from ``r_t − rᴱ_t``, by how much the learner's step earned more than the expert's did there. Much of what the reward
varies by (an easy window or a hard one, the dream's noise) is in both and goes. REINFORCE stays unbiased: ``rᴱ`` depends on
the start, the expert's actions and the dream's noise, of which ``a_t`` is drawn independently given ``ŝ_t``, so
``E[∇ log π(a_t | ŝ_t) rᴱ_{t+k}] = 0`` for all k. It costs a second dream for every dream. Not in the paper.

Metrics, means over the updates since the last report: ``dream_reward`` (plain, a step), ``entropy`` (nats a step; for a Box
that of actions scaled to [−1, 1]), ``entropy_weight``, ``return`` (of the rewards learned from), ``advantage_std``,
``actor_loss``, ``critic_loss``, ``actor_gradient`` and ``critic_gradient`` (norms), ``replayed_reward`` (plain, a step, of
the expert's actions) where there is a control variate, ``clone_loss`` and, for Discrete actions,
``clone_certain`` (share of the expert's actions with a probability above ½) where there is an anchor.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from dream_env.checkpoint import Store
from dream_env.device import own_random_numbers
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, check_choices
from dream_env.plugin import Learner, Progress, first_seed, ignore

from .actor_critic_run import ActorCriticRun
from .latent_actor import Activation, ActorPolicy, NetShape, SquashKind

Gradient = Literal["reinforce", "dynamics"]
Baseline = Literal["critic", "target"]
WarmStart = Literal["none", "bc"]


@dataclass(frozen=True)
class ActorCritic(Learner):
    """DITTO's actor-critic; see the module for the equations and for what differs between paper and code."""

    gamma: float = 0.95
    """Discount a step, γ (DITTO table 1)."""
    td_lambda: float = 0.95
    """λ of the returns: 0 is one-step temporal difference, 1 the Monte Carlo return (DITTO table 1)."""
    entropy: float = 0.05
    """Weight η of the policy's entropy (DITTO table 1)."""
    entropy_end: float | None = None
    """Weight of the entropy at the end, reached in a straight line; it stays the same unless given, as in the paper."""
    learning_rate: float = 3e-4
    """Step size of Adam, for actor and critic (DITTO table 1)."""
    target_period: int = 100
    """Updates between two copies of the critic into the target critic. 100 in the paper's table 1 and in the code's
    config, hence the default; the code as it runs copies where it validates, every 200."""
    normalize_advantage: bool = False
    """Bring the advantages of an update to mean 0 and standard deviation 1. The released code does, eq. 16 does not, hence
    off by default. Only for the reinforce gradient."""
    baseline: Baseline = "critic"
    """Whose value the advantage is measured from: critic as eq. 16 has it, the default, or target as the released code.
    Only for the reinforce gradient."""
    gradient: Gradient = "reinforce"
    """reinforce is the paper's; dynamics (for a Box only) sends the gradient of the λ-return back through the world model
    and through the reward where that is differentiable, the whole of it (CMIL §5; Dreamer's code, and the learner cmil,
    leave out what the actor makes of the states that its actions led to)."""
    max_gradient_norm: float = 0.0
    """Gradients of actor and of critic are cut to this norm, each by itself; 0 is no limit, as in the paper. The dynamics
    gradient can grow with the horizon: 100 (Dreamer's) is a guard."""
    hidden: tuple[int, ...] = (256, 256)
    """Hidden layers of the actor, and again of the critic; the paper does not say."""
    activation: Activation = "silu"
    """Their nonlinearity."""
    layer_norm: bool = True
    """Normalise each hidden layer before its nonlinearity."""
    squash: SquashKind = "tanh"
    """How a normal distribution gets into the bounds of a Box: tanh bends it, clip cuts it off. clip suits experts whose
    actions often lie at the bounds, where tanh never quite is. Discrete actions ignore it."""
    standardize_rewards: bool = False
    """Learn from rewards standardised per step index, as the other learners do; metrics show the plain ones. Not in the
    paper."""
    control_variate: bool = False
    """Learn from the reward minus what the expert's own actions earn in the same dream, which has less variance and, for
    the reinforce gradient, the same expectation of the gradient; twice the dreaming. Not in the paper."""
    anchor: float = 0.0
    """Weight of behaviour cloning in the actor's loss: the cross-entropy of the expert's actions in the expert's states, a
    pull towards the expert. 0, the default, is the paper's DITTO."""
    warm_start: WarmStart = "none"
    """Where the actor starts: at equal probabilities (none, the paper's), or cloned from the expert in its latents (bc)."""
    warm_start_updates: int = 2000
    """Gradient steps of that cloning."""
    clone_batch: int = 512
    """Expert states in one cloning step or one anchor."""
    clone_learning_rate: float = 1e-3
    """Step size of the cloning before learning starts."""
    clone_entropy: float = 0.0
    """Weight of the policy's entropy in that cloning: η_BC of DITTO eq. 9 (0.1 there, for agents that stop at cloning)."""
    average: float = 0.0
    """Hand out, instead of the actor as it stands, the mean of its weights over the updates, in which those of k updates ago
    count for this number to the power of k (Polyak averaging): at 0.995 the last few hundred. Learning is the same without.
    0, the default and the paper's, hands out the actor."""
    report_every: int = 5
    """Updates between two reports of progress."""
    report_last: int = 10
    """Updates at the end that are reported one by one, so that the policies after each of them can be kept (--tail)."""

    def __post_init__(self) -> None:
        check_choices(self, {"baseline": Baseline, "gradient": Gradient, "activation": Activation, "squash": SquashKind,
                             "warm_start": WarmStart})  # fmt: skip
        for option in ("gamma", "td_lambda"):
            if not 0.0 <= getattr(self, option) <= 1.0:
                raise ConfigError(f"{option} lies between 0 and 1, not at {getattr(self, option)}")
        if not 0.0 <= self.average < 1.0:
            raise ConfigError(f"average must be at least 0 and less than 1, not {self.average}")
        for option in ("max_gradient_norm", "anchor", "entropy", "entropy_end", "clone_entropy", "learning_rate",
                       "clone_learning_rate"):  # fmt: skip
            if not (getattr(self, option) or 0.0) >= 0.0:
                raise ConfigError(f"{option} must be at least 0, not {getattr(self, option)}")
        for option in ("target_period", "report_every", "report_last", "clone_batch", "warm_start_updates", "hidden"):
            if min(np.atleast_1d(getattr(self, option)), default=1) < 1:
                raise ConfigError(f"{option} must be at least 1, not {getattr(self, option)}")

    def learn(
        self,
        dream: DreamEnv,
        steps: int,
        *,
        seed: int = 0,
        progress: Progress = ignore,
        store: Store | None = None,
    ) -> ActorPolicy:
        """Learn for ``steps`` dream steps, whole updates of ``num_envs · horizon``; see ``Learner.learn``.

        The learner draws from a generator of its own. torch's global one is seeded for the initial weights and for rewards
        that draw from it, kept in checkpoints too, and put back as it was when learning ends.
        """
        self.check(dream)
        with own_random_numbers(dream.device, seed):
            run = ActorCriticRun(self, dream, seed)
            saved = store.latest() if store is not None else None
            if saved is not None:
                run.restore(saved[1], saved[2])
            else:
                dream.reset(seed=first_seed(seed))
                if self.warm_start == "bc":
                    progress(run.policy, run.report() | run.clone_first())
            while run.steps < steps:
                run.update(self.entropy_weight(run.steps / steps))
                finished = run.steps >= steps
                ending = steps - run.steps <= (self.report_last - 1) * dream.num_envs * dream.horizon
                if finished or ending or run.updates % self.report_every == 0:
                    progress(run.policy, run.report())
                if store is not None and (finished or store.due()):
                    store.save(run.steps, *run.take())
            return run.policy

    def check(self, dream: DreamEnv) -> None:
        """Refuse what cannot be learned.

        Raises:
            ConfigError: for the dynamics gradient with discrete actions; for a control variate where it cannot help.
        """
        if self.control_variate and self.gradient == "dynamics":
            raise ConfigError(
                'control_variate is for the gradient "reinforce": in "dynamics" the expert\'s reward does not depend on the '
                "actor and drops out of the gradient. Leave control_variate off"
            )
        if self.control_variate and dream.dreams.terminate:
            raise ConfigError(
                "control_variate needs dreams of one length, since the expert's replay goes on where a dream has ended; "
                "this dream has terminate=True. Dream with terminate=False, or leave control_variate off"
            )
        if self.gradient == "dynamics" and dream.world_model.action_spec.discrete:
            raise ConfigError(
                f'gradient "dynamics" needs actions that can be moved a little, a Box; these are '
                f'{dream.single_action_space}, and a dream takes them as numbers. Use gradient "reinforce"'
            )

    def entropy_weight(self, done: float) -> float:
        """η after a share of all steps."""
        end = self.entropy if self.entropy_end is None else self.entropy_end
        return self.entropy + done * (end - self.entropy)

    def net_shape(self, feat_size: int) -> NetShape:
        """Actor and critic, but for their outputs."""
        return NetShape(feat_size, tuple(self.hidden), self.activation, self.layer_norm)

    @classmethod
    def restore(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> ActorPolicy:
        """Rebuild the policy from its sizes and weights, where the weights are."""
        return ActorPolicy.restore(config, weights)
