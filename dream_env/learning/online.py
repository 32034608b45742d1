"""What a learner is given that goes on in the real environment, and the contract of such a learner.

Most learners stay in the dream. Some published ones (CMIL, VMAIL, P-DAC) also collect episodes of their own: they improve the
world model where their policy goes, or use none. They are learners like all others, with one method more.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dream_env.checkpoint import Store
from dream_env.playing.real_episodes import RealEpisodes
from dream_env.plugin import Learner, Policy, Progress, ignore
from dream_env.recordings.demos import Demos
from dream_env.recordings.replay import Replay

if TYPE_CHECKING:  # the dream stands a floor above
    from dream_env.dream.env import DreamEnv


@dataclass(frozen=True)
class RealWorld:
    """The real environment and what it takes to learn there; everything that was played is in ``replay``."""

    demos: Demos
    """The recordings to imitate, packed as the world model takes them: those of the dream's expert."""
    episodes: RealEpisodes
    """Plays whole episodes."""
    replay: Replay
    """Keeps them on disk."""
    steps: int
    """How many real steps may be made; steps of episodes that were dropped count."""


class OnlineLearner(Learner):
    """A learner that can go on in the real environment. ``learn`` stays what it is: the dream alone."""

    @abstractmethod
    def learn_online(
        self,
        dream: "DreamEnv",
        real: RealWorld,
        *,
        seed: int = 0,
        progress: Progress = ignore,
        store: Store | None = None,
    ) -> Policy:
        """Learn with ``real.steps`` real steps.

        The dream's world model may be trained on, in place; whoever calls this keeps the changed one. ``progress`` counts
        real steps as ``"steps"``. With a ``store`` the whole training state is saved there now and then, at the end of an
        episode, and one found there is gone on from (``real.replay`` is cut back to what it held then): the result equals
        an unbroken run's, except where episodes are dropped.
        """
