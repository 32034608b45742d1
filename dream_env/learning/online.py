"""What a learner is given that goes on in the real environment, and the contract of such a learner.

Most learners stay in the dream. Some published ones (CMIL, VMAIL, P-DAC) also collect episodes of their own: they improve the
world model where their policy goes, or use none. They are learners like all others, with one method more.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dream_env.checkpoint import Store
from dream_env.errors import DatasetError
from dream_env.playing.games import Actor
from dream_env.playing.real_episodes import PlayedEpisode, RealEpisodes
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
    """Real steps to make, those of dropped episodes too; at least so many are made: the last round is played to its end."""


class Rounds:
    """The real episodes of one run, round after round: played, kept, counted and told of; cut back where a run resumes."""

    def __init__(self, real: RealWorld, seed: int) -> None:
        self.real = real
        self.made = 0
        """Real steps, those of dropped episodes too."""
        self.started = 0
        """Real episodes, dropped ones too."""
        self._first_seed = 1_000_000 * (seed + 1)  # of this run's own, far from those of evaluations

    @property
    def next_seed(self) -> int:
        """What the next episode is reset with."""
        return self._first_seed + self.started

    def play(self, actor: Actor, count: int) -> list[PlayedEpisode]:
        """Play so many episodes side by side and keep those that came to an end."""
        episodes, before = self.real.episodes, self.real.episodes.steps
        played = episodes.play(actor, range(self.next_seed, self.next_seed + count))
        self.started += count
        self.made += episodes.steps - before
        for episode in played:
            self.real.replay.add(episode.buffer, meta=episode.meta())
        return played

    def metrics(self, played: Sequence[PlayedEpisode]) -> dict[str, float]:
        """``episodes`` kept and ``dropped`` so far; ``real_return``, ``real_success``, ``real_tasks`` of a round if known."""
        kept = self.real.replay.num_episodes
        metrics = {"episodes": float(kept), "dropped": float(self.started - kept)}
        for name in ("return_", "success", "tasks"):
            known = [value for episode in played if (value := getattr(episode, name)) is not None]
            if known:
                metrics[f"real_{name.strip('_')}"] = float(np.mean(known))
        return metrics

    def state(self) -> dict[str, int]:
        """For a training state; JSON-able."""
        return {"made": self.made, "started": self.started, "episodes": self.real.replay.num_episodes}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was called; episodes played after that are forgotten.

        Raises:
            DatasetError: if episodes that there were then are gone.
        """
        left = self.real.replay.num_episodes
        if left < state["episodes"]:
            raise DatasetError(
                f"the training state was saved with {state['episodes']} real episodes, of which {left} are left; put the "
                f"folder of episodes back, or start in another --out"
            )
        self.real.replay.cut(state["episodes"])
        self.made, self.started = state["made"], state["started"]


class OnlineLearner(Learner):
    """A learner that can go on in the real environment. ``learn`` stays what it is: the dream alone."""

    def check_online(self, dream: "DreamEnv") -> None:
        """Refuse what it cannot learn with real steps, with a ConfigError: asked before a run takes its folder."""

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
        """Learn with ``real.steps`` real steps, or what more the last round brings.

        The dream's world model may be trained on, in place; whoever calls this keeps the changed one. ``progress`` counts
        real steps as ``"steps"``. With a ``store`` the whole training state is saved there now and then, at the end of an
        episode, and one found there is gone on from (``real.replay`` is cut back to what it held then): the result equals
        an unbroken run's, except where episodes are dropped.
        """
