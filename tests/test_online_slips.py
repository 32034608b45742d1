"""Windows that are imitated online: without a slip, and where nobody slips the very ones that ``Demos.sample`` draws."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dream_env.plugins.online_loop import CleanWindows, OnlineLoop

from dream_env.errors import DatasetError
from dream_env.recordings.demos import Demos
from dream_env.testing import tiny_demos

STEPS, LENGTH = 20, 6


def demos(*slips: tuple[int, int], terminated: bool = False) -> Demos:
    """Four episodes with a slip at each given (episode, step)."""
    made = tiny_demos(4, STEPS, terminated=terminated)
    for episode, step in slips:
        made._data.slip_tm1[episode * (STEPS + 1) + step + 1] = True
    return made


def test_without_slips_the_windows_are_those_that_demos_draw():
    own = demos(terminated=True)
    batch = CleanWindows(own, LENGTH).sample(200, np.random.default_rng(3))
    expected = own.sample(200, LENGTH, np.random.default_rng(3))
    assert expected.is_terminal.any()
    assert batch.obs.keys() == expected.obs.keys()
    for name, x in expected.obs.items():
        assert torch.equal(x, batch.obs[name])
    for name in ("action_tm1", "is_first", "is_terminal"):
        ours, theirs = getattr(batch, name), getattr(expected, name)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), name


def test_an_episode_that_is_too_short_has_no_window():
    own = demos()
    own.lengths[1] = LENGTH - 2
    assert {episode for episode, _ in CleanWindows(own, LENGTH).starts.tolist()} == {0, 2, 3}
    own.lengths[1] = LENGTH - 1  # and this one has one
    assert (CleanWindows(own, LENGTH).starts[:, 0] == 1).sum() == 1


def test_no_window_holds_a_slip_and_all_others_are_there():
    own = demos((0, 7), (2, 0), (3, STEPS - 1))
    starts = set(map(tuple, CleanWindows(own, LENGTH).starts.tolist()))
    # A window of 6 rows holds the 5 steps between them.
    expected = {
        (episode, first)
        for episode in range(4)
        for first in range(STEPS + 2 - LENGTH)
        if not any(own.episode(episode).slip_t[first : first + LENGTH - 1])
    }
    assert starts == expected
    assert (0, 8) in starts  # where the slip led is a state like any other
    assert (0, 7) not in starts
    assert (0, 2) in starts
    assert (0, 3) not in starts


def test_what_the_online_learner_imitates_is_drawn_from_them():
    own = demos(*((episode, step) for episode in range(4) for step in range(STEPS) if not 4 <= step < 4 + LENGTH))
    loop = OnlineLoop.__new__(OnlineLoop)
    loop.options = SimpleNamespace(expert_batch=30)
    loop.clean, loop.rng = CleanWindows(own, LENGTH), np.random.default_rng(0)
    loop.world_model = SimpleNamespace(device=torch.device("cpu"))
    batch = loop._expert_batch()
    left = {tuple(own.episode(e).action_t[s : s + LENGTH - 1].tolist()) for e in range(4) for s in (4, 5)}
    drawn = {tuple(actions) for actions in batch.action_tm1[1:].T.tolist()}
    assert drawn == left
    assert len(loop.clean.starts) == 8


def test_an_expert_who_slips_all_the_time_is_told_of():
    own = demos(*((episode, step) for episode in range(4) for step in range(0, STEPS, LENGTH - 1)))
    with pytest.raises(
        DatasetError, match=r"nowhere in 4 episodes of 'tiny/square-v0' does the expert go 5 steps without a slip"
    ):
        CleanWindows(own, LENGTH)
    assert len(CleanWindows(own, LENGTH - 1).starts)
    with pytest.raises(DatasetError, match="has 20 steps"):
        CleanWindows(own, STEPS + 2)
