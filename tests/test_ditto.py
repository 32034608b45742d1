"""DITTO's reward: eq. 8, its rivals, and eq. 7."""

import math

import pytest
import torch
from dream_env.plugins import nearest_state
from dream_env.plugins.ditto import Ditto, max_cosine
from dream_env.plugins.nearest_state import NearestState
from dream_env.plugins.similarity import cosine, negative_distance
from torch import Tensor

from dream_env.errors import ConfigError, PluginError
from dream_env.latent import Latent
from dream_env.model.encoded import EncodedDemos
from dream_env.plugin import Transition
from dream_env.testing import check_reward, tiny_expert, tiny_rollout, tiny_world_model, transition_of


def transition(
    deter: list[float], expert_deter: list[float], stoch: list[float], expert_stoch: list[float], t: int = 0
):
    mine = Latent(torch.tensor([deter]), torch.tensor([stoch]))
    expert = Latent(torch.tensor([expert_deter]), torch.tensor([expert_stoch]))
    action, elsewhere = torch.zeros(1, dtype=torch.int64), mine.map(lambda half: half + 9.0)
    return Transition(elsewhere, action, mine, elsewhere, action, expert, torch.tensor([t]), horizon=3)


def test_reward_is_the_number_computed_by_hand():
    # a·b = 1·2 + 2·0 + 2·1 = 4, ‖a‖ = 3, ‖b‖ = √5: 4 / max(3, √5)² = 4 / 9
    a, b = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([2.0, 0.0, 1.0])
    assert max_cosine(a, b).item() == pytest.approx(4 / 9)


def test_reward_is_eq_8_written_with_norms():
    a, b = torch.randn(50, 7), torch.randn(50, 7)
    literal = (a * b).sum(-1) / torch.maximum(a.norm(dim=-1), b.norm(dim=-1)) ** 2
    torch.testing.assert_close(max_cosine(a, b), literal)


def test_the_same_state_earns_one_and_the_opposite_minus_one():
    a = torch.randn(20, 5)
    torch.testing.assert_close(max_cosine(a, a), torch.ones(20))
    torch.testing.assert_close(max_cosine(a, -a), -torch.ones(20))


def test_reward_is_symmetric_and_bounded_however_long_the_states_are():
    a = torch.randn(500, 5) * torch.logspace(-12, 12, 500).unsqueeze(1)
    b = torch.randn(500, 5) * torch.logspace(12, -12, 500).unsqueeze(1)
    assert torch.equal(max_cosine(a, b), max_cosine(b, a))
    assert max_cosine(a, b).abs().max() <= 1.0


def test_a_longer_state_in_the_same_direction_earns_the_ratio_of_lengths():
    a = torch.randn(4)
    assert max_cosine(a, 4 * a).item() == pytest.approx(1 / 4)


def test_states_of_zero_norm_earn_zero_instead_of_nan():
    zero, one = torch.zeros(3), torch.ones(3)
    assert max_cosine(zero, zero).item() == 0.0
    assert max_cosine(zero, one).item() == 0.0


def test_cosine_and_distance_are_the_numbers_computed_by_hand():
    a, b = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([2.0, 0.0, 1.0])
    assert cosine(a, b).item() == pytest.approx(4 / (3 * math.sqrt(5)))
    # a − b = (−1, 2, 1), ‖a − b‖ = √6, three components: −√6 / √3
    assert negative_distance(a, b).item() == pytest.approx(-math.sqrt(2))


def test_cosine_does_not_see_lengths_and_the_distance_does_not_see_widths():
    a, b = torch.randn(20, 5), torch.randn(20, 5)
    torch.testing.assert_close(cosine(3.0 * a, 0.1 * b), cosine(a, b))
    torch.testing.assert_close(cosine(a, 7.0 * a), torch.ones(20))
    assert cosine(torch.zeros(5), a[0]).item() == 0.0
    torch.testing.assert_close(negative_distance(a.repeat(1, 4), b.repeat(1, 4)), negative_distance(a, b))


def test_between_states_of_one_length_the_dot_product_is_the_cosine():
    a, b = (torch.nn.functional.one_hot(torch.randint(4, (30, 6)), 4).flatten(1).float() for _ in range(2))
    torch.testing.assert_close(max_cosine(a, b), cosine(a, b))


