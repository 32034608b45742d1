"""One training step, forward and backward, as a single recorded CUDA graph.

A step at the papers' sizes is some ten thousand small kernels, and by others' reports launching them one by one takes many
times as long as running them (pytorch/rl issues 4216 and 4217). A graph is launched once. What it asks: the same shapes at
each call, nothing that the host must look at (no ``.item()``, no branch on numbers), noise as an input, and all of it at fixed
places in memory: inputs are copied in, gradients and losses are read where the graph leaves them.
"""

import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from dream_env.fitting.prefetch import mapped, tensors_of
from dream_env.model.rssm import Observed
from dream_env.model.world_model import Losses, WorldModel
from dream_env.recordings.demos import Batch

Graph = Literal["auto", "off"]

Step = Callable[[Batch, Tensor], Losses]
"""Leaves the gradients of a batch's loss in each ``parameter.grad``, and returns the losses."""

Record = Callable[[Callable[[], Losses], torch.device], tuple[Callable[[], object], Losses]]
"""Records a function of no arguments that works on a device: returns what plays it, and where its results lie when it has."""


class LossModule(nn.Module):
    """The loss as a ``forward``, the one thing that wrappers of modules know."""

    def __init__(self, world_model: WorldModel) -> None:
        super().__init__()
        self.world_model = world_model

    def forward(self, batch: Batch, noise: Tensor) -> Losses:
        return self.world_model.loss(batch, noise)


def eager_step(module: nn.Module) -> Step:
    """The plain step, operation by operation; the reference of the recorded one."""

    def step(batch: Batch, noise: Tensor) -> Losses:
        # None, not zero: a recorded step then owns its gradients and overwrites them each time it is played.
        module.zero_grad(set_to_none=True)
        losses: Losses = module(batch, noise)
        losses.total.backward()
        return losses

    return step


class GraphedStep:
    """``step``, recorded at its first call and played at each; where it cannot be recorded it runs as it is, and says why.

    Whoever trains with it must leave ``parameter.grad`` in place: the recording writes to those very tensors.
    """

    def __init__(self, step: Step, record: Record | None = None) -> None:
        self._step = step
        self._record = record or cuda_graph
        self._inputs: tuple[Batch, Tensor] | None = None
        self._play: Callable[[], object] | None = None
        self._losses: Losses | None = None

    def __call__(self, batch: Batch, noise: Tensor) -> Losses:
        if self._inputs is None:
            self._inputs = mapped(batch, torch.clone), noise.clone()
            self._begin(*self._inputs)
        if self._play is None or self._losses is None:
            return self._step(batch, noise)
        for place, x in zip([*tensors_of(self._inputs[0]), self._inputs[1]], [*tensors_of(batch), noise], strict=True):
            place.copy_(x, non_blocking=True)
        self._play()
        return self._losses

    def _begin(self, batch: Batch, noise: Tensor) -> None:
        outer = sys.exc_info()[1]  # what the caller may be in the middle of handling is no cause of ours
        try:
            self._play, losses = self._record(lambda: self._step(batch, noise), noise.device)
        except RuntimeError as error:  # as torch's errors of CUDA, of memory, of what cannot be recorded all are
            reason = str(_first_cause(error, outer)).strip().split("\n")[0]
            warnings.warn(
                f"the training step could not be recorded as a CUDA graph and runs operation by operation, which is "
                f"slower: {reason}. Please report it; --graph off silences this",
                stacklevel=2,
            )
        else:
            self._losses = _detached(losses)


def cuda_graph(function: Callable[[], Losses], device: torch.device) -> tuple[Callable[[], object], Losses]:
    """Record by CUDA's stream capture, after a few calls on a side stream that let libraries choose and set up."""
    with torch.cuda.device(device):
        side, before = torch.cuda.Stream(), torch.cuda.current_stream()
        side.wait_stream(before)
        with torch.cuda.stream(side):
            for _ in range(3):
                function()
        before.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: the thread that prepares batches may allocate meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                losses = function()
        except RuntimeError:
            # Where ending the capture fails too, torch.cuda.graph leaves its own stream behind, and all that follows on it.
            torch.cuda.set_stream(before)
            raise
    return graph.replay, losses


def _first_cause(error: BaseException, outer: BaseException | None) -> BaseException:
    # As a traceback has it: a capture that failed fails once more when it is ended, and says no more than that.
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return error if before is None or before is outer else _first_cause(before, outer)


def _detached(losses: Losses) -> Losses:
    # The results stay where they are; the record of how they were made is let go.
    observed = losses.observed
    return replace(
        losses,
        terms={name: x.detach() for name, x in losses.terms.items()},
        total=losses.total.detach(),
        observed=Observed(observed.latent.detach(), observed.posterior.detach(), observed.prior.detach()),
        decoded={name: x.detach() for name, x in losses.decoded.items()},
    )
