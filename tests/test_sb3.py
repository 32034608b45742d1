import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecFrameStack, VecMonitor, VecNormalize, VecVideoRecorder

from dream_env.dream.env import RENDER_FPS, DreamEnv
from dream_env.errors import ConfigError
from dream_env.learning.sb3 import BootstrapTogether, StandardizedReward, as_sb3
from dream_env.testing import tiny_expert, tiny_world_model


def dream(num_envs: int = 4, **options) -> DreamEnv:
    world_model = tiny_world_model()
    return DreamEnv(num_envs, wm=world_model, expert=tiny_expert(world_model), horizon=5, **options)


def test_sb3_trains_on_dreams():
    model = PPO("MlpPolicy", as_sb3(dream()), n_steps=10, batch_size=20, n_epochs=1, device="cpu")
    model.learn(80)
    assert model.num_timesteps == 80
    assert len(model.ep_info_buffer) == 16  # statistics come without a Monitor


class Reach(gymnasium.Env):
    """Shows its step as a picture, a vector and a number, and is over after ``length`` steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012 (Gymnasium declares it so)
    render_mode = None
    observation_space = spaces.Dict(
        picture=spaces.Box(0, 255, (36, 36, 3), np.uint8), state=spaces.Box(0, 9, (2,)), place=Discrete(9)
    )
    action_space = Discrete(2)

    def __init__(self, length):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation(), {"begun": True}

    def observation(self):
        picture, state = np.full((36, 36, 3), self.steps, np.uint8), np.full(2, self.steps, np.float32)
        return {"picture": picture, "state": state, "place": self.steps}

    def step(self, action):
        self.steps += 1
        over = self.steps == self.length
        info = {"steps": self.steps, "by": {"hand": 0.5 * self.steps}, "path": np.arange(2) + self.steps}
        if over:
            info |= {"is_success": self.length == 2, "episode": "not SB3's", "why": "the end"}
        return self.observation(), 1.0, False, over, info


def reaching(*lengths):
    return as_sb3(SyncVectorEnv([lambda n=n: Reach(n) for n in lengths], autoreset_mode=AutoresetMode.SAME_STEP))


def test_dictionaries_reach_sb3_as_dictionaries_of_arrays():
    venv = reaching(2, 3)
    assert {name: array.shape for name, array in venv.reset().items()} == {
        "picture": (2, 36, 36, 3),
        "state": (2, 2),
        "place": (2,),
    }
    venv.step(np.zeros(2, dtype=np.int64))
    obs, _, dones, infos = venv.step(np.zeros(2, dtype=np.int64))
    assert dones.tolist() == [True, False]
    np.testing.assert_array_equal(obs["state"], [[0, 0], [2, 2]])
    last = infos[0]["terminal_observation"]
    assert (last["picture"].shape, last["state"].tolist(), last["place"]) == ((36, 36, 3), [2, 2], 2)
    assert "terminal_observation" not in infos[1]


def test_what_a_sub_environment_says_of_a_step_is_in_its_info():
    venv = reaching(2, 3)
    venv.reset()
    venv.step(np.zeros(2, dtype=np.int64))
    ended, running = venv.step(np.zeros(2, dtype=np.int64))[3]
    assert (ended["is_success"], ended["why"], ended["steps"], ended["by"]) == (True, "the end", 2, {"hand": 1.0})
    assert ended["path"].tolist() == [2, 3]
    assert ended["episode"] == {"r": 2.0, "l": 2, "t": 0.0}
    assert ended["TimeLimit.truncated"] is True
    assert (running["steps"], running["by"], running["path"].tolist()) == (2, {"hand": 1.0}, [2, 3])
    assert running.keys() == {"steps", "by", "path"}


def test_sb3_trains_on_dictionaries_the_same_with_and_without_bootstrapping_together():
    learned = []
    for callback in (None, BootstrapTogether()):
        model = PPO("MultiInputPolicy", reaching(2, 3), n_steps=6, batch_size=6, n_epochs=1, seed=0, device="cpu")
        learned.append(model.learn(24, callback=callback).policy.state_dict())
        assert model.ep_success_buffer.count(True) == 6
    for name, tensor in learned[0].items():
        torch.testing.assert_close(tensor, learned[1][name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(5),
        spaces.Tuple([Discrete(2)]),
        spaces.Dict(a=spaces.Dict(b=Discrete(2))),
        spaces.Dict(a=Discrete(2, start=1)),
    ],
)
def test_observations_that_sb3_does_not_take_are_refused(space):
    class Odd(Reach):
        observation_space = space

    with pytest.raises(ConfigError, match=r"takes observations of Box.* but these sub-environments show .*; wrap each"):
        as_sb3(SyncVectorEnv([lambda: Odd(2)], autoreset_mode=AutoresetMode.SAME_STEP))


def test_other_wrappers_of_sb3_find_what_they_look_for():
    venv = VecMonitor(as_sb3(dream()))
    venv.reset()
    for _ in range(5):
        _, _, dones, infos = venv.step(np.zeros(4, dtype=np.int64))
    assert dones.all()
    assert infos[0]["episode"]["l"] == 5


def test_the_end_of_a_dream_is_reported_as_sb3_expects():
    envs, venv = dream(), as_sb3(dream())
    envs.reset(seed=3)
    venv.seed(3)
    venv.reset()
    for step in range(5):
        action = np.full(4, step % 3)
        obs, reward, terminated, truncated, infos = envs.step(action)
        sb3_obs, sb3_reward, sb3_dones, sb3_infos = venv.step(action)
        np.testing.assert_array_equal(obs, sb3_obs)
        np.testing.assert_allclose(reward, sb3_reward, rtol=1e-6)
        np.testing.assert_array_equal(np.logical_or(terminated, truncated), sb3_dones)
    for i in range(4):
        np.testing.assert_array_equal(infos["final_obs"][i], sb3_infos[i]["terminal_observation"])
        assert sb3_infos[i]["TimeLimit.truncated"] is True
        assert sb3_infos[i]["episode"]["l"] == 5


@pytest.mark.parametrize("wrap", [lambda venv: venv, VecMonitor, VecNormalize, lambda venv: VecFrameStack(venv, 2)])
def test_bootstrapping_together_learns_what_sb3_learns_by_itself(wrap):
    learned, batches = [], []
    for callback in (None, BootstrapTogether()):
        model = PPO("MlpPolicy", wrap(as_sb3(dream())), n_steps=10, batch_size=20, n_epochs=2, seed=0, device="cpu")
        original = model.policy.predict_values
        seen: list[int] = []
        model.policy.predict_values = lambda obs, original=original, seen=seen: seen.append(len(obs)) or original(obs)
        model.learn(120, callback=callback)
        learned.append(model.policy.state_dict())
        batches.append(seen)
    for name, tensor in learned[0].items():
        torch.testing.assert_close(tensor, learned[1][name], atol=1e-5, rtol=1e-4)
    # Six ends of all four dreams, and the value after each of the three rollouts.
    assert sorted(batches[0]) == [1] * 24 + [4] * 3
    assert batches[1] == [4] * 9


def test_learning_that_is_broken_off_leaves_no_bootstrap_behind():
    class CtrlC(BaseCallback):
        def _on_step(self):
            raise KeyboardInterrupt

    venv, fresh = as_sb3(dream()), as_sb3(dream())
    model = PPO("MlpPolicy", venv, n_steps=10, batch_size=20, n_epochs=1, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        model.learn(80, callback=[BootstrapTogether(), CtrlC()])
    for one in (venv, fresh):
        one.seed(0)
        one.reset()
    for _ in range(5):
        _, reward, _, infos = venv.step(np.ones(4, dtype=np.int64))
        expected = fresh.step(np.ones(4, dtype=np.int64))[1]
    np.testing.assert_array_equal(reward, expected)
    assert all(info["TimeLimit.truncated"] for info in infos)


def test_bootstrapping_together_is_refused_where_it_would_be_wrong():
    def learn(algorithm, policy, venv):
        algorithm(policy, venv, n_steps=10, batch_size=10, device="cpu").learn(10, callback=BootstrapTogether())

    with pytest.raises(ConfigError, match=r"for dream_env\.as_sb3\(\.\.\.\); this algorithm learns in a DummyVecEnv"):
        learn(PPO, "MlpPolicy", make_vec_env("CartPole-v1"))
    with pytest.raises(ConfigError, match="which RecurrentPPO does not have"):
        learn(RecurrentPPO, "MlpLstmPolicy", as_sb3(dream()))


def test_standardised_rewards_have_mean_zero_and_one_size_at_every_step():
    venv = StandardizedReward(as_sb3(dream(256)), horizon=5)
    venv.seed(0)
    venv.reset()
    rng = np.random.default_rng(0)
    rewards = np.array([[venv.step(rng.integers(3, size=256))[1] for _ in range(5)] for _ in range(20)])
    np.testing.assert_allclose(rewards[5:].mean(axis=(0, 2)), 0.0, atol=0.1 * venv.SCALE)
    np.testing.assert_allclose(rewards[5:].std(axis=(0, 2)), venv.SCALE, rtol=0.1)


def test_standardised_rewards_keep_plain_episode_statistics():
    plain, venv = as_sb3(dream()), StandardizedReward(as_sb3(dream()), horizon=5)
    for one in (plain, venv):
        one.seed(1)
        one.reset()
    for _ in range(5):
        infos = plain.step(np.zeros(4, dtype=np.int64))[3]
        standardised = venv.step(np.zeros(4, dtype=np.int64))[3]
    assert [info["episode"]["r"] for info in infos] == [info["episode"]["r"] for info in standardised]


def test_the_state_of_the_statistics_can_be_put_back():
    one, other = (StandardizedReward(as_sb3(dream()), horizon=5) for _ in range(2))
    one.seed(0)
    one.reset()
    for _ in range(7):
        one.step(np.zeros(4, dtype=np.int64))
    other.reset()
    other.load_state_dict(one.state_dict())
    other.dream.envs.load_state_dict(one.dream.envs.state_dict())
    for a, b in zip(one.step(np.ones(4, dtype=np.int64))[:3], other.step(np.ones(4, dtype=np.int64))[:3], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused(mode):
    with pytest.raises(
        ConfigError, match=r"needs sub-environments that reset in the same step.*autoreset_mode='SameStep'"
    ):
        as_sb3(dream(autoreset_mode=mode))


def test_dreams_that_give_tensors_are_refused():
    with pytest.raises(ConfigError, match=r'needs arrays, but these .* give tensors; make them with output="numpy"'):
        as_sb3(dream(output="torch"))


def test_actions_that_do_not_start_at_zero_do_for_sb3_and_are_the_dreams_own():
    world_model = tiny_world_model(action_space=Discrete(3, start=5))
    envs, wrapped = (DreamEnv(4, wm=world_model, expert=tiny_expert(world_model), horizon=5) for _ in range(2))
    venv = as_sb3(wrapped)
    assert venv.action_space == Discrete(3)
    envs.reset(seed=3)
    venv.seed(3)
    venv.reset()
    action = np.array([0, 1, 2, 0])
    np.testing.assert_array_equal(envs.step(action + 5)[0], venv.step(action)[0])
    np.testing.assert_array_equal(action, [0, 1, 2, 0])  # SB3 keeps them in its buffer


def test_one_sub_environment_cannot_be_set_by_itself():
    venv = as_sb3(dream())
    with pytest.raises(ConfigError, match="only be set for all"):
        venv.set_attr("horizon", 3, indices=[0])
    assert venv.get_attr("horizon") == [5] * 4
    assert venv.env_method("state_dict", indices=[0, 1])[1].keys() == venv.envs.state_dict().keys()
    assert venv.env_is_wrapped(VecMonitor) == [False] * 4


def test_frames_come_through():
    assert as_sb3(dream(render_mode="rgb_array")).get_images()[0].shape == (16, 16, 3)


def test_videos_are_of_the_dream_s_own_speed(tmp_path):
    pytest.importorskip("moviepy", reason="VecVideoRecorder needs moviepy")
    venv = VecVideoRecorder(as_sb3(dream(render_mode="rgb_array")), str(tmp_path), lambda step: False)
    assert venv.frames_per_sec == RENDER_FPS
    assert venv.metadata["render_modes"] == ["human", "rgb_array"]
    assert reaching(2).metadata["render_fps"] == 7


def test_torch_tensors_of_the_dream_reach_sb3_as_arrays():
    venv = as_sb3(dream())
    assert isinstance(venv.reset(), np.ndarray)
    assert not isinstance(venv.reset(), torch.Tensor)
