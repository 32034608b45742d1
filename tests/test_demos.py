import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from recordings import buffers, record

from dream_env.errors import DatasetError
from dream_env.recordings import streaming
from dream_env.recordings.demos import Demos, Source
from dream_env.spaces import ObservationConfig

BOX = spaces.Box(-1, 1, (2,), np.float64)
DICT = spaces.Dict({"camera": spaces.Box(0, 255, (20, 24, 3), np.uint8), "state": spaces.Box(-1, 1, (3,), np.float64)})


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def written():
    return record("game/random-v0")


@pytest.fixture
def demos(written):
    return Demos.load("game/random-v0")


def test_an_episode_of_t_steps_has_t_plus_one_rows(demos, written):
    assert (demos.num_episodes, demos.num_steps, demos.num_rows) == (3, 21, 24)
    np.testing.assert_array_equal(demos.lengths, [7, 5, 9])
    np.testing.assert_array_equal(demos.returns, [7, 5, 9])
    for index, original in enumerate(written):
        episode = demos.episode(index)
        np.testing.assert_array_equal(episode.obs["image"][..., 0], original.observations)
        np.testing.assert_array_equal(episode.action_t, original.actions)
        assert episode.num_steps == len(original.rewards)
        # Episode 1 was cut off, not terminated.
        np.testing.assert_array_equal(episode.is_terminal, [False] * episode.num_steps + [index != 1])


def test_where_the_data_come_from_is_kept(demos):
    assert demos.source.dataset == "game/random-v0"
    assert demos.source.environment == ""
    assert demos.source.env_spec is None
    assert demos.source.protocol["algorithm_name"] == "random"
    assert demos.action_spec.size == 4


@pytest.mark.parametrize("length", [1, 2, 4, 6])
def test_windows_hold_consecutive_rows_and_the_actions_that_led_to_them(demos, written, length):
    batch = demos.sample(200, length, np.random.default_rng(0))
    assert batch.obs["image"].shape == (length, 200, 64, 64, 1)
    assert batch.obs["image"].dtype == torch.uint8
    assert batch.action_tm1.dtype == torch.int64
    rows = {row.tobytes(): (e, t) for e, episode in enumerate(written) for t, row in enumerate(episode.observations)}
    seen = set()
    for b in range(200):
        found = [rows[batch.obs["image"][t, b].numpy().tobytes()] for t in range(length)]
        episode, start = found[0]
        seen.add((episode, start))
        steps = len(written[episode].rewards)
        assert found == [(episode, start + t) for t in range(length)]
        assert batch.action_tm1[1:, b].tolist() == list(written[episode].actions[start : start + length - 1])
        ends = [episode != 1 and start + t == steps for t in range(length)]
        assert batch.is_terminal[:, b].tolist() == ends
    assert (batch.action_tm1[0] == 0).all()
    assert batch.is_first[0].all()
    assert not batch.is_first[1:].any()
    # 200 draws miss one of at most 24 windows with a probability below 1 in 200.
    assert len(seen) == demos.windows(length) == 24 - 3 * (length - 1)


def test_windows_are_drawn_uniformly_and_reproducibly(demos):
    counts = {}
    batch = demos.sample(19 * 400, 2, np.random.default_rng(1))
    for image in batch.obs["image"][0].flatten(1)[:, :8].tolist():
        counts[tuple(image)] = counts.get(tuple(image), 0) + 1
    assert len(counts) == 21
    assert 270 < min(counts.values()) <= max(counts.values()) < 460  # 362 expected, σ = 18.6
    again = demos.sample(5, 3, np.random.default_rng(7)).obs["image"]
    assert torch.equal(again, demos.sample(5, 3, np.random.default_rng(7)).obs["image"])