def test_distance_has_a_gradient_even_where_it_is_zero():
    a = torch.zeros(2, 3, requires_grad=True)
    negative_distance(a, torch.zeros(2, 3)).sum().backward()
    assert torch.equal(a.grad, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("space", "expected"),
    [("h", 0.0), ("z", 1.0), ("both", 1 / 2)],
)
def test_space_chooses_which_half_is_compared(space, expected):
    step = transition(deter=[1.0, 0.0], expert_deter=[0.0, 1.0], stoch=[0.0, 1.0], expert_stoch=[0.0, 1.0])
    assert Ditto(space=space)(step).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("metric", "expected"), [("dot", 3 / 4), ("cosine", math.sqrt(3 / 4)), ("l2", -math.sqrt(1 / 4)), ("nearest", 1.0)]
)
def test_metric_chooses_how_they_are_compared(metric, expected):
    # a·b = 3, ‖a‖² = 4, ‖b‖² = 3, ‖a − b‖² = 1 over four components; and the expert was at a at another step
    a, b = [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 0.0]
    step = transition(deter=a, expert_deter=b, stoch=[0.0], expert_stoch=[0.0])
    reward = Ditto(metric=metric)
    reward.prepare(tiny_world_model(), by_hand([[0.0, 0.0, 0.0, 0.0], a, b]))
    assert reward(step).item() == pytest.approx(expected)


def test_last_step_zero_silences_the_last_step_only():
    states = {"deter": [1.0], "expert_deter": [1.0], "stoch": [1.0], "expert_stoch": [1.0]}
    quiet = Ditto(last_step_zero=True)
    assert quiet(transition(**states, t=1)).item() == 1.0
    assert quiet(transition(**states, t=2)).item() == 0.0
    assert Ditto()(transition(**states, t=2)).item() == 1.0


def test_without_options_it_is_eq_8_on_h_to_the_last_bit():
    world_model = tiny_world_model()
    step = transition_of(tiny_rollout(world_model, tiny_expert(world_model), 9, 5), 4)
    a, b = step.expert_latent_tp1.deter, step.latent_tp1.deter
    longest = torch.maximum(a.square().sum(-1), b.square().sum(-1))
    assert torch.equal(Ditto()(step), ((a * b).sum(-1) / longest).clamp(-1, 1))


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2", "nearest"])
def test_the_expert_s_own_path_earns_the_most_there_is_at_every_step(metric):
    world_model = tiny_world_model()
    expert = tiny_expert(world_model)
    rollout = tiny_rollout(world_model, expert, 6, 5)
    own = type(rollout)(rollout.expert_latent, rollout.action, rollout.expert_latent, rollout.action, rollout.valid)
    for space in ("h", "z", "both"):
        reward = Ditto(space=space, metric=metric)
        reward.prepare(world_model, expert)
        rewards = torch.stack([reward(transition_of(own, t)) for t in range(5)])
        torch.testing.assert_close(rewards, torch.full((5, 6), reward.bounds[1]))


# --- the nearest state, eq. 7


def by_hand(rows: list[list[float]], slip: list[bool] | None = None) -> EncodedDemos:
    """One episode with these h."""
    num = len(rows)
    stoch, action = torch.zeros(num, 1, dtype=torch.uint8), torch.zeros(num, dtype=torch.int64)
    slips = None if slip is None else torch.tensor([*slip, False])
    lengths, index = torch.tensor([num - 1]), torch.tensor([0])
    return EncodedDemos(torch.tensor(rows).half(), stoch, action, lengths, 1, index, slips)


def nearest_of(expert: EncodedDemos, deter: list[float]) -> float:
    reward = Ditto(metric="nearest")
    reward.prepare(tiny_world_model(), expert)
    elsewhere = [9.0] * len(deter)
    return reward(transition(deter, elsewhere, [1.0], [1.0])).item()


def test_nearest_finds_any_state_that_a_step_of_the_expert_led_to():
    path = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    assert nearest_of(by_hand(path), [0.0, 1.0]) == 1.0
    assert nearest_of(by_hand(path), [-2.0, 0.0]) == pytest.approx(1 / 2)
    # The episode's first state is where nothing led to: of the others one is at a right angle, one opposite.
    assert nearest_of(by_hand(path), [1.0, 0.0]) == 0.0


