"""The two contracts an algorithm of imitation is written against, and their lookup by name.

A **reward** says how well a dream follows the expert. It has the three moments that the published rewards need:

1. ``prepare(world_model, expert)``, once: keep what is needed of the expert, build a discriminator.
2. ``reward(transition)``, every step of the dream: one number a dream.
3. ``update(rollout)``, after every horizon: learn from what the learner did. The dream itself calls it, so an
   adversarial reward learns under any learner, without a callback.

A **learner** turns a dream into a policy. Both are dataclasses whose fields are their options: JSON-able, with a
default and a docstring each; the command line's flags are made of them. Both are found by entry point, ours through the
same door as a stranger's (``dream_env.rewards``, ``dream_env.learners``); ``dream_env.testing`` examines either.
"""

import dataclasses
import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dream_env.checkpoint import Store, config_to_json
from dream_env.errors import PluginError, nearest
from dream_env.latent import Latent
from dream_env.model.encoded import EncodedDemos
from dream_env.model.world_model import WorldModel

if TYPE_CHECKING:  # the dream stands a floor above; a learner is handed one and needs no import
    from dream_env.dream.env import DreamEnv

Kind = Literal["rewards", "learners"]
Observes = Literal["latent", "observation"]
PluginType = TypeVar("PluginType")


@dataclass(frozen=True)
class Transition:
    """One step of N dreams side by side with the same step of the N expert windows they started from."""

    latent_t: Latent
    """Where each dream was, (N, ·)."""
    action_t: Int[Tensor, " batch"] | Float[Tensor, "batch *box"]
    """What the learner did there, as the real environment takes actions."""
    latent_tp1: Latent
    """Where that led."""
    expert_latent_t: Latent
    """Where the expert was at the same step of its window."""
    expert_action_t: Int[Tensor, " batch"] | Float[Tensor, "batch *box"]
    """What the expert did there."""
    expert_latent_tp1: Latent
    """Where that led."""
    step_t: Int[Tensor, " batch"]
    """Index t of the step in its dream, 0 … horizon − 1."""
    horizon: int
    """Steps of a whole dream."""


@dataclass(frozen=True)
class Rollout:
    """N whole dreams of H steps, and their expert windows: the learner's own on-policy steps, for ``update``.

    To a reward that is not ``paired`` a learner may also give other windows of the expert, of another length and number.
    """

    latent: Latent
    """(H + 1, N, ·), from the start to the end."""
    action: Int[Tensor, "horizon batch"] | Float[Tensor, "horizon batch *box"]
    """What the learner did."""
    expert_latent: Latent
    """(H + 1, N, ·)."""
    expert_action: Int[Tensor, "expert_steps expert_batch"] | Float[Tensor, "expert_steps expert_batch *box"]
    """What the expert did."""
    valid: Bool[Tensor, "horizon batch"]
    """False for the steps after a dream that the continue head ended early; all true without ``terminate=True``."""


class Reward(ABC):
    """A reward of imitation. Subclass as a dataclass; its fields are its options."""

    name: ClassVar[str] = ""
    """What messages and result rows call it; the class's name in lower case unless set."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__.lower()

    @property
    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest reward there can be; infinite if there is no such number."""
        return (-np.inf, np.inf)

    @property
    def paired(self) -> bool:
        """Whether it compares a step with the same step of an expert window, as most do.

        One that judges a step by itself can also judge dreams that start elsewhere, for which the ``expert_…`` fields of a
        transition mean nothing.
        """
        return True

    def prepare(self, world_model: WorldModel, expert: EncodedDemos) -> None:  # noqa: B027 (optional to override)
        """Called once, before the first step."""

    @abstractmethod
    def __call__(self, transition: Transition) -> Float[Tensor, " batch"]:
        """One reward a dream, on the transition's device; finite, and changing nothing."""

    def on_data(self, transition: Transition) -> Float[Tensor, " batch"]:
        """The reward of a recorded step, for learners with losses on real data; the same unless overridden."""
        return self(transition)

    def update(self, rollout: Rollout) -> dict[str, float]:
        """Learn from N whole dreams and return metrics. Rollouts are recorded only for a reward that overrides this."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """What ``update`` has learned, for a run that is to go on where it stopped."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Put back what ``state_dict`` gave."""
        if state:
            raise PluginError(
                f"reward {self.name!r} keeps no state, but was given {sorted(state)}; is it the same reward?"
            )


