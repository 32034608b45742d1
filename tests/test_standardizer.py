import numpy as np
import pytest
import torch
from gymnasium import spaces

from dream_env.spaces import ObservationConfig, ObservationSpec, Standardizer

SPACE = spaces.Dict(
    {
        "camera": spaces.Dict({"left": spaces.Box(0, 255, (16, 16, 3), np.uint8)}),
        "state": spaces.Box(-np.inf, np.inf, (3,), np.float32),
    }
)
STATISTICS = {
    "camera/left": (np.full((4, 4, 3), 100, np.float32), np.full((4, 4, 3), 15, np.float32)),
    "state": (np.array([1.0, 2.0, 3.0], np.float32), np.array([2.0, 0.5, 0.0], np.float32)),
}


def standardizer(statistics=STATISTICS, **config):
    spec = ObservationSpec.from_space(SPACE, ObservationConfig(size=4, gray=False, **config))
    return Standardizer(spec, statistics)


def packed(time=3, batch=2):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (time, batch, 4, 4, 3), generator=generator, dtype=torch.uint8)
    return {"camera/left": image, "state": torch.randn(time, batch, 3, generator=generator)}


def test_pictures_are_standardised_by_pixel_with_a_floor_and_channels_come_first():
    obs = packed()
    image = standardizer()(obs)["camera/left"]
    assert image.shape == (3, 2, 3, 4, 4)
    torch.testing.assert_close(image[1, 1, 2, 3, 0], (obs["camera/left"][1, 1, 3, 0, 2].float() - 100) / (15 + 5))


def test_saved_statistics_keep_their_names():
    names = {f"{what}_{key}" for what in ("mean", "std") for key in ("camera__left", "state")}
    assert standardizer().state_dict().keys() == names


def test_vectors_are_standardised_and_entries_that_never_changed_are_ignored():
    obs = {**packed(1, 1), "state": torch.tensor([[[5.0, 3.0, 4000.0]]])}
    standardized = standardizer()(obs)
    torch.testing.assert_close(standardized["state"], torch.tensor([[[2.0, 2.0, 0.0]]]))
    assert standardizer().inverse(standardized)["state"][0, 0, 2] == STATISTICS["state"][0][2]


@pytest.mark.parametrize("mode", ["pixel", "global", "none"])
def test_the_inverse_gives_packed_observations_back(mode):
    module, obs = standardizer(standardize=mode), packed()
    obs["state"][..., 2] = 3.0  # as in the recordings
    back = module.inverse(module(obs))
    torch.testing.assert_close(back["camera/left"], obs["camera/left"].float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(back["state"], obs["state"])


def test_decoded_pictures_stay_in_range():
    image = standardizer().inverse({name: 100 * x for name, x in standardizer()(packed()).items()})["camera/left"]
    assert image.min() == 0.0
    assert image.max() == 255.0


def test_global_statistics_are_those_of_all_pixels_together():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (500, 4, 4, 3)).astype(np.float64) * np.linspace(0.1, 1, 16).reshape(4, 4, 1)
    statistics = {**STATISTICS, "camera/left": (frames.mean(0), frames.std(0))}
    module = standardizer(statistics, standardize="global", std_floor=0.0)
    mean, std = module.get_buffer("mean_camera__left"), module.get_buffer("std_camera__left")
    np.testing.assert_allclose(mean, frames.mean(), rtol=1e-5)
    np.testing.assert_allclose(std, frames.std(), rtol=1e-5)


def test_the_input_is_left_alone():
    obs = packed()
    state = obs["state"].clone()
    standardizer()(obs)
    torch.testing.assert_close(obs["state"], state)


def test_a_constant_pixel_without_a_floor_does_not_divide_by_zero():
    statistics = {**STATISTICS, "camera/left": (np.zeros((4, 4, 3)), np.zeros((4, 4, 3)))}
    assert torch.isfinite(standardizer(statistics, std_floor=0.0)(packed())["camera/left"]).all()


def test_statistics_travel_in_the_state_dict():
    empty = standardizer(statistics=None)
    empty.load_state_dict(standardizer().state_dict())
    torch.testing.assert_close(empty(packed()), standardizer()(packed()))
    assert not any("." in name or "/" in name for name in empty.state_dict())
