"""The adversary's reward: signs, forms, what it learns, and that a killed run goes on exactly."""

import copy
import math
from dataclasses import dataclass, replace
from typing import ClassVar, get_args

import numpy as np
import pytest
import torch
from cut_off import CutOff
from dream_env.plugins.gail import Form, Gail, Inputs
from gymnasium import spaces

from dream_env import cli
from dream_env.checkpoint import Store, read_tensors, write_tensors
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, PluginError
from dream_env.latent import Latent
from dream_env.learning.on_policy import resolve_learner
from dream_env.plugin import Rollout, load_reward
from dream_env.testing import check_reward, tiny_expert, tiny_rollout, tiny_world_model, transition_of

FORMS, INPUTS = get_args(Form), get_args(Inputs)
SMALL = {"hidden": (16,), "batch": 32}


def prepared(world_model=None, **options) -> Gail:
    world_model = world_model or tiny_world_model()
    reward = Gail(**options)
    reward.prepare(world_model, tiny_expert(world_model))
    return reward


def taught(updates=20, learning_rate=1e-2, **options) -> tuple[Gail, Rollout]:
    """A discriminator that has learned something, and the rollout it did so from."""
    world_model = tiny_world_model()
    reward = prepared(world_model, updates=updates, learning_rate=learning_rate, **{**SMALL, **options})
    rollout = tiny_rollout(world_model, tiny_expert(world_model), 6, 5)
    reward.update(rollout)
    return reward, rollout


def gaussians(expert_mean: float, learner_mean: float, num=400, horizon=5) -> Rollout:
    """Steps that differ in the first component of h alone, which is normal with variance 1 about the two means."""
    generator = torch.Generator().manual_seed(0)

    def latents(mean):
        deter = torch.zeros(horizon + 1, num, 32)
        deter[..., 0] = mean + torch.randn(horizon + 1, num, generator=generator)
        return Latent(deter, torch.zeros(horizon + 1, num, 16))

    action = torch.zeros(horizon, num, dtype=torch.int64)
    valid = torch.ones(horizon, num, dtype=torch.bool)
    return Rollout(latents(learner_mean), action, latents(expert_mean), action, valid)


# --- what is rewarded


def test_an_untaught_discriminator_takes_everything_for_either():
    world_model = tiny_world_model()
    step = transition_of(tiny_rollout(world_model, tiny_expert(world_model), 4, 5), 2)
    expected = {"probability": 1 / 2, "log_probability": -math.log(2), "softplus": math.log(2), "logit": 0.0}
    for form, value in expected.items():
        torch.testing.assert_close(prepared(world_model, form=form)(step), torch.full((4,), value))


@pytest.mark.parametrize("action_space", [spaces.Discrete(3, start=5), spaces.Box(-2.0, 4.0, (2,), np.float32)])
def test_reward_is_the_number_computed_by_hand(action_space):
    # Without hidden layers D is a logistic regression on h (32), z (16), and the action: one-hot, or scaled to [−1, 1].
    world_model = tiny_world_model(action_space=action_space)
    reward = prepared(world_model, hidden=(), form="logit")
    discrete = isinstance(action_space, spaces.Discrete)
    weight = torch.zeros(1, 32 + 16 + (3 if discrete else 2))
    weight[0, :2] = torch.tensor([1.0, -2.0])
    weight[0, 32] = 10.0
    weight[0, 48:] = torch.tensor([100.0, 200.0, 400.0] if discrete else [100.0, 200.0])
    reward.discriminator[0].weight.data = weight
    reward.discriminator[0].bias.data = torch.tensor([0.5])
    latent = Latent(torch.full((1, 32), 0.25), torch.full((1, 16), 0.5))
    action = torch.tensor([6]) if discrete else torch.tensor([[4.0, -0.5]])
    # 1·¼ − 2·¼ + 10·½ + ½ = 5.25, and 200 for the second choice, or 100·1 + 200·(−½) for the scaled vector
    assert reward.logit(latent, action).item() == pytest.approx(205.25 if discrete else 5.25)


def test_next_h_sees_h_before_and_after_and_nothing_else():
    world_model = tiny_world_model()
    reward = prepared(world_model, hidden=(), inputs="next_h", form="logit")
    reward.discriminator[0].weight.data = torch.cat([torch.full((1, 32), -1.0), torch.full((1, 32), 2.0)], dim=1)
    step = transition_of(tiny_rollout(world_model, tiny_expert(world_model), 4, 5), 2)
    expected = 2.0 * step.latent_tp1.deter.sum(dim=1) - step.latent_t.deter.sum(dim=1)
    torch.testing.assert_close(reward(step), expected)
    other = replace(
        step, action_t=1 - step.action_t.clamp(max=1), latent_t=Latent(step.latent_t.deter, step.latent_tp1.stoch)
    )
    assert torch.equal(reward(other), reward(step))
    with pytest.raises(PluginError, match=r'"next_h" looks at where a step led; give latent_tp1'):
        reward.logit(step.latent_t, step.action_t)


