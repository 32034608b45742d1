"""The recordings behind encoded demonstrations, found again by the rows of the model states."""

import numpy as np

from dream_env.errors import DatasetError
from dream_env.model.encoded import EncodedDemos
from dream_env.model.world_model import WorldModel
from dream_env.recordings.demos import Demos


def recordings_of(demos: Demos, expert: EncodedDemos) -> Demos:
    """The expert's episodes, in its order, of ``demos``, the whole dataset that they were encoded from.

    Raises:
        DatasetError: if it has no such episodes (any more).
    """
    indices, lengths = expert.indices.tolist(), expert.lengths.tolist()
    known = dict(zip(demos.indices.tolist(), demos.lengths.tolist(), strict=True))
    for index, length in zip(indices, lengths, strict=True):
        if known.get(index) != length:
            raise DatasetError(
                f"the expert's episode {index} has {length} steps, but in {demos.source.dataset!r} it has "
                f"{known.get(index, 'no')}: the dataset is not the one whose model states these are. Put that one "
                f"back, or fit or imitate anew"
            )
    return demos.select([demos.indices.tolist().index(index) for index in indices])


class Recorded:
    """The recordings behind encoded demonstrations: packed observations, by the row numbers of the model states."""

    def __init__(self, demos: Demos, expert: EncodedDemos) -> None:
        """Take the expert's episodes from ``demos``; see ``recordings_of``."""
        chosen, lengths = recordings_of(demos, expert), expert.lengths.cpu().numpy()
        self._episodes = [chosen.episode(i).obs for i in range(chosen.num_episodes)]
        ends = np.cumsum(lengths + 1)
        self._first_row = ends - lengths - 1
        self._ends = ends

    @classmethod
    def of(cls, world_model: WorldModel, expert: EncodedDemos) -> "Recorded":
        """Find the dataset that is imitated, the one the world model was fitted to or another, prepared as the model takes it."""
        return cls(Demos.load(world_model.source.where, world_model.observation_spec.config), expert)

    def at(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The packed observations at rows of any shape, (*shape, ...) a key."""
        episode = np.searchsorted(self._ends, rows, side="right")
        step = rows - self._first_row[episode]
        packed = {
            name: np.empty((*rows.shape, *array.shape[1:]), array.dtype) for name, array in self._episodes[0].items()
        }
        for e in np.unique(episode):  # mapped arrays, one an episode
            here = episode == e
            for name, array in packed.items():
                array[here] = self._episodes[e][name][step[here]]
        return packed

    def stacked(self, rows: np.ndarray, stack: int) -> dict[str, np.ndarray]:
        """The last ``stack`` observations up to each of some rows, (N, stack, ...), oldest first.

        Before an episode's first observation there are copies of it.
        """
        first = self._first_row[np.searchsorted(self._ends, rows, side="right")]
        return self.at(np.maximum(rows[:, None] - np.arange(stack)[::-1], first[:, None]))
