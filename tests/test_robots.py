"""Robots: five of them step and are drawn without a screen, the same way each time and as their specs say."""

import gc
import json
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import AddRenderObservation
from robots import _robots, pictures  # noqa: F401

from dream_env.errors import ConfigError, SpaceError
from dream_env.filtering import LatentObservation, check_spaces
from dream_env.model.world_model import WorldModel
from dream_env.real.environments import environment_from_spec, make_environment, protocol, rendering_of
from dream_env.real.robots import KITCHEN, ROBOTS, MujocoRendering, make_robot
from dream_env.real.success import SuccessTracker
from dream_env.spaces import ActionSpec, ObservationConfig, ObservationSpec
from dream_env.tiny import tiny_world_model

pytestmark = pytest.mark.usefixtures("_robots")


@pytest.mark.parametrize("name", [name for name in ROBOTS if name != "baoding"])  # whose model is not ours
def test_a_robot_steps_and_the_same_seed_shows_the_same_pictures_in_its_twin(name):
    env = make_environment(name, size=32)
    assert env.spec is not None
    twin = environment_from_spec(env.spec.to_json())
    assert protocol(env) == protocol(twin)
    assert protocol(env)["rendering"] == "fast"
    assert protocol(env)["size"] == 32
    shown = pictures(env, seed=4)
    assert shown.shape == (4, 32, 32, 3)
    assert shown.std() > 5, "something is to be seen"
    assert np.abs(shown[-1] - shown[0]).max() > 0, "something moves"
    np.testing.assert_array_equal(shown, pictures(twin, seed=4))
    np.testing.assert_array_equal(shown, pictures(env, seed=4))
    assert env.observation_space.contains(env.reset(seed=0)[0])
    info = env.step(env.action_space.sample())[-1]
    tracker = SuccessTracker(env)
    tracker.step(info)
    assert tracker.success == 0.0
    assert tracker.tasks == (0.0 if name == "kitchen" else None)
    env.close()
    twin.close()


def test_fast_and_default_pictures_differ_and_a_spec_keeps_which():
    fast = make_environment("adroit-door", size=32)
    plain = make_environment("adroit-door", size=32, rendering="default")
    assert plain.spec is not None
    again = environment_from_spec(plain.spec.to_json())
    assert [protocol(env)["rendering"] for env in (fast, plain, again)] == ["fast", "default", "default"]
    shown = [pictures(env, seed=1, steps=0) for env in (fast, plain, again)]
    np.testing.assert_array_equal(shown[1], shown[2])
    assert np.abs(shown[0] - shown[1]).mean() > 2
    for env in (fast, plain, again):
        env.close()


def test_robots_side_by_side_do_not_draw_into_each_others_picture():
    door = make_environment("adroit-door", size=32)
    alone = pictures(door, seed=1)
    others = [make_environment(name, size=32) for name in ("adroit-pen", "adroit-hammer")]
    first = door.reset(seed=1)[0]["pixels"]
    others[0].reset(seed=1)
    np.testing.assert_array_equal(first, alone[0])
    np.testing.assert_array_equal(door.render(), alone[0])
    others[0].close()
    del others
    np.testing.assert_array_equal(pictures(door, seed=1), alone)
    door.close()


def test_what_a_robot_leaves_behind_does_not_spoil_the_next_ones_picture():
    # MuJoCo frees what an environment drew with when the garbage collector comes by, in whatever context is current then.
    reference = None
    for _ in range(3):
        envs = [make_environment("adroit-door", size=16) for _ in range(2)]
        shown = [pictures(env, seed=1, steps=0) for env in envs]
        reference = shown[0] if reference is None else reference
        gc.collect()
        for env, picture in zip(envs, shown, strict=True):
            np.testing.assert_array_equal(picture, reference)
            np.testing.assert_array_equal(pictures(env, seed=1, steps=0), reference)
        envs[0].close()  # and the other one is left to the garbage collector
        del env, envs


def test_a_recorded_robot_that_does_not_say_how_it_was_drawn_was_drawn_by_default():
    env = gymnasium.make("AdroitHandDoor-v1", render_mode="rgb_array", width=16, height=16)
    bare = AddRenderObservation(env, render_only=False)
    ours = make_environment("adroit-door", size=16, rendering="default")
    again = environment_from_spec(bare.spec.to_json())
    assert protocol(again) == protocol(ours)
    np.testing.assert_array_equal(pictures(again, seed=1), pictures(ours, seed=1))
    for made in (bare, ours, again):
        made.close()


def test_the_camera_does_not_depend_on_the_reset_that_came_first():
    # Gymnasium points it at the median of all parts at the first picture; over the first resets that moves by 4 mm.
    shown = []
    for seed in (0, 2):
        env = gymnasium.make("AdroitHandDoor-v1", render_mode="rgb_array", width=32, height=32)
        env.reset(seed=seed)
        env = MujocoRendering(env)
        env.reset(seed=5)
        shown.append(env.render())
        env.close()
    np.testing.assert_array_equal(*shown)


