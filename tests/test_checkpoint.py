import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import torch

from dream_env import checkpoint
from dream_env.checkpoint import Store, load, model_folder, save, write_folder
from dream_env.errors import CheckpointError, ConfigError
from dream_env.testing import tiny_world_model


@pytest.fixture
def folder(tmp_path) -> Path:
    return save(tiny_world_model(), tmp_path / "wm", {"note": "a test"})


def test_a_saved_world_model_comes_back_the_same(folder):
    before, after = tiny_world_model(), load(folder)
    assert after.config == before.config
    assert after.source == before.source
    assert all(
        torch.equal(a, b) for a, b in zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    )
    assert json.loads((folder / "meta.json").read_text())["note"] == "a test"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "meta.json", "weights.safetensors"]


def test_a_missing_folder_says_what_to_give():
    with pytest.raises(
        CheckpointError, match=r"there is no folder 'no/such/place'; give the folder that `dream-env fit"
    ):
        load("no/such/place")


def test_a_file_is_no_world_model(tmp_path):
    (tmp_path / "wm").write_text("")
    with pytest.raises(CheckpointError, match=r"is a file; a world model is a folder with config.json"):
        load(tmp_path / "wm")


def test_an_unfinished_folder_points_to_what_there_is(tmp_path):
    store = Store(tmp_path / "wm")
    kept = store.save(7, {"x": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match=rf"training has not finished.*{kept}"):
        load(tmp_path / "wm")


def test_truncated_weights_are_named(folder):
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"weights.safetensors is damaged or cut short"):
        load(folder)


def test_weights_of_another_model_are_named(folder, tmp_path):
    other = save(tiny_world_model(continue_head=True), tmp_path / "other")
    shutil.copy(other / "weights.safetensors", folder / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit config.json, first at 'continue_net"):
        load(folder)


def test_a_folder_from_a_newer_version_asks_for_an_upgrade(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(
        CheckpointError, match=r"written by a newer dream-env \(folder format 99.*pip install --upgrade"
    ):
        load(folder)


def test_an_unknown_option_in_a_config_suggests_the_nearest(folder):
    config = json.loads((folder / "config.json").read_text())
    config["world_model"]["rssm"]["dter"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r'RSSMConfig has no option \'dter\'. Did you mean "deter"'):
        load(folder)


def test_a_hub_id_is_downloaded(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub_id: str(folder))
    assert model_folder("somebody/pong-dream") == folder


def test_a_download_that_fails_says_so(monkeypatch):
    def refuse(hub_id):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(
        CheckpointError, match=r"neither a folder here nor a world model that could be downloaded.*no network"
    ):
        load("somebody/pong-dream")


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "thing"
    with write_folder(target) as temporary:
        (temporary / "a").write_text("1")

    def give_up_half_way():
        with write_folder(target) as temporary:
            (temporary / "a").write_text("2")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        give_up_half_way()
    assert (target / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_full_disk_is_named_and_what_was_saved_stays(folder, monkeypatch):
    before = (folder / "config.json").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(
        CheckpointError, match=r"No space left on device; what was saved before is intact.*run the same command"
    ):
        save(tiny_world_model(seed=1), folder)
    assert (folder / "config.json").read_bytes() == before
    assert torch.equal(load(folder).rssm.posterior_out.bias, tiny_world_model().rssm.posterior_out.bias)


def test_tensors_are_written_from_where_they_are(tmp_path):
    script = f"""
import resource, pathlib, torch
from dream_env import checkpoint
tensors = {{"a": torch.ones(50_000_000)}}  # 200 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
checkpoint.write_tensors(pathlib.Path({str(tmp_path)!r}) / "a.safetensors", tensors)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(said.stdout) < 50_000  # KiB: no copy of all of them


def test_what_is_written_may_be_read_by_whom_the_user_lets(tmp_path):
    (tmp_path / "usual").touch()
    checkpoint.write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_disk_that_fills_up_in_mid_tensor_is_named_too(tmp_path, monkeypatch):
    def full(tensors, path):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint.safetensors.torch, "save_file", full)
    with pytest.raises(
        CheckpointError, match=r"\(0\.0 MiB\): I/O error: No space left on device .*Free some disk space"
    ):
        checkpoint.write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    shared = torch.ones(3)
    with pytest.raises(RuntimeError, match="share memory"):
        checkpoint.write_tensors(tmp_path / "a.safetensors", {"a": shared, "b": shared})
    assert not list(tmp_path.iterdir())


def test_the_store_keeps_the_newest_complete_state(tmp_path):
    store = Store(tmp_path)
    assert store.latest() is None
    store.save(1, {"x": torch.ones(2)}, {"note": 1})
    store.save(2, {"x": torch.full((2,), 2.0)}, {"note": 2})
    (tmp_path / "resume" / "000000003").mkdir()  # a kill left it without its state.json
    step, tensors, state = Store(tmp_path).latest()
    assert (step, state) == (2, {"note": 2})
    assert tensors["x"].tolist() == [2.0, 2.0]
    assert not (tmp_path / "resume" / "000000001").exists()
    store.clear()
    assert store.latest() is None


def test_nothing_of_ours_opens_a_pickle():
    sources = [path.read_text() for path in Path(checkpoint.__file__).parent.glob("**/*.py")]
    for forbidden in ("pickle.load", "torch.load(", "weights_only=False", "allow_pickle=True"):
        hits = [text for text in sources if forbidden in text and "weights_only=True" not in text]
        assert not hits, forbidden
