"""Cloning in latents: eq. 9 by hand, what is learned, what is counted, and going on after a stop."""

import math

import numpy as np
import pytest
import torch
from dream_env.plugins.cloning_learners import ActionHead, cloning_loss
from dream_env.plugins.dbc import DBC
from gymnasium import spaces

from dream_env.checkpoint import Store
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, TrainingError
from dream_env.measuring.closeness import action_agreement
from dream_env.plugin import available, load_learner
from dream_env.spaces import ActionSpec
from dream_env.testing import check_learner, tiny_expert, tiny_world_model

FAST = {"net_arch": (32,), "batch": 64, "learning_rate": 1e-2}
BOX = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))


def dream(action_space=None, **options) -> DreamEnv:
    world_model = tiny_world_model(action_space=action_space)
    return DreamEnv(2, wm=world_model, expert=tiny_expert(world_model), horizon=5, **options)


def show_the_action(own: DreamEnv) -> None:
    """Let the expert do what its first categorical variable says, which is there to be seen."""
    rows = own.expert.step_rows()
    shown = own.expert.latents(rows).stoch[:, :3].argmax(dim=-1)
    own.expert._action[rows] = (
        shown if own.world_model.action_spec.discrete else torch.stack([shown - 1.0, 3.0 * shown], 1)
    )


def learn(own: DreamEnv, updates: int, **options):
    rows = []
    learner = load_learner("dbc", **{**FAST, **options})
    policy = learner.learn(own, updates * learner.batch, progress=lambda _, metrics: rows.append(metrics))
    return policy, rows


def test_the_loss_is_eq_9_on_a_small_table():
    # π(·|s₁) = (0.8, 0.2) and the expert does 0; π(·|s₂) = (½, ½) and it does 1; η = 0.1.
    # −log 0.8 = 0.2231, H₁ = −0.8 log 0.8 − 0.2 log 0.2 = 0.5004; −log ½ = H₂ = 0.6931.
    head = ActionHead(ActionSpec.from_space(spaces.Discrete(2)))
    policy = head.distribution(torch.tensor([[0.8, 0.2], [0.5, 0.5]]).log())
    log_prob = policy.log_prob(head.target(torch.tensor([0, 1])))
    loss = cloning_loss(log_prob, policy.entropy(), 0.1)
    assert loss.item() == pytest.approx(((0.22314 - 0.1 * 0.50040) + (0.69315 - 0.1 * 0.69315)) / 2, abs=1e-5)


def test_a_box_has_the_density_and_entropy_of_normals_in_scaled_units():
    head = ActionHead(ActionSpec.from_space(BOX))
    raw_scale = math.log(math.expm1(0.5 - ActionHead.MIN_STD))  # softplus of it, and the floor: σ = ½
    policy = head.distribution(torch.tensor([[0.0, 0.0, raw_scale, raw_scale]]))
    # (½, 7.5) is (½, ½) in units of [−1, 1]: one σ from the mean in both dimensions.
    target = head.target(torch.tensor([[0.5, 7.5]]))
    one = -0.5 - math.log(0.5) - 0.5 * math.log(2 * math.pi)
    assert policy.log_prob(target).item() == pytest.approx(2 * one, abs=1e-5)
    assert policy.entropy().item() == pytest.approx(
        2 * (math.log(0.5) + 0.5 * math.log(2 * math.pi * math.e)), abs=1e-5
    )


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (spaces.Discrete(3, start=5), [5, 7]),
        (BOX, [[-0.25, 9.0], [1.0, 0.0]]),
        (spaces.Box(-np.inf, np.inf, (2, 1)), [[[40.0], [-3.0]]]),
    ],
)
def test_outcomes_become_the_actions_they_were_made_of(space, action):
    head = ActionHead(ActionSpec.from_space(space))
    given = torch.tensor(action)
    back = head.raw(head.target(given))
    np.testing.assert_allclose(back, given.numpy(), rtol=1e-5)
    assert all(space.contains(row) for row in back)


def test_samples_beyond_the_bounds_are_cut_off_at_them():
    head = ActionHead(ActionSpec.from_space(BOX))
    assert head.raw(torch.tensor([[-3.0, 2.0]])).tolist() == [[-1.0, 10.0]]


def test_without_entropy_a_few_states_are_learned_by_heart():
    own = dream(episodes=1)
    _, rows = learn(own, 300, entropy=0.0)
    assert rows[-1]["clone_loss"] < 0.02
    assert rows[-1]["clone_accuracy"] == 1.0