def test_dictionary_observations_and_box_actions_come_as_float32():
    written = record("robot/random-v0", buffers(DICT, BOX), DICT, BOX)
    demos = Demos.load("robot/random-v0", ObservationConfig(size=16, gray=False))
    batch = demos.sample(4, 3, np.random.default_rng(0))
    assert batch.obs["camera"].shape == (3, 4, 16, 16, 3)
    assert batch.obs["state"].shape == (3, 4, 3)
    assert batch.obs["state"].dtype == batch.action_tm1.dtype == torch.float32
    assert batch.action_tm1.shape == (3, 4, 2)
    assert (batch.action_tm1[0] == 0).all()
    np.testing.assert_allclose(demos.episode(1).action_t, written[1].actions, rtol=1e-6)
    np.testing.assert_allclose(demos.episode(1).obs["state"], written[1].observations["state"], rtol=1e-6)


def test_training_and_acting_see_the_same_pixels():
    space = spaces.Box(0, 255, (210, 160, 3), np.uint8)
    written = record("raw/random-v0", buffers(space, lengths=(4,)), space)
    demos = Demos.load("raw/random-v0", ObservationConfig(crop=(34, 194, 0, 160)))
    for t, frame in enumerate(written[0].observations):
        acting = demos.observation_spec.pack(frame)["image"]
        np.testing.assert_array_equal(demos.episode(0).obs["image"][t], acting)


def test_views_keep_their_episodes_and_share_the_statistics(demos, written):
    view = demos.select([2, 0])
    np.testing.assert_array_equal(view.lengths, [9, 7])
    np.testing.assert_array_equal(view.episode(0).action_t, written[2].actions)
    np.testing.assert_array_equal(view.select([1]).indices, [0])
    np.testing.assert_array_equal(demos.take(2).indices, [0, 1])
    np.testing.assert_array_equal(view.statistics["image"], demos.statistics["image"])
    rows = {row.tobytes() for row in written[0].observations}
    batch = demos.take(1).sample(30, 2, np.random.default_rng(0))
    assert all(image.numpy().tobytes() in rows for image in batch.obs["image"][1])


def test_a_split_is_disjoint_whole_and_decided_by_the_seed(demos):
    train, held_out = demos.split(1, seed=3)
    assert held_out.num_episodes == 1
    assert sorted([*train.indices, *held_out.indices]) == [0, 1, 2]
    np.testing.assert_array_equal(demos.split(1, seed=3)[1].indices, held_out.indices)
    assert len({int(demos.split(1, seed=seed)[1].indices[0]) for seed in range(20)}) == 3


def test_a_config_that_only_the_model_uses_is_kept_although_the_conversion_is_shared(demos):
    other = Demos.load("game/random-v0", ObservationConfig(std_floor=1.0))
    assert demos.observation_spec.config.std_floor == 5.0
    assert other.observation_spec.config.std_floor == 1.0


def test_sequences_longer_than_every_episode_name_the_longest_and_what_would_fit(demos):
    with pytest.raises(DatasetError) as error:
        demos.select([1, 2]).sample(4, 50, np.random.default_rng(0))
    message = str(error.value)
    assert "episode 2 of 'game/random-v0' has 9 steps (10 observations)" in message
    assert "sequences need 50: use sequences of at most 10" in message


def test_an_episode_too_short_is_not_drawn_from_and_vetoes_no_other(demos):
    assert demos.windows(7) == 2 + 0 + 4
    assert [demos.too_short(length) for length in (6, 7, 9, 11)] == [0, 1, 2, 3]
    batch = demos.sample(300, 7, np.random.default_rng(0))
    without = demos.select([0, 2]).sample(300, 7, np.random.default_rng(0))
    assert torch.equal(batch.obs["image"], without.obs["image"])
    assert torch.equal(batch.action_tm1, without.action_tm1)
    assert torch.equal(batch.is_terminal, without.is_terminal)
    last = demos.select([2, 1]).sample(50, 10, np.random.default_rng(0))  # the short one last, and a single window
    assert (last.obs["image"][0] == last.obs["image"][0, 0]).all()


