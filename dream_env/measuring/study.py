"""A result file of many runs as lines of figures: what belongs to one line, and which rows vary one thing about it.

Nothing here knows an algorithm by name. A line is called what the rows' ``experiment`` says after its last ``/`` (a grid's
name for its method), and rows that differ in nothing but the dreams' horizon, or in nothing but options of the reward, are
ablations: of these only the usual one is a line of the main comparison.
"""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dream_env.errors import ConfigError, PluginError
from dream_env.measuring import results
from dream_env.measuring.results import Row
from dream_env.measuring.statistics import interval_over_runs, iqm
from dream_env.measuring.tables import policy_name
from dream_env.plugin import find

Options = tuple[tuple[str, Any], ...]
Lines = dict[str, dict[float, list[Row]]]
"""Line → x → a row for each training seed."""

USUAL_HORIZON = 15


@dataclass(frozen=True)
class Score:
    """Return of some runs that differ in their training seed."""

    iqm: float
    """Over the episodes of all of them."""
    low: float
    """Lower end of the 95 % bootstrap interval, over runs and their episodes."""
    high: float
    """Upper end."""
    seeds: int


def score(rows: Sequence[Row]) -> Score:
    """What some rows of one line say together."""
    runs = [row.returns or (row.return_iqm,) for row in rows]
    middle = float(iqm(np.concatenate([np.asarray(run, dtype=np.float64) for run in runs])))
    return Score(middle, *interval_over_runs(runs), len(rows))


@dataclass(frozen=True)
class Study:
    """The rows of one file that are compared."""

    trained: tuple[Row, ...]
    """Trained policies, each training once; ablations too."""
    levels: Mapping[str, Mapping[str, float]]
    """Environment → mean return of ``random`` actions and of the recorded ``expert``."""

    @classmethod
    def read(cls, path: Path, *, deterministic: bool = False, tail: bool = False) -> "Study":
        """The rows of a result file that act in one way.

        Args:
            path: the file.
            deterministic: those of likeliest actions, else those of sampled ones.
            tail: those of the policies after the last updates, else those of the last policy.

        Raises:
            ConfigError: if there are none.
        """
        rows = results.read(path)
        wanted = [
            row
            for row in rows
            if row.trained and row.deterministic == deterministic and not row.select and bool(row.tail) == tail
        ]
        if not wanted:
            how = "argmax" if deterministic else "sampled"
            raise ConfigError(
                f"{path} has {len(rows)} rows, and none of a trained policy with {how} actions"
                + (
                    " after its last updates; leave --tail out"
                    if tail
                    else "; `dream-env evaluate --results` adds them"
                )
            )
        levels: dict[str, dict[str, float]] = {}
        for row in rows:
            if not row.trained:
                levels.setdefault(row.environment, {})[row.method] = row.return_mean
        return cls(tuple(_once(wanted)), levels)

    @property
    def environments(self) -> list[str]:
        """In the order of the file."""
        return list(dict.fromkeys(row.environment for row in self.trained))

    def main(self) -> list[Row]:
        """The rows of the main comparison: all that are no ablation, and of an ablation the usual one."""
        usual_horizon = {key: _usual_horizon(rows) for key, rows in _families(self.trained, _but_horizon).items()}
        usual_reward = {key: _usual_reward(rows) for key, rows in _families(self.trained, _but_reward).items()}
        return [
            row
            for row in self.trained
            if row.horizon == usual_horizon[_but_horizon(row)]
            and usual_reward[_but_reward(row)] in (None, changed_reward(row))
        ]

    def by_demos(self, environment: str) -> Lines:
        """The main comparison: x is the number of expert episodes."""
        rows = [row for row in self.main() if row.environment == environment]
        return _lines(rows, names(rows), lambda row: float(row.n_expert))

    def by_horizon(self, environment: str) -> Lines:
        """Trainings that differ in the horizon of their dreams alone; x is that."""
        main = {_but_horizon(row): name_of(row) for row in self.main()}
        found: Lines = {}
        for key, rows in _families(
            [row for row in self.trained if row.environment == environment], _but_horizon
        ).items():
            if len({row.horizon for row in rows}) > 1:
                name = f"{main.get(key, name_of(rows[0]))}, {rows[0].n_expert} episodes"
                found |= _lines(rows, dict.fromkeys(rows, name), lambda row: float(row.horizon))
        return found

    def rewards(self, environment: str) -> dict[str, dict[Options, list[Row]]]:
        """Trainings that differ in options of the reward alone: line → those options that differ → rows."""
        main = {_but_reward(row): name_of(row) for row in self.main()}
        found = {}
        for key, rows in _families(
            [row for row in self.trained if row.environment == environment], _but_reward
        ).items():
            options = {row: _reward_options(row) for row in rows}
            differing = [
                name for name in _names(options.values()) if len({_frozen(of[name]) for of in options.values()}) > 1
            ]
            if differing:
                groups: dict[Options, list[Row]] = {}
                for row, of in options.items():
                    groups.setdefault(tuple((name, of[name]) for name in differing), []).append(row)
                found[f"{main.get(key, name_of(rows[0]))}, {rows[0].n_expert} episodes"] = groups
        return found


