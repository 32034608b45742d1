"""What an environment shows and takes, in arrays of one's own: what is kept must outlive the next step.

Without PyTorch, for processes that only play.
"""

from typing import Any

import numpy as np
from gymnasium import spaces

from dream_env.box import inside
from dream_env.errors import SpaceError


def own(raw: Any, space: spaces.Space[Any]) -> Any:
    """Copy an observation or an action, in the types that a recording of it is written in.

    A copy, because environments and experts reuse their buffers: kept as it is, every row would show the last step.

    Raises:
        SpaceError: for a space that cannot be recorded.
    """
    if isinstance(space, spaces.Dict):
        return {name: own(raw[name], sub) for name, sub in space.spaces.items()}
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return np.array(raw, dtype=space.dtype)
    raise SpaceError(f"cannot record a space of kind {type(space).__name__}: {space}")


def taken(action: Any, space: spaces.Space[Any]) -> Any:
    """The action in the type of the space, as its environment takes it; None if it is none of the space's.

    NumPy computes in float64 and policies in float32, so types differ where nobody erred. (``ActionSpec.validate`` would need
    PyTorch.)
    """
    try:
        given = np.asarray(action)
    except ValueError:  # rows of different lengths
        return None
    kinds = "iu" if isinstance(space, spaces.Discrete) else "iufb"
    if given.shape == (space.shape or ()) and given.dtype.kind in kinds and np.isfinite(given).all():
        cast = np.array(given, dtype=space.dtype)
        if isinstance(space, spaces.Box):
            # What is outside by a rounding only is put onto the bound.
            cast = np.where(inside(cast, space), cast.clip(space.low, space.high), cast)
        if space.contains(cast):
            return int(cast) if isinstance(space, spaces.Discrete) else cast
    return None
