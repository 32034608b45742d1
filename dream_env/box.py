"""Which numbers lie in a Box, without PyTorch: for processes that only play."""

import numpy as np
from gymnasium import spaces

_ROUNDING = 1.2e-7
"""How far outside a bound, as a share of it, a number may lie: one rounding of float32, in which actions are on their way."""


def inside(x: np.ndarray, box: spaces.Box) -> np.ndarray:
    """Whether each number of (*shape) or (N, *shape) lies in the box, but for one rounding of float32; false for NaN."""
    low, high = box.low.astype(np.float64), box.high.astype(np.float64)
    within: np.ndarray = (x >= low - _ROUNDING * np.abs(low)) & (x <= high + _ROUNDING * np.abs(high))
    return within
