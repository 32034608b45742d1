"""A result file of many runs as lines of figures and tables: which rows belong together, and which are an ablation."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_curves import POINT
from test_results import row

from dream_env import cli
from dream_env.errors import ConfigError
from dream_env.measuring import curves, results
from dream_env.measuring.families import changed_reward
from dream_env.measuring.statistics import interval_over_runs, iqm
from dream_env.measuring.study import Study, comparisons, labelled, names, score, seeds_said, world_models
from dream_env.measuring.tables import number, rows_table
from dream_env.showing.last_policies import within_models
from dream_env.showing.study_report import by_world_model, correlations, study_report

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SLIPS, A3C = "dream/pong/slips-v1", "pong/baby-a3c-v0"


def trained(name, level, *, seed=0, demos=15, horizon=15, environment="ALE/Pong-v5", dataset=SLIPS, **options):
    """A row of twenty games around a level."""
    games = np.random.default_rng(seed).normal(level, 1.0, 20)
    columns = {key: options.pop(key, default) for key, default in COLUMNS.items()}
    return row(
        experiment=f"paper/{name}", environment=environment, dataset=dataset, seed=seed, n_expert=demos, horizon=horizon,
        deterministic=False, episodes=20, returns=tuple(map(float, games)), return_mean=float(games.mean()),
        options=json.dumps(options) if options else "", **columns,
    )  # fmt: skip


COLUMNS = {"method": "ditto", "learner": "ditto", "warm_start": ""}


def level(method, value, environment="ALE/Pong-v5", dataset=SLIPS):
    """A row whose mean is not its IQM."""
    return row(
        method=method, learner="", warm_start="", environment=environment, dataset=dataset, n_expert=0,
        return_mean=value, return_iqm=value + 0.5, returns=(value - 1.0, value + 1.0),
    )  # fmt: skip


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
    *(
        trained(f"{m}-{s}", 3.0, seed=7, **{"ditto.metric": m, "ditto.space": s})
        for m, s in (("l2", "h"), ("dot", "z"), ("l2", "z"))
    ),
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
    assert Study.read(path).levels("ALE/Pong-v5") == {"expert": 18.5, "random": -19.5}


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


def study_of(tmp_path, *rows):
    results.write(tmp_path / "some.csv", rows)
    return Study.read(tmp_path / "some.csv")


def seeds_of(lines):
    return {name: {x: [row.seed for row in rows] for x, rows in line.items()} for name, line in lines.items()}


def test_a_learner_s_option_is_not_the_reward_s_of_the_same_name(tmp_path):
    gail = {"method": "gail", "learner": "ditto"}
    reward, learner = {"gail.learning_rate": 1e-4}, {"learning_rate": 1e-4}
    study = study_of(
        tmp_path, trained("gail", 1.0, **gail), trained("slower", 2.0, **gail, **learner),
        trained("judge", 3.0, **gail, **reward), trained("both", 4.0, **gail, **learner, **reward),
    )  # fmt: skip
    assert set(study.by_demos("ALE/Pong-v5")) == {"gail", "slower"}
    found = study.rewards("ALE/Pong-v5")
    assert {name: [dict(options) for options in groups] for name, groups in found.items()} == {
        "gail, 15 episodes": [{"learning_rate": 3e-4}, {"learning_rate": 1e-4}],
        "slower, 15 episodes": [{"learning_rate": 3e-4}, {"learning_rate": 1e-4}],
    }
    assert changed_reward(trained("judge", 3.0, **gail, **reward)) == (("learning_rate", 1e-4),)
    assert changed_reward(trained("bc", 3.0, method="bc", learner="", **{"bc.rate": 1})) == ()  # follows no reward


def test_a_reward_that_is_not_installed_has_options_too(tmp_path):
    other = {"method": "stranger", "learner": "ppo"}
    rows = [trained("stranger", 1.0, **other), trained("wide", 2.0, **other, **{"stranger.width": [1, 2]})]
    study = study_of(tmp_path, *rows)
    assert set(study.by_demos("ALE/Pong-v5")) == {"stranger"}
    assert [dict(of) for of in study.rewards("ALE/Pong-v5")["stranger, 15 episodes"]] == [
        {"width": None}, {"width": (1, 2)}
    ]  # fmt: skip


def test_what_all_rewards_of_a_file_changed_is_usual_there(tmp_path):
    rate = {"ditto.space": "z"}
    rows = [trained("ditto", 1.0, **rate), *(trained(m, 2.0, **rate, **{"ditto.metric": m}) for m in ("l2", "cosine"))]
    assert set(study_of(tmp_path, *rows).by_demos("ALE/Pong-v5")) == {"ditto"}
    assert set(study_of(tmp_path, *rows[1:]).by_demos("ALE/Pong-v5")) == {"l2", "cosine"}  # each in its own way


def test_horizons_have_as_many_dreams_as_make_an_update_but_nothing_else_differs(tmp_path):
    four, dreams = {"steps": 4_000_000}, (lambda horizon: {"num_envs": 1920 // horizon})
    study = study_of(
        tmp_path,
        *(trained("ditto", seed, seed=seed, **four, **dreams(15)) for seed in (0, 1)),
        *(trained(f"horizon-{h}", h, seed=h, horizon=h, **four, **dreams(h)) for h in (5, 30, 50)),
        trained("ditto-long", 6.0, seed=6, steps=12_000_000, **dreams(15)),
        trained("ditto-long-30", 6.0, seed=8, horizon=30, steps=12_000_000, **dreams(30)),
        trained("ditto-model-0", 7.0, seed=7, **four, **dreams(15), **{"fit.seed": 0}),
    )
    assert seeds_of(study.by_horizon("ALE/Pong-v5")) == {
        "ditto, 15 episodes": {5.0: [5], 15.0: [0, 1, 7], 30.0: [30], 50.0: [50]},  # 7 is in another seed's model
        "ditto-long, 15 episodes": {15.0: [6], 30.0: [8]},
    }
    assert set(study.by_demos("ALE/Pong-v5")) == {"ditto", "ditto-long", "ditto-model-0"}


def test_two_numbers_of_dreams_at_one_horizon_are_two_lines_of_horizons(tmp_path):
    def rows(*pairs):
        return [trained("a", n, horizon=h, num_envs=n, seed=n) for h, n in pairs]

    by_steps = study_of(tmp_path, *rows((15, 128), (15, 512), (30, 64), (50, 38)))
    assert seeds_of(by_steps.by_horizon("ALE/Pong-v5")) == {
        "a (num_envs=128), 15 episodes": {15.0: [128], 30.0: [64], 50.0: [38]}
    }
    by_dreams = study_of(tmp_path, *rows((15, 128), (15, 512), (30, 128), (30, 512)))
    assert seeds_of(by_dreams.by_horizon("ALE/Pong-v5")) == {
        f"a (num_envs={n}), 15 episodes": {15.0: [n], 30.0: [n]} for n in (128, 512)
    }
    close = study_of(tmp_path, *rows((15, 128), (15, 140), (30, 64)))
    assert close.by_horizon("ALE/Pong-v5") == {}  # whose line the third is nobody can say


def test_an_ablation_stays_one_where_the_usual_variant_was_not_run(tmp_path):
    study = study_of(
        tmp_path, trained("ditto", 1.0, num_envs=128), trained("l2-h", 2.0, demos=4, **{"ditto.metric": "l2"}),
        trained("horizon-5", 3.0, demos=4, horizon=5, num_envs=384), trained("bc", 4.0, demos=4, method="bc", learner=""),
        trained("l2-h-30", 5.0, horizon=30, num_envs=64, **{"ditto.metric": "l2"}),
    )  # fmt: skip
    assert {name: list(line) for name, line in study.by_demos("ALE/Pong-v5").items()} == {"ditto": [15.0], "bc": [4.0]}


def test_equal_returns_are_one_training_only_if_all_that_was_told_is_equal(tmp_path):
    lost = {"returns": (-21.0,) * 20, "return_mean": -21.0}
    same = [replace(trained(name, 0.0, steps=4), **lost) for name in ("ditto", "dot-h")]
    others = [
        replace(trained("more", 0.0, steps=12), **lost), replace(trained("model", 0.0, steps=4, **{"fit.seed": 1}), **lost),
        replace(trained("fewer", 0.0, steps=4, num_envs=64), **lost), replace(trained("ditto", 0.0, seed=1, steps=4), **lost),
        replace(trained("ditto", 0.0, steps=4, demos=4), **lost),
    ]  # fmt: skip
    kept = study_of(tmp_path, *same, *others).trained
    assert [row.experiment for row in kept] == [
        f"paper/{n}" for n in ("ditto", "more", "model", "fewer", "ditto", "ditto")
    ]


def test_how_many_of_the_last_policies_played_is_no_other_training(tmp_path):
    results.write(tmp_path / "some.csv", [trained("ditto", 1.0, tail=5), trained("ditto", 2.0, tail=10)])
    (kept,) = Study.read(tmp_path / "some.csv", tail=True).trained
    assert kept.tail == 10


def test_each_data_set_has_its_expert(tmp_path):
    study = study_of(
        tmp_path, level("random", -20.0), level("expert", 18.0), level("expert", 14.0, dataset=A3C),
        level("random", -19.0, dataset=A3C), trained("bc", 1.0, method="bc", learner=""),
        trained("bc", 2.0, method="bc", learner="", dataset=A3C),
    )  # fmt: skip
    assert study.levels("ALE/Pong-v5") == {f"expert ({SLIPS})": 18.5, f"expert ({A3C})": 14.5, "random": -18.5}
    assert study.levels("ALE/Pong-v5", "return_mean", dataset=SLIPS) == {"expert": 18.0, "random": -20.0}
    assert study.levels("ALE/Pong-v5", "return_mean", dataset="another-v0") == {"random": -19.0}
    assert study.levels("ALE/Breakout-v5") == {}
    assert set(study.by_demos("ALE/Pong-v5")) == {f"bc (dataset={SLIPS})", f"bc (dataset={A3C})"}


def test_a_table_keeps_data_sets_apart():
    rows = [
        level("random", -20.0), level("random", -20.0, dataset=A3C), level("expert", 18.0),
        level("expert", 14.0, dataset=A3C), level("expert", 18.0),
        trained("bc", 1.0, method="bc", learner=""), trained("bc", 2.0, method="bc", learner="", dataset=A3C),
    ]  # fmt: skip
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rows_table(rows).splitlines()]
    assert lines[0][:4] == ["environment", "dataset", "policy", "actions"]
    assert [(line[1], line[2], line[7]) for line in lines[2:]] == [
        ("", "random", "−20.0"), (SLIPS, "expert", "18.0"), (A3C, "expert", "14.0"),
        (SLIPS, "bc", number(rows[-2].return_mean)), (A3C, "bc", number(rows[-1].return_mean)),
    ]  # fmt: skip
    assert "dataset" not in rows_table(rows[2:3])


def test_different_trainings_of_one_name_are_told_apart_in_tables_as_in_figures(path):
    results.append(path, [trained("ditto", 0.0, num_envs=64), trained("ditto", 0.0, environment="BipedalWalker-v3")])
    study = Study.read(path)
    legend = set(study.by_demos("ALE/Pong-v5"))
    assert legend == {"ditto (defaults)", "ditto (num_envs=64)", "anchor", "bc"}
    text = rows_table(labelled(results.read(path)))
    for name in legend:
        assert f"| ALE/Pong-v5 | {name} | sampled | 15 |" in text
    assert "| ALE/Pong-v5 | ditto (defaults), last 10 | sampled |" in text  # how it played comes after
    assert "| BipedalWalker-v3 | ditto | sampled |" in text  # the only one there
    assert text in study_report(path).read_text()


def test_a_row_without_a_grid_s_name_is_called_after_its_policy_once():
    rows = [row(options=json.dumps(options)) for options in ({}, {"select": "latent_distance"}, {"tail": 10})]
    assert set(names(rows).values()) == {"ditto + ppo from bc"}
    text = rows_table(labelled(rows))
    for name in ("ditto + ppo from bc", "ditto + ppo from bc by latent_distance", "ditto + ppo from bc, last 10"):
        assert f"| ALE/Pong-v5 | {name} |" in text


def test_the_readme_s_tables_of_grids_have_the_same_names(path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.syspath_prepend(EXAMPLES / "benchmark")
    readme_tables = importlib.import_module("readme_tables")
    results.append(path, [trained("ditto", 0.0, num_envs=64)])
    monkeypatch.setattr(readme_tables, "RESULTS", path.parent)
    assert readme_tables.grid_table("paper") == rows_table(labelled(results.read(path)))


# ---------------------------------------------------------------------------------------------- the same seeds


def runs(name, returns, /, **columns):
    """A row for each seed, of games that all end alike."""
    return [
        replace(trained(name, 0.0, seed=seed, **columns), returns=(value,) * 4, return_mean=value)
        for seed, value in returns.items()
    ]


L2 = {"ditto.metric": "l2"}
FAILS = (*runs("ditto", {0: 19.0, 1: -20.0, 2: 18.0}), *runs("l2-h", {0: 1.0}, **L2))
"""The usual reward fails on seed 1, and the other one was never run with it."""


def compared(points):
    """Seeds → point → IQM."""
    return {
        seeds_said(found.seeds): {key: score(rows).iqm for key, rows in found.points.items()}
        for found in comparisons(points)
    }


def test_rewards_are_compared_over_the_seeds_that_all_have(tmp_path):
    groups = study_of(tmp_path, *FAILS).rewards("ALE/Pong-v5")["ditto, 15 episodes"]
    dot, l2 = groups
    # The mean of the middle half of 4 × 19, 4 × 18 and 4 × −20 is (19 + 4 × 18 − 20) / 6: all three seeds in one heap.
    assert score(groups[dot]).iqm == pytest.approx(71 / 6)
    assert compared(groups) == {"seed 0": {dot: 19.0, l2: 1.0}}


def test_points_along_a_line_are_of_the_same_seeds(tmp_path):
    rows = [*runs("ditto", {0: 19.0, 1: -20.0, 2: 18.0}), *runs("ditto", {0: 17.0, 1: 3.0}, demos=4)]
    rows += [*runs("horizon-5", {0: -12.0}, horizon=5), *runs("horizon-30", {0: 18.0, 1: 9.0}, horizon=30)]
    study = study_of(tmp_path, *rows)
    (demos,) = comparisons(study.by_demos("ALE/Pong-v5")["ditto"])
    assert {x: [row.seed for row in rows] for x, rows in demos.points.items()} == {15.0: [0, 1], 4.0: [0, 1]}
    assert compared(study.by_horizon("ALE/Pong-v5")["ditto, 15 episodes"]) == {
        "seed 0": {5.0: -12.0, 15.0: 19.0, 30.0: 18.0},
        "seeds 0, 1": {15.0: -0.5, 30.0: 13.5},  # two points of two seeds are more runs than three of one
    }


def test_points_of_more_seeds_are_a_second_comparison_where_they_make_more_runs():
    a, b, c = (runs("m", {seed: 10.0 * i + seed for seed in (0, 1, 2)}) for i in range(3))
    points = {"a": a, "b": b, "few": c[:1], "other": runs("m", {7: 5.0})}
    assert compared(points) == {
        "seed 0": {"a": 0.0, "b": 10.0, "few": 20.0}, "seeds 0, 1, 2": {"a": 1.0, "b": 11.0}
    }  # fmt: skip
    # Four points of one seed are as many runs as two of two: then nobody needs the second.
    assert list(compared({"a": a[:2], "b": b[:2], "c": c[:1], "d": c[:1]})) == ["seed 0"]
    # As many points share two seeds as one: the more seeds the better.
    assert list(compared({"a": a, "b": b[:2]})) == ["seeds 0, 1"]


def test_nothing_is_compared_without_a_shared_seed_but_one_point_stands_by_itself():
    a, b = runs("m", {0: 1.0, 1: 2.0}), runs("m", {2: 1.0})
    assert comparisons({"a": a, "b": b}) == []
    assert comparisons({}) == []
    assert compared({"a": a}) == {"seeds 0, 1": {"a": 1.5}}


def test_the_seed_of_the_world_model_is_part_of_it():
    own, zero = runs("m", {0: 1.0, 1: 2.0}), [trained("m", 0.0, seed=seed, **{"fit.seed": 0}) for seed in (0, 1)]
    assert [found.seeds for found in comparisons({"a": own, "b": zero})] == [{(0, 0)}]
    assert seeds_said({(1, 0), (0, 0)}) == "seeds 0, 1 in model 0"


def test_a_report_says_which_seeds_it_compares_and_names_what_it_leaves_out(tmp_path):
    study_of(
        tmp_path, *FAILS, *runs("l2-z", {4: 3.0}, **L2, **{"ditto.space": "z"}), *runs("bc", {1: 5.0}, method="bc", learner=""),
        *runs("horizon-5", {0: -12.0}, horizon=5), *runs("horizon-30", {3: 18.0}, horizon=30),
    )  # fmt: skip
    text = study_report(tmp_path / "some.csv").read_text()
    assert "only runs of the same training seeds are compared" in text
    assert "Over seed 0 (n = 1):" in text
    assert "| h | 19.0 (19.0 … 19.0; 1 seed) | 1.0 (1.0 … 1.0; 1 seed) |" in text
    assert "| z |  |  |" in text
    assert "ALE/Pong-v5, not compared, for they lack seeds of the others: z l2 (seed 4)." in text
    assert "others: ditto, 15 episodes at 30 (seed 3)." in text
    assert "lack seeds of the others: ditto at 15" not in text  # with bc, on seed 1


def test_a_report_of_methods_without_a_shared_seed_says_so(tmp_path):
    study_of(tmp_path, *runs("ditto", {0: 1.0}), *runs("bc", {1: 5.0}, method="bc", learner=""))
    text = study_report(tmp_path / "some.csv").read_text()
    assert "nothing is compared, for no two share a seed: ditto at 15 (seed 0); bc at 15 (seed 1)." in text
    assert "](by_demos.png)" not in text


# -------------------------------------------------------------------------------------------- correlations in models

CURVE = replace(POINT, dataset=SLIPS, method="ditto", action_agreement=None)


def curve(distances, **columns):
    """A training whose policies get better from one to the next."""
    return [
        replace(CURVE, steps=i, return_mean=float(i), latent_distance=value, **columns)
        for i, value in enumerate(distances)
    ]


def test_policies_share_a_model_if_their_rows_have_one_recording_fit_and_seed():
    play = {"fit.also": ["play"]}
    rows = [
        trained("ditto", 1.0), trained("ditto", 1.0, demos=4), trained("bc", 1.0, method="bc", learner=""),
        trained("ditto", 1.0, seed=1), trained("cross", 1.0, seed=1, **{"fit.seed": 0}), trained("ditto+play", 1.0, **play),
    ]  # fmt: skip
    points = [
        replace(CURVE, method=name, seed=seed, n_expert=demos)
        for name, seed, demos in (
            ("ditto", 0, 15), ("bc", 0, 15), ("ditto", 0, 4), ("cross", 1, 15), ("ditto", 1, 15), ("ditto+play", 0, 15),
            ("unknown", 0, 15),
        )
    ]  # fmt: skip
    groups = by_world_model(points, world_models(rows))
    assert [[points.index(point) for point in group] for group in groups] == [[0, 1, 2, 3], [4], [5], [6]]


def test_correlations_are_spearman_s_within_world_models():
    # In each model the nearer policy plays better; seed 1's model has smaller distances and its policies play worse.
    worse = [replace(point, return_mean=point.return_mean - 10.0) for point in curve((0.4, 0.3, 0.2, 0.1), seed=1)]
    points = curve((0.9, 0.8, 0.7, 0.6), seed=0) + worse
    models = world_models([trained("ditto", 1.0, seed=seed) for seed in (0, 1)])
    found = correlations(points, models)
    assert set(found) == {"latent_distance"}
    assert (found["latent_distance"].rho, found["latent_distance"].n, found["latent_distance"].groups) == (-1.0, 8, 2)
    together = world_models([trained("ditto", 1.0, seed=seed, **{"fit.seed": 0}) for seed in (0, 1)])
    pooled = correlations(points, together)["latent_distance"]  # of ranks 8 7 6 5 4 3 2 1 and 5 6 7 8 1 2 3 4
    assert (pooled.rho, pooled.groups) == (pytest.approx(1 - 6 * 40 / (8 * 63)), 1)
    assert correlations(points[:3], models) == {}


def test_the_report_has_the_correlation_within_models_and_each_model_s(tmp_path):
    study_of(tmp_path, *(trained("ditto", 1.0, seed=seed) for seed in (0, 1)))
    points = curve((0.9, 0.8, 0.7, 0.6), seed=0) + curve((0.1, 0.3, 0.2, 0.4), seed=1)
    curves.append(curves.beside(tmp_path / "some.csv"), points)
    text = study_report(tmp_path / "some.csv").read_text()
    assert "| pong | 15 | all | latent distance | 8 | 2 | −0.10 | " in text  # (−1 + 0.8) / 2
    assert "| pong | 15 | 0 | ditto | latent distance | 4 | −1.00 | " in text
    assert "| pong | 15 | 1 | ditto | latent distance | 4 | 0.80 | " in text


def ended(name, return_, distance, **more):
    """What a training ended with."""
    agreement = more.pop("agreement", None)
    noted = {"return_iqm": float(return_), "latent_distance": distance, "action_agreement": agreement}
    return replace(trained(name, return_, **more), **noted)


def test_last_policies_of_all_methods_are_ranked_within_world_models(tmp_path):
    rows = [
        *(ended(name, i, 0.9 - 0.1 * i) for i, name in enumerate("abcd")),
        # Seed 1's model: smaller distances, and from the nearest to the farthest the returns 0 3 2 1.
        *(
            ended(name, r, 0.1 + 0.1 * i, seed=1, demos=4)
            for i, (name, r) in enumerate(zip("abcd", (0, 3, 2, 1), strict=True))
        ),
        *(ended(name, 99.0, 0.99, horizon=h) for name in "ab" for h in (5, 30)),  # averaged over other steps
        ended("bc", 50.0, None, agreement=0.5),
        replace(ended("a", 50.0, 0.01), deterministic=True),
        level("random", -20.0),
    ]
    study_of(tmp_path, *rows)
    text = study_report(tmp_path / "some.csv").read_text()
    assert "| ALE/Pong-v5 | latent distance | 8 | 2 | −0.40 | " in text  # (−1 + 0.2) / 2
    assert "| ALE/Pong-v5 | action agreement |" not in text  # of one policy alone
    assert "](last_policies_ale_pong_v5.png)" in text
    assert cv2.imread(str(tmp_path / "some" / "last_policies_ale_pong_v5.png")).std() > 5


def test_policies_of_one_name_are_ranked_in_the_model_that_each_was_trained_in():
    rows = [ended(name, i, 0.9 - 0.1 * i) for i, name in enumerate("abcd")]
    # The same names and seed in a model of more updates, where all is nearer and plays worse.
    rows += [ended(name, i - 9.0, 0.4 - 0.1 * i, **{"fit.updates": 12000}) for i, name in enumerate("abcd")]
    found = within_models(rows, "latent_distance")
    assert (found.rho, found.n, found.groups) == (-1.0, 8, 2)


def test_a_clone_s_horizon_says_nothing_of_the_others(tmp_path):
    rows = [ended(name, i, 0.9 - 0.1 * i, horizon=50, agreement=0.1 * i) for i, name in enumerate("abcd")]
    study_of(tmp_path, *rows, ended("bc", 9.0, None, agreement=0.9))
    text = study_report(tmp_path / "some.csv").read_text()
    assert "| ALE/Pong-v5 | latent distance | 4 | 1 | −1.00 | " in text
    assert "| ALE/Pong-v5 | action agreement | 5 | 1 | 1.00 | " in text


def test_games_of_two_protocols_are_ranked_apart_and_few_policies_not_at_all(tmp_path):
    rows = [ended(name, i, 0.9 - 0.1 * i) for i, name in enumerate("abcd")]
    served = json.dumps({**json.loads(rows[0].protocol), "fire": True})
    study_of(tmp_path, *rows, *(replace(row, protocol=served, return_iqm=-row.return_iqm) for row in rows))
    text = study_report(tmp_path / "some.csv").read_text()
    assert "| ALE/Pong-v5 | latent distance | 4 | 1 | −1.00 | " in text
    assert "| ALE/Pong-v5 (fire=True) | latent distance | 4 | 1 | 1.00 | " in text
    assert {"last_policies_ale_pong_v5_1.png", "last_policies_ale_pong_v5_2.png"} <= {
        p.name for p in (tmp_path / "some").iterdir()
    }
    (tmp_path / "few").mkdir()
    study_of(tmp_path / "few", *rows[:3])
    assert "## Last policies" not in study_report(tmp_path / "few" / "some.csv").read_text()


def test_without_a_correlation_there_is_a_sentence_and_no_empty_table(tmp_path):
    study_of(tmp_path, trained("ditto", 1.0))
    curves.append(curves.beside(tmp_path / "some.csv"), curve((0.9, 0.8, 0.7), seed=0))
    text = study_report(tmp_path / "some.csv").read_text()
    assert "No rank correlation with the real return" in text
    assert "| Spearman |" not in text
    assert "](through_training_pong_15.png)" in text


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
    drawn = {
        "through_training_pong_15",
        "by_demos",
        "by_demos_control",
        "by_horizon",
        "reward_ale_pong_v5_ditto_15_episodes",
    }
    assert {file.stem for file in folder.glob("*.png")} == drawn
    for name in drawn:
        assert f"]({name}.png)" in text
        assert cv2.imread(str(folder / f"{name}.png")).std() > 5
    assert "| space \\ metric | dot | l2 |" in text
    assert text.count("| pong | 15 | l2-h |") == 0  # an ablation
    assert "| pong | 15 | all | latent distance | 12 | 4 | −1.00 | " in text
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


def test_trainings_in_one_model_and_in_a_model_each_are_of_one_line(tmp_path):
    rows = [trained("ditto", 10.0 + seed, seed=seed, **({"fit.seed": 0} if seed else {})) for seed in (0, 1, 2)]
    results.write(tmp_path / "paper.csv", rows)
    ((name, line),) = Study.read(tmp_path / "paper.csv").by_demos("ALE/Pong-v5").items()
    assert (name, len(line[15.0])) == ("ditto", 3)
    (ditto,) = [line for line in rows_table(labelled(rows)).splitlines() if "| ditto |" in line]
    assert ditto.split("|")[5].strip() == "3"


def test_the_same_policy_seed_in_two_models_is_two_trainings(tmp_path):
    one = trained("ditto", 10.0, seed=1)
    other = replace(one, options=json.dumps({"fit.seed": 0}))  # which lost all the same games
    results.write(tmp_path / "paper.csv", [one, replace(other, experiment="paper/ditto-model-0")])
    assert len(Study.read(tmp_path / "paper.csv").trained) == 2


def test_a_training_evaluated_again_for_more_games_is_one_seed_by_its_last_evaluation():
    few = replace(trained("ditto", 1.0), episodes=2, returns=(0.0, 2.0), return_mean=1.0)
    more = replace(few, episodes=4, returns=(4.0, 5.0, 5.0, 6.0), return_mean=5.0)
    (line,) = [line for line in rows_table([few, more]).splitlines() if "ditto" in line]
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[5:8] == ["1", "4", "5.0"]


def test_games_that_were_served_are_not_mixed_with_those_that_were_not():
    plain, served = trained("ditto", 1.0), trained("ditto", 9.0, seed=1)
    served = replace(served, protocol='{"frame_skip": 4, "sticky": 0.0, "fire": true}')
    lines = [line for line in rows_table([plain, served]).splitlines() if "ditto" in line]
    assert len(lines) == 2
    assert "FIRE pressed for it" in lines[1]
    assert sorted(set(names([plain, served]).values())) == ["ditto (defaults)", "ditto (fire=True)"]


WHOLE, CUT = '{"max_steps": null, "versions": {"ale-py": "1"}}', '{"max_steps": 200, "versions": {"ale-py": "2"}}'


def test_games_of_two_protocols_are_lines_and_levels_of_their_own(tmp_path):
    rows = [
        replace(level("random", -20.0), protocol=WHOLE), replace(level("random", -3.0), protocol=CUT),
        replace(trained("ditto", 18.0), protocol=WHOLE), replace(trained("ditto", -1.0), protocol=CUT),
        replace(trained("ditto", 12.0, seed=1), protocol=WHOLE.replace('"1"', '"2"')),
    ]  # fmt: skip
    head, _, *lines = rows_table(rows).splitlines()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (head, *lines)]
    assert table[0][:3] == ["environment", "game", "policy"]
    assert [(line[1], line[2], line[5]) for line in table[1:]] == [
        ("max_steps=None", "random", ""), ("max_steps=200", "random", ""),
        ("max_steps=None", "ditto + ditto", "2"), ("max_steps=200", "ditto + ditto", "1"),
    ]  # fmt: skip
    results.write(tmp_path / "mixed.csv", rows)
    study = Study.read(tmp_path / "mixed.csv")
    assert study.levels("ALE/Pong-v5") == {"random (max_steps=None)": -19.5, "random (max_steps=200)": -2.5}
    lines = study.by_demos("ALE/Pong-v5")
    assert {name: [row.seed for row in of[15.0]] for name, of in lines.items()} == {
        "ditto (max_steps=None)": [0, 1], "ditto (max_steps=200)": [0]
    }  # fmt: skip


def test_one_protocol_needs_no_column_and_the_expert_no_protocol():
    rows = [replace(level("expert", 18.0), protocol=WHOLE), replace(level("expert", 18.0), protocol=CUT)]
    assert len(rows_table([*rows, trained("ditto", 1.0)]).splitlines()) == 4
    assert "game" not in rows_table(rows)


def test_a_training_under_two_experiments_is_one_seed():
    one = trained("ditto", 1.0)
    (line,) = rows_table([one, replace(one, experiment="another")]).splitlines()[2:]
    assert [cell.strip() for cell in line.split("|")][5:7] == ["1", "20"]
    other = trained("ditto", 1.0, seed=1)
    (line,) = rows_table([one, replace(other, experiment="another")]).splitlines()[2:]
    assert [cell.strip() for cell in line.split("|")][5:7] == ["2", "40"]
