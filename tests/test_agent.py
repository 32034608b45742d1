import ntpath
import os
import shutil
from pathlib import PureWindowsPath

import gymnasium
import numpy as np
import pytest
import torch
from agents import LinearLearner, linear_agent, pong_model, short_pong
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

import dream_env.agent
from dream_env import checkpoint
from dream_env.agent import LatentObservation, fingerprint, load_agent, load_policy, save_agent, world_model_of
from dream_env.errors import CheckpointError, SpaceError
from dream_env.filtering import LatentFilter, stack
from dream_env.functional import counter_uniform
from dream_env.real.environments import make_environment
from dream_env.tiny import tiny_demos, tiny_world_model


def test_filter_of_an_agent_equals_the_models_filter_over_the_recording():
    world_model = tiny_world_model()
    episode = tiny_demos(episodes=1, steps=6).episode(0)
    one = LatentFilter(world_model)
    state = one.start([7])
    feats = []
    for t in range(7):
        observation = episode.obs["image"][t][..., 0][None]
        state = one.step(state, observation, torch.tensor([t == 0]))
        feats.append(state.latent.feat)
        if t < 6:
            state = type(state)(state.latent, torch.tensor(episode.action_t[t : t + 1]), state.seeds, state.counters)
    noise = counter_uniform(torch.full((7,), 7), torch.arange(7), world_model.noise_size).unsqueeze(1)
    action_tm1 = torch.tensor(np.concatenate([[0], episode.action_t]))[:, None]
    obs = {"image": torch.tensor(episode.obs["image"])[:, None]}
    is_first = torch.zeros(7, 1, dtype=torch.bool)
    is_first[0] = True
    with torch.no_grad():
        recorded = world_model.observe(obs, action_tm1, is_first, noise)
    torch.testing.assert_close(torch.stack(feats), recorded.feat)


def test_filter_without_sampling_takes_the_mode():
    world_model = tiny_world_model()
    observation = tiny_demos().episode(0).obs["image"][:3, ..., 0]
    mode = LatentFilter(world_model, sample=False)
    a = mode.step(mode.start([1, 2, 3]), observation, torch.ones(3, dtype=torch.bool))
    b = mode.step(mode.start([4, 5, 6]), observation, torch.ones(3, dtype=torch.bool))
    torch.testing.assert_close(a.latent.feat, b.latent.feat)


def test_many_environments_at_once_are_filtered_as_each_alone():
    world_model = pong_model()
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 3, 64, 64, 1), dtype=np.uint8)  # (time, environments, ...)
    together, alone = linear_agent(world_model), linear_agent(world_model)
    state, states = together.start([5, 6, 7]), [alone.start([seed]) for seed in (5, 6, 7)]
    for t in range(4):
        start = np.full(3, t == 0)
        actions, state = together.predict(frames[t], state, start, deterministic=True)
        for i in range(3):
            action, states[i] = alone.predict(frames[t, i : i + 1], states[i], start[:1], deterministic=True)
            assert action[0] == actions[i]
            torch.testing.assert_close(states[i].latent.feat[0], state.latent.feat[i])


def test_an_episode_that_begins_forgets_the_one_before():
    world_model = pong_model()
    agent = linear_agent(world_model)
    frames = np.random.default_rng(1).integers(0, 256, (1, 64, 64, 1), dtype=np.uint8)
    _, fresh = agent.predict(frames, agent.start([3]), np.ones(1, dtype=bool), deterministic=True)
    _, used = agent.predict(255 - frames, agent.start([9]), np.ones(1, dtype=bool), deterministic=True)
    used = type(used)(used.latent, used.action_tm1, fresh.seeds, fresh.counters - 1)
    _, again = agent.predict(frames, used, np.ones(1, dtype=bool), deterministic=True)
    torch.testing.assert_close(again.latent.feat, fresh.latent.feat)


