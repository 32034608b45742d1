"""``episodes.csv``: several evaluations add to it, none loses another's games or mixes those of two environments."""

import pytest

from dream_env.errors import ConfigError
from dream_env.playing.game_log import GameLog
from dream_env.playing.games import EpisodeResult

AGENT = ("agent", -1, False)


def game(seed):
    return EpisodeResult(seed, 1 / 3, 7, 1.0, None)


def test_games_of_evaluations_at_the_same_time_are_all_kept(tmp_path):
    path = tmp_path / "episodes.csv"
    one, other = (GameLog(path, environment="pong") for _ in range(2))
    for seed in range(3):
        one.add(*AGENT, game(seed))
        other.add(*AGENT, game(100 + seed))
    other.add("random", -1, False, game(0))
    again = GameLog(path, environment="pong")
    assert sorted(again.played(*AGENT)) == [0, 1, 2, 100, 101, 102]
    assert sorted(again.played("random", -1, False)) == [0]
    assert one.played(*AGENT)[2] == game(2)  # as it was played, not as the file rounds it


def test_games_of_another_environment_that_came_meanwhile_are_not_mixed_with_or_lost(tmp_path):
    path = tmp_path / "episodes.csv"
    one, other = GameLog(path, environment="pong"), GameLog(path, environment="pong with FIRE")
    one.add(*AGENT, game(0))
    with pytest.raises(ConfigError, match="holds games of pong, and now pong with FIRE is to be played"):
        other.add(*AGENT, game(0))
    assert sorted(GameLog(path, environment="pong").played(*AGENT)) == [0]


def test_an_environment_that_is_found_to_be_the_same_under_another_name_is_gone_on_with(tmp_path):
    path = tmp_path / "episodes.csv"
    GameLog(path, environment="pong").add(*AGENT, game(0))
    log = GameLog(path)
    log.environment = "pong, cut off after 100 steps"
    log.add(*AGENT, game(1))
    log.add(*AGENT, game(2))
    assert sorted(GameLog(path, environment=log.environment).played(*AGENT)) == [0, 1, 2]
