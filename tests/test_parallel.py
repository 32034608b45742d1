"""Several processes as one: the same numbers up to rounding, one that writes, and no one left waiting for the dead."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_datasets import record_squares, tiny_fit
from together import CONFIG, ENSEMBLE

from dream_env.checkpoint import read_json, read_tensors
from dream_env.errors import ConfigError
from dream_env.fitting.fit import fit
from dream_env.fitting.parallel import Processes, joined
from dream_env.run_folder import read_metrics
from dream_env.spaces import ObservationConfig
from dream_env.stages import fit_stage
from dream_env.testing import tiny_demos, tiny_world_model
from dream_env.tiny import SIZE

HERE = Path(__file__).parent
CLOSE = {"rtol": 1e-4, "atol": 2e-6}
"""Sums in another order. Adam divides by the gradient's size, so that ten updates of 1e-3 make of it what a step here and
there makes of a rounding error; another batch or other noise would be off by 1e-3."""


def start(what, folder, count=2):
    """Processes as torchrun starts them, without torchrun."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    together = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, str(HERE / "together.py"), what, str(folder)],
            env={**os.environ, **together, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip


def end(processes):
    said = [process.communicate(timeout=120)[0] for process in processes]
    return [process.returncode for process in processes], said


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder of what two processes left; see ``together.everything``."""
    folder = tmp_path_factory.mktemp("together")
    codes, said = end(start("everything", folder))
    assert codes == [0, 9], said  # 9: as it was to die
    return folder


def alone(**options):
    train, held_out = tiny_demos(steps=30).split(1)
    world_model = tiny_world_model(**options)
    return world_model, list(fit(world_model, train, CONFIG, held_out=held_out))


@pytest.mark.parametrize("name", ["plain", "gaussian", "resumed", "recorded"])
def test_two_processes_equal_one_up_to_rounding(trained, name):
    world_model, rows = alone(**ENSEMBLE) if name == "gaussian" else alone()
    weights = read_tensors(trained / f"{name}-0.safetensors")
    for key, x in world_model.state_dict().items():
        torch.testing.assert_close(weights[key], x, **CLOSE)
    together = read_json(trained / f"{name}-0.json")
    assert [row["update"] for row in together] == [5, 10]
    for row, expected in zip(together, rows, strict=True):
        assert row == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["plain", "gaussian", "resumed", "recorded"])
def test_both_end_with_the_same_weights_and_rows(trained, name):
    first, second = (read_tensors(trained / f"{name}-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert read_json(trained / f"{name}-0.json") == read_json(trained / f"{name}-1.json")


def test_a_process_that_waits_in_vain_gives_up(tmp_path):
    codes, said = end(start("hang", tmp_path))
    assert codes == [0, 0], said


def test_torchrun_fits_a_world_model_as_one_process_does(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "cache"))
    record_squares()
    observation = replace(ObservationConfig.small(), size=SIZE)
    stage = tiny_fit("squares/right-v0", tmp_path / "one", precision="float32", observation=observation)
    fit_stage(stage, progress=False)
    sizes = stage.model.rssm
    options = {
        "out": tmp_path / "two", "held_out": 1, "precision": "float32", "observation.size": SIZE,
        "model.width": stage.model.width, "model.layers": stage.model.layers, "model.rssm.deter": sizes.deter,
        "model.rssm.groups": sizes.groups, "model.rssm.classes": sizes.classes, "model.rssm.hidden": sizes.hidden,
        **vars(stage.train),
    }  # fmt: skip
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "dream_env", "fit", "squares/right-v0", *flags]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    one, two = tmp_path / "one", tmp_path / "two"
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    assert read_json(two / "run.json") == read_json(one / "run.json")
    weights, expected = read_tensors(two / "weights.safetensors"), read_tensors(one / "weights.safetensors")
    for name, x in expected.items():
        torch.testing.assert_close(weights[name], x, **CLOSE)
    assert [row["update"] for row in read_metrics(two / "metrics.csv")] == [2, 4, 6]
    assert len(list((two / "tensorboard").iterdir())) == 1  # one process wrote


def test_one_process_joins_nobody(monkeypatch):
    with joined("cuda:3") as (processes, device):
        assert (processes, device) == (Processes(), "cuda:3")
    assert not torch.distributed.is_initialized()


def test_a_gpu_by_number_is_refused_where_each_process_needs_its_own(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ConfigError, match="cuda:1 is one GPU; of several processes each takes one of its own"),
        joined("cuda:1"),
    ):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ConfigError, match="2 processes or more on a machine with 1 GPUs"), joined("cuda"):
        pass


def test_shares_are_columns_and_together_the_whole():
    x = torch.arange(24.0).view(2, 6, 2)
    shares = [Processes(rank, 3).share(x) for rank in range(3)]
    assert all(share.shape == (2, 2, 2) and share.is_contiguous() for share in shares)
    assert torch.equal(torch.cat(shares, dim=1), x)
    assert Processes().share(x) is x
