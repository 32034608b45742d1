"""What the actor-critics share: one step of an optimiser that is guarded, and the state of a training as named tensors."""

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
