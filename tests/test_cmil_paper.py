"""The grid of CMIL's experiments: its methods are flags that there are, its cells are done once, its figures count rightly."""

import importlib.util
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from dream_env import cli
from dream_env.checkpoint import write_json
from dream_env.errors import ConfigError
from dream_env.measuring import results
from dream_env.measuring.results import Row

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
with pytest.MonkeyPatch.context() as _patch:
    _patch.syspath_prepend(EXAMPLES)
    _PAPER = runpy.run_path(str(EXAMPLES / "cmil_paper.py"))
OFFLINE, ONLINE = _PAPER["OFFLINE"], _PAPER["ONLINE"]


@pytest.fixture
def paper(monkeypatch, tmp_path):
    """The example's module, whose commands are noted instead of run; agents it asks for appear."""
    monkeypatch.syspath_prepend(EXAMPLES)
    spec = importlib.util.spec_from_file_location("cmil_paper", EXAMPLES / "cmil_paper.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cmil_paper", module)
    spec.loader.exec_module(module)
    module.commands = []

    def noted(words):
        module.commands.append(list(words))
        if words[0] == "evaluate":
            agent = Path(words[1])
            agent.mkdir(parents=True)
            (agent / "metrics.csv").write_text(
                "steps,real_success,real_return,disagreement\n100,0,5,0.5\n200,1,7,0.25\n"
            )
            write_json(agent / "meta.json", {"commit": "abc"})

    monkeypatch.setattr(module, "run", noted)
    module.grid = lambda **options: module.Grid(
        **{"out": tmp_path / "out", "results": tmp_path / "cmil.csv", "seeds": (0,), **options}
    )
    return module


def weights(name):
    """α, β and the noise that the name of one of CMIL's sensitivities says, and the paper's where it says nothing; None of
    other methods."""
    found = re.fullmatch(r"(?:cmil-)?(alpha|beta|noise)-([\d.]+)", name)
    if found is None and name not in ("cmil", "cmil-offline"):
        return None
    return {"alpha": 10.0, "beta": 10.0, "noise": 2.5**0.5} | ({found[1]: float(found[2])} if found else {})


def given(reward, learner):
    return {"alpha": reward.alpha, "beta": learner.anchor, "noise": reward.input_noise}


@pytest.mark.parametrize("name", OFFLINE)
def test_an_offline_method_is_flags_of_imitate(paper, monkeypatch, name):
    seen = []
    monkeypatch.setattr(cli, "imitate_stage", lambda *given: seen.append(given))
    cli.main(["imitate", "wm", "--out", "out", *paper.METHODS[name]])
    ((stage, reward, learner),) = seen
    assert stage.online_steps == 0
    if weights(name):
        assert given(reward, learner) == weights(name)
        assert (type(reward).__name__, type(learner).__name__) == ("Cmil", "Conservative")
    if name == "cmil-offline":  # the paper's α, β and σ²
        assert (reward.alpha, learner.anchor) == (10.0, 10.0)
        assert reward.input_noise**2 == pytest.approx(2.5)
    if name == "vmail-offline":
        assert reward.alpha == 0.0
    if name == "alpha-100":
        assert reward.alpha == 100.0
    if name == "beta-0":
        assert (reward.alpha, learner.anchor) == (10.0, 0.0)


