"""A weighted sum of rewards."""

import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from dream_env.plugins.ditto import Ditto
from dream_env.plugins.gail import Gail
from dream_env.plugins.weighted import Weighted

from dream_env import cli
from dream_env.errors import ConfigError, PluginError
from dream_env.plugin import Reward, load_reward
from dream_env.testing import check_reward, tiny_expert, tiny_rollout, tiny_world_model, transition_of

SMALL = '{"hidden": [8], "batch": 16, "learning_rate": 0.01}'


@dataclass
class StepIndex(Reward):
    """``scale · t``."""

    name: ClassVar[str] = "step-index"
    scale: float = 1.0

    @property
    def bounds(self):
        return (0.0, math.inf) if self.scale > 0 else (-math.inf, 0.0)

    def __call__(self, transition):
        return self.scale * transition.step_t.float()


STEP = f"{__name__}:StepIndex"


def rollout_of(world_model):
    return tiny_rollout(world_model, tiny_expert(world_model), 6, 5)


def prepared(world_model, **options) -> Weighted:
    reward = Weighted(**options)
    reward.prepare(world_model, tiny_expert(world_model))
    return reward


def test_reward_is_the_sum_computed_by_hand():
    world_model = tiny_world_model()
    reward = prepared(world_model, rewards=(STEP, STEP), weights=(2.0, -0.5), options=("{}", '{"scale": 3.0}'))
    # at step 4: 2·4 − ½·3·4 = 2
    assert torch.equal(reward(transition_of(rollout_of(world_model), 4)), torch.full((6,), 2.0))


def test_one_reward_of_weight_one_is_that_reward():
    world_model = tiny_world_model()
    step = transition_of(rollout_of(world_model), 3)
    assert torch.equal(prepared(world_model, rewards=("ditto",), weights=(1.0,))(step), Ditto()(step))


def test_parts_have_their_own_options_even_under_one_name():
    world_model = tiny_world_model()
    step = transition_of(rollout_of(world_model), 3)
    both = prepared(world_model, rewards=("ditto", "ditto"), weights=(1.0, 0.5), options=("{}", '{"space": "z"}'))
    torch.testing.assert_close(both(step), Ditto()(step) + 0.5 * Ditto(space="z")(step))
    assert load_reward("weighted", rewards=("gail",), weights=(1.0,), options=(SMALL,)).parts[0].hidden == (8,)


def test_bounds_add_up():
    def bounds(*weights):
        return Weighted(rewards=("ditto", "ditto", STEP)[: len(weights)], weights=weights).bounds

    assert bounds(2.0) == (-2.0, 2.0)
    assert bounds(2.0, -0.5) == (-2.5, 2.5)
    assert bounds(1.0, 1.0, 3.0) == (-2.0, math.inf)
    assert bounds(1.0, 1.0, -3.0) == (-math.inf, 2.0)
    assert bounds(1.0, 1.0, 0.0) == (-2.0, 2.0)
    mixed = Weighted(rewards=(STEP, STEP), weights=(1.0, 1.0), options=("{}", '{"scale": -1.0}'))
    assert mixed.bounds == (-math.inf, math.inf)


def test_parts_learn_as_if_they_were_alone():
    world_model = tiny_world_model()
    rollout = rollout_of(world_model)
    reward = prepared(world_model, options=("{}", SMALL))
    alone = Gail(hidden=(8,), batch=16, learning_rate=0.01)
    alone.prepare(world_model, tiny_expert(world_model))
    metrics = alone.update(rollout)
    assert reward.update(rollout) == {f"gail/{name}": value for name, value in metrics.items()}
    step = transition_of(rollout, 2)
    torch.testing.assert_close(reward(step), Ditto()(step) + 0.1 * alone(step))


def test_the_state_of_every_part_goes_on_exactly():
    world_model = tiny_world_model()
    rollout = rollout_of(world_model)
    options = {"rewards": ("gail", "ditto", "gail"), "weights": (1.0, 1.0, 1.0)}
    options["options"] = (SMALL, "{}", '{"seed": 1, "form": "logit"}')
    unbroken, resumed = prepared(world_model, **options), prepared(world_model, **options)
    metrics = unbroken.update(rollout)
    assert {name.split("/")[0] for name in metrics} == {"gail.0", "gail.2"}
    state = {name: tensor.clone() for name, tensor in unbroken.state_dict().items()}
    assert {name.split("/")[0] for name in state} == {"0", "2"}
    resumed.load_state_dict(state)
    assert resumed.update(rollout) == unbroken.update(rollout)
    step = transition_of(rollout, 1)
    assert torch.equal(resumed(step), unbroken(step))
    assert not torch.equal(unbroken.parts[0](step), unbroken.parts[2](step))


def test_a_state_of_other_parts_is_refused():
    world_model = tiny_world_model()
    state = prepared(world_model).state_dict()
    with pytest.raises(PluginError, match=r"reward 'weighted' of ditto was given a state with '1/.*none of its parts"):
        prepared(world_model, rewards=("ditto",), weights=(1.0,)).load_state_dict(state)
    with pytest.raises(PluginError, match="reward 'ditto' keeps no state"):
        prepared(world_model, rewards=("ditto", "ditto")).load_state_dict(state)
    with pytest.raises(PluginError, match="of none of its parts"):
        prepared(world_model).load_state_dict({"weights": torch.zeros(1)})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weights": (0.5, -2.0)},
        {"rewards": ("ditto", "ditto", "gail"), "weights": (1.0, 0.0, 0.1), "options": ("{}", '{"metric": "nearest"}')},
        {"rewards": ("gail", "gail"), "weights": (1.0, 1.0), "options": (SMALL, '{"seed": 1, "form": "logit"}')},
        {"rewards": ("weighted", STEP), "weights": (1.0, 1.0)},
    ],
)
def test_weighted_keeps_the_contract(options):
    check_reward("weighted", **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rewards": ("ditto",)}, ConfigError, "1 rewards, 2 weights and 0 options came"),
        ({"rewards": (), "weights": ()}, ConfigError, "one or more rewards"),
        ({"options": ("{}", "{}", "{}")}, ConfigError, "2 rewards, 2 weights and 3 options came"),
        ({"options": ("space=z",)}, ConfigError, "each of weighted's options is a JSON object, not 'space=z'"),
        ({"options": ("[1]",)}, ConfigError, r"each of weighted's options is a JSON object, not '\[1\]'"),
        ({"options": ('{"spce": "z"}',)}, PluginError, "reward 'ditto' has no option 'spce'. Did you mean \"space\""),
        ({"rewards": ("ditto", "gial")}, PluginError, "no reward named 'gial'. Did you mean \"gail\""),
    ],
)
def test_options_that_do_not_fit_are_named(options, error, message):
    with pytest.raises(error, match=message):
        load_reward("weighted", **options)


def test_options_are_flags(monkeypatch):
    seen = []
    monkeypatch.setattr(cli, "imitate_stage", lambda stage, reward, learner: seen.append(reward))
    words = ["--reward", "weighted", "--weighted.rewards", "gail", "ditto", "--weighted.weights", "0.5", "-1"]
    words += ["--weighted.options", SMALL, '{"space": "both"}']
    cli.main(["imitate", "wm", "--out", "x", *words])
    assert seen == [Weighted(("gail", "ditto"), (0.5, -1.0), (SMALL, '{"space": "both"}'))]
    assert seen[0].parts == [Gail(hidden=(8,), batch=16, learning_rate=0.01), Ditto(space="both")]
