"""Recordings of several kinds as one: an expert's games to imitate, and any others that show the world more fully.

A world model learns dynamics, which every policy shows; what it must not lack is coverage (DITTO §4.1). An expert's games
hold few mistakes, so a model of them alone is lost as soon as its agent makes one.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from dream_env.errors import DatasetError, SpaceError
from dream_env.recordings.demos import Batch, Demos, Source
from dream_env.spaces import ActionSpec, ObservationSpec, Statistics


@runtime_checkable
class Windows(Protocol):
    """What windows can be drawn from: ``Demos``, which stay as they are, and a ``Replay``, which grows."""

    source: Source
    observation_spec: ObservationSpec
    action_spec: ActionSpec

    @property
    def num_episodes(self) -> int:
        """Number of episodes there are at this moment."""

    def too_short(self, length: int) -> int:
        """How many of them hold no window of ``length`` rows."""

    def windows(self, length: int) -> int:
        """Number of windows of ``length`` rows there are at this moment."""

    def sample(self, batch_size: int, length: int, rng: np.random.Generator) -> Batch:
        """Draw windows of ``length`` rows uniformly from all of them."""


class Mixture:
    """Several recordings of one environment, sampled in proportion to their windows. The first gives the specs."""

    def __init__(self, parts: Sequence[Windows]) -> None:
        self.parts = list(parts)
        first = self.parts[0]
        for part in self.parts[1:]:
            if part.observation_spec != first.observation_spec or part.action_spec != first.action_spec:
                raise SpaceError(
                    f"{part.source.dataset!r} does not go with {first.source.dataset!r}: their spaces differ "
                    f"({part.observation_spec.space}, {part.action_spec.space} and {first.observation_spec.space}, "
                    f"{first.action_spec.space})"
                )

    @property
    def statistics(self) -> Statistics:
        """Mean and standard deviation of each key over all parts together (law of total variance).

        What was played by a learner has none and is left out: its world model's were fixed when it was fitted.
        """
        parts = [part for part in self.parts if isinstance(part, Demos) and part.statistics]
        if not parts:
            raise DatasetError(
                "episodes of a replay have no statistics; mix them with recordings, or use the world model's"
            )
        weights = np.array([part.num_rows for part in parts], dtype=np.float64)
        weights /= weights.sum()
        combined: Statistics = {}
        for key in parts[0].statistics:
            means = np.stack([part.statistics[key][0].astype(np.float64) for part in parts])
            stds = np.stack([part.statistics[key][1].astype(np.float64) for part in parts])
            mean = np.tensordot(weights, means, axes=1)
            variance = np.tensordot(weights, stds**2 + (means - mean) ** 2, axes=1)
            combined[key] = (mean.astype(np.float32), np.sqrt(variance).astype(np.float32))
        return combined

    @property
    def num_episodes(self) -> int:
        """Number of episodes of all parts."""
        return sum(part.num_episodes for part in self.parts)

    def too_short(self, length: int) -> int:
        """Number of episodes of all parts that hold no window of ``length`` rows and are not drawn from."""
        return sum(part.too_short(length) for part in self.parts)

    def windows(self, length: int) -> int:
        """Number of windows of ``length`` rows in all parts; ``Demos`` raise if none of their episodes is long enough."""
        return sum(part.windows(length) for part in self.parts)

    def sample(self, batch_size: int, length: int, rng: np.random.Generator) -> Batch:
        """Draw windows uniformly from all there are."""
        shares = np.array([part.windows(length) for part in self.parts], dtype=np.float64)
        if not shares.any():  # nothing was played yet: the first says so
            return self.parts[0].sample(batch_size, length, rng)
        counts = rng.multinomial(batch_size, shares / shares.sum())
        batches = [part.sample(int(n), length, rng) for part, n in zip(self.parts, counts, strict=True) if n]
        return Batch(
            {name: torch.cat([batch.obs[name] for batch in batches], dim=1) for name in batches[0].obs},
            torch.cat([batch.action_tm1 for batch in batches], dim=1),
            torch.cat([batch.is_first for batch in batches], dim=1),
            torch.cat([batch.is_terminal for batch in batches], dim=1),
        )