def name_of(row: Row) -> str:
    """What a study calls the way a row's policy was trained: ``b`` of the experiment ``a/b``, else the policy's name."""
    return row.experiment.rpartition("/")[2] if "/" in row.experiment else policy_name(row)


def names(rows: Iterable[Row]) -> dict[Row, str]:
    """A name for each row; rows of one name that were trained with different options get those in it that differ."""
    found = {row: name_of(row) for row in rows}
    for name in dict.fromkeys(found.values()):
        same = [row for row in found if found[row] == name]
        options = {row: _trained_with(row) for row in same}
        differing = [
            key for key in _names(options.values()) if len({_frozen(of.get(key)) for of in options.values()}) > 1
        ]
        for row in same if differing else ():
            said = [f"{key}={options[row][key]}" for key in differing if options[row].get(key) not in (None, "")]
            found[row] = f"{name} ({', '.join(said) or 'defaults'})"
    return found


# ------------------------------------------------------------------------------------------------------------- families


def changed_reward(row: Row) -> Options:
    """The options of the reward that were not left at their defaults."""
    own = _reward_defaults(row)
    return tuple(sorted((name, _frozen(value)) for name, value in _options(row).items() if name in own))


def _options(row: Row) -> dict[str, Any]:
    return dict(json.loads(row.options)) if row.options else {}


def _reward_defaults(row: Row) -> dict[str, Any]:
    """The options that the row's reward has, with their defaults; none if it followed no reward that is installed here."""
    try:
        reward = find("rewards", row.method) if row.learner else None
    except PluginError:
        return {}
    return {field.name: field.default for field in fields(reward)} if is_dataclass(reward) else {}


def _reward_options(row: Row) -> dict[str, Any]:
    own = {name: value for name, value in _reward_defaults(row).items() if value is not MISSING}
    return own | {name: value for name, value in _options(row).items() if name in own}


def _trained_with(row: Row) -> dict[str, Any]:
    told = {name: getattr(row, name) for name in ("dataset", "learner", "warm_start", "preset", "horizon")}
    return {**told, **{name: value for name, value in _options(row).items() if name not in ("select", "tail")}}


def _but_horizon(row: Row) -> tuple[Any, ...]:
    return (
        row.environment,
        row.dataset,
        row.method,
        row.learner,
        row.warm_start,
        row.options,
        row.preset,
        row.n_expert,
    )


def _but_reward(row: Row) -> tuple[Any, ...]:
    own = _reward_defaults(row)
    rest = tuple(sorted((name, _frozen(value)) for name, value in _options(row).items() if name not in own))
    return (
        row.environment, row.dataset, row.method, row.learner, row.warm_start, rest, row.preset, row.n_expert, row.horizon,
    )  # fmt: skip


def _usual_horizon(rows: Sequence[Row]) -> int:
    found = Counter(row.horizon for row in rows)
    return USUAL_HORIZON if USUAL_HORIZON in found else found.most_common(1)[0][0]


def _usual_reward(rows: Sequence[Row]) -> Options | None:
    """Nothing changed, if there is such a row; None if all of them are usual in their own way."""
    return () if any(not changed_reward(row) for row in rows) else None


def _families(rows: Iterable[Row], key: Callable[[Row], Hashable]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _lines(rows: Iterable[Row], named: Mapping[Row, str], x: Callable[[Row], float]) -> Lines:
    found: Lines = {}
    for row in rows:
        found.setdefault(named[row], {}).setdefault(x(row), []).append(row)
    return found


def _once(rows: Iterable[Row]) -> list[Row]:
    """Each training once: of two evaluations of it the later, of one that stands under two names the first."""
    latest = {(_but_horizon(row), row.horizon, name_of(row), row.seed): row for row in rows}
    seen: set[Any] = set()
    kept = []
    for (config, horizon, _, seed), row in latest.items():
        same = (config, horizon, seed, row.returns)
        if not row.returns or same not in seen:
            kept.append(row)
        seen.add(same)
    return kept


def _names(options: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for of in options for name in of))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
