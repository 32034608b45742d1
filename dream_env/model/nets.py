"""The networks between observations and latents: convolutional and plain encoders and decoders, and the recurrent cell."""

from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Activation = Literal["elu", "silu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "silu": nn.SiLU}

IMAGE_SIZE = 64
"""The convolutional networks have DreamerV2's geometry, which is made for 64 × 64 pictures and no other."""


def activation_module(name: Activation) -> nn.Module:
    """ELU as in DITTO and DreamerV2, or SiLU: as good, and on a CPU less than half the cost."""
    return _ACTIVATIONS[name]()


def mlp(sizes: list[int], activation: Activation, *, last_linear: bool = True) -> nn.Sequential:
    """``Linear → LayerNorm → activation`` for each pair of sizes; the last pair is a bare Linear if ``last_linear``."""
    layers: list[nn.Module] = []
    for i, (width_in, width_out) in enumerate(pairwise(sizes)):
        bare = last_linear and i == len(sizes) - 2
        layers.append(nn.Linear(width_in, width_out))
        if not bare:
            layers += [nn.LayerNorm(width_out), activation_module(activation)]
    return nn.Sequential(*layers)


class ConvEncoder(nn.Module):
    """DreamerV2's picture encoder: four stride-2 convolutions, 64 → 31 → 14 → 6 → 2."""

    def __init__(self, channels: int, depth: int, activation: Activation) -> None:
        super().__init__()
        widths = [channels, depth, 2 * depth, 4 * depth, 8 * depth]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [nn.Conv2d(width_in, width_out, kernel_size=4, stride=2), activation_module(activation)]
        self.layers = nn.Sequential(*layers)
        self.embed_size = 8 * depth * 2 * 2

    def forward(self, image: Float[Tensor, "batch channels 64 64"]) -> Float[Tensor, "batch embed"]:
        # Not .contiguous: it calls a picture of one channel channels-last as it lies, and then every layer runs in the slower
        # layout, its backward pass at half the speed.
        image = image.to(memory_format=torch.channels_last)
        embed: Tensor = self.layers(image)
        return embed.flatten(1)


class _SubPixel(torch.autograd.Function):
    """See ``UpConv``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        width_in, width_out, odd = weight.shape[0], weight.shape[1], weight.shape[-1] % 2
        weight = F.pad(weight, (0, odd, 0, odd))
        half = weight.shape[-1] // 2
        # (in, out, half, row parity, half, column parity) → one small kernel for each parity of the output's row and column.
        kernels = weight.view(width_in, width_out, half, 2, half, 2).flip(2, 4).permute(1, 3, 5, 0, 2, 4)
        kernels = kernels.reshape(4 * width_out, width_in, half, half).to(memory_format=torch.channels_last)
        quarters = F.conv2d(x, kernels, bias.repeat_interleave(4), padding=half - 1)
        image = F.pixel_shuffle(quarters, 2)
        return image[..., :-1, :-1].contiguous(memory_format=torch.channels_last) if odd else image

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        stride, zeros, ones = [2, 2], [0, 0], [1, 1]
        gradients: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
            gradient, x, weight, [weight.shape[1]], stride, zeros, ones, True, zeros, 1, [True, True, True]
        )
        return gradients


class UpConv(nn.ConvTranspose2d):
    """A transposed convolution of stride 2; on a CPU computed as an ordinary one of half the kernel, and a pixel shuffle.

    Each output pixel takes every second row and column of the kernel, which ones by its parity: four small kernels side by
    side (Shi et al. 2016, "Is the deconvolution layer the same as a convolutional layer?"). The sums are the same; libraries
    run the last layer two to three times as fast so, and in half precision the first one five times. Only the way there:
    the way back is quickest as the library has it.
    """

    def __init__(self, width_in: int, width_out: int, kernel_size: int) -> None:
        super().__init__(width_in, width_out, kernel_size, stride=2)

    def forward(
        self, x: Float[Tensor, "batch in height width"], output_size: list[int] | None = None
    ) -> Float[Tensor, "batch out height_out width_out"]:
        if x.device.type != "cpu":
            return super().forward(x, output_size)
        assert self.bias is not None
        # Under autocast x is in half precision already; inside the function nothing would cast for the way back.
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        image: Tensor = _SubPixel.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return image


class ConvDecoder(nn.Module):
    """DreamerV2's picture decoder: 1 → 5 → 13 → 30 → 64.

    Its first transposed convolution acts on a 1 × 1 picture, so it is one matrix product; written as such it runs at the
    speed of a matrix product, while convolution libraries run it at a tenth of that.
    """

    def __init__(self, feat_size: int, channels: int, depth: int, activation: Activation) -> None:
        super().__init__()
        self.first_shape = (4 * depth, 5, 5)
        self.project = nn.Linear(feat_size, 32 * depth)
        self.first = nn.Linear(32 * depth, 4 * depth * 5 * 5)
        self.layers = nn.Sequential(
            activation_module(activation),
            UpConv(4 * depth, 2 * depth, kernel_size=5),
            activation_module(activation),
            UpConv(2 * depth, depth, kernel_size=6),
            activation_module(activation),
            UpConv(depth, channels, kernel_size=6),
        )

    def forward(self, feat: Float[Tensor, "batch feat"]) -> Float[Tensor, "batch channels 64 64"]:
        first: Tensor = self.first(self.project(feat)).view(-1, *self.first_shape)
        first = first.contiguous(memory_format=torch.channels_last)
        image: Tensor = self.layers(first)
        return image


class FlatEncoder(nn.Module):
    """A plain MLP over the flattened picture or vector: for a fixed camera at 64 × 64 about four times the speed of the CNN."""

    def __init__(self, size: int, width: int, layers: int, activation: Activation) -> None:
        super().__init__()
        self.layers = mlp([size] + [width] * layers, activation, last_linear=False)
        self.embed_size = width

    def forward(self, x: Float[Tensor, "batch ..."]) -> Float[Tensor, "batch embed"]:
        embed: Tensor = self.layers(x.flatten(1))
        return embed


class FlatDecoder(nn.Module):
    """A plain MLP from the model state to a flattened picture or vector."""

    def __init__(self, feat_size: int, shape: tuple[int, ...], width: int, layers: int, activation: Activation) -> None:
        super().__init__()
        self.shape = shape
        self.layers = mlp([feat_size] + [width] * layers + [int(torch.tensor(shape).prod())], activation)

    def forward(self, feat: Float[Tensor, "batch feat"]) -> Float[Tensor, "batch ..."]:
        x: Tensor = self.layers(feat)
        return x.view(-1, *self.shape)


class NormGRUCell(nn.Module):
    """DreamerV2's GRU cell: one product for all gates, LayerNorm on it, the update gate biased by −1.

    ``r, c, u = split(LN(W [x, h]));  h' = σ(u − 1) · tanh(σ(r) · c) + (1 − σ(u − 1)) · h``.
    The bias keeps memory by default: a fresh cell passes 73 % of ``h`` on.
    """

    def __init__(self, input_size: int, deter: int) -> None:
        super().__init__()
        self.gates = nn.Linear(input_size + deter, 3 * deter, bias=False)
        self.norm = nn.LayerNorm(3 * deter)

    def forward(
        self, x: Float[Tensor, "batch input"], deter_t: Float[Tensor, "batch deter"]
    ) -> Float[Tensor, "batch deter"]:
        gates = self.gates(
            torch.cat([x, deter_t], dim=-1)
        ).float()  # under autocast only the product is in half precision
        reset, candidate, update = self.norm(gates).chunk(3, dim=-1)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1.0)
        return torch.lerp(deter_t, candidate, update)


class EnsembleMLP(nn.Module):
    """K independent ``Linear → LayerNorm → activation → Linear`` heads, computed by two batched products."""

    def __init__(self, members: int, input_size: int, hidden: int, output_size: int, activation: Activation) -> None:
        super().__init__()
        self.members = members
        self.weight_1 = nn.Parameter(torch.empty(members, input_size, hidden))
        self.bias_1 = nn.Parameter(torch.zeros(members, 1, hidden))
        self.norm_scale = nn.Parameter(torch.ones(members, 1, hidden))
        self.norm_shift = nn.Parameter(torch.zeros(members, 1, hidden))
        self.weight_2 = nn.Parameter(torch.empty(members, hidden, output_size))
        self.bias_2 = nn.Parameter(torch.zeros(members, 1, output_size))
        self.activation = activation_module(activation)
        for weight in (self.weight_1, self.weight_2):
            bound = weight.shape[1] ** -0.5  # nn.Linear's own initialisation, a fresh draw for every member
            nn.init.uniform_(weight, -bound, bound)

    def forward(self, x: Float[Tensor, "batch input"]) -> Float[Tensor, "members batch output"]:
        hidden = torch.matmul(x, self.weight_1) + self.bias_1  # (K, N, hidden)
        hidden = F.layer_norm(hidden, hidden.shape[-1:]) * self.norm_scale + self.norm_shift
        output: Tensor = torch.matmul(self.activation(hidden), self.weight_2) + self.bias_2
        return output