@pytest.mark.parametrize("inputs", INPUTS)
def test_the_forms_are_what_their_formulas_say(inputs):
    reward, rollout = taught(inputs=inputs)
    step = transition_of(rollout, 3)
    logit = replace_form(reward, "logit")(step)
    d, log_d, softplus = (replace_form(reward, form)(step) for form in ("probability", "log_probability", "softplus"))
    assert logit.std() > 0.01
    torch.testing.assert_close(d.log(), log_d)
    torch.testing.assert_close(-(1 - d).log(), softplus)
    torch.testing.assert_close(log_d + softplus, logit)
    order = logit.argsort()
    for form in (d, log_d, softplus):
        assert torch.equal(form.argsort(), order)


def replace_form(reward: Gail, form: Form) -> Gail:
    other = copy.deepcopy(reward)
    other.form = form
    return other


def test_forms_stay_finite_and_in_bounds_however_sure_the_discriminator_is():
    world_model = tiny_world_model()
    step = transition_of(tiny_rollout(world_model, tiny_expert(world_model), 4, 5), 2)
    for form in FORMS:
        reward = prepared(world_model, form=form)
        for logit in (-1e4, 1e4):
            reward.discriminator[-1].bias.data = torch.tensor([logit])
            low, high = reward.bounds
            given = reward(step)
            assert torch.isfinite(given).all()
            assert ((low <= given) & (given <= high)).all()


# --- what is learned


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("form", FORMS)
def test_two_gaussians_are_told_apart_and_the_expert_s_is_rewarded(inputs, form):
    reward = prepared(inputs=inputs, form=form, hidden=(32,), updates=100, batch=128, learning_rate=1e-2)
    rollout = gaussians(expert_mean=2.0, learner_mean=-2.0)
    metrics = reward.update(rollout)
    assert metrics["accuracy_expert"] > 0.9
    assert metrics["accuracy_learner"] > 0.9
    as_learner = transition_of(rollout, 2)
    as_expert = replace(as_learner, latent_t=as_learner.expert_latent_t, latent_tp1=as_learner.expert_latent_tp1)
    assert reward(as_expert).mean() > reward(as_learner).mean()
    middle = {"probability": 0.5, "log_probability": -math.log(2), "softplus": math.log(2), "logit": 0.0}[form]
    assert (reward(as_expert) > middle).float().mean() > 0.9
    assert (reward(as_learner) < middle).float().mean() > 0.9


def test_the_logit_becomes_the_logarithm_of_the_ratio_of_densities():
    # log N(x; 1, 1) − log N(x; −½, 1) = 1½ x − ⅜: what a logistic regression should find.
    reward = prepared(hidden=(), updates=300, batch=1000, learning_rate=3e-2)
    reward.update(gaussians(expert_mean=1.0, learner_mean=-0.5, num=4000))
    weight = reward.discriminator[0].weight[0, 0].item()
    # The weight of the action, the same at every step, is a part of the constant.
    constant = (reward.discriminator[0].bias + reward.discriminator[0].weight[0, 48]).item()
    assert weight == pytest.approx(1.5, rel=0.05)
    assert constant == pytest.approx(-3 / 8, abs=0.1)


@pytest.mark.parametrize("inputs", INPUTS)
def test_what_belongs_to_one_step_is_seen_together(inputs):
    # The sign of h is as often + as −, and so is the sign before, and the action. Of the expert's steps the action says
    # the sign and the sign stays, of the learner's both are the other way round: it takes h_t and its partner to tell.
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(2, (1, 200), generator=generator)
    expert_sign, learner_sign = start.expand(7, 200), (start + torch.arange(7).unsqueeze(1)) % 2

    def latents(sign):
        deter = torch.zeros(7, 200, 32)
        deter[..., 0] = 2.0 * sign - 1.0
        return Latent(deter, torch.zeros(7, 200, 16))

    valid = torch.ones(6, 200, dtype=torch.bool)
    rollout = Rollout(latents(learner_sign), 1 - learner_sign[:-1], latents(expert_sign), expert_sign[:-1], valid)
    reward = prepared(inputs=inputs, hidden=(16,), batch=100, learning_rate=1e-2, updates=100)
    reward.update(rollout)
    metrics = reward.update(rollout)
    assert metrics["accuracy_expert"] > 0.99
    assert metrics["accuracy_learner"] > 0.99


