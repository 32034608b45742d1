"""The real environments: names, specs that make the same environment again, what is written down."""

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from dream_env.collecting.collect import CollectConfig
from dream_env.dream.registration import ATARI_GAMES
from dream_env.errors import ConfigError
from dream_env.real.environments import (
    FRAME_SKIP,
    atari_games,
    environment_from_spec,
    environment_id,
    make_environment,
    protocol,
)


@pytest.mark.parametrize(
    ("name", "gym_id"),
    [
        ("pong", "ALE/Pong-v5"),
        ("Pong", "ALE/Pong-v5"),
        ("space_invaders", "ALE/SpaceInvaders-v5"),
        ("space-invaders", "ALE/SpaceInvaders-v5"),
        ("SpaceInvaders", "ALE/SpaceInvaders-v5"),
        ("ALE/Breakout-v5", "ALE/Breakout-v5"),
        ("bipedalwalker", "BipedalWalker-v3"),
        ("adroit-door", "AdroitHandDoor-v1"),
        ("CartPole-v1", "CartPole-v1"),
    ],
)
def test_a_name_is_found_in_any_spelling(name: str, gym_id: str) -> None:
    assert environment_id(name) == gym_id


def test_every_atari_game_that_can_be_dreamed_can_be_played() -> None:
    assert set(atari_games().values()) == {f"ALE/{game}-v5" for game in ATARI_GAMES}


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no environment 'brekout'.*Did you mean \"breakout\"\?"):
        make_environment("brekout")


@pytest.mark.parametrize(("gray", "channels"), [(True, 1), (False, 3)])
def test_atari_pictures_have_the_size_and_channels_asked_for(gray: bool, channels: int) -> None:
    env = make_environment("pong", size=32, gray=gray)
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape == (32, 32, channels)
    assert observation.dtype == np.uint8


def test_the_spec_makes_the_same_game_again() -> None:
    env = make_environment("breakout", sticky=0.25, max_steps=50)
    assert env.spec is not None
    again = environment_from_spec(env.spec.to_json())
    np.testing.assert_array_equal(env.reset(seed=7)[0], again.reset(seed=7)[0])
    rng = np.random.default_rng(0)
    for _ in range(60):
        action = int(rng.integers(4))
        one, other = env.step(action), again.step(action)
        np.testing.assert_array_equal(one[0], other[0])
        assert one[1:4] == other[1:4]
        if one[3]:
            break
    assert one[3], "cut off by max_steps"


def test_max_steps_counts_steps_rather_than_frames() -> None:
    env = make_environment("pong", max_steps=40)
    env.reset(seed=0)
    steps = 1
    while not env.step(0)[3]:
        steps += 1
    assert 40 - 30 // FRAME_SKIP - 1 <= steps <= 40, "the frames without an action at the start count too"


def test_the_protocol_says_how_atari_is_played() -> None:
    facts = protocol(make_environment("pong"))
    versions = facts.pop("versions")
    assert facts == {
        "environment": "ALE/Pong-v5", "max_steps": None, "frame_skip": 4, "max_pool": True, "noop_max": 30, "size": 64,
        "gray": True, "terminal_on_life_loss": False, "sticky": 0.0, "full_action_space": False, "max_frames": 108_000,
    }  # fmt: skip
    assert {"ale-py", "gymnasium"} <= set(versions)


def test_bipedal_walker_shows_its_state_and_small_pictures_and_can_be_made_again() -> None:
    pytest.importorskip("Box2D")
    env = make_environment("bipedalwalker", size=32)
    assert env.spec is not None
    again = environment_from_spec(env.spec.to_json())
    for made in (env, again):
        observation, _ = made.reset(seed=3)
        assert {name: value.shape for name, value in observation.items()} == {"state": (24,), "pixels": (32, 32, 3)}
        assert made.observation_space.contains(observation)
    action = np.ones(4, np.float32)
    for _ in range(5):
        one, other = env.step(action)[0], again.step(action)[0]
        np.testing.assert_array_equal(one["pixels"], other["pixels"])
        np.testing.assert_array_equal(one["state"], other["state"])
    assert protocol(env)["size"] == 32


def test_missing_robotics_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(ConfigError, match=r'FrankaKitchen-v1 needs .* pip install "dream-env\[robotics\]"'):
        make_environment("kitchen")


def test_any_other_environment_is_made_as_it_is() -> None:
    assert make_environment("CartPole-v1", max_steps=9).spec == gymnasium.make("CartPole-v1", max_episode_steps=9).spec


MODULE = """
import gymnasium
import numpy as np
from gymnasium import spaces


class Still(gymnasium.Env):
    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}


gymnasium.register("Still-v0", entry_point="my_env:Still")
gymnasium.register("Unmade-v0", entry_point="my_env:Missing")
"""


@pytest.fixture
def my_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of one's own that can be imported while its folder is on the path."""
    (tmp_path / "my_env.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    forget()


def forget() -> None:
    """As in a process that has not imported the module."""
    sys.modules.pop("my_env", None)
    for gym_id in ("Still-v0", "Unmade-v0"):
        gymnasium.registry.pop(gym_id, None)


def test_an_environment_of_ones_own_is_named_with_its_module(my_env: Path) -> None:
    assert environment_id("my_env:Still-v0") == "Still-v0"
    assert CollectConfig("my_env:Still-v0").dataset_id == "dream/still/scripted-v0"
    spec = make_environment("my_env:Still-v0", max_steps=5).spec
    assert spec is not None
    assert spec.max_episode_steps == 5
    forget()
    assert environment_from_spec(spec.to_json()).spec == spec, "what is recorded says which module to import"


def test_a_module_that_is_not_found_is_named(my_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = make_environment("my_env:Still-v0").spec
    assert recorded is not None
    forget()
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder != str(my_env)])
    with pytest.raises(ConfigError, match=r"cannot import 'my_env', .*'my_env:Still-v0'.*PYTHONPATH"):
        make_environment("my_env:Still-v0")
    with pytest.raises(
        ConfigError, match=r"Still-v0 cannot be made: 'my_env:Still'.*No module named 'my_env'.*PYTHONPATH"
    ):
        environment_from_spec(recorded.to_json())


def test_what_a_module_does_not_hold_is_named(my_env: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no environment 'Stil-v0' after an import of 'my_env'\. Did you mean \"Still-v0\""
    ):
        make_environment("my_env:Stil-v0")
    with pytest.raises(ConfigError, match=r"Unmade-v0 cannot be made: 'my_env:Missing'.*has no attribute 'Missing'"):
        make_environment("my_env:Unmade-v0")


def test_a_package_that_an_environment_lacks_is_named(my_env: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(self: object) -> None:
        raise gymnasium.error.DependencyNotInstalled('Box2D is not installed, run `pip install "gymnasium[box2d]"`')

    environment_id("my_env:Still-v0")
    monkeypatch.setattr(sys.modules["my_env"].Still, "__init__", lacks)
    with pytest.raises(ConfigError, match="Still-v0 cannot be made: Box2D is not installed, run"):
        make_environment("Still-v0")


def test_sticky_actions_are_refused_outside_atari() -> None:
    with pytest.raises(ConfigError, match="CartPole-v1 is no Atari game"):
        make_environment("CartPole-v1", sticky=0.25)
