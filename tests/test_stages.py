"""The stages on real, small datasets: what they leave, what they refuse, and going on after a stop at any moment."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from dream_env.plugins.on_policy import PPO
from gymnasium import spaces
from recordings import buffers, record
from small_datasets import fit_squares, record_squares, tiny_fit, use

from dream_env import checkpoint, stages
from dream_env.agent import load_agent
from dream_env.checkpoint import Store, read_json, read_tensors
from dream_env.device import own_random_numbers
from dream_env.dream.env import DreamEnv
from dream_env.errors import CheckpointError, ConfigError, DatasetError, PluginError, SpaceError
from dream_env.fitting.fit import FitConfig
from dream_env.measuring.closeness import action_agreement, latent_distance
from dream_env.model.encoded import load_encoded
from dream_env.model.world_model import WorldModelConfig
from dream_env.plugin import load_learner, load_reward
from dream_env.run_folder import MetricsLog, read_metrics
from dream_env.spaces import ObservationConfig
from dream_env.stages import FitStage, ImitateStage, fit_stage, imitate_stage

OUT = Path("out")


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Folder with a dataset of squares and a world model fitted to it."""
    return fit_squares(tmp_path_factory.mktemp("squares"))


@pytest.fixture(autouse=True)
def folders(squares, monkeypatch):
    use(monkeypatch, squares)


def fit(out, **changes):
    return fit_stage(tiny_fit("squares/right-v0", out, **changes), progress=False)


def imitate(wm, out, reward="ditto", **changes):
    stage = ImitateStage(wm, out, steps=120, num_envs=4, horizon=5, snapshots=2)
    learner = load_learner(
        "ppo", n_steps=10, minibatches=2, epochs=1, net_arch=(8,), warm_start="bc", warm_start_updates=3
    )
    return imitate_stage(replace(stage, **changes), reward, learner, progress=False)


def stop_at(monkeypatch, index, count):
    """Ctrl-C as soon as metrics of ``count`` are logged, with everything saved until then."""
    add = MetricsLog.add

    def stopping(self, metrics):
        if metrics[index] > count:
            raise KeyboardInterrupt
        add(self, metrics)

    monkeypatch.setattr(MetricsLog, "add", stopping)
    monkeypatch.setattr(Store, "due", lambda self: True)


def never(*args, **kwargs):
    raise AssertionError("this was done before")


def numbers(path):
    return [{name: x for name, x in row.items() if name != "minutes"} for row in read_metrics(path)]


def assert_equal_tensors(one, other):
    a, b = read_tensors(one), read_tensors(other)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# ------------------------------------------------------------------------------------------------------------------ fit


def test_fit_leaves_all_that_the_next_stage_needs(squares):
    wm = squares / "wm"
    left = {path.name for path in wm.iterdir()}
    assert left == {
        "config.json", "expert_held_out.safetensors", "expert_train.safetensors", "meta.json", "metrics.csv",
        "open_loop.mp4", "run.json", "tensorboard", "weights.safetensors",
    }  # fmt: skip
    world_model = checkpoint.load(wm)
    assert world_model.source.dataset == "squares/right-v0"
    assert not world_model.training
    train, held_out = load_encoded(wm, "train"), load_encoded(wm, "held_out")
    assert (train.num_episodes, held_out.num_episodes) == (3, 1)
    assert sorted([*train.indices.tolist(), *held_out.indices.tolist()]) == [0, 1, 2, 3]
    meta = read_json(wm / "meta.json")
    assert (meta["preset"], meta["updates"], meta["episodes"]) == ("small", 6, 3)
    assert len(meta["expert_returns"]) == 4
    assert meta["metrics"]["update"] == 6
    rows = read_metrics(wm / "metrics.csv")
    assert [row["update"] for row in rows] == [2, 4, 6]
    assert ["open_loop_1/image" in row for row in rows] == [False, True, True]


def test_no_model_learns_from_what_is_held_out(tmp_path, monkeypatch):
    seen = {}

    def looking(world_model, learned, config, *, held_out, **options):
        (part,) = learned.parts
        seen.update(learned=part.indices.tolist(), held_out=held_out.indices.tolist())
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "fit", looking)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "wm")
    assert (len(seen["learned"]), len(seen["held_out"])) == (3, 1)
    assert sorted(seen["learned"] + seen["held_out"]) == [0, 1, 2, 3]


def test_a_second_call_of_fit_returns_at_once(squares, monkeypatch):
    monkeypatch.setattr(stages, "fit", never)
    monkeypatch.setattr(stages, "encode", never)
    assert fit(squares / "wm") == squares / "wm"


