"""A device that is not there is said before anything is done; half precision is for processors made for it."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from agents import linear_agent, pong_model, short_pong
from small_datasets import record_squares, tiny_fit

from dream_env.agent import load_agent
from dream_env.checkpoint import load
from dream_env.device import check_device, fast_precision
from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError
from dream_env.online_stage import online_stage
from dream_env.playing.games import RandomActor, device_of, evaluate
from dream_env.playing.real_episodes import RealEpisodes
from dream_env.run import RunConfig, run
from dream_env.stages import ImitateStage, fit_stage, imitate_stage
from dream_env.testing import tiny_world_model

NO_GPU = r"device 'cuda': this PyTorch \(.*\) sees no GPU; take cpu"


@pytest.fixture
def no_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "mps", "cuda-1"])
def test_a_device_that_nothing_here_computes_on(name):
    with pytest.raises(
        ConfigError, match=rf"device '{name}': nothing here computes on that; take cpu, or with a GPU cuda"
    ):
        check_device(name)


def test_a_gpu_of_a_number_too_high(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for there in ("cuda", "cuda:0", "cuda:1", torch.device("cuda", 1), "cpu"):
        check_device(there)
    with pytest.raises(ConfigError, match=r"device 'cuda:2': there are 2 GPUs; take cuda:0 … cuda:1"):
        check_device("cuda:2")


@pytest.mark.parametrize("precision", [None, "float32"])
def test_fit_says_it_before_it_converts_and_claims(no_gpu, tmp_path, precision):
    with pytest.raises(ConfigError, match=NO_GPU):
        fit_stage(tiny_fit(record_squares(), tmp_path / "wm", device="cuda", precision=precision), progress=False)
    assert not (tmp_path / "wm").exists()
    assert not (tmp_path / "cache").exists()


def test_run_says_it_before_it_records(no_gpu, tmp_path):
    with pytest.raises(ConfigError, match=NO_GPU):
        run(RunConfig("pong", tmp_path / "run", device="cuda"), progress=False)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "minari").exists()


def test_whatever_opens_a_world_model_says_it(no_gpu):
    with pytest.raises(ConfigError, match=NO_GPU):
        load("shipped:pong", "cuda")
    with pytest.raises(ConfigError, match=NO_GPU):
        load_agent("nowhere", wm=tiny_world_model(), device="cuda")
    with pytest.raises(ConfigError, match=NO_GPU):
        DreamEnv(2, wm=tiny_world_model(), device="cuda")
    with pytest.raises(ConfigError, match=NO_GPU):
        DreamEnv(2, wm="shipped:pong", device="cuda")


@pytest.mark.parametrize("online_steps", [0, 100])
def test_imitate_says_it_and_leaves_no_folder_behind(no_gpu, tmp_path, online_steps):
    stage = ImitateStage(Path("shipped:pong"), tmp_path / "run", device="cuda", online_steps=online_steps)
    run_stage = online_stage if online_steps else imitate_stage
    with pytest.raises(ConfigError, match=NO_GPU):
        run_stage(stage, learner="cmil" if online_steps else "ditto", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "float32"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_half_precision_is_for_gpus_that_have_units_for_it(monkeypatch, capability, precision):
    # A T4 (7.5) says yes when PyTorch asks whether it supports bfloat16: it emulates.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    assert fast_precision("cuda:1") == precision
    assert asked == ["cuda:1"]


@pytest.mark.parametrize("has_units", [True, False])
def test_half_precision_is_for_processors_that_have_units_for_it(monkeypatch, has_units):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_units)
    assert fast_precision("cpu") == ("bfloat16" if has_units else "float32")


# -------------------------------------------------------------------------------------------------- random numbers

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for room in ("dream_env", "plugins", "examples") for path in (ROOT / room).rglob("*.py"))


def test_no_random_state_is_put_aside_on_every_gpu_there_is():
    # Without devices fork_rng begins to use all of them, and warns where there are several.
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("fork_rng"):
                assert node.args or any(given.arg == "devices" for given in node.keywords), f"{path}:{node.lineno}"


def test_playing_on_the_cpu_touches_no_gpu(monkeypatch):
    agent = linear_agent(pong_model())

    def touched(*given):
        raise AssertionError("a GPU was touched")

    for name in ("device_count", "get_rng_state", "set_rng_state", "manual_seed_all", "manual_seed"):
        monkeypatch.setattr(torch.cuda, name, touched)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)  # nor is any in use
    for actor in (agent, RandomActor(short_pong().action_space)):
        assert len(evaluate(actor, short_pong, 1)) == 1
        with RealEpisodes(short_pong) as real:
            assert len(real.play(actor, [0])) == 1
    tiny_world_model()


def test_an_actors_device_is_what_it_says():
    class Said:
        def __init__(self, device):
            self.device = device

        def predict(self, observation, state=None, episode_start=None, deterministic=False):
            return np.zeros(len(observation), dtype=np.int64), None

    assert device_of(Said("cuda:1")) == torch.device("cuda", 1)
    assert device_of(Said(torch.device("cpu"))) == torch.device("cpu")
    assert device_of(linear_agent(pong_model())) == torch.device("cpu")


@pytest.mark.parametrize("used", [True, False])
def test_who_does_not_say_where_it_samples_may_do_so_on_a_gpu_that_is_in_use(monkeypatch, used):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    assert device_of(RandomActor(short_pong().action_space)).type == ("cuda" if used else "cpu")
