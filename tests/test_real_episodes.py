"""Whole episodes of real environments: the same however they are spread, and learning outlives what breaks."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from agents import linear_agent, pong_model, short_pong
from breaking import Deadly, Line, Sick, Stillborn, Unmade

from dream_env.errors import ConfigError, SpaceError, TrainingError
from dream_env.playing.games import evaluate
from dream_env.playing.real_episodes import RealEpisodes
from dream_env.recordings.demos import Demos, Source
from dream_env.recordings.replay import Replay
from dream_env.spaces import ActionSpec, ObservationConfig, ObservationSpec

CART = gymnasium.make("CartPole-v1").spec.to_json()
PENDULUM = gymnasium.make("Pendulum-v1", max_episode_steps=15).spec.to_json()


class Rule:
    """Pushes the cart to where its pole falls, or turns the pendulum."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        if observation.shape[1] == 4:
            return (observation[:, 2] + 0.5 * observation[:, 3] > 0).astype(np.int32), None
        return observation[:, 1:2] * 1.5, None


class Coin:
    """Samples with torch's global generator, as policies do."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return torch.randint(2, (len(observation),)).numpy(), None


class Noting(Coin):
    """Notes how many were asked about at once."""

    def __init__(self):
        self.asked = []

    def predict(self, observation, *args):
        self.asked.append(len(observation))
        return super().predict(observation)


class Counting:
    """Has a memory whose axes nobody else knows."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        memory = np.zeros(len(observation)) if state is None else state[0]
        assert memory.shape == episode_start.shape == (len(observation),)
        memory = np.where(episode_start, 0, memory + 1)
        return (memory.astype(int) + np.arange(len(memory))) % 2, (memory,)


