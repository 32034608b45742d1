"""Numbers for result tables: interquartile mean, bootstrap interval, normalised score, rank correlation.

The interquartile mean and its interval are those that Agarwal et al. (NeurIPS 2021, "Deep RL at the edge of the statistical
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


def interval_over_runs(runs: Sequence[Numbers], *, n: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap of the IQM over all episodes of some runs: resamples the runs and, in each, its episodes.

    So it covers the choice of training seeds too; with a single run it speaks of episodes only.
    """
    rng = np.random.default_rng(seed)
    arrays = [np.asarray(run, dtype=np.float64) for run in runs]
    statistics = []
    for _ in range(n):
        chosen = [arrays[i] for i in rng.integers(len(arrays), size=len(arrays))]
        statistics.append(iqm(np.concatenate([rng.choice(run, len(run)) for run in chosen])))
    low, high = np.quantile(statistics, [0.025, 0.975])
    return float(low), float(high)


def normalized_score(agent: float, random: float, expert: float) -> float:
    """``(agent − random) / (expert − random)``: 0 plays like random actions, 1 like the demonstrations; no unit.

    NaN where expert and random score the same.
    """
    return (agent - random) / (expert - random) if expert != random else float("nan")


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation with its 95 % interval."""

    rho: float
    """In [−1, 1]; NaN for fewer than three pairs, or where one side is all equal."""
    low: float
    """Lower end of the interval; NaN for fewer than four pairs."""
    high: float
    """Upper end."""
    n: int
    """Pairs."""
    groups: int = 1
    """Within which they were ranked."""


def ranks(x: Numbers) -> Array:
    """Ranks 1 … n of n numbers, from the least; equal numbers share the mean of the ranks they take."""
    _, which, counts = np.unique(np.asarray(x, dtype=np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    shared: Array = (last - (counts - 1) / 2.0)[which]
    return shared


def spearman(x: Numbers, y: Numbers) -> Correlation:
    """Spearman's ρ, the correlation of the ranks, with an interval that treats the pairs as independent.

    ``tanh(atanh ρ ± 1.96 √((1 + ρ²/2) / (n − 3)))`` (Fisher's z with the variance of Bonett & Wright 2000); for a dozen
    pairs a bootstrap, which draws ties, is no better. A perfect order would get an interval of no width even for four
    pairs: ρ in the formula is held half the least possible change of ranks, ``6 / (n (n² − 1))``, away from ±1.
    """
    return spearman_within([(x, y)])


def spearman_within(groups: Sequence[tuple[Numbers, Numbers]]) -> Correlation:
    """Spearman's ρ within groups: pairs are ranked in their own group alone, and the ranks of all groups correlated.

    For numbers that can be compared in a group and not across groups, as distances measured in several world models. Over
    all pairs at once a correlation shows how groups differ: two that each go up together can go down together. Here a group
    has no level left: with ranks as shares of it, ``a = (rank − ½) / n_g`` in (0, 1), of mean ½,

        ρ = Σ (a − ½)(b − ½) / √(Σ (a − ½)² · Σ (b − ½)²)    over the pairs of all groups,

    so a pair counts about the same in a large group and in a small one. One group alone gives ``spearman``. The interval is
    that of ``spearman`` with a degree of freedom less for each further group, ``n − groups − 2`` instead of ``n − 3``: it is
    of other policies in these groups, and says nothing of groups that are not here. Groups where one side is all equal have
    no order, and no part in this.
    """
    for x, y in groups:
        if len(x) != len(y):
            raise ConfigError(f"a correlation takes pairs; {len(x)} numbers came with {len(y)}")
    shares = [(_shares(x) - 0.5, _shares(y) - 0.5) for x, y in groups]
    shares = [(a, b) for a, b in shares if (a @ a) * (b @ b) > 0.0]
    sizes = np.array([len(a) for a, _ in shares])
    n, freedom, nan = sum(len(x) for x, _ in groups), int(sizes.sum()) - len(sizes) - 2, float("nan")
    if freedom < 0 or not shares:
        return Correlation(nan, nan, nan, n, len(groups))
    a, b = (np.concatenate(side) for side in zip(*shares, strict=True))
    n, rho = len(a), float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))
    if freedom < 1:
        return Correlation(rho, nan, nan, n, len(sizes))
    # Two neighbours of the largest group that change places are the least change.
    most = 1.0 - 6.0 / float(sizes.max() ** 2 * (sizes - 1.0 / sizes).sum())
    held = float(np.clip(rho, -most, most))
    half = 1.96 * float(np.sqrt((1.0 + held * held / 2.0) / freedom))
    low, high = np.tanh(np.arctanh(held) - half), np.tanh(np.arctanh(held) + half)
    return Correlation(rho, min(float(low), rho), max(float(high), rho), n, len(sizes))


def _shares(x: Numbers) -> Array:
    return (ranks(x) - 0.5) / max(1, len(x))


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
