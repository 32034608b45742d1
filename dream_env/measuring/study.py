"""A result file of many runs as lines of figures: what belongs to one line, and which rows vary one thing about it.

Nothing here knows an algorithm by name. A line is called what the rows' ``experiment`` says after its last ``/`` (a grid's
name for its method), and rows that differ in nothing but the dreams' horizon, or in nothing but options of the reward, are
ablations: of these only the usual one is a line of the main comparison. Which options are the reward's their keys tell:
they have its name before them, as ``ditto.metric``.

Lines hold all the rows there are. What of them may be held against what, ``comparisons`` says: points of the same seeds.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from dream_env.errors import ConfigError
from dream_env.measuring import results
from dream_env.measuring.families import (
    USUAL_HORIZON,
    Options,
    any_horizon,
    any_reward,
    but_horizon,
    but_reward,
    changed_reward,
    config_of,
    differing_keys,
    frozen,
    grouped,
    one_amount,
    options_of,
    reward_options,
    told_apart,
    told_of,
    usual_horizon,
    usual_reward,
)
from dream_env.measuring.results import Row
from dream_env.measuring.statistics import interval_over_runs, iqm
from dream_env.measuring.tables import training_name

Lines = dict[str, dict[float, list[Row]]]
"""Line → x → a row for each training seed."""
Seeds = frozenset[tuple[int, int]]
"""Of trainings: each with the seed of its world model (``Row.seeds``)."""
Training = tuple[str, str, str, int, int]
"""Environment, data set, name (``name_of``), expert episodes and seed: what a row and the curves of a training share."""
Key = TypeVar("Key", bound=Hashable)


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
    """Different ones."""


def score(rows: Sequence[Row]) -> Score:
    """What some rows of one line say together."""
    runs = [row.returns or (row.return_iqm,) for row in rows]
    middle = float(iqm(np.concatenate([np.asarray(run, dtype=np.float64) for run in runs])))
    return Score(middle, *interval_over_runs(runs), len({row.seeds for row in rows}))


@dataclass(frozen=True)
class Comparison(Generic[Key]):
    """Points that are held against one another: each is of the same training seeds, with a row for each."""

    seeds: Seeds
    points: dict[Key, list[Row]]


def comparisons(points: Mapping[Key, Sequence[Row]]) -> list[Comparison[Key]]:
    """What may be compared of some points: only runs of the same training seeds.

    A method that fails with one seed in three looks worse than one that was never run with that seed, though it may be
    better wherever both were run. So all points of a comparison are of one set of seeds, and their rows of other seeds play
    no part in it. The set is the one that the most points have; of several such sets, the largest.

    That can be a single seed, for the sake of one point. Where another set, which fewer points have, makes more runs in all
    (points times seeds), these points are a second comparison. Points that lack a seed of either set are in none.

    Returns:
        One comparison or two; none where no two of several points share a seed.
    """
    have: dict[Key, Seeds] = {key: frozenset(row.seeds for row in rows) for key, rows in points.items()}
    shared: set[Seeds] = set()
    for seeds in have.values():
        shared |= {seeds} | {seeds & others for others in shared}
    sharing = {seeds: [key for key, of in have.items() if seeds <= of] for seeds in shared if seeds}
    sets = sorted((seeds for seeds, keys in sharing.items() if len(keys) > 1 or len(have) == 1), key=sorted)
    if not sets:
        return []
    broadest = max(sets, key=lambda seeds: (len(sharing[seeds]), len(seeds)))
    fullest = max(sets, key=lambda seeds: (len(sharing[seeds]) * len(seeds), len(sharing[seeds])))
    return [
        Comparison(seeds, {key: [row for row in points[key] if row.seeds in seeds] for key in sharing[seeds]})
        for seeds in dict.fromkeys((broadest, fullest))
    ]


def seeds_said(seeds: Iterable[tuple[int, int]]) -> str:
    """``seeds 0, 1``; ``seed 1 in model 0`` of a training in the world model of another seed."""
    said = [str(own) if own == model else f"{own} in model {model}" for own, model in sorted(seeds)]
    return f"seed{'s' if len(said) > 1 else ''} {', '.join(said)}"


def world_model_of(row: Row) -> Hashable:
    """What tells the world model in which a row's policy was trained; equal for rows that share one.

    That is the recording, the model's size, its seed, and the options of its fit. Methods, learners and numbers of imitated
    episodes may differ: a grid fits one model, from all episodes, for all of them.
    """
    fit = {key: value for key, value in options_of(row).items() if key.startswith("fit.")}
    return row.environment, row.dataset, row.preset, row.seeds[1], frozen(fit)


def world_models(rows: Iterable[Row]) -> dict[Training, Hashable]:
    """``world_model_of`` each training, by what the curves know of it."""
    found: dict[Training, set[Hashable]] = {}
    for row in rows:
        if row.trained:
            key = (row.environment, row.dataset, name_of(row), row.n_expert, row.seed)
            found.setdefault(key, set()).add(world_model_of(row))
    # Where trainings of one name and seed had several models nobody can say which: these are no model that another has.
    return {key: frozenset(models) for key, models in found.items()}


@dataclass(frozen=True)
class Study:
    """The rows of one file that are compared."""

    trained: tuple[Row, ...]
    """Trained policies, each training once; ablations too."""
    untrained: tuple[Row, ...]
    """Random actions and recorded experts."""
    named: Mapping[Row, str]
    """What figures and tables call each row of ``trained``; see ``names``."""

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
        trained, named = tuple(_once(wanted)), names(row for row in rows if row.trained)
        return cls(trained, tuple(row for row in rows if not row.trained), {row: named[row] for row in trained})

    @property
    def environments(self) -> list[str]:
        """In the order of the file."""
        return list(dict.fromkeys(row.environment for row in self.trained))

    def levels(self, environment: str, column: str = "return_iqm", *, dataset: str = "") -> dict[str, float]:
        """What trained policies are compared with: the return of ``random`` actions and of the ``expert``.

        Args:
            environment: of the games.
            column: of the rows, as return_mean.
            dataset: that whose expert is meant; all of the file unless given, called ``expert (DATASET)`` if several.

        Random games of several protocols are told apart in the same way: ``random (max_steps=200)``.
        """
        rows = [row for row in self.untrained if row.environment == environment]
        experts = {row.dataset: row for row in rows if row.method == "expert" and dataset in ("", row.dataset)}
        found = {
            f"expert ({name})" if len(experts) > 1 else "expert": float(getattr(row, column))
            for name, row in experts.items()
        }
        random = [row for row in rows if row.method == "random"]  # they play the same whatever was recorded
        random = [row for row in random if row.dataset == dataset] or random
        for row, said in zip(random, told_apart([row.played for row in random]), strict=True):
            found[f"random ({said})" if said else "random"] = float(getattr(row, column))
        return found

    def main(self) -> list[Row]:
        """The rows of the main comparison: all that are no ablation, and of an ablation the usual one."""
        horizons = {key: usual_horizon(rows) for key, rows in grouped(self.trained, any_horizon).items()}
        rewards = {key: usual_reward(rows) for key, rows in grouped(self.trained, any_reward).items()}
        return [
            row
            for row in self.trained
            if row.horizon == horizons[any_horizon(row)] and rewards[any_reward(row)] in (None, changed_reward(row))
        ]

    def by_demos(self, environment: str) -> Lines:
        """The main comparison: x is the number of expert episodes."""
        rows = [row for row in self.main() if row.environment == environment]
        return _lines(rows, self.named, lambda row: float(row.n_expert))

    def by_horizon(self, environment: str) -> Lines:
        """Trainings that differ in the horizon of their dreams alone, and in how many there are; x is the horizon."""
        families = [
            part
            for rows in self._families(environment, but_horizon)
            for part in one_amount(rows)
            if len({row.horizon for row in part}) > 1
        ]
        found: Lines = {}
        for name, rows in self._called(environment, families):
            found |= _lines(rows, dict.fromkeys(rows, name), lambda row: float(row.horizon))
        return found

    def rewards(self, environment: str) -> dict[str, dict[Options, list[Row]]]:
        """Trainings that differ in options of the reward alone: line → those options that differ → rows."""
        families = [
            rows for rows in self._families(environment, but_reward) if differing_keys(map(reward_options, rows))
        ]
        found = {}
        for name, rows in self._called(environment, families):
            options = {row: reward_options(row) for row in rows}
            differing = differing_keys(options.values())
            groups: dict[Options, list[Row]] = {}
            for row, of in options.items():
                groups.setdefault(tuple((key, frozen(of.get(key))) for key in differing), []).append(row)
            found[name] = groups
        return found

    def _families(self, environment: str, key: Callable[[Row], Hashable]) -> list[list[Row]]:
        return list(grouped([row for row in self.trained if row.environment == environment], key).values())

    def _called(self, environment: str, families: Sequence[list[Row]]) -> list[tuple[str, list[Row]]]:
        """Families with a name each: of their row in the main comparison if there is one, as it is told from the rows there."""
        main = [row for row in self.main() if row.environment == environment]
        first = [min(rows, key=lambda row: (row not in main, row.horizon != USUAL_HORIZON)) for rows in families]
        named = names([*main, *first])
        return [(f"{named[row]}, {row.n_expert} episodes", rows) for row, rows in zip(first, families, strict=True)]


def name_of(row: Row) -> str:
    """What a study calls the way a row's policy was trained: ``b`` of the experiment ``a/b``, else the policy's name."""
    return row.experiment.rpartition("/")[2] if "/" in row.experiment else training_name(row)


def names(rows: Iterable[Row]) -> dict[Row, str]:
    """A name for each row.

    Rows of one name and environment that were trained in different ways get in it what differs, in brackets.
    """
    found = {row: name_of(row) for row in rows}
    for (_, name), same in grouped(found, lambda row: (row.environment, name_of(row))).items():
        said = told_apart([told_of(row) for row in same], but=("n_expert",))
        if any(said):
            found |= {row: f"{name} ({of or 'defaults'})" for row, of in zip(same, said, strict=True)}
    return found


def labelled(rows: Iterable[Row]) -> list[Row]:
    """Rows as a study's tables show them: the method of a trained one is its name of ``names``, as in the figures."""
    rows = list(rows)
    named = names(row for row in rows if row.trained)
    return [replace(row, method=named[row], learner="", warm_start="") if row.trained else row for row in rows]


def _lines(rows: Iterable[Row], named: Mapping[Row, str], x: Callable[[Row], float]) -> Lines:
    found: Lines = {}
    for row in rows:
        found.setdefault(named[row], {}).setdefault(x(row), []).append(row)
    return found


def _once(rows: Iterable[Row]) -> list[Row]:
    """Each training once: of two evaluations of it the later, of one that stands under two names the first."""
    # Equal returns alone prove nothing: two trainings that lose every game have them. With all options equal, and the
    # seed, they are one training, which a grid that names it twice (dot-h is ditto) need not have repeated.
    latest = {(config_of(row), name_of(row), row.seeds): row for row in rows}
    seen: set[Any] = set()
    kept = []
    for (config, _, seeds), row in latest.items():
        same = (config, seeds, row.returns)
        if not row.returns or same not in seen:
            kept.append(row)
        seen.add(same)
    return kept
