"""FIRE pressed for the player, on the real emulator: who serves, what is written down, and what stays as it was."""

from dataclasses import replace

import numpy as np
import pytest
from agents import pong_model

from dream_env.collecting.collect import CollectConfig
from dream_env.errors import ConfigError
from dream_env.playing.real_environment import environment_of, signature
from dream_env.real.environments import environment_from_spec, make_environment, play_step, protocol

WAIT = 0


def stand_still(env, steps):
    """Lives left, and whether the game is over, after so many steps of waiting."""
    env.reset(seed=0)
    for _ in range(steps):
        *_, terminated, truncated, _ = play_step(env, WAIT)
        if terminated or truncated:
            return env.unwrapped.ale.lives(), True
    return env.unwrapped.ale.lives(), False


def test_who_never_serves_loses_five_balls_with_it_and_waits_for_ever_without():
    assert stand_still(make_environment("breakout"), 300) == (5, False)
    assert stand_still(make_environment("breakout", fire=True), 300) == (0, True)


def test_the_recorded_spec_makes_the_same_environment_and_tells_it():
    env = make_environment("breakout", fire=True)
    again = environment_from_spec(env.spec.to_json())
    assert protocol(env)["fire"] is True
    assert "fire" not in protocol(make_environment("breakout"))  # signatures of before stay
    assert signature(env) == signature(again) != signature(make_environment("breakout"))
    seen = [one.reset(seed=3)[0] for one in (env, again)]
    for action in (2, 3, 3, 1):
        seen += [one.step(action)[0] for one in (env, again)]
    assert all(np.array_equal(one, other) for one, other in zip(seen[::2], seen[1::2], strict=True))


def test_a_game_without_the_button_is_the_same_game():
    plain, pressed = (make_environment("mspacman", fire=fire) for fire in (False, True))
    assert np.array_equal(plain.reset(seed=1)[0], pressed.reset(seed=1)[0])
    assert np.array_equal(plain.step(1)[0], pressed.step(1)[0])


def test_a_limit_that_the_serve_uses_up_leaves_a_game_that_has_begun():
    env = make_environment("pong", fire=True, max_steps=1)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert not env.unwrapped.ale.game_over()


def test_an_agent_is_served_where_its_recordings_were_not(tmp_path):
    world_model = pong_model()
    spec = make_environment("pong").spec.to_json()
    world_model.source = replace(world_model.source, environment="ALE/Pong-v5", env_spec=spec)
    assert protocol(environment_of(world_model, fire=True)())["fire"]
    assert "fire" not in protocol(environment_of(world_model)())
    world_model.source = replace(world_model.source, env_spec=make_environment("pong", fire=True).spec.to_json())
    served = environment_of(world_model, fire=True)()
    assert str(served).count("PressFire") == 1


def test_other_environments_have_no_such_button():
    with pytest.raises(ConfigError, match="the button FIRE is a matter of the Atari emulator"):
        make_environment("CartPole-v1", fire=True)


def test_recordings_of_before_are_gone_on_with():
    assert "fire" not in CollectConfig("pong").identity()
    assert CollectConfig("pong", fire=True).identity()["fire"] is True
