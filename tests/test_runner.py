"""What the grids share: jobs side by side here or on Ray, failures told at the end, and how a finished cell was done."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import cloudpickle
import pytest

from dream_env.errors import ConfigError

FILE = Path(__file__).resolve().parent.parent / "examples" / "runner.py"


@pytest.fixture
def runner(monkeypatch):
    spec = importlib.util.spec_from_file_location("runner", FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "runner", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def ray(monkeypatch):
    """Stands for Ray: jobs run where they are started, as what is left of them on the way to another machine; what they were
    given is noted."""
    stub = types.ModuleType("ray")
    stub.started, stub.given = [], []

    def remote(**resources):
        def of(job):
            def start():
                stub.given.append(resources)
                return cloudpickle.loads(cloudpickle.dumps(job))

            return types.SimpleNamespace(remote=start)

        return of

    stub.remote, stub.get = remote, lambda job: job()
    stub.is_initialized, stub.init = lambda: bool(stub.started), lambda **options: stub.started.append(options)
    monkeypatch.setitem(sys.modules, "ray", stub)
    return stub


def fails():
    raise RuntimeError("the third cell fell over")


@pytest.mark.parametrize("engine", ["processes", "ray"])
def test_a_job_that_fails_is_told_of_at_the_end_and_stops_none(runner, ray, tmp_path, engine):
    jobs = [lambda i=i: (tmp_path / str(i)).touch() for i in range(4)]  # as cells do, they leave files
    jobs[2] = fails
    with pytest.raises(
        SystemExit, match=r"1 of 4 runs failed; the same command tries them again:\nthe third cell fell over"
    ):
        runner.spread(jobs, workers=2, engine=engine)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "3"]


def test_what_is_asked_for_wrongly_is_not_promised_to_come_right(runner):
    def refused():
        raise ConfigError("finished, but with other flags")

    with pytest.raises(SystemExit, match=r"1 of 1 runs failed:\nfinished, but with other flags"):
        runner.spread([refused], workers=1)


@pytest.fixture
def ctrl_c():
    """Python's own answer to it: a process that a shell started in the background has been told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="has no signals to threads")
def test_ctrl_c_begins_none_of_the_jobs_that_wait(runner, ctrl_c):
    begun = []

    def job():
        begun.append(1)
        time.sleep(0.2)  # until all of them wait
        if len(begun) == 1:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.2)  # runs on, as a command does while it stops

    with pytest.raises(KeyboardInterrupt):
        runner.spread([job] * 4, workers=1)
    assert begun == [1]


@pytest.mark.parametrize(("device", "gpus"), [("cpu", 0), ("cuda", 1)])
def test_a_cell_on_the_cluster_asks_for_what_it_needs_and_knows_where_data_lie(runner, ray, monkeypatch, device, gpus):
    monkeypatch.setenv("MINARI_DATASETS_PATH", "/disk/minari")
    monkeypatch.delenv("DREAM_ENV_CACHE", raising=False)
    runner.spread([lambda: None] * 2, workers=1, engine="ray", device=device)
    assert ray.given == [{"num_cpus": 1, "num_gpus": gpus}] * 2
    assert ray.started == [{"runtime_env": {"env_vars": {"MINARI_DATASETS_PATH": "/disk/minari"}}}]


ON_RAY = """
import os, sys, pathlib
sys.path.insert(0, sys.argv[1])
import runner
from dream_env.errors import ConfigError
folder = pathlib.Path(sys.argv[2])
def leave(i):
    if i == 2:
        raise ConfigError("finished, but with other flags")
    (folder / str(i)).write_text(f"{os.environ['MINARI_DATASETS_PATH']} {os.getpid() != here}")
here = os.getpid()
runner.spread([lambda i=i: leave(i) for i in range(4)], workers=1, engine="ray")
"""


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray (pip install ray)")
def test_jobs_run_on_ray_itself_in_processes_of_their_own(tmp_path):
    environment = {
        **os.environ,
        "MINARI_DATASETS_PATH": "/disk/minari",
        "RAY_ADDRESS": "local",
        "PYTHONPATH": str(FILE.parent),
    }
    command = [sys.executable, "-c", ON_RAY, str(FILE.parent), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert "1 of 4 runs failed:" in done.stderr, done.stderr
    assert "finished, but with other flags" in done.stderr
    assert "tries them again" not in done.stderr
    left = {path.name: path.read_text().split() for path in tmp_path.iterdir()}
    assert sorted(left) == ["0", "1", "3"]
    assert set(map(tuple, left.values())) == {("/disk/minari", "True")}


def test_without_ray_it_is_said_what_to_install(runner, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not there
    with pytest.raises(ConfigError, match="--engine ray needs Ray: pip install ray"):
        runner.spread([fails], workers=1, engine="ray")


def test_a_command_that_fails_says_what_it_said(runner, monkeypatch, capsys):
    answer = subprocess.CompletedProcess([], 2, "", "dream-env: no such dataset")
    monkeypatch.setattr(runner.subprocess, "run", lambda *words, **options: answer)
    with pytest.raises(RuntimeError, match=r"dream-env fit ended with 2:\ndream-env: no such dataset"):
        runner.run(["fit", "d/d-v0"])
    begun, ended = capsys.readouterr().out.splitlines()
    assert begun.split() == ["begun", "dream-env", "fit", "d/d-v0"]
    assert ended.split()[0] == "FAILED"


def test_a_finished_cell_knows_with_which_flags(runner, tmp_path):
    commands = [["imitate", "wm", "--device", "cpu", "--steps", "10"], ["evaluate", "run", "--device", "cpu"]]
    assert not runner.finished(tmp_path, commands)
    runner.note_finished(tmp_path, commands)
    assert (tmp_path / "done").read_text() == "imitate wm --steps 10\nevaluate run"
    elsewhere = [[word.replace("cpu", "cuda:1") for word in words] for words in commands]
    assert runner.finished(tmp_path, elsewhere)
    longer = [[*commands[0][:-1], "20"], commands[1]]
    with pytest.raises(ConfigError, match=r"is finished, but with other flags:\n.*--steps 10(.|\n)*--steps 20"):
        runner.finished(tmp_path, longer)
    (tmp_path / "done").write_text("")  # as it was once left
    assert runner.finished(tmp_path, longer)


def test_what_is_wrong_with_a_script_s_options_is_told_without_a_traceback(tmp_path):
    words = [
        sys.executable,
        str(FILE.with_name("ditto_paper.py")),
        "--methods",
        "dito",
        "--out",
        str(tmp_path / "runs"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("ConfigError: there is no method 'dito'. Did you mean \"ditto\"?")
    assert not (tmp_path / "runs").exists()