class RowMemory(tuple[np.ndarray, ...]):
    """A policy's memory whose every array has the environments on its first axis, so that some of them can be chosen."""


class Policy(ABC):
    """Actions from model states, with the signature of Stable-Baselines3's ``predict``."""

    observes: ClassVar[Observes] = "latent"
    """What ``predict`` is shown: model states, or the observations themselves, packed as ``ObservationSpec.pack`` does (a
    dictionary of arrays (N, ...), as SB3 has it). A policy of observations plays real environments without the filter;
    a dream, which has model states only, it cannot act in."""

    @abstractmethod
    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Model states (N, feat) float32 to the environment's actions (N, ...), and the state of a recurrent policy.

        Each environment's memory begins anew where ``episode_start`` is true.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """What ``Learner.restore`` needs beside the weights; JSON-able."""

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """The weights, each by its name."""


Progress = Callable[[Policy, dict[str, float]], None]
"""What a learner tells of its progress: the policy as it is now, and metrics with ``"steps"`` among them. ``"updates"`` go to
the result rows: how many updates it has made, if it counts them."""


def ignore(policy: Policy, metrics: dict[str, float]) -> None:
    """The progress callback of whoever does not look."""


def first_seed(seed: int) -> int:
    """What to reset a run's dreams with: a million for each seed of a run, since dream ``i`` takes the i-th after it.

    With the run's seed itself, all dreams but one of a run would be those of the next run, and two runs no two trials.
    """
    return 1_000_000 * seed


class Learner(ABC):
    """A way to get a policy out of a dream. Subclass as a dataclass; its fields are its options."""

    follows_reward: ClassVar[bool] = True
    """Whether it learns from the dream's reward; result rows of one that does not bear its own name instead."""
    usual_reward: ClassVar[str] = "ditto"
    """The reward it is used with where none is named."""
    reports_each_update: ClassVar[bool] = False
    """Whether ``progress`` is called after each update throughout. Of another learner an option ``report_last``, if it has one,
    says after how many of the last it is."""

    def check(self, dream: "DreamEnv") -> None:  # noqa: B027 (optional to override)
        """Refuse a dream in which it cannot learn, with a ConfigError: asked before a run takes its folder."""

    @abstractmethod
    def learn(
        self,
        dream: "DreamEnv",
        steps: int,
        *,
        seed: int = 0,
        progress: Progress = ignore,
        store: Store | None = None,
    ) -> Policy:
        """Learn for ``steps`` dream steps, counted over all dreams together, from ``dream.reset(seed=first_seed(seed))`` on.

        ``progress`` is called now and then. With a ``store`` the training state is saved there now and then, and one
        found there is gone on from: the result equals an unbroken run's.
        """

    @classmethod
    @abstractmethod
    def restore(cls, config: dict[str, Any], weights: dict[str, Tensor]) -> Policy:
        """The policy that ``config()`` and ``state_dict()`` were taken of."""


def available(kind: Kind) -> dict[str, str]:
    """Every installed plug-in as ``{name: "module:Class (distribution)"}``; imports none of them."""
    return {
        name: ", ".join(f"{p.value} ({_distribution(p)})" for p in points)
        for name, points in _entry_points(kind).items()
    }


def find(kind: Kind, name: str) -> type[Any]:
    """The class behind a plug-in's name, or behind ``"module:Class"``."""
    if ":" in name:
        return _import(name, name)
    points = _entry_points(kind).get(name, [])
    if len(points) > 1:
        offers = " and ".join(f"{_distribution(p)} ({p.value})" for p in points)
        raise PluginError(f"two plug-ins are named {name!r}: {offers}; uninstall one, or give 'module:Class'")
    if not points:
        names = sorted(_entry_points(kind))
        raise PluginError(
            f"there is no {kind[:-1]} named {name!r}.{nearest(name, names)} Installed: {', '.join(names) or 'none'}. "
            f"A plug-in written just now is found after its distribution is installed again, or as 'module:Class'"
        )
    return _import(name, points[0].value)


