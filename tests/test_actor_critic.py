"""DITTO's actor-critic: the equations of appendix C by hand, both gradients, and what every learner promises."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from cut_off import CutOff
from dream_env.plugins.actor_critic import ActorCritic
from dream_env.plugins.actor_critic_run import ActorCriticRun
from dream_env.plugins.ditto import Ditto
from dream_env.plugins.imagination import ExpertReplay, imagine
from dream_env.plugins.lambda_return import (
    StepStandardizer,
    critic_loss,
    lambda_returns,
    mean_over,
    normalized,
    reinforce_loss,
)
from dream_env.plugins.latent_actor import MIN_STD, ActorPolicy, Choice, NetShape, Squash, SquashedNormal
from dream_env.plugins.training import Means
from gymnasium import spaces

from dream_env.checkpoint import Store
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, TrainingError
from dream_env.latent import Latent
from dream_env.learning.sb3 import StandardizedReward, as_sb3
from dream_env.model.encoded import EncodedDemos
from dream_env.plugin import Reward, available, load_learner
from dream_env.spaces import ActionSpec
from dream_env.testing import check_learner, tiny_expert, tiny_world_model

BOX = spaces.Box(np.float32([-1, -2]), np.float32([1, 2]))
SMALL = {"hidden": (16,), "clone_batch": 32, "warm_start_updates": 3, "report_every": 1, "report_last": 1}
EVERYTHING = {
    **SMALL, "standardize_rewards": True, "anchor": 0.3, "warm_start": "bc", "entropy_end": 0.01, "target_period": 3,
    "baseline": "target", "normalize_advantage": True, "max_gradient_norm": 0.5, "report_every": 2,
}  # fmt: skip


@dataclass
class SecondAction(Reward):
    """1 for action 1, 0 for the other: a bandit that dreams."""

    def __call__(self, transition):
        return (transition.action_t == 1).float()


@dataclass
class Nothing(Reward):
    """0, whatever is done."""

    def __call__(self, transition):
        return torch.zeros(len(transition.step_t))


@dataclass
class Enormous(Reward):
    """Finite, but its sums are not."""

    def __call__(self, transition):
        return torch.full((len(transition.step_t),), 3e38)


@dataclass
class Judge(Reward):
    """A linear discriminator on h that learns in place, as an optimiser does."""

    def prepare(self, world_model, expert):
        self.weight = torch.zeros(world_model.deter_size, requires_grad=True)
        self.updates = 0
        self.graphs = 0

    def __call__(self, transition):
        return (transition.latent_tp1.deter @ self.weight).sigmoid()

    def update(self, rollout):
        self.updates += 1
        self.graphs += rollout.latent.deter.requires_grad + rollout.action.requires_grad
        difference = rollout.expert_latent.deter - rollout.latent.deter
        with torch.no_grad():
            self.weight += difference.mean(dim=(0, 1))
        return {"distance": float(difference.detach().norm())}

    def state_dict(self):
        return {"weight": self.weight}

    def load_state_dict(self, state):
        self.weight = state["weight"].clone().requires_grad_()


def dream(num_envs=8, horizon=6, *, action_space=None, gaussian=False, expert=None, **options) -> DreamEnv:
    world_model = tiny_world_model(
        action_space=action_space, gaussian=gaussian, continue_head=options.get("terminate", False)
    )
    expert = tiny_expert(world_model) if expert is None else expert(world_model)
    return DreamEnv(num_envs, wm=world_model, expert=expert, horizon=horizon, **options)


def started(own: DreamEnv, **options) -> ActorCriticRun:
    run = ActorCriticRun(ActorCritic(**{**SMALL, **options}), own, 0)
    own.reset(seed=0)
    return run


def steady(action, episodes: int = 8, steps: int = 30):
    """An expert that always does the same."""

    @torch.no_grad()
    def expert(world_model) -> EncodedDemos:
        generator = torch.Generator().manual_seed(0)
        actions = torch.tensor([action] * episodes)
        path = [world_model.initial(episodes)]
        for _ in range(steps):
            noise = torch.rand(episodes, world_model.noise_size, generator=generator)
            path.append(world_model.imagine_step(path[-1], actions, noise))
        latent = Latent.stack(path, dim=1).map(lambda half: half.flatten(0, 1))
        rssm = world_model.config.rssm
        classes = 0 if rssm.latent == "gaussian" else rssm.classes
        stoch = latent.stoch.half()
        stoch = stoch.reshape(len(stoch), -1, classes).argmax(dim=-1).to(torch.uint8) if classes else stoch
        taken = actions.repeat_interleave(steps + 1, dim=0)
        lengths = torch.full((episodes,), steps)
        return EncodedDemos(latent.deter.half(), stoch, taken, lengths, classes, torch.arange(episodes))

    return expert


def readable(own: DreamEnv) -> torch.Tensor:
    """Let the expert do what the first categorical variable says, and return these actions."""
    rows = own.expert.step_rows()
    own.expert._action[rows] = own.expert.latents(rows).stoch[:, :3].argmax(dim=-1)
    return own.expert.actions(rows)


def column(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32).unsqueeze(1)


# --------------------------------------------------------------------------------------------------------- eqs. 14 to 16


def test_lambda_returns_are_the_numbers_computed_by_hand():
    # V₂ = 3 + ½·6 = 6;  V₁ = 2 + ½(½·5 + ½·6) = 4.75;  V₀ = 1 + ½(½·4 + ½·4.75) = 3.1875
    returns = lambda_returns(column(1, 2, 3), column(4, 5, 6), torch.full((3, 1), 0.5), 0.5)
    assert returns.flatten().tolist() == [3.1875, 4.75, 6.0]


def test_lambda_zero_is_one_step_td_and_lambda_one_is_monte_carlo():
    reward, value, gamma = torch.randn(5, 4), torch.randn(5, 4), 0.9
    discount = torch.full((5, 4), gamma)
    torch.testing.assert_close(lambda_returns(reward, value, discount, 0.0), reward + gamma * value)
    powers = gamma ** torch.arange(6.0)
    monte_carlo = [
        (powers[: 5 - t, None] * reward[t:]).sum(dim=0) + powers[5 - t] * value[-1] for t in range(5)
    ]  # fmt: skip
    torch.testing.assert_close(lambda_returns(reward, value, discount, 1.0), torch.stack(monte_carlo))


def test_nothing_after_the_end_of_a_dream_counts():
    discount = column(0.5, 0.0, 0.5)
    returns = lambda_returns(column(1, 2, 300), column(4, 500, 600), discount, 0.5)
    assert returns[:2].flatten().tolist() == [1 + 0.5 * (0.5 * 4 + 0.5 * 2), 2.0]
    valid = torch.tensor([[True], [True], [False]])
    assert mean_over(column(1, 2, 300), valid).item() == 1.5
    assert critic_loss(column(0, 0, 9), column(1, 2, 300), valid).item() == pytest.approx((0.5 + 2.0) / 2)


def test_reinforce_moves_the_taken_action_by_the_sign_of_its_advantage():
    valid = torch.ones(1, 1, dtype=torch.bool)
    for advantage, expected in ((2.0, [-1.0, 1.0]), (-2.0, [1.0, -1.0])):
        logits = torch.zeros(1, 2, requires_grad=True)
        log_prob = Choice(logits, 0).log_prob(torch.tensor([0])).unsqueeze(0)
        reinforce_loss(log_prob, torch.tensor([[advantage]]), valid).backward()
        # d(−A log p₀)/d(logits) = −A (1 − p₀, −p₁), p = ½
        assert logits.grad.tolist() == [expected]


def test_normalized_advantages_have_mean_zero_and_deviation_one():
    valid = torch.rand(6, 50) > 0.3
    advantage = normalized(7.0 + 3.0 * torch.randn(6, 50), valid)[valid]
    assert advantage.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert advantage.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)


def test_losses_of_a_policy_that_knows_nothing_are_those_of_eqs_15_and_16():
    # Every action has log π = −log 3, the critic says 0, the target critic 5 everywhere.
    losses = {}
    for name, options in {
        "paper": {},
        "target": {"baseline": "target"},
        "normal": {"normalize_advantage": True},
    }.items():
        run = started(dream(), **options)
        torch.nn.init.constant_(run.target.net[-1].bias, 5.0)
        imagined = imagine(run.dreams, run.actor, run.generator, gradients=False)
        losses[name] = {key: x.item() for key, x in run._losses(imagined, 0.05).items()}
        returns = lambda_returns(imagined.reward, torch.full((6, 8), 5.0), torch.full((6, 8), 0.95), 0.95)
    bonus = 0.05 * math.log(3)
    assert losses["paper"]["return"] == pytest.approx(returns.mean().item())
    assert losses["paper"]["critic_loss"] == pytest.approx(0.5 * returns.square().mean().item())
    assert losses["paper"]["actor_loss"] == pytest.approx(math.log(3) * returns.mean().item() - bonus, abs=1e-5)
    assert losses["target"]["actor_loss"] == pytest.approx(math.log(3) * (returns.mean().item() - 5) - bonus, abs=1e-5)
    assert losses["normal"]["actor_loss"] == pytest.approx(-bonus, abs=1e-5)


@pytest.mark.parametrize("baseline", ["critic", "target"])
@pytest.mark.parametrize("terminate", [False, True])
def test_losses_are_eqs_14_to_16_summed_dream_by_dream_and_step_by_step(baseline, terminate):
    """With an actor and two critics that all say something else in each state, so that no state can be taken for another."""
    run = started(dream(terminate=terminate), baseline=baseline, gamma=0.9, td_lambda=0.7)
    torch.manual_seed(1)
    for net in (run.actor.net, run.critic.net, run.target.net):
        torch.nn.init.normal_(net[-1].weight, std=2.0)
    imagined = imagine(run.dreams, run.actor, run.generator, gradients=False)
    assert imagined.ended.any() == terminate
    value, target = (net(imagined.feat).tolist() for net in (run.critic, run.target))
    reward, log_prob, entropy = imagined.reward.tolist(), imagined.log_prob.tolist(), imagined.entropy.tolist()
    actor_losses, critic_losses, all_returns = [], [], []
    for i in range(8):
        ends = [t for t in range(6) if imagined.ended[t, i]]
        length = ends[0] + 1 if ends else 6
        after = None
        for t in reversed(range(length)):
            if ends and t == length - 1:
                after = reward[t][i]
            elif t == 5:
                after = reward[t][i] + 0.9 * target[6][i]
            else:
                after = reward[t][i] + 0.9 * (0.3 * target[t + 1][i] + 0.7 * after)
            advantage = after - (value if baseline == "critic" else target)[t][i]
            actor_losses.append(-log_prob[t][i] * advantage - 0.05 * entropy[t][i])
            critic_losses.append(0.5 * (value[t][i] - after) ** 2)
            all_returns.append(after)
    losses = run._losses(imagined, 0.05)
    assert losses["return"].item() == pytest.approx(np.mean(all_returns), rel=1e-4)
    assert losses["critic_loss"].item() == pytest.approx(np.mean(critic_losses), rel=1e-4)
    assert losses["actor_loss"].item() == pytest.approx(np.mean(actor_losses), rel=1e-4)


def test_the_target_critic_is_the_critic_of_the_last_whole_period():
    run = started(dream(), target_period=3)
    expected = {name: x.clone() for name, x in run.critic.state_dict().items()}
    for update in range(1, 8):
        run.update(0.05)
        if update in (3, 6):
            expected = {name: x.clone() for name, x in run.critic.state_dict().items()}
        assert all(torch.equal(x, expected[name]) for name, x in run.target.state_dict().items()), update
        moved = not torch.equal(run.critic.net[-1].weight, run.target.net[-1].weight)
        assert moved == (update not in (3, 6))


def test_the_average_forgets_by_its_number_each_update_and_learning_is_the_same():
    runs = []
    for average in (0.75, 0.0):
        torch.manual_seed(0)
        runs.append(started(dream(), average=average))
    run, plain = runs
    seen = []
    for _ in range(4):
        run.update(0.05)
        plain.update(0.05)
        seen.insert(0, {name: x.detach().clone() for name, x in run.actor.state_dict().items()})
        assert all(torch.equal(x, seen[0][name]) for name, x in plain.actor.state_dict().items())
        weights = [0.75**k for k in range(len(seen))]
        expected = {
            name: sum(w * policy[name] for w, policy in zip(weights, seen, strict=True)) / sum(weights)
            for name in seen[0]
        }
        handed_out = run.policy.state_dict()
        assert all(torch.allclose(x, expected[name]) for name, x in handed_out.items())
    assert not torch.equal(handed_out["net.0.weight"], seen[0]["net.0.weight"])


def test_rewards_are_standardised_as_for_the_other_learners():
    own, horizon = dream(16), 6
    venv = StandardizedReward(as_sb3(own), horizon)
    venv.seed(0)
    venv.reset()
    ours, generator = StepStandardizer(horizon, own.device), np.random.default_rng(0)
    for _ in range(3):
        plain, theirs = [], []
        for _ in range(horizon):
            theirs.append(torch.as_tensor(venv.step(generator.integers(3, size=16))[1]))
            plain.append(own.last_rewards)
        standardized = ours(torch.stack(plain), torch.ones(horizon, 16, dtype=torch.bool))
        torch.testing.assert_close(standardized, torch.stack(theirs), atol=1e-4, rtol=1e-4)


def test_steps_after_the_end_of_a_dream_are_in_no_statistics():
    standardizer = StepStandardizer(2, torch.device("cpu"))
    reward = torch.tensor([[1.0, 3.0, 99.0, 99.0], [5.0, 99.0, 99.0, 99.0]])
    valid = torch.tensor([[True, True, False, False], [True, False, False, False]])
    found = standardizer(reward, valid)
    # Of 1 and 3: mean 2, deviation 1, so −0.1 and 0.1. Of 5 alone there is no spread.
    assert found[0, :2].tolist() == pytest.approx([-0.1, 0.1], rel=1e-4)
    assert found[1, 0] == 0.0


@pytest.mark.parametrize(("terminate", "control_variate"), [(False, False), (False, True), (True, False)])
def test_returns_are_of_standardised_rewards_less_the_replay_s_first_where_asked_for(terminate, control_variate):
    run = started(dream(terminate=terminate), standardize_rewards=True, control_variate=control_variate)
    imagined = imagine(run.dreams, run.actor, run.generator, gradients=False, replay=run.replay)
    assert imagined.valid.all() != terminate
    reward = imagined.reward - (imagined.replayed if control_variate else 0.0)
    reward = StepStandardizer(6, torch.device("cpu"))(reward, imagined.valid)
    discount = 0.95 * (~imagined.ended).float()
    expected = lambda_returns(reward, torch.zeros(6, 8), discount, 0.95)  # both critics still say 0
    found = run._losses(imagined, 0.05)["critic_loss"].item()  # their mean is 0, whatever they are
    assert found == pytest.approx(0.5 * mean_over(expected.square(), imagined.valid).item(), rel=1e-4)


# -------------------------------------------------------------------------------------------------------- control variate


@pytest.mark.parametrize("reward", ["ditto", "judge"])
def test_a_learner_that_does_as_the_expert_earns_exactly_what_the_replay_does(reward):
    own = dream(reward=Judge() if reward == "judge" else reward, expert=steady(2))
    if reward == "judge":
        torch.nn.init.normal_(own.reward.weight)
    run = started(own)
    torch.nn.init.constant_(run.actor.net[-1].bias[2:], 200.0)  # action 2, always
    rewards = []
    for _ in range(3):
        imagined = imagine(run.dreams, run.actor, run.generator, gradients=False, replay=ExpertReplay(run.dreams))
        assert torch.equal(imagined.replayed, imagined.reward)  # the noise is the same, to the bit
        rewards.append(imagined.replayed)
        run.dreams.restart(run.dreams.everyone)
    assert not torch.equal(rewards[0], rewards[1])
    assert rewards[0].std() > 0.0


def test_the_replay_depends_neither_on_the_learner_s_actions_nor_changes_the_dreams():
    found = {}
    for action in (0, 2):
        run = started(dream())
        torch.nn.init.constant_(run.actor.net[-1].bias[action : action + 1], 200.0)
        plain = imagine(run.dreams, run.actor, run.generator, gradients=False)
        run = started(dream())
        torch.nn.init.constant_(run.actor.net[-1].bias[action : action + 1], 200.0)
        found[action] = imagine(run.dreams, run.actor, run.generator, gradients=False, replay=ExpertReplay(run.dreams))
        assert plain.replayed is None
        assert torch.equal(found[action].feat, plain.feat)
    assert torch.equal(found[0].replayed, found[2].replayed)  # so it is a baseline, and REINFORCE stays unbiased
    assert not torch.equal(found[0].reward, found[2].reward)


def test_returns_are_of_the_reward_minus_the_replay_s():
    run = started(dream(), control_variate=True)
    imagined = imagine(run.dreams, run.actor, run.generator, gradients=False, replay=run.replay)
    metrics = {name: x.item() for name, x in run._losses(imagined, 0.05).items()}
    more = imagined.reward - imagined.replayed
    returns = lambda_returns(more, torch.zeros(6, 8), torch.full((6, 8), 0.95), 0.95)  # both critics still say 0
    assert metrics["return"] == pytest.approx(returns.mean().item())
    assert metrics["dream_reward"] == pytest.approx(imagined.reward.mean().item())
    assert metrics["replayed_reward"] == pytest.approx(imagined.replayed.mean().item())


def test_a_reward_that_learns_does_not_learn_from_the_replay():
    judges = {}
    for control_variate in (False, True):
        judge = judges[control_variate] = Judge()
        run = started(dream(reward=judge), control_variate=control_variate, learning_rate=0.0)
        for _ in range(3):
            run.update(0.05)
    assert judges[True].updates == judges[False].updates == 3
    assert torch.equal(judges[True].weight, judges[False].weight)


@pytest.mark.parametrize(
    ("options", "of_dream", "message"),
    [
        ({"gradient": "dynamics"}, {"action_space": BOX}, r'control_variate is for the gradient "reinforce"'),
        ({}, {"terminate": True}, r"control_variate needs dreams of one length.*terminate=True"),
    ],
)
def test_a_control_variate_is_refused_where_it_cannot_help(options, of_dream, message):
    with pytest.raises(ConfigError, match=message):
        ActorCritic(**SMALL, control_variate=True, **options).learn(dream(**of_dream), 96)


# --------------------------------------------------------------------------------------------------------- distributions


def test_choices_are_drawn_as_often_as_they_are_likely():
    probabilities = torch.tensor([0.5, 0.3, 0.2])
    policy = Choice(probabilities.log().expand(20_000, 3), 4)
    drawn = policy.draw(torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn.action - 4, minlength=3) / 20_000
    torch.testing.assert_close(counts, probabilities, atol=0.02, rtol=0.0)
    torch.testing.assert_close(drawn.log_prob, probabilities.log()[drawn.action - 4])
    assert drawn.entropy[0].item() == pytest.approx(-(probabilities * probabilities.log()).sum().item())
    assert policy.mode()[0] == 4


def normal(mean, std: float, squash: Squash) -> SquashedNormal:
    raw = torch.logit(torch.tensor((std - MIN_STD) / 2.0))
    mean = torch.as_tensor(mean)
    return SquashedNormal(torch.cat([mean, raw.expand_as(mean)], dim=-1), squash)


def test_a_bent_normal_has_the_density_and_the_entropy_of_its_actions():
    squash = Squash(BOX, "tanh")
    policy = normal([[0.3, -0.8]] * 20_000, 0.6, squash)
    drawn = policy.draw(torch.Generator().manual_seed(0))
    base = torch.distributions.Normal(torch.tensor([0.3, -0.8]), 0.6)
    twin = torch.distributions.TransformedDistribution(base, torch.distributions.TanhTransform())
    scaled = drawn.action / torch.tensor([1.0, 2.0])
    inner = (scaled.abs() < 0.99).all(dim=-1)  # nearer to the bounds their atanh loses digits
    torch.testing.assert_close(drawn.log_prob[inner], twin.log_prob(scaled[inner]).sum(dim=-1), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(policy.log_prob(drawn.action)[inner], drawn.log_prob[inner], atol=2e-3, rtol=1e-3)
    assert drawn.entropy.mean().item() == pytest.approx(-drawn.log_prob.mean().item(), abs=0.02)
    torch.testing.assert_close(policy.mode()[0], torch.tensor([0.3, -0.8]).tanh() * torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("kind", ["tanh", "clip"])
def test_actions_of_a_box_keep_its_bounds_exactly_and_gradients_pass_them(kind):
    space = spaces.Box(np.float32([-0.1, 0.0, -np.inf, 3.0]), np.float32([0.7, np.inf, np.inf, 3.0]))
    u = (20 * torch.randn(500, 4)).requires_grad_()
    action = Squash(space, kind)(u)
    assert all(space.contains(row) for row in action.detach().numpy())
    torch.testing.assert_close(action[:, 2], u[:, 2])  # no bounds: its own unit
    action.sum().backward()
    assert torch.isfinite(u.grad).all()
    assert (u.grad[:, 1:3] == 1.0).all()


def test_a_policy_of_a_box_in_float64_keeps_bounds_that_float32_cannot_hold():
    space = spaces.Box(-0.1, 0.1, (2, 1), np.float64)
    policy = ActorPolicy(NetShape(5, (4,), "tanh", False), ActionSpec(space), "tanh")
    torch.nn.init.constant_(policy.actor.net[-1].bias, 30.0)
    action, state = policy.predict(np.zeros((3, 5), np.float32), deterministic=True)
    assert state is None
    assert action.dtype == np.float64
    assert all(space.contains(row) for row in action)


def test_a_policy_samples_from_the_global_generator():
    own = dream()
    policy = started(own).policy
    feat = np.random.default_rng(0).random((200, 48)).astype(np.float32)
    torch.manual_seed(1)
    first = policy.predict(feat)[0]
    assert not np.array_equal(first, policy.predict(feat)[0])
    torch.manual_seed(1)
    assert np.array_equal(first, policy.predict(feat)[0])
    assert np.bincount(first, minlength=3).min() > 40  # it starts at equal probabilities


# -------------------------------------------------------------------------------------------------------------- learning


def test_a_dreaming_bandit_is_solved():
    own = dream(32, reward=SecondAction(), action_space=spaces.Discrete(2))
    learner = ActorCritic(hidden=(16,), learning_rate=1e-2)
    policy = learner.learn(own, 32 * 6 * 40)
    action = policy.predict(own.expert.latents(own.expert.step_rows()).feat.numpy())[0]
    assert action.mean() > 0.9


@pytest.mark.parametrize(
    ("action_space", "action", "options"),
    [
        (None, 2, {}),
        (BOX, [0.9, 0.9], {"normalize_advantage": True}),
        (BOX, [0.9, 0.9], {"gradient": "dynamics", "entropy": 1e-3}),
        (BOX, [0.9, 0.9], {"gradient": "dynamics", "entropy": 1e-3, "squash": "clip", "gaussian": True}),
    ],
    ids=["discrete", "box", "box-dynamics", "box-dynamics-gaussian"],
)
def test_the_dream_s_reward_rises_most_of_the_way_from_random_to_expert(action_space, action, options):
    gaussian = options.pop("gaussian", False)
    own = dream(64, action_space=action_space, gaussian=gaussian, expert=steady(action))

    def reward(act) -> float:
        observation, _ = own.reset(seed=9)
        rewards = []
        for _ in range(20 * own.horizon):
            observation = own.step(act(observation))[0]
            rewards.append(own.last_rewards.mean().item())
        return float(np.mean(rewards))

    own.action_space.seed(0)
    random = reward(lambda _: own.action_space.sample())
    expert = reward(lambda _: np.array([action] * 64, own.single_action_space.dtype))
    policy = ActorCritic(hidden=(32,), learning_rate=1e-2, **options).learn(own, 64 * 6 * 40, seed=1)
    learned = reward(lambda observation: policy.predict(observation, deterministic=True)[0])
    assert expert > random + 0.1
    assert learned > random + 0.8 * (expert - random)


def test_the_dynamics_gradient_is_that_of_finite_differences():
    own = dream(16, 4, action_space=BOX, gaussian=True)
    run = started(own, gradient="dynamics", standardize_rewards=False)
    torch.manual_seed(0)
    for network in (run.actor, run.target):
        torch.nn.init.normal_(network.net[-1].weight, std=0.3)
    tensors, state = run.take()
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    parameters = list(run.actor.parameters())
    direction = [torch.randn_like(p) for p in parameters]
    length = math.sqrt(sum(float(d.square().sum()) for d in direction))

    def loss(step: float) -> torch.Tensor:
        run.restore(tensors, state)
        with torch.no_grad():
            for parameter, along in zip(parameters, direction, strict=True):
                parameter += step / length * along
        return run._losses(imagine(run.dreams, run.actor, run.generator, gradients=True), 0.05)["actor_loss"]

    gradient = torch.autograd.grad(loss(0.0), parameters)
    slope = sum(float((g * d).sum()) for g, d in zip(gradient, direction, strict=True)) / length
    with torch.no_grad():
        difference = float(loss(0.02) - loss(-0.02)) / 0.04
    assert abs(slope) > 1e-3
    assert slope == pytest.approx(difference, rel=0.02)


def test_an_anchor_adds_the_clone_s_loss_times_its_weight_over_steps_that_are_no_slips():
    own = dream()
    own.expert._slip[3:9] = True
    losses = {}
    for weight in (0.0, 0.3, 2.0):
        torch.manual_seed(0)
        run = started(own, anchor=weight)
        assert run.expert_rows.tolist() == own.expert.step_rows().tolist()
        assert not set(run.expert_rows.tolist()) & set(range(3, 9))
        imagined = imagine(run.dreams, run.actor, run.generator, gradients=False)
        losses[weight] = {name: x.item() for name, x in run._losses(imagined, 0.05).items()}
    for weight in (0.3, 2.0):
        more = losses[weight]["actor_loss"] - losses[0.0]["actor_loss"]
        assert more == pytest.approx(weight * losses[weight]["clone_loss"], rel=1e-4)


def test_the_entropy_s_weight_makes_a_policy_of_numbered_actions_less_sure():
    entropies = {}
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        run = started(dream(reward=Nothing()), learning_rate=1e-2)
        torch.nn.init.constant_(run.actor.net[-1].bias[:1], 3.0)
        for _ in range(60):
            run.update(weight)
        imagined = imagine(run.dreams, run.actor, run.generator, gradients=False)
        entropies[weight] = imagined.entropy.mean().item()
    assert entropies[1.0] > 0.95 * math.log(3)
    assert entropies[0.0] < 0.6 * math.log(3)


def test_an_update_neither_steps_the_environment_nor_turns_tensors_into_arrays(monkeypatch):
    run = started(dream(reward=Judge()), anchor=0.3, control_variate=True, standardize_rewards=True)

    def never(*arguments, **options):
        raise AssertionError("an update left the tensors")

    monkeypatch.setattr(DreamEnv, "step", never)
    for name in ("numpy", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, never)
    before = run.actor.net[-1].weight.clone()
    run.update(0.05)
    assert not torch.equal(before, run.actor.net[-1].weight)


def test_an_anchor_pulls_towards_the_expert_s_actions():
    agreement = {}
    for anchor in (0.0, 3.0):
        own = dream(32)
        wanted = readable(own)
        learner = ActorCritic(hidden=(32,), anchor=anchor, clone_batch=64, learning_rate=1e-2)
        policy = learner.learn(own, 32 * 6 * 40, seed=0)
        predicted = policy.predict(own.expert.latents(own.expert.step_rows()).feat.numpy(), deterministic=True)[0]
        agreement[anchor] = (predicted == wanted.numpy()).mean()
    assert agreement[3.0] > max(0.9, agreement[0.0] + 0.2)


def test_a_warm_start_recovers_a_policy_that_can_be_read_off_the_state():
    own, seen = dream(), []
    wanted = readable(own)
    learner = ActorCritic(
        hidden=(32,), warm_start="bc", warm_start_updates=150, clone_batch=64, clone_learning_rate=1e-2
    )
    policy = learner.learn(own, 48, progress=lambda _, metrics: seen.append(metrics))
    predicted = policy.predict(own.expert.latents(own.expert.step_rows()).feat.numpy(), deterministic=True)[0]
    assert (predicted == wanted.numpy()).mean() > 0.95
    assert [(row["steps"], row["updates"]) for row in seen] == [(0, 0), (48, 1)]
    assert seen[0]["clone_loss"] < 0.3
    assert seen[0]["clone_certain"] > 0.9


def test_a_warm_start_in_a_box_ends_near_the_expert_s_actions():
    own = dream(action_space=BOX, expert=steady([0.5, -1.0]))
    learner = ActorCritic(
        hidden=(32,), warm_start="bc", warm_start_updates=150, clone_learning_rate=1e-2, clone_entropy=1e-3
    )
    policy = learner.learn(own, 48)
    feat = own.expert.latents(own.expert.step_rows()).feat.numpy()
    np.testing.assert_allclose(policy.predict(feat, deterministic=True)[0].mean(axis=0), [0.5, -1.0], atol=0.1)


@pytest.mark.parametrize("gradient", ["reinforce", "dynamics"])
def test_a_reward_that_learns_does_so_once_a_horizon_and_sees_no_graph(gradient):
    judge = Judge()
    own, seen = dream(reward=judge, action_space=BOX), []
    learner = ActorCritic(**SMALL, gradient=gradient)
    learner.learn(own, 48 * 5, progress=lambda _, metrics: seen.append(metrics))
    assert (judge.updates, judge.graphs) == (5, 0)
    assert judge.weight.grad is None  # the actor's gradients go no further than the actor
    assert all(parameter.grad is None for parameter in own.world_model.parameters())
    assert all(row["distance"] > 0.0 for row in seen)
    own.step(own.action_space.sample())  # the dream is an ordinary one again


def test_dreams_that_end_early_wait_for_the_others():
    judge = Judge()
    own = dream(reward=judge, terminate=True)
    run = started(own)
    for _ in range(6):
        before = run.steps
        imagined = imagine(run.dreams, run.actor, run.generator, gradients=False)
        assert not (imagined.ended & ~imagined.valid).any()
        assert torch.equal(imagined.valid[1:], imagined.valid[:-1] & ~imagined.ended[:-1])
        assert (imagined.reward[~imagined.valid] == 0.0).all()
        run.dreams.restart(run.dreams.everyone)
        run.update(0.05)
        assert 8 <= run.steps - before < 48
    assert judge.updates == 12
    ActorCritic(**EVERYTHING).learn(own, 200)


@pytest.mark.parametrize("metric", ["dot", "nearest"])
def test_dreams_may_all_have_ended_before_the_horizon(metric):
    own = dream(2, reward=Ditto(metric=metric), terminate=True)
    run = started(own)
    torch.nn.init.constant_(own.world_model.continue_net[-1].bias, -100.0)  # every step is the last
    imagined = imagine(run.dreams, run.actor, run.generator, gradients=False)
    assert imagined.valid.sum(dim=0).tolist() == [1, 1]


def test_runs_of_neighbouring_seeds_share_no_dreams():
    """Dream i takes the i-th seed after the first: were that the run's own, 7 of these 8 starts would come again."""
    starts = {}
    for name, learner in {
        "ditto": ActorCritic(**SMALL),
        "ppo": load_learner("ppo", n_steps=6, bootstrap="batched"),
    }.items():
        for seed in (0, 1):
            own = dream()
            reset = own.reset

            def keep(reset=reset, key=(name, seed), **options):
                observation, info = reset(**options)
                starts.setdefault(key, observation)
                return observation, info

            own.reset = keep
            learner.learn(own, 48, seed=seed)
        shared = [(a == b).all() for a in starts[name, 0] for b in starts[name, 1]]
        assert sum(shared) <= 1
    np.testing.assert_array_equal(starts["ditto", 1], starts["ppo", 1])


