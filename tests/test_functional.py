import math

import pytest
import torch
from torch.distributions import Categorical, Normal, kl_divergence

from dream_env.functional import (
    counter_uniform,
    kl_categorical,
    kl_gaussian,
    max_cosine,
    sample_one_hot,
    sample_straight_through,
    standard_normal,
)


def test_a_sample_is_the_class_whose_cumulative_interval_holds_the_uniform():
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(4, 3)
    uniform = torch.tensor([0.1, 0.25, 0.69, 0.71])
    assert sample_one_hot(logits, uniform).argmax(-1).tolist() == [0, 1, 1, 2]


def test_the_largest_uniform_still_finds_a_class():
    logits = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0)) * 5
    sample = sample_one_hot(logits, torch.ones(1000))
    assert torch.equal(sample.sum(-1), torch.ones(1000))


def test_samples_follow_the_probabilities():
    probabilities = torch.tensor([0.1, 0.2, 0.7])
    uniform = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    frequency = sample_one_hot(probabilities.log().expand(20_000, 3), uniform).mean(0)
    torch.testing.assert_close(frequency, probabilities, atol=0.01, rtol=0)


def test_straight_through_passes_the_gradient_of_the_probabilities():
    logits = torch.tensor([[0.3, -0.2, 1.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 2.0, 3.0]])
    (sample_straight_through(logits, torch.tensor([0.5])) * weight).sum().backward()
    twin = logits.detach().clone().requires_grad_()
    (twin.softmax(-1) * weight).sum().backward()
    torch.testing.assert_close(logits.grad, twin.grad)


def test_straight_through_and_plain_samples_agree():
    logits = torch.randn(50, 4, 8)
    uniform = torch.rand(50, 4)
    torch.testing.assert_close(sample_straight_through(logits, uniform), sample_one_hot(logits, uniform))


def test_max_cosine_drops_with_the_angle_and_with_the_length():
    a, b = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 2.0])
    assert max_cosine(a, b).item() == pytest.approx(4 / 5)
    assert max_cosine(a, 4 * a).item() == pytest.approx(1 / 4)
    assert max_cosine(a, -a).item() == pytest.approx(-1.0)
    assert max_cosine(0 * a, 0 * a).item() == 0.0
    x, y = torch.randn(2, 50, 7, generator=torch.Generator().manual_seed(0))
    literal = (x * y).sum(-1) / torch.maximum(x.norm(dim=-1), y.norm(dim=-1)).square()
    torch.testing.assert_close(max_cosine(x, y), literal)


def test_categorical_kl_equals_torchs_and_is_zero_between_equals():
    q, p = torch.randn(2, 5, 3, 4)
    expected = kl_divergence(Categorical(logits=q), Categorical(logits=p)).sum(-1)
    torch.testing.assert_close(kl_categorical(q, p), expected)
    torch.testing.assert_close(kl_categorical(q, q), torch.zeros(5))


def test_categorical_kl_by_hand():
    q = torch.tensor([[[0.5, 0.5]]]).log()
    p = torch.tensor([[[0.25, 0.75]]]).log()
    assert kl_categorical(q, p).item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_gaussian_kl_equals_torchs():
    mean_q, mean_p = torch.randn(2, 5, 3)
    std_q, std_p = torch.rand(2, 5, 3) + 0.1
    expected = kl_divergence(Normal(mean_q, std_q), Normal(mean_p, std_p)).sum(-1)
    torch.testing.assert_close(kl_gaussian(mean_q, std_q, mean_p, std_p), expected)


def test_standard_normal_has_moments_zero_and_one_and_is_finite_at_the_ends():
    normal = standard_normal(torch.rand(50_000, generator=torch.Generator().manual_seed(0)))
    assert abs(normal.mean().item()) < 0.02
    assert abs(normal.std().item() - 1.0) < 0.02
    assert standard_normal(torch.tensor([0.0, 1.0])).isfinite().all()


def test_counter_uniform_is_uniform_over_seeds_counters_and_lanes():
    seeds = torch.arange(200).repeat_interleave(50)
    counters = torch.arange(50).repeat(200)
    uniform = counter_uniform(seeds, counters, 8)
    assert uniform.min() > 0
    assert uniform.max() < 1
    histogram = torch.histc(uniform, bins=10, min=0, max=1) / uniform.numel()
    torch.testing.assert_close(histogram, torch.full((10,), 0.1), atol=0.005, rtol=0)
    by_seed = uniform.view(200, -1).mean(1)
    assert (by_seed - 0.5).abs().max() < 0.07  # five standard errors of a mean of 400
    correlation = torch.corrcoef(torch.stack([uniform[:-1, 0], uniform[1:, 0], uniform[:-1, 1]]))
    assert (correlation - torch.eye(3)).abs().max() < 0.05


def test_counter_uniform_of_a_row_depends_on_its_own_seed_and_counter_only():
    seeds, counters = torch.tensor([3, 7, 9]), torch.tensor([0, 5, 2])
    together = counter_uniform(seeds, counters, 4)
    alone = torch.cat([counter_uniform(seeds[i : i + 1], counters[i : i + 1], 4) for i in range(3)])
    assert torch.equal(together, alone)
    assert not torch.equal(together, counter_uniform(seeds + 1, counters, 4))


@pytest.mark.parametrize("shape", [(5, 7, 16), (3, 32), (4, 2, 2)])
def test_a_sample_is_the_first_class_whose_cumulative_probability_is_above_the_uniform(shape):
    torch.manual_seed(0)
    logits, uniform = 3 * torch.randn(shape), torch.rand(shape[:-1])
    uniform.view(-1)[:2] = torch.tensor([0.0, 1.0])
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    below = cumulative <= uniform.unsqueeze(-1) * cumulative[..., -1:]
    index = below.sum(dim=-1).clamp(max=shape[-1] - 1)
    assert torch.equal(sample_one_hot(logits, uniform), torch.nn.functional.one_hot(index, shape[-1]).float())
