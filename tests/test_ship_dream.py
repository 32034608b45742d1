"""``examples/ship_dream.py``: what comes with the package is opened by name, is small, and says how it was made."""

import importlib
from pathlib import Path

import pytest
import torch
from small_datasets import fit_squares, use

from dream_env import checkpoint
from dream_env.checkpoint import read_json
from dream_env.errors import CheckpointError, ConfigError
from dream_env.model.encoded import load_encoded

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def script(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXAMPLES)
    module = importlib.import_module("ship_dream")
    for place in (module, checkpoint):
        monkeypatch.setattr(place, "SHIPPED", tmp_path / "shipped")
    return module


def test_a_model_is_shipped_in_half_precision_with_its_first_episodes(script, tmp_path, monkeypatch, capsys):
    root = fit_squares(tmp_path)
    use(monkeypatch, root)
    script.main(script.Ship(root / "wm", "squares", train=1))
    shipped, original = checkpoint.load("shipped:squares"), checkpoint.load(root / "wm")
    for name, weight in original.state_dict().items():
        expected = weight.half().float() if weight.is_floating_point() else weight
        torch.testing.assert_close(shipped.state_dict()[name], expected, rtol=0, atol=0)
    folder = tmp_path / "shipped" / "squares"
    assert load_encoded(folder, "train").num_episodes == 1 < load_encoded(root / "wm", "train").num_episodes
    meta = read_json(folder / "meta.json")
    assert meta["fit"]["dataset"] == "squares/right-v0"
    assert meta["shipped"]["train_episodes"] == 1
    assert "MB" in capsys.readouterr().out


def test_what_is_too_big_is_refused(script, tmp_path, monkeypatch):
    root = fit_squares(tmp_path)
    use(monkeypatch, root)
    monkeypatch.setattr(script, "LIMIT_MB", 1e-6)
    with pytest.raises(ConfigError, match="take fewer episodes; nothing was shipped"):
        script.main(script.Ship(root / "wm", "squares", train=1))
    assert not list((tmp_path / "shipped").iterdir())


def test_what_cannot_be_shipped_leaves_the_shipped_model_as_it_is(script, tmp_path):
    shipped = tmp_path / "shipped" / "pong"
    shipped.mkdir(parents=True)
    (shipped / "weights.safetensors").write_text("the model of before")
    with pytest.raises(CheckpointError, match=r"there is no folder runs/pnog; give the one that `dream-env fit"):
        script.main(script.Ship(Path("runs/pnog"), "pong"))
    unfinished = tmp_path / "wm"
    unfinished.mkdir()
    with pytest.raises(CheckpointError, match="is not a world model"):
        script.main(script.Ship(unfinished, "pong"))
    for name in ("config.json", "weights.safetensors", "meta.json"):
        (unfinished / name).write_text("{}")
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        script.main(script.Ship(unfinished, "pong"))
    assert (shipped / "weights.safetensors").read_text() == "the model of before"
    assert [path.name for path in shipped.parent.iterdir()] == ["pong"]


def test_a_model_that_is_just_being_written_is_not_shipped_yet(script, tmp_path):
    for name in ("pong", ".pong.tmp-4711"):
        (tmp_path / "shipped" / name).mkdir(parents=True)
        (tmp_path / "shipped" / name / "config.json").write_text('{"source": {"environment": "ALE/Pong-v5"}}')
    assert checkpoint.shipped_model("ALE/Pong-v5") == "shipped:pong"
    with pytest.raises(CheckpointError, match=r"These do: pong$"):
        checkpoint.model_folder("shipped:pnog")


def test_the_shipped_pong_says_how_it_was_made():
    meta = read_json(checkpoint.SHIPPED / "pong" / "meta.json")
    assert meta["fit"]["train"]["updates"] == meta["updates"]
    assert sum(file.stat().st_size for file in (checkpoint.SHIPPED / "pong").iterdir()) < 15e6
