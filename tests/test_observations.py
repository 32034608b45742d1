import json

import cv2
import numpy as np
import pytest
from gymnasium import spaces
from recordings import draw

from dream_env.errors import ConfigError, SpaceError
from dream_env.spaces import ObservationConfig, ObservationSpec

GRAY = ObservationConfig()
COLOUR = ObservationConfig(gray=False)
ATARI = spaces.Box(0, 255, (210, 160, 3), np.uint8)
GOALS = spaces.Dict(
    {
        "observation": spaces.Box(-np.inf, np.inf, (3,), np.float64),
        "desired_goal": spaces.Dict({"kettle": spaces.Box(-1, 1, (2,), np.float32), "door": spaces.Discrete(3)}),
    }
)
PIXELS_AND_STATE = spaces.Dict(
    {"pixels": spaces.Box(0, 255, (64, 64, 3), np.uint8), "state": spaces.Box(-5, 5, (4,), np.float32)}
)


def spec_of(space, config=GRAY):
    return ObservationSpec.from_space(space, config)


@pytest.mark.parametrize(
    ("space", "config", "packed"),
    [
        (spaces.Box(0, 255, (64, 64), np.uint8), GRAY, {"image": (64, 64, 1)}),
        (spaces.Box(0, 255, (84, 84, 1), np.uint8), COLOUR, {"image": (64, 64, 1)}),
        (spaces.Box(0, 255, (64, 64, 3), np.uint8), GRAY, {"image": (64, 64, 1)}),
        (ATARI, COLOUR, {"image": (64, 64, 3)}),
        (ATARI, ObservationConfig(size=16, crop=(34, 194, 0, 160)), {"image": (16, 16, 1)}),
        (spaces.Box(0, 255, (128,), np.uint8), GRAY, {"vector": (128,)}),
        (spaces.Box(0, 255, (16, 16), np.uint8), GRAY, {"image": (64, 64, 1)}),
        (spaces.Box(0, 255, (7, 7, 3), np.uint8), GRAY, {"vector": (147,)}),
        (spaces.Box(0, 255, (64, 8), np.uint8), GRAY, {"vector": (512,)}),
        (spaces.Box(0, 2, (6, 7), np.uint8), GRAY, {"vector": (42,)}),
        (spaces.Box(0, 1, (19, 19, 17), np.uint8), GRAY, {"vector": (6137,)}),
        (spaces.Box(-1, 1, (2, 3), np.float64), GRAY, {"vector": (6,)}),
        (spaces.Box(-1, 1, (), np.float32), GRAY, {"vector": (1,)}),
        (spaces.Discrete(5, start=2), GRAY, {"vector": (5,)}),
        (PIXELS_AND_STATE, GRAY, {"pixels": (64, 64, 1), "state": (4,)}),
        (GOALS, GRAY, {"desired_goal/door": (3,), "desired_goal/kettle": (2,), "observation": (3,)}),
        (GOALS, ObservationConfig(keys=("desired_goal",)), {"desired_goal/door": (3,), "desired_goal/kettle": (2,)}),
        (GOALS, ObservationConfig(keys=("desired_goal/kettle",)), {"desired_goal/kettle": (2,)}),
    ],
)
def test_every_kind_of_space_is_packed_as_declared_and_survives_json(space, config, packed):
    spec = spec_of(space, config)
    assert {key.name: key.shape for key in spec.keys} == packed
    raw = draw(space, 5, np.random.default_rng(0))
    batch = spec.pack(raw, batch_dims=1)
    for key in spec.keys:
        assert batch[key.name].shape == (5, *key.shape)
        assert batch[key.name].dtype == (np.uint8 if key.kind == "image" else np.float32)
    again = ObservationSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    for name, array in again.pack(raw, batch_dims=1).items():
        np.testing.assert_array_equal(array, batch[name])