def test_a_fit_that_was_stopped_goes_on_and_ends_where_an_unbroken_one_does(squares, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, "update", 4)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "wm")
    assert Store(tmp_path / "wm").latest()[0] == 5
    with pytest.raises(CheckpointError, match=r"its training has not finished; run the same `dream-env fit` command"):
        checkpoint.load(tmp_path / "wm")
    fit(tmp_path / "wm")
    for name in ("weights", "expert_train", "expert_held_out"):
        assert_equal_tensors(tmp_path / "wm" / f"{name}.safetensors", squares / "wm" / f"{name}.safetensors")
    # What was measured at update 6 before the stop was lost with it: it is measured again, and nothing is there twice.
    assert numbers(tmp_path / "wm" / "metrics.csv") == numbers(squares / "wm" / "metrics.csv")


def test_a_fit_does_not_go_on_with_other_recordings_of_the_same_name(tmp_path, monkeypatch):
    use(monkeypatch, tmp_path)  # a dataset of this test's own
    record_squares()
    with monkeypatch.context() as patch:
        stop_at(patch, "update", 4)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "wm")
    folder = tmp_path / "minari" / "squares" / "right-v0"
    kept = tmp_path / "kept"
    shutil.move(folder, kept)
    record_squares(seed=1)
    with pytest.raises(CheckpointError, match=r"wm learned from has changed since it was begun, under the same name"):
        fit(tmp_path / "wm")
    shutil.rmtree(folder)
    shutil.copytree(kept, folder)  # the same again, of another time
    fit(tmp_path / "wm")


def test_a_stop_between_training_and_the_last_file_costs_no_training(squares, tmp_path, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "encode", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "wm")
    with monkeypatch.context() as patch:
        patch.setattr("dream_env.model.world_model.WorldModel.loss", never)
        fit(tmp_path / "wm")
    assert_equal_tensors(tmp_path / "wm" / "weights.safetensors", squares / "wm" / "weights.safetensors")
    assert numbers(tmp_path / "wm" / "metrics.csv") == numbers(squares / "wm" / "metrics.csv")