def test_recordings_opened_by_folder_are_found_again_and_others_by_their_id(tmp_path, written):
    assert (Demos.load("game/random-v0").source.folder, Demos.load("game/random-v0").source.where) == (
        "",
        "game/random-v0",
    )
    assert Demos.load(tmp_path / "minari/game/random-v0").source.folder == ""  # the folder that the id leads to
    shutil.move(tmp_path / "minari/game/random-v0", tmp_path / "mine")
    source = Demos.load(tmp_path / "mine").source
    assert (source.dataset, source.folder) == ("game/random-v0", str(tmp_path / "mine/data"))
    np.testing.assert_array_equal(Demos.load(source.where, download=False).lengths, [7, 5, 9])
    assert replace(source, folder=str(tmp_path / "gone")).where == "game/random-v0"  # on another machine
    assert Source("game/random-v0", "", None, {}).where == "game/random-v0"  # of a model from before


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda demos: demos.take(4), "4 episodes were asked of 'game/random-v0', which has 3"),
        (lambda demos: demos.select([3]), r"episodes \[3\] were asked"),
        (lambda demos: demos.select([]), r"episodes \[\] were asked"),
        (lambda demos: demos.episode(-1), "episode -1 was asked"),
        (lambda demos: demos.split(3), "cannot hold 3 of the 3 episodes"),
        (lambda demos: demos.windows(0), "sequences of 0 rows"),
    ],
)
def test_episodes_that_are_not_there_are_refused(demos, ask, message):
    with pytest.raises(DatasetError, match=message):
        ask(demos)


def test_arrays_can_be_changed_without_touching_the_conversion(demos):
    torch.from_numpy(demos.episode(0).obs["image"]).zero_()
    assert Demos.load("game/random-v0").episode(0).obs["image"].any()


def test_a_batch_moves_to_another_device_whole(demos):
    moved = demos.sample(2, 3, np.random.default_rng(0)).to("meta")
    assert {x.device.type for x in (*moved.obs.values(), moved.action_tm1, moved.is_first, moved.is_terminal)} == {
        "meta"
    }


def test_converting_never_holds_more_than_an_episode_in_memory():
    raw = spaces.Box(0, 255, (210, 160, 3), np.uint8)
    record("raw/random-v0", buffers(raw, lengths=(100,)) * 10, raw)
    episode_bytes = 101 * 210 * 160 * 3
    tracemalloc.start()
    Demos.load("raw/random-v0")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.7 * episode_bytes  # with what is packed of it


def test_importing_imports_no_dataset_library():
    program = "import sys, dream_env.recordings.demos; assert not {'minari', 'h5py'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_some_rows_of_an_episode_are_those_of_the_whole(demos):
    whole = demos.episode(1).obs["image"]
    np.testing.assert_array_equal(demos.read(1, 2, 4)["image"], whole[2:4])
    np.testing.assert_array_equal(demos.read(1, 3, 10_000)["image"], whole[3:])  # and none of the next episode's


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="only Linux says what of the memory are mapped files"
)
def test_drawing_does_not_pile_up_what_was_read(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.random.default_rng(0).integers(255, size=(2**15, 2**12), dtype=np.uint8))  # 128 MiB
    program = f"""
import numpy as np
from dream_env.recordings.streaming import BulkReader
BulkReader.HELD = 2**20
rows = np.load({str(path)!r}, mmap_mode="r")
reader, rng, drawn = BulkReader({{"x": rows}}), np.random.default_rng(0), 0
def mapped():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) / 1024  # MiB
before, peak = mapped(), 0
for _ in range(64):
    first = rng.integers(2**15 - 50, size=4)
    taken = reader.take(first + np.arange(50)[:, None])["x"]  # 0.8 MiB, and 2 or 4 MiB around each of the four
    peak = max(peak, mapped() - before)
print(peak)
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(said.stdout) < 64  # without giving back: all 128


def test_what_was_drawn_is_right_after_pages_were_given_back_and_in_a_copy(demos, monkeypatch):
    monkeypatch.setattr(streaming.BulkReader, "HELD", 0)  # after each drawing
    copy = pickle.loads(pickle.dumps(demos))
    for _ in range(3):
        for from_files in (demos, copy):
            np.testing.assert_array_equal(from_files.read(0, 0, 3)["image"], demos.episode(0).obs["image"][:3])
    with pytest.raises(DatasetError, match="episode 99 was asked of"):
        demos.read(99, 0, 1)
