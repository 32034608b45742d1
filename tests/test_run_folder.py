import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dream_env import run_folder
from dream_env.checkpoint import read_json, write_json
from dream_env.errors import CheckpointError
from dream_env.run_folder import MetricsLog, check_claim, claim, read_metrics

CONFIG = {"dataset": "a/b-v0", "train": {"updates": 6, "batch": 4}, "also": []}


def test_a_new_folder_is_made_and_says_whose_it_is(tmp_path):
    claim(tmp_path / "runs" / "wm", "fit", CONFIG)
    assert read_json(tmp_path / "runs" / "wm" / "run.json") == {"stage": "fit", **CONFIG}


def test_an_empty_folder_is_taken(tmp_path):
    claim(tmp_path, "fit", CONFIG)
    assert (tmp_path / "run.json").is_file()


def test_the_same_command_finds_its_folder_again(tmp_path):
    claim(tmp_path, "fit", CONFIG)
    (tmp_path / "metrics.csv").write_text("update\n1\n")
    claim(tmp_path, "fit", CONFIG)
    assert (tmp_path / "metrics.csv").is_file()


@pytest.mark.parametrize(
    ("stage", "config", "message"),
    [
        ("fit", {**CONFIG, "train": {"updates": 8, "batch": 4}}, "train.updates is 6 there and 8 here"),
        ("fit", {**CONFIG, "dataset": "c/d-v0"}, "dataset is 'a/b-v0' there and 'c/d-v0' here"),
        ("imitate", CONFIG, "stage is 'fit' there and 'imitate' here"),
        ("fit", {**CONFIG, "seed": 1}, "seed is None there and 1 here"),
        ("fit", {"dataset": 1, "train": {"updates": 1, "batch": 1}, "also": 1}, "; and 1 more"),
    ],
)
def test_another_command_is_refused_and_told_what_differs(tmp_path, stage, config, message):
    claim(tmp_path, "fit", CONFIG)
    with pytest.raises(CheckpointError, match="already holds another run") as error:
        claim(tmp_path, stage, config)
    assert message in str(error.value)
    assert "Choose another --out" in str(error.value)
    assert read_json(tmp_path / "run.json") == {"stage": "fit", **CONFIG}


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"is not empty and is no run of dream-env; choose another --out"):
        claim(tmp_path, "fit", CONFIG)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_option_that_an_earlier_version_did_not_have_counts_as_its_default(tmp_path):
    claim(tmp_path, "fit", CONFIG)
    now = {**CONFIG, "train": {**CONFIG["train"], "warm_up": 0.0}}
    with pytest.raises(CheckpointError, match=r"train\.warm_up is None there and 0\.0 here"):
        claim(tmp_path, "fit", now)
    claim(tmp_path, "fit", now, usual=now)
    with pytest.raises(CheckpointError, match=r"train\.warm_up is 0\.0 there and 0\.5 here"):
        claim(tmp_path, "fit", {**CONFIG, "train": {**CONFIG["train"], "warm_up": 0.5}}, usual=now)


def test_what_a_run_learns_from_may_not_change_under_its_name(tmp_path):
    claim(tmp_path / "new", "imitate", CONFIG, seen="abc")
    claim(tmp_path / "new", "imitate", CONFIG, seen="abc")
    with pytest.raises(CheckpointError, match="has changed since it was begun, under the same name"):
        claim(tmp_path / "new", "imitate", CONFIG, seen="def")
    claim(tmp_path / "old", "imitate", CONFIG)  # by a version that did not note it
    claim(tmp_path / "old", "imitate", CONFIG, seen="abc")  # notes it now
    with pytest.raises(CheckpointError, match="has changed since it was begun"):
        claim(tmp_path / "old", "imitate", CONFIG, seen="def")


def test_a_default_that_is_a_dictionary_says_nothing_of_one_that_was_given(tmp_path):
    given, usual = ({**CONFIG, "reward": {"weights": weights}} for weights in ({"y": 2.0}, {"x": 1.0}))
    claim(tmp_path, "imitate", given, usual=usual)
    claim(tmp_path, "imitate", given, usual=usual)


def test_a_finished_run_may_lie_where_nobody_may_write(tmp_path, monkeypatch):
    claim(tmp_path, "fit", CONFIG)
    (tmp_path / "meta.json").write_text("{}")
    monkeypatch.setattr("os.access", lambda *given: False)
    claim(tmp_path, "fit", CONFIG, seen="abc")


