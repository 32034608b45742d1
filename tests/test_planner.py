"""The planning expert: by hand in a toy emulator, and in the real one."""

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from dream_env.errors import ConfigError
from dream_env.experts.by_name import Expert, RandomExpert, make_expert
from dream_env.experts.planner import PlanningExpert
from dream_env.real.environments import make_environment


class ToyEmulator:
    """A state is what has been pressed so far, a button a frame. ``rule`` says what a step of one button brings."""

    def __init__(self, rule: Any) -> None:
        self.rule, self.pressed, self.left, self.over = rule, (), 3, False

    def cloneState(self) -> Any:
        return self.pressed, self.left, self.over

    def restoreState(self, state: Any) -> None:
        self.pressed, self.left, self.over = state

    def act(self, action: int) -> int:
        self.pressed = (*self.pressed, action)
        if len(self.pressed) % 4:
            return 0
        points, lost, self.over = self.rule([*self.pressed[::4]])
        self.left -= lost
        return points

    def lives(self) -> int:
        return self.left

    def game_over(self) -> bool:
        return self.over

    def getMinimalActionSet(self) -> list[int]:
        return [0, 1]

    def getLegalActionSet(self) -> list[int]:
        return [0, 1, 2, 3]


class Toy(gymnasium.Env):
    """A Gymnasium environment around it."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, rule: Any) -> None:
        self.ale = ToyEmulator(rule)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return np.zeros(1, np.float32), {}


def toy_play(rule: Any, steps: int, *, seed: int = 0, hold: int = 2, **options: Any) -> tuple[list[int], Toy]:
    env = Toy(rule)
    expert = PlanningExpert(hold=hold, **options)
    expert.reset(env, seed)
    actions = []
    for _ in range(steps):
        actions.append(expert(None))
        for _ in range(4):
            env.ale.act(actions[-1])
    return actions, env


def play(expert: Any, game: str, seed: int, steps: int, **options: Any) -> tuple[list[int], list[Any], Any]:
    env = make_environment(game, **options)
    observation, _ = env.reset(seed=seed)
    expert.reset(env, seed)
    actions, seen = [], [(observation, 0.0, {})]
    for _ in range(steps):
        actions.append(int(expert(observation)))
        observation, reward, _, _, info = env.step(actions[-1])
        seen.append((observation, float(reward), info))
    return actions, seen, env


# ---------------------------------------------------------------------------------------------------------------- by hand


def test_a_sequence_is_worth_its_discounted_points_until_a_life_is_lost() -> None:
    # Every 1 brings 10 points; the third 0 loses a life and ends the game a step later.
    expert = PlanningExpert(gamma=0.5)
    expert.reset(Toy(lambda pressed: (10 * pressed[-1], pressed.count(0) == 3, pressed.count(0) == 4)), 0)
    start = expert._twin.cloneState()
    assert expert._play(np.array([1, 0, 1]), start) == (10.0 + 0.25 * 10.0, 0.0)
    assert expert._play(np.array([1, 0, 0, 0, 1, 1]), start) == (10.0, 0.125)


def test_points_that_come_sooner_are_taken() -> None:
    # 1 brings a point only the first time: at once is best.
    actions, _ = toy_play(lambda pressed: (int(pressed[-1] == 1 and 1 not in pressed[:-1]), False, False), 1)
    assert actions == [1]


def test_a_life_is_worth_more_than_points() -> None:
    # 1 brings a point each time, and after five of them in a row a life is gone.
    def rule(pressed: list[int]) -> tuple[int, bool, bool]:
        return pressed[-1], pressed[-5:] == [1] * 5, False

    actions, env = toy_play(rule, 40, depth=8, rollouts=32)
    assert env.ale.left == 3
    assert sum(actions) >= 26, "the best there is are four in five, 32"


def test_nothing_in_sight_goes_on_with_what_was_begun() -> None:
    kept, alone = (
        toy_play(lambda pressed: (0, False, False), 200, depth=8, hold=8, keep=keep)[0] for keep in (True, False)
    )
    assert set(kept) == {0, 1}
    # Held for 4.5 steps on the average, and half the new actions are the old one.
    assert np.mean(np.diff(kept) != 0) == pytest.approx(1 / 9, abs=0.06)
    assert np.mean(np.diff(alone) != 0) > 0.3


def test_the_kept_sequence_is_improved_from_step_to_step() -> None:
    # A lock of 24 digits that pays for the right ones at the end.
    code = [1, 0, 0, 1, 1, 1, 0, 1, 0, 0, 1, 0] * 2

    def rule(pressed: list[int]) -> tuple[int, bool, bool]:
        return sum(map(int.__eq__, pressed, code)) if len(pressed) == 24 else 0, False, len(pressed) == 24

    def right(seed: int, keep: bool) -> int:
        pressed = toy_play(rule, 24, depth=24, rollouts=4, hold=1, keep=keep, seed=seed)[0]
        return sum(map(int.__eq__, pressed, code))

    kept, alone = (np.mean([right(seed, keep) for seed in range(20)]) for keep in (True, False))
    assert kept > 17.0
    assert kept > alone + 1.0


def test_a_sequence_of_one_step_is_a_sequence() -> None:
    actions, _ = toy_play(lambda pressed: (pressed[-1], False, False), 10, depth=1)
    assert actions == [1] * 10


@pytest.mark.parametrize("option", ["rollouts", "depth", "hold"])
def test_nothing_to_try_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} of the planning expert must be at least 1, not 0"):
        PlanningExpert(**{option: 0})


# ------------------------------------------------------------------------------------------------------ the real emulator


def test_it_scores_where_random_actions_hardly_do() -> None:
    _, planned, _ = play(PlanningExpert(rollouts=8, depth=20), "space_invaders", 0, 60)
    _, random, _ = play(RandomExpert(), "space_invaders", 0, 60)
    assert sum(reward for _, reward, _ in planned) >= 20 + sum(reward for _, reward, _ in random)
    assert planned[-1][2]["lives"] == 3


@pytest.mark.parametrize("sticky", [0.0, 0.25])
def test_the_game_is_not_touched_by_the_planning(sticky: float) -> None:
    actions, seen, _ = play(PlanningExpert(rollouts=3, depth=6), "breakout", 3, 40, sticky=sticky)
    env = make_environment("breakout", sticky=sticky)
    observation, _ = env.reset(seed=3)
    assert np.array_equal(observation, seen[0][0])
    for action, (frame, reward, info) in zip(actions, seen[1:], strict=True):
        observation, again, _, _, facts = env.step(action)
        assert np.array_equal(observation, frame)
        assert (again, facts) == (reward, info)  # lives and frame counters too


@pytest.mark.parametrize("game", ["pong", "ms_pacman"])
def test_what_it_foresees_is_what_happens(game: str) -> None:
    expert = PlanningExpert(rollouts=2, depth=4)
    _, _, env = play(expert, game, 5, 20)
    ale: Any = env.unwrapped.ale
    expert._twin.restoreState(ale.cloneState())
    for action in np.random.default_rng(0).integers(env.action_space.n, size=60):
        foreseen = sum(expert._twin.act(expert._actions[action]) for _ in range(4))
        assert env.step(int(action))[1] == foreseen
        assert np.array_equal(expert._twin.getRAM(), ale.getRAM())


def test_the_same_seed_is_the_same_game_and_another_one_is_not() -> None:
    expert = PlanningExpert(rollouts=3, depth=6)
    games = [play(expert, "seaquest", seed, 25)[0] for seed in (5, 6, 5)]
    assert games[0] == games[2]
    assert games[0] != games[1]


def test_it_is_found_by_name_for_every_atari_game_and_no_other() -> None:
    expert = make_expert("planner", "tennis")
    assert isinstance(expert, PlanningExpert)
    assert isinstance(expert, Expert)
    with pytest.raises(ConfigError, match=r"plays Atari games with buttons.*CartPole-v1 has none.*--expert"):
        expert.reset(make_environment("CartPole-v1"), 0)
