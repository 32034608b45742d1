import errno
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from recordings import DISCRETE, GRAY, buffers, record

from dream_env.errors import DatasetError, SpaceError
from dream_env.recordings import cache, streaming
from dream_env.recordings.cache import cache_root, converted
from dream_env.recordings.datasets import find_dataset
from dream_env.spaces import ObservationConfig

CONFIG = ObservationConfig(size=8)
STATE = spaces.Box(-np.inf, np.inf, (3,), np.float64)


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "cache"


def convert(root, config=CONFIG):
    return converted(find_dataset("game/random-v0"), config, root)


def folders(root):
    return sorted((root / "datasets/game/random-v0").iterdir())


def test_statistics_are_those_of_all_rows_in_one_pass(root):
    space = spaces.Dict({"image": GRAY, "state": STATE})
    episodes = buffers(space, lengths=(300, 5))
    for episode in episodes:
        episode.observations["state"] += [1e4, 0, -3]  # a large offset must not cost digits
    record("game/random-v0", episodes, space)
    data = convert(root)
    for name, array in data.obs.items():
        mean, std = data.statistics[name]
        assert mean.dtype == std.dtype == np.float32
        np.testing.assert_allclose(mean, array.mean(0, dtype=np.float64), rtol=1e-5)
        np.testing.assert_allclose(std, array.std(0, dtype=np.float64), rtol=1e-4)


def test_the_second_time_nothing_is_converted(root, monkeypatch):
    record("game/random-v0")
    first = convert(root)
    monkeypatch.setattr(cache, "_convert", None)
    # What is applied in the model and not in the conversion needs no other one.
    again = convert(root, replace(CONFIG, std_floor=1.0, standardize="global"))
    np.testing.assert_array_equal(again.obs["image"], first.obs["image"])
    np.testing.assert_array_equal(again.statistics["image"], first.statistics["image"])


def test_each_way_of_packing_has_its_own_conversion(root):
    record("game/random-v0")
    convert(root)
    assert convert(root, ObservationConfig(size=16)).obs["image"].shape[1:] == (16, 16, 1)
    assert len(folders(root)) == 2


def test_a_dataset_recorded_again_is_converted_again_and_the_stale_one_deleted(root, tmp_path):
    record("game/random-v0")
    stale = convert(root)
    shutil.rmtree(tmp_path / "minari/game/random-v0")
    record("game/random-v0", buffers(seed=1))
    assert not np.array_equal(convert(root).obs["image"], stale.obs["image"])
    assert len(folders(root)) == 1


@pytest.mark.parametrize("damage", ["truncated", "garbled", "missing", "other format"])
def test_a_damaged_conversion_is_built_again(root, damage):
    record("game/random-v0")
    intact = np.array(convert(root).obs["image"])
    (folder,) = folders(root)
    if damage == "truncated":
        os.truncate(folder / "obs.image.npy", 500)
    elif damage == "garbled":
        (folder / "meta.json").write_text("{")
    elif damage == "missing":
        (folder / "action_tm1.npy").unlink()
    else:
        (folder / "meta.json").write_text('{"format": 0}')
    np.testing.assert_array_equal(convert(root).obs["image"], intact)
    assert folders(root) == [folder]


def test_a_conversion_of_what_was_taken_for_a_picture_is_built_again(root, monkeypatch):
    codes = spaces.Box(0, 255, (7, 7, 3), np.uint8)
    written = record("game/random-v0", buffers(codes), codes)
    with monkeypatch.context() as before:
        before.setattr("dream_env.spaces.observations._SMALLEST", 4)
        assert convert(root).obs["image"].shape[1:] == (8, 8, 1)
    again = convert(root)
    assert again.obs["vector"].shape == (24, 147)
    np.testing.assert_array_equal(again.obs["vector"][:8], written[0].observations.reshape(8, 147))
    assert len(folders(root)) == 1


@pytest.mark.parametrize("damaged", [False, True])
def test_a_process_that_finishes_second_uses_what_the_first_made(root, monkeypatch, damaged):
    record("game/random-v0")
    convert_one = cache._convert

    def convert_while_another_does(*args):
        convert_one(*args)
        monkeypatch.setattr(cache, "_convert", convert_one)
        convert(root)
        if damaged:
            (folders(root)[0] / "meta.json").unlink()

    monkeypatch.setattr(cache, "_convert", convert_while_another_does)
    assert len(convert(root).action_tm1) == 24
    assert len(folders(root)) == 1