def test_between_equals_nothing_is_learned():
    reward = prepared(**SMALL, updates=50, learning_rate=1e-3)
    metrics = reward.update(gaussians(0.0, 0.0))
    assert metrics["discriminator_loss"] == pytest.approx(2 * math.log(2), abs=0.05)
    assert 0.3 < metrics["accuracy_expert"] < 0.7


def test_metrics_are_those_before_each_step():
    reward = prepared(**SMALL, updates=1, gradient_penalty=1.0)
    metrics = reward.update(gaussians(1.0, -1.0))
    # An untaught D is on neither side of one half, and its gradient is 0: (0 − 1)² = 1.
    expected = {
        "discriminator_loss": 2 * math.log(2),
        "accuracy_expert": 0,
        "accuracy_learner": 0,
        "gradient_penalty": 1,
    }
    assert metrics == pytest.approx(expected)
    assert "gradient_penalty" not in prepared(**SMALL).update(gaussians(1.0, -1.0))


@pytest.mark.parametrize("inputs", INPUTS)
def test_steps_after_a_dream_s_end_are_not_looked_at(inputs):
    world_model = tiny_world_model()
    rollout = tiny_rollout(world_model, tiny_expert(world_model), 6, 5)
    length = torch.tensor([1, 5, 2, 1, 3, 5])
    over = torch.arange(6).unsqueeze(1) > length  # states that were never reached
    garbage = rollout.latent.map(lambda half: half.masked_fill(over.unsqueeze(-1), float("nan")))
    valid = torch.arange(5).unsqueeze(1) < length
    reward = prepared(world_model, **SMALL, inputs=inputs, updates=20)
    metrics = reward.update(replace(rollout, latent=garbage, valid=valid))
    assert all(math.isfinite(value) for value in metrics.values())
    assert all(torch.isfinite(x).all() for x in reward.discriminator.parameters())


def test_noise_hides_what_the_discriminator_could_see_and_the_reward_has_none():
    rollout = gaussians(2.0, -2.0)
    accuracy = {}
    for noise in (0.0, 2.0, 100.0):
        reward = prepared(hidden=(), updates=100, batch=500, learning_rate=1e-2, input_noise=noise)
        accuracy[noise] = reward.update(rollout)["accuracy_expert"]
        step = transition_of(rollout, 1)
        assert torch.equal(reward(step), reward(step))
    assert accuracy[0.0] > accuracy[2.0] + 0.05 > accuracy[100.0] + 0.1
    assert accuracy[100.0] < 0.6


def test_gradient_penalty_draws_the_slope_to_one():
    slopes = {}
    for weight in (0.0, 100.0):
        reward = prepared(hidden=(), updates=300, batch=200, learning_rate=3e-2, gradient_penalty=weight)
        reward.update(gaussians(3.0, -3.0))
        slopes[weight] = reward.discriminator[0].weight.norm().item()
    assert slopes[0.0] > 1.5
    assert slopes[100.0] == pytest.approx(1.0, abs=0.05)


# --- randomness and state


def weights(reward: Gail) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in reward.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_all_randomness_comes_of_the_seed():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, _ = taught(input_noise=0.1, seed=0)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(6)
    assert equal(weights(first), weights(taught(input_noise=0.1, seed=0)[0]))
    assert not equal(weights(first), weights(taught(input_noise=0.1, seed=1)[0]))
    unseeded = weights(taught(input_noise=0.1)[0])
    assert equal(unseeded, weights(taught(input_noise=0.1, seed=6)[0]))  # torch's
    assert not equal(unseeded, weights(first))


@pytest.mark.parametrize("options", [{}, {"inputs": "next_h", "input_noise": 0.5, "gradient_penalty": 1.0}])
def test_a_saved_discriminator_goes_on_exactly(options, tmp_path):
    unbroken, rollout = taught(**options)
    write_tensors(tmp_path / "reward.safetensors", unbroken.state_dict())
    resumed = prepared(updates=20, learning_rate=1e-2, **SMALL, **options)
    resumed.load_state_dict(read_tensors(tmp_path / "reward.safetensors"))
    assert unbroken.update(rollout) == resumed.update(rollout)
    assert equal(weights(unbroken), weights(resumed))
    assert any(name.endswith("exp_avg_sq") for name in unbroken.state_dict())


def test_a_copy_goes_on_exactly_and_leaves_the_original_alone():
    reward, rollout = taught(input_noise=0.1)
    before = weights(reward)
    twin = copy.deepcopy(reward)
    twin.update(rollout)
    assert equal(weights(reward), before)
    reward.update(rollout)
    assert equal(weights(reward), weights(twin))


