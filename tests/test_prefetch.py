"""Batches drawn ahead by a thread: the same ones, the right state beside each, and no thread left behind."""

import threading
from contextlib import closing
from itertools import islice

import numpy as np
import pytest
import torch

from dream_env.errors import DatasetError
from dream_env.fitting.fit import FitConfig, fit
from dream_env.fitting.prefetch import drawn_ahead, tensors_of
from dream_env.testing import tiny_demos, tiny_world_model

CPU = torch.device("cpu")


def windows(rng):
    return tiny_demos().sample(4, 6, rng)


def assert_same(batch, other):
    for x, y in zip(tensors_of(batch), tensors_of(other), strict=True):
        assert torch.equal(x, y)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("dream-env-batches")]


@pytest.mark.parametrize("thread", [True, False])
def test_batches_and_states_are_those_of_drawing_one_after_the_other(thread):
    rng = np.random.default_rng(3)
    with closing(drawn_ahead(windows, np.random.default_rng(3), CPU, thread=thread)) as batches:
        for drawn in islice(batches, 5):
            assert_same(drawn.batch, windows(rng))
            assert drawn.rng_state == rng.bit_generator.state


def test_the_state_beside_a_batch_draws_the_one_after_it():
    with closing(drawn_ahead(windows, np.random.default_rng(0), CPU)) as batches:
        first, second, _ = islice(batches, 3)
    rng = np.random.default_rng(99)
    rng.bit_generator.state = first.rng_state
    assert_same(windows(rng), second.batch)


def test_the_next_batch_is_drawn_while_the_last_one_is_in_use():
    drawn = threading.Semaphore(0)

    def draw(rng):
        drawn.release()
        return windows(rng)

    with closing(drawn_ahead(draw, np.random.default_rng(0), CPU)) as batches:
        next(batches)
        assert drawn.acquire(timeout=30)
        assert drawn.acquire(timeout=30)  # nobody has asked for it yet
        assert not drawn.acquire(timeout=0.05)  # and one ahead is enough


def test_what_drawing_raises_is_raised_where_the_batch_is_asked_for():
    left = [windows, windows]

    def draw(rng):
        if not left:
            raise DatasetError("the disk is gone")
        return left.pop()(rng)

    batches = drawn_ahead(draw, np.random.default_rng(0), CPU)
    next(batches)
    next(batches)
    with pytest.raises(DatasetError, match="the disk is gone"):
        next(batches)
    assert not threads()


@pytest.mark.parametrize("rows", [1, 3])
def test_no_thread_is_left_when_fitting_ends_or_is_left(rows):
    config = FitConfig(updates=3, batch=4, length=6, log_every=1)
    training = fit(tiny_world_model(), tiny_demos(), config)
    assert len(list(islice(training, rows))) == rows
    assert len(threads()) == 1
    if rows == 3:
        assert next(training, None) is None
    else:
        training.close()
    assert not threads()


def test_an_error_while_drawing_ends_fitting(monkeypatch):
    demos = tiny_demos()
    sample, asked = demos.sample, []

    def fail(*args):
        asked.append(args)
        if len(asked) == 3:
            raise DatasetError("the disk is gone")
        return sample(*args)

    monkeypatch.setattr(demos, "sample", fail)
    rows = []
    with pytest.raises(DatasetError, match="the disk is gone"):
        rows += fit(tiny_world_model(), demos, FitConfig(updates=9, batch=4, length=6, log_every=1))
    assert not threads()
