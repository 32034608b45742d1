import numpy as np
import pytest

from dream_env.errors import ConfigError
from dream_env.measuring.statistics import (
    bootstrap_interval,
    interval_over_runs,
    iqm,
    normalized_score,
    ranks,
    spearman,
    spearman_within,
    summarize,
)


def test_interquartile_mean_by_hand():
    assert iqm([100.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, -100.0]) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_interquartile_mean_is_that_of_scipy():
    from scipy.stats import trim_mean

    for n in (1, 2, 3, 4, 7, 10, 20):
        x = np.random.default_rng(n).normal(size=n)
        assert iqm(x) == pytest.approx(trim_mean(x, 0.25))


def test_one_lost_game_hardly_moves_it():
    wins = [20.0] * 19
    assert iqm([*wins, -21.0]) == 20.0
    assert np.mean([*wins, -21.0]) < 18.0


def test_interval_holds_the_statistic_and_repeats_with_its_seed():
    x = np.random.default_rng(0).normal(5.0, 1.0, size=20)
    low, high = bootstrap_interval(x, seed=3)
    assert low < iqm(x) < high
    assert (low, high) == bootstrap_interval(x, seed=3)
    assert (low, high) != bootstrap_interval(x, seed=4)


def test_interval_of_the_mean_has_the_textbook_width():
    x = np.random.default_rng(1).normal(size=400)
    low, high = bootstrap_interval(x, lambda y: y.mean(axis=-1), n=4000)
    assert high - low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.05)


def test_equal_returns_have_an_interval_of_no_width():
    assert bootstrap_interval([21.0] * 5) == (21.0, 21.0)


def test_normalized_score_is_zero_at_random_and_one_at_the_expert():
    assert normalized_score(-20.7, random=-20.7, expert=17.0) == 0.0
    assert normalized_score(17.0, random=-20.7, expert=17.0) == 1.0
    assert normalized_score(20.0, random=-21.0, expert=20.5) == pytest.approx(41 / 41.5)
    assert np.isnan(normalized_score(1.0, random=2.0, expert=2.0))


def test_no_episodes_have_no_interquartile_mean():
    with pytest.raises(ConfigError, match="of no numbers at all"):
        summarize([])


# -------------------------------------------------------------------------------------------------- rank correlation


def test_equal_numbers_share_the_mean_of_their_ranks():
    assert list(ranks([30.0, 10.0, 20.0, 20.0, 50.0])) == [4.0, 1.0, 2.5, 2.5, 5.0]


def test_rank_correlation_by_hand():
    # Ranks 1 2 3 4 5 and 2 1 4 3 5: sum of squared differences 4, so rho = 1 - 6 * 4 / (5 * 24).
    assert spearman([1.0, 2.0, 3.0, 4.0, 5.0], [0.2, 0.1, 40.0, 0.3, 1e6]).rho == pytest.approx(0.8)


def test_rank_correlation_is_that_of_scipy_with_ties_too():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    for n in (4, 11, 30):
        x, y = rng.integers(0, 5, (2, n)).astype(np.float64)
        assert spearman(x, y).rho == pytest.approx(spearmanr(x, y).statistic)


def test_interval_of_a_correlation_by_hand():
    found = spearman([1.0, 2.0, 3.0, 4.0, 5.0], [2.0, 1.0, 4.0, 3.0, 5.0])
    half = 1.96 * np.sqrt((1 + 0.8**2 / 2) / 2)
    assert (found.low, found.high) == pytest.approx((np.tanh(np.arctanh(0.8) - half), np.tanh(np.arctanh(0.8) + half)))
    assert found.n == 5


def test_interval_of_a_correlation_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = 6 / np.pi * np.arcsin(0.7 / 2)  # Spearman's for a normal pair with Pearson's 0.7
    covered = []
    for _ in range(500):
        x = rng.normal(size=11)
        found = spearman(x, 0.7 * x + np.sqrt(1 - 0.7**2) * rng.normal(size=11))
        covered.append(found.low <= truth <= found.high)
    assert 0.91 < np.mean(covered) < 0.98


def test_a_perfect_order_of_a_few_pairs_is_not_certain():
    for sign in (1, -1):
        few, many = (spearman(np.arange(1.0, n), sign * np.arange(1.0, n) ** 3) for n in (5, 21))
        assert few.rho == many.rho == pytest.approx(sign)
        assert max(sign * few.low, sign * few.high) == pytest.approx(1.0)
        assert min(sign * few.low, sign * few.high) < 0.0
        assert min(sign * many.low, sign * many.high) > 0.9


