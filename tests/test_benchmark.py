"""The benchmarks run, count and compare as they say; what they measure is nobody's promise."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

FOLDER = Path(__file__).resolve().parent.parent / "examples" / "benchmark"


@pytest.fixture(autouse=True)
def _importable(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    for name in ("MINARI_DATASETS_PATH", "DREAM_ENV_CACHE"):  # the scripts set them; afterwards they are what they were
        monkeypatch.setenv(name, str(tmp_path))


def module(name):
    return importlib.import_module(name)


# ------------------------------------------------------------------------------------------------------------ counting


def test_flop_are_those_of_the_products():
    count = module("contestant").count_flop
    layer, x = nn.Linear(3, 5), torch.rand(7, 3)
    forward = 2 * 7 * 3 * 5  # a multiplication and an addition for each weight and row
    with torch.no_grad():
        assert count(lambda: layer(x)) == forward
    assert count(lambda: layer(x).sum().backward()) == 2 * forward  # and the weights' gradient; x needs none
    conv = nn.Conv2d(2, 4, kernel_size=3)
    assert count(lambda: conv(torch.rand(1, 2, 6, 6))) == 2 * 9 * 2 * 4 * 4 * 4


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="a torch without oneDNN's linear layer")
def test_so_are_those_of_onednn():
    x, weight = torch.rand(7, 3), torch.rand(5, 3)
    count = module("contestant").count_flop
    assert count(lambda: torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")) == 2 * 7 * 3 * 5


def test_the_limits_do_the_flop_they_say():
    limits, count = module("machine_limits"), module("contestant").count_flop
    for limit in (limits.gemm, limits.conv):
        system = limit(device="cpu", precision="float32", quick=True)
        assert count(system.step) == system.units * 1e6


def test_parts_are_timed_apart():
    contestant = module("contestant")
    parts = {}

    def step():
        with contestant.part(parts, "half"):
            sum(range(20_000))
        sum(range(20_000))

    asked = object.__new__(contestant.Contestant)
    asked.cuda, asked.system = False, contestant.System(step, 1.0, parts)
    step()  # before: not to be counted again
    taken = asked.run(50)
    assert set(taken) == {"", "half"}
    assert 0 < taken["half"][1] < taken[""][1]


# ----------------------------------------------------------------------------------------------------------- comparing


def result(system, cpu, *, yardstick=False, precision="float32", units=10.0, part=None):
    """A system that took ``cpu`` seconds a step in each round, and twice that by the wall."""
    contest = module("contest")
    rounds = [{"": [s, 2 * s]} | ({} if part is None else {"part": [s * part, s * part]}) for s in cpu]
    facts = {"units": units, "mflop_per_unit": 3.0, "peak_rss_mib": 100.0}
    return contest.Result(contest.Entry(system, "nobody:nothing", {}, precision, yardstick), facts, rounds)


def test_the_ratio_is_to_the_best_of_the_same_round():
    ratio = module("contest").ratio_to_best
    # By round: 10 by 5, 10 by 4, 12 by 2; the median of 2, 2.5 and 6. A ratio of medians would be 10 / 3.
    assert ratio([10.0, 10.0, 12.0], [[5.0, 4.0, 1.0], [3.0, 2.0, 2.0]]) == 2.5
    assert ratio([1.0], []) is None


def test_rows_hold_medians_ratios_and_fractions_of_the_limits_of_their_precision():
    systems = [
        result("mine", [1.0, 2.0, 4.0]),  # 10, 5 and 2.5 units a CPU second
        result("half", [1.0, 1.0, 1.0], precision="bfloat16"),
        result("peer", [2.0, 2.0, 2.0], yardstick=True),  # 5
        result("slower peer", [5.0, 5.0, 5.0], yardstick=True),
    ]
    limit = {("gemm", "float32"): 60.0, ("conv", "float32"): 30.0, ("gemm", "bfloat16"): 300.0}
    mine, half, peer, slower = module("contest").compared(systems, limit)
    assert (mine.units_per_cpu_second, mine.units_per_wall_second) == (5.0, 2.5)
    assert (mine.fraction_of_gemm, mine.fraction_of_conv) == (5 * 3 / 60, 5 * 3 / 30)
    assert (half.fraction_of_gemm, half.fraction_of_conv) == (10 * 3 / 300, None)
    assert [row.ratio_to_best_peer for row in (mine, half, peer, slower)] == [1.0, 2.0, 1.0, 0.4]
    assert mine.peak_rss_mib == 100.0


def test_on_a_gpu_the_wall_counts():
    (row,) = module("contest").compared([result("mine", [1.0])], {("gemm", "float32"): 60.0}, cuda=True)
    assert (row.units_per_cpu_second, row.units_per_wall_second, row.fraction_of_gemm) == (None, 5.0, 0.25)


def test_parts_have_rows_of_their_own():
    systems = [result("mine", [1.0], part=0.5), result("peer", [1.0], part=0.25, yardstick=True)]
    *_, mine, peer = module("contest").compared(systems, {})
    assert (mine.system, mine.units_per_cpu_second, mine.ratio_to_best_peer) == ("mine: part", 20.0, 0.5)
    assert (peer.ratio_to_best_peer, peer.peak_rss_mib) == (1.0, None)


def test_each_has_a_process_of_its_own_and_a_missing_peer_is_left_out(capfd):
    contest = module("contest")
    entries = [
        contest.Entry("gemm", "machine_limits:gemm"),
        contest.Entry("peer", "no_such_library:step", install='"no-such==1.*"'),
    ]
    (row,) = contest.contest("loop", "size", entries, contest.Settings(rounds=2, seconds=0.0), limits=False)
    assert (row.loop, row.size, row.system, row.mflop_per_unit) == ("loop", "size", "gemm", pytest.approx(1.0))
    assert row.units_per_cpu_second > 0
    assert row.peak_rss_mib > 30
    assert 'pip install "no-such==1.*"' in capfd.readouterr().out
    with pytest.raises(RuntimeError, match="mine cannot start: ModuleNotFoundError"):
        contest.contest(
            "", "", [contest.Entry("mine", "no_such_library:step")], contest.Settings(quick=True), limits=False
        )


# ---------------------------------------------------------------------------------------------------- rows and tables


def test_rows_come_back_from_the_file(tmp_path):
    rows = module("speed_rows")
    path = tmp_path / "deep" / "speed.csv"
    first = rows.SpeedRow(
        "loop", "S, 2 dreams", "float32", "who", 12345.0, 0.5, 1.25, ratio_to_best_peer=2.5, commit="a"
    )
    empty = rows.SpeedRow("loop", "P", "bfloat16", "who", machine="GPU", threads=2, commit="a")
    again = rows.SpeedRow("loop", "S, 2 dreams", "float32", "who", 1.0, commit="b")
    rows.append([first, empty], path)
    assert rows.read(path) == [first, empty]
    rows.append([again], path)
    assert rows.read(path) == [again, empty]  # the last of a measurement that was repeated
    path.write_text("loop,size\na,b\n")
    with pytest.raises(ValueError, match="other columns"):
        rows.append([first], path)


def test_goals_say_what_was_reached_and_what_was_not_measured():
    row, tables = module("speed_rows").SpeedRow, module("speed_tables")
    rows = [
        row(tables._STEP, "S, 16 × 32, elu", "float32", "dream-env", 1.0, 1.0, 60.0, ratio_to_best_peer=1.5),
        row(tables._STEP, "S, 16 × 32, elu", "bfloat16", "dream-env", 2.0, 2.0, ratio_to_best_peer=2.75),
        row(tables._STEP, "S, 16 × 32, elu", "float32", "TorchRL", 9.0, 9.0, ratio_to_best_peer=9.0),
        row(tables._STEP, "P, 50 × 10, elu", "bfloat16", "dream-env", None, 123456.0, peak_gpu_mib=1.0, machine="H200"),
    ]
    text = tables.goals(rows) + "\n" + tables.loops(rows)
    reached = [line.split(" | ")[2].rstrip(" |") for line in text.splitlines()[2:13]]
    missing = "not measured"
    assert reached == ["2.75", "1.50", *[missing] * 7, "123,456", missing]
    (own,) = [line for line in text.splitlines() if line.startswith("| S, 16 × 32, elu | dream-env | float32 |")]
    assert "| 60.0 |" in own  # millions of operations a frame
    assert text.count("**World-model step (frames)**") == 2  # one machine each


# ------------------------------------------------------------------------------------------------------------- scripts


@pytest.mark.parametrize(
    ("script", "systems"),
    [
        ("machine_limits", 4),
        ("world_model_step", 4),
        ("dream_step", 6),
        ("learn_in_dream", 36),
        ("data", 6),
        ("memory", 4),
    ],
)
def test_every_script_runs(script, systems, tmp_path, monkeypatch, capsys):
    out = tmp_path / "speed.csv"
    monkeypatch.setattr(sys, "argv", [script, "--quick", "--no-peers", "--out", str(out)])
    module(script).main()
    rows = module("speed_rows").read(out)
    assert len(rows) == systems
    assert all(row.units_per_wall_second > 0 for row in rows if "anonymous" not in row.system)
    assert all(row.peak_rss_mib > 0 for row in rows if ": " not in row.system)
    assert script in module("all").SCRIPTS
    assert rows[0].system.split(",")[0] in capsys.readouterr().out
