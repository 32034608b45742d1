"""P-DAC: adversarial imitation from pixels without a world model, the rival of CMIL §6 that learns in the real environment only.

Discriminator-actor-critic (DAC, Kostrikov et al. 2019) is GAIL off policy: a discriminator tells the expert's steps from all that
was ever played, and an off-policy learner is rewarded by it. Rounds of

1. real episodes by the present policy with sampled actions, kept in ``real.replay``
2. for each real step ``updates_per_step`` updates: a batch of played steps and one of the expert's; one gradient step of the
   discriminator on both; the played ones are rewarded by it *as it is now*; one of the learner's own ``train`` on them

The learner is Stable-Baselines3's SAC, or sb3-contrib's TQC (``--algorithm sb3_contrib:TQC``), of which only ``train`` runs.

CMIL names P-DAC and says no more of it. What DAC has and this has: the reward and the penalty (``pdac_discriminator.py``),
absorbing states (``pdac_steps.py``), one update a step. Where they differ: DAC's TD3 is SAC here, as in Orsini et al.
(2021); its orthogonal regulariser of the actor and its falling step size are left out; what makes SAC learn from
pixels at all is added (``pdac_networks.py``). With observations that are all vectors there is no encoder, as in DAC.

Of the dream only the frame is used: how observations are packed, what they are standardised with, sizes of the encoder. The
loop, what is reported and how a killed run goes on are in ``pdac_run.py``.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np
from gymnasium import spaces
from torch import Tensor

from dream_env.checkpoint import Store
from dream_env.device import own_random_numbers
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError
from dream_env.learning.online import OnlineLearner, RealWorld
from dream_env.plugin import Policy, Progress, ignore
from dream_env.spaces import ActionSpec

from .pdac_networks import PdacPolicy
from .pdac_run import PdacRun


@dataclass
class Pdac(OnlineLearner):
    """Discriminator-actor-critic from pixels, in the real environment; see the module."""

    follows_reward: ClassVar[bool] = False

    algorithm: str = "stable_baselines3:SAC"
    """Off-policy algorithm as module:Class: stable_baselines3:SAC or sb3_contrib:TQC."""
    stack: int = 3
    """Observations in a row that the networks see (DrQ)."""
    features: int = 50
    """Numbers that the encoder makes of a picture (SAC-AE, DrQ)."""
    shift: float = 0.06
    """Random shifts of pictures in training, as a share of their side: 4 of 64 pixels (DrQ: 4 of 84); 0 is none."""
    net_arch: tuple[int, ...] = (256, 256)
    """Hidden layers of the actor, of each critic and of the discriminator."""
    learning_rate: float = 3e-4
    """Step size of actor, critics and entropy coefficient (SB3's SAC); 1e-3 in DAC."""
    discriminator_learning_rate: float = 3e-4
    """Step size of the discriminator; 1e-3 in DAC."""
    gradient_penalty: float = 10.0
    """Weight λ of the discriminator's gradient penalty (DAC)."""
    ent_coef: str = "auto_0.1"
    """Weight of the policy's entropy: a number, or auto_x to learn it, from x on (0.1 in SAC-AE and DrQ, 1 in SB3)."""
    gamma: float = 0.99
    """Discount a step (DAC)."""
    batch: int = 128
    """Played steps in an update, and as many of the expert; 256 in DAC."""
    updates_per_step: float = 1.0
    """Updates of everything for each real step (DAC)."""
    seed_steps: int = 1000
    """Real steps before the first update: of uniform actions, or of the cloned policy with --warm-start bc."""
    round_episodes: int = 1
    """Real episodes side by side between two rounds of updates; more are cheaper and of an older policy."""
    warm_start: Literal["none", "bc"] = "none"
    """Where the policy starts: at random, or with encoder and actor cloned from the expert's steps."""
    warm_start_updates: int = 2000
    """Gradient steps of that cloning."""
    options: str = "{}"
    """Further arguments of the algorithm's constructor, as JSON: '{"tau": 0.01}'."""

    def __post_init__(self) -> None:
        for option in ("stack", "features", "batch", "round_episodes"):
            if getattr(self, option) < 1:
                raise ConfigError(f"{option} must be at least 1, not {getattr(self, option)}")
        for option in ("seed_steps", "warm_start_updates", "gradient_penalty", "updates_per_step"):
            if not 0 <= getattr(self, option) < np.inf:
                raise ConfigError(f"{option} must be a number of at least 0, not {getattr(self, option)}")
        for option in ("learning_rate", "discriminator_learning_rate"):
            if not 0.0 < getattr(self, option) < np.inf:
                raise ConfigError(f"{option} must be above 0, not {getattr(self, option)}")
        if any(width < 1 for width in self.net_arch):
            raise ConfigError(f"net_arch is the widths of the hidden layers, each at least 1, not {self.net_arch}")
        if not 0.0 <= self.gamma < 1.0:
            raise ConfigError(f"gamma lies between 0 and 1, below 1, not at {self.gamma}")
        if not 0.0 <= self.shift < 0.5:
            raise ConfigError(f"shift is a share of the picture's side, from 0 to below 0.5, not {self.shift}")
        try:
            weight = float("1" if self.ent_coef == "auto" else self.ent_coef.removeprefix("auto_"))
        except ValueError:
            weight = np.nan
        if not (0.0 <= weight < np.inf and (weight or not self.ent_coef.startswith("auto"))):
            raise ConfigError(
                f"ent_coef is a number of at least 0, auto or auto_x with x above 0, not {self.ent_coef!r}"
            )
        if self.warm_start not in ("none", "bc"):
            raise ConfigError(f"warm_start is none or bc, not {self.warm_start!r}")

    def learn(
        self,
        dream: DreamEnv,
        steps: int,
        *,
        seed: int = 0,
        progress: Progress = ignore,
        store: Store | None = None,
    ) -> Policy:
        """Refuse, as ``check``."""
        self.check(dream)

    def check(self, dream: DreamEnv) -> NoReturn:
        """Refuse: there is nothing for it to do in a dream.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "pdac learns without a world model, from steps of the real environment alone, and none were given: say how many "
            "with --online-steps. Learners that need no real step: bc, dbc, ditto, ppo"
        )

    def check_online(self, dream: DreamEnv) -> None:
        """Refuse actions that SAC has none of, and options that are none of its own.

        Raises:
            ConfigError: for discrete actions, for a Box without bounds, and for options that say what flags say.
        """
        from .pdac_networks import more_options

        _check(dream.world_model.action_spec)
        more_options(self.options)

    def learn_online(
        self,
        dream: DreamEnv,
        real: RealWorld,
        *,
        seed: int = 0,
        progress: Progress = ignore,
        store: Store | None = None,
    ) -> Policy:
        """Learn with ``real.steps`` real steps; the world model is left as it is. See ``OnlineLearner.learn_online``."""
        self.check_online(dream)
        device = dream.device
        with own_random_numbers(device, seed):
            return PdacRun(self, dream.world_model, real, seed).run(progress, store)

    @classmethod
    def restore(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> Policy:
        """Rebuild the policy from sizes, spaces and weights."""
        return PdacPolicy.restore(config, weights)


def _check(spec: ActionSpec) -> None:
    space = spec.space
    if not isinstance(space, spaces.Box):
        raise ConfigError(
            f"pdac runs on SAC, whose actions are numbers in a Box; this environment takes {space}. Take a learner for "
            f"discrete actions: ditto or ppo in the dream with a gail reward, or bc"
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise ConfigError(
            f"pdac runs on SAC, whose actions have finite bounds; this environment takes {space}. Bound them with "
            f"gymnasium.wrappers.RescaleAction or ClipAction where the environment is made, and record again"
        )
