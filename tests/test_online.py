"""Imitation that goes on in the real environment, on a real Pendulum: what is counted, kept, resumed and refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from dream_env.plugins.conservative import Conservative
from dream_env.plugins.conservative_run import ConservativeRun
from dream_env.plugins.online_loop import OnlineLoop

from dream_env.agent import load_agent, world_model_of
from dream_env.checkpoint import Store, load, read_json
from dream_env.collecting.collect import CollectConfig, collect
from dream_env.errors import ConfigError, DatasetError, TrainingError
from dream_env.fitting.fit import FitConfig
from dream_env.measuring.evaluation import evaluate
from dream_env.model.encoded import load_encoded
from dream_env.model.rssm import RSSMConfig
from dream_env.model.world_model import WorldModelConfig
from dream_env.online_stage import online_stage
from dream_env.plugin import Learner
from dream_env.real.environments import make_environment
from dream_env.recordings.demos import Demos
from dream_env.recordings.mixture import Mixture
from dream_env.run_folder import read_metrics
from dream_env.stages import FitStage, ImitateStage, fit_stage, imitate_stage

STEPS = 40
LEARNER = Conservative(
    rows=3, hidden=(16,), warm_start_updates=3, train_every=10, seed_steps=80, batch=2, expert_batch=2, length=8,
    target_period=2,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _here(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        patch.setenv("DREAM_ENV_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def wm(tmp_path_factory, _here):
    collect(
        CollectConfig("Pendulum-v1", "swing/random-v0", episodes=4, expert="random", max_steps=STEPS), progress=False
    )
    stage = FitStage(
        "swing/random-v0", tmp_path_factory.mktemp("wm") / "wm", held_out=1,
        model=WorldModelConfig(RSSMConfig("gaussian", 16, 4, 4, 16, ensemble=3), width=16, layers=1),
        train=FitConfig(updates=3, batch=2, length=8),
    )  # fmt: skip
    return fit_stage(stage, progress=False)


def stage_of(wm, out, **options):
    given = {"num_envs": 16, "horizon": 4, "online_steps": 4 * STEPS, "seed": 1, **options}
    return ImitateStage(wm, out, **given)


@pytest.fixture(scope="module")
def agent(wm, tmp_path_factory):
    stage = stage_of(wm, tmp_path_factory.mktemp("run") / "cmil", online_dataset="swing/online-v0")
    return online_stage(stage, learner=LEARNER, progress=False)


def test_real_steps_are_counted_and_updates_follow_them(agent):
    rows = read_metrics(agent / "metrics.csv")
    assert [row["steps"] for row in rows] == [STEPS, 2 * STEPS, 3 * STEPS, 4 * STEPS]
    assert [row["episodes"] for row in rows] == [1, 2, 3, 4]
    # None while the cloned policy plays its 80 seed steps, then one every ten.
    assert [row["updates"] for row in rows] == [0, 0, 4, 8]
    assert all(row["real_return"] < 0 for row in rows)
    assert {"model_loss", "discriminator_gap", "disagreement", "critic_loss_data"} <= rows[-1].keys()
    meta = read_json(agent / "meta.json")
    assert (meta["online_steps"], meta["real_episodes"], meta["dropped_episodes"]) == (160, 4, 0)


def test_critics_learn_from_all_that_was_recorded_and_the_expert_is_the_expert(wm, tmp_path, monkeypatch):
    drawn, given = [], []
    sample, update = Mixture.sample, ConservativeRun.update

    def noted(self, *args):
        drawn.append(self.parts)
        return sample(self, *args)

    def told(self, data, expert, pairs=None):
        given.append((data, expert))
        update(self, data, expert, pairs)

    monkeypatch.setattr(Mixture, "sample", noted)
    monkeypatch.setattr(ConservativeRun, "update", told)
    learner = replace(LEARNER, batch=5, expert_batch=2)
    online_stage(stage_of(wm, tmp_path / "noted", online_steps=3 * STEPS), learner=learner, progress=False)
    assert [[type(part).__name__ for part in parts] for parts in drawn] == [["Demos", "Replay"]] * 4
    for data, expert in given:
        assert data.is_terminal.shape == (3, 5)  # rows, whatever was recorded
        assert expert.is_terminal.shape == (8, 2)  # whole sequences of the expert


def test_the_last_round_is_played_to_its_end_and_what_was_made_is_noted(wm, tmp_path):
    made = online_stage(stage_of(wm, tmp_path / "more", online_steps=2 * STEPS + 10), learner=LEARNER, progress=False)
    meta = read_json(made / "meta.json")
    assert (meta["steps"], meta["online_steps"], meta["online_steps_asked"]) == (3 * STEPS, 3 * STEPS, 2 * STEPS + 10)
    assert read_metrics(made / "metrics.csv")[-1]["steps"] == meta["steps"]
    own = read_json(made / "wm" / "meta.json")
    assert (own["online_steps"], own["online_steps_asked"]) == (3 * STEPS, 2 * STEPS + 10)


def test_the_agent_brings_the_model_that_has_learned_on(agent, wm):
    own = world_model_of(agent)
    assert own == agent / "wm"
    played = evaluate(load_agent(agent), lambda: make_environment("Pendulum-v1", max_steps=20), 2)
    assert len(played) == 2
    assert (agent / "reward_by_step.csv").is_file()
    # And it can be dreamt in, and imitated in again.
    again = imitate_stage(ImitateStage(own, agent.parent / "again", num_envs=8, steps=64, horizon=4), progress=False)
    assert load_agent(again).world_model.source.dataset == "swing/random-v0"


def test_other_recordings_are_imitated_in_the_model_as_it_learns_on(wm, tmp_path):
    collect(
        CollectConfig("Pendulum-v1", "swing/other-v0", episodes=3, expert="random", seed=9, max_steps=STEPS),
        progress=False,
    )
    made = online_stage(
        stage_of(wm, tmp_path / "other", dataset="swing/other-v0", online_steps=3 * STEPS),
        learner=LEARNER,
        progress=False,
    )
    assert load_agent(made).world_model.source.dataset == "swing/other-v0"
    own, before = load(made / "wm"), load(made / "imitated")
    weights = own.state_dict()
    assert any(not torch.equal(weights[name], tensor) for name, tensor in before.state_dict().items())
    assert (
        load_encoded(made / "wm", "train").indices.tolist() == load_encoded(made / "imitated", "train").indices.tolist()
    )
    assert read_json(made / "meta.json")["demos"] == 1  # two of three are held out


def test_the_real_episodes_are_a_dataset(agent):
    config = load_agent(agent).world_model.observation_spec.config
    demos = Demos.load("swing/online-v0", config)
    assert demos.lengths.tolist() == [STEPS] * 4
    rows = read_metrics(agent / "metrics.csv")
    np.testing.assert_allclose(demos.returns, [row["real_return"] for row in rows], rtol=1e-5)


def test_the_same_command_again_does_nothing_and_another_is_refused(agent, wm):
    before = (agent / "policy.safetensors").stat().st_mtime_ns
    stage = stage_of(wm, agent, online_dataset="swing/online-v0")
    assert online_stage(stage, learner=LEARNER, progress=False) == agent
    assert (agent / "policy.safetensors").stat().st_mtime_ns == before


def test_a_dataset_that_cannot_be_made_is_refused_before_anything_is_played(agent, wm, tmp_path):
    for dataset, message in (("swing/online-v0", "there is a dataset"), ("no id", "is no id for a Minari dataset")):
        with pytest.raises(DatasetError, match=message):
            online_stage(stage_of(wm, tmp_path / "taken", online_dataset=dataset), learner=LEARNER, progress=False)
    assert not list((tmp_path / "taken" / "replay").glob("episode_*"))


def test_a_finished_run_still_leaves_a_dataset_that_is_missing(agent, wm):
    online_stage(stage_of(wm, agent, online_dataset="swing/later-v0"), learner=LEARNER, progress=False)
    assert Demos.load("swing/later-v0", load_agent(agent).world_model.observation_spec.config).num_episodes == 4


def test_a_killed_run_goes_on_as_if_it_had_not_stopped(agent, wm, tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    def update_until(number):
        update = OnlineLoop.update

        def counted(self):
            if self.run_.updates >= number:
                raise Killed
            update(self)

        return counted

    # Saved after every round; killed in the middle of the last one, with its episode already on disk.
    with monkeypatch.context() as patch:
        patch.setattr(Store, "due", lambda self: True)
        patch.setattr(OnlineLoop, "update", update_until(6))
        with pytest.raises(Killed):
            online_stage(stage_of(wm, tmp_path / "cut"), learner=LEARNER, progress=False)
    assert len(list((tmp_path / "cut" / "replay").glob("episode_*.json"))) == 4
    resumed = online_stage(stage_of(wm, tmp_path / "cut"), learner=LEARNER, progress=False)
    for name in ("policy.safetensors", "wm/weights.safetensors"):
        assert (resumed / name).read_bytes() == (agent / name).read_bytes(), name
    ours, theirs = read_metrics(resumed / "metrics.csv"), read_metrics(agent / "metrics.csv")
    assert [{**row, "minutes": 0} for row in ours] == [{**row, "minutes": 0} for row in theirs]


def test_workers_play_the_same_episodes(agent, wm, tmp_path):
    stage = stage_of(wm, tmp_path / "two", online_steps=STEPS, online_workers=2)
    again = online_stage(stage, learner=LEARNER, progress=False)
    assert (
        read_metrics(again / "metrics.csv")[0]["real_return"] == read_metrics(agent / "metrics.csv")[0]["real_return"]
    )


def test_who_stays_in_the_dream_is_refused(wm, tmp_path):
    with pytest.raises(ConfigError, match="stays in the dream and makes no real steps"):
        online_stage(stage_of(wm, tmp_path / "no"), learner="ppo", progress=False)
    with pytest.raises(ConfigError, match="compares each step with the expert's"):
        online_stage(stage_of(wm, tmp_path / "no"), "ditto", LEARNER, progress=False)
    with pytest.raises(ConfigError, match="--precision is of dreams in a model that stands still"):
        online_stage(stage_of(wm, tmp_path / "no", precision="bfloat16"), learner=LEARNER, progress=False)
    with pytest.raises(ConfigError, match="imitate_stage stays in the dream"):
        imitate_stage(stage_of(wm, tmp_path / "no"))
    assert not (tmp_path / "no").exists()  # the right command may take the same folder
    assert Learner.usual_reward == "ditto"
    assert Conservative.usual_reward == "cmil"


def test_an_exploding_world_model_is_told_of(wm, tmp_path, monkeypatch):
    # Everything else that learns would fall over first, in the dreams of a model that its first step has broken.
    monkeypatch.setattr(ConservativeRun, "update", lambda *_: None)
    wild = replace(LEARNER, model_learning_rate=1e30, seed_steps=0)
    message = rf"the world model's loss stopped being finite after {STEPS} real steps; lower model_learning_rate \(it is 1e\+30\)"
    with pytest.raises(TrainingError, match=message):
        online_stage(stage_of(wm, tmp_path / "wild"), learner=wild, progress=False)


def test_demonstrations_shorter_than_a_sequence_are_told_of_before_anything_is_played(wm, tmp_path):
    message = r"a sequence is of 60 rows, 59 steps .* \(the longest has 40 steps\)\. Take a shorter --length"
    with pytest.raises(DatasetError, match=message):
        online_stage(stage_of(wm, tmp_path / "short"), learner=replace(LEARNER, length=60), progress=False)
    assert not (tmp_path / "short").exists()  # the right command may take the same folder


def test_reports_change_nothing_that_is_learned(wm, tmp_path, monkeypatch):
    report, looked = OnlineLoop._report, []

    def watched(self, played):
        before = self.rng.bit_generator.state, self.run_.generator.get_state()
        metrics = report(self, played)
        assert self.rng.bit_generator.state == before[0]
        assert torch.equal(self.run_.generator.get_state(), before[1])
        looked.append("disagreement" in metrics)
        return metrics

    monkeypatch.setattr(OnlineLoop, "_report", watched)
    online_stage(stage_of(wm, tmp_path / "run", online_steps=3 * STEPS), learner=LEARNER, progress=False)
    assert looked == [False, False, True]
