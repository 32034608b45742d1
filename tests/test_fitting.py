import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from small_datasets import record_squares, tiny_fit

from dream_env.checkpoint import Store, load, read_json
from dream_env.errors import ConfigError, DatasetError, TrainingError
from dream_env.fitting.fit import FitConfig, _set_learning_rate, fit
from dream_env.stages import fit_stage
from dream_env.testing import tiny_demos, tiny_world_model

TINY = FitConfig(updates=12, batch=4, length=6, log_every=4, test_every=6, warmup=2)


class EverySoOften(Store):
    """A store that is always due."""

    def due(self) -> bool:
        return True


def weights(world_model):
    return {name: tensor.clone() for name, tensor in world_model.state_dict().items()}


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_fit_yields_the_metrics_it_promises():
    rows = list(fit(tiny_world_model(), tiny_demos(), replace(TINY, test_every=4), held_out=None))
    assert [row["update"] for row in rows] == [4, 8, 12]
    promised = {
        "loss", "kl", "kl_prior", "kl_posterior", "prior_entropy", "unexplained/image", "unexplained_moving/image",
        "gradient_norm", "learning_rate",
    }  # fmt: skip
    assert promised <= rows[-1].keys()


def test_the_open_loop_error_is_measured_on_held_out_episodes():
    train, held_out = tiny_demos(steps=40).split(1)
    rows = list(fit(tiny_world_model(), train, replace(TINY, test_every=12), held_out=held_out))
    assert {f"open_loop_{h}/image" for h in (1, 5, 15)} <= rows[-1].keys()
    assert "open_loop_1/image" not in rows[0]


def test_a_small_world_model_learns_where_the_square_goes():
    world_model = tiny_world_model()
    train, held_out = tiny_demos(episodes=12, steps=60).split(2)
    config = FitConfig(updates=600, batch=32, length=8, learning_rate=1e-2, log_every=100, test_every=600)
    rows = list(fit(world_model, train, config, held_out=held_out))
    # On moving pixels; 1 is what drawing the background alone earns, and where the first rows are.
    assert rows[0]["unexplained_moving/image"] > 1.0
    assert rows[-1]["unexplained_moving/image"] < 0.6
    assert rows[-1]["open_loop_1/image"] < 0.7


def test_a_run_that_was_cut_in_two_equals_an_unbroken_one(tmp_path):
    unbroken = tiny_world_model()
    list(fit(unbroken, tiny_demos(), TINY))
    first = tiny_world_model()
    for row in fit(first, tiny_demos(), TINY, store=EverySoOften(tmp_path)):
        if row["update"] == 8:
            break
    second = tiny_world_model(seed=5)  # whatever it starts from is overwritten
    assert [row["update"] for row in fit(second, tiny_demos(), TINY, store=EverySoOften(tmp_path))][-1] == 12
    assert_equal(weights(unbroken), weights(second))


KILLED = """
import sys
from dream_env.checkpoint import Store
from dream_env.fitting.fit import FitConfig, fit
from dream_env.testing import tiny_demos, tiny_world_model
import torch
torch.set_num_threads(1)

class Always(Store):
    def due(self):
        return True

config = FitConfig(updates=400, batch=4, length=6, log_every=1, test_every=1000, warmup=2)
for row in fit(tiny_world_model(), tiny_demos(), config, store=Always(sys.argv[1])):
    print(int(row["update"]), flush=True)
"""


def test_a_killed_process_leaves_a_whole_state_and_the_next_one_ends_where_an_unbroken_run_does(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    victim = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    reached = 0
    while reached < 5:  # it saves after every update, so the kill falls into a save more often than not
        reached = int(victim.stdout.readline())
    time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    saved = Store(tmp_path).latest()
    assert saved is not None
    assert saved[0] >= 4
    assert saved[0] < 400

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        config = FitConfig(updates=400, batch=4, length=6, log_every=1, test_every=1000, warmup=2)
        resumed, unbroken = tiny_world_model(seed=3), tiny_world_model()
        list(fit(resumed, tiny_demos(), config, store=Store(tmp_path)))
        list(fit(unbroken, tiny_demos(), config))
    finally:
        torch.set_num_threads(threads)
    assert_equal(weights(unbroken), weights(resumed))


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path):
    world_model = tiny_world_model()
    store = EverySoOften(tmp_path)
    rows = fit(world_model, tiny_demos(), replace(TINY, log_every=1), store=store)
    for _ in range(3):
        next(rows)
    with torch.no_grad():
        world_model.rssm.posterior_out.bias.fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"stopped being finite at update \d .*the last good state is kept in"):
        next(rows)
    step, tensors, _ = store.latest()
    assert step == 2  # that of update 3 was to be saved when the loop went on, and was found broken
    assert all(tensor.isfinite().all() for name, tensor in tensors.items() if name.startswith("model/"))


def test_sequences_longer_than_an_episode_are_refused_before_anything_is_spent():
    with pytest.raises(DatasetError, match="sequences need 50"):
        next(fit(tiny_world_model(), tiny_demos(), FitConfig(length=50)))


@pytest.mark.parametrize("option", ["updates", "batch", "length"])
def test_options_out_of_range_are_named(option):
    with pytest.raises(ConfigError, match=f"{option} must be at least"):
        FitConfig(**{option: 0})


def test_the_cosine_schedule_ends_at_a_hundredth():
    rows = list(fit(tiny_world_model(), tiny_demos(), replace(TINY, log_every=1)))
    rates = [row["learning_rate"] for row in rows]
    assert rates[0] == pytest.approx(TINY.learning_rate / 2)  # two updates of warm-up
    # The last of twelve is a twelfth of the way before the end; the last of thousands is as good as there.
    assert rates[-1] == pytest.approx((0.01 + 0.99 * math.sin(math.pi / 24) ** 2) * TINY.learning_rate)
    usual, optimizer = FitConfig(), torch.optim.SGD([torch.zeros(1)], lr=1.0)
    _set_learning_rate(optimizer, usual, usual.updates - 1)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * usual.learning_rate, rel=1e-3)


# ------------------------------------------------------------------------------------------------------------ precision


def test_the_precision_that_was_chosen_is_written_down(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("dream_env.stages.fast_precision", lambda device: "bfloat16")
    wm = fit_stage(tiny_fit(record_squares(), tmp_path / "wm"), progress=False)
    assert read_json(wm / "config.json")["world_model"]["precision"] == "bfloat16"
    assert read_json(wm / "meta.json")["precision"] == "bfloat16"
    assert load(wm).config.precision == "bfloat16"
