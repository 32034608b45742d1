"""Episodes of the real environment: many side by side, all acted in by one batched call a step."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch

from dream_env.agent import Agent
from dream_env.device import own_random_numbers
from dream_env.errors import ConfigError, SpaceError
from dream_env.filtering import FilterState, check_spaces, count, stack
from dream_env.plugin import RowMemory
from dream_env.progress import progress_bar
from dream_env.real.environments import Env, not_finite
from dream_env.real.real_rooms import in_space
from dream_env.real.success import SuccessTracker

MakeEnvironment = Callable[[], Env]


@runtime_checkable
class Actor(Protocol):
    """Whatever acts on raw observations as SB3's models do: an ``Agent``, ``RandomActor``, a model of SB3."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Observations (N, ...) to actions (N, ...) and the state for the next call."""


class RandomActor:
    """Uniform actions: the line below which nothing was learned."""

    def __init__(self, space: gymnasium.spaces.Space[Any], *, seed: int = 0) -> None:
        self.space = copy.deepcopy(space)  # or the environment's own would be seeded too
        self.space.seed(seed)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        """Whatever is seen."""
        return np.stack([self.space.sample() for _ in range(count(observation))]), None


@dataclass(frozen=True)
class EpisodeResult:
    """How one episode went."""

    seed: int
    """What the environment was reset with."""
    return_: float
    """Sum of its plain rewards."""
    length: int
    """Steps."""
    success: float | None = None
    """1 if it succeeded and 0 if not, as the environment says it (see ``success``); None where it says nothing."""
    tasks: float | None = None
    """Tasks completed, of environments with a list of them."""


def nobody(result: EpisodeResult) -> None:
    """The listener of whoever does not listen."""


def evaluate(
    actor: Actor,
    make_environment: MakeEnvironment,
    episodes: int = 20,
    *,
    seed: int = 10_000,
    seeds: Sequence[int] | None = None,
    deterministic: bool = False,
    parallel: int = 32,
    max_steps: int | None = None,
    name: str = "evaluate",
    expected_length: float | None = None,
    progress: bool = False,
    on_episode: Callable[[EpisodeResult], None] = nobody,
) -> list[EpisodeResult]:
    """Play whole episodes; episode ``i`` is reset with ``seed + i``.

    Args:
        actor: what acts, in all live environments at once.
        make_environment: makes one environment; called up to ``parallel`` times.
        episodes: how many.
        seed: of the first of them, of sampled actions and of the filter.
        seeds: the seed of each instead.
        deterministic: take the likeliest action instead of sampling one.
        parallel: most environments at once.
        max_steps: steps after which an episode is cut off; the environment's own limit, if it has one, unless given.
        name: what the progress bar says.
        expected_length: steps of a typical episode, by which the bar guesses the time that remains.
        progress: show a bar.
        on_episode: called as each episode ends.

    Returns:
        One result an episode, by seed.

    Raises:
        SpaceError: if the environment does not fit the agent, does not take its action, or gives numbers that are not finite.
        ConfigError: if there is nothing to play: no episode, no environment, or no step.
    """
    seeds = range(seed, seed + episodes) if seeds is None else seeds
    if len(seeds) < 1 or parallel < 1:
        raise ConfigError(f"{len(seeds)} episodes in {parallel} environments were asked for; both must be at least 1")
    if max_steps is not None and max_steps < 1:
        raise ConfigError(
            f"episodes of at most {max_steps} steps were asked for; max_steps must be at least 1, or left out"
        )
    results: list[EpisodeResult] = []
    environments: list[Env] = []
    try:
        for _ in range(min(parallel, len(seeds))):
            environments.append(make_environment())
        if isinstance(actor, Agent):
            check_spaces(actor.world_model, environments[0])
        with (
            own_random_numbers(device_of(actor), seeds[0]),  # who plays in the middle of a training does not disturb it
            progress_bar(name, len(seeds), "games", enabled=progress) as advance,
        ):
            table = _Table(actor, environments, seeds, deterministic, max_steps)
            while table.live:
                for result in table.step():
                    results.append(result)
                    on_episode(result)
                if progress:
                    advance(len(results) + table.fraction(expected_length), **_shown(results, table.frames))
    finally:
        for environment in environments:
            environment.close()
    return sorted(results, key=lambda result: result.seed)


