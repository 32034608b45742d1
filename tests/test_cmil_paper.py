"""The grid of CMIL's experiments: its methods are flags that there are, its cells are done once, its figures count rightly."""

import importlib.util
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


@pytest.mark.parametrize(
    "name", ["bc", "dbc", "cmil-offline", "vmail-offline", "ppo-cmil", "beta-0", "alpha-100", "noise-2.5"]
)
def test_an_offline_method_is_flags_of_imitate(paper, monkeypatch, name):
    seen = []
    monkeypatch.setattr(cli, "imitate_stage", lambda *given: seen.append(given))
    cli.main(["imitate", "wm", "--out", "out", *paper.METHODS[name]])
    ((stage, reward, learner),) = seen
    assert stage.online_steps == 0
    if name == "cmil-offline":  # the paper's α, β and σ²
        assert (reward.alpha, learner.anchor) == (10.0, 10.0)
        assert reward.input_noise**2 == pytest.approx(2.5)
    if name == "vmail-offline":
        assert reward.alpha == 0.0
    if name == "alpha-100":
        assert reward.alpha == 100.0
    if name == "beta-0":
        assert (reward.alpha, learner.anchor) == (10.0, 0.0)


@pytest.mark.parametrize("name", ["cmil", "vmail", "pdac"])
def test_an_online_method_goes_to_the_real_environment(paper, monkeypatch, name):
    seen = []
    monkeypatch.setattr(cli, "online_stage", lambda *given: seen.append(given))
    cli.main(["imitate", "wm", "--out", "out", "--online-steps", "100", *paper.METHODS[name]])
    ((stage, _, learner),) = seen
    assert stage.online_steps == 100
    assert name in type(learner).__module__ + type(learner).__name__.lower() or name == "cmil"


def test_cells_are_done_once_and_their_curves_kept(paper):
    grid = paper.grid(methods=("bc", "cmil"), seeds=(0, 1))
    paper.main(grid)
    assert [words[0] for words in paper.commands].count("imitate") == 4
    assert [words[0] for words in paper.commands].count("fit") == 2
    online = [words for words in paper.commands if "cmil" in words and words[0] == "imitate"]
    assert all("--online-steps" in words for words in online)
    lines = (grid.results.parent / "cmil_curves.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 * 2
    paper.commands.clear()
    paper.main(grid)
    assert {words[0] for words in paper.commands} == {"fit"}  # which itself finds its work done
    assert len((grid.results.parent / "cmil_curves.csv").read_text().splitlines()) == 9
    assert (grid.results.parent / "cmil" / "fig2_adroit-door.png").is_file()


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
    assert results.COLUMNS
