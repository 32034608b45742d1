"""Experts by name."""

import numpy as np
import pytest
from gymnasium import spaces

from dream_env.errors import ConfigError
from dream_env.experts.by_name import Expert, RandomExpert, expert_name, make_expert, random_policy
from dream_env.experts.scripted import ScriptedBreakout, ScriptedPong
from dream_env.real.environments import make_environment


def always_left(observation: np.ndarray) -> int:
    return 0


class Counting:
    """An expert as a class: made anew, told of each game."""

    def reset(self, env: object, seed: int) -> None:
        self.count = 0

    def __call__(self, observation: np.ndarray) -> int:
        self.count += 1
        return self.count % 2


def test_scripted_experts_are_found_by_environment() -> None:
    assert isinstance(make_expert("scripted", "pong"), ScriptedPong)
    breakout = make_expert("scripted", "ALE/Breakout-v5", explore=0.5)
    assert isinstance(breakout, ScriptedBreakout)
    assert breakout.explore == 0.5


def test_a_game_without_a_script_says_which_have_one() -> None:
    with pytest.raises(ConfigError, match=r"no scripted expert for tennis .*ALE/Pong-v5.* --expert"):
        make_expert("scripted", "tennis")


def test_an_unknown_expert_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no expert 'scriptd'.*Did you mean \"scripted\"\?"):
        make_expert("scriptd", "pong")


def test_a_function_or_class_is_imported_by_name() -> None:
    assert make_expert(f"{__name__}:always_left", "pong") is always_left
    made = make_expert(f"{__name__}:Counting", "pong")
    assert isinstance(made, Counting)
    assert isinstance(made, Expert)
    assert expert_name(made) == f"{__name__}:Counting"
    assert expert_name(always_left) == f"{__name__}:always_left"


@pytest.mark.parametrize("name", ["no_such_module:f", f"{__name__}:no_such_function"])
def test_what_cannot_be_imported_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot import the expert '{name}'"):
        make_expert(name, "pong")


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match="is a str, not something to call"):
        make_expert(f"{__name__}:__name__", "pong")


def test_the_random_policy_is_seeded_and_leaves_the_environment_alone() -> None:
    space = spaces.Discrete(1000, seed=1)
    expected = spaces.Discrete(1000, seed=1).sample()
    one, other, third = (random_policy(space, seed) for seed in (0, 0, 1))
    draws = [one(None) for _ in range(20)]
    assert draws == [other(None) for _ in range(20)]
    assert draws != [third(None) for _ in range(20)]
    assert space.sample() == expected


def test_the_random_expert_acts_in_the_environments_space() -> None:
    env = make_environment("CartPole-v1")
    expert = RandomExpert()
    expert.reset(env, 0)
    assert {expert(None) for _ in range(50)} == {0, 1}
