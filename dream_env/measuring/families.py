"""Which rows belong together: trainings that differ in nothing but the horizon, or in nothing but options of the reward.

What a training was is told by some columns and by ``options`` (``training``); keys here are all of that, but for what may vary.
"""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import MISSING
from itertools import pairwise
from typing import Any

from dream_env.errors import PluginError
from dream_env.measuring.results import Row
from dream_env.plugin import find, plugin_defaults

Options = tuple[tuple[str, Any], ...]
"""Options of a reward: name and value."""

USUAL_HORIZON = 15
_ALONG_HORIZONS = ("horizon", "num_envs")
"""What varies in a family of horizons. The dreams side by side do too: a grid has fewer of longer ones, so that an update
is of about as many steps."""
_FREE = (*_ALONG_HORIZONS, "n_expert")
"""What does not matter to the question which horizon, and which reward, is the usual one: an ablation stays one at a number
of expert episodes for which there is no row of the usual variant."""
_COLUMNS = ("environment", "dataset", "method", "learner", "warm_start", "preset", "horizon", "n_expert")
"""Columns that say, with ``options``, what a policy was trained on and how; all but its seed."""


def changed_reward(row: Row) -> Options:
    """The options of the reward that were not left at their defaults, without its name before them."""
    own = {key: value for key, value in options_of(row).items() if _of_reward(row, key)}
    return tuple(sorted((key.removeprefix(f"{row.method}."), frozen(value)) for key, value in own.items()))


def options_of(row: Row) -> dict[str, Any]:
    """Of the training, but for the model's seed and those that say which of its policies played; and of the game it played."""
    told = dict(json.loads(row.options)) if row.options else {}
    told = {key: value for key, value in told.items() if key not in ("select", "tail", "fit.seed")}
    return told | row.played


def _of_reward(row: Row, key: str) -> bool:
    # Where no learner is named the method is one itself, and followed no reward.
    return bool(row.learner) and key.startswith(f"{row.method}.")


def reward_options(row: Row) -> dict[str, Any]:
    """All that are known: of a reward that is not installed here only the changed ones."""
    try:
        usual = plugin_defaults(find("rewards", row.method)) if row.learner else {}
    except PluginError:
        usual = {}
    own = {name: frozen(value) for name, value in usual.items() if name != "class"}
    return own | dict(changed_reward(row))


def told_of(row: Row) -> dict[str, Any]:
    """Columns and options together, but for the seed."""
    return {name: value for name in _COLUMNS if (value := getattr(row, name)) != ""} | options_of(row)


def config_of(row: Row, *, but: Sequence[str] = (), reward: bool = True) -> Hashable:
    """All that was told of a training, but its seed; equal for rows of one line at one x."""
    told = {
        key: value for key, value in told_of(row).items() if key not in but and (reward or not _of_reward(row, key))
    }
    config: Hashable = frozen(told)
    return config


def but_horizon(row: Row) -> Hashable:
    """Equal for trainings that differ in the horizon of their dreams, and in how many there are."""
    return config_of(row, but=_ALONG_HORIZONS)


def but_reward(row: Row) -> Hashable:
    """Equal for trainings that differ in options of the reward."""
    return config_of(row, reward=False)


def any_horizon(row: Row) -> Hashable:
    """The same as ``but_horizon`` whatever the number of expert episodes."""
    return config_of(row, but=_FREE)


def any_reward(row: Row) -> Hashable:
    """The same as ``but_reward`` whatever that number and the horizon."""
    return config_of(row, but=_FREE, reward=False)


def usual_horizon(rows: Sequence[Row]) -> int:
    """15 if there is such a row, else the most frequent one."""
    found = Counter(row.horizon for row in rows)
    return USUAL_HORIZON if USUAL_HORIZON in found else found.most_common(1)[0][0]


def usual_reward(rows: Sequence[Row]) -> Options | None:
    """What all of them changed, if there is a row that changed no more; None if all are usual in their own way."""
    changed = [changed_reward(row) for row in rows]
    shared = tuple(option for option in changed[0] if all(option in other for other in changed))
    return shared if shared in changed else None


def one_amount(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows of a family of horizons in parts of one number of dreams at each horizon.

    Nothing is divided where that is so already. Else rows of about as many steps in an update belong together, or, if that
    does not do it or makes fewer lines, rows of as many dreams.
    """
    rows = sorted(rows, key=lambda row: row.horizon * _dreams(row))
    if _unambiguous(rows):
        return [rows]
    by_dreams = list(grouped(rows, _dreams).values())
    by_steps = [rows[:1]]
    for before, row in pairwise(rows):
        if row.horizon * _dreams(row) > 1.25 * before.horizon * _dreams(before):
            by_steps.append([])
        by_steps[-1].append(row)
    ways = [by_steps, by_dreams] if all(map(_unambiguous, by_steps)) else [by_dreams]
    return max(ways, key=lambda parts: sum(len({row.horizon for row in part}) > 1 for part in parts))


def _unambiguous(rows: Sequence[Row]) -> bool:
    return len({row.horizon for row in rows}) == len({(row.horizon, _dreams(row)) for row in rows})


def _dreams(row: Row) -> int:
    return int(options_of(row).get("num_envs", 0))


def grouped(rows: Iterable[Row], key: Callable[[Row], Hashable]) -> dict[Any, list[Row]]:
    """Rows by a key, in their order."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def differing_keys(told: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys that do not have one value, or are not, in all of them."""
    told = list(told)
    keys = dict.fromkeys(key for of in told for key in of)
    return [key for key in keys if len({frozen(of.get(key, MISSING)) for of in told}) > 1]


def told_apart(told: Sequence[Mapping[str, Any]], *, but: Sequence[str] = ()) -> list[str]:
    """What tells each from the others, as ``max_steps=200, fire=True``; nothing of one that has none of what differs."""
    differing = [key for key in differing_keys(told) if key not in but]
    return [", ".join(f"{key}={of[key]}" for key in differing if key in of) for of in told]


def frozen(value: Any) -> Any:
    """Something equal that can be a key, as tuples for lists."""
    if isinstance(value, Mapping):
        return tuple(sorted((key, frozen(of)) for key, of in value.items()))
    return tuple(map(frozen, value)) if isinstance(value, list | tuple) else value
