"""Played episodes on disk: drawn from as demonstrations are, whole after a kill, cut back, joined to a dataset."""

import errno
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from recordings import DISCRETE, GRAY, buffers, record

from dream_env.checkpoint import read_json
from dream_env.errors import CheckpointError, DatasetError, SpaceError
from dream_env.recordings.demos import Demos, Source
from dream_env.recordings.mixture import Mixture
from dream_env.recordings.replay import Replay
from dream_env.spaces import ActionSpec, ObservationConfig, ObservationSpec

ROBOT = spaces.Dict({"pixels": spaces.Box(0, 255, (20, 20, 3), np.uint8), "state": spaces.Box(-1, 1, (5,), np.float64)})
ARM = spaces.Box(-1, 1, (2,), np.float32)
SOURCE = Source("game/expert-v0", "Game-v0", None, {})


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "cache"))


def vector_replay(folder, source=SOURCE, size=3):
    """Of an environment of ``size`` numbers and four actions."""
    space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
    spec = ObservationSpec.from_space(space, ObservationConfig())
    return Replay(folder, spec, ActionSpec.from_space(DISCRETE), source)


def vectors(lengths=(7, 5, 9), seed=0):
    return buffers(spaces.Box(-np.inf, np.inf, (3,), np.float32), lengths=lengths, seed=seed)


def assert_same_batch(one, other):
    assert one.obs.keys() == other.obs.keys()
    for name in one.obs:
        assert one.obs[name].dtype == other.obs[name].dtype
        assert torch.equal(one.obs[name], other.obs[name])
    for name in ("action_tm1", "is_first", "is_terminal"):
        assert getattr(one, name).dtype == getattr(other, name).dtype
        assert torch.equal(getattr(one, name), getattr(other, name))


def metas(replay):
    """What was said of each episode when it was added."""
    return [read_json(path)["meta"] for path in sorted(replay.folder.glob("episode_*.json"))]


def assert_same(one, other):
    """Two replays hold the same."""
    assert one.num_steps == other.num_steps
    np.testing.assert_array_equal(one.lengths, other.lengths)
    np.testing.assert_array_equal(one.returns, other.returns)
    assert metas(one) == metas(other)
    assert_same_batch(one.sample(50, 4, np.random.default_rng(0)), other.sample(50, 4, np.random.default_rng(0)))


@pytest.mark.parametrize(("observation", "action"), [(GRAY, DISCRETE), (ROBOT, ARM)])
def test_the_same_episodes_give_the_same_batches_as_demonstrations(tmp_path, observation, action):
    played = record("game/expert-v0", buffers(observation, action), observation, action)
    demos = Demos.load("game/expert-v0", ObservationConfig(size=16))
    replay = Replay(tmp_path / "replay", demos.observation_spec, demos.action_spec, demos.source)
    for episode in played:
        replay.add(episode)
    for length in (1, 2, 4, 6):
        assert replay.windows(length) == demos.windows(length)
        one, other = (x.sample(300, length, np.random.default_rng(length)) for x in (replay, demos))
        assert_same_batch(one, other)
    assert one.is_terminal.any()
    assert one.is_first[0].all()
    assert not one.action_tm1[0].any()
    view = replay.demos()
    for index in range(3):
        ours, theirs = view.episode(index), demos.episode(index)
        np.testing.assert_array_equal(ours.action_t, theirs.action_t)
        np.testing.assert_array_equal(ours.is_terminal, theirs.is_terminal)
        np.testing.assert_array_equal(ours.slip_t, theirs.slip_t)
        for name, array in ours.obs.items():
            np.testing.assert_array_equal(array, theirs.obs[name])


def test_it_grows_and_each_window_is_as_likely(tmp_path):
    replay = vector_replay(tmp_path)
    assert (replay.num_episodes, replay.num_steps, replay.windows(3)) == (0, 0, 0)
    with pytest.raises(DatasetError, match=r"no window of 3 rows to draw: none of its 0 episodes has 2 steps"):
        replay.sample(1, 3, np.random.default_rng(0))
    for count, episode in enumerate(vectors(lengths=(4, 7)), start=1):
        replay.add(episode)
        assert replay.num_episodes == count
        assert replay.windows(3) == (3, 9)[count - 1]
    first_rows = replay.sample(4000, 3, np.random.default_rng(0)).obs["vector"][0]
    found, counts = np.unique(first_rows.numpy(), axis=0, return_counts=True)
    assert len(found) == 9
    assert counts == pytest.approx(4000 / 9, abs=90)  # σ = 19.9


