"""Matrix products, quickly: by the right library for the processor, and a sequence's weight gradients in one go.

``Linear`` is ``torch.nn.Linear`` in all but the library that computes it. On a CPU torch gives float32 products to MKL, which
uses half the width of processors that are not Intel's: there oneDNN, which torch also carries, is twice as fast. Half
precision goes to oneDNN anyway.

``Unrolled`` is for a layer that a loop over time applies again and again: what it adds to the weights' gradient is one
product over all steps, instead of a thin one and a sum over the whole weight at each.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_WORTH = 2**22
"""Multiplications below which the detour to oneDNN costs what it saves."""


def _mkl_is_slow() -> bool:
    """Whether this is an AVX-512 processor, not Intel's, and a torch with the oneDNN operator that its compiler uses."""
    cpuinfo = Path("/proc/cpuinfo")
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not cpuinfo.is_file():
        return False
    return "GenuineIntel" not in cpuinfo.read_text() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


# The processor, not a stopwatch, decides: a run that is resumed must get the same sums.
_ONEDNN = torch.backends.mkldnn.is_available() and _mkl_is_slow()


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y


def _suits_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= _WORTH
        and not torch.is_autocast_enabled("cpu")
    )


class _Product(torch.autograd.Function):
    """``x Wᵀ + b`` by oneDNN. Differentiable as often as one likes: its gradients are products of the same kind."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        return (
            linear(gradient, weight.t()) if for_x else None,
            weight_gradient(gradient, x) if for_weight else None,
            gradient.sum(dim=0) if for_bias else None,
        )


def weight_gradient(gradient: Float[Tensor, "rows out"], x: Float[Tensor, "rows in"]) -> Float[Tensor, "out in"]:
    """``Gᵀ X``: what a layer with inputs X and gradients G at its outputs adds to its weight's gradient."""
    if not _suits_onednn(gradient.t(), x.t()):
        return gradient.t() @ x
    # oneDNN is several times faster with few rows and many columns than the other way round.
    if gradient.shape[1] <= x.shape[1]:
        return linear(gradient.t(), x.t())
    return linear(x.t(), gradient.t()).t()


def linear(
    x: Float[Tensor, "*shape in"], weight: Float[Tensor, "out in"], bias: Float[Tensor, " out"] | None = None
) -> Float[Tensor, "*shape out"]:
    """``x Wᵀ + b``, as ``torch.nn.functional.linear``; equal to it up to the order of summation."""
    if not _suits_onednn(x, weight):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        y: Tensor = _Product.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    else:
        y = _onednn(rows, weight, bias)
    return y.view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """A linear layer. Input and weight may be of different precision: the weight's is that of the product."""

    def forward(self, x: Float[Tensor, "*shape in"]) -> Float[Tensor, "*shape out"]:
        return linear(x if x.dtype == self.weight.dtype else x.to(self.weight.dtype), self.weight, self.bias)


class _Steps:
    """What the steps of one layer leave for its weights: their inputs, and the gradients of their outputs."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.gradients: list[Tensor] = []


class _Share(torch.autograd.Function):
    """Hands weight and bias, in the precision of the products, to all steps; its way back comes after all of theirs."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, steps: _Steps) -> Any:
        ctx.set_materialize_grads(False)
        ctx.steps, ctx.dtype = steps, weight.dtype
        shared = weight.to(dtype) if weight.dtype != dtype else weight.view_as(weight)
        return shared, None if bias is None else bias.to(dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *_: Tensor | None) -> tuple[Tensor | None, Tensor | None, None, None]:
        if not ctx.steps.gradients:
            return None, None, None, None
        gradient, x = torch.cat(ctx.steps.gradients), torch.cat(ctx.steps.inputs)
        ctx.steps.gradients, ctx.steps.inputs = [], []
        for_bias = gradient.sum(dim=0, dtype=ctx.dtype) if ctx.needs_input_grad[1] else None
        for_weight = weight_gradient(gradient, x).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return for_weight, for_bias, None, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, steps: _Steps) -> Tensor:
        ctx.steps, ctx.dtype = steps, x.dtype
        x = x.to(weight.dtype)
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias) if _suits_onednn(x, weight) else F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        ctx.steps.gradients.append(gradient)
        ctx.steps.inputs.append(x)
        for_x = linear(gradient, weight.t()).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return for_x, None, None, None


class Unrolled:
    """One linear layer for all steps of a sequence: ``unrolled(x_t)`` is ``layer(x_t)``, and so are all gradients.

    Make it anew for each sequence. Not for second derivatives; without gradients it is the layer itself.
    """

    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer
        self._steps = _Steps() if torch.is_grad_enabled() else None
        if self._steps is not None:
            device = layer.weight.device.type
            half = torch.is_autocast_enabled(device)
            dtype = torch.get_autocast_dtype(device) if half else layer.weight.dtype
            self._shared = _Share.apply(layer.weight, layer.bias, dtype, self._steps)  # type: ignore[no-untyped-call]

    def __call__(self, x: Float[Tensor, "batch in"]) -> Float[Tensor, "batch out"]:
        if self._steps is None:
            y: Tensor = self._layer(x)
        else:
            y = _Step.apply(x, *self._shared, self._steps)  # type: ignore[no-untyped-call]
        return y
