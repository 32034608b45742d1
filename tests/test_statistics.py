import numpy as np
import pytest

from dream_env.errors import ConfigError
from dream_env.statistics import bootstrap_interval, iqm, normalized_score, summarize


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
