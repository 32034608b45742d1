"""Examiners for those who write a reward, a learner or a vector environment, and tiny models to try things on.

::

    from dream_env.testing import check_reward
    def test_my_reward_keeps_the_contract():
        check_reward("my-reward")

A broken promise is an ``AssertionError`` that names it; a plug-in that cannot be found or made is a ``PluginError``.
"""

import dataclasses
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from dream_env.checkpoint import Store
from dream_env.dream.env import DreamEnv
from dream_env.dream.vector_checker import check_dream_env
from dream_env.latent import Latent
from dream_env.model.encoded import EncodedDemos
from dream_env.model.world_model import WorldModel
from dream_env.plugin import Learner, Policy, Reward, Rollout, Transition, load_learner, load_reward
from dream_env.recordings.demos import Demos
from dream_env.tiny import tiny_demos, tiny_expert, tiny_rollout, tiny_world_model, transition_of

__all__ = ["check_dream_env", "check_learner", "check_reward", "tiny_demos", "tiny_expert", "tiny_world_model"]

HORIZON = 5
"""Steps of the dreams that plug-ins are examined in."""


def check_reward(
    reward: str | Reward,
    *,
    world_model: WorldModel | None = None,
    expert: EncodedDemos | None = None,
    num_envs: int = 6,
    **options: Any,
) -> None:
    """Examine a reward: shape, finiteness, bounds, determinism, independence of dreams, no side effects, its state.

    ``world_model`` and ``expert`` default to tiny random ones with an ensemble, so that disagreement can be measured.
    """
    reward = load_reward(reward, **options)
    world_model = world_model or tiny_world_model(ensemble=2)
    expert = expert or tiny_expert(world_model)
    name = reward.name
    low, high = reward.bounds
    assert name, f"{type(reward).__name__}.name is empty"
    assert low <= high, f"reward {name!r}: bounds are (smallest, largest), not {(low, high)}"
    _check_options(f"reward {name!r}", reward)
    with torch.no_grad():
        reward.prepare(world_model, expert)
        rollout = tiny_rollout(world_model, expert, num_envs, HORIZON)
        _check_rewards(reward, rollout)
    _check_update(reward, rollout)
    with torch.no_grad():  # again, since an adversary that knows nothing yet holds all dreams equal
        _check_rewards(reward, rollout)
    _check_state(reward, world_model, expert, rollout)
    dream = DreamEnv(num_envs, wm=world_model, expert=expert, reward=reward, horizon=HORIZON)
    dream.reset(seed=0)
    dream.action_space.seed(0)
    for _ in range(HORIZON + 1):
        dream.step(dream.action_space.sample())


def _check_rewards(reward: Reward, rollout: Rollout) -> None:
    for step in (0, HORIZON - 1):
        _check_transition(reward, transition_of(rollout, step))


def _check_transition(reward: Reward, transition: Transition) -> None:
    name, num = reward.name, len(transition.step_t)
    before = _copy(transition)
    given = reward(transition)
    assert isinstance(given, Tensor), f"reward {name!r} returned {type(given).__name__}; expected a tensor"
    assert given.shape == (num,), f"reward {name!r} has shape {tuple(given.shape)}; expected ({num},), one a dream"
    assert given.is_floating_point(), f"reward {name!r} is of {given.dtype}; expected a floating point type"
    assert torch.isfinite(given).all(), f"reward {name!r} is not finite: {given.tolist()}"
    low, high = reward.bounds
    inside = (given >= low - 1e-5) & (given <= high + 1e-5)
    assert inside.all(), f"reward {name!r} leaves its bounds {(low, high)}: {given[~inside].tolist()}"
    assert _equal(before, transition), f"reward {name!r} changed the transition it was given"
    assert torch.equal(given, reward(transition)), f"reward {name!r} gives other numbers for the same transition"
    # No reversal and no rotation: one who mixes rows up in such a way would not be seen.
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    permuted = reward(_rows(transition, order))
    assert torch.allclose(permuted, given[order], atol=1e-5), (
        f"reward {name!r}: permuting dreams does not permute rewards"
    )
    alone = reward(_rows(transition, order[:1]))
    assert torch.allclose(alone, given[order[:1]], atol=1e-5), (
        f"reward {name!r} of one dream depends on the dreams beside it"
    )


def _check_update(reward: Reward, rollout: Rollout) -> None:
    before = _copy(rollout)
    metrics = reward.update(rollout)
    assert isinstance(metrics, dict), (
        f"reward {reward.name!r}: update returned {type(metrics).__name__}, expected a dict"
    )
    for key, value in metrics.items():
        assert isinstance(key, str), f"reward {reward.name!r}: update's metric {key!r} is not named by a string"
        assert math.isfinite(value), f"reward {reward.name!r}: update's metric {key!r} is {value}"
    assert _equal(before, rollout), f"reward {reward.name!r}: update changed the rollout it was given"


