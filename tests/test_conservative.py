"""CMIL's learner: its equations by hand, where its gradients go, what conservatism changes, and that it keeps the contract."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from dream_env.plugins.branching import Branches, Sequences, branch, flat
from dream_env.plugins.cmil import Cmil
from dream_env.plugins.conservative import Conservative, Vmail
from dream_env.plugins.conservative_run import ConservativeRun
from dream_env.plugins.expert_windows import ExpertWindows
from dream_env.plugins.twin_critic import branch_values, critic_loss, data_target, mixed
from gymnasium import spaces

from dream_env.checkpoint import Store
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, DatasetError
from dream_env.latent import Latent
from dream_env.model.encoded import EncodedDemos
from dream_env.plugin import Reward, load_learner
from dream_env.testing import check_learner, tiny_expert, tiny_world_model

BOX = spaces.Box(np.array([-1.0, -2.0], np.float32), np.array([1.0, 2.0], np.float32))
SMALL = {"rows": 4, "warm_start_updates": 3, "hidden": (16,), "report_every": 2, "target_period": 2}


def dream_of(reward="cmil", num_envs=12, horizon=3, gaussian=True, **options):
    world_model = tiny_world_model(action_space=BOX, ensemble=3, gaussian=gaussian)
    expert = tiny_expert(world_model)
    return DreamEnv(num_envs, wm=world_model, expert=expert, reward=reward, reward_options=options, horizon=horizon)


@pytest.mark.parametrize("name", ["cmil", "vmail"])
def test_it_keeps_the_contract(name):
    check_learner(name, steps=240, action_space=BOX, **SMALL)


def test_td_lambda_is_the_weighted_mean_of_k_step_returns():
    # Eq. 11 as printed, for H = 3, against the recursion.
    reward, value = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([10.0, 20.0, 30.0, 40.0])
    gamma, lam = 0.9, 0.7
    one = reward[0] + gamma * value[1]
    two = reward[0] + gamma * reward[1] + gamma**2 * value[2]
    three = reward[0] + gamma * reward[1] + gamma**2 * reward[2] + gamma**3 * value[3]
    expected = (1 - lam) * (one + lam * two) + lam**2 * three
    given = branch_values(reward[:, None], value[:, None], torch.full((3, 1), gamma), lam)
    assert given.shape == (4, 1)
    torch.testing.assert_close(given[0, 0], expected)
    torch.testing.assert_close(given[3, 0], value[3])


def test_the_target_of_a_recorded_step_by_hand():
    # Eq. 14: r + γ ((1 − λ) V₀ + λ V), and r alone where the step ended the episode.
    given = data_target(
        torch.tensor([[1.0, 1.0]]), torch.tensor([[10.0, 10.0]]), torch.tensor([[20.0, 20.0]]),
        torch.tensor([[0.5, 0.0]]), 0.75,
    )  # fmt: skip
    torch.testing.assert_close(given, torch.tensor([[1.0 + 0.5 * (2.5 + 15.0), 1.0]]))
    assert mixed(torch.tensor(2.0), torch.tensor(4.0), 0.25) == 2.5


def test_both_critics_regress_and_the_target_is_a_constant():
    values = torch.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    target = torch.tensor([2.0, 2.0], requires_grad=True)
    loss = critic_loss(values, target)
    assert loss == ((1 + 1) + (0 + 9)) / 2
    loss.backward()
    assert target.grad is None
    assert values.grad is not None


def run_of(dream, **options):
    return ConservativeRun(Conservative(**SMALL | options), dream, seed=0)


def test_the_actor_is_moved_through_reward_and_through_dynamics():
    dream = dream_of("cmil", alpha=0.0, horizon=2)
    torch.manual_seed(0)
    run = run_of(dream)
    for parameter in run.reward.discriminator[-1].parameters():  # a fresh one is 0 everywhere
        torch.nn.init.normal_(parameter)
    start = flat(ExpertWindows(dream, 4).draw(run.generator)[0].latent)
    leaves, forward = [], run.actor.forward

    class Noted:
        """The actor's distribution, whose draws are noted as leaves."""

        def __init__(self, feat):
            self.policy = forward(feat)

        def draw(self, generator):
            drawn = self.policy.draw(generator)
            leaves.append(drawn.action.detach().requires_grad_())
            return replace(drawn, action=leaves[-1])

    run.actor.forward = Noted
    reward = branch(dream.world_model, run.actor, run.reward, start, 2, run.generator).reward
    (own,) = torch.autograd.grad(reward[0].sum(), leaves[:1], retain_graph=True)
    assert own.abs().sum() > 0  # r(ŝ₀, a₀) by a₀: through the reward itself
    early, late = torch.autograd.grad(reward[1].sum(), leaves[:2])
    assert early.abs().sum() > 0  # r(ŝ₁, a₁) by a₀: through the model alone
    assert late.abs().sum() > 0


