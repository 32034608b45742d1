from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces
from recordings import DISCRETE, GRAY, buffers, record

from dream_env.errors import CheckpointError, DatasetError
from dream_env.latent import Latent
from dream_env.model.encoded import EncodedDemos, encode, load_encoded, save_encoded
from dream_env.recordings.demos import Demos
from dream_env.spaces import ObservationConfig
from dream_env.tiny import tiny_demos, tiny_expert, tiny_world_model

BOX = spaces.Box(-1, 1, (2,), np.float32)
LENGTHS = (7, 5, 9)
MODELS = {"categorical": {}, "gaussian": {"gaussian": True}, "ensemble": {"ensemble": 2}}


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "cache"))


def recorded(action_space=DISCRETE):
    """Episodes of 7, 5 and 9 steps of noise."""
    record("game/random-v0", buffers(GRAY, action_space, LENGTHS), GRAY, action_space)
    return Demos.load("game/random-v0", ObservationConfig(size=16))


def model_for(demos, **options):
    return tiny_world_model(observation_space=GRAY, action_space=demos.action_spec.space, **options)


def rows_of(encoded, episode):
    """Row numbers of an episode, its last included."""
    first = int((encoded.lengths[:episode] + 1).sum())
    return torch.arange(first, first + int(encoded.lengths[episode]) + 1)


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_encoding_is_the_filter_step_by_step(options):
    demos, world_model = tiny_demos(episodes=1), tiny_world_model(**options)
    encoded = encode(world_model, demos, seed=3)
    episode = demos.episode(0)
    noise = world_model.draw_noise(21, 1, torch.Generator().manual_seed(3))
    latent, action_tm1 = world_model.initial(1), torch.zeros(1, dtype=torch.int64)
    for t in range(21):
        obs = {"image": torch.as_tensor(episode.obs["image"][t : t + 1])}
        with torch.no_grad():
            latent = world_model.observe_step(latent, action_tm1, obs, torch.tensor([t == 0]), noise[t])
        kept = encoded.latents(torch.tensor([t]))
        torch.testing.assert_close(kept.deter, latent.deter, atol=1e-3, rtol=1e-3)  # half precision
        torch.testing.assert_close(kept.stoch, latent.stoch, atol=2e-3, rtol=1e-3)
        action_tm1 = torch.as_tensor(episode.action_t[t : t + 1])


def test_how_much_is_in_memory_at_a_time_changes_nothing():
    demos, world_model = tiny_demos(episodes=1), tiny_world_model()
    whole, piecemeal = encode(world_model, demos), encode(world_model, demos, chunk=4)
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(piecemeal.tensors()[name], tensor, atol=1e-3, rtol=1e-3)


def test_episodes_side_by_side_are_encoded_as_each_by_itself():
    demos = recorded()
    world_model = model_for(demos)
    with torch.no_grad():
        world_model.rssm.posterior_out.weight.mul_(1e4)  # so sure of itself that the noise does not matter
    together = encode(world_model, demos, chunk=3)
    assert together.num_rows == demos.num_rows == 24
    for e in range(demos.num_episodes):
        alone = encode(world_model, demos.select([e]), chunk=3, seed=1)
        rows = rows_of(together, e)
        latents, expected = together.latents(rows), alone.latents(torch.arange(alone.num_rows))
        torch.testing.assert_close(latents.deter, expected.deter, atol=2e-3, rtol=1e-3)
        assert torch.equal(latents.stoch, expected.stoch)
        assert torch.equal(together.actions(rows), alone.actions(torch.arange(alone.num_rows)))