def test_a_state_of_another_discriminator_is_refused():
    state = taught()[0].state_dict()
    for reward in (prepared(**SMALL, inputs="next_h"), prepared(hidden=(8,)), prepared(hidden=(16, 16))):
        with pytest.raises(
            PluginError, match="reward 'gail' was given the state of another discriminator; make it with"
        ):
            reward.load_state_dict(state)
    with pytest.raises(PluginError, match="state of another discriminator"):
        prepared().load_state_dict({})


def dream(num_envs=8, horizon=6, **options) -> DreamEnv:
    world_model = tiny_world_model(continue_head=True)
    expert = tiny_expert(world_model)
    return DreamEnv(
        num_envs, wm=world_model, expert=expert, reward="gail", reward_options={**SMALL, **options}, horizon=horizon,
        terminate=True,
    )  # fmt: skip


def test_a_dream_teaches_it_and_goes_on_exactly_after_a_break():
    actions = np.random.default_rng(0).integers(3, size=(20, 8))
    unbroken = dream()
    unbroken.reset(seed=3)
    for action in actions[:10]:
        unbroken.step(action)
    assert {"discriminator_loss", "accuracy_expert", "accuracy_learner"} == set(unbroken.reward_metrics)
    state = unbroken.state_dict()
    resumed = dream()
    resumed.load_state_dict(state)
    for action in actions[10:]:
        rewards = unbroken.step(action)[1], resumed.step(action)[1]
        np.testing.assert_array_equal(*rewards)
    assert equal(unbroken.state_dict(), resumed.state_dict())
    assert not torch.equal(state["reward.weights/0.weight"], unbroken.state_dict()["reward.weights/0.weight"])


def test_a_learner_that_was_cut_off_ends_where_an_unbroken_one_does(tmp_path):
    learner = resolve_learner("a2c", n_steps=8, net_arch=(16,))
    unbroken = learner.learn(dream(), 480, seed=1)
    with pytest.raises(KeyboardInterrupt):
        learner.learn(dream(), 480, seed=1, store=CutOff(tmp_path, 2))
    resumed = learner.learn(dream(), 480, seed=1, store=Store(tmp_path))
    assert equal(unbroken.state_dict(), resumed.state_dict())


# --- contract, options, subclasses


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gaussian", [False, True])
def test_gail_keeps_the_contract(inputs, form, gaussian):
    check_reward("gail", world_model=tiny_world_model(gaussian=gaussian), inputs=inputs, form=form, **SMALL)


@pytest.mark.parametrize(
    "options",
    [{}, {"input_noise": 2.5}, {"gradient_penalty": 10.0}, {"hidden": ()}, {"hidden": (8, 8, 8), "updates": 1}],
)
def test_gail_keeps_the_contract_with_every_other_option(options):
    box = tiny_world_model(action_space=spaces.Box(-1.0, 1.0, (2,), np.float32))
    check_reward("gail", world_model=box, **options)


@dataclass
class Cautious(Gail):
    """What CMIL makes of it."""

    name: ClassVar[str] = "cautious"
    input_noise: float = 2.5
    alpha: float = 10.0

    @property
    def bounds(self):
        return (-np.inf, np.inf)

    def prepare(self, world_model, expert):
        super().prepare(world_model, expert)
        self.world_model = world_model

    def __call__(self, transition):
        disagreement = self.world_model.disagreement(transition.latent_t, transition.action_t)
        return super().__call__(transition) - self.alpha * disagreement


def test_a_reward_that_builds_on_it_keeps_the_contract():
    check_reward(Cautious(form="logit", **SMALL))
    check_reward(f"{__name__}:Cautious")


@pytest.mark.usefixtures("_without_runtime_types")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "logits"}, r"gail's form is one of probability, .*, not 'logits'. Did you mean \"logit\"\?"),
        (
            {"inputs": "state"},
            r"gail's inputs is one of state_action, next_h, not 'state'. Did you mean \"state_action\"\?",
        ),
        ({"input_noise": -1.0}, "gail needs input_noise of at least 0, not -1.0"),
        ({"gradient_penalty": float("nan")}, "gail needs gradient_penalty of at least 0, not nan"),
        ({"hidden": (16, 0)}, r"gail needs hidden of at least 1, not \(16, 0\)"),
        ({"updates": 0}, "gail needs updates of at least 1, not 0"),
        ({"batch": 0}, "gail needs batch of at least 1, not 0"),
        ({"learning_rate": 0.0}, "gail needs a learning_rate above 0, not 0.0"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        load_reward("gail", **options)


def test_options_are_flags(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "imitate_stage", lambda stage, reward, learner: seen.append(reward))
    words = ["--reward", "gail", "--gail.form", "logit", "--gail.hidden", "8", "4", "--gail.input-noise", "0.5"]
    cli.main(["imitate", "wm", "--out", "x", *words])
    assert seen == [Gail(form="logit", hidden=(8, 4), input_noise=0.5)]
