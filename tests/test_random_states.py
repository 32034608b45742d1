"""Random numbers of a run that goes on: where they were, or fresh where the state is of another kind of device."""

import json

import pytest
import torch
from cut_off import CutOff
from dream_env.plugins.gail import Gail
from dream_env.plugins.training import load_training, training_tensors

from dream_env.checkpoint import Store, read_tensors, write_tensors
from dream_env.device import random_states, restore_generator, restore_random_states
from dream_env.fitting.fit import FitConfig, fit
from dream_env.testing import tiny_demos, tiny_expert, tiny_rollout, tiny_world_model

OF_A_GPU = torch.zeros(16, dtype=torch.uint8)
"""As long as a CUDA generator's state; a CPU's has 5056 bytes."""
GPU = torch.device("cuda", 0)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def drawn(generator: torch.Generator) -> list[float]:
    return torch.rand(4, generator=generator).tolist()


@pytest.fixture
def gpu(monkeypatch):
    """A GPU's global generator, played by one of the CPU's."""
    generator = seeded()
    monkeypatch.setattr(torch.cuda, "default_generators", (generator,))
    with torch.random.fork_rng(devices=[]):
        yield generator


def test_a_stream_goes_on_where_its_state_was_taken():
    unbroken, resumed = seeded(), seeded()
    drawn(unbroken)
    state = unbroken.get_state()
    expected = drawn(unbroken)
    restore_generator(resumed, state, step=7)
    assert drawn(resumed) == expected


def test_a_state_of_another_kind_of_device_begins_a_fresh_stream_and_not_the_runs_first():
    streams = [drawn(seeded())]
    for step in (0, 1, 7):
        resumed = seeded()
        restore_generator(resumed, OF_A_GPU, step=step)
        streams.append(drawn(resumed))
    assert len({tuple(stream) for stream in streams}) == 4  # one for each change of device
    again = seeded()
    restore_generator(again, OF_A_GPU, step=7)
    assert drawn(again) == streams[-1]


def test_with_a_gpu_its_global_generator_is_kept_too(gpu):
    assert set(random_states(torch.device("cpu"))) == {"random/torch"}
    drawn(gpu)
    states = random_states(GPU)
    expected = torch.rand(4).tolist(), drawn(gpu)
    torch.manual_seed(9)
    gpu.manual_seed(9)
    restore_random_states(states, GPU, step=1)
    assert (torch.rand(4).tolist(), drawn(gpu)) == expected


def test_what_was_saved_on_a_cpu_goes_on_on_a_gpu_and_the_other_way_round(gpu):
    restore_random_states(random_states(torch.device("cpu")), GPU, step=1)
    assert drawn(gpu) != drawn(seeded())
    states = random_states(GPU)
    expected = torch.rand(4)
    restore_random_states(states, torch.device("cpu"), step=1)
    assert torch.equal(torch.rand(4), expected)


def test_the_actor_critics_keep_what_a_reward_draws_on_a_gpu(gpu, monkeypatch):
    class Own(torch.Generator):
        device = GPU

    own = Own()
    drawn(gpu)
    tensors = training_tensors({}, {}, own)
    expected = drawn(gpu)
    load_training(tensors, {}, {}, own)
    assert drawn(gpu) == expected


def test_the_actor_critics_go_on_with_a_state_of_another_kind_of_device():
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(network.parameters())
    streams = []
    for _ in range(2):
        network(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        tensors = training_tensors({"net": network}, {"net": optimizer}, seeded())
        generator = seeded()
        load_training({**tensors, "random/own": OF_A_GPU}, {"net": network}, {"net": optimizer}, generator)
        streams.append(drawn(generator))
    assert streams[0] != streams[1]  # as many as updates were made
    assert drawn(seeded()) not in streams


def test_a_discriminator_goes_on_with_a_state_of_another_kind_of_device():
    world_model = tiny_world_model()
    expert = tiny_expert(world_model)
    rollout = tiny_rollout(world_model, expert, 8, 5)
    taught, resumed, fresh = Gail(), Gail(), Gail()
    for reward in (taught, resumed, fresh):
        reward.prepare(world_model, expert)
    resumed.load_state_dict({**taught.state_dict(), "generator": OF_A_GPU})  # before its first update
    taught.update(rollout)
    resumed.load_state_dict({**taught.state_dict(), "generator": OF_A_GPU})
    assert torch.equal(resumed.discriminator[0].weight, taught.discriminator[0].weight)
    assert drawn(resumed._generator) != drawn(fresh._generator)
    resumed.update(rollout)


def test_a_world_models_training_goes_on_with_a_state_of_another_kind_of_device(tmp_path):
    config = FitConfig(updates=4, batch=4, length=6, log_every=1, warmup=2)
    unbroken, resumed = tiny_world_model(), tiny_world_model()
    expected = list(fit(unbroken, tiny_demos(), config))
    with pytest.raises(KeyboardInterrupt):
        list(fit(resumed, tiny_demos(), config, store=CutOff(tmp_path, 2)))
    path = Store(tmp_path).latest_folder() / "training.safetensors"
    assert json.loads((path.parent / "state.json").read_text())["rng"]
    write_tensors(path, {**read_tensors(path), "generator": OF_A_GPU})
    rows = list(fit(resumed, tiny_demos(), config, store=Store(tmp_path)))
    assert [row["update"] for row in rows] == [3.0, 4.0]
    # The same batches with other noise.
    assert rows[0]["learning_rate"] == expected[2]["learning_rate"]
    assert rows[0]["loss"] == pytest.approx(expected[2]["loss"], rel=0.1)
    assert rows[0]["loss"] != expected[2]["loss"]
