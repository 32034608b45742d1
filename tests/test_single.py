"""One dream: Gymnasium's and Stable-Baselines3's checkers, videos, playing."""

import os

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Discrete
from gymnasium.utils.env_checker import check_env

from dream_env import checkpoint
from dream_env.dream.registration import register_dreams
from dream_env.dream.single import SingleDream
from dream_env.errors import ConfigError
from dream_env.model.encoded import save_encoded
from dream_env.testing import tiny_expert, tiny_world_model

register_dreams()


def save(folder, **options):
    world_model = tiny_world_model(**options)
    checkpoint.save(world_model, folder)
    save_encoded(tiny_expert(world_model), folder, "train")
    return str(folder)


@pytest.fixture(scope="module")
def pong(tmp_path_factory):
    return save(tmp_path_factory.mktemp("pong"), action_space=Discrete(6))


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    return save(tmp_path_factory.mktemp("robot"), action_space=Box(-1.0, 1.0, (3,)), environment="")


@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_gymnasium_s_checker_passes_without_a_warning(pong, render_mode):
    check_env(gymnasium.make("Dream-Pong-v0", wm=pong, render_mode=render_mode).unwrapped)


def test_gymnasium_s_checker_passes_with_box_actions(robot):
    check_env(gymnasium.make("Dream-v0", wm=robot).unwrapped)


@pytest.mark.parametrize("kind", ["pong", "robot"])
def test_stable_baselines_checker_passes_without_a_warning(kind, request):
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    env = gymnasium.make("Dream-v0", wm=request.getfixturevalue(kind), render_mode="rgb_array")
    sb3_check_env(env.unwrapped, warn=True, skip_render_check=False)


def test_a_single_dream_is_a_vector_of_one(pong):
    single = gymnasium.make("Dream-Pong-v0", wm=pong)
    vector = gymnasium.make_vec("Dream-Pong-v0", num_envs=1, wm=pong)
    np.testing.assert_array_equal(single.reset(seed=9)[0], vector.reset(seed=9)[0][0])
    for action in (0, 3, 5):
        obs, reward, terminated, truncated, _ = single.step(action)
        batch = vector.step(np.array([action]))
        np.testing.assert_array_equal(obs, batch[0][0])
        assert (reward, terminated, truncated) == (batch[1][0], batch[2][0], batch[3][0])
        assert type(reward) is float
        assert type(terminated) is type(truncated) is bool


def test_a_dream_is_truncated_at_its_horizon_and_then_wants_a_reset(pong):
    env = gymnasium.make("Dream-Pong-v0", wm=pong, horizon=4)
    env.reset(seed=0)
    assert [env.step(0)[3] for _ in range(4)] == [False, False, False, True]
    with pytest.raises(ResetNeeded):
        env.step(0)
    env.reset()
    env.step(0)


def test_a_single_dream_can_start_at_a_given_expert_row(pong):
    env = gymnasium.make("Dream-Pong-v0", wm=pong, horizon=4)
    expert = env.unwrapped.dream.expert
    obs, _ = env.reset(options={"row": 7})
    np.testing.assert_array_equal(obs, expert.latents(expert.windows(4)[7:8]).feat[0].numpy())
    with pytest.raises(ConfigError, match=r'no option \'rows\'. Did you mean "row"\?'):
        env.reset(options={"rows": 7})


def test_record_video_records_a_dream(pong, tmp_path):
    pytest.importorskip("moviepy", reason="RecordVideo needs moviepy")
    env = gymnasium.make("Dream-Pong-v0", wm=pong, render_mode="rgb_array", render_scale=2, horizon=6)
    env = gymnasium.wrappers.RecordVideo(env, str(tmp_path / "videos"), episode_trigger=lambda episode: True)
    env.reset(seed=0)
    truncated = False
    while not truncated:
        truncated = env.step(env.action_space.sample())[3]
    env.close()
    (video,) = (tmp_path / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000
    reader = cv2.VideoCapture(str(video))
    frames = [frame for good, frame in iter(reader.read, (False, None)) if good]
    reader.release()
    assert len(frames) >= 6
    assert frames[0].shape == (32, 32, 3)


def test_a_dream_can_be_played(pong, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    pygame = pytest.importorskip("pygame", reason="playing needs pygame")
    from gymnasium.utils.play import play

    env = gymnasium.make("Dream-Pong-v0", wm=pong, render_mode="rgb_array", horizon=3)
    seen = []

    def watch(obs_t, obs_tp1, action, reward, terminated, truncated, info):
        seen.append((action, truncated))
        pygame.event.post(pygame.event.Event(pygame.KEYDOWN, key=pygame.K_d))
        if len(seen) == 5:
            pygame.event.post(pygame.event.Event(pygame.QUIT))

    play(env, callback=watch, fps=1000, zoom=4, noop=0, seed=0)
    assert [truncated for _, truncated in seen] == [False, False, True, False, False]
    assert seen[0][0] == 0
    assert seen[-1][0] == 2  # Pong's "right" lies on d, as in the real game
    assert "SDL_VIDEODRIVER" in os.environ


def test_an_environment_without_keys_says_what_to_pass_to_play():
    world_model = tiny_world_model(environment="CartPole-v1")
    env = SingleDream(wm=world_model, expert=tiny_expert(world_model))
    with pytest.raises(ConfigError, match=r"CartPole-v1 has no keys of its own; give play\(\) keys_to_action"):
        env.get_keys_to_action()