@pytest.mark.parametrize("name", ONLINE)
@pytest.mark.parametrize("preset", ["small-gaussian", "paper-gaussian"])
def test_an_online_method_goes_to_the_real_environment(paper, monkeypatch, name, preset):
    seen = []
    monkeypatch.setattr(cli, "online_stage", lambda *given: seen.append(given))
    flags = paper._flags(paper.grid(preset=preset), name)
    cli.main(["imitate", "wm", "--out", "out", "--online-steps", "100", *flags])
    ((stage, reward, made),) = seen
    assert stage.online_steps == 100
    assert type(made).__name__ == {"vmail": "Vmail", "pdac": "Pdac"}.get(name, "Conservative")
    if weights(name):
        assert given(reward, made) == weights(name)
        assert type(reward).__name__ == "Cmil"
    if name == "cmil-released":
        assert type(reward).__name__ == "CmilReleased"
    if name == "cmil-alpha-1":
        assert reward.alpha == 1.0
    if name == "cmil-beta-0":
        assert made.anchor == 0.0
    if name == "cmil-noise-2.5":
        assert reward.input_noise == 2.5
    if preset == "paper-gaussian" and name != "pdac":  # DreamerV2's sizes, the released code's discriminator
        assert (made.hidden, made.activation, made.layer_norm) == ((400,) * 4, "elu", False)
        assert (made.learning_rate, made.critic_learning_rate, made.batch, made.length) == (8e-5, 8e-5, 50, 50)
        if reward is not None:  # None is the learner's usual one
            assert reward.learning_rate == 3e-5


def test_without_an_environment_the_recorded_one_is_played_as_it_was_recorded(paper):
    paper.main(paper.grid(dataset="kitchen/default-v0", methods=("cmil",)))
    assert not any("--environment" in words for words in paper.commands)
    assert (paper.grid().out / "kitchen-default-v0" / "cmil-20-0" / "done").is_file()
    paper.commands.clear()
    paper.main(paper.grid(dataset="kitchen/default-v0", environment="kitchen", methods=("cmil",)))
    assert [words[words.index("--environment") + 1] for words in paper.commands if words[0] != "fit"] == ["kitchen"] * 2


def test_a_cell_that_was_done_with_other_flags_is_not_taken_for_this_one(paper):
    paper.main(paper.grid(methods=("cmil",)))
    paper.main(paper.grid(methods=("cmil",), device="cpu"))
    with pytest.raises(
        SystemExit, match=r"1 of 1 runs failed(.|\n)*is finished, but with other flags(.|\n)*remove that folder"
    ):
        paper.main(paper.grid(methods=("cmil",), online_steps=77))


