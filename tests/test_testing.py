"""The examiners find what is broken, and let pass what is not."""

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper

from dream_env.dream.env import DreamEnv
from dream_env.errors import PluginError
from dream_env.plugin import Learner, Policy, Reward, available
from dream_env.testing import check_dream_env, check_learner, check_reward, tiny_demos, tiny_expert, tiny_world_model

# --- rewards


@pytest.mark.parametrize("name", sorted(available("rewards")))
def test_every_installed_reward_keeps_the_contract(name):
    check_reward(name)


@dataclass
class Learning(Reward):
    """A learning reward that keeps the contract, and the ways to break it."""

    broken: str = ""

    @property
    def bounds(self):
        return (1.0, 0.0) if self.broken == "bounds order" else (0.0, 1.0)

    def prepare(self, world_model, expert):
        self.level = torch.tensor(0.25)
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, transition):
        good = self.level + 0.1 * transition.latent_tp1.deter[:, 0]
        if self.broken == "position, once it learned" and self.level > 0.25:
            return good.flip(0)
        if self.broken == "mutates":
            transition.latent_t.deter.zero_()
        return {
            "shape": good.unsqueeze(1),
            "type": good.long(),
            "list": good.tolist(),
            "nan": good / 0.0 * 0.0,
            "outside": good + 1.0,
            "random": torch.rand(len(good), generator=self.generator),
            "position": torch.arange(len(good)) / len(good),
            "neighbours": transition.latent_tp1.deter[:, 0].softmax(0),
        }.get(self.broken, good)

    def update(self, rollout):
        self.level = self.level + 0.05
        if self.broken == "update mutates":
            rollout.latent.deter.zero_()
        return {"level": float("nan")} if self.broken == "metric" else {"level": float(self.level)}

    def state_dict(self):
        return {"level": 0.3 if self.broken == "state type" else self.level}

    def load_state_dict(self, state):
        if self.broken != "state":
            self.level = state["level"].clone()


