"""What callers may pass to ``reset``: seeds, a mask, expert rows. Read, checked, and turned into tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from dream_env.errors import ConfigError, nearest

Seed = int | Sequence[int | None] | None


def known_options(options: dict[str, Any] | None, known: tuple[str, ...]) -> dict[str, Any]:
    """The options, if all of them are known: a misspelt ``reset_mask`` would else reset everything."""
    for name in options or {}:
        if name not in known:
            raise ConfigError(f"reset has no option {name!r}.{nearest(name, known)} It has: {', '.join(known)}")
    return options or {}


def chosen_by(mask: Any, everyone: Int[Tensor, " num"]) -> Int[Tensor, " some"]:
    """Indices of the dreams that ``options["reset_mask"]`` chooses; the errors are of SyncVectorEnv's kinds."""
    if mask is None:
        return everyone
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        kind = getattr(mask, "dtype", type(mask))
        raise TypeError(f'options["reset_mask"] must be a numpy array of bool, got {kind}')
    if mask.shape != everyone.shape or not mask.any():
        raise ValueError(f'options["reset_mask"] must have shape ({len(everyone)},) and at least one True, got {mask}')
    return everyone[torch.as_tensor(mask)]


def seeds_for(seed: Seed, which: Int[Tensor, " some"], num: int) -> tuple[Int[Tensor, " given"], Int[Tensor, " given"]]:
    """Seeds, and the dreams they are for: dream ``i`` gets ``seed + i``, or the i-th of a sequence if not None."""
    if seed is None:
        return which[:0], which[:0]
    if isinstance(seed, (int, np.integer)):
        return (int(seed) % 2**62) + which, which
    if len(seed) != num:
        raise ConfigError(f"{len(seed)} seeds came for {num} dreams; give one integer, or one for each")
    given = [i for i in which.tolist() if seed[i] is not None]
    values = [int(seed[i] or 0) % 2**62 for i in given]
    return which.new_tensor(values), which.new_tensor(given)


def expert_rows(rows: Any, starts: Int[Tensor, " windows"], num: int, horizon: int) -> Int[Tensor, " num"]:
    """``options["rows"]`` as a tensor, each checked to start a window."""
    array = np.asarray(rows)
    if array.shape != (num,) or array.dtype.kind not in "iu":
        raise ConfigError(f'options["rows"] must be {num} integers, one expert row a dream; got {rows!r}')
    index = torch.as_tensor(array.astype(np.int64), device=starts.device)
    wrong = index[~torch.isin(index, starts)]
    if len(wrong):
        raise ConfigError(
            f"expert row {int(wrong[0])} starts no window of {horizon} steps inside one episode; "
            f"those that do: dream.expert.windows({horizon})"
        )
    return index