@pytest.mark.parametrize("action_space", [DISCRETE, BOX], ids=["discrete", "box"])
@pytest.mark.parametrize("episodes", [1, 2, 64])
def test_actions_of_a_row_are_what_the_expert_did_there(action_space, episodes):
    demos = recorded(action_space)
    encoded = encode(model_for(demos), demos, chunk=4, episodes=episodes)
    assert encoded.lengths.tolist() == list(LENGTHS)
    for e in range(demos.num_episodes):
        rows = rows_of(encoded, e)
        np.testing.assert_array_equal(encoded.actions(rows[:-1]).numpy(), demos.episode(e).action_t)
        assert not encoded.actions(rows[-1:]).any()


@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("action_space", [DISCRETE, BOX], ids=["discrete", "box"])
def test_the_experts_action_leads_from_each_row_to_the_next(action_space, options):
    demos = recorded(action_space)
    world_model = model_for(demos, **options)
    encoded = encode(world_model, demos, chunk=4)
    rows = encoded.step_rows()
    assert len(rows) == sum(LENGTHS)
    with torch.no_grad():  # h' is a function of (h, z, a) alone: prior and posterior share it
        there = world_model.imagine_step(
            encoded.latents(rows), encoded.actions(rows), torch.rand(len(rows), world_model.noise_size)
        )
    torch.testing.assert_close(there.deter, encoded.latents(rows + 1).deter, atol=5e-3, rtol=0)
    assert (there.deter - encoded.latents(rows).deter).abs().max() > 0.05  # the states do move


def test_rows_may_have_any_shape():
    encoded = tiny_expert(tiny_world_model())
    rows = torch.arange(6).reshape(2, 3)
    latents = encoded.latents(rows)
    assert latents.shape == (2, 3)
    assert latents.deter.dtype == latents.stoch.dtype == torch.float32
    assert torch.equal(latents.feat[1, 2], encoded.latents(torch.tensor([5])).feat[0])
    assert encoded.actions(rows).shape == (2, 3)
    assert isinstance(encoded.latents(torch.tensor(5)), Latent)


def test_it_is_compact():
    tensors = tiny_expert(tiny_world_model()).tensors()
    assert (tensors["deter"].dtype, tensors["stoch"].dtype) == (torch.float16, torch.uint8)
    assert tensors["stoch"].shape == (84, 4)  # class numbers, not one-hot vectors
    assert tiny_expert(tiny_world_model(gaussian=True)).tensors()["stoch"].dtype == torch.float16


def test_windows_stay_inside_their_episode():
    demos = recorded()
    encoded = encode(model_for(demos), demos)
    # Episodes of 7, 5 and 9 steps begin at rows 0, 8 and 14.
    assert encoded.windows(5).tolist() == [0, 1, 2, 8, 14, 15, 16, 17, 18]
    assert encoded.windows(4).tolist() == [0, 1, 2, 3, 8, 9, *range(14, 20)]


def test_nobody_imitates_a_slip():
    demos = recorded()
    encoded = encode(model_for(demos), demos)
    tensors = encoded.tensors()
    tensors["slip"] = torch.zeros(encoded.num_rows, dtype=torch.bool)
    tensors["slip"][[3, 9]] = True  # episodes of 7, 5 and 9 steps begin at rows 0, 8 and 14
    slipped = EncodedDemos.from_tensors(tensors)
    assert slipped.windows(3).tolist() == [0, 4, 10, *range(14, 21)]
    assert slipped.step_rows().tolist() == [0, 1, 2, 4, 5, 6, 8, 10, 11, 12, *range(14, 23)]
    assert slipped.select([1]).windows(3).tolist() == [2]
    assert torch.equal(slipped.latents(torch.tensor([3])).feat, encoded.latents(torch.tensor([3])).feat)
    with pytest.raises(DatasetError, match="go 4 steps without a slip"):
        slipped.select([1]).windows(4)


def test_slips_come_from_the_recording_and_may_be_missing():
    episodes = buffers()
    slip = np.zeros(8, dtype=bool)
    slip[3] = True  # as the environment would tell of it: where the third step led
    record("slips/some-v0", [replace(episodes[0], infos={"expert_slip": slip})])
    assert Demos.load("slips/some-v0").episode(0).slip_t.tolist() == [False, False, True, *[False] * 4]
    record("slips/none-v0", episodes)
    assert not Demos.load("slips/none-v0").episode(1).slip_t.any()


