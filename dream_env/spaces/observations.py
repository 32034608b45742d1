"""What an environment shows, and how it becomes arrays for the world model.

``ObservationSpec.pack`` is the one observation transform: recordings go through it when they are converted, and the
agent's observations go through it while it acts, so the two cannot differ.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Literal

import cv2
import numpy as np
from gymnasium import spaces

from dream_env.errors import ConfigError, SpaceError, nearest
from dream_env.spaces.space_json import space_from_json, space_to_json

_SMALLEST = 16
"""Sides of a picture, in pixels; what is smaller are codes."""


@dataclass(frozen=True)
class ObservationConfig:
    """How raw observations are prepared. Stored in the model, and the same in training and in acting."""

    size: int = 64
    """Side of the square pictures the model sees, in pixels."""
    gray: bool = True
    """Turn RGB into luma; otherwise the three channels are kept."""
    crop: tuple[int, int, int, int] | None = None
    """Rows top:bottom and columns left:right (top bottom left right) to keep of each picture before it is resized."""
    keys: tuple[str, ...] = ()
    """Which keys of a dictionary observation to use ("a/b" for nested ones, "a" for all below it); empty for all."""
    std_floor: float = 5.0
    """Grey levels added to each pixel's standard deviation, so that pixels that hardly ever change stay quiet."""
    standardize: Literal["pixel", "global", "none"] = "pixel"
    """Statistics that pictures are standardised with: of each pixel, of the whole picture, or none (x/255 − ½)."""

    @classmethod
    def small(cls) -> "ObservationConfig":
        """For a CPU: 32 × 32 averages of the picture.

        A ball of one pixel becomes a grey level in up to four, which still says where it is; and a quarter of the places is
        learned in a fraction of the time (measured on Pong: a third of the error on moving pixels after two minutes).
        """
        return cls(size=32, std_floor=2.0)

    @classmethod
    def paper(cls) -> "ObservationConfig":
        """DITTO's: 64 × 64 gray."""
        return cls()

    @classmethod
    def small_gaussian(cls) -> "ObservationConfig":
        """For robots on a CPU: 32 × 32 averages in colour."""
        return cls(size=32, gray=False, std_floor=2.0)

    @classmethod
    def paper_gaussian(cls) -> "ObservationConfig":
        """CMIL's: 64 × 64 in colour."""
        return cls(gray=False)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ObservationConfig":
        """Return the config that ``dataclasses.asdict`` wrote."""
        names = [item.name for item in fields(cls)]
        for name in data:
            if name not in names:
                raise ConfigError(f"unknown observation option {name!r} = {data[name]!r}.{nearest(name, names)}")
        values: dict[str, Any] = {name: tuple(x) if isinstance(x, list) else x for name, x in data.items()}
        return cls(**values)


@dataclass(frozen=True)
class ObservationKey:
    """One packed array of an observation."""

    name: str
    """``"image"`` or ``"vector"`` for an observation that is one array; "a/b" for a leaf of nested dictionaries."""
    kind: Literal["image", "vector"]
    """image: uint8 (H, W, C); vector: float32 (n,)."""
    shape: tuple[int, ...]
    """Shape of the packed array."""
    source_shape: tuple[int, ...]
    """Shape of the environment's array."""

    @property
    def module_name(self) -> str:
        """What a model's modules and buffers are called after it; they may hold no dots, and "a/b" becomes "a__b"."""
        return self.name.replace(".", "_").replace("/", "__")


