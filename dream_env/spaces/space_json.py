"""Gymnasium spaces as small JSON: what ``config.json`` of a checkpoint keeps of an environment.

Bounds that are the same everywhere are written as one number, so a 64 × 64 × 3 picture costs a line and not 100 kB;
infinite bounds are written as the strings ``"inf"`` and ``"-inf"``, which strict JSON has no numbers for.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from dream_env.errors import SpaceError


def space_to_json(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return a JSON-able description of a Box, Discrete or Dict space."""
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "low": _bound_to_json(space.low),
            "high": _bound_to_json(space.high),
            "shape": list(space.shape),
            "dtype": str(space.dtype),
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": {name: space_to_json(sub) for name, sub in space.spaces.items()}}
    raise SpaceError(f"cannot store the space {space}; Box, Discrete and Dict are known")


def space_from_json(data: dict[str, Any]) -> spaces.Space[Any]:
    """Return the space that ``space_to_json`` described."""
    if data["type"] == "Box":
        dtype, shape = np.dtype(data["dtype"]), tuple(data["shape"])
        low, high = (np.broadcast_to(_bound_from_json(data[name], dtype), shape) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if data["type"] == "Discrete":
        return spaces.Discrete(data["n"], start=data["start"])
    if data["type"] == "Dict":
        return spaces.Dict({name: space_from_json(sub) for name, sub in data["spaces"].items()})
    raise SpaceError(f"cannot read a space of type {data['type']!r}; Box, Discrete and Dict are known")


def _bound_to_json(bound: np.ndarray) -> Any:
    constant = bound.size > 0 and bool((bound == bound.flat[0]).all())
    return _to_json(bound.flat[0].item() if constant else bound.tolist())


def _to_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_json(item) for item in value]
    return str(value) if np.isinf(value) else value


def _bound_from_json(value: Any, dtype: np.dtype[Any]) -> np.ndarray:
    return np.array(_from_json(value), dtype=dtype)


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_from_json(item) for item in value]
    return float(value) if isinstance(value, str) else value