def test_a_slash_in_a_key_and_a_dictionary_in_a_dictionary_are_found_alike():
    flat = spaces.Dict({"robot/arm": spaces.Box(-1, 1, (2,)), "robot/cam/left": spaces.Box(-1, 1, (3,))})
    mixed = spaces.Dict({"robot": spaces.Dict({"arm": flat["robot/arm"], "cam/left": flat["robot/cam/left"]})})
    nested = spaces.Dict(
        {"robot": spaces.Dict({"arm": flat["robot/arm"], "cam": spaces.Dict({"left": flat["robot/cam/left"]})})}
    )
    arm, left = np.float32([0.1, 0.2]), np.float32([0.3, 0.4, 0.5])
    shown = [
        {"robot/arm": arm, "robot/cam/left": left},
        {"robot": {"arm": arm, "cam/left": left}},
        {"robot": {"arm": arm, "cam": {"left": left}}},
    ]
    for space, observation in zip((flat, mixed, nested), shown, strict=True):
        for keys in ((), ("robot/cam",)):
            spec = ObservationSpec.from_space(space, ObservationConfig(keys=keys))
            packed = spec.pack(observation)
            assert list(packed) == (["robot/cam/left"] if keys else ["robot/arm", "robot/cam/left"])
            np.testing.assert_array_equal(packed["robot/cam/left"], left)
    twice = spaces.Dict({"robot": mixed["robot"], "robot/arm": spaces.Box(-1, 1, (2,))})
    with pytest.raises(SpaceError, match="two observations are called 'robot/arm'"):
        ObservationSpec.from_space(twice, ObservationConfig())


def test_a_single_observation_is_packed_like_a_row_of_a_batch():
    spec = spec_of(PIXELS_AND_STATE, ObservationConfig(size=32))
    raw = draw(PIXELS_AND_STATE, 6, np.random.default_rng(0))
    batch = spec.pack({name: x.reshape(2, 3, *x.shape[1:]) for name, x in raw.items()}, batch_dims=2)
    single = spec.pack({name: x[4] for name, x in raw.items()})
    for name in single:
        np.testing.assert_array_equal(single[name], batch[name][1, 1])


def test_pictures_are_cropped_then_made_gray_then_resized():
    raw = np.random.default_rng(0).integers(0, 256, (3, 210, 160, 3), np.uint8)
    packed = spec_of(ATARI, ObservationConfig(crop=(34, 194, 8, 152))).pack(raw, batch_dims=1)["image"]
    for image, result in zip(raw, packed, strict=True):
        gray = cv2.cvtColor(np.ascontiguousarray(image[34:194, 8:152]), cv2.COLOR_RGB2GRAY)
        np.testing.assert_array_equal(result[..., 0], cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA))


def test_small_gray_pictures_pass_unchanged_and_are_copied():
    raw = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    packed = spec_of(spaces.Box(0, 255, (64, 64), np.uint8)).pack(raw)["image"]
    np.testing.assert_array_equal(packed[..., 0], raw)
    assert not np.shares_memory(packed, raw)


def test_a_discrete_observation_becomes_one_hot_from_its_start():
    packed = spec_of(spaces.Discrete(3, start=5)).pack(np.array([5, 7]), batch_dims=1)["vector"]
    np.testing.assert_array_equal(packed, [[1, 0, 0], [0, 0, 1]])


def test_object_codes_reach_the_networks_as_they_are():
    codes = np.random.default_rng(0).integers(0, 11, (5, 7, 7, 3), np.uint8)
    packed = spec_of(spaces.Box(0, 255, (7, 7, 3), np.uint8)).pack(codes, batch_dims=1)["vector"]
    np.testing.assert_array_equal(packed, codes.reshape(5, 147))
    assert packed.dtype == np.float32


def test_left_out_keys_may_be_of_any_kind():
    space = spaces.Dict({"image": spaces.Box(0, 255, (20, 20, 3), np.uint8), "mission": spaces.Text(20)})
    with pytest.raises(SpaceError, match=r"'mission' is Text.*name the others with --observation\.keys"):
        spec_of(space)
    spec = spec_of(space, ObservationConfig(keys=("image",)))
    assert spec.space == spaces.Dict({"image": space["image"]})
    assert spec.pack({"image": np.zeros((20, 20, 3), np.uint8), "mission": "go"})["image"].shape == (64, 64, 1)