def test_cells_are_done_once_and_their_curves_kept(paper):
    grid = paper.grid(methods=("bc", "cmil"), seeds=(0, 1))
    paper.main(grid)
    assert [words[0] for words in paper.commands].count("imitate") == 4
    assert [words[0] for words in paper.commands].count("fit") == 2
    online = [words for words in paper.commands if "cmil" in words and words[0] == "imitate"]
    assert all("--online-steps" in words for words in online)
    lines = (grid.results.parent / "cmil_online.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 * 2
    paper.commands.clear()
    paper.main(grid)
    assert {words[0] for words in paper.commands} == {"fit"}  # which itself finds its work done
    assert len((grid.results.parent / "cmil_online.csv").read_text().splitlines()) == 9
    assert (grid.results.parent / "cmil" / "fig2_dream-adroit-door-expert-v0.png").is_file()


def test_the_defaults_are_the_readmes_and_add_to_no_committed_file(paper):
    grid = paper.Grid()
    assert grid.dataset == "dream/adroit-door/expert-v0"
    assert grid.methods == ("bc", "dbc", "cmil-offline", "vmail-offline", "cmil", "vmail", "pdac")
    assert grid.results == Path("runs/cmil-paper.csv")


def test_a_curve_is_replaced_by_one_of_the_same_training_alone(paper):
    grids = [paper.grid(methods=("cmil",), out=paper.grid().out / str(i), **options) for i, options in enumerate((
        {}, {"demos": 9}, {"online_steps": 77}, {"dataset": "d/other-v0"}, {"preset": "paper-gaussian"}, {},
    ))]  # fmt: skip
    for grid in grids:
        paper.main(grid)
    curves = paper._read(paper._curves(grids[0].results))
    told = [tuple(row[name] for name in ("dataset", "demos", "asked", "preset")) for row in curves]
    usual = ("dream/adroit-door/expert-v0", "20", "20000", "small-gaussian")
    assert len(told) == 5 * 2
    assert told.count(usual) == 2
    assert {row[1:3] for row in told} == {("20", "20000"), ("9", "20000"), ("20", "77")}


def test_a_curve_that_does_not_say_of_how_many_demonstrations_stays(paper, tmp_path):
    before = {"environment": "door", "dataset": "d", "method": "cmil", "seed": "0", "commit": ""}
    path = tmp_path / "cmil_online.csv"
    paper._append_curve(path, before, [{"steps": 100.0, "real_return": 1.0}])
    now = {**before, "demos": "20", "asked": "8000", "preset": "small-gaussian"}
    paper._append_curve(path, now, [{"steps": 100.0, "real_return": 2.0}])
    assert [(row["demos"], row["real_return"]) for row in paper._read(path)] == [("", "1"), ("20", "2")]


def test_what_was_trained_differently_has_figures_of_its_own(paper, monkeypatch, tmp_path):
    drawn = {}
    monkeypatch.setattr(paper, "save", lambda figure, path: drawn.update({path.name: figure}))
    trainings = (("d/a", "20", 10.0), ("d/a", "9", 30.0), ("d/b", "20", 50.0))
    for dataset, demos, back in trainings:
        facts = {
            "environment": "door",
            "dataset": dataset,
            "method": "cmil",
            "seed": "0",
            "demos": demos,
            "asked": "8000",
        }
        steps = ({"steps": 1000.0, "real_return": back},)
        paper._append_curve(tmp_path / "cmil_online.csv", facts, steps)
    results.write(tmp_path / "cmil.csv", [
        trained("bc", back + 1, dataset=dataset, n_expert=int(demos)) for dataset, demos, back in trainings
    ])  # fmt: skip
    paper.draw(tmp_path / "cmil.csv")
    names = ["dataset-d-a_demos-20", "dataset-d-a_demos-9", "dataset-d-b_demos-20"]
    for name, (_, _, back) in zip(names, trainings, strict=True):
        (returns,) = drawn[f"fig2_door_{name}.png"].axes
        assert [line.get_label() for line in returns.lines] == ["cmil (1 seed)", "bc (1 seed)"]
        assert [float(line.get_ydata()[0]) for line in returns.lines] == [back, back + 1]


def trained(method, back, **columns):
    return Row(**{
        "experiment": f"cmil-paper/{method}", "environment": "Door", "dataset": "d", "method": method, "episodes": 1,
        "return_mean": back, "return_iqm": 0.0, "return_low": 0.0, "return_high": 0.0, "normalized": 0.0, **columns,
    })  # fmt: skip


def test_the_table_has_a_line_for_each_training(paper):
    rows = [
        trained("cmil", 1.0, n_expert=20, options='{"online_steps": 250000}'),
        trained("cmil", 3.0, n_expert=20, options='{"online_steps": 250000}', seed=1),
        trained("cmil", 5.0, n_expert=9, options='{"online_steps": 250000}'),
        trained("bc", 7.0, n_expert=20),
    ]
    lines = [line.split("|")[2:5] for line in paper.table(rows).splitlines()[2:]]
    assert [tuple(cell.strip() for cell in line) for line in lines] == [
        ("cmil (n_expert=20)", "2", "2"), ("cmil (n_expert=9)", "1", "5"), ("bc", "1", "7"),
    ]  # fmt: skip


def test_a_curve_is_binned_by_real_steps_for_each_seed(paper):
    curves = [
        {"method": "cmil", "seed": seed, "steps": str(steps), "real_success": str(value)}
        for seed, steps, value in (("0", 50, 0), ("0", 100, 1), ("0", 1000, 1), ("1", 100, 0), ("1", 1000, 0))
    ]
    steps, bins = paper._series(curves, "cmil", "real_success")
    np.testing.assert_array_equal(steps, np.arange(100, 1001, 100))
    np.testing.assert_array_equal(bins[:, 0], [0.5, 0.0])
    np.testing.assert_array_equal(bins[:, 9], [1.0, 0.0])
    assert np.isnan(bins[:, 1:9]).all()
    low, high = paper._interval(bins[:, [0, 9]])
    assert ((low >= 0.0) & (high <= 1.0) & (low < high)).all()


def test_the_table_averages_over_seeds(paper):
    common = {
        "environment": "Door",
        "dataset": "d/d-v0",
        "episodes": 2,
        "return_iqm": 0.0,
        "return_low": 0.0,
        "return_high": 0.0,
    }
    rows = [
        Row(
            experiment="cmil-paper/cmil",
            method="cmil",
            seed=seed,
            return_mean=mean,
            success=success,
            normalized=0.0,
            **common,
        )
        for seed, mean, success in ((0, 10.0, 0.5), (1, 20.0, 1.0))
    ]
    assert "| Door | cmil | 2 | 15 |  | 0.75 |  |  |  |" in paper.table(rows)


def test_an_unknown_method_is_named(paper):
    with pytest.raises(ConfigError, match="no method 'cmill'"):
        paper.main(paper.grid(methods=("cmill",)))


def test_the_bound_is_drawn_scaled_and_its_return_gap_from_the_experts(paper, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(paper, "save", lambda figure, path: drawn.append((path.name, figure)))
    curves = [
        {"method": "cmil", "seed": "0", "steps": str(steps), "discriminator_gap": gap, "disagreement": doubt,
         "real_return": str(back)}
        for steps, gap, doubt, back in ((100, "", "", 0.0), (500, "0.5", "3", 5.0), (1000, "0.1", "1", 20.0))
    ]  # fmt: skip
    paper._fig3(tmp_path / "fig3.png", "door", curves, expert=10.0)
    ((_, figure),) = drawn
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["discriminator gap"], [1.0, 0.0])
    np.testing.assert_allclose(lines["disagreement (eq. 9)"], [1.0, 0.0])
    np.testing.assert_allclose(lines["return gap"], [1.0, 0.75, 0.0])  # of gaps 10, 5 and −10


def test_success_and_return_are_drawn_against_real_steps_with_offline_methods_as_levels(paper, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(paper, "save", lambda figure, path: drawn.append(figure))
    curves = [
        {"method": method, "seed": seed, "steps": "1000", "real_success": "1", "real_return": back}
        for method in ("cmil", "cmil-alpha-1") for seed, back in (("0", "10"), ("1", "30"))
    ]  # fmt: skip
    final = Row(
        experiment="cmil-paper/bc", environment="Door", dataset="d", method="bc", episodes=1, return_mean=7.0,
        return_iqm=0.0, return_low=0.0, return_high=0.0, normalized=0.0, success=0.5,
    )  # fmt: skip
    paper._fig2(tmp_path / "fig2.png", "door", curves, [final])
    success, returns = drawn[0].axes
    assert [line.get_label() for line in success.lines] == ["cmil (2 seeds)", "bc (1 seed)"]  # no sensitivities
    assert [float(line.get_ydata()[0]) for line in success.lines] == [1.0, 0.5]
    assert [float(line.get_ydata()[0]) for line in returns.lines] == [20.0, 7.0]


def test_runs_that_never_went_there_have_no_such_figure(paper, tmp_path):
    results.write(tmp_path / "cmil.csv", [])
    curve = {"environment": "kitchen", "dataset": "k", "method": "bc", "seed": "0", "commit": ""}
    paper._append_curve(tmp_path / "cmil_online.csv", curve, [{"steps": 100.0, "clone_loss": 1.0}])
    paper.draw(tmp_path / "cmil.csv")
    assert not (tmp_path / "cmil" / "fig2_kitchen.png").exists()
