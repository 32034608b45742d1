"""The step that a GPU records: what it may not do, that its mechanism trains as the plain one does, and what memory it takes."""

import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from as_on_a_gpu import Memory, NoNumbers, NothingFromTheHost, meta_batch, meta_model, played, pretend, shapes_only
from gymnasium import spaces

from dream_env.checkpoint import Store
from dream_env.errors import TrainingError
from dream_env.fitting.fit import GPU_MEMORY_AT_PAPER_SIZE, FitConfig, fit
from dream_env.fitting.graphed import GraphedStep, LossModule, cuda_graph, eager_step
from dream_env.model.rssm import RSSMConfig
from dream_env.model.world_model import WorldModelConfig
from dream_env.testing import tiny_demos, tiny_world_model

TINY = FitConfig(updates=12, batch=4, length=6, log_every=4, test_every=6, warmup=2)
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def inputs(world_model, seed, config=TINY):
    batch = tiny_demos().sample(config.batch, config.length, np.random.default_rng(seed)).to(world_model.device)
    generator = torch.Generator(device=world_model.device).manual_seed(seed)
    return batch, world_model.draw_noise(config.length, config.batch, generator)


def test_a_recorded_step_leaves_the_gradients_and_losses_of_the_plain_one():
    plain, recorded = tiny_world_model(), tiny_world_model()
    calls = []
    step = GraphedStep(eager_step(LossModule(recorded)), played(recorded, calls))
    for seed in range(3):
        expected = eager_step(LossModule(plain))(*inputs(plain, seed))
        losses = step(*inputs(recorded, seed))
        assert float(losses.total.detach()) == float(expected.total.detach())
        assert not losses.total.requires_grad
        for name, parameter in plain.named_parameters():
            assert torch.equal(parameter.grad, recorded.get_parameter(name).grad), name
    assert len(calls) == 3


def test_fitting_with_recorded_steps_equals_fitting_without(monkeypatch):
    plain, recorded = tiny_world_model(), tiny_world_model()
    expected = list(fit(plain, tiny_demos(), TINY))
    calls = []
    pretend(monkeypatch, recorded, calls)
    assert list(fit(recorded, tiny_demos(), TINY)) == expected
    assert len(calls) == TINY.updates
    for name, x in plain.state_dict().items():
        assert torch.equal(x, recorded.state_dict()[name]), name
    assert all(parameter.grad is None for parameter in recorded.parameters())


def test_recording_can_be_switched_off(monkeypatch):
    world_model = tiny_world_model()
    calls = []
    pretend(monkeypatch, world_model, calls)
    list(fit(world_model, tiny_demos(), TINY, graph="off"))
    assert not calls


def test_a_step_that_cannot_be_recorded_runs_as_it_is_and_says_why_once():
    plain, world_model = tiny_world_model(), tiny_world_model()

    def refuse(function, device):
        raise RuntimeError("operation not permitted when stream is capturing\nand a long trace")

    step = GraphedStep(eager_step(LossModule(world_model)), refuse)
    expected = eager_step(LossModule(plain))(*inputs(plain, 0))
    with pytest.warns(UserWarning, match=r"could not be recorded .* capturing\. Please report it; --graph off") as seen:
        losses = step(*inputs(world_model, 0))
    assert len(seen) == 1
    assert float(losses.total.detach()) == float(expected.total.detach())
    step(*inputs(world_model, 1))  # a second warning would be an error


def test_the_warning_names_the_first_of_several_causes_and_nothing_older():
    world_model = tiny_world_model()

    def refuse(function, device):
        try:
            raise ValueError("a number was asked for")
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    step = GraphedStep(eager_step(LossModule(world_model)), refuse)
    try:
        raise KeyError("of the caller's")
    except KeyError:
        with pytest.warns(UserWarning, match=r"slower: a number was asked for\. Please report it"):
            step(*inputs(world_model, 0))


class Streams:
    """Which stream is the current one, as ``torch.cuda`` keeps it; ending a capture that failed fails too."""

    def __init__(self, patch):
        self.current = "usual"
        patch.setattr(torch.cuda, "device", lambda device: nullcontext())
        patch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(wait_stream=lambda other: None))
        patch.setattr(
            torch.cuda, "current_stream", lambda: SimpleNamespace(name=self.current, wait_stream=lambda other: None)
        )
        patch.setattr(torch.cuda, "set_stream", lambda stream: setattr(self, "current", stream.name))
        patch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        patch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
        patch.setattr(torch.cuda, "graph", self.graph)

    @contextmanager
    def graph(self, graph, capture_error_mode):
        self.current = "capture"
        try:
            yield
        except BaseException:
            raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904 (as torch does)
        self.current = "usual"


def test_after_a_recording_that_failed_all_goes_on_where_it_was(monkeypatch):
    streams, calls = Streams(monkeypatch), []

    def function():
        calls.append(streams.current)
        if streams.current == "capture":
            raise RuntimeError("a number was asked for")

    with pytest.raises(RuntimeError, match="previous error during capture"):
        cuda_graph(function, torch.device("cpu"))
    assert calls == ["usual"] * 3 + ["capture"]
    assert streams.current == "usual"