def test_without_a_leash_the_actor_finds_what_pays_and_the_world_model_stays():
    dream = dream_of("cmil", alpha=0.0, num_envs=64, horizon=3)
    torch.manual_seed(0)
    run = run_of(dream, anchor=0.0, learning_rate=1e-2, entropy=0.0)
    before = {name: tensor.clone() for name, tensor in dream.world_model.state_dict().items()}

    class Sign(Reward):
        """Pays for the first entry of an action."""

        def __call__(self, transition):
            return transition.action_t[:, 0]

    run.reward = Sign()
    windows = ExpertWindows(dream, 4)
    for _ in range(60):
        run.update(*([windows.draw(run.generator)[0]] * 2))
    feat = flat(windows.draw(run.generator)[0].latent).feat
    assert run.actor(feat).mode()[:, 0].mean() > 0.8
    assert all(torch.equal(tensor, before[name]) for name, tensor in dream.world_model.state_dict().items())


def test_the_leash_pulls_towards_the_expert():
    torch.manual_seed(0)
    dream = dream_of("cmil", alpha=0.0)
    loss = {}
    for anchor in (0.0, 10.0):
        run = run_of(dream, anchor=anchor, learning_rate=3e-3)
        windows = ExpertWindows(dream, 4)
        for _ in range(40):
            expert, pairs = windows.draw(run.generator)
            run.update(expert, expert, pairs)
        loss[anchor] = run.means.take()["clone_loss"]
    assert loss[10.0] < loss[0.0] - 0.05


def test_real_data_bears_no_penalty():
    dream = dream_of("cmil", alpha=10.0)
    run = run_of(dream)
    data, _ = ExpertWindows(dream, 4).draw(run.generator)
    with torch.no_grad():
        start = flat(data.latent)
        branches = branch(dream.world_model, run.actor, run.reward, start, 3, run.generator)
        assert run.data_reward(data).abs().max() == 0  # log D − log(1 − D) of a fresh D
        doubt = dream.world_model.disagreement(branches.latent[0], branches.action[0])
        torch.testing.assert_close(branches.reward[0], -10.0 * doubt)
        assert (doubt > 0).all()


def test_what_the_critics_learn_of_recorded_steps_by_hand():
    # Three rows of two sequences, the second of which ends its episode; branch 2 t + b starts on row t of sequence b.
    rows, columns, horizon, gamma, lam = 3, 2, 3, 0.9, 0.7
    run = run_of(dream_of(num_envs=8, horizon=horizon), gamma=gamma, td_lambda=lam)
    latent = ExpertWindows(run.dream, rows).expert.latents(torch.tensor([[0, 30], [1, 31], [2, 32]]))
    action = torch.tensor([[[0.1, 1.0], [0.2, -1.0]], [[0.3, 0.5], [0.4, -0.5]]])
    is_terminal = torch.tensor([[False, False], [False, False], [False, True]])
    data = Sequences(latent, action, is_terminal)

    class First(Reward):
        """Pays the first entry of an action, ten times as much for what was recorded."""

        def __call__(self, transition):
            return transition.action_t[:, 0]

        def on_data(self, transition):
            return 10.0 * transition.action_t[:, 0]

    run.reward = First()
    num = rows * columns
    value = torch.arange(1.0, 1.0 + (horizon + 1) * num).reshape(horizon + 1, num).square()
    reward = torch.arange(horizon * num).reshape(horizon, num) / 7.0
    goes_on = torch.linspace(0.2, 1.0, horizon * num).reshape(horizon, num)
    branches = Branches(
        Latent.stack([flat(latent)] * (horizon + 1)), torch.zeros(horizon + 1, num, 2), reward,
        torch.zeros(horizon + 1, num), torch.zeros(horizon + 1, num), goes_on,
    )  # fmt: skip
    run.targets.least = lambda latent, action: value
    with torch.no_grad():
        critics = run.critics(latent[:-1], action)
    losses = []
    for row in range(rows - 1):
        for column in range(columns):
            start = columns * (row + 1) + column  # the branch of the row that this step led to
            estimate = value[horizon, start]
            for t in reversed(range(horizon)):
                after = (1 - lam) * value[t + 1, start] + lam * estimate
                estimate = reward[t, start] + gamma * goes_on[t, start] * after
            ended = (row, column) == (1, 1)
            after = 0.0 if ended else gamma * ((1 - lam) * value[0, start] + lam * estimate)
            target = 10.0 * action[row, column, 0] + after
            losses.append(sum((critics[i, row, column] - target) ** 2 for i in range(2)))
    metrics = run._critic_step(branches, data)
    torch.testing.assert_close(metrics["critic_loss_data"], torch.stack(losses).mean())
    torch.testing.assert_close(metrics["data_reward"], torch.tensor(2.5))
    run.options = replace(run.options, real_critic=False)
    assert "critic_loss_data" not in run._critic_step(branches, data)


