"""What ``dream-env run`` asks of each stage; the stages themselves are tested by themselves."""

import json

import pytest

from dream_env import run as module
from dream_env.collecting.collect import CollectConfig
from dream_env.measuring.evaluation import EvaluateStage
from dream_env.run import CLUMSY_SEED, RunConfig, run
from dream_env.stages import FitStage, ImitateStage


@pytest.fixture
def asked(monkeypatch):
    """Run without doing anything; returns what was asked, by the kind of its config."""

    def go(out, game="pong", progress=False, **options):
        found = {CollectConfig: [], FitStage: [], ImitateStage: [], EvaluateStage: [], "order": [], "plugins": []}

        def stage(name):
            def noted(config, *plugins, progress=True):
                found["order"].append(name)
                found["plugins"] += plugins
                found.setdefault(type(config), []).append(config)
                return getattr(config, "out", config)

            return noted

        for name in ("collect", "fit_stage", "imitate_stage", "evaluate_stage", "report"):
            monkeypatch.setattr(module, name, stage(name))
        assert run(RunConfig(game, out, **options), progress=progress) == out
        return found

    return go


def test_every_stage_starts_from_what_the_one_before_left(asked, tmp_path):
    found = asked(tmp_path, seed=3)
    assert found["order"] == ["collect", "collect", "fit_stage", "imitate_stage", "evaluate_stage", "report"]
    games, clumsy = found[CollectConfig]
    (fit,), (imitate,), (evaluate,) = found[FitStage], found[ImitateStage], found[EvaluateStage]
    assert (fit.dataset, fit.also) == (games.dataset, (clumsy.dataset,))
    assert (imitate.wm, imitate.out) == (fit.out, tmp_path / "ditto")
    assert evaluate.agent == imitate.out
    assert (fit.train.seed, imitate.seed) == (3, 3)


def test_no_game_is_both_imitated_and_clumsy_or_evaluated_on(asked, tmp_path):
    found = asked(tmp_path)
    games, clumsy = found[CollectConfig]
    (evaluate,) = found[EvaluateStage]
    ranges = [
        range(games.seed, games.seed + games.episodes),
        range(CLUMSY_SEED, CLUMSY_SEED + clumsy.episodes),
        range(evaluate.seed, evaluate.seed + evaluate.episodes),
    ]
    assert clumsy.seed == CLUMSY_SEED
    assert len(set().union(*ranges)) == sum(len(seeds) for seeds in ranges)
    assert games.dataset != clumsy.dataset
    assert clumsy.lapse > games.lapse


def test_quick_is_smaller_and_keeps_its_recordings_apart(asked, tmp_path):
    whole, quick = asked(tmp_path / "whole"), asked(tmp_path / "quick", quick=True)
    names = [{config.dataset for config in found[CollectConfig]} for found in (whole, quick)]
    assert not names[0] & names[1]
    assert sum(config.episodes for config in quick[CollectConfig]) < 10
    assert quick[FitStage][0].train.updates < whole[FitStage][0].train.updates
    assert quick[ImitateStage][0].steps < whole[ImitateStage][0].steps


def test_without_clumsy_games_the_model_learns_from_the_expert_alone(asked, tmp_path):
    found = asked(tmp_path, clumsy=0, dataset="mine/pong-v3")
    (games,), (fit,) = found[CollectConfig], found[FitStage]
    assert (games.dataset, fit.dataset, fit.also) == ("mine/pong-v3", "mine/pong-v3", ())


def test_the_score_is_cut_away(asked, tmp_path):
    assert asked(tmp_path)[FitStage][0].observation.crop == (10, 60, 0, 64)
    assert asked(tmp_path, game="breakout")[FitStage][0].observation.crop == (28, 60, 0, 64)


def test_ppo_starts_from_a_clone_and_other_learners_as_they_are(asked, tmp_path):
    _, ppo = asked(tmp_path / "ppo")["plugins"]
    assert (ppo.warm_start, ppo.anchor) == ("bc", 4)
    _, own = asked(tmp_path / "own", learner="ditto", anchor=0.3)["plugins"]
    assert (own.warm_start, own.anchor) == ("none", 0.3)


def test_a_learner_that_follows_no_reward_names_its_folder(asked, tmp_path):
    found = asked(tmp_path, learner="dbc")
    assert found[ImitateStage][0].out == found[EvaluateStage][0].agent == tmp_path / "dbc"


def test_reward_and_learner_are_passed_on(asked, tmp_path):
    found = asked(tmp_path, learner="a2c", warm_start="none", anchor=0, updates=7)
    reward, learner = found["plugins"]
    assert reward == "ditto"
    assert (learner.algorithm, learner.warm_start, learner.anchor) == ("stable_baselines3:A2C", "none", 0)
    assert found[FitStage][0].train.updates == 7


def test_without_a_reward_it_is_the_learners_usual_one(asked, tmp_path):
    found = asked(tmp_path, learner="vmail")
    assert found["plugins"][0] == "vmail"
    assert found[ImitateStage][0].out == found[EvaluateStage][0].agent == tmp_path / "vmail"
    found = asked(tmp_path, learner="vmail", reward="gail")
    assert found["plugins"][0] == "gail"
    assert found[ImitateStage][0].out == tmp_path / "gail"


def test_it_says_where_the_minutes_went(asked, tmp_path, monkeypatch, capsys):
    clock = iter([0.0, 60.0, 60.0, 240.0, 240.0, 270.0, 300.0, 330.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    asked(tmp_path, progress=True)
    assert json.loads((tmp_path / "minutes.json").read_text())["fitting"] == 3.0
    assert capsys.readouterr().out == "minutes: recording 1.0, fitting 3.0, imitating 0.5, evaluating 0.5; 5.0 in all\n"