def load_reward(reward: str | Reward, **options: Any) -> Reward:
    """A reward by name or ``"module:Class"`` with its options, or the instance that was given."""
    return _load("rewards", Reward, reward, options)  # type: ignore[type-abstract]


def load_learner(learner: str | Learner, **options: Any) -> Learner:
    """A learner by name or ``"module:Class"`` with its options, or the instance that was given."""
    return _load("learners", Learner, learner, options)  # type: ignore[type-abstract]


def plugin_identity(plugin: Reward | Learner) -> dict[str, Any]:
    """A plug-in's class and all its options, as JSON; what is none, a path for one, as text.

    Raises:
        PluginError: if it is no dataclass.
    """
    if not dataclasses.is_dataclass(plugin):
        raise PluginError(
            f"{_reference(type(plugin))} is no dataclass, whose fields are a plug-in's options; put @dataclass above the class"
        )
    options = {field.name: getattr(plugin, field.name) for field in dataclasses.fields(plugin) if field.init}
    return _identity(type(plugin), options)


def plugin_defaults(plugin: type[Reward] | type[Learner]) -> dict[str, Any]:
    """The same of one whose options are as they are by default, as far as they have one; nothing is made."""
    options: dict[str, Any] = {}
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(plugin) if dataclasses.is_dataclass(plugin) else ()
    for field in fields:
        if field.init and field.default is not dataclasses.MISSING:
            options[field.name] = field.default
        elif field.init and field.default_factory is not dataclasses.MISSING:
            options[field.name] = field.default_factory()
    return _identity(plugin, options)


def _identity(plugin: type[Any], options: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(options, default=_plain))
    return {"class": _reference(plugin), **plain}


def _reference(plugin: type[Any]) -> str:
    return f"{plugin.__module__}:{plugin.__qualname__}"


def _plain(option: Any) -> Any:
    return config_to_json(option) if dataclasses.is_dataclass(option) else str(option)


def _load(kind: Kind, contract: type[PluginType], plugin: str | PluginType, options: dict[str, Any]) -> PluginType:
    if isinstance(plugin, contract):
        if options:
            raise PluginError(f"options {sorted(options)} came with a finished {kind[:-1]}; give them where it is made")
        return plugin
    if not isinstance(plugin, str):
        raise PluginError(f"a {kind[:-1]} is a name, 'module:Class' or a finished {contract.__name__}, not {plugin!r}")
    cls = find(kind, plugin)
    if not (isinstance(cls, type) and issubclass(cls, contract)):
        raise PluginError(
            f"{kind[:-1]} {plugin!r} is {cls!r}, which is no subclass of {contract.__module__}.{contract.__name__}"
        )
    fields = [field.name for field in dataclasses.fields(cls) if field.init] if dataclasses.is_dataclass(cls) else []
    for option in options:
        if option not in fields:
            raise PluginError(
                f"{kind[:-1]} {plugin!r} has no option {option!r}.{nearest(option, fields)} "
                f"Its options: {', '.join(fields) or 'none'}"
            )
    try:
        return cls(**options)
    except TypeError as error:  # an abstract method left out, or an option without a default
        raise PluginError(f"{kind[:-1]} {plugin!r} could not be made: {error}") from error


def _entry_points(kind: Kind) -> dict[str, list[metadata.EntryPoint]]:
    points: dict[str, list[metadata.EntryPoint]] = {}
    for point in sorted(metadata.entry_points(group=f"dream_env.{kind}"), key=lambda p: (p.name, _distribution(p))):
        points.setdefault(point.name, []).append(point)
    return points


def _distribution(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else "unknown distribution"


def _import(name: str, target: str) -> type[Any]:
    module, _, attribute = target.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a plug-in's import may fail in any way
        raise PluginError(
            f"plug-in {name!r} could not be imported from {target}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, type):
        raise PluginError(f"plug-in {name!r} is {found!r} in {target}; expected a class")
    return found
