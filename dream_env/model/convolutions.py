"""Convolutions of stride 2, and their transposes, each in the formulation that a CPU is quickest at.

All compute the same sums as ``torch.nn.Conv2d`` and ``torch.nn.ConvTranspose2d``, whose weights they have. Elsewhere than on
a CPU they are those layers. Pictures are channels-last throughout.

Deep in an encoder or early in a decoder pictures are small and channels many: there a convolution is one matrix product of
its patches (``patches``, ``from_patches``), and convolution libraries run it at a fraction of a product's speed. Patches are many
times the picture, so some pictures are taken at a time: what is made of them stays in the processor's cache, and no large
block of memory is asked of the system at each step.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dream_env.model.products import linear, weight_gradient

STRIDE = 2


def patches(x: Float[Tensor, "n c h w"], size: int) -> Float[Tensor, "n rows columns patch"]:
    """Every ``size`` × ``size`` patch of channels-last pictures, two pixels apart, its numbers in the order (row, column, c)."""
    n, c, height, width = x.shape
    rows, columns = (height - size) // STRIDE + 1, (width - size) // STRIDE + 1
    x = x.contiguous(memory_format=torch.channels_last)
    by_n, _, by_row, by_column = c * height * width, 1, c * width, c
    strides = (by_n, STRIDE * by_row, STRIDE * by_column, by_row, by_column, 1)
    return x.as_strided((n, rows, columns, size, size, c), strides, x.storage_offset()).flatten(3)


def from_patches(
    patch: Float[Tensor, "n rows columns patch"], size: int, height: int, width: int
) -> Float[Tensor, "n c height width"]:
    """The transpose of ``patches``: channels-last pictures in which each pixel is the sum of all that lie on it."""
    n, rows, columns, _ = patch.shape
    patch = patch.unflatten(3, (size, -1))  # (n, rows, columns, size, size c)
    c = patch.shape[-1] // size
    pairs = (max(width, 2 * (columns - 1) + size) + 1) // 2
    image = patch.new_zeros(n, height, pairs, 2 * c)  # pixels in pairs: patches are two apart
    for row in range(size):
        below = slice(row, row + STRIDE * (rows - 1) + 1, STRIDE)
        for pair in range((size + 1) // 2):
            part = patch[:, :, :, row, 2 * pair * c : 2 * (pair + 1) * c]  # of one pixel at the edge of an odd patch
            image[:, below, pair : pair + columns, : part.shape[-1]] += part
    return image.view(n, height, 2 * pairs, c)[:, :, :width].permute(0, 3, 1, 2)


CHUNK_BYTES = 2**22
"""Of patches made at a time."""


def _empty(n: int, c: int, height: int, width: int, like: Tensor) -> Float[Tensor, "n c height width"]:
    return like.new_empty(n, height, width, c).permute(0, 3, 1, 2)


def _flat(image: Float[Tensor, "n c h w"]) -> Float[Tensor, "pixels c"]:
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def _some_at_a_time(small: Tensor, large: Tensor, patch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pictures with a pixel for each patch, and those that the patches are of, each of so many numbers."""
    count = max(1, CHUNK_BYTES // (small.shape[2:].numel() * patch * small.element_size()))
    return zip(small.split(count), large.split(count), strict=True)


def _small_from(large: Tensor, weight: Tensor, bias: Tensor | None = None) -> Float[Tensor, "n small rows columns"]:
    """The convolution, with weights (small, large, size, size)."""
    size, kernel = weight.shape[-1], _by_patch(weight).flatten(1)
    rows, columns = ((side - size) // STRIDE + 1 for side in large.shape[2:])
    small = _empty(len(large), len(weight), rows, columns, large)
    for made, some in _some_at_a_time(small, large, kernel.shape[1]):
        made.copy_(linear(patches(some, size), kernel, bias).permute(0, 3, 1, 2))
    return small


def _large_from(small: Tensor, weight: Tensor, height: int, width: int) -> Float[Tensor, "n large height width"]:
    """Its transpose."""
    size, kernel = weight.shape[-1], _by_patch(weight).flatten(1)
    large = _empty(len(small), weight.shape[1], height, width, small)
    for some, made in _some_at_a_time(small, large, kernel.shape[1]):
        patch = linear(_flat(some), kernel.t()).view(len(some), *small.shape[2:], -1)
        made.copy_(from_patches(patch, size, height, width))
    return large


def _weight_from(small: Tensor, large: Tensor, weight: Tensor) -> Float[Tensor, "small large size size"]:
    """The weights' gradient of both, whichever of the two is a gradient itself."""
    by_patch = _by_patch(weight)
    total = weight.new_zeros(by_patch.flatten(1).shape, dtype=torch.promote_types(weight.dtype, torch.float32))
    for some_small, some_large in _some_at_a_time(small, large, total.shape[1]):
        total += weight_gradient(_flat(some_small), patches(some_large, weight.shape[-1]).flatten(0, 2))
    return total.to(weight.dtype).view(by_patch.shape).permute(0, 3, 1, 2)


def _by_patch(weight: Float[Tensor, "small large k k"]) -> Float[Tensor, "small k k large"]:
    return weight.permute(0, 2, 3, 1)


class _PatchConv(torch.autograd.Function):
    """A convolution as a product with the picture's patches."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _small_from(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        for_x = _large_from(gradient, weight, *x.shape[2:])
        return for_x, _weight_from(gradient, x, weight), gradient.sum(dim=(0, 2, 3))


class _PatchUpConv(torch.autograd.Function):
    """A transposed convolution as a product that makes the picture's patches."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        height, width = (STRIDE * (side - 1) + weight.shape[-1] for side in x.shape[2:])
        return _large_from(x, weight, height, width).add_(bias.view(-1, 1, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return _small_from(gradient, weight), _weight_from(x, gradient, weight), gradient.sum(dim=(0, 2, 3))


class Conv(nn.Conv2d):
    """A convolution of stride 2; on a CPU the last of DreamerV2's encoder, 6 × 6 → 2 × 2, as a matrix product."""

    def __init__(self, width_in: int, width_out: int, kernel_size: int) -> None:
        super().__init__(width_in, width_out, kernel_size, stride=STRIDE)

    def forward(self, x: Float[Tensor, "n in h w"]) -> Float[Tensor, "n out h_out w_out"]:
        if x.device.type != "cpu" or x.shape[-1] >= 2 * self.kernel_size[0]:
            return super().forward(x)
        image: Tensor = _PatchConv.apply(x, *_at_precision(x, self))  # type: ignore[no-untyped-call]
        return image


def _block_kernels(weight: Float[Tensor, "in out k k"], cell: int) -> Float[Tensor, "blocks in k2 k2"]:
    """The kernels of ``UpConv``: one for each pixel of a block of ``2 cell`` × ``2 cell``, in the order (row, column, out)."""
    width_in, width_out, size, _ = weight.shape
    odd = size % 2
    half = (size + odd) // 2
    weight = F.pad(weight, (0, odd, 0, odd))
    # (in, out, half, row parity, half, column parity): an output row takes the kernel's rows of its own parity.
    kernels = weight.view(width_in, width_out, half, 2, half, 2).flip(2, 4).permute(3, 5, 1, 0, 2, 4)
    # Within a block the kernel of pixel pair s lies s further on.
    rows = [F.pad(kernels, (0, 0, s, cell - 1 - s)) for s in range(cell)]
    shifted = torch.stack(
        [torch.stack([F.pad(row, (s, cell - 1 - s)) for s in range(cell)], dim=1) for row in rows]
    )  # (cell, row parity, cell, column parity, out, in, k2, k2)
    return shifted.flatten(0, 4)


class _SubPixel(torch.autograd.Function):
    """See ``UpConv``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        width_out, size = weight.shape[1], weight.shape[-1]
        odd = size % 2
        half = (size + odd) // 2
        pairs = x.shape[-1] + half - 1  # of output rows, those that an odd kernel does not reach included
        # Vector units compute 8 or 16 channels at a time: where a pair of rows has fewer, two pairs are made at once.
        cell = 2 if 4 * width_out <= 8 and pairs % 2 == 0 else 1
        kernels = _block_kernels(weight, cell).contiguous(memory_format=torch.channels_last)
        blocks = F.conv2d(x, kernels, bias.repeat(4 * cell**2), stride=cell, padding=half - 1)
        # (N, v, v, row in the block, column in the block and channel) → rows of pixels, as channels-last has them.
        block, count = 2 * cell, pairs // cell
        rows = blocks.permute(0, 2, 3, 1).reshape(-1, count, count, block, block * width_out).transpose(2, 3)
        image = rows.reshape(-1, 2 * pairs, 2 * pairs, width_out).permute(0, 3, 1, 2)
        return image[..., :-1, :-1].contiguous(memory_format=torch.channels_last) if odd else image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        stride, zeros, ones = [2, 2], [0, 0], [1, 1]
        # Without the bias, whose sum takes the library up to as long as all the rest.
        for_x, for_weight, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, [weight.shape[1]], stride, zeros, ones, True, zeros, 1, [True, True, False]
        )
        return for_x, for_weight, gradient.sum(dim=(0, 2, 3))


class UpConv(nn.ConvTranspose2d):
    """A transposed convolution of stride 2; on a CPU computed as an ordinary one of half the kernel, or as a matrix product.

    Each output pixel takes every second row and column of the kernel, which ones by its parity: four small kernels side by
    side (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?"), whose outputs are then shuffled
    into place. The way back is quickest as the library has it, but for the bias.
    """

    def __init__(self, width_in: int, width_out: int, kernel_size: int) -> None:
        super().__init__(width_in, width_out, kernel_size, stride=STRIDE)

    def forward(
        self, x: Float[Tensor, "n in h w"], output_size: list[int] | None = None
    ) -> Float[Tensor, "n out h_out w_out"]:
        if x.device.type != "cpu":
            return super().forward(x, output_size)
        function = _PatchUpConv if x.shape[-1] <= self.kernel_size[0] else _SubPixel
        image: Tensor = function.apply(x, *_at_precision(x, self))  # type: ignore[no-untyped-call]
        return image


def _at_precision(x: Tensor, layer: nn.Conv2d | nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    # Under autocast x is in half precision already; inside the functions nothing would cast for the way back.
    assert layer.bias is not None
    return layer.weight.to(x.dtype), layer.bias.to(x.dtype)
