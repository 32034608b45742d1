"""An expert that does again what was done: ``--expert replay:DATASET``.

Recordings of others often lack what ours say: the wrappers that made their pictures, how those were rendered, whether an
episode succeeded. Played again from the recorded seeds, with the recorded actions, they become recordings of ours; how
closely the games come out the same is a matter of the simulator and its version.

A dataset that does not say its seeds (converted files of others) is played from seeds 0, 1, …: where every game starts nearly
alike, as in the kitchen, the actions still do much of what they did.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from dream_env.errors import DatasetError
from dream_env.real.environments import Env
from dream_env.recordings.datasets import find_dataset


class ReplayExpert:
    """The actions of a dataset's episodes, each in the game of its seed."""

    def __init__(self, dataset: str) -> None:
        """Find the dataset.

        Raises:
            DatasetError: if it is not there or cannot be read.
        """
        found = find_dataset(dataset)
        self.dataset = found.id
        self._opened = found.open()
        noted = [facts.get("seed") for facts in self._opened.storage.get_episode_metadata(range(found.num_episodes))]
        self.seeds = list(range(len(noted))) if None in noted else [int(seed) for seed in noted]
        """What game i has to be reset with."""
        self._game: int | None = None
        self._actions: list[Any] = []

    def take_up(self, game: int) -> None:
        """Say that the next ``reset`` begins this game, which has ``seeds[game]``.

        Where a seed repeats, it does not say which of its episodes is to be played; nor does the order in which games come,
        which several workers share, and of which a recording that goes on has some behind it.
        """
        self._game = game

    def reset(self, env: Env, seed: int) -> None:
        """Begin the game of this seed, the one that was taken up if there are several.

        Raises:
            DatasetError: if there is none, or several and none of them was taken up.
        """
        games = [game for game, known in enumerate(self.seeds) if known == seed]
        wanted = games if self._game is None else [game for game in games if game == self._game]
        self._game = None
        if len(wanted) != 1:
            raise DatasetError(
                f"{self.dataset} has {len(games)} episodes with seed {seed}; expected one, or a take_up(game) before the reset "
                f"that says which, with its place in .seeds"
            )
        episode = next(iter(self._opened.iterate_episodes(wanted)))
        self._space = env.action_space
        self._seed = seed
        self._actions = list(np.asarray(episode.actions))[::-1]

    def __call__(self, observation: Any) -> Any:
        """The next recorded action."""
        if not self._actions:
            raise DatasetError(
                f"the actions that {self.dataset} has for seed {self._seed} are over, but the game goes on: it was recorded in "
                f"an environment with another end; cut it off with --max-steps, or play the environment it was recorded in"
            )
        action = self._actions.pop()
        return int(action) if isinstance(self._space, spaces.Discrete) else np.asarray(action, self._space.dtype)