def test_metrics_are_finite_and_the_entropy_s_weight_falls_in_a_straight_line():
    seen = []
    learner = ActorCritic(**{**SMALL, "entropy": 0.2, "entropy_end": 0.1, "anchor": 0.1})
    learner.learn(dream(), 48 * 4, progress=lambda _, metrics: seen.append(metrics))
    assert [row["steps"] for row in seen] == [48, 96, 144, 192]
    np.testing.assert_allclose([row["entropy_weight"] for row in seen], [0.2, 0.175, 0.15, 0.125])
    named = {"dream_reward", "entropy", "actor_loss", "critic_loss", "return", "clone_loss", "clone_certain"}
    assert all(named <= row.keys() and all(map(math.isfinite, row.values())) for row in seen)
    assert all(-1 <= row["dream_reward"] <= 1 and 0 < row["entropy"] < math.log(3) + 1e-6 for row in seen)
    assert ActorCritic().entropy_weight(0.9) == ActorCritic().entropy == 0.05


def test_means_go_on_from_a_saved_state_and_begin_anew_when_they_are_taken():
    means = Means()
    assert means.take() == {}
    means.add({"loss": 1.0})
    again = Means()
    again.restore({"sums": {"loss": 1.0}, "summed": 1})  # as training states have it
    assert again.state() == means.state()
    again.add({"loss": 2.0})
    assert again.take() == {"loss": 1.5}
    assert again.take() == {}


