"""Observation statistics of SB3's ``VecNormalize``, read without running the code in its pickle."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from dream_env.errors import ConfigError


class Normalizer:
    """``clip((obs − mean) / √(var + ε), ±limit)``; without statistics, the observation as it is."""

    def __init__(self, mean: Any = None, variance: Any = None, epsilon: float = 1e-8, limit: float = 10.0) -> None:
        self.mean, self.variance, self.epsilon, self.limit = mean, variance, epsilon, limit

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """Normalise one observation."""
        if self.mean is None:
            return observation
        scaled = (observation - self.mean) / np.sqrt(self.variance + self.epsilon)
        normalised: np.ndarray = np.clip(scaled, -self.limit, self.limit).astype(np.float32)
        return normalised

    @classmethod
    def beside(cls, path: Path) -> "Normalizer":
        """Read the statistics that lie beside a zip, if any do."""
        for name in ("vec_normalize.pkl", "vecnormalize.pkl", f"{path.stem}-vecnormalize.pkl"):
            if (path.parent / name).is_file():
                return cls.read(path.parent / name)
        return cls()

    @classmethod
    def read(cls, path: Path) -> "Normalizer":
        """Read a pickled ``VecNormalize``: its numbers are taken, its classes are replaced by empty ones."""
        try:
            with path.open("rb") as file:
                found = _NumbersOnly(file).load()
            state = found.state
            if not state.get("norm_obs", True):
                return cls()
            statistics = state["obs_rms"].state
            mean, variance = (np.asarray(statistics[name], dtype=np.float64) for name in ("mean", "var"))
            return cls(mean, variance, float(state["epsilon"]), float(state["clip_obs"]))
        except (pickle.UnpicklingError, AttributeError, KeyError, TypeError, ValueError, EOFError) as error:
            raise ConfigError(
                f"{path} holds no statistics of a VecNormalize over plain vectors ({type(error).__name__}: {error})"
            ) from error


class _Empty:
    """Stands for any class or function of a pickle; calling it does nothing but keep its state."""

    def __new__(cls, *_: Any, **__: Any) -> "_Empty":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}


class _NumbersOnly(pickle.Unpickler):
    """Makes NumPy arrays and numbers, and nothing else: the same idea as ``torch.load(weights_only=True)``."""

    def find_class(self, module: str, name: str) -> Any:
        """Only what arrays are made of has its real meaning."""
        module = module.replace("numpy.core", "numpy._core")
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        return _Empty


_ALLOWED = {
    ("numpy", "dtype"), ("numpy", "ndarray"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"), ("numpy._core.numeric", "_frombuffer"),
}  # fmt: skip