def test_short_episodes_are_kept_and_counted_but_not_drawn_from(tmp_path):
    replay, without = vector_replay(tmp_path / "a"), vector_replay(tmp_path / "b")
    long, short, other = vectors(lengths=(7, 2, 9))
    for episode in (long, short, other):
        replay.add(episode)
    without.add(long)
    without.add(other)
    assert [replay.too_short(length) for length in (3, 4, 9, 11)] == [0, 1, 2, 3]
    assert replay.windows(4) == without.windows(4) == 5 + 7
    assert replay.windows(11) == 0
    assert_same_batch(*(x.sample(60, 4, np.random.default_rng(1)) for x in (replay, without)))


def test_what_is_known_of_each_episode_is_kept(tmp_path):
    replay = vector_replay(tmp_path)
    said = [{"success": 1.0, "tasks": 4.0, "seed": 7}, {"success": None}, {}]
    for episode, meta in zip(vectors(), said, strict=True):
        replay.add(episode, meta=meta)
    for opened in (replay, vector_replay(tmp_path)):
        np.testing.assert_array_equal(opened.lengths, [7, 5, 9])
        np.testing.assert_array_equal(opened.returns, [7.0, 5.0, 9.0])
        np.testing.assert_array_equal(opened.successes, [1.0, np.nan, np.nan])
        assert metas(opened) == said
    with pytest.raises(TypeError, match="not JSON serializable"):
        replay.add(vectors()[0], meta={"success": object()})
    assert vector_replay(tmp_path).num_episodes == 3


def test_a_folder_is_gone_on_with(tmp_path):
    unbroken = vector_replay(tmp_path / "unbroken")
    for index, episode in enumerate(vectors()):
        unbroken.add(episode, meta={"index": index})
        vector_replay(tmp_path / "opened").add(episode, meta={"index": index})
    assert_same(vector_replay(tmp_path / "opened"), unbroken)


def test_a_folder_may_be_named_from_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    replay = vector_replay("runs/replay")
    replay.add(vectors()[0])
    assert_same(vector_replay(tmp_path / "runs" / "replay"), replay)
    assert not (tmp_path / "runs" / "replay" / "runs").exists()


def test_cut_forgets_the_later_ones_for_good(tmp_path):
    replay, straight = vector_replay(tmp_path / "a"), vector_replay(tmp_path / "b")
    others = vectors(lengths=(6, 3), seed=5)
    for episode in vectors():
        replay.add(episode)
    before = replay.sample(20, 4, np.random.default_rng(0))
    replay.cut(1)
    assert (replay.num_episodes, replay.num_steps, replay.windows(4)) == (1, 7, 5)
    assert sorted(path.name for path in (tmp_path / "a").glob("episode_*")) == [
        "episode_00000.hdf5",
        "episode_00000.json",
    ]
    for episode in others:
        replay.add(episode)
    for episode in (vectors()[0], *others):
        straight.add(episode)
    assert_same(replay, straight)
    assert_same(vector_replay(tmp_path / "a"), straight)
    assert not torch.equal(before.obs["vector"], replay.sample(20, 4, np.random.default_rng(0)).obs["vector"])
    replay.cut(0)
    assert vector_replay(tmp_path / "a").num_steps == 0
    with pytest.raises(DatasetError, match=r"cut back to 2 episodes, but it holds 0"):
        replay.cut(2)


def test_what_a_kill_leaves_is_written_over(tmp_path, monkeypatch):
    replay, straight = vector_replay(tmp_path / "a"), vector_replay(tmp_path / "b")
    first, lost, second = vectors(lengths=(7, 30, 5))
    replay.add(first)
    with monkeypatch.context() as patch:

        def killed(*_):
            raise KeyboardInterrupt

        patch.setattr("dream_env.recordings.replay.write_json", killed)  # everything but the last file is there
        with pytest.raises(KeyboardInterrupt):
            replay.add(lost)
    opened = vector_replay(tmp_path / "a")
    assert opened.num_episodes == 1
    opened.add(second)
    straight.add(first)
    straight.add(second)
    assert_same(opened, straight)
    env = gymnasium.make("CartPole-v1")
    assert [len(e.actions) for e in opened.to_minari("game/played-v0", env).iterate_episodes()] == [7, 5]
    env.close()