def test_nearest_is_blind_to_where_a_slip_led():
    path = [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    assert nearest_of(by_hand(path, slip=[True, False]), [0.0, 1.0]) == 0.0
    assert nearest_of(by_hand(path, slip=[True, False]), [-1.0, 0.0]) == 1.0


def search(states: Tensor) -> NearestState:
    return NearestState(lambda rows: states[rows], len(states), torch.device("cpu"))


def one_by_one(query: Tensor, states: Tensor) -> Tensor:
    """Eq. 7's search as it is written down."""
    return torch.stack([max_cosine(one.expand_as(states), states).argmax() for one in query])


def far_and_near(num: int, size: int) -> tuple[Tensor, Tensor]:
    """States on a narrow path with a few elsewhere, and queries beside the path, on it, far off and opposite to it."""
    step = torch.randn(num, size) * torch.linspace(1.0, 0.05, size)
    states = step.cumsum(0) / 10 + torch.linspace(2.0, 0.0, size)
    states[::17] *= 5
    beside = states[torch.randint(num, (12,))]
    return torch.cat([beside + 0.1 * torch.randn(12, size), beside[:3], torch.randn(9, size), -beside[:3]]), states


@pytest.mark.parametrize("bounds", [1, 500, 2**23])
@pytest.mark.parametrize("chunk", [1, 60, 2**21])
@pytest.mark.parametrize(("num", "size"), [(1, 4), (63, 1), (64, 3), (65, 20), (700, 32)])
def test_the_search_finds_what_comparing_one_by_one_finds(num, size, chunk, bounds, monkeypatch):
    monkeypatch.setattr(nearest_state, "_CHUNK", chunk)
    monkeypatch.setattr(nearest_state, "_BOUNDS", bounds)
    torch.manual_seed(0)
    query, states = far_and_near(num, size)
    found = search(states)
    plain = max_cosine(query, states[one_by_one(query, states)])
    torch.testing.assert_close(max_cosine(query, states[found(query)]), plain)
    torch.testing.assert_close(max_cosine(query, states[found.compare_all(query)]), plain)


@pytest.mark.parametrize("beside", [1e-3, 3e-4, 1e-4, 1e-5, 0.0])
def test_states_that_almost_lie_in_few_axes_are_found_however_bounds_are_rounded(beside):
    torch.manual_seed(0)
    states = torch.randn(2000, 12) @ torch.randn(12, 64) / 8
    states += beside * states.norm(dim=1, keepdim=True) * torch.randn(2000, 64) / 8
    query = states[torch.randint(2000, (400,))] + torch.randn(400, 64) / 2
    assert torch.equal(search(states)(query), search(states).compare_all(query))


def test_of_equally_near_states_the_first_is_found():
    states = torch.eye(3).repeat(70, 1)
    assert (
        search(states)(2 * torch.eye(3)).tolist() == search(states).compare_all(2 * torch.eye(3)).tolist() == [0, 1, 2]
    )


def test_states_and_queries_of_length_0_are_found_as_by_comparing_all():
    states = torch.cat([-torch.eye(3), torch.zeros(2, 3)])
    query = torch.cat([torch.zeros(1, 3), torch.eye(3)])
    assert search(states)(query).tolist() == search(states).compare_all(query).tolist() == [0, 1, 0, 0]


def test_the_search_compares_few_states_in_full():
    torch.manual_seed(0)
    _, states = far_and_near(5000, 32)
    query, compared = states[::50] + 0.05 * torch.randn(100, 32), []
    found = NearestState(lambda rows: compared.append(len(rows)) or states[rows], 5000, torch.device("cpu"))
    compared.clear()
    nearest = found(query)
    assert torch.equal(nearest, found.compare_all(query))
    assert sum(compared) - 5000 < 0.05 * 100 * 5000  # compare_all took each once, for all queries


@pytest.mark.parametrize("space", ["h", "z", "both"])
def test_nearest_is_never_below_the_same_step(space):
    world_model = tiny_world_model(gaussian=True)
    expert = tiny_expert(world_model)
    rollout = tiny_rollout(world_model, expert, 40, 5)
    reward = Ditto(space=space, metric="nearest")
    reward.prepare(world_model, expert)
    for step in (transition_of(rollout, t) for t in range(5)):
        assert (reward(step) >= Ditto(space=space)(step) - 1e-6).all()
    assert (reward(step) > Ditto(space=space)(step) + 1e-3).any()


def test_a_search_without_demonstrations_says_what_to_do():
    step = transition([1.0], [1.0], [1.0], [1.0])
    with pytest.raises(PluginError, match=r"call prepare\(...\) first"):
        Ditto(metric="nearest")(step)


# --- options


@pytest.mark.usefixtures("_without_runtime_types")
def test_an_unknown_space_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r'h, z or both, not \'bot\'. Did you mean "both"\?'):
        Ditto(space="bot")  # type: ignore[arg-type]


@pytest.mark.usefixtures("_without_runtime_types")
def test_an_unknown_metric_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r'dot, cosine, l2 or nearest, not \'cos\'. Did you mean "cosine"\?'):
        Ditto(metric="cos")  # type: ignore[arg-type]


def test_ditto_says_its_bounds():
    assert Ditto().bounds == Ditto(metric="cosine").bounds == Ditto(metric="nearest").bounds == (-1.0, 1.0)
    assert Ditto(metric="l2").bounds == (-math.inf, 0.0)


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2", "nearest"])
@pytest.mark.parametrize("space", ["h", "z", "both"])
@pytest.mark.parametrize("gaussian", [False, True])
def test_ditto_keeps_the_contract(space, metric, gaussian):
    check_reward("ditto", world_model=tiny_world_model(gaussian=gaussian), space=space, metric=metric)


@pytest.mark.parametrize("metric", ["dot", "cosine", "l2", "nearest"])
def test_every_metric_keeps_the_contract_with_a_silent_last_step(metric):
    check_reward("ditto", last_step_zero=True, metric=metric)