def test_correlation_without_enough_to_go_by_is_no_number():
    assert np.isnan(spearman([1.0, 2.0], [1.0, 2.0]).rho)
    assert np.isnan(spearman([1.0, 2.0, 3.0, 4.0], [5.0] * 4).rho)
    three = spearman([1.0, 2.0, 3.0], [1.0, 3.0, 2.0])
    assert three.rho == pytest.approx(0.5)
    assert np.isnan(three.low)
    with pytest.raises(ConfigError, match="3 numbers came with 2"):
        spearman([1.0, 2.0, 3.0], [1.0, 2.0])


# Two models, in one of which all distances are smaller and all returns too: near the expert is good in each of them.
GROUPS = [([1.0, 2.0, 3.0, 4.0], [40.0, 30.0, 10.0, 20.0]), ([11.0, 12.0, 13.0], [72.0, 73.0, 71.0])]


def test_rank_correlation_within_groups_by_hand():
    # (rank - ½) / n - ½ of four: ±1/8, ±3/8; of three: ±1/3, 0. Sums of products: -0.25 and -1/9; of squares: 5/16 and 2/9.
    found = spearman_within(GROUPS)
    assert found.rho == pytest.approx((-0.25 - 1 / 9) / (5 / 16 + 2 / 9))
    assert (found.n, found.groups) == (7, 2)
    half = 1.96 * np.sqrt((1 + found.rho**2 / 2) / 3)  # 7 pairs - 2 groups - 2
    assert (found.low, found.high) == pytest.approx(
        (np.tanh(np.arctanh(found.rho) - half), np.tanh(np.arctanh(found.rho) + half))
    )
    pooled = spearman(*(np.concatenate(side) for side in zip(*GROUPS, strict=True)))
    assert pooled.rho > 0.5  # that distances differ by the model outweighs what they say in each


def test_a_group_s_level_and_unit_do_not_matter():
    moved = [GROUPS[0], ([1e-3 * x - 7.0 for x in GROUPS[1][0]], [x**3 for x in GROUPS[1][1]])]
    assert spearman_within(moved) == spearman_within(GROUPS)


def test_one_group_has_spearman_s_correlation():
    x, y = np.random.default_rng(1).integers(0, 6, (2, 12)).astype(np.float64)
    assert spearman_within([(x, y)]) == spearman(x, y)
    assert spearman(x, y).groups == 1


def test_a_group_without_an_order_plays_no_part():
    flat = ([1.0, 2.0, 3.0], [5.0, 5.0, 5.0])
    assert spearman_within([*GROUPS, flat, ([1.0], [2.0])]) == spearman_within(GROUPS)
    assert np.isnan(spearman_within([flat, flat]).rho)
    assert np.isnan(spearman_within([]).rho)
    pairs = spearman_within([([1.0, 2.0], [1.0, 2.0])] * 2)  # two pairs in each
    assert pairs.rho == pytest.approx(1.0)
    assert np.isnan(pairs.low)
    with pytest.raises(ConfigError, match="1 numbers came with 2"):
        spearman_within([*GROUPS, ([1.0], [1.0, 2.0])])


def test_interval_within_groups_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(500):
        x = rng.normal(size=(6, 8))
        y = rng.normal(size=(6, 8)) + 10 * rng.normal(size=(6, 1))  # nothing within, and groups far apart
        found = spearman_within(list(zip(x, y, strict=True)))
        covered.append(found.low <= 0.0 <= found.high)
    assert 0.92 < np.mean(covered) < 0.98


def test_interval_over_runs_knows_that_training_seeds_differ():
    assert interval_over_runs([[5.0] * 20]) == (5.0, 5.0)
    assert interval_over_runs([[5.0] * 20, [9.0] * 20, [13.0] * 20]) == (5.0, 13.0)  # all drawn from one seed, at times
    games = np.random.default_rng(0).normal(size=60)
    assert interval_over_runs([games])[0] == pytest.approx(bootstrap_interval(games)[0], abs=0.05)
    assert interval_over_runs([games], seed=1) == interval_over_runs([games], seed=1) != interval_over_runs([games])
