"""The networks between observations and latents: convolutional and plain encoders and decoders, and the recurrent cell."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dream_env.model.convolutions import Conv, UpConv
from dream_env.model.products import Linear

Activation = Literal["elu", "silu"]

IMAGE_SIZE = 64
"""The convolutional networks have DreamerV2's geometry, which is made for 64 × 64 pictures and no other."""


class _EluFromResult(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = F.elu(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        result: Tensor = torch.ops.aten.elu_backward(gradient, 1.0, 1.0, 1.0, True, y)
        return result


class Elu(nn.Module):
    """``torch.nn.ELU``, whose slope below zero is read off its result, ``eˣ = y + 1``, instead of computing ``eˣ`` once more.

    On a CPU the way back takes half the time (torch has it for ELU in place, which convolutions made of views refuse).
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        y: Tensor = _EluFromResult.apply(x)  # type: ignore[no-untyped-call]
        return y


_ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": Elu, "silu": nn.SiLU}


def activation_module(name: Activation) -> nn.Module:
    """ELU as in DITTO and DreamerV2, or SiLU: as good, and on a CPU less than half the cost."""
    return _ACTIVATIONS[name]()


def mlp(sizes: list[int], activation: Activation, *, last_linear: bool = True) -> nn.Sequential:
    """``Linear → LayerNorm → activation`` for each pair of sizes; the last pair is a bare Linear if ``last_linear``."""
    layers: list[nn.Module] = []
    for i, (width_in, width_out) in enumerate(pairwise(sizes)):
        bare = last_linear and i == len(sizes) - 2
        layers.append(Linear(width_in, width_out))
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
            layers += [Conv(width_in, width_out, kernel_size=4), activation_module(activation)]
        self.layers = nn.Sequential(*layers)
        self.embed_size = 8 * depth * 2 * 2

    def forward(self, image: Float[Tensor, "batch channels 64 64"]) -> Float[Tensor, "batch embed"]:
        # Not .contiguous: it calls a picture of one channel channels-last as it lies, and then every layer runs in the slower
        # layout, its backward pass at half the speed.
        image = image.to(memory_format=torch.channels_last)
        embed: Tensor = self.layers(image)
        return embed.flatten(1)


class ConvDecoder(nn.Module):
    """DreamerV2's picture decoder: 1 → 5 → 13 → 30 → 64.

    Its first transposed convolution acts on a 1 × 1 picture, so it is one matrix product; written as such it runs at the
    speed of a matrix product, while convolution libraries run it at a tenth of that.
    """

    def __init__(self, feat_size: int, channels: int, depth: int, activation: Activation) -> None:
        super().__init__()
        self.first_shape = (4 * depth, 5, 5)
        self.project = Linear(feat_size, 32 * depth)
        self.first = Linear(32 * depth, 4 * depth * 5 * 5)
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
        self.gates = Linear(input_size + deter, 3 * deter, bias=False)
        self.norm = nn.LayerNorm(3 * deter)

    def forward(
        self,
        x: Float[Tensor, "batch input"],
        deter_t: Float[Tensor, "batch deter"],
        product: Callable[[Tensor], Tensor] | None = None,
    ) -> Float[Tensor, "batch deter"]:
        """``product`` stands for ``gates`` where a loop over time has something quicker."""
        product = product or self.gates
        gates = product(torch.cat([x, deter_t], dim=-1)).float()  # under autocast only the product is in half precision
        reset, candidate, update = self.norm(gates).chunk(3, dim=-1)
        candidate = _tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1.0)
        return torch.lerp(deter_t, candidate, update)


def _tanh(x: Tensor) -> Tensor:
    """``tanh(x) = 2 σ(2x) − 1``: on a CPU torch's sigmoid takes an eighth of its tanh's time, a tenth of a dreamed step."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return torch.tanh(x)
    return torch.sigmoid(2.0 * x).mul_(2.0).sub_(1.0)


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
        hidden = torch.matmul(x.to(self.weight_1.dtype), self.weight_1) + self.bias_1  # (K, N, hidden)
        hidden = F.layer_norm(hidden, hidden.shape[-1:]) * self.norm_scale + self.norm_shift
        output: Tensor = torch.matmul(self.activation(hidden), self.weight_2) + self.bias_2
        return output
