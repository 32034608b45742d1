"""What one of several processes does in ``test_parallel``: ``python together.py WHAT FOLDER``."""

import os
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from as_on_a_gpu import pretend

from dream_env.checkpoint import Store, write_json, write_tensors
from dream_env.errors import ConfigError, DatasetError, TrainingError
from dream_env.fitting.fit import FitConfig, fit
from dream_env.fitting.parallel import joined
from dream_env.testing import tiny_demos, tiny_world_model

CONFIG = FitConfig(updates=10, batch=4, length=6, log_every=5, test_every=5, warmup=2)

ENSEMBLE = {"gaussian": True, "ensemble": 3, "continue_head": True}


class Always(Store):
    """A store that is always due."""

    def due(self):
        return True


def everything(folder):
    """All that needs two, in one go, since starting them takes longest; at its end the second process dies."""
    with pytest.raises(TrainingError, match=r"process 0 of 2 lost the others: .*goes on at the last saved state"):
        _everything(folder)


def _everything(folder):
    with joined("cpu") as (processes, device):
        assert device == "cpu"
        _train(folder, processes)
        _refuse(folder, processes)
        _die(processes)


def _train(folder, processes):
    train, held_out = tiny_demos(steps=30).split(1)

    def run(world_model, **options):
        return fit(world_model, train, CONFIG, held_out=held_out, processes=processes, **options)

    def leave(world_model, name, rows):
        write_tensors(folder / f"{name}-{processes.rank}.safetensors", world_model.state_dict())
        write_json(folder / f"{name}-{processes.rank}.json", rows)

    world_model = tiny_world_model(seed=processes.rank)  # the first one's weights count
    leave(world_model, "plain", list(run(world_model)))
    world_model = tiny_world_model(**ENSEMBLE)
    leave(world_model, "gaussian", list(run(world_model)))

    next(run(tiny_world_model(), store=Always(folder)))  # stopped at update 5, when 4 were saved
    processes.wait()
    world_model = tiny_world_model(seed=3)
    leave(world_model, "resumed", list(run(world_model, store=Always(folder))))

    world_model = tiny_world_model()
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch, world_model)
        leave(world_model, "recorded", list(run(world_model)))


def _refuse(folder, processes):
    """What the first process finds wrong, all raise; a batch that cannot be split; files that only one can see."""
    assert processes.once(lambda: f"made by {processes.rank}") == "made by 0"
    seen = processes.first_then_others(lambda: _make(folder, processes.rank))
    assert seen == (["made-0"] if processes.first else ["made-0", "made-1"])
    with pytest.raises(DatasetError, match="nothing there"):
        processes.once(_find)
    with pytest.raises(ConfigError, match=r"5 sequences cannot be split evenly between 2 processes; take --batch 6"):
        next(fit(tiny_world_model(), tiny_demos(), replace(CONFIG, batch=5), processes=processes))
    store = Always(folder / f"disk-{processes.rank}")
    if processes.first:
        list(fit(tiny_world_model(), tiny_demos(), CONFIG, store=store))
    with pytest.raises(ConfigError, match=r"do not agree on the update that was saved last: \[10, 0\].*disk"):
        next(fit(tiny_world_model(), tiny_demos(), CONFIG, store=store, processes=processes))


def _make(folder, rank):
    (folder / f"made-{rank}").touch()
    return sorted(path.name for path in folder.glob("made-*"))


def _find():
    raise DatasetError("nothing there")


def _die(processes):
    config = replace(CONFIG, updates=1_000_000, log_every=1)
    for row in fit(tiny_world_model(), tiny_demos(), config, processes=processes):
        if row["update"] == 3 and not processes.first:
            os._exit(9)


def hang(folder):
    """The second process does not come to where the first one waits; the first gives up."""
    if os.environ["RANK"] == "1":
        with joined("cpu"):
            while not (folder / "gave-up").exists():
                time.sleep(0.1)
            os._exit(0)
    with (
        pytest.raises(TrainingError, match="process 0 of 2 lost the others"),
        joined("cpu", patience=timedelta(seconds=2)) as (processes, _),
    ):
        processes.wait()
    (folder / "gave-up").touch()


if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[sys.argv[1]](Path(sys.argv[2]))
