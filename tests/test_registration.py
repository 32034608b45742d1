"""Ids of dreams."""

import subprocess
import sys

import ale_py
import gymnasium
import numpy as np
import pytest

from dream_env import checkpoint
from dream_env.checkpoint import SHIPPED
from dream_env.dream.env import DreamEnv
from dream_env.dream.registration import ENVIRONMENTS, register_dreams
from dream_env.errors import CheckpointError, ConfigError, EnvironmentMismatch
from dream_env.model.encoded import save_encoded
from dream_env.testing import tiny_expert, tiny_world_model

register_dreams()


@pytest.fixture(scope="module")
def pong_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wm")
    world_model = tiny_world_model()
    checkpoint.save(world_model, folder)
    save_encoded(tiny_expert(world_model), folder, "train")
    save_encoded(tiny_expert(world_model, episodes=2, seed=1), folder, "held_out")
    return folder


def test_every_atari_game_of_ale_py_has_a_dream():
    gymnasium.register_envs(ale_py)
    games = {spec_id.removeprefix("ALE/").removesuffix("-v5") for spec_id in gymnasium.registry if "ALE/" in spec_id}
    assert len(games) > 100
    assert games - {name for name, environment in ENVIRONMENTS.items() if environment.startswith("ALE/")} == set()
    assert {f"Dream-{game}-v0" for game in games} <= gymnasium.registry.keys()


@pytest.mark.parametrize(
    "name",
    ["BipedalWalker", "FrankaKitchen", "AdroitHandDoor", "AdroitHandHammer", "AdroitHandPen", "AdroitHandRelocate"],
)
def test_dreams_of_robots_are_of_environments_that_exist(name):
    assert f"Dream-{name}-v0" in gymnasium.registry
    pytest.importorskip("gymnasium_robotics")
    code = f"import gymnasium as g, gymnasium_robotics as r; g.register_envs(r); g.spec({ENVIRONMENTS[name]!r})"
    # In a process of its own: the import has side effects.
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_registering_twice_changes_nothing():
    before = dict(gymnasium.registry)
    register_dreams()
    assert gymnasium.registry == before


def test_registering_imports_neither_torch_nor_a_game():
    code = (
        "import sys, dream_env.dream.registration as r; r.register_dreams();"
        "assert not {'torch', 'ale_py', 'minari', 'stable_baselines3', 'dream_env.dream.env'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_make_gives_a_single_environment_from_a_folder(pong_folder):
    env = gymnasium.make("Dream-Pong-v0", wm=str(pong_folder), horizon=7)
    obs, _ = env.reset(seed=0)
    assert obs in env.observation_space
    assert isinstance(env, gymnasium.Env)
    assert env.unwrapped.dream.horizon == 7


def test_make_vec_gives_the_vector_environment_itself(pong_folder):
    envs = gymnasium.make_vec("Dream-Pong-v0", num_envs=5, wm=str(pong_folder))
    assert isinstance(envs, DreamEnv)
    assert envs.num_envs == 5
    assert envs.spec.id == "Dream-Pong-v0"
    assert envs.horizon == 15


def test_make_vec_honours_max_episode_steps(pong_folder):
    envs = gymnasium.make_vec("Dream-Pong-v0", num_envs=2, wm=str(pong_folder), max_episode_steps=4)
    assert envs.horizon == 4


def test_a_dream_s_spec_goes_through_json(pong_folder):
    env = gymnasium.make("Dream-Pong-v0", wm=str(pong_folder), reward_options={"space": "both"})
    again = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(env.spec.to_json()))
    assert again.unwrapped.dream.reward.space == "both"


def test_a_model_of_another_game_is_refused_with_both_names(pong_folder):
    with pytest.raises(EnvironmentMismatch, match=r"dreams of ALE/Breakout-v5, but the world model is of ALE/Pong-v5"):
        gymnasium.make("Dream-Breakout-v0", wm=str(pong_folder))
    with pytest.raises(EnvironmentMismatch, match="Dream-v0, which takes any model"):
        gymnasium.make_vec("Dream-Breakout-v0", num_envs=2, wm=str(pong_folder))


def test_a_model_whose_environment_was_not_recorded_is_refused_by_name():
    world_model = tiny_world_model(environment="")
    with pytest.raises(EnvironmentMismatch, match="an environment that was not recorded"):
        DreamEnv(wm=world_model, expert=tiny_expert(world_model), environment="ALE/Pong-v5")


@pytest.mark.parametrize("environment", ["ALE/Pong-v5", "PongNoFrameskip-v4", "Pong-v4"])
def test_versions_and_spellings_of_one_game_are_one_game(environment):
    world_model = tiny_world_model(environment=environment)
    DreamEnv(wm=world_model, expert=tiny_expert(world_model), environment="ALE/Pong-v5")


def test_dream_v0_takes_any_model(pong_folder):
    assert gymnasium.make("Dream-v0", wm=str(pong_folder)).reset(seed=0)[1] == {}


def test_a_dream_without_a_world_model_says_what_to_pass():
    with pytest.raises(ConfigError, match=r"needs a world model: pass wm="):
        gymnasium.make("Dream-Breakout-v0")
    with pytest.raises(ConfigError, match=r"needs a world model: pass wm="):
        gymnasium.make_vec("Dream-v0", num_envs=2)


def test_pong_comes_with_the_package():
    dreams = gymnasium.make_vec("Dream-Pong-v0", num_envs=64)
    assert dreams.world_model.source.environment == "ALE/Pong-v5"
    dreams.reset(seed=0)
    rows = dreams.dreams.rows
    rewards = [dreams.step(dreams.expert.actions(rows + t).numpy())[1].mean() for t in range(dreams.horizon)]
    dreams.reset(seed=0)
    dreams.action_space.seed(0)
    at_random = [dreams.step(dreams.action_space.sample())[1].mean() for _ in range(dreams.horizon)]
    assert np.mean(rewards) > np.mean(at_random) + 0.05, "it knows one action from another"
    assert sum(path.stat().st_size for path in (SHIPPED / "pong").iterdir()) < 15e6
    single = gymnasium.make("Dream-Pong-v0", render_mode="rgb_array")
    single.reset(seed=0)
    assert single.render().ndim == 3


def test_a_model_that_does_not_come_with_the_package_is_named():
    with pytest.raises(CheckpointError, match=r"no world model 'pongg' comes with this package. Did you mean .pong"):
        gymnasium.make("Dream-v0", wm="shipped:pongg")


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        gymnasium.make("Dream-Pong-v0", wm=str(tmp_path / "nothing"))


def test_a_hub_id_is_downloaded(pong_folder, monkeypatch):
    asked = []

    def snapshot_download(hub_id):
        asked.append(hub_id)
        return str(pong_folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    envs = gymnasium.make_vec("Dream-Pong-v0", num_envs=2, wm="somebody/pong-dreams")
    assert asked == ["somebody/pong-dreams"]
    assert envs.reset(seed=0)[0].shape == (2, 48)


def test_held_out_demonstrations_of_a_folder_can_be_dreamed_from(pong_folder):
    assert DreamEnv(2, wm=pong_folder).expert.num_episodes == 4
    assert DreamEnv(2, wm=pong_folder, split="held_out").expert.num_episodes == 2
    assert DreamEnv(2, wm=pong_folder, episodes=3).expert.num_episodes == 3
