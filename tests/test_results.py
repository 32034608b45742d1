import csv
from multiprocessing import get_context
from pathlib import Path

import pytest

from dream_env.errors import CheckpointError, ConfigError
from dream_env.measuring import results
from dream_env.measuring.results import COLUMNS, Row
from dream_env.measuring.tables import results_table, rich_table

ISSUE_COLUMNS = (
    "experiment environment dataset method learner n_expert preset seed steps updates latent_distance action_agreement episodes "
    "return_mean return_iqm normalized protocol wall_minutes commit"
)


def row(**changes) -> Row:
    values = {
        "experiment": "pong", "environment": "ALE/Pong-v5", "dataset": "dream/pong/scripted-v0", "method": "ditto",
        "learner": "ppo", "warm_start": "bc", "n_expert": 18, "preset": "small", "seed": 1, "deterministic": True,
        "episodes": 3, "eval_seed": 10000, "return_mean": 19.0, "return_iqm": 19.5, "return_low": 18.0,
        "return_high": 21.0, "normalized": 1.05, "wall_minutes": 42.5, "returns": (17.0, 19.0, 21.0),
        "protocol": '{"frame_skip": 4, "sticky": 0.0}', "command": "dream-env evaluate runs/pong/ditto",
        "commit": "abc+",
    }  # fmt: skip
    return Row(**{**values, **changes})


def append_in_a_process(path: str, seed: int) -> None:
    for i in range(10):
        results.append(Path(path), [row(seed=100 * seed + i)])


def test_promised_columns_are_there():
    assert set(ISSUE_COLUMNS.split()) <= set(COLUMNS)


def test_rows_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "deep" / "pong.csv"
    rows = [row(), row(method="random", learner="", deterministic=False, returns=(-21.0, -20.5, -20.0))]
    results.append(path, rows[:1])
    results.append(path, rows[1:])
    assert results.read(path) == rows


def test_row_that_is_there_already_is_not_added_again(tmp_path):
    results.append(tmp_path / "pong.csv", [row()])
    results.append(tmp_path / "pong.csv", [row(), row(seed=2)])
    assert [r.seed for r in results.read(tmp_path / "pong.csv")] == [1, 2]


def test_rows_of_several_processes_are_all_kept(tmp_path):
    path = tmp_path / "pong.csv"
    processes = [get_context("spawn").Process(target=append_in_a_process, args=(str(path), i)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert sorted(r.seed for r in results.read(path)) == sorted(100 * i + j for i in range(2) for j in range(10))
    assert [p.name for p in tmp_path.iterdir()] == ["pong.csv"]


def test_columns_of_others_stay(tmp_path):
    path = tmp_path / "pong.csv"
    results.write(path, [row()])
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*lines[0], "note"])
        writer.writeheader()
        writer.writerow({**lines[0], "note": "kept"})
    results.append(path, [row(seed=9)])
    assert "kept" in path.read_text()
    assert len(results.read(path)) == 2


def test_file_without_a_needed_column_is_named(tmp_path):
    (tmp_path / "speed.csv").write_text("loop,size\nfit,small\n")
    with pytest.raises(ConfigError, match=r"speed.csv, line 2 has no 'experiment'"):
        results.read(tmp_path / "speed.csv")


def test_cell_that_is_no_number_is_named(tmp_path):
    path = tmp_path / "pong.csv"
    results.write(path, [row()])
    path.write_text(path.read_text().replace("42.5", "soon"))
    with pytest.raises(ConfigError, match=r"line 2: 'wall_minutes' is 'soon', which is no float"):
        results.read(path)


def test_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "pong.csv"
    results.write(path, [row()])
    before = path.read_text()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*intact"):
        results.append(path, [row(seed=2)])
    assert path.read_text() == before


def test_success_and_tasks_come_back_and_are_empty_where_unknown(tmp_path):
    path = tmp_path / "door.csv"
    rows = [row(success=0.95, tasks=3.5), row(seed=2)]
    results.append(path, rows)
    assert results.read(path) == rows
    assert "None" not in path.read_text()


def test_rows_of_earlier_versions_are_read_and_keep_company_with_new_ones(tmp_path):
    path = tmp_path / "pong.csv"
    results.write(path, [row()])
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    old = [name for name in COLUMNS if name not in ("success", "tasks")]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, old, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)
    results.append(path, [row(), row(seed=9, success=1.0)])
    assert [(r.seed, r.success) for r in results.read(path)] == [(1, None), (9, 1.0)]


def test_a_row_without_what_training_noted_is_the_same_row(tmp_path):
    path = tmp_path / "pong.csv"
    results.append(path, [row()])
    noted = {"steps": 1_000_064, "updates": 130, "latent_distance": 0.1875, "action_agreement": 0.5}
    results.append(path, [row(**noted), row(seed=2, **noted)])
    assert results.read(path) == [row(), row(seed=2, **noted)]


def test_tables_have_a_column_for_success_only_where_something_is_known(tmp_path):
    results.write(tmp_path / "pong.csv", [row()])
    assert "success" not in results_table([tmp_path / "pong.csv"])
    door = [row(success=0.5, seed=1), row(success=1.0, seed=2, returns=(1.0, 2.0, 3.0)), row(method="random")]
    results.write(tmp_path / "door.csv", door)
    table = results_table([tmp_path / "door.csv"]).splitlines()
    assert "| normalized | success | minutes |" in table[0]
    assert table[-1].endswith("| 1.05 | 0.75 | 42 |")
    assert "tasks" not in table[0]
    assert [column.header for column in rich_table(door).columns][-1] == "success"