def _check_state(reward: Reward, world_model: WorldModel, expert: EncodedDemos, rollout: Rollout) -> None:
    name, transition = reward.name, transition_of(rollout, 1)
    state = reward.state_dict()
    for key, value in state.items():
        assert isinstance(value, Tensor), (
            f"reward {name!r}: state_dict()[{key!r}] is {type(value).__name__}, not a tensor"
        )
    state = {key: value.clone() for key, value in state.items()}
    twin = dataclasses.replace(reward) if dataclasses.is_dataclass(reward) else type(reward)()
    assert isinstance(twin, Reward)
    with torch.no_grad():
        twin.prepare(world_model, expert)
        twin.load_state_dict(state)
        same = torch.equal(twin(transition), reward(transition))
    assert same, f"reward {name!r}: a twin given state_dict() rewards the same transition differently"
    for one in (twin, reward):  # what it learns with goes on as well: the optimiser's moments, a generator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            one.update(rollout)
            one.update(rollout)
    with torch.no_grad():
        same = torch.equal(twin(transition), reward(transition)) and _equal(twin.state_dict(), reward.state_dict())
    assert same, f"reward {name!r}: a twin given state_dict() learns something else from the same rollout"


def check_learner(
    learner: str | Learner,
    *,
    steps: int = 1000,
    num_envs: int = 8,
    action_space: spaces.Space[Any] | None = None,
    **options: Any,
) -> None:
    """Examine a learner: it learns, tells of it, is reproducible and resumable, and its policy can be kept.

    ``steps`` must be enough for a few of its updates, or resuming is not really examined. The actions are three numbered ones
    unless ``action_space`` says otherwise; a learner that reads the recordings can be examined with those alone.
    """
    learner = load_learner(learner, **options)
    name = type(learner).__name__
    _check_options(f"learner {name}", learner)
    with _tiny_recordings():
        _check_learning(learner, steps, num_envs, partial(_dream, action_space, type(learner).usual_reward))