def test_a_new_robot_is_as_random_as_any_environment():
    env, twin = make_environment("adroit-door", size=8), make_environment("adroit-door", size=8)
    assert not np.array_equal(env.reset()[0]["state"], twin.reset()[0]["state"])
    env.close()
    twin.close()


def test_kitchen_is_cmils_with_episodes_of_fixed_length():
    env = make_environment("kitchen", size=8)
    facts = protocol(env)
    assert facts["tasks"] == ["microwave", "kettle", "light switch", "slide cabinet"]
    assert facts["camera"] == KITCHEN["default_camera_config"]
    assert facts["max_steps"] == 280
    inner = env.unwrapped
    assert not inner.terminate_on_tasks_completed
    camera = inner.robot_env.mujoco_renderer.viewer.cam
    assert (camera.distance, camera.azimuth, camera.elevation) == (1.86, 90, -60)
    np.testing.assert_allclose(camera.lookat, [-0.3, 0.5, 2.0])
    env.close()


def test_other_versions_of_a_robot_say_how_they_were_drawn_too():
    env = gymnasium.make("AdroitHandDoorSparse-v1")
    assert protocol(env)["rendering"] == "default"


# ---------------------------------------------------------------------------------------------------------- bad input


def test_a_rendering_is_refused_where_mujoco_draws_nothing():
    for name in ("pong", "CartPole-v1", "bipedalwalker"):
        with pytest.raises(ConfigError, match=r"rendering='fast' is a setting of robots' pictures \(kitchen, "):
            make_environment(name, rendering="fast")
        assert rendering_of(name, None) is None
    with pytest.raises(ConfigError, match="CartPole-v1 is not rendered by MuJoCo"):
        MujocoRendering(gymnasium.make("CartPole-v1", render_mode="rgb_array"))


@pytest.mark.usefixtures("_without_runtime_types")
def test_an_unknown_rendering_is_refused():
    with pytest.raises(ConfigError, match="there is no rendering 'nice'; it is one of fast, default"):
        make_environment("adroit-door", rendering="nice")


def test_without_a_screen_egl_is_chosen_but_nobodys_choice_is_changed():
    code = (
        "import os; from dream_env.real.robots import register_robots; register_robots('AdroitHandDoor-v1'); "
        "print(os.environ['MUJOCO_GL'])"
    )
    plain = {
        name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")
    }
    for given, expected in (({}, "egl"), ({"MUJOCO_GL": "glfw"}, "glfw")):
        run = subprocess.run(
            [sys.executable, "-c", code], env=plain | given, capture_output=True, text=True, check=True
        )
        assert run.stdout.strip() == expected


def test_a_mujoco_that_is_too_new_says_which_to_install(monkeypatch):
    def make(*_, **__):
        raise AssertionError

    monkeypatch.setattr("gymnasium.make", make)
    with pytest.raises(ConfigError, match=r'FrankaKitchen-v1 cannot be built .* pip install "mujoco<3.12"'):
        make_robot("FrankaKitchen-v1", size=8)


def model_of(env, facts=None):
    """A tiny world model of a robot's pictures, as if fitted to recordings that say ``facts``."""
    config = ObservationConfig(size=16, keys=("pixels",), gray=False)
    spec = ObservationSpec.from_space(env.observation_space, config)
    tiny = tiny_world_model(action_space=env.action_space)
    source = tiny.source.__class__("adroit/door-v0", "AdroitHandDoor-v1", None, {"protocol": facts} if facts else {})
    return WorldModel(tiny.config, spec, ActionSpec.from_space(env.action_space), source).eval()


def test_pictures_drawn_in_another_way_than_the_models_are_refused():
    env = make_environment("adroit-door", size=16)
    recorded = json.loads(json.dumps(protocol(env)))
    plain = make_environment("adroit-door", size=16, rendering="default")
    for world_model in (model_of(env, recorded), model_of(env)):  # recordings of others may not say
        check_spaces(world_model, env)
    message = (
        r"AdroitHandDoor-v1 shows pictures with rendering 'default', but the world model \(dataset adroit/door-v0\) was "
        r"fitted on pictures with rendering 'fast'"
    )
    with pytest.raises(SpaceError, match=message):
        LatentObservation(plain, model_of(env, recorded))
    env.close()
    plain.close()


def test_another_camera_than_the_models_is_refused():
    env = make_environment("kitchen", size=16)
    recorded = protocol(env) | {"camera": {"distance": 9.0}}
    with pytest.raises(SpaceError, match=r"shows pictures with camera .* was fitted on pictures with camera .*9\.0"):
        check_spaces(model_of(env, recorded), env)
    env.close()


def test_a_model_of_states_does_not_mind_how_pictures_are_drawn():
    env = make_environment("adroit-door", size=16)
    other = make_environment("adroit-door", size=16, rendering="default")
    tiny = model_of(env, protocol(env))
    spec = ObservationSpec.from_space(env.observation_space, ObservationConfig(keys=("state",)))
    check_spaces(WorldModel(tiny.config, spec, tiny.action_spec, tiny.source), other)
    env.close()
    other.close()