class _Table:
    """The environments in play. One that ends begins the next episode; when there is none, it leaves."""

    def __init__(
        self,
        actor: Actor,
        environments: Sequence[Env],
        seeds: Sequence[int],
        deterministic: bool,
        max_steps: int | None = None,
    ) -> None:
        self.actor = actor
        self.max_steps = max_steps
        self.environments = environments
        self.deterministic = deterministic
        self.waiting = list(seeds[len(environments) :])
        self.seeds = list(seeds[: len(environments)])
        self.live = list(range(len(environments)))
        self.rows = list(self.live)  # environments in the actor's batch: the live ones, and with a memory all of them
        self.frames = 0
        self._observations = [env.reset(seed=seed)[0] for env, seed in zip(environments, self.seeds, strict=True)]
        self._first = np.ones(len(environments), dtype=bool)
        self._returns = np.zeros(len(environments))
        self._lengths = np.zeros(len(environments), dtype=np.int64)
        self._trackers = [SuccessTracker(env) for env in environments]
        self._state: Any = actor.start(self.seeds) if isinstance(actor, Agent) else None

    def step(self) -> list[EpisodeResult]:
        """Act once in every live environment."""
        for row in self.live:
            self._check(row, self._observations[row], "observation")
        observation = stack([self._observations[row] for row in self.rows])
        actions, self._state = self.actor.predict(
            observation, self._state, self._first[self.rows], self.deterministic
        )  # fmt: skip
        self._first[:] = False
        self.frames += len(self.live)
        results = {}
        for row, action in zip(self.rows, actions, strict=True):
            if row in self.live and (result := self._act(row, action)) is not None:
                results[row] = result
        for row in results:
            self._next(row)
        return list(results.values())

    def fraction(self, expected_length: float | None) -> float:
        """How many episodes' worth of steps the live ones have behind them, as far as one can guess."""
        if expected_length is None:
            return 0.0
        return float(np.minimum(self._lengths[self.live] / expected_length, 0.99).sum())

    def _act(self, row: int, action: Any) -> EpisodeResult | None:
        environment = self.environments[row]
        taken = in_space(action, environment.action_space)
        self._observations[row], reward, terminated, truncated, info = environment.step(taken)
        self._lengths[row] += 1
        tracker = self._trackers[row]
        tracker.step(info)
        self._check(row, float(reward), "reward")
        self._returns[row] += float(reward)
        if terminated or truncated or self._lengths[row] == self.max_steps:
            return EpisodeResult(
                self.seeds[row], float(self._returns[row]), int(self._lengths[row]), tracker.success, tracker.tasks
            )
        return None

    def _next(self, row: int) -> None:
        self._returns[row], self._lengths[row] = 0.0, 0
        self._trackers[row].reset()
        if self.waiting:
            self.seeds[row] = self.waiting.pop(0)
            self._observations[row], _ = self.environments[row].reset(seed=self.seeds[row])
            self._first[row] = True
            self._begin_stream(row)
            return
        self.live.remove(row)
        memory = self._state.policy_state if isinstance(self._state, FilterState) else self._state
        # Of any other memory the actor alone knows which axis is which: it goes on with all rows.
        if memory is None or (isinstance(self._state, FilterState) and isinstance(memory, RowMemory)):
            if isinstance(self._state, FilterState):
                self._state = self._state.select([i for i, other in enumerate(self.rows) if other != row])
            self.rows.remove(row)

    def _begin_stream(self, row: int) -> None:
        """Let the filter draw from the episode's own stream: else what it sees would depend on who played there before."""
        if isinstance(self._state, FilterState):
            seeds, counters, place = self._state.seeds.clone(), self._state.counters.clone(), self.rows.index(row)
            seeds[place], counters[place] = self.seeds[row], 0
            self._state = replace(self._state, seeds=seeds, counters=counters)

    def _check(self, row: int, value: Any, what: str) -> None:
        broken = not_finite(value, what)
        if broken:
            spec = self.environments[row].spec
            raise SpaceError(
                f"{spec.id if spec else 'the environment'} gave a {broken} at step {self._lengths[row]} of the episode with "
                f"seed {self.seeds[row]}; the simulation has broken down, so its return would mean nothing"
            )


def _shown(results: Sequence[EpisodeResult], frames: int) -> dict[str, float]:
    shown = {"steps": float(frames)}
    if results:
        shown["return"] = float(np.mean([result.return_ for result in results]))
    successes = [result.success for result in results if result.success is not None]
    return {**shown, "success": float(np.mean(successes))} if successes else shown


def device_of(actor: Actor) -> torch.device:
    """Where an actor samples."""
    if isinstance(actor, Agent):
        return actor.world_model.device
    told = getattr(actor, "device", None)  # as SB3's models do
    if isinstance(told, str | torch.device):
        return torch.device(told)
    return torch.device("cuda" if torch.cuda.is_initialized() else "cpu")  # a GPU that nobody used is not the actor's
