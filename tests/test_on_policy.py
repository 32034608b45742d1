import random

import numpy as np
import pytest
import torch
from cut_off import CutOff
from gymnasium.spaces import Box, Discrete
from sb3_contrib import TRPO
from stable_baselines3 import PPO

from dream_env.checkpoint import Store
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, PluginError
from dream_env.learning.cloning import clone
from dream_env.learning.on_policy import OnPolicyLearner, SB3Policy, _RunState, resolve_learner
from dream_env.learning.sb3 import StandardizedReward
from dream_env.plugin import available
from dream_env.testing import check_learner, tiny_expert, tiny_world_model

LEARNERS = {
    "ppo": {"n_steps": 12, "minibatches": 4, "epochs": 1},
    "a2c": {"n_steps": 12},
    "trpo": {"n_steps": 12},
    "recurrent-ppo": {"n_steps": 12, "minibatches": 4, "epochs": 1},
}
SMALL = {"net_arch": (16,), "warm_start_updates": 3, "clone_batch": 32}


def dream(num_envs: int = 8, horizon: int = 6) -> DreamEnv:
    world_model = tiny_world_model()
    return DreamEnv(num_envs, wm=world_model, expert=tiny_expert(world_model), horizon=horizon)


def actions(policy, seed: int = 0) -> np.ndarray:
    feat = np.random.default_rng(seed).random((40, 48)).astype(np.float32)
    return policy.predict(feat, None, np.ones(40, dtype=bool), True)[0]


def test_the_shipped_learners_are_found_by_name():
    assert set(LEARNERS) <= set(available("learners"))


@pytest.mark.parametrize("warm_start", ["none", "bc"])
@pytest.mark.parametrize("name", LEARNERS)
def test_every_learner_keeps_the_contract(name, warm_start):
    check_learner(name, steps=288, warm_start=warm_start, **LEARNERS[name], **SMALL)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_that_was_cut_off_ends_where_an_unbroken_one_does(name, tmp_path):
    options = {**LEARNERS[name], **SMALL, "warm_start": "bc", "anchor": 2}
    unbroken = resolve_learner(name, **options).learn(dream(), 480, seed=1)
    with pytest.raises(KeyboardInterrupt):
        resolve_learner(name, **options).learn(dream(), 480, seed=1, store=CutOff(tmp_path, 2))
    resumed = resolve_learner(name, **options).learn(dream(), 480, seed=1, store=Store(tmp_path))
    for key, tensor in unbroken.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key


def test_learning_leaves_the_global_random_states_as_they_were():
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    resolve_learner("ppo", **LEARNERS["ppo"], **SMALL).learn(dream(), 96, seed=0)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


def test_cloning_recovers_a_policy_that_can_be_read_off_the_state():
    own = dream()
    rows = own.expert.step_rows()
    # The expert does what the first categorical variable says, which is there to be seen.
    shown = own.expert.latents(rows).stoch[:, :3].argmax(dim=-1)
    own.expert._action[rows] = shown
    learner = resolve_learner("ppo", **LEARNERS["ppo"], net_arch=(32,))
    model, _ = learner._build(own, 0)
    optimizer = torch.optim.Adam(model.policy.parameters(), 1e-2)
    metrics = clone(model.policy, optimizer, own.expert, updates=150, batch=64)
    predicted = model.policy.predict(own.expert.latents(rows).feat.numpy(), deterministic=True)[0]
    assert (predicted == shown.numpy()).mean() > 0.95
    assert metrics["clone_loss"] < 0.3


def test_an_anchor_holds_the_policy_to_the_expert():
    agreement = {}
    for anchor in (0, 20):
        own = dream(32)
        rows = own.expert.step_rows()
        own.expert._action[rows] = own.expert.latents(rows).stoch[:, :3].argmax(dim=-1)
        learner = resolve_learner("a2c", n_steps=6, net_arch=(32,), anchor=anchor, clone_batch=64, learning_rate=3e-3)
        policy = learner.learn(own, 32 * 6 * 10, seed=0)
        predicted = policy.predict(own.expert.latents(rows).feat.numpy(), deterministic=True)[0]
        agreement[anchor] = (predicted == own.expert.actions(rows).numpy()).mean()
    assert agreement[20] > agreement[0] + 0.2


@pytest.mark.parametrize("standardize", [True, False])
def test_rewards_are_standardised_where_that_is_asked_for(standardize):
    learner = resolve_learner("ppo", **LEARNERS["ppo"], **SMALL, standardize_rewards=standardize)
    _, venv = learner._build(dream(), 0)
    assert isinstance(venv, StandardizedReward) == standardize