def test_reports_are_means_and_the_last_update_is_always_reported():
    rows = {}
    for every in (1, 3):
        rows[every] = []
        learner = ActorCritic(**{**SMALL, "report_every": every})
        learner.learn(dream(), 48 * 5, progress=lambda _, metrics, seen=rows[every]: seen.append(metrics))
    assert [row["steps"] for row in rows[3]] == [144, 240]
    assert rows[3][0]["dream_reward"] == pytest.approx(np.mean([row["dream_reward"] for row in rows[1][:3]]))


@pytest.mark.parametrize("extra", [0, 1, 47])
def test_each_of_the_last_updates_is_reported(extra):
    seen = []
    learner = ActorCritic(**{**SMALL, "report_every": 4, "report_last": 3})
    learner.learn(dream(), 48 * 9 + extra, progress=lambda _, metrics: seen.append(int(metrics["steps"] / 48)))
    assert seen == ([4, 7, 8, 9] if not extra else [4, 8, 9, 10])


# ------------------------------------------------------------------------------------------------- what learners promise


def test_it_is_found_by_name_and_its_defaults_are_table_1():
    assert "ditto" in available("learners")
    learner = load_learner("ditto")
    assert isinstance(learner, ActorCritic)
    assert (learner.gamma, learner.td_lambda, learner.entropy, learner.learning_rate) == (0.95, 0.95, 5e-2, 3e-4)
    assert (learner.target_period, learner.gradient, learner.baseline) == (100, "reinforce", "critic")
    assert not any(
        [learner.anchor, learner.standardize_rewards, learner.normalize_advantage, learner.max_gradient_norm,
         learner.control_variate]
    )  # fmt: skip