class Right:
    """Goes right."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.ones(len(observation["place"]), np.int64), None


def arrays(episode):
    buffer = episode.buffer
    observations = buffer.observations["place"] if isinstance(buffer.observations, dict) else buffer.observations
    return [
        observations, buffer.actions, np.array(buffer.rewards), np.array(buffer.terminations), np.array(buffer.truncations)
    ]  # fmt: skip


def assert_same(some, others):
    assert [e.seed for e in some] == [e.seed for e in others]
    for one, other in zip(some, others, strict=True):
        assert (one.return_, one.length, one.success, one.tasks) == (
            other.return_,
            other.length,
            other.success,
            other.tasks,
        )
        for x, y in zip(arrays(one), arrays(other), strict=True):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("spec", [CART, PENDULUM], ids=["cart", "pendulum"])
def test_an_episode_is_what_one_plays_by_hand(spec):
    with RealEpisodes(spec, max_steps=30) as real:
        (episode,) = real.play(Rule(), [5])
        assert real.steps == episode.length
        assert real.dropped == []
    env = gymnasium.make(gymnasium.envs.registration.EnvSpec.from_json(spec))
    observations, actions, rewards, over = [env.reset(seed=5)[0]], [], [], False
    while not over:
        actions.append(Rule().predict(observations[-1][None])[0][0])
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
        over = terminated or truncated or len(actions) == 30
    hand = [np.stack(observations), np.stack(actions), np.array(rewards)]
    for mine, theirs in zip(arrays(episode), hand, strict=False):
        np.testing.assert_array_equal(mine, theirs)
    assert arrays(episode)[1].dtype == env.action_space.dtype
    assert episode.return_ == pytest.approx(sum(rewards))
    assert not any(episode.buffer.terminations)
    assert episode.buffer.truncations == [False] * (len(actions) - 1) + [True]
    assert (episode.success, episode.tasks, episode.buffer.seed) == (None, None, 5)
    env.close()


@pytest.mark.parametrize("actor", [Coin, Counting, Rule])
def test_what_is_played_does_not_depend_on_the_number_of_workers(actor):
    seeds = [4, 9, 2, 7, 11]
    with (
        RealEpisodes(CART, parallel=3, max_steps=200) as one,
        RealEpisodes(CART, workers=2, parallel=3, max_steps=200) as two,
    ):
        alone, spread = one.play(actor(), seeds), two.play(actor(), seeds)
        if actor is not Rule:
            assert len({episode.length for episode in alone}) > 1, "they end at different times"
        assert_same(alone, spread)
        assert one.steps == two.steps == sum(episode.length for episode in alone)
        assert_same(two.play(actor(), seeds), alone)  # and again with environments that were used


def test_an_episode_does_not_depend_on_those_beside_it():
    with RealEpisodes(CART) as real:
        together = real.play(Rule(), [3, 1, 2], deterministic=True)
        assert_same(real.play(Rule(), [1]), together[1:2])


def test_games_that_ended_leave_the_batch():
    actor = Noting()
    with RealEpisodes(CART) as real:
        lengths = [episode.length for episode in real.play(actor, range(4))]
    expected = [sum(length > step for length in lengths) for step in range(max(lengths))]
    assert actor.asked == expected


def test_the_global_random_state_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with RealEpisodes(CART) as real:
        first = real.play(Coin(), [0, 1])
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(3)
        assert_same(real.play(Coin(), [0, 1]), first)


def test_buffers_that_environments_use_again_are_copied():
    with RealEpisodes(Line) as real:
        (episode,) = real.play(Right(), [0])
    np.testing.assert_array_equal(episode.buffer.observations["place"][:, 0], np.arange(11))
    assert episode.return_ == sum(range(1, 11))
    assert (episode.success, episode.tasks) == (1.0, None)
    assert episode.meta() == {"seed": 0, "success": 1.0, "tasks": None}
    assert episode.buffer.terminations[-1]
    assert not episode.buffer.truncations[-1]


def test_steps_are_limited():
    with RealEpisodes(Line, max_steps=3) as real:
        (episode,) = real.play(Right(), [0])
    assert (episode.length, episode.success) == (3, 0.0)
    assert episode.buffer.truncations == [False, False, True]
    with RealEpisodes(Line, max_steps=10) as real:
        (episode,) = real.play(Right(), [0])
    assert not any(episode.buffer.truncations), "it ended by itself in that step"


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_not_finite_or_raises_is_dropped_and_counted(workers):
    with RealEpisodes(Sick, workers=workers) as real:
        played = real.play(Right(), range(7))
        assert [episode.seed for episode in played] == [0, 2, 4, 6]
        assert [(d.seed, d.steps) for d in real.dropped] == [(1, 3), (3, 2), (5, 3)]
        assert "broke down: observation 'place' that is not finite (nan)" in real.dropped[0].reason
        assert "ZeroDivisionError: singular matrix" in real.dropped[1].reason
        assert "broke down: reward that is not finite (inf)" in real.dropped[2].reason
        assert real.steps == 4 * 10 + 3 + 2 + 3
        with RealEpisodes(Line) as sound:
            assert_same(played, sound.play(Right(), [0, 2, 4, 6]))


def test_a_worker_that_dies_costs_its_episode_only():
    with RealEpisodes(Deadly, workers=2, parallel=2) as real:
        played = real.play(Right(), [0, 13, 15, 2])
        assert [episode.seed for episode in played] == [0, 2]
        assert [(d.seed, d.steps) for d in real.dropped] == [(13, 3), (15, 3)]
        assert "died (signal SIGKILL)" in real.dropped[0].reason
        assert "died (exit status 3)" in real.dropped[1].reason
        assert real.steps == 2 * 10 + 2 * 3
        with RealEpisodes(Line) as sound:
            assert_same(played, sound.play(Right(), [0, 2]))
            assert_same(real.play(Right(), [5, 6, 7]), sound.play(Right(), [5, 6, 7]))


def test_a_worker_killed_from_outside_is_started_again():
    class Murderer(Right):
        calls = 0

        def predict(self, *args, **kwargs):
            self.calls += 1
            if self.calls == 5:
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
            return super().predict(*args, **kwargs)

    with RealEpisodes(Line, workers=2, parallel=2) as real:
        played = real.play(Murderer(), [0, 1, 2, 3])
        assert len(played) == 3
        assert [d.steps for d in real.dropped] == [4]
        assert len(real.play(Right(), [4, 5])) == 2
        assert real.steps == 5 * 10 + 4
    assert multiprocessing.active_children() == []


def test_a_worker_that_does_not_answer_counts_as_dead():
    with RealEpisodes(Deadly, workers=2, parallel=2, patience=5.0) as real:
        played = real.play(Right(), [14, 0])
        assert [episode.seed for episode in played] == [0]
        assert real.dropped[0].reason == "its process did not answer for 5 seconds"
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_environment_that_cannot_be_made_stops_at_once(workers):
    with (
        RealEpisodes(Unmade, workers=workers) as real,
        pytest.raises(TrainingError, match=r"cannot be made: FileNotFoundError: no such model: hand.xml"),
    ):
        real.play(Right(), [0, 1, 2])
    assert multiprocessing.active_children() == []


def test_an_environment_that_never_works_is_given_up():
    with RealEpisodes(Stillborn, workers=2, parallel=2) as real:
        with pytest.raises(TrainingError, match=r"failed 3 times in a row .* its process died \(exit status 1\)"):
            real.play(Right(), range(100))
        assert len(real.dropped) == 6
    with RealEpisodes(Immovable) as real:
        with pytest.raises(TrainingError, match=r"failed 3 times in a row .* raised ZeroDivisionError"):
            play_one_by_one(real, Right(), range(100))
        assert len(real.dropped) == 3
        assert real.steps == 0


class Immovable(Line):
    """Raises at every step."""

    def trouble(self):
        raise ZeroDivisionError("singular matrix")


def play_one_by_one(real, actor, seeds):
    for seed in seeds:
        real.play(actor, [seed])


class Always:
    """Does the same whatever it sees."""

    def __init__(self, action):
        self.action = np.asarray(action)

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self.action[None], None


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("spec", "action", "message"),
    [
        (
            CART,
            2,
            r"the action 2 \(int64\), but the environment takes Discrete\(2\): its predict has to bring actions into",
        ),
        (CART, 1.0, r"the action 1\.0 \(float64\), but the environment takes Discrete\(2\)"),
        (CART, [0, 1], r"the action \[0, 1\] \(int64\), but the environment takes Discrete\(2\)"),
        (
            PENDULUM,
            [2.5],
            r"the action \[2\.5\] \(float64\), but the environment takes Box\(-2\.0, 2\.0, \(1,\), float32\)",
        ),
        (PENDULUM, [np.nan], r"the action \[nan\] \(float64\), but the environment takes Box"),
        (PENDULUM, [0.0, 0.0], r"the action \[0\.0, 0\.0\] \(float64\), but the environment takes Box"),
    ],
)
def test_an_action_that_the_environment_does_not_take_is_the_actors_fault_and_stops_at_once(
    spec, action, message, workers
):
    with RealEpisodes(spec, workers=workers) as real:
        with pytest.raises(SpaceError, match=message):
            real.play(Always(action), [0])
        assert (real.dropped, real.steps) == ([], 0)
    assert multiprocessing.active_children() == []


def test_what_float32_rounded_out_of_the_space_is_put_onto_its_bound():
    with RealEpisodes(PENDULUM) as real:
        (episode,) = real.play(Always([np.nextafter(np.float32(2.0), np.float32(3.0))]), [0])
    assert (arrays(episode)[1] == 2.0).all()


def test_workers_leave_when_their_parent_is_killed():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "if __name__ == '__main__':\n"
        "    import multiprocessing; from breaking import *\n    from test_real_episodes import *\n"
        "    real = RealEpisodes(Deadly, workers=2, parallel=2)\n"
        "    real.play(Right(), [0, 1])\n"
        "    print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "    real.play(Right(), [14, 0])"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(Path(__file__).parent)], stdout=subprocess.PIPE, text=True
    )  # fmt: skip
    with parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        time.sleep(0.5)  # one of them is now in a step that never ends
        assert all(alive(pid) for pid in pids)
        parent.kill()
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def test_a_worker_needs_no_torch():
    code = "import sys, dream_env.real.real_rooms; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def alive(pid):
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_actor_that_raises_leaves_nothing_behind():
    class Broken(Right):
        def predict(self, observation, *args, **kwargs):
            if observation["place"][0] >= 3:
                raise KeyboardInterrupt
            return super().predict(observation)

    with RealEpisodes(Line, workers=2, parallel=2) as real, RealEpisodes(Line) as sound:
        with pytest.raises(KeyboardInterrupt):
            real.play(Broken(), [0, 1])
        assert_same(real.play(Right(), [0, 1]), sound.play(Right(), [0, 1]))


def test_an_agent_plays_pictures_as_in_an_evaluation(tmp_path):
    agent = linear_agent(pong_model())
    env = short_pong()
    seeds = [8, 5, 6]
    expected = evaluate(agent, short_pong, seeds=seeds, deterministic=True)
    with RealEpisodes(env.spec.to_json(), workers=2) as real:
        played = real.play(agent, seeds, deterministic=True)
    assert [episode.seed for episode in played] == seeds
    by_seed = {result.seed: result for result in expected}
    assert [(e.return_, e.length) for e in played] == [(by_seed[s].return_, by_seed[s].length) for s in seeds]
    observations = played[0].buffer.observations
    assert observations.shape == (played[0].length + 1, 64, 64, 1)
    assert observations.dtype == np.uint8
    spec = ObservationSpec.from_space(env.observation_space, ObservationConfig())
    source = Source("", "ALE/Pong-v5", env.spec.to_json(), {})
    replay = Replay(tmp_path / "replay", spec, ActionSpec.from_space(env.action_space), source)
    for episode in played:
        replay.add(episode.buffer, meta=episode.meta())
    np.testing.assert_array_equal(replay.lengths, [episode.length for episode in played])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
        replay.to_minari("pong/played-v0", env)
        demos = Demos.load("pong/played-v0", cache=tmp_path / "cache")
    for index, episode in enumerate(played):
        np.testing.assert_array_equal(demos.episode(index).obs["image"], episode.buffer.observations)
        np.testing.assert_array_equal(replay.demos().episode(index).obs["image"], episode.buffer.observations)
    env.close()


@pytest.mark.parametrize("options", [{"workers": 0}, {"parallel": 0}, {"max_steps": 0}])
def test_wrong_numbers_are_refused(options):
    with pytest.raises(ConfigError, match="all must be at least 1"):
        RealEpisodes(CART, **options)
