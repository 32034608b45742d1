"""A world model fitted to one dataset, in which the episodes of another are imitated."""

import shutil
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from recordings import buffers, record
from small_datasets import fit_squares, record_cartpole, record_squares, tiny_fit, use

from dream_env.agent import load_agent
from dream_env.checkpoint import Store, load, model_folder, read_json, read_tensors
from dream_env.errors import CheckpointError, DatasetError, EnvironmentMismatch, SpaceError
from dream_env.imitated import Imitated, imitated
from dream_env.measuring.evaluation import EvaluateStage, evaluate_stage
from dream_env.measuring.results import read
from dream_env.model.encoded import encode, load_encoded
from dream_env.plugin import load_learner
from dream_env.recordings.demos import Demos
from dream_env.run_folder import MetricsLog
from dream_env.spaces import ObservationConfig
from dream_env.stages import ImitateStage, fit_stage, imitate_stage

OTHERS = "squares/others-v0"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two datasets of squares, and a world model fitted to the first."""
    root = fit_squares(tmp_path_factory.mktemp("others"))
    with pytest.MonkeyPatch.context() as patch:
        use(patch, root)
        record_squares(OTHERS, episodes=6, seed=5)
    return root


@pytest.fixture(autouse=True)
def folders(root, monkeypatch):
    use(monkeypatch, root)


def imitate(wm, out, learner="bc", **changes):
    stage = ImitateStage(wm, out, dataset=OTHERS, steps=60, num_envs=4, horizon=5, snapshots=0)
    made = load_learner(learner, **({"warm_start_updates": 2, "hidden": (8,)} if learner == "ditto" else {}))
    return imitate_stage(replace(stage, **changes), "ditto", made, progress=False)


@pytest.mark.parametrize("learner", ["ditto", "bc"])
def test_the_others_are_imitated_and_the_model_is_the_same(root, tmp_path, learner):
    agent = imitate(root / "wm", tmp_path / "run", learner)
    kept = tmp_path / "run" / "imitated"
    assert load(kept).source.dataset == OTHERS
    assert load(root / "wm").source.dataset == "squares/right-v0"
    before, after = load(root / "wm").state_dict(), load(kept).state_dict()
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
    train, held_out = load_encoded(kept, "train"), load_encoded(kept, "held_out")
    assert sorted([*train.indices.tolist(), *held_out.indices.tolist()]) == list(range(6))
    demos = Demos.load(OTHERS, load(kept).observation_spec.config)
    again = encode(load(root / "wm"), demos.split(2)[0])
    assert torch.equal(again.tensors()["deter"], train.tensors()["deter"])
    assert read_json(agent / "meta.json")["demos"] == 4
    np.testing.assert_array_equal(read_json(kept / "meta.json")["expert_returns"], demos.returns)
    loaded = load_agent(agent)
    assert loaded.predict(np.zeros((3, 16, 16), np.uint8))[0].shape == (3,)
    assert model_folder(agent / "imitated") == kept


def test_called_again_nothing_is_encoded_or_learned(root, tmp_path, monkeypatch):
    agent = imitate(root / "wm", tmp_path / "run")
    monkeypatch.setattr("dream_env.imitated.encode", None)  # would be called
    monkeypatch.setattr("dream_env.plugins.cloning_learners.CloningLearner.learn", None)
    assert imitate(root / "wm", tmp_path / "run") == agent


def test_a_run_that_is_stopped_before_its_model_is_kept_or_in_mid_training_goes_on(root, tmp_path, monkeypatch):
    unbroken = imitate(root / "wm", tmp_path / "whole", "ditto", steps=200)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Imitated, "keep", stop)
        with pytest.raises(KeyboardInterrupt):
            imitate(root / "wm", tmp_path / "run", "ditto", steps=200)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]
    with monkeypatch.context() as patch:
        patch.setattr(Store, "due", lambda self: True)
        patch.setattr(MetricsLog, "add", lambda self, row: stop() if row["steps"] >= 100 else None)
        with pytest.raises(KeyboardInterrupt):
            imitate(root / "wm", tmp_path / "run", "ditto", steps=200)
    assert Store(tmp_path / "run").latest_folder() is not None
    monkeypatch.setattr("dream_env.imitated.encode", None)  # would be called
    imitate(root / "wm", tmp_path / "run", "ditto", steps=200)
    ours, theirs = (read_tensors(agent / "policy.safetensors") for agent in (tmp_path / "run", unbroken))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_an_agent_whose_model_is_gone_says_where_it_was(root, tmp_path):
    agent = imitate(root / "wm", tmp_path / "run")
    shutil.rmtree(agent / "imitated")
    with pytest.raises(
        CheckpointError, match=r"was trained in the world model ./imitated, which is not there \(looked in"
    ):
        load_agent(agent)


def test_it_is_part_of_what_the_run_is(root, tmp_path):
    imitate(root / "wm", tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"dataset is 'squares/others-v0' there and None here"):
        imitate(root / "wm", tmp_path / "run", dataset="")
    imitate(root / "wm", tmp_path / "own", dataset="")
    assert "dataset" not in read_json(tmp_path / "own" / "run.json")
    assert not (tmp_path / "own" / "imitated").exists()


def test_a_row_says_whom_and_what_the_model_was_fitted_to(root, tmp_path, monkeypatch):
    record_cartpole("cart/one-v0", 4, 20)
    record_cartpole("cart/two-v0", 4, 25)
    fit_stage(tiny_fit("cart/one-v0", tmp_path / "wm", observation=ObservationConfig()), progress=False)
    agent = imitate(tmp_path / "wm", tmp_path / "run", dataset="cart/two-v0")
    evaluate_stage(EvaluateStage(agent, episodes=1, snapshot_episodes=0, video=False), progress=False)
    rows = read(agent / "evaluation.csv")
    assert {row.dataset for row in rows} == {"cart/two-v0"}
    assert '"fit.dataset": "cart/one-v0"' in rows[-1].options
    assert [row.return_mean for row in rows if row.method == "expert"] == [25.0]


def test_what_does_not_fit_leaves_no_folder_behind(root, tmp_path):
    record(
        "squares/wide-v0",
        buffers(wide := spaces.Box(0, 255, (16, 24), np.uint8), spaces.Discrete(3)),
        wide,
        spaces.Discrete(3),
    )
    record_squares("squares/few-v0", episodes=2)
    cases = {
        "squares/wide-v0": (SpaceError, "does not fit the world model"),
        "squares/few-v0": (
            DatasetError,
            "has 2 episodes, of which 2 are held out to measure on; it needs at least one more",
        ),
    }
    for dataset, (error, message) in cases.items():
        with pytest.raises(error, match=message):
            imitate(root / "wm", tmp_path / "run", dataset=dataset)
        assert not (tmp_path / "run").exists()
    with pytest.raises(DatasetError, match="a horizon of 21 steps does not fit"):
        imitate(root / "wm", tmp_path / "run", horizon=21)
    assert not (tmp_path / "run").exists()


def test_recordings_of_another_environment_are_refused_before_they_are_converted(tmp_path, monkeypatch):
    record_cartpole()
    fit_stage(tiny_fit("cart/rule-v0", tmp_path / "wm", observation=ObservationConfig()), progress=False)
    other = gymnasium.make("Acrobot-v1")
    episode = EpisodeBuffer(
        observations=np.zeros((9, 6), np.float32), actions=np.zeros(8, int), rewards=[0.0] * 8, terminations=[False] * 8,
        truncations=[False] * 7 + [True],
    )  # fmt: skip
    record("cart/other-v0", [episode] * 4, other.observation_space, other.action_space, env=other)
    monkeypatch.setattr(Demos, "load", None)  # would be called
    with pytest.raises(EnvironmentMismatch, match=r"are of Acrobot-v1, but the world model .* is of CartPole-v1"):
        imitated(tmp_path / "wm", "cart/other-v0", tmp_path / "run")
