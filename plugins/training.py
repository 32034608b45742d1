"""What the actor-critics share: a guarded step of an optimiser, means of metrics, the state of a training as named tensors."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dream_env.checkpoint import load_optimizer, optimizer_tensors
from dream_env.device import random_states, restore_generator, restore_random_states
from dream_env.errors import TrainingError


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, max_norm: float, *, advice: str) -> Tensor:
    """One step of the optimiser on a loss, for its own parameters alone; returns the gradient's norm before it was cut.

    The loss may have been made through a world model and a reward: no gradient stays with them.

    Args:
        optimizer: of one group of parameters.
        loss: to descend.
        max_norm: the gradient is cut to it; 0 is no limit.
        advice: what to say if loss or gradient is not finite.

    Raises:
        TrainingError: if it is not.
    """
    parameters: list[Tensor] = optimizer.param_groups[0]["params"]
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=parameters)
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm or math.inf)
    if not torch.isfinite(loss + norm):
        raise TrainingError(f"a loss is {loss.item():.3g} with a gradient of norm {norm.item():.3g} {advice}")
    optimizer.step()
    return norm


def numbers_of(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Metrics of one number each, with one wait for the device."""
    return dict(zip(metrics, torch.stack([metric.detach() for metric in metrics.values()]).tolist(), strict=True))


class Means:
    """Means of metrics over the updates since they were last taken."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, numbers: Mapping[str, float]) -> None:
        """Note the metrics of one update."""
        self._sums = {name: self._sums.get(name, 0.0) + number for name, number in numbers.items()}
        self._count += 1

    def take(self) -> dict[str, float]:
        """The means, empty if there was no update; and begin anew."""
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        return means

    def state(self) -> dict[str, Any]:
        """For a training state that is saved between two reports; JSON-able."""
        return {"sums": self._sums, "summed": self._count}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was called."""
        self._sums, self._count = state["sums"], state["summed"]


def training_tensors(
    stateful: Mapping[str, Any], optimizers: Mapping[str, torch.optim.Optimizer], generator: torch.Generator
) -> dict[str, Tensor]:
    """Everything an exact resume needs as named tensors: whatever has a ``state_dict``, optimisers, all random states."""
    tensors = {"random/own": generator.get_state(), **random_states(generator.device)}
    for name, state in stateful.items():
        tensors |= {f"{name}/{key}": tensor for key, tensor in state.state_dict().items()}
    for name, optimizer in optimizers.items():
        tensors |= optimizer_tensors(optimizer, f"optimizer/{name}")
    return tensors


def load_training(
    tensors: dict[str, Tensor],
    stateful: Mapping[str, Any],
    optimizers: Mapping[str, torch.optim.Optimizer],
    generator: torch.Generator,
) -> None:
    """The inverse of ``training_tensors``; a run that was saved on another kind of device goes on with fresh random numbers."""
    for name, state in stateful.items():
        state.load_state_dict({key[len(name) + 1 :]: x for key, x in tensors.items() if key.startswith(f"{name}/")})
    for name, optimizer in optimizers.items():
        load_optimizer(optimizer, tensors, f"optimizer/{name}")
    updates = max(
        (int(x) for key, x in tensors.items() if key.startswith("optimizer/") and key.endswith("/step")), default=0
    )
    restore_generator(generator, tensors["random/own"], step=updates)
    restore_random_states(tensors, generator.device, step=updates)
