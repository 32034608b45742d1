"""The grid of DITTO's experiments: its methods are flags that there are, and its cells are done once, whoever is killed."""

import importlib.util
import itertools
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dream_env import cli
from dream_env.checkpoint import write_json
from dream_env.errors import ConfigError
from dream_env.measuring import curves
from dream_env.playing.game_log import GameLog
from dream_env.playing.games import EpisodeResult

FILE = Path(__file__).resolve().parent.parent / "examples" / "ditto_paper.py"
with pytest.MonkeyPatch.context() as _patch:
    _patch.syspath_prepend(FILE.parent)
    METHODS = runpy.run_path(str(FILE))["METHODS"]


@pytest.fixture
def grid_of(monkeypatch, tmp_path):
    """The example's module, whose commands are noted instead of run; agents it asks for appear."""
    monkeypatch.syspath_prepend(FILE.parent)
    spec = importlib.util.spec_from_file_location("ditto_paper", FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ditto_paper", module)
    spec.loader.exec_module(module)
    module.commands = []

    def noted(words):
        module.commands.append(list(words))
        if words[0] == "evaluate":
            agent = Path(words[1])
            agent.mkdir(parents=True)
            (agent / "metrics.csv").write_text("steps,latent_distance\n0,0.5\n100,0.25\n")
            write_json(agent / "meta.json", {"commit": "abc"})
            for steps in (0, 100):
                GameLog(agent / "episodes.csv").add("on the way", steps, False, EpisodeResult(1, float(steps), 5))

    monkeypatch.setattr(module, "run", noted)
    module.grid = lambda **options: module.Grid(
        **{"out": tmp_path / "out", "results": tmp_path / "ditto.csv", "demos": (4,), "seeds": (0,), **options}
    )
    return module


def words_of(module, stage):
    return [words for words in module.commands if words[0] == stage]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_flags_of_imitate(monkeypatch, name):
    seen = []
    monkeypatch.setattr(cli, "imitate_stage", lambda stage, reward, learner: seen.append((stage, reward, learner)))
    cli.main(["imitate", "wm", "--out", "out", *METHODS[name]])
    ((stage, reward, learner),) = seen
    # What the name says; where it says nothing, DITTO's reward as it is and its horizon.
    ablation = re.fullmatch(r"(dot|l2|cosine|nearest)-(h|z|both)", name)
    horizon = re.fullmatch(r"(?:gail-)?horizon-(\d+)", name)
    assert type(reward).__name__ == ("Gail" if name.startswith("gail") else "Ditto")
    if not name.startswith("gail"):
        assert (reward.metric, reward.space) == (ablation.groups() if ablation else ("dot", "h"))
    assert stage.horizon == (int(horizon[1]) if horizon else 15)
    if ablation or horizon:  # nothing else is changed
        told = (type(learner).__name__, learner.standardize_rewards, learner.learning_rate, learner.entropy)
        assert told == ("ActorCritic", True, 1e-3, 0.01)
        assert stage.num_envs == 128 * 15 // stage.horizon
    if name == "ditto-plain":  # table 1
        assert (stage.num_envs, stage.horizon, learner.learning_rate, learner.entropy) == (512, 15, 3e-4, 0.05)
        assert not any([learner.standardize_rewards, learner.anchor, learner.control_variate])
    if name.startswith("ditto-plain-"):  # one thing changed
        changed = [bool(learner.standardize_rewards), bool(learner.anchor), bool(learner.control_variate)]
        assert (stage.num_envs, learner.learning_rate, learner.entropy, sum(changed)) == (512, 3e-4, 0.05, 1)
    if name == "gail-horizon-5":
        assert (type(reward).__name__, stage.horizon, stage.num_envs) == ("Gail", 5, 384)
    if name == "ditto-annealed":
        assert (learner.entropy_weight(0.0), learner.entropy_weight(1.0)) == (0.05, 0.0)
    if name == "ditto-long":
        assert stage.steps == 12_000_000
    if name == "ditto-cv":
        assert learner.control_variate
    if name == "l2-both":
        assert (reward.metric, reward.space) == ("l2", "both")


def test_horizons_get_about_as_many_steps_in_an_update(grid_of):
    steps = {}
    for name, flags in grid_of.METHODS.items():
        if name.startswith("horizon-"):
            told = dict(itertools.pairwise(flags))
            steps[name] = int(told["--num-envs"]) * int(told["--horizon"])
    assert len(steps) >= 5
    assert all(abs(n - 128 * 15) < 0.05 * 128 * 15 for n in steps.values()), steps


def test_a_grid_records_fits_once_a_seed_and_does_every_cell_once(grid_of):
    grid = grid_of.grid(methods=("bc", "ditto"), demos=(4, 15), seeds=(0, 1))
    grid_of.main(grid)
    assert len(words_of(grid_of, "collect")) == 2  # the expert's games, and clumsy ones
    assert [words[words.index("--seed") + 1] for words in words_of(grid_of, "fit")] == ["0", "1"]
    assert len(words_of(grid_of, "imitate")) == len(words_of(grid_of, "evaluate")) == 8
    points = curves.read(curves.beside(grid.results))
    assert {(p.method, p.n_expert, p.seed) for p in points} == {
        (method, demos, seed) for method in ("bc", "ditto") for demos in (4, 15) for seed in (0, 1)
    }
    assert {(p.steps, p.return_mean, p.latent_distance) for p in points} == {(0, 0.0, 0.5), (100, 100.0, 0.25)}
    grid_of.commands.clear()
    grid_of.main(grid)
    assert words_of(grid_of, "imitate") == words_of(grid_of, "evaluate") == []


def test_a_grid_that_varies_something_else_has_names_of_its_own(grid_of):
    grid = grid_of.grid(methods=("ditto",), tag="+random", fit="--also dream/pong/random-v1", select="latent_distance")
    grid_of.main(grid)
    (fit,), (evaluate,) = words_of(grid_of, "fit"), words_of(grid_of, "evaluate")
    assert fit[-4:-2] == ["--also", "dream/pong/random-v1"]
    assert evaluate[evaluate.index("--experiment") + 1] == "ditto-paper/ditto+random"
    assert evaluate[evaluate.index("--select") + 1] == "latent_distance"
    assert {point.method for point in curves.read(curves.beside(grid.results))} == {"ditto+random"}
    grid_of.commands.clear()
    grid_of.main(grid_of.grid(methods=("bc",), select="latent_distance", out=grid.out / "bc"))
    assert "--select" not in words_of(grid_of, "evaluate")[0]  # there is no dream to choose a clone of pictures in


def test_recordings_that_are_there_are_neither_made_again_nor_told_another_environment(grid_of):
    grid = grid_of.grid(
        games=("bipedalwalker",),
        dataset="bipedalwalker/a2c-v0",
        expert="recorded",
        methods=("dbc",),
        tail=10,
        episodes=3,
    )
    grid_of.main(grid)
    assert words_of(grid_of, "collect") == []
    ((fit,), (imitate,), (evaluate,)) = (words_of(grid_of, stage) for stage in ("fit", "imitate", "evaluate"))
    assert "--also" not in fit
    assert fit[fit.index("--observation.keys") + 1] == "pixels"
    assert fit[fit.index("--observation.crop") + 1 :][:4] == ["24", "56", "0", "32"]
    assert imitate[imitate.index("--tail") + 1] == "10"
    assert evaluate[evaluate.index("--tail-episodes") + 1] == "3"
    assert "--environment" not in evaluate  # the recordings say what was played, and with which options
    grid_of.commands.clear()
    grid_of.main(replace(grid, out=grid.out / "told", environment="{game}"))
    (evaluate,) = words_of(grid_of, "evaluate")
    assert evaluate[evaluate.index("--environment") + 1] == "bipedalwalker"
    with pytest.raises(ConfigError, match="--max-steps is of the games that this grid records"):
        grid_of.main(replace(grid, max_steps=100))


def test_each_game_has_its_own_agent_of_the_hub_and_one_dataset_may_fit_and_another_be_imitated(grid_of):
    grid = grid_of.grid(
        games=("pong", "mspacman"), expert="sb3/a2c-{id}NoFrameskip-v4", dataset="dream/{game}/a2c-v0",
        imitate="dream/{game}/ppo-v0", methods=("ditto",),
    )  # fmt: skip
    grid_of.main(grid)
    experts = [words[words.index("--expert") + 1] for words in words_of(grid_of, "collect")]
    assert experts == ["sb3/a2c-PongNoFrameskip-v4", "sb3/a2c-MsPacmanNoFrameskip-v4"]
    assert [words[1] for words in words_of(grid_of, "fit")] == ["dream/pong/a2c-v0", "dream/mspacman/a2c-v0"]
    imitated = [words[words.index("--dataset") + 1] for words in words_of(grid_of, "imitate")]
    assert sorted(imitated) == ["dream/mspacman/ppo-v0", "dream/pong/ppo-v0"]
    assert {point.dataset for point in curves.read(curves.beside(grid.results))} == set(imitated)


def test_a_cell_that_fails_stops_no_other_and_is_told_of(grid_of, monkeypatch):
    def failing(words):
        if words[0] == "imitate" and "dbc" in words:
            raise RuntimeError("no more disk")
        noted(words)

    noted = grid_of.run
    monkeypatch.setattr(grid_of, "run", failing)
    with pytest.raises(SystemExit, match=r"1 of 2 runs failed.*\n.*no more disk"):
        grid_of.main(grid_of.grid(methods=("dbc", "bc")))
    assert [p.method for p in curves.read(curves.beside(grid_of.grid().results))] == ["bc", "bc"]


def test_a_method_that_is_none_is_named(grid_of):
    with pytest.raises(ConfigError, match=r"no method 'dito'\. Did you mean"):
        grid_of.main(grid_of.grid(methods=("dito",)))
