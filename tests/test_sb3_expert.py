"""Agents of Stable-Baselines3 as experts: equal to SB3's own, and nothing unpickled."""

import os
import pickle
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium import spaces
from sb3_contrib import TRPO, RecurrentPPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from dream_env.dream.sb3_view import AtariView
from dream_env.errors import ConfigError
from dream_env.experts.by_name import make_expert
from dream_env.experts.sb3_expert import SB3Expert, TrustedPolicy
from dream_env.experts.sb3_weights import WeightsPolicy
from dream_env.learning.sb3_normalize import Normalizer
from dream_env.real.environments import make_environment

WALKER = Path(__file__).parents[2] / "shared" / "data" / "experts" / "a2c-BipedalWalker-v3.zip"
"""An agent of gym's time from the RL Zoo; kept beside the checkout where there is one."""
SMALL: dict[str, Any] = {"net_arch": [8]}


class Screens(gymnasium.Env[np.ndarray, Any]):
    """What an Atari agent sees, of nothing."""

    observation_space = spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = spaces.Discrete(6)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize(
    ("algorithm", "env", "kwargs"),
    [
        ("PPO", "CartPole-v1", {}),
        ("A2C", "CartPole-v1", {"activation_fn": torch.nn.ReLU}),
        ("PPO", "Pendulum-v1", {"net_arch": {"pi": [8, 4], "vf": [3]}}),
        ("DQN", "CartPole-v1", {}),
        ("SAC", "Pendulum-v1", {}),
        ("SAC", "Pendulum-v1", {"net_arch": []}),
        ("SAC", "Pendulum-v1", {"use_sde": True}),  # whose mean action is clamped
        ("SAC", "Pendulum-v1", {"use_sde": True, "clip_mean": 0.5}),
        ("SAC", "Pendulum-v1", {"use_sde": True, "clip_mean": 0.0}),
        ("TD3", "Pendulum-v1", {}),
    ],
)
def test_actions_are_those_of_sb3(algorithm: str, env: str, kwargs: dict[str, Any], tmp_path: Path) -> None:
    options = {"buffer_size": 10} if algorithm in ("DQN", "SAC", "TD3") else {}
    if "use_sde" in kwargs:
        options |= {"use_sde": True}
    model = getattr(stable_baselines3, algorithm)(
        "MlpPolicy", env, seed=1, policy_kwargs={**SMALL, **kwargs}, **options
    )
    with torch.no_grad():
        for parameter in model.policy.parameters():  # far from where they start, so that actions differ and saturate
            parameter.add_(0.5 * torch.randn_like(parameter))
    model.save(tmp_path / "agent.zip")
    expert = SB3Expert(str(tmp_path / "agent.zip"), deterministic=True)
    real = gymnasium.make(env)
    expert.reset(real, 0)
    real.observation_space.seed(0)
    seen = [np.clip(real.observation_space.sample(), -3, 3) for _ in range(20)]
    expected = [model.predict(x, deterministic=True)[0] for x in seen]
    np.testing.assert_allclose([expert(x) for x in seen], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "kwargs"),
    [
        ("PPO", {}),
        ("SAC", {}),
        ("PPO", {"use_sde": True, "full_std": False}),
        ("PPO", {"use_sde": True, "use_expln": True}),
        ("SAC", {"use_sde": True}),
    ],
)
def test_continuous_actions_are_sampled_with_the_policys_own_noise(
    algorithm: str, kwargs: dict[str, Any], tmp_path: Path
) -> None:
    options = {"buffer_size": 10} if algorithm == "SAC" else {"n_steps": 8, "batch_size": 8}
    gsde = bool(kwargs.get("use_sde"))
    kwargs = {name: value for name, value in kwargs.items() if name != "use_sde"}
    model: Any = getattr(stable_baselines3, algorithm)(
        "MlpPolicy", "Pendulum-v1", seed=1, use_sde=gsde, policy_kwargs={**SMALL, **kwargs}, **options
    )
    actor = model.actor if algorithm == "SAC" else model.policy
    with torch.no_grad():
        for name, parameter in actor.named_parameters():
            if name.startswith("log_std"):  # some above 0, where expln is another; a small noise, away from the bounds
                parameter.add_(0.3 * torch.randn_like(parameter) if gsde else -2.0)
        if gsde:
            actor.log_std.fill_(-2.0)
            actor.log_std[0] = 0.3 if kwargs.get("use_expln") else -1.0
    model.save(tmp_path / "agent.zip")
    seen = np.array([0.5, -0.5, 0.2], np.float32)
    with torch.no_grad():
        tensor = torch.as_tensor(seen).unsqueeze(0)
        if algorithm == "SAC":
            mean, log_std, latent = actor.get_action_dist_params(tensor)
            distribution = actor.action_dist.proba_distribution(mean, log_std, **latent).distribution
        else:
            distribution = actor.get_distribution(tensor).distribution
    real = gymnasium.make("Pendulum-v1")
    expert = SB3Expert(str(tmp_path / "agent.zip"), deterministic=False)

    def played(count: int) -> np.ndarray:
        actions = []
        for game in range(count if gsde else 1):  # gSDE's noise is that of a game
            expert.reset(real, game)
            actions += [expert(seen) for _ in range(1 if gsde else count)]
        return np.array(actions)

    actions = played(3000)
    assert all(real.action_space.contains(action) for action in actions)
    np.testing.assert_array_equal(played(20), actions[:20])  # as the seed has it
    drawn = np.arctanh(actions / 2.0) if algorithm == "SAC" else actions
    std = float(distribution.stddev)
    assert abs(drawn.mean() - float(distribution.mean)) < 0.1 * std
    assert drawn.std() == pytest.approx(std, rel=0.06)


