"""Policies of the DAPG authors (Rajeswaran et al. 2018) as experts for the Adroit hand: ``--expert door-v0.pickle``.

Their repository hand_dapg (Apache-2.0) keeps, under ``dapg/policies``, one pickled policy each for door, hammer, pen and
relocate; each solves its task nearly always. A pickle may run any code when it is read, and these name classes of packages
that are not installed here. So the file is read by an unpickler that knows arrays and nothing else: whatever class of mjrl
or torch it names is replaced by an empty shell that keeps what was stored in it, and any other name is refused.
"""

import builtins
import codecs
import collections
import io
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from dream_env.errors import ConfigError, SpaceError
from dream_env.real.environments import Env

Floats = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class GaussianPolicy:
    """A perceptron with tanh units, ``a = W_n tanh(… tanh(W_0 (o − in_shift) / in_scale + b_0) …) + b_n``, scaled."""

    layers: tuple[tuple[Floats, Floats], ...]
    """Weights (out, in) and biases (out,)."""
    in_shift: Floats
    in_scale: Floats
    out_shift: Floats
    out_scale: Floats
    std: Floats
    """Standard deviation of each action entry, by which the policy explored in its training."""

    def mean(self, state: Any) -> Floats:
        """The best action it knows, (A,), for one state (O,)."""
        x = (np.asarray(state, dtype=np.float32) - self.in_shift) / (self.in_scale + 1e-8)
        for i, (weight, bias) in enumerate(self.layers):
            x = weight @ x + bias
            x = np.tanh(x) if i < len(self.layers) - 1 else x
        return np.asarray(x * self.out_scale + self.out_shift, dtype=np.float32)


class DAPGExpert:
    """The policy of a file, acting on the state that lies beside the pictures."""

    def __init__(self, path: Path, *, noise: float = 0.0) -> None:
        """Read the policy.

        Args:
            path: the ``.pickle``.
            noise: standard deviations of its own that are added to its mean actions; 0 plays best.
        """
        self.path, self.noise = path, noise
        self.policy = read_policy(path)

    def reset(self, env: Env, seed: int) -> None:
        """Check that it is the task that the policy was trained for; begin the game's own noise."""
        space = env.observation_space
        if isinstance(space, spaces.Dict):
            space = space.spaces.get("state", space)
        takes, gives = len(self.policy.in_shift), len(self.policy.out_shift)
        if space.shape != (takes,) or env.action_space.shape != (gives,):
            raise SpaceError(
                f"the policy in {self.path} takes a state of {takes} numbers and gives {gives}; "
                f"{env.spec.id if env.spec else 'the environment'} shows {space} and takes {env.action_space}"
            )
        self._space = env.action_space
        self._rng = np.random.default_rng(seed)

    def __call__(self, observation: Any) -> Any:
        """Act, clipped into the action space as the environment itself would clip."""
        state = observation["state"] if isinstance(observation, Mapping) else observation
        action = self.policy.mean(state)
        if self.noise:
            action = action + self.noise * self.policy.std * self._rng.standard_normal(len(action), np.float32)
        assert isinstance(self._space, spaces.Box)
        return np.clip(action, self._space.low, self._space.high).astype(self._space.dtype)


def read_policy(path: Path) -> GaussianPolicy:
    """Read a pickled policy of mjrl's (``gaussian_mlp.MLP``, of any version) without running any code of its file.

    Raises:
        ConfigError: if there is no such file, or something else is in it.
    """
    try:
        with path.open("rb") as file:
            found = _ArraysOnly(file, encoding="latin1").load()
        return _policy(found)
    except OSError as error:
        raise ConfigError(f"cannot read the expert {path}: {error}") from error
    except Exception as error:  # a garbled pickle raises anything
        raise ConfigError(f"{path} is no policy of DAPG's ({type(error).__name__}: {error})") from error


