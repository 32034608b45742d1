"""The real environments of one process, and the process around them; what ``RealEpisodes`` gives orders to.

Apart from it, so that a worker imports no PyTorch: it starts sooner, and leaves the memory to the simulation.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from gymnasium import spaces

from dream_env.errors import SpaceError
from dream_env.real.arrays import own, taken
from dream_env.real.environments import Env, environment_from_spec, not_finite
from dream_env.real.success import SuccessTracker

MakeEnvironment = Callable[[], Env]


@dataclass(frozen=True)
class Reset:
    """The order to begin an episode."""

    seed: int


@dataclass(frozen=True)
class Act:
    """The order to make a step."""

    action: np.ndarray
    """As the actor gave it; it is brought to the type of the environment's own actions, and must be one of them."""


Order = Reset | Act


@dataclass(frozen=True)
class Seen:
    """What one environment answers to an order."""

    observation: Any = None
    """In arrays of its own, of the types that the observation space names."""
    action: Any = None
    """What was done, as the environment took it."""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: float | None = None
    tasks: float | None = None
    stepped: bool = False
    """Whether a real step was made."""
    trouble: str = ""
    """Why the episode cannot go on; nothing else counts then."""


class CannotMake(Exception):
    """The environment could not be made; the text says why. Raised in whichever process plays."""


class Room:
    """Environments by slot, made when first used, each in an episode of its own or in none."""

    def __init__(self, environment_spec: str | MakeEnvironment, max_steps: int | None) -> None:
        self._spec = environment_spec
        self._max_steps = max_steps
        self._games: dict[int, _Game] = {}

    def obey(self, orders: Mapping[int, Order]) -> dict[int, Seen]:
        """Carry out an order for each of some slots, one after the other.

        Raises:
            CannotMake: if the environment cannot be made.
            SpaceError: if it does not take an action. That is the actor's fault and happens again, so no episode is dropped
                for it.
        """
        return {slot: self._obey(slot, order) for slot, order in orders.items()}

    def close(self) -> None:
        """Close all environments."""
        for slot in list(self._games):
            self._forget(slot)

    def _obey(self, slot: int, order: Order) -> Seen:
        if slot not in self._games:
            self._games[slot] = self._make()
        game = self._games[slot]
        action = None if isinstance(order, Reset) else in_space(order.action, game.env.action_space)
        try:
            seen = game.reset(order.seed) if isinstance(order, Reset) else game.step(action)
        except Exception as error:  # a simulator's own classes; MuJoCo, Box2D and Atari share none
            seen = Seen(trouble=f"the environment raised {_text(error)}")
        if seen.trouble:
            self._forget(slot)  # a simulation that broke down once is made anew
        return seen

    def _make(self) -> "_Game":
        try:
            env = environment_from_spec(self._spec) if isinstance(self._spec, str) else self._spec()
        except Exception as error:
            raise CannotMake(_text(error)) from error
        return _Game(env, self._max_steps)

    def _forget(self, slot: int) -> None:
        with suppress(Exception):  # it may be broken
            self._games.pop(slot).env.close()


class _Game:
    def __init__(self, env: Env, max_steps: int | None) -> None:
        self.env = env
        self._tracker = SuccessTracker(env)
        self._max_steps = max_steps
        self._length = 0

    def reset(self, seed: int) -> Seen:
        self._length = 0
        self._tracker.reset()
        raw, _ = self.env.reset(seed=seed)
        observation = own(raw, self.env.observation_space)
        return Seen(observation, trouble=_broken(not_finite(observation, "observation")))

    def step(self, taken: Any) -> Seen:
        raw, reward, terminated, truncated, info = self.env.step(taken)
        self._length += 1
        self._tracker.step(info)
        observation = own(raw, self.env.observation_space)
        return Seen(
            observation,
            action=np.asarray(taken, dtype=self.env.action_space.dtype),
            reward=float(reward),
            terminated=bool(terminated),
            truncated=bool(truncated) or (self._length == self._max_steps and not terminated),
            success=self._tracker.success,
            tasks=self._tracker.tasks,
            stepped=True,
            trouble=_broken(not_finite(observation, "observation") or not_finite(float(reward), "reward")),
        )


def in_space(action: Any, space: spaces.Space[Any]) -> Any:
    """The actor's action as the environment takes it: in its type, and on the bound where it is outside by a rounding.

    Raises:
        SpaceError: if it is none of the environment's.
    """
    found = taken(action, space)
    if found is None:
        given = np.asarray(action)
        raise SpaceError(
            f"the actor chose the action {given.tolist()} ({given.dtype}), but the environment takes {space}: its predict has "
            f"to bring actions into that space before it returns them"
        )
    return found


def _broken(what: str) -> str:
    return what and f"its simulation broke down: {what}"


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}"


# ------------------------------------------------------------------------------------------------------------- processes


class Died(Exception):
    """A worker is gone, or has not answered for too long; the text says which."""


class Here:
    """A room in this process, with the face of a worker."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._orders: Mapping[int, Order] = {}

    def send(self, orders: Mapping[int, Order]) -> None:
        """Take orders."""
        self._orders = orders

    def receive(self) -> dict[int, Seen]:
        """Carry them out."""
        return self._room.obey(self._orders)

    def close(self) -> None:
        """Close the environments."""
        self._room.close()


class Worker:
    """A room in a process of its own."""

    def __init__(self, environment_spec: str | MakeEnvironment, max_steps: int | None, patience: float) -> None:
        # Spawned rather than forked: torch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._patience = patience
        self._process = context.Process(target=_serve, args=(theirs, environment_spec, max_steps), daemon=True)
        self._process.start()
        theirs.close()  # so that a read ends when the process does

    def send(self, orders: Mapping[int, Order]) -> None:
        """Give orders."""
        with suppress(OSError):  # it is gone: ``receive`` says so
            self._connection.send(orders)

    def receive(self) -> dict[int, Seen]:
        """Wait for the answers.

        Raises:
            Died: if none will come.
            CannotMake: if the environment cannot be made there.
            SpaceError: if it does not take an action.
        """
        try:
            if not self._connection.poll(self._patience):
                raise Died(f"its process did not answer for {self._patience:g} seconds")
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(10.0)
            code = self._process.exitcode
            raise Died(f"its process died ({_exit(code)})") from error
        if isinstance(answer, CannotMake | SpaceError):
            raise answer
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        """End the process: it leaves when the connection ends, or is killed."""
        self._connection.close()
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self.close()


def _exit(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit status {code}"


def _serve(connection: Connection, environment_spec: str | MakeEnvironment, max_steps: int | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business: the connection ends with it
    leave_with_parent()
    room = Room(environment_spec, max_steps)
    with suppress(EOFError, OSError):
        while True:
            orders = connection.recv()
            try:
                answer: Any = room.obey(orders)
            except (CannotMake, SpaceError) as error:
                answer = type(error)(str(error))  # without its cause, which need not survive the way
            connection.send(answer)
    room.close()


def leave_with_parent() -> None:
    """Let this worker end soon after its parent, however that ended.

    In the middle of a step a worker does not read, and one that waits for work may wait for ever; so a thread waits for the
    parent instead. (A parent's number says nothing where processes keep theirs when it is gone, as on Windows.)
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