def test_minutes_of_all_tries_are_added_up(squares, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, "update", 4)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "wm")
    path = tmp_path / "wm" / "metrics.csv"
    head, *rows = path.read_text().splitlines()
    place = head.split(",").index("minutes")
    hour = [",".join("60" if i == place else cell for i, cell in enumerate(row.split(","))) for row in rows]
    path.write_text("\n".join([head, *hour]) + "\n")
    fit(tmp_path / "wm")
    assert 60 < read_json(tmp_path / "wm" / "meta.json")["minutes"] < 62


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": FitConfig(updates=8, batch=4, length=6, log_every=2, test_every=4, warmup=1)},
         "train.updates is 6 there and 8 here"),
        ({"held_out": 2}, "held_out is 1 there and 2 here"),
        ({"observation": ObservationConfig(size=8)}, "observation.size is 16 there and 8 here"),
    ],
)  # fmt: skip
def test_fitting_with_other_options_into_the_same_folder_is_refused(squares, changes, message):
    before = (squares / "wm" / "weights.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=message):
        fit(squares / "wm", **changes)
    assert (squares / "wm" / "weights.safetensors").read_bytes() == before


@pytest.mark.parametrize("held_out", [0, 4, 9])
def test_more_held_out_episodes_than_there_are_leave_no_folder_behind(tmp_path, held_out):
    with pytest.raises(DatasetError, match=f"squares/right-v0 has 4 episodes, of which {held_out} are to be held out"):
        fit(tmp_path / "wm", held_out=held_out)
    assert not (tmp_path / "wm").exists()


def test_sequences_longer_than_an_episode_leave_no_folder_behind(tmp_path):
    with pytest.raises(DatasetError, match=r"has 20 steps .*sequences need 32"):
        fit(tmp_path / "wm", train=FitConfig())
    assert not (tmp_path / "wm").exists()


def test_further_recordings_are_learned_from_and_not_imitated(tmp_path):
    record_squares("squares/more-v0", episodes=2, steps=12, seed=9)
    fit(tmp_path / "wm", also=("squares/more-v0",))
    assert read_json(tmp_path / "wm" / "meta.json")["also"] == ["squares/more-v0"]
    assert load_encoded(tmp_path / "wm").lengths.tolist() == [20, 20, 20]


def test_further_recordings_of_other_spaces_leave_no_folder_behind(tmp_path):
    other = spaces.Box(0, 255, (9, 9), np.uint8)
    record("other/random-v0", buffers(other), other)
    with pytest.raises(SpaceError, match="'other/random-v0' does not go with 'squares/right-v0'"):
        fit(tmp_path / "wm", also=("other/random-v0",))
    assert not (tmp_path / "wm").exists()


def test_a_preset_sets_every_size():
    stage = FitStage.of("paper", "a/b-v0", OUT)
    assert stage.model == WorldModelConfig.paper()
    assert stage.train == FitConfig.paper()
    assert stage.observation == ObservationConfig.paper()
    assert FitStage.of("small", "a/b-v0", OUT) == FitStage("a/b-v0", OUT)
    with pytest.raises(ConfigError, match=r"no preset 'papr'\. Did you mean .paper."):
        FitStage.of("papr", "a/b-v0", OUT)


# -------------------------------------------------------------------------------------------------------------- imitate


@pytest.fixture(scope="module")
def agent(squares):
    with pytest.MonkeyPatch.context() as patch:
        use(patch, squares)
        return imitate(squares / "wm", squares / "ditto")


def test_imitate_leaves_an_agent_and_its_curves(squares, agent):
    left = {path.name for path in agent.iterdir()}
    assert left == {
        "config.json", "meta.json", "metrics.csv", "policy.safetensors", "reward_by_step.csv", "run.json", "snapshots",
        "tensorboard",
    }  # fmt: skip
    loaded = load_agent(agent)
    frames = np.zeros((3, 16, 16), np.uint8)
    assert loaded.predict(frames)[0].shape == (3,)
    rows = read_metrics(agent / "metrics.csv")
    assert [row["steps"] for row in rows] == [0, 40, 80, 120]
    # Looked at where half the steps are first passed, and at both ends.
    assert [row["steps"] for row in rows if "latent_distance" in row] == [0, 80, 120]
    assert [path.stem for path in sorted((agent / "snapshots").iterdir())] == ["000000000", "000000080", "000000120"]
    assert len(read_metrics(agent / "reward_by_step.csv")) == 5
    meta = read_json(agent / "meta.json")
    assert meta["reward"]["class"] == "dream_env.plugins.ditto:Ditto"
    assert (meta["options"]["warm_start"], meta["demos"], meta["steps"]) == ("bc", 3, 120)
    assert not json.loads((agent / "config.json").read_text())["world_model"].startswith("/")


def test_what_is_measured_on_the_way_is_measured_on_held_out_episodes(squares, agent):
    policy, found = load_agent(agent).policy, {}
    for split in ("train", "held_out"):
        expert = load_encoded(squares / "wm", split)
        dream = DreamEnv(256, wm=squares / "wm", expert=expert, horizon=5)
        with own_random_numbers(dream.device, 0):
            found[split] = latent_distance(policy, dream), action_agreement(policy, expert)
    last = read_metrics(agent / "metrics.csv")[-1]
    noted = last["latent_distance"], last["action_agreement"]
    assert noted == pytest.approx(found["held_out"], rel=1e-5)
    assert noted[0] != pytest.approx(found["train"][0], rel=1e-3)


def test_a_second_call_of_imitate_returns_at_once(squares, agent, monkeypatch):
    monkeypatch.setattr("dream_env.learning.on_policy.OnPolicyLearner.learn", never)
    assert imitate(squares / "wm", agent) == agent


def test_an_imitation_that_was_stopped_goes_on_and_ends_where_an_unbroken_one_does(
    squares, agent, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        stop_at(patch, "steps", 80)
        with pytest.raises(KeyboardInterrupt):
            imitate(squares / "wm", tmp_path / "ditto")
    assert Store(tmp_path / "ditto").latest()[0] == 80
    imitate(squares / "wm", tmp_path / "ditto")
    assert_equal_tensors(tmp_path / "ditto" / "policy.safetensors", agent / "policy.safetensors")
    assert numbers(tmp_path / "ditto" / "metrics.csv") == numbers(agent / "metrics.csv")
    assert [path.name for path in sorted((tmp_path / "ditto" / "snapshots").iterdir())] == [
        path.name for path in sorted((agent / "snapshots").iterdir())
    ]


def test_a_state_saved_between_two_reports_loses_no_snapshot(squares, tmp_path, monkeypatch):
    def go(out):
        learner = load_learner("ditto", hidden=(8,), report_every=4, report_last=1)
        stage = ImitateStage(squares / "wm", tmp_path / out, steps=240, num_envs=4, horizon=5, snapshots=2)
        imitate_stage(stage, "ditto", learner, progress=False)

    def kept(out):
        return [path.stem for path in sorted((tmp_path / out / "snapshots").iterdir())]

    go("unbroken")
    assert kept("unbroken") == ["000000080", "000000160", "000000240"]  # half of the steps: passed at the second report
    asked, save = [], Store.save

    def stopping(self, *given):
        save(self, *given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # After 140 steps; the last report was after 80.
        patch.setattr(Store, "due", lambda self: asked.append(1) or len(asked) == 7)
        patch.setattr(Store, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            go("resumed")
    assert Store(tmp_path / "resumed").latest()[0] == 140
    go("resumed")
    assert kept("resumed") == kept("unbroken")
    looked = [
        [row["steps"] for row in read_metrics(tmp_path / out / "metrics.csv") if "latent_distance" in row]
        for out in ("resumed", "unbroken")
    ]
    assert looked[0] == looked[1] == [80, 160, 240]


class Adversarial(PPO):
    """A learner that is used with another reward than most."""

    usual_reward: ClassVar[str] = "gail"


def test_where_no_reward_is_named_it_is_the_learners_usual_one(squares, tmp_path):
    stage = ImitateStage(squares / "wm", tmp_path / "run", steps=40, num_envs=4, horizon=5, snapshots=0)
    learner = Adversarial(n_steps=10, minibatches=2, epochs=1, net_arch=(8,))
    imitate_stage(stage, learner=learner, progress=False)
    assert read_json(tmp_path / "run" / "meta.json")["reward"]["class"] == "dream_env.plugins.gail:Gail"


def test_last_policies_of_a_learner_that_does_not_report_each_update_are_refused(squares, tmp_path):
    stage = ImitateStage(squares / "wm", tmp_path / "run", steps=120, num_envs=4, horizon=5, tail=3)
    with pytest.raises(ConfigError, match=r"Vmail does not report each of its last updates .*; leave --tail out"):
        imitate_stage(stage, learner="vmail", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 160}, "steps is 120 there and 160 here"),
        ({"reward": load_reward("ditto", space="both")}, "reward.space is 'h' there and 'both' here"),
        ({"seed": 1}, "seed is 0 there and 1 here"),
    ],
)
def test_imitating_with_other_options_into_the_same_folder_is_refused(squares, agent, changes, message):
    with pytest.raises(CheckpointError, match=message):
        imitate(squares / "wm", agent, **changes)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"horizon": 21}, DatasetError, "a horizon of 21 steps does not fit"),
        ({"demos": 4}, DatasetError, "4 expert episodes were asked for, but the model has 3"),
        ({"num_envs": 0}, ConfigError, "num_envs must be at least 1"),
        ({"reward": "dito"}, PluginError, "no reward named 'dito'. Did you mean \"ditto\""),
    ],
)
def test_what_cannot_be_imitated_leaves_no_folder_behind(squares, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        imitate(squares / "wm", tmp_path / "ditto", **changes)
    assert not (tmp_path / "ditto").exists()


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        ("pdac", "none were given: say how many with"),
        ("vmail", "gradients through actions, which must be numbers"),
    ],
)
def test_a_learner_that_cannot_learn_here_leaves_no_folder_behind(squares, tmp_path, learner, message):
    stage = ImitateStage(squares / "wm", tmp_path / "run", steps=120, num_envs=4, horizon=5)
    with pytest.raises(ConfigError, match=message):
        imitate_stage(stage, "gail", load_learner(learner), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_clone_of_recordings_that_are_not_there_leaves_no_folder_behind(squares, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "nowhere"))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "cache"))
    stage = ImitateStage(squares / "wm", tmp_path / "run", steps=120, num_envs=4, horizon=5)
    with pytest.raises(DatasetError, match=r"squares/right-v0"):
        imitate_stage(stage, "ditto", load_learner("bc"), progress=False)
    assert not (tmp_path / "run").exists()


def test_an_agent_remembers_how_many_games_it_imitated(squares, tmp_path):
    imitate(squares / "wm", tmp_path / "one", demos=1, snapshots=0, steps=40)
    assert read_json(tmp_path / "one" / "meta.json")["demos"] == 1
    assert not (tmp_path / "one" / "snapshots").exists()


def test_a_taken_folder_is_refused_before_anything_is_converted(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.setattr(stages.Demos, "load", None)  # would be called
    with pytest.raises(CheckpointError, match="is not empty and is no run of dream-env"):
        fit_stage(FitStage("game/random-v0", tmp_path), progress=False)