def test_wrapped_environment_gives_what_the_agent_sees():
    world_model = pong_model()
    agent, wrapped, plain = linear_agent(world_model), LatentObservation(short_pong(), world_model), short_pong()
    feat, _ = wrapped.reset(seed=11)
    observation, _ = plain.reset(seed=11)
    state = agent.start([11])
    for step in range(5):
        action, state = agent.predict(stack([observation]), state, np.array([step == 0]), deterministic=True)
        np.testing.assert_allclose(state.latent.feat[0].numpy(), feat, rtol=1e-5, atol=1e-6)
        feat, *_ = wrapped.step(action[0])
        observation, *_ = plain.step(action[0])


def test_sb3_evaluate_policy_runs_on_a_wrapped_real_game(tmp_path):
    checkpoint.save(pong_model(), tmp_path / "wm")
    env = Monitor(LatentObservation(short_pong(), tmp_path / "wm"))
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=8, policy_kwargs={"net_arch": [8]}, device="cpu")
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=2, return_episode_rewards=True)
    assert len(returns) == 2
    assert all(10 < length <= 20 for length in lengths)  # no-ops at the start count too


def test_sb3_evaluate_policy_takes_an_agent_as_the_model():
    agent = linear_agent(pong_model())
    mean, _ = evaluate_policy(agent, Monitor(short_pong()), n_eval_episodes=2)  # type: ignore[arg-type]
    assert np.isfinite(mean)


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")  # a wrapper is what is checked here
def test_wrapped_environment_keeps_gymnasiums_rules():
    from gymnasium.utils.env_checker import check_env

    check_env(LatentObservation(short_pong(), pong_model()), skip_render_check=True)


def test_environment_of_other_observations_or_actions_is_refused():
    world_model = pong_model()
    with pytest.raises(SpaceError, match=r"shape \(32, 32, 1\).*was fitted on image 'image' of shape \(64, 64, 1\)"):
        LatentObservation(make_environment("pong", size=32), world_model)
    with pytest.raises(SpaceError, match=r"takes actions of Discrete\(4\).*was fitted on Discrete\(6\)"):
        LatentObservation(make_environment("breakout"), world_model)


class Still(gymnasium.Env):
    """Shows a black picture of a tiny model's size and takes the actions it was made with."""

    observation_space = spaces.Box(0, 255, (16, 16), np.uint8)

    def __init__(self, action_space, observation_space=observation_space):
        self.action_space = action_space
        self.observation_space = observation_space


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (
            spaces.Box(-1, 1, (2,)),
            spaces.Box(-2, 2, (2,)),
            r"Still takes actions of Box\(-2\.0, 2\.0, \(2,\), float32\), but the world model \(dataset tiny/square-v0\) was "
            r"fitted on Box\(-1\.0, 1\.0, \(2,\), float32\); set the environment up as it was when it was recorded",
        ),
        (spaces.Box(-1, np.inf, (2,)), spaces.Box(-1, 1, (2,)), r"was fitted on Box\(-1\.0, inf"),
        (spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (3,)), r"takes actions of Box\(-1\.0, 1\.0, \(3,\)"),
        (spaces.Discrete(3), spaces.Discrete(3, start=1), r"takes actions of Discrete\(3, start=1\).*on Discrete\(3\)"),
        (spaces.Discrete(3), spaces.Box(-1, 1, (3,)), r"takes actions of Box"),
    ],
)
def test_an_environment_whose_actions_mean_something_else_is_refused(ours, theirs, message):
    with pytest.raises(SpaceError, match=message):
        LatentObservation(Still(theirs), tiny_world_model(action_space=ours))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (spaces.Box(-0.1, 0.1, (2,), np.float32), spaces.Box(-0.1, 0.1, (2,), np.float64)),
        (spaces.Box(-np.inf, 1, (2,)), spaces.Box(-np.inf, 1, (2,))),
        (spaces.Discrete(3, start=1), spaces.Discrete(3, start=1)),
    ],
)
def test_bounds_are_compared_as_numbers_whatever_their_precision(ours, theirs):
    LatentObservation(Still(theirs), tiny_world_model(action_space=ours))


