import pytest
import torch
from torch import nn

from dream_env.model import convolutions
from dream_env.model.convolutions import Conv, UpConv, from_patches, patches


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_patches_lie_two_pixels_apart_and_hold_their_rows_in_order():
    image = torch.arange(2 * 16.0).view(1, 2, 4, 4)  # channel 0 counts from 0, channel 1 from 16
    cut = patches(image, 2)
    assert cut.shape == (1, 2, 2, 8)
    assert cut[0, 0, 1].tolist() == [2, 18, 3, 19, 6, 22, 7, 23]


@pytest.mark.parametrize(("size", "side"), [(2, 6), (4, 6), (5, 13), (6, 14)])
def test_pictures_from_patches_are_the_transpose_of_patches_from_pictures(size, side):
    image = torch.randn(2, 3, side, side, dtype=torch.float64)
    patch = torch.randn_like(patches(image, size))
    left = (patches(image, size) * patch).sum()
    torch.testing.assert_close(left, (image * from_patches(patch, size, side, side)).sum())


def both(fast: nn.Module, plain: nn.Module, image: torch.Tensor, precision: torch.dtype):
    """Output and all gradients of a layer and of its plain twin with the same weights."""
    plain.load_state_dict(fast.state_dict())
    results = []
    for layer in (fast, plain):
        x = image.clone().requires_grad_()
        with torch.autocast("cpu", precision, enabled=precision == torch.bfloat16):
            y = layer(x.to(precision))
        (y.float() * torch.linspace(-1, 1, y[0].numel()).view(y[0].shape)).square().sum().backward()
        results.append((y, x.grad, layer.weight.grad, layer.bias.grad))
    tolerance = 1e-5 if precision == torch.float32 else 3e-2
    for ours, theirs in zip(*results, strict=True):
        assert ours.dtype == theirs.dtype
        assert (ours - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.parametrize("chunk_bytes", [1, 3000])  # a picture at a time; two or three, and a rest
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("fast", "plain", "side"),
    [(Conv(8, 5, 4), nn.Conv2d(8, 5, 4, stride=2), 6), (UpConv(8, 3, 5), nn.ConvTranspose2d(8, 3, 5, stride=2), 5)],
    ids=["conv", "up"],
)
def test_some_pictures_at_a_time_are_all_of_them(fast, plain, side, precision, chunk_bytes, monkeypatch):
    monkeypatch.setattr(convolutions, "CHUNK_BYTES", chunk_bytes)
    both(fast, plain, torch.randn(7, 8, side, side).to(memory_format=torch.channels_last), precision)


def test_float64_stays_float64():
    fast, plain = UpConv(8, 3, 5).double(), nn.ConvTranspose2d(8, 3, 5, stride=2).double()
    plain.load_state_dict(fast.state_dict())
    image = torch.randn(4, 8, 5, 5, dtype=torch.float64)
    for layer in (fast, plain):
        layer(image).square().sum().backward()
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad, rtol=1e-12, atol=1e-12)


precisions = pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])


@pytest.mark.parametrize(("side", "as_product"), [(6, True), (7, True), (14, False)])
@precisions
def test_the_convolution_is_torchs(side, as_product, precision, monkeypatch):
    made = []
    monkeypatch.setattr(convolutions, "patches", lambda *args: made.append(1) or patches(*args))
    image = torch.randn(3, 8, side, side).to(memory_format=torch.channels_last)
    both(Conv(8, 5, 4), nn.Conv2d(8, 5, 4, stride=2), image, precision)
    assert bool(made) == as_product


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "side"), [(5, 5), (6, 5), (5, 13), (6, 13), (6, 30), (4, 8)])
@precisions
def test_the_up_convolution_is_torchs(kernel, side, channels, precision):
    """One or two channels of an even number of pairs are made two pairs at a time, small pictures as a product."""
    image = torch.randn(2, 4, side, side).to(memory_format=torch.channels_last)
    both(UpConv(4, channels, kernel), nn.ConvTranspose2d(4, channels, kernel, stride=2), image, precision)


@pytest.mark.parametrize(("kernel", "side"), [(5, 5), (6, 13), (6, 30)])
def test_pictures_come_out_channels_last(kernel, side):
    image = torch.randn(2, 4, side, side).to(memory_format=torch.channels_last)
    assert UpConv(4, 3, kernel)(image).is_contiguous(memory_format=torch.channels_last)
    assert Conv(4, 3, 4)(image).is_contiguous(memory_format=torch.channels_last)
