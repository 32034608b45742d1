import json
import shutil
import sys
from pathlib import PureWindowsPath

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces
from recordings import buffers, record

from dream_env.errors import DatasetError
from dream_env.recordings.datasets import find_dataset


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def test_a_dataset_is_found_by_id_and_by_either_folder(root):
    record("game/random-v0")
    for name in (
        "game/random-v0",
        root / "game/random-v0",
        str(root / "game/random-v0/data"),
        "hf://me/game/random-v0",
    ):
        found = find_dataset(name, download=False)
        assert (found.id, found.num_episodes, found.num_steps) == ("game/random-v0", 3, 21)


def test_a_relative_folder_is_found_where_no_id_is(root, tmp_path, monkeypatch):
    record("game/random-v0")
    shutil.move(root / "game", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert find_dataset("elsewhere/random-v0", download=False).id == "game/random-v0"


def test_an_absolute_folder_of_windows_is_a_folder_there(monkeypatch):
    monkeypatch.setattr("pathlib.Path.is_absolute", lambda path: PureWindowsPath(path).is_absolute())
    with pytest.raises(DatasetError, match=r"there is no dataset folder C:"):
        find_dataset("C:\\data\\mine", download=False)


def test_environment_and_protocol_come_from_the_metadata():
    env = gymnasium.make("CartPole-v1")
    record(
        "cart/random-v0",
        buffers(env.observation_space, env.action_space),
        env.observation_space,
        env.action_space,
        env=env,
        author="me",
        author_email="me@example.org",
        requirements=["numpy>=1"],
    )
    found = find_dataset("cart/random-v0", download=False)
    assert found.environment == "CartPole-v1"
    assert json.loads(found.env_spec)["max_episode_steps"] == 500
    assert found.protocol["algorithm_name"] == "random"
    assert found.protocol["author"] == ["me"]
    assert found.protocol["requirements"] == ["numpy>=1"]
    assert found.protocol["minari_version"] == minari.__version__
    assert not found.protocol.keys() & {"observation_space", "env_spec", "author_email", "total_steps"}


def test_a_dataset_without_an_environment_has_an_empty_one():
    record("game/random-v0")
    found = find_dataset("game/random-v0")
    assert (found.environment, found.env_spec) == ("", None)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow", "parquet"])
@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (40, 32, 3), np.uint8),
        spaces.Dict({"a": spaces.Dict({"b": spaces.Box(-1, 1, (3,))}), "n": spaces.Discrete(3)}),
    ],
    ids=["picture", "nested"],
)
def test_every_storage_format_is_read_exactly(data_format, space):
    if data_format != "hdf5":
        pytest.importorskip("pyarrow")
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    written = record("game/random-v0", buffers(space, action_space), space, action_space, data_format=data_format)
    read = list(find_dataset("game/random-v0").episodes())
    for episode, original in zip(read, written, strict=True):
        np.testing.assert_equal(episode.observations, original.observations)
        np.testing.assert_array_equal(episode.actions, original.actions)
        np.testing.assert_array_equal(episode.rewards, original.rewards)
    assert [episode.terminated for episode in read] == [True, False, True]


def test_an_unknown_id_suggests_the_nearest_and_says_what_to_do(root):
    record("game/random-v0")
    with pytest.raises(DatasetError) as error:
        find_dataset("game/randon-v0", download=False)
    message = str(error.value)
    assert "there is no dataset 'game/randon-v0'" in message
    assert 'Did you mean "game/random-v0"?' in message
    assert "minari.download_dataset('game/randon-v0')" in message
    assert "dream-env collect" in message


def test_a_stray_folder_in_the_root_does_not_hide_the_message(root):
    (root / "stray/data").mkdir(parents=True)
    with pytest.raises(DatasetError, match="there is no dataset 'game/random-v0'"):
        find_dataset("game/random-v0", download=False)


def test_a_download_that_fails_says_why(monkeypatch):
    def unreachable(name):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(minari, "download_dataset", unreachable)
    with pytest.raises(DatasetError, match=r"'game/expert-v0'.*could not be downloaded \(ConnectionError: no route"):
        find_dataset("game/expert-v0")


def test_a_missing_dataset_is_downloaded_when_asked(root, monkeypatch):
    record("game/random-v0")
    shutil.move(root / "game", root / "remote")
    monkeypatch.setattr(minari, "download_dataset", lambda name: shutil.copytree(root / "remote", root / "game"))
    assert find_dataset("game/random-v0").num_episodes == 3


@pytest.mark.parametrize("name", ["pong", "pong/scripted", "a b-v0"])
def test_what_cannot_be_an_id_is_told_so(root, name):
    (root / "pong").mkdir(parents=True)  # a namespace is no dataset
    with pytest.raises(DatasetError, match=r"neither a folder nor a dataset id; ids look like pong/scripted-v0"):
        find_dataset(name, download=False)


def test_a_folder_that_is_not_there_or_no_dataset_is_told_so(tmp_path):
    with pytest.raises(DatasetError, match="there is no dataset folder"):
        find_dataset(tmp_path / "nothing")
    with pytest.raises(DatasetError, match=r"is not a whole Minari dataset: there is no .*metadata\.json"):
        find_dataset(tmp_path)


def test_a_download_that_was_cut_off_is_told_so(root):
    record("game/random-v0")
    data = root / "game/random-v0/data"
    (data / "metadata.json").write_text((data / "metadata.json").read_text()[:100])
    with pytest.raises(DatasetError, match=r"not the metadata of a finished Minari dataset.*cut off, delete"):
        find_dataset("game/random-v0")
    (data / "metadata.json").write_text('{"dataset_id": "../outside", "total_episodes": 1, "total_steps": 1}')
    with pytest.raises(DatasetError, match=r"not the metadata of a finished .*Malformed"):
        find_dataset("game/random-v0")
    (data / "metadata.json").unlink()
    with pytest.raises(DatasetError, match=r"is not a whole Minari dataset"):
        find_dataset("game/random-v0")


def test_a_truncated_data_file_is_told_so(root):
    record("game/random-v0")
    file = root / "game/random-v0/data/main_data.hdf5"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DatasetError, match=r"damaged or only half there: episode 0 cannot be read \(OSError.*Delete"):
        list(find_dataset("game/random-v0").episodes())
    file.unlink()
    with pytest.raises(DatasetError, match=r"damaged or only half there"):
        list(find_dataset("game/random-v0").episodes())


def _edit(root, **changes):
    path = root / "game/random-v0/data/metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_empty_dataset_is_told_so(root):
    record("game/random-v0")
    _edit(root, total_episodes=0, total_steps=0)
    with pytest.raises(DatasetError, match=r"'game/random-v0' .* is empty"):
        find_dataset("game/random-v0")


def test_a_dataset_of_a_newer_minari_asks_for_an_upgrade(root):
    record("game/random-v0")
    _edit(root, minari_version="99.0")
    with pytest.raises(DatasetError, match=r"does not support.*pip install --upgrade minari"):
        find_dataset("game/random-v0").open()


def test_a_storage_whose_library_is_missing_names_it(root, monkeypatch):
    record("game/random-v0")
    _edit(root, data_format="arrow")
    monkeypatch.delitem(sys.modules, "minari.dataset._storages.arrow_storage", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DatasetError, match=r"stored as arrow.*library for it is missing: .*minari\[arrow\]"):
        find_dataset("game/random-v0").open()
