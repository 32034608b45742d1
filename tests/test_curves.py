"""Curves of many runs in one file: what is taken from an agent's folder, and several writers at a time."""

from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import pytest

from dream_env.checkpoint import write_json
from dream_env.errors import ConfigError
from dream_env.measuring import curves
from dream_env.measuring.curves import Point
from dream_env.playing.game_log import GameLog
from dream_env.playing.games import EpisodeResult

POINT = Point(
    dataset="dream/pong/a-v0", game="pong", method="a", n_expert=15, seed=1, steps=1_007_616, episodes=4,
    return_mean=-20.25, latent_distance=0.123456, action_agreement=0.5, minutes=2.5, commit="abc+",
)  # fmt: skip


def append_in_a_process(path: str, seed: int) -> None:
    for steps in range(10):
        curves.append(Path(path), [replace(POINT, seed=seed, steps=steps)])


def test_points_come_back_as_they_were_written_and_a_second_one_replaces_the_first(tmp_path):
    path = curves.beside(tmp_path / "deep" / "pong.csv")
    assert path.name == "pong_curves.csv"
    nothing = replace(POINT, steps=2, latent_distance=None, action_agreement=None, minutes=None, commit="")
    curves.append(path, [POINT])
    curves.append(path, [nothing])
    assert curves.read(path) == [POINT, nothing]
    again = replace(POINT, return_mean=3.0, commit="def")
    curves.append(path, [again])
    assert curves.read(path) == [again, nothing]


def test_another_protocol_is_another_point_and_takes_the_place_of_one_that_told_none(tmp_path):
    path = tmp_path / "curves.csv"
    here, there = replace(POINT, protocol="ALE/Pong-v5 1"), replace(POINT, protocol="ALE/Pong-v5 2")
    curves.append(path, [POINT, replace(POINT, seed=2)])
    curves.append(path, [here])
    curves.append(path, [there])
    assert curves.read(path) == [replace(POINT, seed=2), here, there]


def test_points_of_several_processes_are_all_kept(tmp_path):
    path = tmp_path / "curves.csv"
    processes = [get_context("spawn").Process(target=append_in_a_process, args=(str(path), seed)) for seed in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted((p.seed, p.steps) for p in curves.read(path)) == [(s, n) for s in range(2) for n in range(10)]
    assert [p.name for p in tmp_path.iterdir()] == ["curves.csv"]


def test_an_agent_s_policies_are_those_that_played_with_the_metrics_of_their_time(tmp_path):
    (tmp_path / "metrics.csv").write_text(
        "steps,dream_reward,latent_distance,action_agreement,minutes,updates\n"
        "0,,0.4,0.25,0,\n50,0.7,,,1,5\n100,0.8,0.2,0.5,2,10\n"
    )
    write_json(tmp_path / "meta.json", {"commit": "abc"})
    log = GameLog(tmp_path / "episodes.csv")
    for steps, returns in ((100, (3.0, 4.0)), (0, (1.0,))):
        for seed, value in enumerate(returns):
            log.add(f"after {steps} steps", steps, False, EpisodeResult(seed, value, 10))
    log.add("agent", -1, False, EpisodeResult(0, 99.0, 10))
    first, last = curves.of_agent(tmp_path, dataset="d/e-v0", game="pong", method="a", n_expert=4, seed=7)
    assert (first.steps, first.return_mean, first.episodes, first.latent_distance) == (0, 1.0, 1, 0.4)
    assert (last.steps, last.return_mean, last.episodes, last.action_agreement) == (100, 3.5, 2, 0.5)
    assert (first.updates, last.updates) == (None, 10)  # metrics of before do not count them
    assert (last.minutes, last.commit, last.n_expert, last.seed) == (2.0, "abc", 4, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [("steps,return_mean\n1,2\n", r"line 2 is none of a policy.*missing"), ("", "")],
    ids=["columns", "empty"],
)
def test_a_file_of_something_else_is_refused(tmp_path, text, message):
    path = tmp_path / "other_curves.csv"
    path.write_text(text)
    if message:
        with pytest.raises(ConfigError, match=message):
            curves.read(path)
    else:
        assert curves.read(path) == []


def test_a_cell_that_is_no_number_is_named(tmp_path):
    path = tmp_path / "curves.csv"
    curves.append(path, [POINT])
    path.write_text(path.read_text().replace("-20.25", "good"))
    with pytest.raises(ConfigError, match=r"line 2 .* 'good'"):
        curves.read(path)


def test_the_committed_curves_are_such_a_file():
    path = Path(__file__).resolve().parent.parent / "examples" / "results" / "ditto_curves.csv"
    assert len(curves.read(path)) >= 60
