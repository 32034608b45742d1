"""The last policies of a training: which are kept, also by a run that was cut off in the middle of them."""

from dataclasses import replace

import pytest
import torch
from small_datasets import fit_squares, use

from dream_env.checkpoint import Store, read_tensors
from dream_env.errors import ConfigError
from dream_env.learning.tail import Tail, tail
from dream_env.plugin import load_learner
from dream_env.run_folder import MetricsLog, read_metrics
from dream_env.stages import ImitateStage, imitate_stage


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A dataset of squares and a world model fitted to it."""
    return fit_squares(tmp_path_factory.mktemp("tail"))


@pytest.fixture(autouse=True)
def folders(root, monkeypatch):
    use(monkeypatch, root)


def imitate(root, out, learner="ditto", **changes):
    options = {"hidden": (8,), "report_every": 4, "report_last": 3} if learner == "ditto" else {}
    options |= {"n_steps": 10, "minibatches": 2, "epochs": 1, "net_arch": (8,)} if learner == "ppo" else {}
    stage = ImitateStage(root / "wm", out, steps=20 * 10, num_envs=4, horizon=5, snapshots=1, tail=3)
    return imitate_stage(replace(stage, **changes), "ditto", load_learner(learner, **options), progress=False)


def test_the_newest_are_kept_and_those_to_be_made_again_dropped(tmp_path):
    weights = {"weight": torch.zeros(2)}
    kept = Tail(tmp_path, 3)
    for steps in (10, 20, 30, 40, 5_000_000_000):
        kept.add(steps, {"weight": torch.full((2,), float(steps))})
    assert list(tail(tmp_path)) == [30, 40, 5_000_000_000]
    assert read_tensors(tail(tmp_path)[40])["weight"].tolist() == [40.0, 40.0]
    resumed = Tail(tmp_path, 3, start=40)
    assert list(tail(tmp_path)) == [30, 40]
    resumed.add(50, weights)
    assert list(tail(tmp_path)) == [30, 40, 50]
    Tail(tmp_path / "none", 0).add(10, weights)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("learner", ["dbc", "bc"])
def test_a_clone_is_kept_after_each_of_its_last_gradient_steps(root, tmp_path, learner):
    stage = ImitateStage(root / "wm", tmp_path / "agent", steps=200, num_envs=4, horizon=5, snapshots=1, tail=3)
    imitate_stage(stage, "ditto", load_learner(learner, batch=10, log_every=7, net_arch=(8,)), progress=False)
    assert list(tail(tmp_path / "agent")) == [180, 190, 200]
    rows = read_metrics(tmp_path / "agent" / "metrics.csv")
    assert [row["steps"] for row in rows] == [70, *range(110, 201, 10)]


def test_a_clone_to_start_from_is_no_policy_after_an_update(root, tmp_path):
    learner = load_learner("ditto", hidden=(8,), warm_start="bc", warm_start_updates=2)
    stage = ImitateStage(root / "wm", tmp_path / "agent", steps=40, num_envs=4, horizon=5, snapshots=0, tail=3)
    imitate_stage(stage, "ditto", learner, progress=False)
    assert [row["steps"] for row in read_metrics(tmp_path / "agent" / "metrics.csv")] == [0, 20, 40]
    assert list(tail(tmp_path / "agent")) == [20, 40]


def test_the_policies_after_the_last_updates_are_kept(root, tmp_path):
    imitate(root, tmp_path / "agent")
    assert list(tail(tmp_path / "agent")) == [160, 180, 200]
    weights = [read_tensors(path) for path in tail(tmp_path / "agent").values()]
    final = read_tensors(tmp_path / "agent" / "policy.safetensors")
    for name, last in final.items():
        assert torch.equal(weights[-1][name], last)
    assert not all(torch.equal(weights[0][name], weights[1][name]) for name in final)


def test_more_of_them_than_a_learner_reports_are_refused(root, tmp_path):
    with pytest.raises(ConfigError, match="reports each of its last 3 alone; give --report-last 4 too"):
        imitate(root, tmp_path / "ditto", tail=4)
    assert not (tmp_path / "ditto").exists()


def test_of_sb3_those_after_its_last_updates(root, tmp_path):
    imitate(root, tmp_path / "agent", "ppo")
    assert list(tail(tmp_path / "agent")) == [120, 160, 200]  # an update is 10 steps of 4 dreams


def test_a_run_cut_off_in_its_last_updates_keeps_the_same_policies(root, tmp_path, monkeypatch):
    imitate(root, tmp_path / "unbroken")
    add, due = MetricsLog.add, Store.due

    def stopping(self, metrics):
        if metrics["steps"] >= 200:
            raise KeyboardInterrupt
        add(self, metrics)

    saves = []

    def early(self):
        saves.append(1)
        return len(saves) == 8  # a checkpoint after 160 steps, and then no more

    monkeypatch.setattr(MetricsLog, "add", stopping)
    monkeypatch.setattr(Store, "due", early)
    with pytest.raises(KeyboardInterrupt):
        imitate(root, tmp_path / "resumed")
    assert list(tail(tmp_path / "resumed")) == [80, 160, 180]
    monkeypatch.setattr(MetricsLog, "add", add)
    monkeypatch.setattr(Store, "due", due)
    imitate(root, tmp_path / "resumed")
    ours, theirs = tail(tmp_path / "resumed"), tail(tmp_path / "unbroken")
    assert list(ours) == list(theirs) == [160, 180, 200]
    for steps, path in ours.items():
        for name, tensor in read_tensors(path).items():
            assert torch.equal(tensor, read_tensors(theirs[steps])[name])