def test_a_killed_process_leaves_whole_episodes(tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); from test_replay import *\n"
        "replay = vector_replay(sys.argv[1])\n"
        "for episode in vectors(lengths=range(5, 2000)): replay.add(episode)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "a"), str(Path(__file__).parent)])
    deadline = time.monotonic() + 50
    while len(list((tmp_path / "a").glob("*.json"))) < 6 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (tmp_path / "a" / "episode_00900.tmp-17").mkdir()
    (tmp_path / "a" / ".episode_00900.json.tmp-17").touch()
    opened, straight = vector_replay(tmp_path / "a"), vector_replay(tmp_path / "b")
    assert not [path for path in (tmp_path / "a").iterdir() if "tmp" in path.name]
    assert 5 <= opened.num_episodes < 1900
    for episode in vectors(lengths=tuple(range(5, 5 + opened.num_episodes))):
        straight.add(episode)
    assert_same(opened, straight)
    opened.add(vectors()[0])
    straight.add(vectors()[0])
    assert_same(opened, straight)


def test_a_full_disk_says_so_and_changes_nothing(tmp_path, monkeypatch):
    replay = vector_replay(tmp_path)
    replay.add(vectors()[0])

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("dream_env.recordings.replay.write_episode", full)
        with pytest.raises(DatasetError, match=r"No space left on device.*make room, and the same command goes on"):
            replay.add(vectors()[1])
    assert replay.num_episodes == vector_replay(tmp_path).num_episodes == 1
    replay.add(vectors()[1])
    assert replay.num_steps == 7 + 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"source": replace(SOURCE, environment="Other-v0")},
            r"episodes of Game-v0 .* model of Other-v0: environment diff",
        ),
        ({"source": replace(SOURCE, env_spec="{}")}, "env_spec differ"),
        ({"size": 4}, "observation differ"),
    ],
)
def test_a_folder_of_another_environment_is_refused(tmp_path, changes, message):
    vector_replay(tmp_path).add(vectors()[0])
    with pytest.raises(CheckpointError, match=message):
        vector_replay(tmp_path, **changes)
    assert vector_replay(tmp_path, replace(SOURCE, dataset="another/name-v0")).num_episodes == 1


def broken_episodes():
    nan, infinite, outside, longer, empty = (vectors(lengths=(4,))[0] for _ in range(5))
    nan.observations[2, 1] = np.nan
    infinite.rewards[1] = np.inf
    outside.actions[3] = 4
    longer.rewards.append(1.0)
    empty = replace(
        empty,
        actions=empty.actions[:0],
        observations=empty.observations[:1],
        rewards=[],
        terminations=[],
        truncations=[],
    )
    return {
        "entry 1 at row 2 is nan": nan, "rewards of episode 1 are not finite": infinite, "outside Discrete": outside,
        "4 actions came with .*'rewards': 5": longer, "needs at least one step": empty,
    }  # fmt: skip


@pytest.mark.parametrize("message", broken_episodes())
def test_a_broken_episode_is_refused_and_changes_nothing(tmp_path, message):
    replay = vector_replay(tmp_path)
    replay.add(vectors()[0])
    with pytest.raises(SpaceError, match=message):
        replay.add(broken_episodes()[message])
    assert vector_replay(tmp_path).num_episodes == 1
    assert sorted(path.suffix for path in tmp_path.glob("episode_*")) == [".hdf5", ".json"]


def test_an_action_outside_a_box_is_refused_but_not_what_float32_rounded_out_of_it(tmp_path):
    state = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    spec = ObservationSpec.from_space(state, ObservationConfig())
    replay = Replay(tmp_path / "arm", spec, ActionSpec.from_space(ARM), SOURCE)
    rounded, outside, endless = buffers(state, ARM, lengths=(4, 5, 6))
    rounded.actions[2, 1] = np.nextafter(np.float32(1), np.float32(2))
    outside.actions[3] = [0.5, -1.25]
    endless.actions[1, 0] = np.inf
    replay.add(rounded)
    with pytest.raises(
        SpaceError, match=r"action \[ 0\.5 +-1\.25\] of step 3 is outside Box\(-1\.0, 1\.0, \(2,\), float32\)"
    ):
        replay.add(outside)
    with pytest.raises(SpaceError, match="action 1 of an episode is not finite"):
        replay.add(endless)
    assert replay.num_episodes == 1


def test_a_damaged_folder_says_so(tmp_path):
    vector_replay(tmp_path).add(vectors()[0])
    os.truncate(tmp_path / "obs.vector.bin", 50)
    with pytest.raises(DatasetError, match=r"obs.vector.bin is damaged: it has 50 bytes, and 96 are needed"):
        vector_replay(tmp_path)