@pytest.mark.parametrize("options", [SMALL, {**EVERYTHING, "control_variate": True}], ids=["paper", "everything"])
def test_the_learner_keeps_the_contract(options):
    check_learner("ditto", steps=400, **options)


@pytest.mark.parametrize(
    ("action_space", "options"),
    [
        (None, {}),
        (None, EVERYTHING),
        (None, {**EVERYTHING, "control_variate": True}),
        (None, {**EVERYTHING, "average": 0.9}),
        (BOX, EVERYTHING),
        (BOX, {**EVERYTHING, "gradient": "dynamics"}),
    ],
    ids=["paper", "everything", "control-variate", "average", "box", "box-dynamics"],
)
def test_a_run_that_was_cut_off_ends_exactly_where_an_unbroken_one_does(action_space, options, tmp_path):
    def own() -> DreamEnv:
        return dream(reward=Judge(), action_space=action_space)

    learner = ActorCritic(**{**SMALL, **options})
    rows = {"unbroken": [], "resumed": []}
    stores = {name: Store(tmp_path / name) for name in rows}
    learner.learn(own(), 432, seed=1, store=stores["unbroken"], progress=lambda _, m: rows["unbroken"].append(m))
    with pytest.raises(KeyboardInterrupt):
        learner.learn(own(), 432, seed=1, store=CutOff(tmp_path / "resumed", 3))
    learner.learn(own(), 432, seed=1, store=stores["resumed"], progress=lambda _, m: rows["resumed"].append(m))
    (steps, tensors, state), (_, resumed_tensors, resumed_state) = (store.latest() for store in stores.values())
    assert steps == 432
    assert state == resumed_state
    assert tensors.keys() == resumed_tensors.keys()
    for name, tensor in tensors.items():  # weights, moments, statistics, dreams, the reward, random states
        assert torch.equal(tensor, resumed_tensors[name]), name
    assert rows["unbroken"][-1] == rows["resumed"][-1]


