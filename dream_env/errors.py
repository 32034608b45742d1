"""Every error dream-env raises on purpose, and the one helper that makes their messages useful.

::

    DreamEnvError
    ├── ConfigError            an option is unknown or out of range                        (also a ValueError)
    ├── DatasetError           a dataset is missing, broken, too short or not finite       (also a ValueError)
    ├── SpaceError             a space, an observation or an action does not fit           (also a ValueError)
    ├── CheckpointError        a folder is missing, truncated, newer, or already taken     (also a ValueError)
    ├── EnvironmentMismatch    a model of one environment was asked to be another          (also a ValueError)
    ├── PluginError            a reward or learner is unknown, doubled, or broke its contract (also a ValueError)
    └── TrainingError          training cannot go on: the loss or a weight is not finite   (also a RuntimeError)

Messages say what came, what was expected, and what to do next.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, get_args


class DreamEnvError(Exception):
    """Base class: ``except DreamEnvError`` catches everything dream-env raises on purpose."""


class ConfigError(DreamEnvError, ValueError):
    """An option is unknown or out of range."""


class DatasetError(DreamEnvError, ValueError):
    """A dataset is missing, broken, too short, or holds non-finite numbers."""


class SpaceError(DreamEnvError, ValueError):
    """A space, an observation or an action does not fit what was declared."""


class CheckpointError(DreamEnvError, ValueError):
    """A checkpoint folder is missing, truncated, written by a newer version, or already holds another run."""


class EnvironmentMismatch(DreamEnvError, ValueError):
    """A world model of one environment was asked to be another."""


class PluginError(DreamEnvError, ValueError):
    """A reward or a learner is unknown, offered twice, or broke its contract."""


class TrainingError(DreamEnvError, RuntimeError):
    """Training cannot go on, usually because a loss is not finite."""


def nearest(name: str, candidates: Iterable[str]) -> str:
    """Return ``' Did you mean "x"?'`` for the candidate nearest to ``name``, or an empty string if none is near."""
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f' Did you mean "{close[0]}"?' if close else ""


def check_choices(options: object, kinds: Mapping[str, Any]) -> None:
    """See that options that are one of a few words (``Literal`` types, by the option's name) are one of them.

    Raises:
        ConfigError: if one is not.
    """
    for option, kind in kinds.items():
        value, choices = getattr(options, option), get_args(kind)
        if value not in choices:
            raise ConfigError(f"{option} is one of {', '.join(choices)}, not {value!r}.{nearest(str(value), choices)}")