PICTURE, STATE = Still.observation_space, spaces.Box(-1, 1, (3,))


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        (
            PICTURE,
            spaces.Dict(image=PICTURE, state=STATE),
            r"dictionary of image, state, but .* one Box of shape \(16, 16\)",
        ),
        (PICTURE, spaces.Dict(image=PICTURE), r"shows a dictionary of image, but .* was fitted on one Box of shape"),
        (
            spaces.Dict(image=PICTURE),
            PICTURE,
            r"shows one Box of shape \(16, 16\), but .* on a dictionary of image; set",
        ),
        (
            spaces.Dict(image=PICTURE, state=STATE),
            spaces.Dict(image=PICTURE),
            r"dictionary of image, but .* of image, state",
        ),
        (
            spaces.Dict(state=STATE),
            spaces.Dict(state=spaces.Dict(arm=STATE, hand=STATE)),
            r"dictionary of state/arm, state/hand, but the world model \(dataset tiny/square-v0\) was fitted on a dictionary of "
            r"state; set the environment up as it was when it was recorded, or let a wrapper show the same",
        ),
    ],
)
def test_an_environment_that_shows_other_keys_is_refused(ours, theirs, message):
    world_model = tiny_world_model(observation_space=ours)
    with pytest.raises(SpaceError, match=message):
        LatentObservation(Still(spaces.Discrete(3), theirs), world_model)


def test_an_environment_may_show_more_than_the_model_takes():
    world_model = tiny_world_model(observation_space=spaces.Dict(image=PICTURE))
    LatentObservation(Still(spaces.Discrete(3), spaces.Dict(image=PICTURE, mission=spaces.Text(9))), world_model)


def test_dictionary_observations_are_filtered_by_key():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Dict({"c": spaces.Box(0, 255, (8, 8), np.uint8)})})
    world_model = tiny_world_model(observation_space=space, action_space=spaces.Box(-1.0, 1.0, (2,)))
    one = LatentFilter(world_model)
    state = one.step(one.start([0, 1]), stack([space.sample(), space.sample()]), torch.ones(2, dtype=torch.bool))
    assert state.latent.shape == (2,)
    assert state.action_tm1.shape == (2, 2)


# ------------------------------------------------------------------------------------------------------------- folders


@pytest.fixture
def saved(tmp_path):
    world_model = pong_model()
    checkpoint.save(world_model, tmp_path / "run" / "wm")
    agent = linear_agent(world_model)
    save_agent(
        agent, tmp_path / "run" / "ditto", world_model_folder=tmp_path / "run" / "wm", learner=LinearLearner(),
        meta={"steps": 3},
    )  # fmt: skip
    return agent, tmp_path / "run" / "ditto"


def test_loaded_agent_acts_as_the_saved_one(saved):
    agent, folder = saved
    other = load_agent(folder)
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 1), dtype=np.uint8)
    ours, _ = agent.predict(frames, deterministic=True)
    theirs, _ = other.predict(frames, deterministic=True)
    np.testing.assert_array_equal(ours, theirs)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "meta.json", "policy.safetensors"]
    assert checkpoint.read_json(folder / "meta.json")["steps"] == 3


def test_world_model_is_found_by_relative_path_after_the_run_has_moved(saved, tmp_path):
    _, folder = saved
    shutil.move(folder.parent, tmp_path / "elsewhere")
    assert checkpoint.read_json(tmp_path / "elsewhere/ditto/config.json")["world_model"] == "../wm"
    load_agent(tmp_path / "elsewhere" / "ditto")


