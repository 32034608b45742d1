"""``examples/planner_scores.py`` on the real emulator: recordings, rows and the table of a game that is cut off soon."""

import importlib
import json
from pathlib import Path

import pytest

from dream_env.measuring import results

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("planner_scores")


def test_both_are_recorded_once_and_have_a_row_each(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    scores = script.Scores(("seaquest",), 1, 3, max_steps=8, results=tmp_path / "planner.csv")
    script.main(scores)
    written = (tmp_path / "planner.csv").read_bytes()
    recorded = {path: path.stat().st_mtime_ns for path in (tmp_path / "minari").rglob("*.hdf5")}
    random, planner = results.read(tmp_path / "planner.csv")
    assert (random.method, random.episodes) == ("random", 3)
    assert (planner.method, planner.episodes, planner.environment) == ("planner", 1, "ALE/Seaquest-v5")
    assert json.loads(planner.protocol)["max_frames"] == 32
    script.main(scores)
    assert (tmp_path / "planner.csv").read_bytes() == written
    assert recorded == {path: path.stat().st_mtime_ns for path in (tmp_path / "minari").rglob("*.hdf5")}
    assert "| ALE/Seaquest-v5 | 8 steps |" in capsys.readouterr().out


def test_a_line_shows_means_and_ranges(script):
    def row(method, returns):
        return results.Row(
            experiment="planner", environment="ALE/Qbert-v5", dataset=method, method=method, episodes=len(returns),
            return_mean=sum(returns) / len(returns), return_iqm=0.0, return_low=0.0, return_high=0.0, normalized=0.0,
            returns=returns, protocol='{"frame_skip": 4, "max_frames": 108000}',
        )  # fmt: skip

    told = script.table([row("random", (25.0, 75.0, 200.0)), row("planner", (1000.0, 2000.0))]).splitlines()[-1]
    assert told == "| ALE/Qbert-v5 | 27,000 steps | 100.0 | 25 … 200 | 1500.0 | 1000 … 2000 | 3 and 2 |"