@dataclass(frozen=True)
class ObservationSpec:
    """The observation space of an environment, less the keys left out, and how it is packed."""

    space: spaces.Space[Any]
    config: ObservationConfig
    keys: tuple[ObservationKey, ...]

    @classmethod
    def from_space(cls, space: spaces.Space[Any], config: ObservationConfig) -> "ObservationSpec":
        """Decide how each leaf of ``space`` is packed.

        uint8 boxes (H, W), (H, W, 1) and (H, W, 3) are pictures, other boxes flat vectors, Discrete becomes one-hot. What is
        smaller than 16 a side, or never reaches 255, is a vector too: MiniGrid's object codes (7, 7, 3) or a board's pieces
        (6, 7) are no grey levels, and their averages mean nothing.

        Raises:
            SpaceError: for any other space, for a key that is not there, for keys that would be stored under one name, and for
                a crop that leaves the picture.
        """
        leaves = _leaves(space)
        for wanted in config.keys:
            if not any(_selected(name, (wanted,)) for name in leaves):
                raise SpaceError(
                    f"the observation has no key {wanted!r}, it has {', '.join(leaves)}.{nearest(wanted, leaves)}"
                )
        keys = tuple(_key(name, leaf, config) for name, leaf in leaves.items() if _selected(name, config.keys))
        if not keys:
            raise SpaceError(f"the observation space {space} holds nothing to learn from")
        _check_names(keys)
        return cls(_without(space, {key.name for key in keys}), config, keys)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able description."""
        return {"space": space_to_json(self.space), "config": asdict(self.config)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ObservationSpec":
        """Return the spec that ``to_json`` described."""
        return cls.from_space(space_from_json(data["space"]), ObservationConfig.from_json(data["config"]))

    @cached_property
    def _leaf(self) -> dict[str, spaces.Space[Any]]:
        return _leaves(self.space)

    def pack(self, obs: Any, *, batch_dims: int = 0) -> dict[str, np.ndarray]:
        """Prepare raw observations of the environment.

        Args:
            obs: an array or nested dictionaries of arrays, each (*batch, *source_shape).
            batch_dims: number of leading batch axes.

        Returns:
            Per key (*batch, *shape): pictures uint8 (H, W, C), vectors float32 (n,).

        Raises:
            SpaceError: naming the key, if one is missing, of another shape or type, or not finite.
        """
        return {key.name: self._pack_key(key, _lookup(obs, key, self.space), batch_dims) for key in self.keys}

    def _pack_key(self, key: ObservationKey, raw: Any, batch_dims: int) -> np.ndarray:
        leaf = self._leaf[key.name]
        array = np.asarray(raw)
        batch = array.shape[:batch_dims]
        if array.shape[batch_dims:] != key.source_shape or array.ndim < batch_dims:
            raise SpaceError(
                f"observation {key.name!r} has shape {array.shape}; expected {key.source_shape} "
                f"after {batch_dims} batch axes"
            )
        if key.kind == "image":
            if array.dtype != np.uint8:
                raise SpaceError(f"observation {key.name!r} is a picture of {array.dtype}; expected uint8, 0 to 255")
            return _pack_images(array.reshape(-1, *key.source_shape), key, self.config.crop).reshape(*batch, *key.shape)
        if isinstance(leaf, spaces.Discrete):
            one_hot = np.asarray(array[..., None] == np.arange(leaf.start, leaf.start + leaf.n), dtype=np.float32)
            if not one_hot.any(axis=-1).all():
                raise SpaceError(f"observation {key.name!r} has a value outside {leaf}")
            return one_hot
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
            packed = array.reshape(*batch, *key.shape).astype(np.float32)
        finite = np.isfinite(packed)
        if not finite.all():
            first = np.argwhere(~finite)[0]
            at = f" at row {first[0]}" if batch_dims else ""
            raise SpaceError(f"observation {key.name!r} is not finite: entry {first[-1]}{at} is {packed[tuple(first)]}")
        return packed


def leaf_names(space: spaces.Space[Any]) -> tuple[str, ...]:
    """Names of all that an environment shows, as a spec's keys have them, whether it can be learned or not."""
    return tuple(_leaves(space))


def _leaves(space: spaces.Space[Any], prefix: str = "") -> dict[str, spaces.Space[Any]]:
    if isinstance(space, spaces.Dict):
        found: dict[str, spaces.Space[Any]] = {}
        for name, sub in space.spaces.items():
            leaves = _leaves(sub, f"{prefix}{name}/")
            if twice := found.keys() & leaves.keys():
                raise SpaceError(
                    f"two observations are called {min(twice)!r}: one key with a slash in it, and a dictionary in a dictionary; "
                    f"rename one of them in the environment"
                )
            found |= leaves
        return found
    return {prefix.rstrip("/") or ("image" if _is_image(space) else "vector"): space}


def _selected(name: str, keys: tuple[str, ...]) -> bool:
    return not keys or any(name == key or name.startswith(f"{key}/") for key in keys)


def _check_names(keys: tuple[ObservationKey, ...]) -> None:
    # One encoder would serve both, or one file hold both, and nobody would know. In files "a/b" is "a.b".
    for names in ([key.module_name for key in keys], [key.name.replace("/", ".") for key in keys]):
        owners: dict[str, str] = {}
        for key, name in zip(keys, names, strict=True):
            other = owners.setdefault(name, key.name)
            if other != key.name:
                raise SpaceError(
                    f"the observation keys {other!r} and {key.name!r} would both be stored as {name!r}; rename one of them in "
                    f"the environment, or leave one out by naming the others with --observation.keys"
                )


