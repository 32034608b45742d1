"""A result file of many runs as lines of figures: which rows belong together, and which are an ablation."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from test_curves import POINT
from test_results import row

from dream_env import cli
from dream_env.errors import ConfigError
from dream_env.measuring import curves, results
from dream_env.measuring.statistics import interval_over_runs, iqm
from dream_env.measuring.study import Study, score
from dream_env.showing.study_report import correlations, study_report


def trained(name, level, *, seed=0, demos=15, horizon=15, environment="ALE/Pong-v5", **options):
    """A row of twenty games around a level."""
    games = np.random.default_rng(seed).normal(level, 1.0, 20)
    told = {key: value for key, value in options.items() if key not in ("method", "learner", "warm_start")}
    return row(
        experiment=f"paper/{name}", environment=environment, method=options.get("method", "ditto"),
        learner=options.get("learner", "ditto"), warm_start=options.get("warm_start", ""), seed=seed, n_expert=demos,
        horizon=horizon, deterministic=False, episodes=20, returns=tuple(map(float, games)),
        return_mean=float(games.mean()), options=json.dumps(told) if told else "",
    )  # fmt: skip


def level(method, value, environment="ALE/Pong-v5"):
    return row(method=method, learner="", warm_start="", environment=environment, return_mean=value, n_expert=0)


ROWS = [
    level("random", -20.0),
    level("expert", 18.0),
    level("random", -100.0, "BipedalWalker-v3"),
    *(trained("ditto", 10.0 + seed, seed=seed, demos=demos) for seed in (0, 1, 2) for demos in (4, 15)),
    trained("ditto", 99.0, demos=15, seed=0, tail=10),
    trained("ditto", 98.0, demos=15, seed=0, select="latent_distance"),
    replace(trained("ditto", 97.0), deterministic=True),
    trained("anchor", 15.0, warm_start="bc", anchor=0.3),
    trained("bc", 5.0, method="bc", learner=""),
    trained("bc", 4.0, method="bc", learner="", environment="BipedalWalker-v3"),
    *(trained(f"horizon-{h}", 12.0 - h / 5, horizon=h) for h in (5, 30)),
    *(trained(f"{m}-{s}", 3.0, seed=7, metric=m, space=s) for m, s in (("l2", "h"), ("dot", "z"), ("l2", "z"))),
]


@pytest.fixture
def path(tmp_path):
    results.write(tmp_path / "paper.csv", ROWS)
    return tmp_path / "paper.csv"


def test_a_line_has_a_run_for_each_training_seed(path):
    lines = Study.read(path).by_demos("ALE/Pong-v5")
    assert set(lines) == {"ditto", "anchor", "bc"}  # and no ablation, no other protocol, no selected policy
    assert {demos: sorted(row.seed for row in rows) for demos, rows in lines["ditto"].items()} == {
        4.0: [0, 1, 2], 15.0: [0, 1, 2]
    }  # fmt: skip
    assert set(Study.read(path).by_demos("BipedalWalker-v3")) == {"bc"}
    assert Study.read(path).levels["ALE/Pong-v5"] == {"random": -20.0, "expert": 18.0}


def test_the_score_is_the_iqm_over_all_seeds_with_an_interval_over_seeds(path):
    rows = Study.read(path).by_demos("ALE/Pong-v5")["ditto"][4.0]
    found = score(rows)
    assert found.iqm == pytest.approx(iqm(np.concatenate([row.returns for row in rows])))
    assert (found.low, found.high) == interval_over_runs([row.returns for row in rows])
    assert found.seeds == 3
    one = score(rows[:1])
    assert found.high - found.low > one.high - one.low  # three seeds that disagree


def test_other_actions_and_the_last_policies_are_asked_for(path):
    assert [r.return_mean > 96 for r in Study.read(path, deterministic=True).trained] == [True]
    assert [r.tail for r in Study.read(path, tail=True).trained] == [10]
    with pytest.raises(ConfigError, match=r"none of a trained policy with argmax actions after its last updates"):
        Study.read(path, deterministic=True, tail=True)


def test_horizons_are_those_of_trainings_that_are_otherwise_the_same(path):
    lines = Study.read(path).by_horizon("ALE/Pong-v5")
    assert set(lines) == {"ditto, 15 episodes"}
    assert {x: len(rows) for x, rows in lines["ditto, 15 episodes"].items()} == {15.0: 3, 5.0: 1, 30.0: 1}


def test_rewards_are_compared_over_the_options_that_differ_defaults_included(path):
    ((name, groups),) = Study.read(path).rewards("ALE/Pong-v5").items()
    assert name == "ditto, 15 episodes"
    found = {tuple(value for _, value in options): len(rows) for options, rows in groups.items()}
    assert found == {("h", "dot"): 3, ("h", "l2"): 1, ("z", "dot"): 1, ("z", "l2"): 1}
    assert [key for key, _ in next(iter(groups))] == ["space", "metric"]


def test_a_training_counts_once_whatever_it_is_called_and_however_often_it_was_played(path):
    again = trained("dot-h", 10.0, seed=0)  # the same games as ditto's
    longer = replace(trained("anchor", 15.0, warm_start="bc", anchor=0.3), returns=(1.0, 2.0), episodes=2)
    results.append(path, [again, longer])
    lines = Study.read(path).by_demos("ALE/Pong-v5")
    assert len(lines["ditto"][15.0]) == 3
    assert "dot-h" not in lines
    assert [r.returns for r in lines["anchor"][15.0]] == [(1.0, 2.0)]


def test_trainings_of_one_name_with_different_options_are_no_line(path):
    results.append(path, [trained("ditto", 0.0, seed=0, learning_rate=0.001)])
    lines = Study.read(path).by_demos("ALE/Pong-v5")
    assert set(lines) == {"ditto (defaults)", "ditto (learning_rate=0.001)", "anchor", "bc"}


def test_correlations_are_spearman_s_over_all_policies():
    points = [
        replace(POINT, steps=i, seed=i % 2, return_mean=float(i), latent_distance=1.0 - 0.1 * i, action_agreement=None)
        for i in range(6)
    ]
    found = correlations(points)
    assert set(found) == {"latent_distance"}
    assert (found["latent_distance"].rho, found["latent_distance"].n) == (-1.0, 6)
    assert correlations(points[:3]) == {}


def test_the_report_draws_what_there_are_rows_for(path, capsys):
    curves.append(
        curves.beside(path),
        [
            replace(
                POINT,
                method=method,
                seed=seed,
                steps=steps,
                return_mean=float(steps + seed),
                latent_distance=1 / (steps + 1),
            )
            for method in ("ditto", "bc", "l2-h")
            for seed in (0, 1)
            for steps in (0, 100, 200)
        ],
    )
    cli.main(["report", str(path), "--out", str(path.parent / "out")])
    folder = path.parent / "out"
    assert capsys.readouterr().out.strip().endswith("report.md")
    text = (folder / "report.md").read_text()
    drawn = {"through_training_pong_15", "by_demos", "by_demos_control", "by_horizon"}
    assert {file.stem for file in folder.glob("*.png")} == drawn
    for name in drawn:
        assert f"]({name}.png)" in text
        assert cv2.imread(str(folder / f"{name}.png")).std() > 5
    assert "| space \\ metric | dot | l2 |" in text
    assert text.count("| pong | 15 | l2-h |") == 0  # an ablation
    assert "| pong | 15 | all | latent distance | 12 | −" in text
    assert "| ALE/Pong-v5 | ditto, last 10 | sampled | 15 | 1 | 20 |" in text


def test_a_file_with_nothing_but_returns_gets_what_can_be_made_of_it(tmp_path):
    results.write(tmp_path / "few.csv", [row(deterministic=False, experiment="pong")])
    text = study_report(tmp_path / "few.csv").read_text()
    assert {file.name for file in (tmp_path / "few").iterdir()} == {"by_demos.png", "report.md"}
    assert "| ALE/Pong-v5 | ditto + ppo from bc |" in text
    assert "## Through training" not in text


def test_a_file_that_is_not_there_says_what_writes_one(tmp_path):
    with pytest.raises(ConfigError, match=r"no result file .*evaluate --results"):
        study_report(tmp_path / "none.csv")
