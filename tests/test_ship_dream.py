"""``examples/ship_dream.py``: what comes with the package is opened by name, is small, and says how it was made."""

import importlib
from pathlib import Path

import pytest
import torch
from small_datasets import fit_squares, use

from dream_env import checkpoint
from dream_env.checkpoint import read_json
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
    with pytest.raises(SystemExit, match="take fewer episodes"):
        script.main(script.Ship(root / "wm", "squares", train=1))


def test_the_shipped_pong_says_how_it_was_made():
    meta = read_json(checkpoint.SHIPPED / "pong" / "meta.json")
    assert meta["fit"]["train"]["updates"] == meta["updates"]
    assert sum(file.stat().st_size for file in (checkpoint.SHIPPED / "pong").iterdir()) < 15e6
