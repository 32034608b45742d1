import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dream_env.model.nets import (
    ConvDecoder,
    ConvEncoder,
    Elu,
    EnsembleMLP,
    FlatDecoder,
    FlatEncoder,
    NormGRUCell,
    mlp,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def sides(net: nn.Sequential, x: torch.Tensor) -> list[int]:
    """Side of the picture after each convolution."""
    found = []
    for layer in net:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert x.shape[-1] == x.shape[-2]
            found.append(x.shape[-1])
    return found


def test_the_convolutional_encoder_halves_four_times():
    encoder = ConvEncoder(3, 2, "elu")
    image = torch.randn(5, 3, 64, 64)
    assert sides(encoder.layers, image) == [31, 14, 6, 2]
    assert encoder.embed_size == 8 * 2 * 2 * 2
    assert encoder(image).shape == (5, encoder.embed_size)


def test_the_convolutional_decoder_grows_to_64():
    decoder = ConvDecoder(7, 3, 2, "elu")
    assert decoder.first_shape == (8, 5, 5)
    assert sides(decoder.layers, torch.randn(1, 8, 5, 5)) == [13, 30, 64]
    assert decoder(torch.randn(4, 7)).shape == (4, 3, 64, 64)


def test_the_decoders_first_product_is_a_transposed_convolution_of_one_pixel():
    depth = 3
    decoder = ConvDecoder(7, 1, depth, "silu")
    convolution = nn.ConvTranspose2d(32 * depth, 4 * depth, kernel_size=5, stride=2)
    with torch.no_grad():
        decoder.first.weight.copy_(convolution.weight.flatten(1).T)
        decoder.first.bias.copy_(convolution.bias.repeat_interleave(25))
    feat = torch.randn(6, 7)
    expected = decoder.layers(convolution(decoder.project(feat)[..., None, None]))
    torch.testing.assert_close(decoder(feat), expected, atol=1e-5, rtol=1e-5)


def test_a_picture_of_one_channel_goes_through_the_encoder_channels_last():
    seen = []
    encoder = ConvEncoder(1, 2, "elu")
    encoder.layers[0].register_forward_hook(lambda _module, _args, output: seen.append(output))
    encoder(torch.randn(3, 1, 64, 64))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


def test_plain_nets_flatten_pictures_and_shape_them_again():
    encoder = FlatEncoder(3 * 8 * 8, 16, 2, "silu")
    assert encoder(torch.randn(5, 3, 8, 8)).shape == (5, encoder.embed_size) == (5, 16)
    assert FlatDecoder(7, (3, 8, 8), 16, 2, "silu")(torch.randn(5, 7)).shape == (5, 3, 8, 8)
    assert FlatDecoder(7, (4,), 16, 0, "silu")(torch.randn(5, 7)).shape == (5, 4)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)]
)
def test_elu_and_its_slope_are_torch_s(dtype, tolerance):
    x = torch.linspace(-9, 3, 97, dtype=dtype)
    ours, theirs = (x.clone().requires_grad_() for _ in range(2))
    gradient = torch.randn_like(x)
    y, expected = Elu()(ours), nn.ELU()(theirs)
    assert torch.equal(y, expected)
    y.backward(gradient)
    expected.backward(gradient)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        assert torch.equal(Elu()(x), expected)


def test_elu_can_be_differentiated_twice():
    x = torch.tensor([-2.0, -0.3, 0.4, 1.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Elu(), (x,))
    assert torch.autograd.gradgradcheck(Elu(), (x,))


@pytest.mark.parametrize(("last_linear", "last"), [(True, nn.Linear), (False, nn.SiLU)])
def test_the_last_layer_of_an_mlp_is_bare_if_asked(last_linear, last):
    layers = mlp([4, 8, 2], "silu", last_linear=last_linear)
    assert isinstance(layers[-1], last)
    assert sum(isinstance(layer, nn.LayerNorm) for layer in layers) == (1 if last_linear else 2)


def test_without_gradients_the_recurrent_cell_computes_the_same():
    cell = NormGRUCell(3, 256)
    x, h = 10 * torch.randn(500, 3), torch.rand(500, 256) * 2 - 1
    with torch.no_grad():
        quick = cell(x, h)
    assert quick.abs().max() <= 1
    torch.testing.assert_close(quick, cell(x, h).detach(), atol=3e-7, rtol=0)


def test_the_recurrent_cell_follows_its_formula():
    cell = NormGRUCell(3, 4)
    with torch.no_grad():
        cell.norm.weight.uniform_(0.5, 1.5)
        cell.norm.bias.uniform_(-0.5, 0.5)
    x, h = torch.randn(5, 3), torch.randn(5, 4)
    product = torch.cat([x, h], dim=1) @ cell.gates.weight.T
    centred = product - product.mean(dim=1, keepdim=True)
    normed = centred / (centred.square().mean(dim=1, keepdim=True) + 1e-5).sqrt() * cell.norm.weight + cell.norm.bias
    r, c, u = normed[:, :4], normed[:, 4:8], normed[:, 8:]
    update = 1 / (1 + torch.exp(1 - u))
    expected = update * torch.tanh(c / (1 + torch.exp(-r))) + (1 - update) * h
    torch.testing.assert_close(cell(x, h), expected)


def test_a_cell_that_knows_nothing_keeps_73_percent_of_its_memory():
    cell = NormGRUCell(3, 4)
    nn.init.zeros_(cell.gates.weight)
    h = torch.randn(5, 4)
    torch.testing.assert_close(cell(torch.randn(5, 3), h), 0.7310586 * h)


def test_an_ensemble_is_so_many_separate_nets():
    members, (width_in, hidden, width_out) = 3, (5, 8, 4)
    ensemble = EnsembleMLP(members, width_in, hidden, width_out, "elu")
    with torch.no_grad():
        for parameter in ensemble.parameters():  # biases and norms start alike in all members
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(7, width_in)
    outputs = ensemble(x)
    assert outputs.shape == (members, 7, width_out)
    for k in range(members):
        net = mlp([width_in, hidden, width_out], "elu")
        values = {
            "0.weight": ensemble.weight_1[k].T, "0.bias": ensemble.bias_1[k, 0],
            "1.weight": ensemble.norm_scale[k, 0], "1.bias": ensemble.norm_shift[k, 0],
            "3.weight": ensemble.weight_2[k].T, "3.bias": ensemble.bias_2[k, 0],
        }  # fmt: skip
        net.load_state_dict(values)
        torch.testing.assert_close(outputs[k], net(x))


def test_the_members_of_an_ensemble_start_apart_and_learn_apart():
    ensemble = EnsembleMLP(2, 5, 8, 4, "silu")
    first, second = ensemble(torch.randn(7, 5))
    assert not torch.allclose(first, second)
    F.mse_loss(first, torch.zeros_like(first)).backward()
    assert ensemble.weight_1.grad[0].any()
    assert not ensemble.weight_1.grad[1].any()