HOLDER = """
import sys
from pathlib import Path
from dream_env.run_folder import claim
claim(Path(sys.argv[1]), "fit", {"dataset": "a/b-v0"})
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_two_processes_do_not_work_in_one_folder(tmp_path):
    config = {"dataset": "a/b-v0"}
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match="another process is at work in"):
            claim(tmp_path, "fit", config)
        other.kill()
    claim(tmp_path, "fit", config)
    claim(tmp_path, "fit", config)  # and again in the same process
    (tmp_path / "run.json").unlink()
    claim(tmp_path, "fit", config)  # deleted and begun anew


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_of_two_that_begin_at_the_same_time_one_takes_the_folder(tmp_path, monkeypatch):
    together, one_by_one = threading.Barrier(2, timeout=0.5), threading.Lock()

    def late(path, data):  # when the other has found the folder free too, if it can
        with suppress(threading.BrokenBarrierError):
            together.wait()
        with one_by_one:
            write_json(path, data)

    monkeypatch.setattr(run_folder, "write_json", late)
    with ThreadPoolExecutor(2) as pool:
        claims = [pool.submit(claim, tmp_path / "wm", "fit", {**CONFIG, "seed": seed}) for seed in (0, 1)]
    (refused,) = [error for done in claims if (error := done.exception()) is not None]
    assert "already holds another run: seed is" in str(refused)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_where_the_system_has_no_locks_one_does_without(tmp_path, monkeypatch):
    def no_locks(*given):
        raise OSError("not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    claim(tmp_path, "fit", CONFIG)
    assert read_json(tmp_path / "run.json")["stage"] == "fit"


def test_a_folder_that_cannot_be_made_is_told_of_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file is no folder that you may write to; choose another --out"):
        check_claim(tmp_path / "file" / "wm", "fit", CONFIG)


def test_a_kill_in_the_first_moment_leaves_nothing_in_the_way(tmp_path):
    (tmp_path / ".run.json.tmp-4711").write_text('{"stage": "fi')
    claim(tmp_path, "fit", CONFIG)
    assert read_json(tmp_path / "run.json")["stage"] == "fit"


def test_metrics_are_read_as_they_were_written(tmp_path):
    rows = [{"update": 2.0, "loss": 0.125}, {"update": 4.0, "loss": 1234567.0}]
    with MetricsLog(tmp_path, "update") as log:
        for row in rows:
            log.add(row)
            assert read_metrics(tmp_path / "metrics.csv")[-1] == pytest.approx(row, rel=1e-5)  # whole after each row
    assert read_metrics(tmp_path / "metrics.csv")[0] == rows[0]


def test_a_column_may_come_late_and_stay_away(tmp_path):
    with MetricsLog(tmp_path, "update") as log:
        log.add({"update": 1.0, "loss": 3.0})
        log.add({"update": 2.0, "loss": 2.0, "open_loop": 0.5})
        log.add({"loss": 1.0, "update": 3.0})
    text = (tmp_path / "metrics.csv").read_text().splitlines()
    assert text == ["update,loss,open_loop", "1,3,", "2,2,0.5", "3,1,"]
    assert read_metrics(tmp_path / "metrics.csv")[2] == {"update": 3.0, "loss": 1.0}


def test_rows_that_a_resumed_run_makes_again_are_dropped(tmp_path):
    with MetricsLog(tmp_path, "update") as log:
        for update in (2, 4, 6):
            log.add({"update": float(update), "loss": 10.0 * update})
    with MetricsLog(tmp_path, "update", start=4) as log:
        log.add({"update": 6.0, "loss": 1.0})
    rows = [(row["update"], row["loss"]) for row in read_metrics(tmp_path / "metrics.csv")]
    assert rows == [(2, 20), (4, 40), (6, 1)]


def test_a_run_from_the_beginning_keeps_nothing_of_what_was_there(tmp_path):
    with MetricsLog(tmp_path, "update") as log:
        log.add({"update": 0.0})
        log.add({"update": 2.0})
    with MetricsLog(tmp_path, "update") as log:
        log.add({"update": 0.0})
        log.add({"update": 1.0})
    assert read_metrics(tmp_path / "metrics.csv") == [{"update": 0.0}, {"update": 1.0}]


def test_tensorboard_sees_the_same_numbers(tmp_path):
    with MetricsLog(tmp_path, "update") as log:
        log.add({"update": 2.0, "loss": 0.5})
        log.add({"update": 4.0, "loss": 0.25})
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(2, 0.5), (4, 0.25)]
    assert board.Tags()["scalars"] == ["loss"]


def test_a_large_count_is_written_whole(tmp_path):
    with MetricsLog(tmp_path, "steps") as log:
        log.add({"steps": 1_007_616.0, "loss": 1 / 3})
    (row,) = read_metrics(tmp_path / "metrics.csv")
    assert row["steps"] == 1_007_616
    with MetricsLog(tmp_path, "steps", start=1_007_616) as log:
        assert len(log.rows) == 1, "a run that goes on from there keeps it"