def test_learning_neither_moves_the_global_generator_nor_listens_to_it():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    quiet = ActorCritic(**EVERYTHING).learn(dream(), 240)
    assert torch.equal(torch.rand(3), expected)
    noisy = ActorCritic(**EVERYTHING).learn(dream(), 240, progress=lambda policy, metrics: torch.rand(7))
    for name, tensor in quiet.state_dict().items():
        assert torch.equal(tensor, noisy.state_dict()[name]), name


@pytest.mark.parametrize("squash", ["tanh", "clip"])
def test_a_policy_of_a_box_comes_back_from_its_config_and_weights(squash):
    own = dream(action_space=BOX)
    policy = ActorCritic(**SMALL, squash=squash).learn(own, 96)
    weights = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    restored = ActorCritic.restore(policy.config(), weights)
    feat = own.reset(seed=3)[0]
    for deterministic in (True, False):
        torch.manual_seed(0)
        kept = policy.predict(feat, None, np.ones(8, dtype=bool), deterministic)[0]
        torch.manual_seed(0)
        np.testing.assert_array_equal(kept, restored.predict(feat, deterministic=deterministic)[0])
        assert kept.shape == (8, 2)
        own.step(kept)


def test_a_loss_that_is_not_finite_stops_the_run_and_says_what_to_do():
    with pytest.raises(
        TrainingError, match=r"a loss is .*the actor's, in update 1.*lower learning_rate.*standardize_rewards"
    ):
        ActorCritic(**SMALL).learn(dream(reward=Enormous()), 96)


def test_the_dynamics_gradient_refuses_discrete_actions():
    with pytest.raises(
        ConfigError, match=r'"dynamics" needs .* a Box; these are Discrete\(3\).*Use gradient "reinforce"'
    ):
        ActorCritic(gradient="dynamics").learn(dream(), 96)


@pytest.mark.usefixtures("_without_runtime_types")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gradient": "dynamic"}, 'gradient is one of reinforce, dynamics, not .dynamic.. Did you mean "dynamics"'),
        ({"gamma": 1.5}, "gamma lies between 0 and 1, not at 1.5"),
        ({"anchor": -1.0}, "anchor must be at least 0, not -1"),
        ({"average": 1.0}, "average must be at least 0 and less than 1, not 1"),
        ({"target_period": 0}, "target_period must be at least 1, not 0"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        replace(ActorCritic(), **options)