def told_losses(run):
    """The losses that the run descends, by whose they are, instead of a step on them."""
    losses = {}
    run._descend = lambda name, loss: losses.setdefault(name, loss.detach())
    return losses


def some_branches(run, horizon=3, num=4):
    """Dreams in which no two states, actions or rewards are alike."""
    torch.manual_seed(4)
    size = run.world_model.deter_size
    feat = torch.randn(horizon + 1, num, run.world_model.feat_size)
    return Branches(
        Latent(feat[..., :size], feat[..., size:]), torch.rand(horizon + 1, num, 2) - 0.5, torch.randn(horizon, num),
        torch.randn(horizon + 1, num), torch.rand(horizon + 1, num), torch.rand(horizon, num),
    )  # fmt: skip


def returns_by_hand(branches, value, gamma, lam):
    """Eq. 11 of each state of each dream: (H + 1, N) numbers."""
    estimate = [value[-1]]
    for t in reversed(range(len(branches.reward))):
        after = [(1 - lam) * v + lam * e for v, e in zip(value[t + 1], estimate[0], strict=True)]
        rewarded = zip(branches.reward[t].tolist(), branches.goes_on[t].tolist(), after, strict=True)
        estimate.insert(0, [reward + gamma * goes_on * then for reward, goes_on, then in rewarded])
    return estimate


def with_opinions(run):
    """Critics and targets that say something else of each state and action."""
    torch.manual_seed(5)
    for critics in (run.critics, run.targets):
        for net in critics.nets:
            torch.nn.init.normal_(net[-1].weight, std=2.0)
    return run


def test_what_the_critics_learn_in_dreams_by_hand():
    run = with_opinions(run_of(dream_of(num_envs=8), gamma=0.9, td_lambda=0.7))
    branches, losses = some_branches(run), told_losses(run)
    value = run.targets.least(branches.latent, branches.action).tolist()
    target = torch.tensor(returns_by_hand(branches, value, 0.9, 0.7))
    critics = run.critics(branches.latent, branches.action).detach()
    expected = sum(
        (critics[i, t] - target[t]).square().mean() / 3 for i in range(2) for t in range(3)
    )  # not of the last state
    data, _ = ExpertWindows(run.dream, 2).draw(run.generator)
    run.data_reward = lambda data: torch.zeros(data.action.shape[:2])
    data = Sequences(data.latent[:, :2], data.action[:, :2], data.is_terminal[:, :2])  # four rows, as there are dreams
    metrics = run._critic_step(branches, data)
    torch.testing.assert_close(metrics["critic_loss_model"], expected)
    torch.testing.assert_close(losses["critic"], metrics["critic_loss_model"] + metrics["critic_loss_data"])


