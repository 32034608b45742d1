"""The scripted experts, on the real emulator."""

from typing import Any

import numpy as np
import pytest

from dream_env.errors import ConfigError
from dream_env.experts.paddle import PLANS, PaddleExpert
from dream_env.experts.scripted import ScriptedBreakout, ScriptedPong
from dream_env.real.environments import make_environment


def play(expert: PaddleExpert, game: str, seed: int, steps: int) -> tuple[list[float], list[int]]:
    env = make_environment(game)
    observation, _ = env.reset(seed=seed)
    expert.reset(env, seed)
    rewards, actions = [], []
    for _ in range(steps):
        actions.append(expert(observation))
        observation, reward, *_ = env.step(actions[-1])
        rewards.append(float(reward))
    return rewards, actions


@pytest.mark.parametrize("seed", [0, 1])
def test_pong_scores_and_loses_nothing(seed: int) -> None:
    rewards, _ = play(ScriptedPong(), "pong", seed, 900)
    assert sum(rewards) >= 3
    assert min(rewards) == 0


def test_pong_parks_and_then_hardly_moves() -> None:
    rewards, actions = play(ScriptedPong(explore=0.0), "pong", 0, 600)
    assert sum(rewards) >= 3
    assert np.mean(np.array(actions) <= 1) > 0.9, "NOOP, and FIRE when the ball is there"


def test_slips_are_told_and_only_they_change_what_is_played() -> None:
    env = make_environment("pong")
    observation, _ = env.reset(seed=0)
    expert = ScriptedPong(explore=0.0, lapse=0.02)
    expert.reset(env, 0)
    slips = []
    for _ in range(400):
        action = expert(observation)
        slips.append(expert.slip)
        observation, *_ = env.step(action)
    lengths = np.diff(np.flatnonzero(np.diff([0, *slips, 0])))[::2]
    assert 0.05 < np.mean(slips) < 0.6
    assert lengths.max() > 5, "a lapse lasts"
    play(quiet := ScriptedPong(explore=0.0), "pong", 0, 50)
    assert not quiet.slip


def test_exploring_does_hardly_any_harm() -> None:
    rewards, actions = play(ScriptedPong(explore=0.5), "pong", 2, 900)
    assert sum(rewards) >= 2
    still, _ = np.unique(actions, return_counts=True)
    assert len(still) == 4, "all three movements are seen, and FIRE"


def test_breakout_scores_and_hardly_loses_a_life() -> None:
    env = make_environment("breakout")
    observation, _ = env.reset(seed=0)
    expert = ScriptedBreakout()
    expert.reset(env, 0)
    score = 0.0
    for _ in range(500):
        observation, reward, _, _, info = env.step(expert(observation))
        score += float(reward)
    assert score >= 12
    assert info["lives"] >= 4


@pytest.mark.parametrize(("game", "make", "drawn"), [("pong", ScriptedPong, 51), ("breakout", ScriptedBreakout, 72)])
def test_the_paddle_goes_where_its_model_says(game: str, make: type[PaddleExpert], drawn: int) -> None:
    env = make_environment(game)
    observation, _ = env.reset(seed=4)
    expert: Any = make()
    expert.reset(env, 0)
    for _ in range(15):
        env.step(expert(observation))
    ale = env.unwrapped.ale  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(100):
        before, position = expert._knob, expert.where(ale.getRAM())
        frames = ale.getEpisodeFrameNumber()
        move = int(rng.integers(-1, 2))
        for _ in range(4):
            expert._knob = float(expert.paddle.turn(expert._knob, move))
        env.step(expert._buttons[move])
        after, expert._knob = expert._knob, before
        assert ale.getEpisodeFrameNumber() == frames + 4
        # 4 frames on, the parity of the frame number is what it was.
        predicted = int(expert.foresee(position, np.array([[move]]), 4)[0])
        expert._knob = after
        errors.append(abs(predicted - int(ale.getRAM()[drawn])))
    assert np.mean(np.array(errors) <= 1) > 0.9


def test_the_same_seed_is_the_same_game_and_another_one_is_not() -> None:
    games = [play(ScriptedPong(), "pong", seed, 300)[1] for seed in (5, 5, 6)]
    assert games[0] == games[1]
    assert games[0] != games[2]


def test_an_expert_refuses_another_game() -> None:
    with pytest.raises(ConfigError, match="plays pong, not breakout"):
        play(ScriptedPong(), "breakout", 0, 1)


def test_plans_are_all_sequences_of_movements() -> None:
    assert [len(PLANS[steps]) for steps in sorted(PLANS)] == [3, 9, 27, 81]
    assert len({tuple(plan) for plan in PLANS[3]}) == 27