def test_gsdes_noise_is_one_function_of_what_is_seen_for_a_whole_game(tmp_path: Path) -> None:
    stable_baselines3.PPO("MlpPolicy", "Pendulum-v1", use_sde=True, n_steps=8, batch_size=8).save(
        tmp_path / "agent.zip"
    )
    real = gymnasium.make("Pendulum-v1")
    expert = SB3Expert(str(tmp_path / "agent.zip"), deterministic=False)
    seen = np.array([0.5, -0.5, 0.2], np.float32)
    games = []
    for seed in (0, 1):
        expert.reset(real, seed)
        games.append([float(expert(seen)[0]) for _ in range(3)])
    assert [len(set(game)) for game in games] == [1, 1]
    assert games[0] != games[1]


def test_policies_without_noise_are_asked_for_it_as_in_sb3(tmp_path: Path) -> None:
    stable_baselines3.TD3("MlpPolicy", "Pendulum-v1", policy_kwargs=SMALL, buffer_size=10).save(tmp_path / "td3.zip")
    real = gymnasium.make("Pendulum-v1")
    real.reset(seed=0)
    seen = np.array([0.5, -0.5, 0.2], np.float32)
    actions = []
    for deterministic in (False, True):
        expert = SB3Expert(str(tmp_path / "td3.zip"), deterministic=deterministic)
        expert.reset(real, 0)
        actions.append(expert(seen))
    np.testing.assert_array_equal(*actions)

    one = gymnasium.make("CartPole-v1")
    dqn = stable_baselines3.DQN("MlpPolicy", one, policy_kwargs=SMALL, buffer_size=10)
    dqn.exploration_rate = 0.5
    dqn.save(tmp_path / "dqn.zip")
    expert = SB3Expert(str(tmp_path / "dqn.zip"), deterministic=False)
    games = []
    for _ in range(2):
        expert.reset(one, 0)
        games.append([expert(np.zeros(4, np.float32)) for _ in range(400)])
    assert games[0] == games[1]
    best = int(dqn.predict(np.zeros(4, np.float32), deterministic=True)[0])
    assert np.mean(np.array(games[0]) == best) == pytest.approx(0.75, abs=0.08)

    stable_baselines3.PPO("MlpPolicy", "CartPole-v1", policy_kwargs=SMALL).save(tmp_path / "ppo.zip")
    policy = WeightsPolicy.read(tmp_path / "ppo.zip")
    box = spaces.Box(-1.0, 1.0, (2,))
    with pytest.raises(
        ConfigError, match=r"hold no noise \(log_std\) to sample actions of Box\(.*made for discrete actions"
    ):
        policy.act(np.zeros(4, np.float32), box, False, torch.Generator())


def test_noise_of_a_form_of_its_own_asks_for_trust(tmp_path: Path) -> None:
    model = stable_baselines3.PPO("MlpPolicy", "Pendulum-v1", policy_kwargs=SMALL, n_steps=8, batch_size=8)
    model.policy.log_std = torch.nn.Parameter(torch.zeros(3))
    model.save(tmp_path / "agent.zip")
    with pytest.raises(ConfigError, match=r"its noise has the shape \(3,\), which is none of SB3's.*--trust"):
        SB3Expert(str(tmp_path / "agent.zip"))