def test_progress_starts_with_the_warm_start_and_reports_plain_rewards():
    seen = []
    learner = resolve_learner("ppo", **LEARNERS["ppo"], **SMALL, warm_start="bc")
    learner.learn(dream(), 192, progress=lambda policy, metrics: seen.append(metrics))
    passes = LEARNERS["ppo"]["epochs"]
    assert [(row["steps"], row["updates"]) for row in seen] == [(0, 0), (96, passes), (192, 2 * passes)]
    assert "clone_loss" in seen[0]
    assert all(-1 <= row["dream_reward"] <= 1 for row in seen[1:])


def test_any_on_policy_class_runs_by_its_name():
    learner = resolve_learner("stable_baselines3:A2C", n_steps=6, net_arch=(8,), options='{"vf_coef": 0.25}')
    assert isinstance(learner, OnPolicyLearner)
    policy = learner.learn(dream(), 96)
    restored = OnPolicyLearner.restore(policy.config(), policy.state_dict())
    np.testing.assert_array_equal(actions(policy), actions(restored))


class Region(TRPO):
    """Hands on whatever it is given to an algorithm without an entropy term."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)


class Narrow(PPO):
    """And to one that has it."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)


def test_an_entropy_weight_is_given_to_those_that_have_one():
    for algorithm in ("sb3_contrib:TRPO", f"{__name__}:Region"):
        OnPolicyLearner(algorithm=algorithm, n_steps=16, **SMALL).check(dream())
    with pytest.raises(PluginError, match=r"does not take these options.*ent_coef"):
        resolve_learner("trpo", **LEARNERS["trpo"], options='{"ent_coef": 0.1}').check(dream())
    for algorithm in ("stable_baselines3:A2C", f"{__name__}:Narrow"):
        model, _ = OnPolicyLearner(algorithm=algorithm, n_steps=16, ent_coef=0.25)._build(dream(), 0)
        assert model.ent_coef == 0.25


def test_options_reach_the_algorithm():
    model, _ = resolve_learner("ppo", **LEARNERS["ppo"], options='{"vf_coef": 0.125}')._build(dream(), 0)
    assert model.vf_coef == 0.125
    assert model.batch_size == 12 * 8 // 4
    assert model.gamma == 0.95


def test_unknown_learners_and_options_are_named():
    with pytest.raises(PluginError, match=r"no learner named 'pp'\. Did you mean .ppo"):
        resolve_learner("pp")
    with pytest.raises(PluginError, match="no on-policy algorithm of Stable-Baselines3"):
        resolve_learner("stable_baselines3:SAC")
    with pytest.raises(PluginError, match=r"does not take these options.*no_such"):
        resolve_learner("ppo", **LEARNERS["ppo"], options='{"no_such": 1}').learn(dream(), 10)
    with pytest.raises(ConfigError, match="options are a JSON object"):
        resolve_learner("ppo", **LEARNERS["ppo"], options="vf=1").learn(dream(), 10)


# ------------------------------------------------------------------------------------------ refused before it begins


@pytest.mark.parametrize("name", LEARNERS)
def test_a_check_leaves_nothing_behind(name):
    own, untouched = dream(), dream()
    learner = resolve_learner(name, **LEARNERS[name], **SMALL)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    learner.check(own)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert random.getstate() == before[2]
    first, second = (learner.learn(one, 96, seed=1).state_dict() for one in (own, untouched))
    assert all(torch.equal(x, second[key]) for key, x in first.items())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"options": '{"no_such": 1}'}, PluginError, "does not take these options.*no_such"),
        ({"options": "vf=1"}, ConfigError, "options are a JSON object"),
        ({"options": '{"batch_size": 1}'}, PluginError, "does not take these options.*batch_size"),
        ({"policy": "MlpPolic"}, PluginError, "does not take these options: Policy MlpPolic unknown"),
    ],
)
def test_what_cannot_be_made_is_refused_before_it_learns(options, error, message):
    # Of no number of updates: what learn() would refuse too would be refused after the run's folder was taken.
    with pytest.raises(error, match=message):
        OnPolicyLearner(**{"n_steps": 12, **SMALL, **options}).check(dream())


