import json

import numpy as np
import pytest
import torch
from gymnasium import spaces

from dream_env.errors import SpaceError
from dream_env.spaces import ActionSpec

BOX = spaces.Box(np.array([-1.0, 0.0, -np.inf], np.float32), np.array([1.0, 4.0, 2.0], np.float32))


@pytest.mark.parametrize("space", [spaces.Discrete(6), spaces.Discrete(3, start=1), BOX, spaces.Box(-1, 1, (2, 2))])
def test_an_action_spec_survives_json(space):
    spec = ActionSpec.from_space(space)
    assert ActionSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False))) == spec


def test_discrete_actions_become_one_hot_from_their_start():
    spec = ActionSpec.from_space(spaces.Discrete(3, start=1))
    assert (spec.discrete, spec.size) == (True, 3)
    encoded = spec.encode(torch.tensor([[1, 3]]))
    torch.testing.assert_close(encoded, torch.tensor([[[1.0, 0, 0], [0, 0, 1.0]]]))


def test_the_zero_before_an_episode_encodes_to_nothing_where_it_is_no_action():
    spec = ActionSpec.from_space(spaces.Discrete(3, start=1))
    assert spec.encode(torch.zeros(2, dtype=torch.int64)).abs().sum() == 0


def test_bounded_entries_of_a_box_are_scaled_and_unbounded_ones_are_not():
    spec = ActionSpec.from_space(BOX)
    encoded = spec.encode(torch.tensor([[0.5, 0.0, 7.0], [-1.0, 4.0, -3.0]]))
    torch.testing.assert_close(encoded, torch.tensor([[0.5, -1.0, 7.0], [-1.0, 1.0, -3.0]]))


@pytest.mark.parametrize(("shape", "size"), [((), 1), ((2, 3), 6)])
def test_boxes_of_any_rank_are_flattened(shape, size):
    spec = ActionSpec.from_space(spaces.Box(-2, 2, shape))
    assert spec.size == size
    assert spec.encode(torch.ones(5, 4, *shape)).shape == (5, 4, size)


def test_gradients_pass_through_the_encoding_even_if_it_was_first_used_without():
    spec = ActionSpec.from_space(BOX)
    with torch.inference_mode():
        spec.encode(torch.zeros(3))
    action = torch.zeros(2, 3, requires_grad=True)
    spec.encode(action).square().sum().backward()
    assert action.grad is not None


@pytest.mark.parametrize(
    ("space", "action", "message"),
    [
        (spaces.Discrete(6), np.array([0, 5, 2, 7]), r"action 7 of sub-environment 3 is outside Discrete\(6\)"),
        (spaces.Discrete(2, start=1), np.array(0), r"action 0 is outside"),
        (spaces.Discrete(6), np.array([0.5]), "actions of float64 came; expected integers"),
        (spaces.Discrete(6), np.array([[1]]), r"an action of shape \(1, 1\) came"),
        (spaces.Box(-1, 1, (2,)), np.array([[0, 0], [0, 1.5]]), "of sub-environment 1 is outside Box"),
        (spaces.Box(-1, 1, (2,)), np.array([np.nan, 0]), "is outside Box"),
        (spaces.Box(-1, 1, (2,)), np.zeros((4, 3)), r"an action of shape \(4, 3\) came; expected \(2,\)"),
    ],
)
def test_an_action_outside_the_space_is_named_with_its_sub_environment(space, action, message):
    with pytest.raises(SpaceError, match=message):
        ActionSpec.from_space(space).validate(action)


@pytest.mark.parametrize("space", [spaces.Discrete(6), spaces.Box(-1, 1, (2,))])
def test_actions_of_the_space_are_accepted_alone_and_in_batches(space):
    space.seed(0)
    spec = ActionSpec.from_space(space)
    actions = np.stack([space.sample() for _ in range(8)])
    spec.validate(actions)
    spec.validate(actions[0])
    spec.validate(actions[:0])


@pytest.mark.parametrize("bound", [1.0, 0.7, 2.0, 100.0])
def test_what_float32_rounded_out_of_a_box_is_accepted_and_more_is_not(bound):
    spec = ActionSpec.from_space(spaces.Box(-bound, bound, (2,), np.float32))
    out = np.nextafter(np.float32(bound), np.float32(np.inf))
    assert out > bound
    spec.validate(np.array([[out, 0.0], [0.0, -out]], np.float32))
    spec = ActionSpec.from_space(spaces.Box(-0.1, 0.1, (1,), np.float64))
    spec.validate(np.array([0.1], np.float32))  # which is 0.1000000015
    with pytest.raises(SpaceError, match=r"of step 1 is outside Box\(-0.1, 0.1"):
        spec.validate(np.array([[0.0], [0.100001]]), each="step")


def test_other_action_spaces_are_refused():
    with pytest.raises(SpaceError, match=r"MultiDiscrete.* cannot be learned; expected Discrete or Box"):
        ActionSpec.from_space(spaces.MultiDiscrete([2, 2]))