def _without(space: spaces.Space[Any], keep: set[str], prefix: str = "") -> spaces.Space[Any]:
    if not isinstance(space, spaces.Dict):
        return space
    kept = {
        name: _without(sub, keep, f"{prefix}{name}/")
        for name, sub in space.spaces.items()
        if any(_selected(key, (f"{prefix}{name}",)) for key in keep)
    }
    return spaces.Dict(kept)


def _grey_levels(space: spaces.Space[Any]) -> bool:
    """Whether it holds pictures, one or many, its axes in whatever order."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) > 1
        and sorted(space.shape)[-2] >= _SMALLEST
        and int(space.high.max()) == 255
    )


def _is_image(space: spaces.Space[Any]) -> bool:
    shape = space.shape or ()
    return (
        _grey_levels(space)
        and (len(shape) == 2 or (len(shape) == 3 and shape[-1] in (1, 3)))
        and min(shape[:2]) >= _SMALLEST
    )


def _key(name: str, space: spaces.Space[Any], config: ObservationConfig) -> ObservationKey:
    if isinstance(space, spaces.Discrete):
        return ObservationKey(name, "vector", (int(space.n),), ())
    if not isinstance(space, spaces.Box):
        raise SpaceError(
            f"observation {name!r} is {space}; only Box, Discrete and Dict of them can be learned. "
            f"If it is one key of several, name the others with --observation.keys"
        )
    if 0 in space.shape:
        raise SpaceError(f"observation {name!r} of shape {space.shape} holds no numbers")
    if not _is_image(space):
        if _grey_levels(space) and len(space.shape) > 2:
            first = len(space.shape) == 3 and space.shape[0] in (1, 3)
            todo = (
                "Move channels last before recording, with a wrapper whose observation is numpy.moveaxis(observation, 0, -1)"
                if first
                else "Record single frames: the model has a memory of its own and needs no frame stacking"
            )
            raise SpaceError(
                f"observation {name!r} is uint8 of shape {space.shape}; pictures are (H, W), (H, W, 1) or (H, W, 3). {todo}"
            )
        return ObservationKey(name, "vector", (int(np.prod(space.shape)),), space.shape)
    if config.crop is not None:
        top, bottom, left, right = config.crop
        if not (0 <= top < bottom <= space.shape[0] and 0 <= left < right <= space.shape[1]):
            raise SpaceError(
                f"crop {config.crop} (top bottom left right) leaves the picture {name!r} of {space.shape[:2]}"
            )
    channels = 3 if len(space.shape) == 3 and space.shape[-1] == 3 and not config.gray else 1
    return ObservationKey(name, "image", (config.size, config.size, channels), space.shape)


def _lookup(obs: Any, key: ObservationKey, space: spaces.Space[Any]) -> Any:
    if not isinstance(space, spaces.Dict):
        return obs
    parts = key.name.split("/")
    while parts:
        of = obs if isinstance(obs, Mapping) else {}
        # "a/b" may be a dictionary in a dictionary, or one key with a slash in it.
        taken = next((n for n in range(len(parts), 0, -1) if "/".join(parts[:n]) in of), 0)
        if not taken:
            came = f"keys {', '.join(obs)}" if isinstance(obs, Mapping) else f"a {type(obs).__name__}"
            raise SpaceError(f"observation {key.name!r} is missing: {came} came")
        obs, parts = of["/".join(parts[:taken])], parts[taken:]
    return obs


def _pack_images(images: np.ndarray, key: ObservationKey, crop: tuple[int, int, int, int] | None) -> np.ndarray:
    if crop is not None:
        top, bottom, left, right = crop
        images = images[:, top:bottom, left:right]
    size, channels = key.shape[0], key.shape[-1]
    if images.ndim == 4 and images.shape[-1] != channels:
        n, height, width, _ = images.shape
        # One tall picture: one call for all frames.
        tall = np.ascontiguousarray(images).reshape(n * height, width, 3)
        images = cv2.cvtColor(tall, cv2.COLOR_RGB2GRAY).reshape(n, height, width) if n else images[..., 0]
    if images.shape[1:3] != (size, size):
        packed = np.empty((len(images), *key.shape), np.uint8)
        for image, out in zip(images, packed, strict=True):
            resized = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
            out[...] = resized.reshape(key.shape)
        return packed
    return np.array(images).reshape(len(images), *key.shape)  # a copy: environments reuse their buffers