def test_a_good_learning_reward_passes():
    check_reward(Learning())
    check_reward(f"{__name__}:Learning")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("bounds order", r"reward 'learning': bounds are \(smallest, largest\)"),
        ("shape", r"reward 'learning' has shape \(6, 1\); expected \(6,\)"),
        ("type", "reward 'learning' is of torch.int64"),
        ("list", "reward 'learning' returned list; expected a tensor"),
        ("nan", "reward 'learning' is not finite"),
        ("outside", r"reward 'learning' leaves its bounds \(0.0, 1.0\)"),
        ("mutates", "reward 'learning' changed the transition"),
        ("random", "reward 'learning' gives other numbers for the same transition"),
        ("position", "reward 'learning': permuting dreams does not permute rewards"),
        ("position, once it learned", "reward 'learning': permuting dreams does not permute rewards"),
        ("neighbours", "reward 'learning' of one dream depends on the dreams beside it"),
        ("update mutates", "reward 'learning': update changed the rollout"),
        ("metric", "reward 'learning': update's metric 'level' is nan"),
        ("state type", r"reward 'learning': state_dict\(\)\['level'\] is float"),
        ("state", r"reward 'learning': a twin given state_dict\(\) rewards the same transition differently"),
    ],
)
def test_check_reward_names_the_broken_promise(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_reward(Learning(broken))


def test_check_reward_wants_options_that_go_through_json():
    @dataclass
    class Odd(Learning):
        where: Any = torch.zeros(1)  # noqa: RUF009 (what is tested)

    with pytest.raises(AssertionError, match="reward 'odd': an option does not go through JSON"):
        check_reward(Odd())


def test_a_name_that_is_nobody_s_is_a_plugin_error():
    with pytest.raises(PluginError, match="no reward named 'nobody'"):
        check_reward("nobody")
    with pytest.raises(PluginError, match="no learner named 'nobody'"):
        check_learner("nobody")


# --- learners

SMALL: dict[str, dict[str, Any]] = {name: {"n_steps": 12} for name in ("a2c", "ppo", "recurrent-ppo", "trpo")}


SMALL |= {
    name: {"rows": 4, "warm_start_updates": 3, "hidden": (16,), "action_space": spaces.Box(-1.0, 1.0, (2,), np.float32)}
    for name in ("cmil", "vmail")
}
SMALL |= {"bc": {"batch": 48, "log_every": 2}, "dbc": {"batch": 48, "log_every": 2}}
ELSEWHERE = {"pdac"}  # learns nothing in a dream; tests/test_pdac.py examines it


@pytest.mark.parametrize("name", sorted(available("learners").keys() - ELSEWHERE))
def test_every_installed_learner_keeps_the_contract(name):
    check_learner(name, steps=288, **SMALL.get(name, {}))


class Linear(Policy):
    def __init__(self, weight):
        self.weight = weight

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.asarray(observation @ self.weight.numpy()).argmax(axis=1), state

    def config(self):
        return {"kind": "linear"}

    def state_dict(self):
        return {"weight": self.weight}


@dataclass
class HillClimbing(Learner):
    """A learner that keeps the contract, and the ways to break it."""

    broken: str = ""
    unlucky: ClassVar[int] = 0

    def learn(self, dream, steps, *, seed=0, progress=lambda *_: None, store=None):
        weight, best, done, obs = torch.zeros(48, 3), -np.inf, 0, None
        if (found := store.latest() if store and self.broken != "begins anew" else None) is not None:
            tensors = found[1]
            weight, done, best = tensors["weight"], found[0], float(tensors["best"])
            kept = {name[6:]: x for name, x in tensors.items() if name.startswith("dream.")}
            if self.broken == "forgets the reward":
                kept |= {name: torch.zeros_like(x) for name, x in kept.items() if "horizons" in name}
            dream.load_state_dict(kept)
            obs = tensors["obs"].numpy()
        if obs is None:
            obs = dream.reset(seed=seed)[0]
        while done < (steps // 2 if self.broken == "stops early" else steps):
            type(self).unlucky += 1
            lucky = seed + done if self.broken != "irreproducible" else self.unlucky
            candidate = weight + torch.randn(48, 3, generator=torch.Generator().manual_seed(lucky))
            rewards = []
            for _ in range(dream.horizon):
                obs, reward, *_ = dream.step(Linear(candidate).predict(obs)[0])
                rewards.append(reward.mean())
            done += dream.horizon * dream.num_envs
            if np.mean(rewards) > best:
                weight, best = candidate, float(np.mean(rewards))
            if store is not None and store.due() and self.broken != "forgets":
                tensors = {"weight": weight, "best": torch.tensor(best, dtype=torch.float64), "obs": torch.tensor(obs)}
                tensors |= {f"dream.{name}": x for name, x in dream.state_dict().items()}
                if self.broken == "half a state":
                    tensors["weight"] = torch.zeros(48, 3)
                store.save(done, tensors, {})
            if self.broken != "silent":
                progress(Linear(weight), {} if self.broken == "no steps" else {"steps": float(done), "best": best})
        if self.broken == "no policy":
            return None
        return {"wrong shape": WrongShape, "not json": NotJson}.get(self.broken, Linear)(weight)

    @classmethod
    def restore(cls, config, weights):
        assert config == {"kind": "linear"}
        return Linear(weights["weight"] if cls is HillClimbing else -weights["weight"])


class WrongShape(Linear):
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return super().predict(observation)[0][:, None], state


class NotJson(Linear):
    def config(self):
        return {"weight": self.weight}


@dataclass
class Forgetful(HillClimbing):
    """Restores another policy than was kept."""


def test_a_good_learner_passes():
    check_learner(HillClimbing(), steps=200)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("no policy", "learn returned NoneType, expected a Policy"),
        ("silent", "learner HillClimbing never called progress"),
        ("no steps", "progress got no 'steps'"),
        ("stops early", "stopped after 120 of 200 steps"),
        ("irreproducible", "the same seed gives other weights"),
        ("half a state", "interrupted and resumed has other weights"),
        ("forgets", "had kept nothing in its store"),
        ("begins anew", "and began anew at 40"),
        ("forgets the reward", "interrupted and resumed has other weights"),
        ("wrong shape", r"actions have shape \(5, 1\); expected \(5,\)"),
        ("not json", r"the policy's config\(\) does not go through JSON"),
    ],
)
def test_check_learner_names_the_broken_promise(broken, message):
    with pytest.raises(AssertionError, match=message):
        check_learner(HillClimbing(broken), steps=200)


def test_check_learner_compares_the_restored_policy():
    with pytest.raises(AssertionError, match="the restored policy acts differently"):
        check_learner(Forgetful(), steps=200)


# --- vector environments


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_gymnasium_s_own_vector_environments_pass(mode):
    environments = [lambda: gymnasium.make("CartPole-v1", render_mode="rgb_array", max_episode_steps=20)] * 3
    check_dream_env(SyncVectorEnv(environments, autoreset_mode=mode))


def test_a_vector_environment_with_one_random_stream_passes_if_told_so():
    envs = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point")
    with pytest.raises(AssertionError, match=r"sub-environment i is not seeded with seed \+ i"):
        check_dream_env(envs)
    envs = gymnasium.make_vec("CartPole-v1", num_envs=3, vectorization_mode="vector_entry_point")
    check_dream_env(envs, seed_per_env=False)