def test_pictures_go_through_sb3s_convolutions(tmp_path: Path) -> None:
    model = stable_baselines3.PPO("CnnPolicy", Screens(), seed=0, n_steps=8, batch_size=8)
    model.save(tmp_path / "agent.zip")
    policy = WeightsPolicy.read(tmp_path / "agent.zip")
    assert policy.channels == 4
    screen = Screens.observation_space.sample()
    tensor = torch.as_tensor(screen).permute(2, 0, 1).unsqueeze(0)
    with torch.no_grad():
        distribution: Any = model.policy.get_distribution(tensor).distribution
        expected = distribution.logits.softmax(-1)
        found = policy.head(policy.features(tensor.float() / 255.0)).softmax(-1)
    torch.testing.assert_close(found, expected)

    env = make_environment("pong", max_steps=30)
    observation, _ = env.reset(seed=0)
    expert: Any = make_expert(str(tmp_path / "agent.zip"), "pong")
    expert.reset(env, 0)
    actions = []
    for _ in range(20):
        actions.append(expert(observation))
        observation, *_ = env.step(actions[-1])
        assert observation.shape == (64, 64, 1)
    assert actions[:2] == [1, 2], "FIRE as in SB3's training"
    assert len(set(actions)) > 2, "sampled"


def test_the_agents_view_is_the_screen_and_its_past() -> None:
    env = make_environment("breakout")
    env.reset(seed=0)
    view = AtariView(env, 3)
    assert [view.serve(), view.serve(), view.serve()] == [1, 2, None]
    first = view.frames().copy()
    assert first.shape == (84, 84, 3)
    assert first[..., :2].max() == 0
    env.step(1)
    second = view.frames()
    np.testing.assert_array_equal(second[..., 1], first[..., 2])


def test_each_life_begins_with_the_agents_own_action_where_the_environment_serves(tmp_path: Path) -> None:
    left = 3
    screens = Screens()
    screens.action_space = spaces.Discrete(4)
    model = stable_baselines3.PPO("CnnPolicy", screens, n_steps=8, batch_size=8)
    with torch.no_grad():
        model.policy.action_net.bias[left] = 1e3
    model.save(tmp_path / "agent.zip")
    lives: dict[bool, list[list[int]]] = {}
    for fire in (False, True):
        env = make_environment("breakout", fire=fire)
        expert: Any = make_expert(str(tmp_path / "agent.zip"), "breakout")
        observation, _ = env.reset(seed=0)
        expert.reset(env, 0)
        lives[fire] = [[] for _ in range(6)]
        over = False
        while not over:
            left_over = env.unwrapped.ale.lives()  # type: ignore[attr-defined]
            lives[fire][left_over].append(expert(observation))
            observation, _, over, *_ = env.step(lives[fire][left_over][-1])
    assert all(actions[:2] == [1, 2] and set(actions[2:]) == {left} for actions in lives[False][1:]), (
        "SB3's training did"
    )
    assert all(set(actions) == {left} for actions in lives[True][1:]), "PressFire has pressed it already"


def test_a_lost_life_is_forgotten_by_the_view_whoever_serves() -> None:
    for fire in (False, True):
        env = make_environment("breakout", fire=fire)
        env.reset(seed=0)
        view = AtariView(env, 3)
        assert view.serve() == (None if fire else 1)
        for _ in range(200):
            view.frames()
            env.step(1)
            if env.unwrapped.ale.lives() < 5:  # type: ignore[attr-defined]
                break
        else:
            raise AssertionError("no life was lost")
        view.serve()
        assert view.frames()[..., :2].max() == 0


def test_an_agent_for_pictures_needs_atari(tmp_path: Path) -> None:
    stable_baselines3.PPO("CnnPolicy", Screens(), n_steps=8, batch_size=8).save(tmp_path / "agent.zip")
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(ConfigError, match="made for 6 actions, but the environment takes Discrete"):
        SB3Expert(str(tmp_path / "agent.zip")).reset(env, 0)


@pytest.mark.skipif(not WALKER.exists(), reason=f"the RL Zoo's agent is not at {WALKER}")
def test_an_agent_of_gyms_time_plays_as_well_as_it_did() -> None:
    pytest.importorskip("Box2D")
    env = gymnasium.make("BipedalWalker-v3")
    expert = SB3Expert(str(WALKER))
    observation, _ = env.reset(seed=0)
    expert.reset(env, 0)
    score, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(expert(observation))
        score += float(reward)
        over = terminated or truncated
    assert score > 290