def test_where_looking_would_stop_a_gpu_a_bad_update_is_still_named_and_never_saved(monkeypatch, tmp_path):
    world_model = tiny_world_model()
    pretend(monkeypatch, world_model)
    monkeypatch.setattr(Store, "due", lambda self: False)
    taken = []

    def break_it(optimizer, config, update):
        taken.append(update)
        if update == 5:
            with torch.no_grad():
                world_model.rssm.posterior_out.bias.fill_(float("nan"))

    monkeypatch.setattr("dream_env.fitting.fit._set_learning_rate", break_it)
    store = Store(tmp_path)
    with pytest.raises(TrainingError, match=r"stopped being finite at update 7 .*no state had been saved"):
        list(fit(world_model, tiny_demos(), replace(TINY, log_every=9), store=store))
    assert taken[-1] == 8  # where the row of update 9 would have been made
    assert store.latest() is None


# -------------------------------------------------------------------------------------- what a recorded step may not do

PICTURES = spaces.Box(0, 255, (64, 64), np.uint8)
BOTH = spaces.Dict({"camera": spaces.Box(0, 255, (64, 64, 3), np.uint8), "joints": spaces.Box(-9, 9, (7,))})
BODY = spaces.Box(-2, 2, (3,))
CONV = WorldModelConfig(rssm=RSSMConfig(deter=16, groups=4, classes=4, hidden=16), image_net="cnn", depth=4, width=16)
GAUSSIAN = WorldModelConfig(
    rssm=RSSMConfig("gaussian", deter=16, groups=4, hidden=16, ensemble=3), width=16, continue_head=True
)


@pytest.mark.parametrize(
    ("config", "observation", "actions"),
    [(CONV, PICTURES, None), (GAUSSIAN, BOTH, BODY)],
    ids=["convolutions", "gaussian"],
)
def test_a_step_never_asks_the_device_for_a_number(config, observation, actions):
    # Tensors of the meta device have none: .item(), a branch on a number, and shapes that depend on one all raise.
    world_model = meta_model(config, observation, actions)
    with shapes_only():
        step = eager_step(LossModule(world_model))
        batch, noise = meta_batch(world_model, 5, 3)
        step(batch, noise)  # constants are laid on the device once
        with NothingFromTheHost():
            step(batch, noise)
            norm = torch.nn.utils.clip_grad_norm_(world_model.parameters(), 1.0)
    assert norm.device.type == "meta"
    with pytest.raises(RuntimeError, match="meta"):
        norm.item()


def test_nor_does_it_in_half_precision():
    world_model = tiny_world_model().with_precision("bfloat16")
    batch, noise = inputs(world_model, 0)
    with NoNumbers():
        eager_step(LossModule(world_model))(batch, noise)
        norm = torch.nn.utils.clip_grad_norm_(world_model.parameters(), 1.0)
        with pytest.raises(AssertionError, match="_local_scalar_dense asks for numbers"):
            norm.item()


@pytest.mark.parametrize("preset", ["paper", "paper_gaussian"])
def test_an_update_at_paper_size_takes_the_memory_that_is_stated(preset):
    world_model = meta_model(getattr(WorldModelConfig, preset)())
    train = getattr(FitConfig, preset)()
    kept = 3 * sum(parameter.nbytes for parameter in world_model.parameters())  # and two moments of Adam's
    peaks = []
    for batch in (train.batch // 2, train.batch):
        with shapes_only(), Memory() as memory:
            eager_step(LossModule(world_model))(*meta_batch(world_model, train.length, batch))
        peaks.append(memory.most)
        world_model.zero_grad(set_to_none=True)
    assert 2.5 * 2**30 < kept + peaks[1] < 4 * 2**30
    assert GPU_MEMORY_AT_PAPER_SIZE == 1.5 * 4 * 2**30
    assert peaks[1] / peaks[0] == pytest.approx(2.0, rel=0.1)  # it grows with the batch


# ------------------------------------------------------------------------------------------------------------ on a GPU


@cuda
def test_on_a_gpu_recorded_steps_train_as_plain_ones_do():
    plain, recorded = tiny_world_model().to("cuda"), tiny_world_model().to("cuda")
    expected = list(fit(plain, tiny_demos(), TINY, graph="off"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as one would be that it could not be recorded
        rows = list(fit(recorded, tiny_demos(), TINY))
    assert rows[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=1e-3)
    for name, x in plain.state_dict().items():
        torch.testing.assert_close(x, recorded.state_dict()[name], rtol=1e-2, atol=1e-3)


@cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu_nothing_in_an_update_waits(precision):
    world_model = tiny_world_model().to("cuda").with_precision(precision)
    step = GraphedStep(eager_step(LossModule(world_model)))
    batch, noise = inputs(world_model, 0)
    step(batch, noise)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step(batch, noise)
            torch.nn.utils.clip_grad_norm_(world_model.parameters(), 1.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_a_gpu_an_update_at_paper_size_takes_less_memory_than_is_stated(precision):
    world_model = meta_model(WorldModelConfig.paper()).with_precision(precision).to_empty(device="cuda")
    with torch.no_grad():
        for x in world_model.state_dict().values():
            x.normal_(std=0.02)
    batch, noise = meta_batch(world_model, 50, 50)
    batch, noise = (
        type(batch)(
            {name: torch.zeros_like(x, device="cuda") for name, x in batch.obs.items()},
            torch.zeros_like(batch.action_tm1, device="cuda"),
            torch.zeros_like(batch.is_first, device="cuda"),
            torch.zeros_like(batch.is_terminal, device="cuda"),
        ),
        torch.rand(noise.shape, device="cuda"),
    )
    optimizer = torch.optim.Adam(world_model.parameters(), 1e-4, fused=True)
    torch.cuda.reset_peak_memory_stats()
    step = GraphedStep(eager_step(LossModule(world_model)))
    for _ in range(2):
        step(batch, noise)
        optimizer.step()
    assert torch.cuda.max_memory_reserved() < GPU_MEMORY_AT_PAPER_SIZE
