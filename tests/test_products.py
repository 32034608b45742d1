import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dream_env.model import products
from dream_env.model.products import Linear, Unrolled, linear


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(params=["library", "onednn"])
def library(request, monkeypatch):
    """The two ways a product can be computed, whatever this machine's processor is."""
    if request.param == "onednn" and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("this torch has no oneDNN operator for linear layers")
    monkeypatch.setattr(products, "_ONEDNN", request.param == "onednn")
    monkeypatch.setattr(products, "_WORTH", 0)
    return request.param


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
def test_a_linear_layer_is_torchs(library, shape, bias):
    layer, plain = Linear(7, 5, bias=bias), nn.Linear(7, 5, bias=bias)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(shape, requires_grad=True)
    target = torch.randn(*shape[:-1], 5)
    results = []
    for net in (layer, plain):
        y = net(x)
        gradients = torch.autograd.grad((y - target).square().sum(), [x, *net.parameters()])
        results.append((y, *gradients))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_weights_gradient_is_right_both_ways_round(library):
    for out, width in ((3, 8), (8, 3)):
        gradient, x = torch.randn(20, out), torch.randn(20, width)
        torch.testing.assert_close(products.weight_gradient(gradient, x), gradient.T @ x)


def test_second_derivatives_pass_through(library):
    """A discriminator's gradient penalty differentiates a gradient."""
    layer = Linear(4, 3)
    x = torch.randn(5, 4, requires_grad=True)

    def penalty(weight: torch.Tensor) -> torch.Tensor:
        y = torch.tanh(linear(x, weight, layer.bias)).sum()
        (gradient,) = torch.autograd.grad(y, x, create_graph=True)
        return gradient.square().sum()

    (ours,) = torch.autograd.grad(penalty(layer.weight), layer.weight)
    weight = layer.weight.detach().double()
    step = 1e-6 * torch.eye(12, dtype=torch.float64).view(12, 3, 4)

    def by_hand(weight: torch.Tensor) -> torch.Tensor:
        slope = 1 - torch.tanh(x.double() @ weight.T + layer.bias.double()).square()
        return (slope @ weight).square().sum()

    numeric = torch.stack([(by_hand(weight + d) - by_hand(weight - d)) / 2e-6 for d in step]).view(3, 4)
    torch.testing.assert_close(ours.double(), numeric.detach(), atol=1e-3, rtol=1e-3)


def test_the_weights_precision_decides():
    layer = Linear(4, 3).to(torch.bfloat16)
    y = layer(torch.randn(2, 4))
    assert y.dtype == torch.bfloat16


def unroll(apply, x_t: torch.Tensor, steps: int) -> torch.Tensor:
    """A small recurrent loop in which the layer feeds itself."""
    total = x_t.new_zeros(())
    for t in range(steps):
        x_t = torch.tanh(apply(x_t).float())
        total = total + (t + 1) * x_t.square().sum()
    return total


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("half", [False, True])
def test_an_unrolled_layer_has_the_gradients_of_the_layer(library, half, bias):
    layer = nn.Linear(6, 6, bias=bias)
    x = torch.randn(4, 6, requires_grad=True)
    results = []
    for make in (Unrolled, lambda layer: layer):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = unroll(make(layer), x, steps=5)
        results.append((loss, *torch.autograd.grad(loss, [x, *layer.parameters()])))
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).norm() <= (3e-2 if half else 1e-5) * theirs.norm()


def test_an_unrolled_layer_leaves_the_weights_one_product_for_all_steps(monkeypatch):
    sizes = []
    original = products.weight_gradient
    monkeypatch.setattr(products, "weight_gradient", lambda g, x: sizes.append(len(x)) or original(g, x))
    unroll(Unrolled(nn.Linear(6, 6)), torch.randn(4, 6), steps=5).backward()
    assert sizes == [20]


def test_steps_whose_outputs_nobody_uses_add_nothing():
    layer = nn.Linear(3, 2)
    unrolled = Unrolled(layer)
    used, _unused = unrolled(torch.ones(1, 3)), unrolled(torch.full((1, 3), 5.0))
    used.sum().backward()
    assert layer.weight.grad.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_the_graph_of_an_unrolled_layer_can_be_walked_twice_if_kept():
    layer = nn.Linear(3, 2)
    unrolled = Unrolled(layer)
    loss = unroll(lambda x: F.pad(unrolled(x), (0, 1)), torch.randn(4, 3), steps=3)
    loss.backward(retain_graph=True)
    first = layer.weight.grad.clone()
    loss.backward()
    torch.testing.assert_close(layer.weight.grad, 2 * first)


def test_without_gradients_an_unrolled_layer_is_the_layer():
    layer = nn.Linear(3, 2)
    with torch.no_grad():
        assert torch.equal(Unrolled(layer)(torch.ones(1, 3)), layer(torch.ones(1, 3)))


def test_frozen_layers_pass_gradients_on():
    layer = nn.Linear(3, 3).requires_grad_(False)
    x = torch.randn(2, 3, requires_grad=True)
    unroll(Unrolled(layer), x, steps=2).backward()
    assert layer.weight.grad is None
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