@pytest.mark.parametrize("action_space", [None, BOX])
def test_a_policy_that_can_be_read_off_the_state_is_recovered(action_space):
    own = dream(action_space)
    show_the_action(own)
    policy, _ = learn(own, 300, entropy=0.0)
    far = action_agreement(policy, own.expert)
    assert far > 0.95 if action_space is None else far < 0.1  # of a variance of about 3


def test_the_entropy_weight_raises_the_entropy():
    entropies = [learn(dream(), 100, entropy=weight)[1][-1]["clone_entropy"] for weight in (0.0, 0.1, 1.0)]
    assert entropies == sorted(entropies)
    assert entropies[2] > entropies[0] + 0.1
    assert entropies[2] <= math.log(3) + 1e-5


def test_steps_are_expert_states_seen_and_no_dream_is_stepped(monkeypatch):
    own = dream()
    monkeypatch.setattr(own, "step", None)
    seen = []
    learner = load_learner("dbc", batch=64, log_every=2, report_last=1, net_arch=(8,))
    learner.learn(own, 300, progress=lambda _, metrics: seen.append(metrics["steps"]))
    assert seen == [128, 256, 320]  # five updates of 64: the fewest that make 300


def test_slips_and_episodes_left_out_are_not_cloned():
    own = dream(episodes=2)
    own.expert._slip[3:9] = True
    examples = DBC().examples(own)
    assert len(examples) == 40 - 6
    feat, action = examples[torch.arange(34)]
    rows = torch.tensor([*range(3), *range(9, 20), *range(21, 41)])  # row 20 ends the first episode
    assert torch.equal(feat, own.expert.latents(rows).feat)
    assert torch.equal(action, own.expert.actions(rows))


class Stopped(Exception):
    pass


def test_a_run_that_was_stopped_goes_on_and_ends_and_reports_as_an_unbroken_one(tmp_path):
    learner = load_learner("dbc", net_arch=(8,), batch=32, log_every=3)
    unbroken = []
    policy = learner.learn(dream(), 32 * 14, seed=4, progress=lambda _, metrics: unbroken.append(metrics))
    rows = []

    def stop(_, metrics):
        if metrics["steps"] > 32 * 6:
            raise Stopped
        rows.append(metrics)

    with pytest.raises(Stopped):
        learner.learn(dream(), 32 * 14, seed=4, progress=stop, store=Store(tmp_path, every_seconds=0.0))
    assert Store(tmp_path).latest_folder().name == "000000192"
    store = Store(tmp_path, every_seconds=1e6)
    resumed = learner.learn(dream(), 32 * 14, seed=4, progress=lambda _, metrics: rows.append(metrics), store=store)
    assert rows == unbroken
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert store.latest()[0] == 32 * 14  # a third call has nothing to do


def test_learning_leaves_the_global_random_state_as_it_was():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    learn(dream(), 2)
    assert torch.equal(torch.rand(1), expected)


def test_dbc_keeps_the_contract():
    check_learner("dbc", steps=480, batch=48, log_every=2, net_arch=(16,))


def test_both_learners_are_found_by_name():
    assert {"bc", "dbc"} <= set(available("learners"))


@pytest.mark.parametrize("name", ["bc", "dbc"])
def test_the_clones_defaults_are_the_paper_s(name):
    learner = load_learner(name)
    assert (learner.entropy, learner.batch, learner.learning_rate) == (0.1, 512, 3e-4)  # eq. 9's η and table 1's


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, not 0"),
        ({"log_every": 0}, "log_every must be at least 1, not 0"),
        ({"net_arch": (8, 0)}, r"widths of the hidden layers, each at least 1, not \(8, 0\)"),
        ({"entropy": -0.1}, r"entropy is a weight of at least 0, not -0\.1"),
        ({"entropy": math.nan}, "entropy is a weight of at least 0, not nan"),
        ({"learning_rate": 0.0}, r"learning_rate must be above 0, not 0\.0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        load_learner("dbc", **options)


def test_a_loss_that_is_not_finite_stops_the_run():
    own = dream(BOX)
    own.expert._action[:] = math.nan
    with pytest.raises(TrainingError, match=r"after 64 expert states .*lower --learning-rate"):
        learn(own, 3, log_every=1)
