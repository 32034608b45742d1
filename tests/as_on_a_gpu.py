"""What a GPU would do, played without one: recorded steps, and operations that know shapes and no numbers."""

import weakref
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dream_env.fitting import fit, graphed
from dream_env.model.world_model import WorldModel
from dream_env.recordings.demos import Batch, Source
from dream_env.spaces import ActionSpec, ObservationConfig, ObservationSpec


def played(module, calls=None):
    """A stand-in for ``cuda_graph``: playing computes anew, and leaves results and gradients at the recording's own places.

    It knows no more of the caller than a graph does: where somebody took a gradient's tensor away, it is not put back.
    """

    def record(function, device):
        outputs = function()
        places = {name: p.grad for name, p in module.named_parameters()}
        for place in places.values():
            place.fill_(float("nan"))  # a recording does not compute

        def play():
            kept = {name: p.grad for name, p in module.named_parameters()}
            fresh = function()
            for name, parameter in module.named_parameters():
                places[name].copy_(parameter.grad)
                parameter.grad = kept[name]
            with torch.no_grad():
                for place, x in zip(tensors_of_losses(outputs), tensors_of_losses(fresh), strict=True):
                    place.detach().copy_(x)
            if calls is not None:
                calls.append(1)

        return play, outputs

    return record


def tensors_of_losses(losses):
    observed = losses.observed
    return [
        *losses.terms.values(), losses.total, observed.latent.deter, observed.latent.stoch, observed.posterior,
        observed.prior, *losses.decoded.values(), *losses.target.values(),
    ]  # fmt: skip


def pretend(patch, world_model, calls=None):
    """Let ``fit`` treat the CPU as a GPU: record the step, look at numbers only where a row is made or a state saved."""
    patch.setattr(fit, "_only_queues", lambda device: True)
    patch.setattr(graphed, "cuda_graph", played(world_model, calls))


@contextmanager
def shapes_only():
    """PyTorch's meta device has no autocast to ask for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "autocast", lambda *args, **options: nullcontext())
        patch.setattr(torch, "is_autocast_enabled", lambda *args: False)
        yield


def meta_model(config, observation=None, actions=None):
    """A world model, and the memory it would take, without any."""
    observation = observation or spaces.Box(0, 255, (64, 64), np.uint8)
    spec = ObservationSpec.from_space(observation, ObservationConfig(size=64))
    action_spec = ActionSpec.from_space(actions or spaces.Discrete(18))
    return WorldModel(config, spec, action_spec, Source("meta/meta-v0", "", None, {})).to("meta")


def meta_batch(world_model, length, batch):
    space = world_model.action_spec
    action = (
        torch.empty(length, batch, dtype=torch.long)
        if space.discrete
        else torch.empty(length, batch, *space.space.shape)
    )
    obs = {
        key.name: torch.empty(length, batch, *key.shape, dtype=torch.uint8 if key.kind == "image" else torch.float32)
        for key in world_model.observation_spec.keys
    }
    flags = torch.zeros(length, batch, dtype=torch.bool)
    noise = torch.empty(length, batch, world_model.noise_size, device="meta")
    return Batch(obs, action, flags, flags.clone()).to("meta"), noise


class NothingFromTheHost(TorchDispatchMode):
    """Refuses operations that take a tensor of the CPU: a copy that a recording cannot repeat."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for x in tree_leaves((args, kwargs or {})):
            if isinstance(x, torch.Tensor) and x.device.type == "cpu":
                number = x.dim() == 0 and "copy" not in str(function)  # an argument of the kernel
                assert number, f"{function} takes a tensor of {tuple(x.shape)} from the host"
        return function(*args, **(kwargs or {}))


class NoNumbers(TorchDispatchMode):
    """Refuses operations whose result, or its shape, the host would have to wait for."""

    ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in self.ASKING, f"{name} asks for numbers"
        return function(*args, **(kwargs or {}))


class Memory(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make: those alive, and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.alive = self.most = 0
        self._known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and x.untyped_storage()._cdata not in self._known:
                self._add(x.untyped_storage())
        return result

    def _add(self, storage):
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.alive += size
        self.most = max(self.most, self.alive)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key, size):
        self._known.remove(key)
        self.alive -= size
