import numpy as np
import pytest
import torch
from gymnasium import spaces
from recordings import DISCRETE, buffers, record

from dream_env.errors import DatasetError, SpaceError
from dream_env.recordings.demos import Demos
from dream_env.recordings.mixture import Mixture


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def parts():
    record("game/expert-v0", buffers(lengths=(7, 5, 9)))
    record("game/clumsy-v0", buffers(lengths=(6,), seed=1))
    return [Demos.load("game/expert-v0"), Demos.load("game/clumsy-v0")]


def frames(demos):
    return {frame.tobytes() for e in range(demos.num_episodes) for frame in np.asarray(demos.episode(e).obs["image"])}


def test_every_window_of_all_parts_is_as_likely(parts):
    mixture = Mixture(parts)
    assert mixture.windows(3) == parts[0].windows(3) + parts[1].windows(3) == 18 + 5
    batch = mixture.sample(4000, 3, np.random.default_rng(0))
    clumsy = frames(parts[1])
    share = np.mean([image.numpy().tobytes() in clumsy for image in batch.obs["image"][0]])
    assert share == pytest.approx(5 / 23, abs=0.025)  # σ = 0.0065


def test_a_batch_is_whole_and_each_window_is_of_one_recording(parts):
    rng = np.random.default_rng(0)
    sets = [frames(part) for part in parts]
    for _ in range(10):
        batch = Mixture(parts).sample(6, 4, rng)
        assert batch.obs["image"].shape == (4, 6, 64, 64, 1)
        assert batch.action_tm1.shape == batch.is_first.shape == batch.is_terminal.shape == (4, 6)
        assert batch.is_first[0].all()
        for b in range(6):
            window = [image.numpy().tobytes() for image in batch.obs["image"][:, b]]
            assert any(seen.issuperset(window) for seen in sets)


def test_the_same_seed_draws_the_same_batch(parts):
    one, other = (Mixture(parts).sample(9, 3, np.random.default_rng(4)) for _ in range(2))
    assert torch.equal(one.obs["image"], other.obs["image"])
    assert torch.equal(one.action_tm1, other.action_tm1)


def test_statistics_are_those_of_everything_laid_end_to_end(parts):
    rows = np.concatenate([part.episode(e).obs["image"] for part in parts for e in range(part.num_episodes)])
    mean, std = Mixture(parts).statistics["image"]
    np.testing.assert_allclose(mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(std, rows.std(axis=0, dtype=np.float64), rtol=1e-5)
    assert mean.dtype == std.dtype == np.float32


def test_a_mixture_of_one_is_that_one(parts):
    mixture = Mixture(parts[:1])
    np.testing.assert_allclose(mixture.statistics["image"][1], parts[0].statistics["image"][1], rtol=1e-6)
    assert mixture.windows(5) == parts[0].windows(5)


@pytest.mark.parametrize(
    ("observation", "action"),
    [(spaces.Box(0, 255, (32, 32), np.uint8), DISCRETE), (spaces.Box(0, 255, (64, 64), np.uint8), spaces.Discrete(5))],
)
def test_recordings_of_other_spaces_are_refused_by_name(parts, observation, action):
    record("game/other-v0", buffers(observation, action), observation, action)
    with pytest.raises(SpaceError, match="'game/other-v0' does not go with 'game/expert-v0': their spaces differ") as e:
        Mixture([*parts, Demos.load("game/other-v0")])
    assert str(action) in str(e.value)


def test_episodes_too_short_are_counted_in_all_parts(parts):
    mixture = Mixture(parts)
    assert mixture.num_episodes == 4
    assert [mixture.too_short(length) for length in (6, 7, 8)] == [0, 1, 2]
    assert mixture.windows(7) == (2 + 4) + 1
    assert mixture.sample(50, 7, np.random.default_rng(0)).obs["image"].shape[:2] == (7, 50)


def test_a_part_without_a_window_is_named(parts):
    with pytest.raises(DatasetError, match=r"episode 0 of 'game/clumsy-v0' has 6 steps .*sequences need 8"):
        Mixture([parts[0].select([0, 2]), parts[1]]).windows(8)