def test_what_the_actor_learns_by_hand():
    run = with_opinions(run_of(dream_of(num_envs=8), gamma=0.9, td_lambda=0.7, entropy=0.5, anchor=2.0))
    branches, losses = some_branches(run), told_losses(run)
    value = run.critics.least(branches.latent, branches.action).tolist()
    estimate = torch.tensor(returns_by_hand(branches, value, 0.9, 0.7))
    raised = (0.3 * torch.tensor(value) + 0.7 * estimate)[:3].mean()
    expert, _ = ExpertWindows(run.dream, 4).draw(run.generator)
    likely = [
        run.actor(expert.latent[t].feat[b : b + 1]).log_prob(expert.action[t, b : b + 1]).item()
        for t in range(3) for b in range(expert.action.shape[1])
    ]  # fmt: skip
    metrics = run._actor_step(branches, expert)
    assert metrics["clone_loss"].item() == pytest.approx(-np.mean(likely), rel=1e-5)
    expected = -raised - 0.5 * branches.entropy[:3].mean() - 2.0 * torch.tensor(np.mean(likely), dtype=torch.float32)
    torch.testing.assert_close(losses["actor"], expected)


def test_targets_are_the_critics_of_the_last_whole_period():
    run = run_of(dream_of(), target_period=3)
    expected = {name: tensor.clone() for name, tensor in run.critics.state_dict().items()}
    for update in range(1, 8):
        run.update(*([ExpertWindows(run.dream, 4).draw(run.generator)[0]] * 2))
        if update in (3, 6):
            expected = {name: tensor.clone() for name, tensor in run.critics.state_dict().items()}
        assert all(torch.equal(tensor, expected[name]) for name, tensor in run.targets.state_dict().items()), update


def test_the_reward_is_given_states_with_what_was_done_in_them():
    asked, taught, recorded = [], [], []

    class Noting(Reward):
        """Notes what it is asked, what it is taught, and what it is asked of recorded steps."""

        def __call__(self, transition):
            asked.append(transition)
            return transition.action_t[:, 0]

        def on_data(self, transition):
            recorded.append(transition)
            return transition.action_t[:, 0]

        def update(self, rollout):
            taught.append(rollout)
            return {}

    run = run_of(dream_of())
    run.reward = Noting()
    windows = ExpertWindows(run.dream, 4)
    data, expert = (windows.draw(run.generator)[0] for _ in range(2))
    run.update(data, expert)
    (rollout,), (step,) = taught, recorded
    for t, transition in enumerate(asked):
        assert torch.equal(rollout.latent.feat[t], transition.latent_t.feat)
        assert torch.equal(rollout.action[t], transition.action_t)
        assert torch.equal(rollout.latent.feat[t + 1], transition.latent_tp1.feat)
    assert torch.equal(asked[0].latent_t.feat, flat(data.latent).feat)
    assert torch.equal(rollout.expert_latent.feat, expert.latent.feat)
    assert torch.equal(rollout.expert_action, expert.action)
    assert torch.equal(step.latent_t.feat, flat(data.latent[:-1]).feat)
    assert torch.equal(step.action_t, data.action.flatten(0, 1))
    assert torch.equal(step.latent_tp1.feat, flat(data.latent[1:]).feat)


def test_the_gap_is_above_0_where_the_expert_is_paid_more():
    class First(Reward):
        """Pays the first entry of an action."""

        paired = False

        def __call__(self, transition):
            return transition.action_t[:, 0]

    run = run_of(dream_of())
    run.reward = First()
    expert, _ = ExpertWindows(run.dream, 4).draw(run.generator)
    paid = Sequences(
        expert.latent, torch.full_like(expert.action, 5.0), expert.is_terminal
    )  # beyond what any actor does
    assert run.bound(paid, run.looking())["discriminator_gap"] > 4.0


def test_a_reward_that_compares_has_no_gap_to_show():
    expert, _ = ExpertWindows(dream_of(), 4).draw(torch.Generator().manual_seed(0))
    for reward, parts in (("ditto", {"disagreement"}), ("cmil", {"discriminator_gap", "disagreement"})):
        run = run_of(dream_of(reward))
        assert run.bound(expert, run.looking()).keys() == parts


