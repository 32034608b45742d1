"""A row tells all it takes to train its policy again, and nothing that was left as it is."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dream_env.measuring.families import reward_options
from dream_env.measuring.results import Row
from dream_env.measuring.training import changed_options, preset_of, told
from dream_env.model.rssm import RSSMConfig
from dream_env.model.world_model import WorldModelConfig
from dream_env.plugin import Reward, available, find, load_learner, load_reward, plugin_identity
from dream_env.run_folder import plain
from dream_env.stages import FitStage, _fit_identity

RUN = {"stage": "imitate", "wm": "wm", "steps": 4_000_000, "num_envs": 128, "online_steps": 0, "seed": 3, "horizon": 7}
AMOUNTS = {"steps": 4_000_000, "num_envs": 128, "wm": "wm"}
"""Of that run, in a model that nobody knows the fit of."""


def options_of(reward, learner, run=None, fit=None):
    meta = {"reward": plain(plugin_identity(reward)), "options": plain(plugin_identity(learner)), "demos": 15}
    return json.loads(told(meta, RUN if run is None else run, fit or {}, WorldModelConfig.small())["options"] or "{}")


def fit_of(preset="small", **changes):
    return _fit_identity(replace(FitStage.of(preset, "d/d-v0", Path("wm")), **changes))


def test_options_of_reward_and_learner_that_have_one_name_are_told_apart():
    options = options_of(load_reward("gail", learning_rate=1e-4, hidden=(8,)), load_learner("ditto", hidden=(9,)))
    assert options == {**AMOUNTS, "gail.learning_rate": 1e-4, "gail.hidden": [8], "hidden": [9]}


@dataclass
class Needs(Reward):
    """One option has no default, one is no JSON."""

    target: int
    scale: float = 1.0
    where: Path = Path("here")

    def __call__(self, transition):
        raise NotImplementedError


def test_of_a_reward_that_needs_an_option_the_others_are_still_told_only_if_they_were_changed():
    assert changed_options(plugin_identity(Needs(3))) == {"target": 3}
    assert changed_options(plugin_identity(Needs(3, where=Path("there")))) == {"target": 3, "where": "there"}


@pytest.mark.parametrize("kind", ["rewards", "learners"])
def test_what_ships_has_changed_nothing_where_nothing_was_said(kind):
    for name in available(kind):
        assert changed_options(plain(plugin_identity(find(kind, name)()))) == {}, name


def test_all_options_of_a_reward_are_known_where_it_is_installed():
    common = {"experiment": "e", "environment": "E", "dataset": "d", "learner": "ppo", "episodes": 1, "normalized": 0.0,
              "return_mean": 0.0, "return_iqm": 0.0, "return_low": 0.0, "return_high": 0.0}  # fmt: skip
    name = f"{__name__}:Needs"
    told = json.dumps({f"{name}.target": 3, "steps": 8})
    assert reward_options(Row(method=name, options=told, **common)) == {"target": 3, "scale": 1.0, "where": "here"}
    assert reward_options(Row(method="gail", **common)).items() >= {"hidden": (256, 256), "form": "probability"}.items()
    assert reward_options(Row(method="gone", options='{"gone.x": 1}', **common)) == {"x": 1}


def test_an_online_run_counts_real_steps_and_a_clone_has_no_reward():
    online = options_of(load_reward("cmil"), load_learner("cmil"), {**RUN, "online_steps": 8000})
    assert online == {"online_steps": 8000, "wm": "wm"}
    assert options_of(load_reward("ditto", metric="l2"), load_learner("bc")) == AMOUNTS


def test_of_the_fit_what_is_not_the_presets():
    stage = FitStage.of("small", "d/d-v0", Path("wm"))
    fit = fit_of(
        also=("d/other-v0",), held_out=5, train=replace(stage.train, updates=10, seed=3, log_every=1),
        observation=replace(stage.observation, crop=(1, 2, 3, 4)), model=replace(stage.model, rssm=RSSMConfig(deter=8)),
    )  # fmt: skip
    options = options_of(load_reward("ditto"), load_learner("ditto"), {"seed": 3}, fit)
    assert options == {
        "fit.also": ["d/other-v0"], "fit.held_out": 5, "fit.updates": 10, "fit.observation.crop": [1, 2, 3, 4],
        "fit.model.rssm.deter": 8,
    }  # fmt: skip
    assert options_of(load_reward("ditto"), load_learner("ditto"), {"seed": 1}, fit)["fit.seed"] == 3


@pytest.mark.parametrize("preset", ["small", "paper", "small-gaussian", "paper-gaussian"])
def test_a_preset_left_alone_says_only_what_is_held_out(preset):
    assert options_of(load_reward("ditto"), load_learner("ditto"), {}, fit_of(preset)) == {"fit.held_out": 2}


def test_what_nobody_wrote_down_is_unknown():
    columns = told({}, {}, {}, WorldModelConfig.small())
    assert (columns["method"], columns["learner"], columns["options"]) == ("unknown", "unknown", "")


def test_preset_is_recognised_whatever_the_arithmetic():
    assert preset_of(WorldModelConfig.small()) == "small"
    assert preset_of(WorldModelConfig(precision="bfloat16")) == "small"
    assert preset_of(WorldModelConfig.paper()) == "paper"
    assert preset_of(WorldModelConfig.small_gaussian()) == "small-gaussian"
    assert preset_of(WorldModelConfig(rssm=RSSMConfig(deter=77))) == "custom"
