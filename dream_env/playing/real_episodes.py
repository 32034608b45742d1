"""Whole episodes of the real environment for a learner: side by side, all acted in by one batched call a step.

``games.evaluate`` measures, and stops with an error when a simulation breaks down. Here somebody learns for days: an
episode whose numbers are not finite, or whose process died, is left out and counted, and the next one begins.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from minari.data_collector import EpisodeBuffer

from dream_env.agent import Agent
from dream_env.device import own_random_numbers
from dream_env.errors import ConfigError, TrainingError
from dream_env.filtering import FilterState, stack
from dream_env.playing.games import Actor, device_of
from dream_env.plugin import RowMemory
from dream_env.real.real_rooms import Act, CannotMake, Died, Here, MakeEnvironment, Order, Reset, Room, Seen, Worker

_FAILURES = 3
"""Rounds in a row in which nothing but failures came, after which it is the environment and not chance."""


@dataclass(frozen=True)
class PlayedEpisode:
    """One whole episode of T steps."""

    seed: int
    """What the environment was reset with."""
    buffer: EpisodeBuffer
    """T + 1 observations, as arrays or dictionaries of them; T actions, rewards, terminations, truncations."""
    return_: float
    """Sum of its rewards."""
    length: int
    """T."""
    success: float | None
    """1 if the task was done, 0 if not; None where the environment does not say."""
    tasks: float | None
    """How many tasks were done; None where there is no list of them."""

    def meta(self) -> dict[str, Any]:
        """What ``Replay.add`` may keep beside the buffer."""
        return {"seed": self.seed, "success": self.success, "tasks": self.tasks}


@dataclass(frozen=True)
class Dropped:
    """An episode that was begun and left out."""

    seed: int
    """What the environment was reset with."""
    steps: int
    """Steps made until then."""
    reason: str
    """What happened."""


class RealEpisodes:
    """Plays whole episodes. Environments are made when first needed and kept; ``close``, or ``with``, ends them.

    Attributes:
        steps: real steps made so far, those of dropped episodes included.
        dropped: the episodes that were left out, in the order in which that happened.
    """

    def __init__(
        self,
        environment_spec: str | MakeEnvironment,
        *,
        workers: int = 1,
        parallel: int = 8,
        max_steps: int | None = None,
        patience: float = 300.0,
    ) -> None:
        """Remember how to make the environment; nothing is started yet.

        Args:
            environment_spec: JSON of an ``EnvSpec``, as recordings keep it (``Source.env_spec``), or a function that makes
                the environment, which with several workers must be picklable.
            workers: processes over which the environments are spread. With 1 they are in this process, which a crash of
                theirs ends too. The episodes are the same whatever the number.
            parallel: episodes played side by side at most. A worker that dies costs those it was playing; with as many
                workers as episodes side by side, that is one.
            max_steps: steps after which an episode is cut off (truncated); the environment's own limit unless given.
            patience: seconds without an answer after which a worker counts as dead.
        """
        if workers < 1 or parallel < 1 or (max_steps is not None and max_steps < 1):
            raise ConfigError(
                f"{workers} workers, {parallel} episodes side by side and max_steps={max_steps} were asked for; all must be "
                f"at least 1"
            )
        self.steps = 0
        self.dropped: list[Dropped] = []
        self._spec = environment_spec
        self._parallel = parallel
        self._max_steps = max_steps
        self._patience = patience
        self._workers: list[Here | Worker | None] = [None] * (1 if workers == 1 else min(workers, parallel))
        self._local = workers == 1
        self._failures = 0

    def play(self, actor: Actor, seeds: Sequence[int], *, deterministic: bool = False) -> list[PlayedEpisode]:
        """Play one episode of each seed and return those that came to an end, in the order of the seeds.

        What is played depends on actor and seeds alone: policies that sample with torch's global generator find it seeded
        with the first seed, and it is put back afterwards.

        Raises:
            TrainingError: if the environment cannot be made, or fails three times in a row without a sound step between.
        """
        played: list[PlayedEpisode] = []
        for start in range(0, len(seeds), self._parallel):
            together = seeds[start : start + self._parallel]
            with own_random_numbers(device_of(actor), int(together[0])):
                played += self._play_together(actor, together, deterministic)
        return played

    def close(self) -> None:
        """End the workers and close the environments; ``play`` would start them again."""
        for index, worker in enumerate(self._workers):
            self._workers[index] = None
            if worker is not None:
                worker.close()

    def __enter__(self) -> "RealEpisodes":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------------------------- episodes

    def _play_together(self, actor: Actor, seeds: Sequence[int], deterministic: bool) -> list[PlayedEpisode]:
        games = [_Episode(int(seed)) for seed in seeds]
        live = list(range(len(games)))
        live = self._take_in(games, live, self._round({slot: Reset(games[slot].seed) for slot in live}))
        rows = list(live)  # the games in the actor's batch: the live ones, and with some memories those that ended too
        state: Any = actor.start([games[row].seed for row in rows]) if isinstance(actor, Agent) and rows else None
        first = True
        while live:
            observation = stack([games[row].observations[-1] for row in rows])
            actions, state = actor.predict(observation, state, np.full(len(rows), first), deterministic)
            first = False
            orders: dict[int, Order] = {
                row: Act(np.asarray(action)) for row, action in zip(rows, actions, strict=True) if row in live
            }
            live = self._take_in(games, live, self._round(orders))
            rows, state = _keep(rows, live, state)
        return [game.played() for game in games if game.over]

    def _take_in(self, games: "list[_Episode]", live: list[int], answers: dict[int, Seen]) -> list[int]:
        """Note what was seen; return those that go on."""
        going = []
        for slot in live:
            seen, game = answers[slot], games[slot]
            self.steps += seen.stepped
            if seen.trouble:
                steps = len(game.actions) + seen.stepped
                self.dropped.append(Dropped(game.seed, steps, seen.trouble))
                continue
            game.take(seen)
            if not game.over:
                going.append(slot)
        self._count_failures(answers.values())
        return going

    # -------------------------------------------------------------------------------------------------------------- workers

    def _round(self, orders: dict[int, Order]) -> dict[int, Seen]:
        """Give all orders, then collect all answers, so that the workers work at the same time."""
        count = len(self._workers)
        groups: dict[int, dict[int, Order]] = {}
        for slot, order in orders.items():
            groups.setdefault(slot % count, {})[slot] = order
        answers: dict[int, Seen] = {}
        try:
            for index, group in groups.items():
                self._worker(index).send(group)
            for index, group in groups.items():
                answers |= self._answers(index, group)
        except CannotMake as error:
            self.close()
            raise TrainingError(f"the real environment cannot be made: {error}") from error
        except BaseException:  # Ctrl-C: an answer that nobody read would be taken for the next one
            self.close()
            raise
        return answers

    def _worker(self, index: int) -> Here | Worker:
        worker = self._workers[index]
        if worker is None:
            worker = (
                Here(Room(self._spec, self._max_steps))
                if self._local
                else Worker(self._spec, self._max_steps, self._patience)
            )
            self._workers[index] = worker
        return worker

    def _answers(self, index: int, group: dict[int, Order]) -> dict[int, Seen]:
        worker = self._worker(index)
        try:
            return worker.receive()
        except Died as error:
            assert isinstance(worker, Worker)
            worker.kill()
            self._workers[index] = None  # another is started when one is needed
            return {slot: Seen(trouble=str(error)) for slot in group}

    def _count_failures(self, answers: Iterable[Seen]) -> None:
        if any(seen.stepped and not seen.trouble for seen in answers):
            self._failures = 0
            return
        troubles = [seen.trouble for seen in answers if seen.trouble]
        self._failures += bool(troubles)
        if self._failures >= _FAILURES:
            self.close()
            raise TrainingError(
                f"the real environment failed {_FAILURES} times in a row without a sound step between, the last time because "
                f"{troubles[0]}. Try it by itself; if the process ends at once with status 1, the script that starts the "
                f"workers may lack `if __name__ == '__main__':`"
            )


@dataclass
class _Episode:
    """An episode on its way."""

    seed: int
    observations: list[Any] = field(default_factory=list)
    actions: list[np.ndarray] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminations: list[bool] = field(default_factory=list)
    truncations: list[bool] = field(default_factory=list)
    last: Seen = field(default_factory=Seen)

    def take(self, seen: Seen) -> None:
        self.observations.append(seen.observation)
        self.last = replace(seen, observation=None)
        if seen.stepped:
            self.actions.append(seen.action)
            self.rewards.append(seen.reward)
            self.terminations.append(seen.terminated)
            self.truncations.append(seen.truncated)

    @property
    def over(self) -> bool:
        return self.last.terminated or self.last.truncated

    def played(self) -> PlayedEpisode:
        buffer = EpisodeBuffer(
            seed=self.seed, observations=stack(self.observations), actions=np.stack(self.actions), rewards=self.rewards,
            terminations=self.terminations, truncations=self.truncations,
        )  # fmt: skip
        return PlayedEpisode(
            self.seed, buffer, float(np.sum(self.rewards)), len(self.actions), self.last.success, self.last.tasks
        )


def _keep(rows: list[int], live: list[int], state: Any) -> tuple[list[int], Any]:
    """Let the games that ended leave the actor's batch, unless its memory is of a kind whose axes only it knows."""
    memory = state.policy_state if isinstance(state, FilterState) else state
    if len(live) == len(rows) or not (
        memory is None or (isinstance(state, FilterState) and isinstance(memory, RowMemory))
    ):
        return rows, state
    if isinstance(state, FilterState):
        state = state.select([index for index, row in enumerate(rows) if row in live])
    return [row for row in rows if row in live], state
