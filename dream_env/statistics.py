"""Numbers for result tables: the interquartile mean, its bootstrap interval, the normalised score.

Both the statistic and the interval are those that Agarwal et al. (NeurIPS 2021, "Deep RL at the edge of the statistical
precipice") recommend for a few noisy runs: less swayed by one lost game than the mean, less wasteful than the median.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dream_env.errors import ConfigError

Array = np.ndarray[Any, np.dtype[np.float64]]
Numbers = Sequence[float] | Array
Statistic = Callable[[Array], Any]
"""Takes (..., n) numbers and reduces the last axis."""


def iqm(x: Numbers) -> Any:
    """Interquartile mean over the last axis: the mean of what is left when the lowest and the highest quarter go.

    ``⌊n/4⌋`` numbers go on either side, as in ``scipy.stats.trim_mean(x, 0.25)``, which rliable uses; so for n < 4 it
    is the mean. Same unit as ``x``.
    """
    ordered = np.sort(np.asarray(x, dtype=np.float64), axis=-1)
    if ordered.shape[-1] == 0:
        raise ConfigError("the interquartile mean of no numbers at all was asked for; play at least one episode")
    cut = ordered.shape[-1] // 4
    return ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)


def bootstrap_interval(
    x: Numbers, statistic: Statistic = iqm, *, n: int = 2000, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap (Efron 1979): the statistic's central ``confidence`` share over ``n`` resamples.

    What it covers is the choice of episodes. Of one training seed it says nothing about other training seeds.
    """
    values = np.asarray(x, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(values), size=(n, len(values)))
    outside = (1.0 - confidence) / 2.0
    low, high = np.quantile(statistic(values[drawn]), [outside, 1.0 - outside])
    return float(low), float(high)


def normalized_score(agent: float, random: float, expert: float) -> float:
    """``(agent − random) / (expert − random)``: 0 plays like random actions, 1 like the demonstrations; no unit.

    NaN where expert and random score the same.
    """
    return (agent - random) / (expert - random) if expert != random else float("nan")


@dataclass(frozen=True)
class Summary:
    """What a table shows of some episodes' returns."""

    episodes: int
    mean: float
    iqm: float
    low: float
    """Lower end of the 95 % bootstrap interval of the IQM."""
    high: float
    """Upper end."""


def summarize(returns: Numbers, *, seed: int = 0) -> Summary:
    """Count, mean, IQM and the IQM's 95 % bootstrap interval of some returns."""
    middle = float(iqm(returns))
    return Summary(len(returns), float(np.mean(returns)), middle, *bootstrap_interval(returns, seed=seed))