def test_actions_without_bounds_are_refused_before_it_learns():
    world_model = tiny_world_model(action_space=Box(-np.inf, np.inf, (2,)))
    own = DreamEnv(2, wm=world_model, expert=tiny_expert(world_model), horizon=6)
    with pytest.raises(PluginError, match="must have a finite lower and upper bound"):
        resolve_learner("a2c", **SMALL).check(own)


class Wider(PPO):
    """Makes its layers as it likes, and not as it is told."""

    def __init__(self, *arguments, **options):
        options["policy_kwargs"]["net_arch"] = [7]
        super().__init__(*arguments, **options)


def test_a_policy_that_could_not_be_restored_is_refused_before_it_learns():
    learner = OnPolicyLearner(algorithm=f"{__name__}:Wider", n_steps=16, **SMALL)
    with pytest.raises(
        PluginError, match=r"could be learned, but not be made again from what is kept of it.*size mismatch"
    ):
        learner.check(dream())


# -------------------------------------------------------------------------------------- actions that do not start at 0


def dream_from_five() -> DreamEnv:
    world_model = tiny_world_model(action_space=Discrete(3, start=5))
    return DreamEnv(8, wm=world_model, expert=tiny_expert(world_model), horizon=6)


@pytest.mark.parametrize("name", ["ppo", "recurrent-ppo"])
def test_actions_that_do_not_start_at_zero_are_cloned_learned_and_done(name):
    options = {**LEARNERS[name], **SMALL, "warm_start": "bc", "anchor": 2}
    check_learner(name, steps=288, action_space=Discrete(3, start=5), **options)
    learner = resolve_learner(name, **options)
    learner.check(dream_from_five())
    policy = learner.learn(dream_from_five(), 96)
    restored = type(learner).restore(policy.config(), policy.state_dict())
    for one in (policy, restored):
        assert set(actions(one).tolist()) <= {5, 6, 7}
        np.testing.assert_array_equal(actions(one), actions(one.network) + 5)


def test_the_expert_is_cloned_in_the_numbers_of_its_own_actions():
    own = dream_from_five()
    rows = own.expert.step_rows()
    shown = 5 + own.expert.latents(rows).stoch[:, :3].argmax(dim=-1)
    own.expert._action[rows] = shown
    learner = resolve_learner("ppo", **LEARNERS["ppo"], net_arch=(32,))
    model, _ = learner._build(own, 0)
    policy = SB3Policy(model.policy, learner._policy_config(own))
    optimizer = torch.optim.Adam(model.policy.parameters(), 1e-2)
    clone(model.policy, optimizer, own.expert, updates=150, batch=64, first_action=policy.first_action)
    predicted = policy.predict(own.expert.latents(rows).feat.numpy(), deterministic=True)[0]
    assert (predicted == shown.numpy()).mean() > 0.95


# ------------------------------------------------------------------------------------------------------------ on a GPU


def test_a_policy_is_restored_where_its_weights_are(monkeypatch):
    policy = resolve_learner("a2c", **SMALL).learn(dream(), 48)
    weights = {name: x.to("meta") for name, x in policy.state_dict().items()}
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)  # of tensors without numbers
    assert OnPolicyLearner.restore(policy.config(), weights).network.device.type == "meta"


def test_a_recurrent_policys_memory_is_put_back_where_the_policy_computes(tmp_path):
    learner = resolve_learner("recurrent-ppo", **LEARNERS["recurrent-ppo"], **SMALL)
    learner.learn(dream(), 96, store=Store(tmp_path))
    _, tensors, state = Store(tmp_path).latest()
    own = dream()
    with torch.random.fork_rng(devices=[]):
        model, venv = learner._build(own, 0)
        model.device = torch.device("meta")  # a device that is not the CPU, from which states are read
        _RunState(model, venv, own).restore(tensors, state)
    halves = [half for pair in (model._last_lstm_states.pi, model._last_lstm_states.vf) for half in pair]
    assert [half.device.type for half in halves] == ["meta"] * 4


def test_what_sb3_draws_on_a_gpu_is_kept_and_put_back(monkeypatch):
    generator = torch.Generator().manual_seed(3)
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    own = dream()
    with torch.random.fork_rng(devices=[]):
        model, venv = resolve_learner("a2c", **LEARNERS["a2c"], **SMALL)._build(own, 0)
        model._last_obs, model._last_episode_starts = venv.reset(), np.ones(8, dtype=bool)
        model.device = torch.device("cuda", 0)
        state = _RunState(model, venv, own)
        taken = state.take()
        expected = torch.rand(3, generator=generator)
        state.restore(*taken)
    assert torch.equal(torch.rand(3, generator=generator), expected)