class Faulty(VectorWrapper):
    """A dream with one fault."""

    def __init__(self, fault: str, mode: str = "SameStep"):
        world_model = tiny_world_model()
        expert = tiny_expert(world_model)
        super().__init__(DreamEnv(3, wm=world_model, expert=expert, horizon=4, autoreset_mode=mode))
        self.fault = fault
        self.count = 0
        if fault == "no mode":
            self._metadata = {}
        if fault == "space":
            self.action_space = self.single_action_space

    def reset(self, *, seed=None, options=None):
        self.count += 1
        if self.fault == "unseeded":
            seed = None
        if self.fault == "ignores the mask":
            options = None
        obs, infos = self.env.reset(seed=seed, options=options)
        return (obs.astype(np.float64) + 5.0 if self.fault == "outside" else obs), infos

    def close(self, **kwargs):
        if self.fault == "closes once" and self.env.closed:
            raise RuntimeError("closed already")
        self.env.close(**kwargs)

    def step(self, actions):
        obs, reward, terminated, truncated, infos = self.env.step(actions)
        if self.fault == "reuses" and self.count > 1:
            self.kept = obs if not hasattr(self, "kept") else self.kept
            self.kept[:] = obs
            obs = self.kept
        if self.fault == "random":
            self.count += 1
            reward = reward + self.count
        if self.fault == "mask":
            infos = {"bonus": np.zeros(3)}
        if self.fault == "rewards":
            reward = reward[:2]
        if self.fault == "ints":
            truncated = truncated.astype(np.int64)
        if self.fault == "no final":
            infos = {}
        if self.fault == "final elsewhere" and "_final_obs" in infos:
            infos["_final_obs"] = ~infos["_final_obs"]
        if self.fault == "late reward":
            reward = reward + 1.0
        return obs, reward, terminated, truncated, infos


@pytest.mark.parametrize(
    ("fault", "mode", "message"),
    [
        ("no mode", "SameStep", 'metadata\\["autoreset_mode"\\] is None'),
        ("space", "SameStep", "action_space is Discrete"),
        ("outside", "SameStep", r"observations of reset\(\) are not in observation_space"),
        ("unseeded", "SameStep", r"reset\(seed\) twice gives different observations"),
        ("reuses", "SameStep", "wrote into observations it had returned before"),
        ("random", "SameStep", "rewards differ at step 0"),
        ("mask", "SameStep", "'bonus' has no mask '_bonus'"),
        ("rewards", "SameStep", r"rewards have shape \(2,\), expected \(3,\)"),
        ("ints", "SameStep", "truncations are of int64, expected bool"),
        ("no final", "SameStep", "infos have no 'final_obs' at the end"),
        ("final elsewhere", "SameStep", "mask '_final_obs' is not where episodes ended"),
        ("late reward", "NextStep", "NEXT_STEP: the step that resets must give reward 0"),
        ("closes once", "SameStep", "closing twice raised RuntimeError: closed already"),
    ],
)
def test_check_dream_env_names_the_broken_rule(fault, mode, message):
    with pytest.raises(AssertionError, match=message):
        check_dream_env(Faulty(fault, mode))


def test_check_dream_env_sees_a_reset_mask_that_is_ignored():
    class TwoSpeeds(Faulty):
        """Only the first sub-environment ends."""

        def step(self, actions):
            obs, reward, terminated, truncated, infos = super().step(actions)
            return obs, reward, terminated, truncated & (np.arange(3) == 0), infos

    with pytest.raises(AssertionError, match="reset_mask: sub-environment 1 was not to be reset, but changed"):
        check_dream_env(TwoSpeeds("ignores the mask", "Disabled"))


# --- tiny demonstrations


def test_tiny_demos_show_a_square_that_moves_as_told():
    demos = tiny_demos(episodes=3, steps=10)
    episode = demos.episode(1)
    columns = [np.flatnonzero(frame[5, :, 0] > 100) for frame in episode.obs["image"]]
    for t, action in enumerate(episode.action_t):
        moved = {(column + action - 1) % 16 for column in columns[t]}
        assert moved == set(columns[t + 1])
    assert demos.num_episodes == 3
    assert demos.returns[1] == (episode.action_t == 2).sum()


def test_tiny_models_leave_the_global_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    tiny_expert(tiny_world_model())
    assert torch.equal(torch.rand(1), expected)


def test_a_box_of_float64_is_examined_like_one_of_float32():
    space = spaces.Box(np.float64([-0.1, -0.1]), np.float64([0.1, 0.1]), dtype=np.float64)
    check_reward("gail", world_model=tiny_world_model(action_space=space))
    check_learner("ditto", action_space=space, hidden=(8,))