def _check_learning(learner: Learner, steps: int, num_envs: int, dream: Callable[..., DreamEnv]) -> None:
    name = type(learner).__name__
    calls: list[dict[str, float]] = []
    policy = learner.learn(dream(num_envs), steps, seed=1, progress=lambda _, metrics: calls.append(metrics))
    assert isinstance(policy, Policy), f"learner {name}: learn returned {type(policy).__name__}, expected a Policy"
    assert calls, f"learner {name} never called progress"
    for metrics in calls:
        assert "steps" in metrics, f"learner {name}: progress got no 'steps' but {sorted(metrics)}"
        bad = {key: value for key, value in metrics.items() if not math.isfinite(value)}
        assert not bad, f"learner {name}: metrics are not finite: {bad}"
    assert calls[-1]["steps"] >= steps, f"learner {name} stopped after {calls[-1]['steps']:.0f} of {steps} steps"
    _check_policy(name, policy, dream(5))
    _check_restore(learner, policy, dream(16))
    again = learner.learn(dream(num_envs), steps, seed=1)
    assert _equal(policy.state_dict(), again.state_dict()), f"learner {name}: the same seed gives other weights"
    _check_resume(learner, policy, steps, partial(dream, num_envs), stop_after=len(calls) // 2)
    if type(learner).follows_reward and not dream(1).reward.state_dict():  # else its reward's state was kept just now
        learning = partial(dream, num_envs, reward=_Growing)
        unbroken = learner.learn(learning(), steps, seed=1)
        _check_resume(learner, unbroken, steps, learning, stop_after=len(calls) // 2)


class _Growing(Reward):
    """Grows with every horizon, so that it shows if a learner forgets the dream's and with it the reward's state."""

    name = "growing"
    bounds = (-1.0, 1.0)

    def prepare(self, world_model: WorldModel, expert: EncodedDemos) -> None:
        self._horizons = torch.zeros((), device=world_model.device)

    def __call__(self, transition: Transition) -> Tensor:
        return torch.tanh(transition.latent_tp1.deter.mean(dim=-1) * (1.0 + self._horizons))

    def update(self, rollout: Rollout) -> dict[str, float]:
        self._horizons += 1.0
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {"horizons": self._horizons}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._horizons = state["horizons"].clone()


class _Interrupted(Exception):
    pass


def _check_resume(
    learner: Learner, unbroken: Policy, steps: int, dream: Callable[[], DreamEnv], stop_after: int
) -> None:
    name = type(learner).__name__
    count = 0

    def stop(policy: Policy, metrics: dict[str, float]) -> None:
        nonlocal count
        count += 1
        if count > stop_after:
            raise _Interrupted

    with tempfile.TemporaryDirectory() as folder:
        try:
            learner.learn(dream(), steps, seed=1, progress=stop, store=Store(folder, every_seconds=0.0))
        except _Interrupted:
            pass
        else:
            raise AssertionError(f"learner {name} swallowed an exception that progress raised")
        saved = Store(folder).latest_folder()
        assert saved is not None, (
            f"learner {name} was interrupted half of the way and had kept nothing in its store; if {steps} steps are no more "
            f"than one or two of its updates, examine it with more"
        )
        told: list[float] = []
        resumed = learner.learn(
            dream(), steps, seed=1, store=Store(folder, every_seconds=0.0),
            progress=lambda _, metrics: told.append(metrics["steps"]),
        )  # fmt: skip
        assert min(told, default=math.inf) >= int(saved.name), (
            f"learner {name} has a state of {int(saved.name)} steps in its store, and began anew at {min(told):g}"
        )
    same = _equal(unbroken.state_dict(), resumed.state_dict())
    assert same, f"learner {name}: a run that was interrupted and resumed has other weights than an unbroken one"


def _check_policy(name: str, policy: Policy, dream: DreamEnv) -> None:
    space, obs = dream.action_space, dream.reset(seed=2)[0]
    for deterministic in (False, True):
        state: Any = None
        for start in (np.ones(5, dtype=bool), np.zeros(5, dtype=bool)):
            action, state = policy.predict(_shown(policy, obs), state, start, deterministic)
            assert isinstance(action, np.ndarray), (
                f"learner {name}: predict returned {type(action).__name__}, not an array"
            )
            assert action.shape == space.shape, (
                f"learner {name}: actions have shape {action.shape}; expected {space.shape}"
            )
            obs = dream.step(action)[0]
    first, second = (policy.predict(_shown(policy, obs), deterministic=True)[0] for _ in range(2))
    assert np.array_equal(first, second), f"learner {name}: deterministic actions differ between two calls"


def _check_restore(learner: Learner, policy: Policy, dream: DreamEnv) -> None:
    name = type(learner).__name__
    try:
        config = json.loads(json.dumps(policy.config()))
    except TypeError as error:
        raise AssertionError(f"learner {name}: the policy's config() does not go through JSON: {error}") from error
    weights = {key: tensor.clone() for key, tensor in policy.state_dict().items()}
    restored = type(learner).restore(config, weights)
    obs = _shown(policy, dream.reset(seed=3)[0])
    kept, back = (p.predict(obs, deterministic=True)[0] for p in (policy, restored))
    assert np.array_equal(kept, back), f"learner {name}: the restored policy acts differently"


def _check_options(who: str, plugin: Reward | Learner) -> None:
    assert dataclasses.is_dataclass(plugin), f"{who} is no dataclass; its options should be a dataclass's fields"
    try:
        json.dumps(dataclasses.asdict(plugin))
    except TypeError as error:
        raise AssertionError(f"{who}: an option does not go through JSON: {error}") from error


def _dream(
    action_space: spaces.Space[Any] | None, usual_reward: str, num_envs: int, reward: Callable[[], Reward] | None = None
) -> DreamEnv:
    world_model = tiny_world_model(action_space=action_space, ensemble=2)
    expert = tiny_expert(world_model)
    following = reward() if reward else usual_reward
    return DreamEnv(num_envs, wm=world_model, expert=expert, reward=following, horizon=HORIZON)


@contextmanager
def _tiny_recordings() -> Iterator[None]:
    # A learner may read the recordings that the expert was encoded from; a tiny model's are in memory only.
    recorded, load = tiny_demos(), Demos.load

    def tiny(dataset: Any, *arguments: Any, **options: Any) -> Demos:
        return recorded if dataset == recorded.source.dataset else load(dataset, *arguments, **options)

    with mock.patch.object(Demos, "load", tiny):
        yield


def _shown(policy: Policy, feat: np.ndarray) -> Any:
    """Model states as the policy observes them: a policy of observations sees what they look like."""
    if policy.observes == "latent":
        return feat
    world_model = tiny_world_model()
    latent = Latent(*torch.as_tensor(feat).split([world_model.deter_size, world_model.stoch_size], dim=-1))
    with torch.no_grad():
        return {name: x.round().to(torch.uint8).numpy() for name, x in world_model.decode(latent).items()}


def _rows(transition: Transition, index: Tensor) -> Transition:
    fields = {field.name: getattr(transition, field.name) for field in dataclasses.fields(transition)}
    return Transition(**{name: x if name == "horizon" else x[index] for name, x in fields.items()})


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in a dataclass or dictionary, in order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for key in sorted(value) for tensor in _tensors(value[key])]
    if dataclasses.is_dataclass(value):
        return [tensor for field in dataclasses.fields(value) for tensor in _tensors(getattr(value, field.name))]
    return []


def _copy(value: Any) -> list[Tensor]:
    return [tensor.clone() for tensor in _tensors(value)]


def _equal(a: Any, b: Any) -> bool:
    left, right = (x if isinstance(x, list) else _tensors(x) for x in (a, b))
    return len(left) == len(right) and all(torch.equal(x, y) for x, y in zip(left, right, strict=True))
