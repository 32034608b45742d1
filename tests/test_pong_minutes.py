"""What ``examples/pong_minutes.py`` runs, and what it makes of that; the trainings themselves are tested by themselves."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from dream_env.playing.game_log import GameLog
from dream_env.playing.games import EpisodeResult

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("pong_minutes")


def point(script, **changes):
    usual = script.Point("plain", 1200, "bfloat16", 0, 0, 2.0, 2.5, 0.3, 0.35, 0.36, 0.45, 6, 15.5, "abc")
    return replace(usual, **changes)


def test_rows_come_back_as_they_were_written(script, tmp_path):
    points = [
        point(script),
        point(script, steps=261_120, return_mean=-3.5),
        point(script, steps=None, return_mean=None),
    ]
    script.append(tmp_path / "rows.csv", points[:1])
    script.append(tmp_path / "rows.csv", points[1:])
    script.append(tmp_path / "rows.csv", points[1:2])  # again, after a kill
    assert script.read(tmp_path / "rows.csv") == points


def test_a_line_is_of_all_seeds_and_names_the_worst(script, tmp_path):
    points = [point(script), point(script, seed=1, return_mean=-4.5, minutes=3.5), point(script, precision="float32")]
    lines = script.table(points).splitlines()[2:]
    assert lines[0] == "| plain | bfloat16 | 1,200 | 0 | 2 | 2.0 | 3.0 | 35% | 36% | 45% | 5.5 | −4.5 |"
    assert len(lines) == 2
    assert script.draw(points, tmp_path / "figure.png").stat().st_size > 10_000


def test_a_cell_is_fitted_imitated_and_played_once(script, tmp_path, monkeypatch):
    ran = []

    def run(words):
        ran.append(words)
        folder = Path(words[words.index("--out") + 1]) if "--out" in words else Path(words[1])
        folder.mkdir(parents=True, exist_ok=True)
        if words[0] == "fit":
            (folder / "meta.json").write_text(json.dumps({"minutes": 2.0, "commit": "abc"}))
            head = "update,unexplained_moving/image,open_loop_1/image,open_loop_5/image,open_loop_15/image"
            (folder / "metrics.csv").write_text(f"{head}\n700,0.3,0.35,0.36,0.45\n")
        elif words[0] == "imitate":
            (folder / "metrics.csv").write_text("steps,minutes\n0,0.5\n250000,1.5\n")
        else:
            log = GameLog(folder / "episodes.csv")
            for steps, seed, returned in ((0, 1, 15.0), (0, 2, 16.0), (250_000, 1, 18.0)):
                log.add("on the way", steps, False, EpisodeResult(seed, returned, 5))

    monkeypatch.setattr(script, "run", run)
    monkeypatch.setattr(script, "collect", lambda config: None)
    config = script.Minutes(updates=(700,), seeds=(4,), out=tmp_path / "runs", results=tmp_path / "rows.csv")
    script.main(config)
    script.main(config)
    assert [words[0] for words in ran] == ["fit", "imitate", "evaluate"]  # the second time nothing
    assert ran[0][ran[0].index("--updates") + 1] == "700"
    assert "20000" in ran[2]  # not the seeds that run evaluates on
    found = script.read(tmp_path / "rows.csv")
    assert [(p.steps, p.minutes, p.episodes, p.return_mean) for p in found] == [
        (0, 2.5, 2, 15.5),
        (250_000, 3.5, 1, 18.0),
    ]
    assert found[0].open_loop_15 == 0.45