def test_cmil_without_alpha_is_vmail():
    weights = []
    for learner, reward, options in ((Conservative, "cmil", {"alpha": 0.0}), (Vmail, "vmail", {})):
        dream = dream_of(reward, **options)
        policy = learner(**SMALL).learn(dream, 200, seed=3)
        weights.append(policy.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    policy = Conservative(**SMALL).learn(dream_of("cmil"), 200, seed=3)
    assert any(not torch.equal(weights[0][name], tensor) for name, tensor in policy.state_dict().items())


def test_windows_put_the_expert_beside_its_own_rows():
    dream = dream_of(num_envs=8, horizon=3)
    data, (states, actions) = ExpertWindows(dream, 4).draw(torch.Generator().manual_seed(0))
    assert data.latent.shape == (4, 2)
    assert data.action.shape == (3, 2, 2)
    assert states.shape == (4, 8)
    torch.testing.assert_close(states[0].deter, flat(data.latent).deter)
    # One step after row t of a sequence comes its row t + 1; the expert's action there is the recorded one.
    torch.testing.assert_close(states[1].deter.unflatten(0, (4, 2))[:3], data.latent.deter[1:])
    torch.testing.assert_close(actions[0].unflatten(0, (4, 2))[:3], data.action)


def test_each_part_of_a_sequence_comes_its_first_rows_too():
    latent = Latent(torch.arange(7.0).reshape(7, 1, 1), torch.zeros(7, 1, 1))
    sequences = Sequences(latent, torch.arange(6.0).reshape(6, 1, 1), torch.zeros(7, 1, dtype=torch.bool))
    rng, parts = np.random.default_rng(0), {}
    for _ in range(40):
        part = sequences.part(3, rng)
        parts[tuple(part.latent.deter.flatten().tolist())] = part.action.flatten().tolist()
        assert part.num_rows == 3
    assert parts == {(0, 1, 2): [0, 1], (3, 4, 5): [3, 4], (4, 5, 6): [4, 5]}
    for rows in (7, 9):
        whole = sequences.part(rows, rng)
        assert whole.latent.deter.flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]
        assert whole.action.flatten().tolist() == [0, 1, 2, 3, 4, 5]


def test_an_end_that_the_model_expects_discounts():
    world_model = tiny_world_model(action_space=BOX, continue_head=True)
    dream = DreamEnv(8, wm=world_model, expert=tiny_expert(world_model), reward="gail", horizon=3, terminate=True)
    run = run_of(dream)
    start = flat(ExpertWindows(dream, 4).draw(run.generator)[0].latent)
    branches = branch(world_model, run.actor, run.reward, start, 3, run.generator, terminate=True)
    torch.testing.assert_close(branches.goes_on, world_model.continue_probability(branches.latent[1:]))


def test_the_actor_sees_states_without_their_graph():
    # The way of Dreamer's code, of the two that the docstring of ``branch`` tells apart.
    dream, seen = dream_of("cmil"), []
    run = run_of(dream)
    forward = run.actor.forward
    run.actor.forward = lambda feat: seen.append(feat.requires_grad) or forward(feat)
    start = flat(ExpertWindows(dream, 4).draw(run.generator)[0].latent)
    branches = branch(dream.world_model, run.actor, run.reward, start, 2, run.generator)
    assert seen == [False] * 3
    assert branches.latent.feat.requires_grad


# ------------------------------------------------------------------------------------------ looking, and short episodes


def learned(store=None, steps=12 * 3 * 6, **options):
    seen = []
    learner = Conservative(**SMALL | options)
    policy = learner.learn(
        dream_of(), steps, seed=5, store=store, progress=lambda _, row: seen.append(row)
    )  # fmt: skip
    return policy.state_dict(), seen[1:] if store is None else seen


def test_how_often_somebody_looks_changes_nothing_that_is_learned():
    (often, each), (seldom, some) = learned(report_every=1), learned(report_every=3)
    assert all(torch.equal(often[name], tensor) for name, tensor in seldom.items())
    assert (len(each), len(some)) == (6, 2)
    for name in ("discriminator_gap", "disagreement"):  # and what is seen after an update is the same
        assert [each[2][name], each[5][name]] == [row[name] for row in some]
        assert each[4][name] != each[5][name]


def test_a_resumed_run_sees_what_an_unbroken_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr(Store, "due", lambda self: True)
    learned(Store(tmp_path / "cut"), steps=12 * 3 * 4, report_every=1)
    weights, seen = learned(Store(tmp_path / "cut"), report_every=1)
    whole, all_seen = learned(report_every=1)
    assert all(torch.equal(whole[name], tensor) for name, tensor in weights.items())
    assert seen == all_seen[4:]