@pytest.mark.parametrize(
    ("space", "names"),
    [
        (
            spaces.Dict({"a.b": spaces.Discrete(2), "a_b": spaces.Discrete(2)}),
            "'a.b' and 'a_b' would both be stored as 'a_b'",
        ),
        (
            spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)}), "a__b": spaces.Discrete(2)}),
            "'a/b' and 'a__b' would both be stored as 'a__b'",
        ),
        (
            spaces.Dict({"a": spaces.Dict({"b": spaces.Discrete(2)}), "a.b": spaces.Discrete(2)}),
            "'a/b' and 'a.b' would both be stored as 'a.b'",
        ),
    ],
)
def test_keys_that_would_share_a_name_are_refused(space, names):
    with pytest.raises(SpaceError, match=rf"{names}; rename one of them .* naming the others with --observation\.keys"):
        spec_of(space)
    assert len(spec_of(space, ObservationConfig(keys=("a.b" if "a.b" in space.spaces else "a__b",))).keys) == 1


def test_constant_bounds_are_stored_as_one_number():
    text = json.dumps(spec_of(ATARI).to_json())
    assert len(text) < 300
    mixed = spaces.Box(np.array([-np.inf, 0.0], np.float32), np.array([1.0, np.inf], np.float32))
    assert ObservationSpec.from_json(json.loads(json.dumps(spec_of(mixed).to_json(), allow_nan=False))).space == mixed


@pytest.mark.parametrize(
    ("space", "config", "message"),
    [
        (GOALS, ObservationConfig(keys=("observatoin",)), r'no key \'observatoin\'.*Did you mean "observation"'),
        (spaces.Text(5), GRAY, r"'vector' is Text.* only Box, Discrete and Dict"),
        (spaces.Tuple([spaces.Discrete(2)]), GRAY, "is Tuple"),
        (spaces.Box(0, 255, (4, 84, 84), np.uint8), GRAY, r"\(4, 84, 84\).*needs no frame stacking"),
        (spaces.Box(0, 255, (3, 84, 84), np.uint8), GRAY, r"\(3, 84, 84\).*Move channels last"),
        (spaces.Box(0, 1, (0,)), GRAY, "holds no numbers"),
        (ATARI, ObservationConfig(crop=(0, 300, 0, 160)), r"crop \(0, 300, 0, 160\).*leaves the picture"),
    ],
)
def test_a_space_that_cannot_be_learned_is_refused(space, config, message):
    with pytest.raises(SpaceError, match=message):
        spec_of(space, config)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"pixels": np.zeros((64, 64, 3), np.uint8)}, "'state' is missing: keys pixels came"),
        (np.zeros((64, 64, 3), np.uint8), "'pixels' is missing: a ndarray came"),
        (
            {"pixels": np.zeros((32, 64, 3), np.uint8), "state": np.zeros(4)},
            r"'pixels' has shape \(32, 64, 3\); expected \(64, 64, 3\)",
        ),
        (
            {"pixels": np.zeros((64, 64, 3), np.float32), "state": np.zeros(4)},
            "'pixels' is a picture of float32; expected uint8",
        ),
        (
            {"pixels": np.zeros((64, 64, 3), np.uint8), "state": np.array([0, 0, np.nan, 0])},
            "'state' is not finite: entry 2 is nan",
        ),
        (
            {"pixels": np.zeros((64, 64, 3), np.uint8), "state": np.array([0, 1e300, 0, 0])},
            "'state' is not finite: entry 1 is inf",
        ),
    ],
)
def test_an_observation_that_does_not_fit_is_named(raw, message):
    with pytest.raises(SpaceError, match=message):
        spec_of(PIXELS_AND_STATE).pack(raw)


def test_a_discrete_observation_outside_its_space_is_named():
    with pytest.raises(SpaceError, match=r"'vector' has a value outside Discrete\(3\)"):
        spec_of(spaces.Discrete(3)).pack(3)


def test_an_unknown_option_in_a_stored_config_suggests_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown observation option 'sise' = 64\. Did you mean \"size\""):
        ObservationConfig.from_json({"sise": 64})