class _Shell:
    """Stands for an object of a class that the file names: keeps what was stored, and can do nothing."""

    stored: tuple[Any, ...]
    state: Any

    def __new__(cls, *stored: Any) -> "_Shell":
        shell = super().__new__(cls)
        shell.stored, shell.state = stored, {}
        return shell

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module.split(".")[0] in ("mjrl", "cmjrl", "torch"):
            return _Shell
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no policy needs")


def _storage(numbers: Any) -> torch.Tensor:
    return torch.tensor(list(numbers), dtype=torch.float32)


def _load_storage(data: bytes) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # these storages are deprecated, and these files are old
        return _storage(torch.load(io.BytesIO(data), weights_only=True).tolist())


def _tensor(storage: torch.Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Floats:
    array: Floats = storage.as_strided(tuple(size), tuple(stride), offset).numpy().copy()  # torch checks the bounds
    return array


def _parameter(data: Floats, *_: Any) -> Floats:
    return data


def _shell(*_: Any) -> _Shell:
    return _Shell()


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): codecs.encode,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("torch", "Size"): tuple,
    ("torch.storage", "_load_from_bytes"): _load_storage,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
}
for _module in ("torch", "torch.storage"):
    _KNOWN |= {(_module, "FloatStorage"): _storage, (_module, "DoubleStorage"): _storage}
for _module in ("numpy.core", "numpy._core"):
    _KNOWN |= {
        (f"{_module}.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        (f"{_module}.multiarray", "scalar"): np.float64(0).__reduce__()[0],
        (f"{_module}.numeric", "_frombuffer"): np.ones(1).__reduce_ex__(5)[0],
    }
for _module in ("builtins", "__builtin__"):
    _KNOWN |= {
        (_module, kind): getattr(builtins, kind) for kind in ("set", "list", "dict", "tuple", "int", "float", "object")
    }
    _KNOWN[_module, "getattr"] = _shell  # torch.tanh is stored as an attribute of a class
for _module in ("copyreg", "copy_reg"):
    _KNOWN[_module, "_reconstructor"] = _shell


def _policy(found: Any) -> GaussianPolicy:
    if not isinstance(found, _Shell) or not isinstance(found.state, dict):
        raise ValueError(f"it holds a {type(found).__name__}, not a policy of mjrl's")
    outer = found.state
    model = outer.get("model", found)  # versions differ in whether the policy has a network or is one
    layers = tuple(_layers(model))
    if not layers:
        raise ValueError("there is no layer in it")
    takes, gives = layers[0][0].shape[1], layers[-1][0].shape[0]
    inner = model.state
    scales = {
        name: _array(inner[name]) if inner.get(name) is not None else default
        for name, default in (
            ("in_shift", np.zeros(takes, np.float32)), ("in_scale", np.ones(takes, np.float32)),
            ("out_shift", np.zeros(gives, np.float32)), ("out_scale", np.ones(gives, np.float32)),
        )
    }  # fmt: skip
    log_std = outer.get("log_std_val", outer.get("log_std"))
    policy = GaussianPolicy(layers, **scales, std=np.exp(_array(log_std)))
    if policy.mean(np.zeros(takes)).shape != (gives,) or policy.std.shape != (gives,):
        raise ValueError("its layers do not fit together")
    return policy


def _layers(module: Any) -> Iterator[tuple[Floats, Floats]]:
    state = module.state if isinstance(module, _Shell) else {}
    parameters = state.get("_parameters", {})
    if "weight" in parameters:
        yield _array(parameters["weight"]), _array(parameters["bias"])
    for child in state.get("_modules", {}).values():
        yield from _layers(child)


def _array(value: Any) -> Floats:
    """The first array in what was stored; versions of torch wrap tensors in different ways."""
    if isinstance(value, np.ndarray):
        return value.astype(np.float32)
    state = getattr(value, "state", {})
    parts = [*getattr(value, "stored", ()), *(state.values() if isinstance(state, dict) else state)]
    for part in parts:
        if isinstance(part, np.ndarray | _Shell):
            return _array(part)
    raise ValueError(f"there is no array in a {type(value).__name__} where one is expected")