def test_a_world_model_on_another_drive_is_kept_with_its_absolute_path(tmp_path, monkeypatch):
    def across_drives(path, start):
        return ntpath.relpath(f"C:{path}", f"D:{start}")

    world_model = pong_model()
    wm = checkpoint.save(world_model, tmp_path / "wm")
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "relpath", across_drives)
        folder = save_agent(linear_agent(world_model), tmp_path / "run", world_model_folder=wm, learner=LinearLearner())
    assert checkpoint.read_json(folder / "config.json")["world_model"] == wm.as_posix()
    assert world_model_of(folder) == wm
    shutil.rmtree(wm)
    with pytest.raises(CheckpointError, match=r"was trained in the world model /.*/wm, which is not there .*pass wm="):
        world_model_of(folder)


def test_an_absolute_path_of_windows_is_no_hub_id(saved):
    _, folder = saved
    config = checkpoint.read_json(folder / "config.json")
    checkpoint.write_json(folder / "config.json", {**config, "world_model": "C:/wm"})
    with pytest.raises(CheckpointError, match=r"was trained in the world model C:/wm, which is not there .*pass wm="):
        load_agent(folder)


def test_what_refers_to_a_world_model_has_forward_slashes_on_windows_too(saved, tmp_path, monkeypatch):
    agent, _ = saved
    monkeypatch.setattr(os.path, "relpath", lambda path, start: "..\\run\\wm")
    monkeypatch.setattr(dream_env.agent, "PurePath", PureWindowsPath)
    folder = save_agent(agent, tmp_path / "b", world_model_folder=tmp_path / "run" / "wm", learner=LinearLearner())
    assert checkpoint.read_json(folder / "config.json")["world_model"] == "../run/wm"
    load_agent(folder)


def test_changed_world_model_is_refused(saved):
    _, folder = saved
    checkpoint.save(pong_model(seed=1), folder.parent / "wm")
    with pytest.raises(CheckpointError, match=r"\.\./wm is not the one that .* was trained with.*imitate again"):
        load_agent(folder)


def test_fingerprint_sees_a_single_weight_and_survives_a_round_trip(tmp_path):
    world_model = pong_model()
    before = fingerprint(world_model)
    checkpoint.save(world_model, tmp_path)
    assert fingerprint(checkpoint.load(tmp_path)) == before
    with torch.no_grad():
        next(world_model.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(world_model) != before


def test_missing_world_model_says_where_it_was_looked_for(saved):
    _, folder = saved
    shutil.rmtree(folder.parent / "wm")
    with pytest.raises(CheckpointError, match=r"world model \.\./wm, which is not there .*pass wm="):
        load_agent(folder)


def test_folder_without_an_agent_and_cut_weights_are_named(saved):
    _, folder = saved
    with pytest.raises(CheckpointError, match=r"wm is not an agent: config.json or policy.safetensors is missing"):
        load_agent(folder.parent / "wm")
    weights = folder / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        load_agent(folder)


def test_agent_of_a_newer_version_is_refused(saved):
    _, folder = saved
    config = checkpoint.read_json(folder / "config.json")
    checkpoint.write_json(folder / "config.json", {**config, "format": 99})
    with pytest.raises(CheckpointError, match="newer dream-env"):
        load_agent(folder)


def test_snapshot_is_the_same_policy_with_other_weights(saved, tmp_path):
    agent, folder = saved
    checkpoint.write_tensors(tmp_path / "snapshot.safetensors", {"weight": agent.policy.state_dict()["weight"] + 1.0})
    policy = load_policy(folder, tmp_path / "snapshot.safetensors")
    torch.testing.assert_close(policy.state_dict()["weight"], agent.policy.state_dict()["weight"] + 1.0)


def test_wrapper_is_a_gymnasium_wrapper_with_the_dreams_observation_space():
    world_model = pong_model()
    env = LatentObservation(short_pong(), world_model)
    assert isinstance(env, gymnasium.Wrapper)
    assert env.observation_space.shape == (world_model.feat_size,)
    assert env.observation_space.contains(env.reset(seed=0)[0])