def test_normalisation_is_that_of_vecnormalize(tmp_path: Path) -> None:
    envs = VecNormalize(DummyVecEnv([lambda: gymnasium.make("Pendulum-v1")]), clip_obs=1.5)
    envs.reset()
    for _ in range(50):
        envs.step(np.array([[1.0]], np.float32))
    envs.save(str(tmp_path / "vec_normalize.pkl"))
    normalizer = Normalizer.beside(tmp_path / "agent.zip")
    for observation in np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32):
        np.testing.assert_allclose(normalizer(observation), np.asarray(envs.normalize_obs(observation)), rtol=1e-6)


class _Mischief:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_code_in_a_pickle_of_statistics_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "vec_normalize.pkl").write_bytes(pickle.dumps(_Mischief(tmp_path / "ran")))
    with pytest.raises(ConfigError, match="holds no statistics"):
        Normalizer.beside(tmp_path / "agent.zip")
    assert not (tmp_path / "ran").exists()


def test_a_recurrent_agent_asks_for_trust_and_then_plays(tmp_path: Path) -> None:
    path = tmp_path / "recurrentppo-CartPole-v1.zip"
    kwargs = {**SMALL, "lstm_hidden_size": 4}
    RecurrentPPO("MlpLstmPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs=kwargs).save(path)
    with pytest.raises(ConfigError, match=r"it is recurrent.*runs any code.*--trust"):
        SB3Expert(str(path))
    expert = SB3Expert(str(path), trust=True)
    assert isinstance(expert.policy, TrustedPolicy)
    env = gymnasium.make("CartPole-v1")
    games = []
    for _ in range(2):
        observation, _ = env.reset(seed=0)
        expert.reset(env, 0)
        actions = []
        for _ in range(8):
            actions.append(expert(observation))
            observation, *_ = env.step(actions[-1])
        games.append(actions)
    assert games[0] == games[1], "state and chance begin anew with each game"


def test_a_hub_id_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TRPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8, policy_kwargs=SMALL).save(
        tmp_path / "trpo-CartPole-v1.zip"
    )
    asked = []

    def download(repository: str, name: str) -> str:
        from huggingface_hub.errors import EntryNotFoundError

        asked.append((repository, name))
        if name.endswith(".pkl"):
            raise EntryNotFoundError("not there")
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    expert = make_expert("sb3/trpo-CartPole-v1", "CartPole-v1")
    assert isinstance(expert, SB3Expert)
    assert asked == [("sb3/trpo-CartPole-v1", "trpo-CartPole-v1.zip"), ("sb3/trpo-CartPole-v1", "vec_normalize.pkl")]


def test_a_hub_without_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repository: str, name: str) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    with pytest.raises(ConfigError, match=r"could not download .* \(ConnectionError: no network\).*must end in .zip"):
        make_expert("sb3/ppo-Nothing-v0", "pong")


def test_files_that_are_no_agents_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no file .*nothing.zip"):
        SB3Expert(str(tmp_path / "nothing.zip"))
    (tmp_path / "broken.zip").write_bytes(b"half a file")
    with pytest.raises(ConfigError, match=r"broken.zip is not an agent saved by Stable-Baselines3"):
        SB3Expert(str(tmp_path / "broken.zip"))


def test_observations_of_another_size_are_refused(tmp_path: Path) -> None:
    stable_baselines3.PPO("MlpPolicy", "CartPole-v1", n_steps=8, batch_size=8).save(tmp_path / "agent.zip")
    expert = SB3Expert(str(tmp_path / "agent.zip"))
    expert.reset(gymnasium.make("CartPole-v1"), 0)
    with pytest.raises(ConfigError, match=r"made for observations of 4 numbers, but saw an array of shape \(3,\)"):
        expert(np.zeros(3, np.float32))


def test_the_network_runs_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ppo-CartPole-v1.zip"
    stable_baselines3.PPO("MlpPolicy", "CartPole-v1", device="cpu").save(path)
    moved: list[str] = []
    monkeypatch.setattr(WeightsPolicy, "to", lambda self, device: moved.append(device) or self)
    make_expert(str(path), "CartPole-v1", device="meta")
    assert moved == ["meta"]