def test_a_model_folder_from_before_slips_were_recorded_is_read():
    tensors = tiny_expert(tiny_world_model()).tensors()
    everything = len(EncodedDemos.from_tensors(tensors).step_rows())
    del tensors["slip"]
    assert len(EncodedDemos.from_tensors(tensors).step_rows()) == everything


def test_a_horizon_longer_than_every_episode_names_the_longest():
    demos = recorded()
    encoded = encode(model_for(demos), demos.select([1, 2]))
    assert encoded.indices.tolist() == [1, 2]
    with pytest.raises(
        DatasetError, match="a horizon of 10 steps does not fit: episode 2 has 9 steps, and none has more"
    ):
        encoded.windows(10)


def test_an_episode_shorter_than_the_horizon_has_no_windows_and_vetoes_no_other():
    demos = recorded()
    encoded = encode(model_for(demos), demos)
    # Episodes of 7, 5 and 9 steps begin at rows 0, 8 and 14.
    assert encoded.windows(6).tolist() == [0, 1, 14, 15, 16, 17]
    assert encoded.windows(8).tolist() == [14, 15]
    assert [encoded.too_short(horizon) for horizon in (5, 6, 8, 10)] == [0, 1, 2, 3]


def test_a_choice_of_episodes_keeps_their_rows():
    demos = recorded()
    encoded = encode(model_for(demos), demos)
    chosen = encoded.select([2, 0])
    assert chosen.lengths.tolist() == [9, 7]
    assert chosen.indices.tolist() == [2, 0]
    before = torch.cat([rows_of(encoded, 2), rows_of(encoded, 0)])
    everything = torch.arange(chosen.num_rows)
    assert torch.equal(chosen.latents(everything).feat, encoded.latents(before).feat)
    assert torch.equal(chosen.actions(everything), encoded.actions(before))
    assert chosen.windows(7).tolist() == [0, 1, 2, 10]
    assert torch.equal(encoded.take(2).tensors()["deter"], encoded.select([0, 1]).tensors()["deter"])


@pytest.mark.parametrize("n", [0, 5])
def test_more_episodes_than_there_are_or_none_are_refused(n):
    with pytest.raises(DatasetError, match=f"{n} expert episodes were asked for, but the model has 4"):
        tiny_expert(tiny_world_model()).take(n)


@pytest.mark.parametrize("gaussian", [False, True])
def test_saved_and_loaded_it_is_the_same(tmp_path, gaussian):
    world_model = tiny_world_model(gaussian=gaussian)
    train, held_out = tiny_demos().split(1)
    for split, demos in (("train", train), ("held_out", held_out)):
        encoded = encode(world_model, demos)
        save_encoded(encoded, tmp_path, split)
        back = load_encoded(tmp_path, split)
        assert isinstance(back, EncodedDemos)
        for name, tensor in encoded.tensors().items():
            assert torch.equal(back.tensors()[name], tensor), name
            assert back.tensors()[name].dtype == tensor.dtype
        rows = torch.arange(encoded.num_rows)
        assert torch.equal(back.latents(rows).feat, encoded.latents(rows).feat)
    assert load_encoded(tmp_path).num_episodes == 3


def test_a_folder_without_demonstrations_says_where_they_come_from(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no encoded held_out demonstrations \(expert_held_out.safetensors"):
        load_encoded(tmp_path, "held_out")


def test_demonstrations_cut_short_on_disk_are_refused(tmp_path):
    save_encoded(tiny_expert(tiny_world_model()), tmp_path, "train")
    path = tmp_path / "expert_train.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"expert_train.safetensors is damaged or cut short"):
        load_encoded(tmp_path)
