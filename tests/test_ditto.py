"""DITTO's reward, eq. 8."""

import math

import jaxtyping
import pytest
import torch
from dream_env.plugins.ditto import Ditto, max_cosine

from dream_env.errors import ConfigError
from dream_env.latent import Latent
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


@pytest.mark.parametrize(
    ("space", "expected"),
    [("h", 0.0), ("z", 1.0), ("both", 1 / 2)],
)
def test_space_chooses_which_half_is_compared(space, expected):
    step = transition(deter=[1.0, 0.0], expert_deter=[0.0, 1.0], stoch=[0.0, 1.0], expert_stoch=[0.0, 1.0])
    assert Ditto(space=space)(step).item() == pytest.approx(expected)


def test_last_step_zero_silences_the_last_step_only():
    states = {"deter": [1.0], "expert_deter": [1.0], "stoch": [1.0], "expert_stoch": [1.0]}
    quiet = Ditto(last_step_zero=True)
    assert quiet(transition(**states, t=1)).item() == 1.0
    assert quiet(transition(**states, t=2)).item() == 0.0
    assert Ditto()(transition(**states, t=2)).item() == 1.0


def test_the_expert_s_own_path_earns_one_at_every_step():
    world_model = tiny_world_model()
    rollout = tiny_rollout(world_model, tiny_expert(world_model), 6, 5)
    own = type(rollout)(rollout.expert_latent, rollout.action, rollout.expert_latent, rollout.action, rollout.valid)
    for space in ("h", "z", "both"):
        rewards = torch.stack([Ditto(space=space)(transition_of(own, t)) for t in range(5)])
        torch.testing.assert_close(rewards, torch.ones(5, 6))


@pytest.fixture
def _without_runtime_types():
    # The type checker that tests run under would refuse a wrong Literal before our own, friendlier check.
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("_without_runtime_types")
def test_an_unknown_space_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r'h, z or both, not \'bot\'. Did you mean "both"\?'):
        Ditto(space="bot")  # type: ignore[arg-type]


def test_ditto_says_its_bounds():
    assert Ditto().bounds == (-1.0, 1.0)
    assert all(math.isfinite(bound) for bound in Ditto().bounds)


@pytest.mark.parametrize("space", ["h", "z", "both"])
@pytest.mark.parametrize("gaussian", [False, True])
def test_ditto_keeps_the_contract(space, gaussian):
    check_reward("ditto", world_model=tiny_world_model(gaussian=gaussian), space=space)