def of_lengths(*lengths, slips=()):
    """A dream of an expert with episodes of so many steps, and slips at some rows."""
    world_model = tiny_world_model(action_space=BOX, ensemble=3, gaussian=True)
    tensors = tiny_expert(world_model, episodes=1, steps=sum(lengths) + len(lengths)).tensors()
    rows = sum(lengths) + len(lengths)
    slip = torch.zeros(rows, dtype=torch.bool)
    slip[list(slips)] = True
    expert = EncodedDemos(
        tensors["deter"][:rows], tensors["stoch"][:rows], tensors["action"][:rows], torch.tensor(lengths), 0,
        torch.arange(len(lengths)), slip,
    )  # fmt: skip
    return DreamEnv(16, wm=world_model, expert=expert, reward="cmil", horizon=5)


def test_episodes_that_are_too_short_are_skipped_and_told_of():
    dream = of_lengths(20, 20, 6, 20)
    windows = ExpertWindows(dream, 16)
    assert (windows.rows, windows.count, windows.too_short) == (16, 1, 1)
    assert windows.starts.tolist() == [0, 21, 49]
    with pytest.warns(UserWarning, match=r"1 of 4 expert episodes have fewer than 20 steps.* are not learned from"):
        Conservative(**SMALL | {"rows": 16}).learn(dream, 1)
    assert ExpertWindows(dream, 2).too_short == 0


@pytest.mark.parametrize(
    ("lengths", "rows"),
    [((20, 20, 20), 16), ((9, 12, 14), 8), ((9, 12), 8), ((9, 30), 16), ((20, 6, 6, 6), 2), ((5, 5, 5, 9), 5)],
)
def test_sequences_get_shorter_where_most_episodes_are(lengths, rows):
    windows = ExpertWindows(of_lengths(*lengths), 16)
    assert windows.rows == rows
    two_starts = [length for length in lengths if length >= 6]
    assert 2 * sum(length >= windows.steps for length in two_starts) >= len(two_starts)


def test_an_expert_with_too_few_clean_windows_is_refused_by_the_check():
    # The check is asked before a run takes its folder.
    slipping = of_lengths(20, 20, slips=(11, 32))
    message = (
        r"nowhere in 2 expert episodes are there 20 steps without a slip, as a sequence of 16 starts .* fewer --rows"
    )
    with pytest.raises(DatasetError, match=message):
        Conservative().check(slipping)
    Conservative(rows=4).check(slipping)
    with pytest.raises(ConfigError, match="too few for two starts"):
        Conservative().check(of_lengths(5, 5))
    # Online no horizon follows a row, and a sequence is of ``length`` rows.
    Conservative(length=12).check_online(slipping)
    message = (
        r"a sequence is of 13 rows, 12 steps of one episode without a slip; nowhere in 2 expert episodes.* --length"
    )
    with pytest.raises(DatasetError, match=message):
        Conservative(length=13).check_online(slipping)


@pytest.mark.usefixtures("_without_runtime_types")
def test_bad_options_and_numbered_actions_are_refused():
    with pytest.raises(ConfigError, match="gradients through actions, which must be numbers, a Box"):
        load_learner("cmil", **SMALL).learn(DreamEnv(4, wm=(wm := tiny_world_model()), expert=tiny_expert(wm)), 10)
    with pytest.raises(ConfigError, match="gradients through actions, which must be numbers, a Box"):
        load_learner("cmil", **SMALL).check_online(DreamEnv(4, wm=wm, expert=tiny_expert(wm), reward="gail"))
    wrong = {"gamma": 1.5, "anchor": -1.0, "rows": 1, "batch": 0, "squash": "tahn", "activation": "gelu", "hidden": (0,),
             "learning_rate": -1.0}  # fmt: skip
    for options in ({name: value} for name, value in wrong.items()):
        with pytest.raises(ConfigError, match=next(iter(options))):
            Conservative(**options)
    with pytest.raises(ConfigError, match="too few for two starts"):
        Conservative(**SMALL).learn(dream_of(horizon=20), 10)


def test_the_doubt_is_weighed_as_in_the_paper():
    assert Cmil().alpha == 10.0