def test_a_thousand_episodes_need_no_more_open_files_than_one(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dream_env.recordings.replay.write_episode", lambda *_: None
    )  # its own files are closed; it takes the time
    monkeypatch.setattr("os.fsync", lambda _: None)
    replay = vector_replay(tmp_path)
    replay.add(vectors()[0])
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        replay.add(vectors()[0])
    replay.sample(64, 5, np.random.default_rng(0))
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_dataset_made_of_it_is_the_same_demonstrations(tmp_path):
    env = gymnasium.make("CartPole-v1", max_episode_steps=30)
    spec = ObservationSpec.from_space(env.observation_space, ObservationConfig())
    replay = Replay(
        tmp_path / "replay",
        spec,
        ActionSpec.from_space(env.action_space),
        Source("", "CartPole-v1", env.spec.to_json(), {}),
    )
    with pytest.raises(DatasetError, match="no episode yet"):
        replay.to_minari("cart/played-v0", env)
    for episode in buffers(env.observation_space, env.action_space):
        replay.add(episode)
    dataset = replay.to_minari("cart/played-v0", env, {"algorithm_name": "a test"})
    assert dataset.total_steps == replay.num_steps
    demos = Demos.load("cart/played-v0")
    assert demos.source.environment == "CartPole-v1"
    assert demos.source.protocol["algorithm_name"] == "a test"
    np.testing.assert_array_equal(demos.returns, replay.returns)
    assert_same_batch(*(x.sample(100, 5, np.random.default_rng(0)) for x in (demos, replay)))
    again = Replay(tmp_path / "replay", demos.observation_spec, demos.action_spec, demos.source)
    assert again.num_episodes == 3, "the episodes stay, and the dataset's own source names the same environment"
    assert all((tmp_path / "replay" / f"episode_{index:05d}.hdf5").is_file() for index in range(3))
    with pytest.raises(DatasetError, match="there is a dataset 'cart/played-v0' already"):
        replay.to_minari("cart/played-v0", env)
    with pytest.raises(DatasetError, match="'played' is no id"):
        replay.to_minari("played", env)
    env.close()


@pytest.mark.parametrize("refused", [["symlink"], ["symlink", "link"]], ids=["hard links", "copies"])
def test_a_dataset_is_made_where_symbolic_links_need_rights(tmp_path, monkeypatch, refused):
    def no_rights(*_):
        raise OSError("A required privilege is not held by the client")

    env = gymnasium.make("CartPole-v1")
    observation, action = (
        ObservationSpec.from_space(env.observation_space, ObservationConfig()),
        ActionSpec.from_space(env.action_space),
    )
    replay = Replay(tmp_path / "replay", observation, action, SOURCE)
    for episode in buffers(env.observation_space, env.action_space):
        replay.add(episode)
    for way in refused:
        monkeypatch.setattr(os, way, no_rights)
    assert replay.to_minari("cart/played-v0", env).total_steps == replay.num_steps
    assert all((tmp_path / "replay" / f"episode_{index:05d}.hdf5").is_file() for index in range(3)), (
        "they stay here too"
    )
    env.close()


def test_recordings_and_what_was_played_are_mixed_by_their_windows(tmp_path):
    record("game/expert-v0", buffers(lengths=(7, 5, 9)))
    demos = Demos.load("game/expert-v0")
    replay = Replay(tmp_path / "replay", demos.observation_spec, demos.action_spec, demos.source)
    mixture = Mixture([demos, replay])
    assert mixture.sample(30, 3, np.random.default_rng(0)).obs["image"].shape[:2] == (3, 30), "nothing was played yet"
    for episode in buffers(lengths=(6, 1), seed=1):
        replay.add(episode)
    assert mixture.windows(3) == 18 + 5, "it grew, and the short episode does not count"
    own = {frame.tobytes() for frame in np.asarray(replay.demos().episode(0).obs["image"])}
    batch = mixture.sample(3000, 3, np.random.default_rng(0))
    share = np.mean([image.numpy().tobytes() in own for image in batch.obs["image"][0]])
    assert share == pytest.approx(5 / 23, abs=0.03)  # σ = 0.0075
    for mine, theirs in zip(mixture.statistics["image"], demos.statistics["image"], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    with pytest.raises(DatasetError, match="have no statistics"):
        _ = Mixture([replay]).statistics