def test_processes_that_convert_at_once_do_not_disturb_each_other(root):
    record("game/random-v0")
    program = "import sys; from dream_env.recordings.demos import Demos; from pathlib import Path;"
    program += "assert Demos.load('game/random-v0', cache=Path(sys.argv[1])).num_steps == 21"
    processes = [subprocess.Popen([sys.executable, "-c", program, str(root)]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(folders(root)) == 1


def test_an_interrupted_conversion_leaves_nothing_behind(root, monkeypatch):
    record("game/random-v0")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(streaming.Moments, "mean_std", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(root)
    assert folders(root) == []


def test_what_a_killed_process_left_is_removed_after_a_day(root):
    record("game/random-v0")
    convert(root)
    parent = folders(root)[0].parent
    for name, age in (("x.tmp-1-old", 2 * 24 * 3600), ("x.tmp-2-new", 0)):
        (parent / name).mkdir()
        os.utime(parent / name, (time.time() - age,) * 2)
    convert(root, ObservationConfig(size=16))
    assert [path.name for path in folders(root) if ".tmp-" in path.name] == ["x.tmp-2-new"]


def test_no_room_is_told_before_anything_is_converted(root, monkeypatch):
    record("game/random-v0")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(DatasetError, match=r"takes 0 MB, but .* has 0 MB free\. Make room, or set DREAM_ENV_CACHE"):
        convert(root)


def test_a_disk_that_fills_up_is_told_and_nothing_left_behind(root, monkeypatch):
    record("game/random-v0")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(streaming.ArrayWriter, "append", full)
    with pytest.raises(DatasetError, match=r"cannot keep the converted dataset .*No space left.*DREAM_ENV_CACHE"):
        convert(root)
    assert folders(root) == []


def test_numbers_that_are_not_finite_are_named_with_episode_key_and_row(root):
    space = spaces.Dict({"state": STATE})
    episodes = buffers(space)
    episodes[1].observations["state"][4, 2] = np.nan
    record("game/random-v0", episodes, space)
    with pytest.raises(
        DatasetError,
        match=r"episode 1 of dataset 'game/random-v0': observation 'state' is not finite: entry 2 at row 4 is nan",
    ):
        convert(root)


def test_actions_that_are_not_finite_or_outside_the_space_are_named(root, tmp_path):
    box = spaces.Box(-1, 1, (2,), np.float32)
    episodes = buffers(action_space=box)
    episodes[2].actions[3, 0] = np.inf
    record("game/random-v0", episodes, action_space=box)
    with pytest.raises(DatasetError, match=r"episode 2 .*action 3 is not finite"):
        convert(root)
    shutil.rmtree(tmp_path / "minari")
    episodes = buffers()
    episodes[0].actions[1] = 4
    record("game/random-v0", episodes)
    with pytest.raises(DatasetError, match=r"episode 0 .*action 4 .* is outside Discrete\(4\)"):
        convert(root)


def test_actions_outside_a_box_are_named_and_what_float32_rounded_out_of_it_is_taken(root, tmp_path):
    box = spaces.Box(-1, 1, (2,), np.float32)
    episodes = buffers(action_space=box)
    episodes[1].actions[2, 1] = np.nextafter(np.float32(-1), np.float32(-2))
    record("game/random-v0", episodes, action_space=box)
    assert convert(root).action_tm1.min() < -1.0
    shutil.rmtree(tmp_path / "minari")
    episodes[1].actions[2] = [0.5, 3.0]
    record("game/random-v0", episodes, action_space=box)
    message = (
        r"episode 1 of dataset 'game/random-v0': action \[0\.5 3\. \] of step 2 is outside Box\(-1\.0, 1\.0, \(2,\), float32\)\. "
        r"Record what the simulator made of it \(numpy\.clip, if it cuts actions off\), or declare the space"
    )
    with pytest.raises(DatasetError, match=message):
        convert(root)


def test_missing_steps_are_noticed(root, tmp_path):
    record("game/random-v0")
    path = tmp_path / "minari/game/random-v0/data/metadata.json"
    path.write_text(path.read_text().replace('"total_steps": 21', '"total_steps": 22'))
    with pytest.raises(
        DatasetError, match=r"damaged or only half there: metadata\.json speaks of 22 steps, .* hold 21"
    ):
        convert(root)


def test_spaces_that_cannot_be_learned_are_refused_before_anything_is_read(root):
    mission = spaces.Dict({"mission": spaces.Text(5)})
    episodes = [replace(episode, observations={"mission": ["go"] * 8}) for episode in buffers(lengths=(7,))]
    record("game/random-v0", episodes, mission)
    with pytest.raises(SpaceError, match="'mission' is Text"):
        convert(root)


def test_the_cache_is_where_it_was_asked_to_be(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "here"))
    assert cache_root(tmp_path / "there") == tmp_path / "there"
    assert cache_root() == tmp_path / "here"
    monkeypatch.delenv("DREAM_ENV_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache/dream-env"


def test_jpeg_pictures_are_decoded(root):
    rng = np.random.default_rng(0)
    space = spaces.Box(0, 255, (210, 160, 3), np.uint8)
    episodes = buffers(space, DISCRETE, (3,))
    for row in episodes[0].observations:  # plain areas: JPEG keeps them
        row[:] = rng.integers(0, 256, 3, np.uint8)
    record("game/random-v0", episodes, space, jpeg_encoding=True)
    data = convert(root, ObservationConfig(gray=False))
    assert data.obs["image"].shape == (4, 64, 64, 3)
    error = data.obs["image"].astype(int) - episodes[0].observations[:, None, None, 0, 0]
    assert abs(error).max() <= 3
