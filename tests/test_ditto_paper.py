"""The grid of DITTO's experiments: its methods are flags that there are, and its cells are done once, whoever is killed."""

import importlib.util
import itertools
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gymnasium import spaces
from recordings import buffers, record

from dream_env import cli
from dream_env.checkpoint import write_json
from dream_env.collecting.collect import CollectConfig
from dream_env.errors import ConfigError, DatasetError
from dream_env.measuring import curves, results
from dream_env.measuring.results import Row
from dream_env.playing.game_log import GameLog
from dream_env.playing.games import EpisodeResult

FILE = Path(__file__).resolve().parent.parent / "examples" / "ditto_paper.py"
with pytest.MonkeyPatch.context() as _patch:
    _patch.syspath_prepend(FILE.parent)
    METHODS = runpy.run_path(str(FILE))["METHODS"]


@pytest.fixture
def grid_of(monkeypatch, tmp_path):
    """The example's module, whose commands are noted instead of run; agents it asks for appear."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
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
            mean = dict.fromkeys(("return_mean", "return_iqm", "return_low", "return_high", "normalized"), 1.0)
            played = Row(experiment=words[words.index("--experiment") + 1], environment="ALE/Pong-v5", dataset="d",
                         method=agent.name, n_expert=4, episodes=1, **mean)  # fmt: skip
            results.write(agent / "evaluation.csv", [played])

    monkeypatch.setattr(module, "run", noted)
    module.grid = lambda **options: module.Grid(
        **{"out": tmp_path / "out", "results": tmp_path / "ditto.csv", "demos": (4,), "seeds": (0,), **options}
    )
    return module


def words_of(module, stage):
    return [words for words in module.commands if words[0] == stage]


def value_of(words, option, count=1):
    """What a command is told after an option: one word, or a list of several."""
    found = words[words.index(option) + 1 :][:count]
    return found[0] if count == 1 else found


def screen(*shape):
    return spaces.Box(0, 255, shape, np.uint8)


WALKER = spaces.Dict({"state": spaces.Box(-1, 1, (3,), np.float32), "pixels": screen(64, 64, 3)})


def recorded(name, space=None, episodes=7):
    """Small recordings that are there before the grid is."""
    space = screen(64, 64, 1) if space is None else space
    record(name, buffers(space, lengths=(2,) * episodes), space)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_flags_of_imitate(monkeypatch, name):
    seen = []
    monkeypatch.setattr(cli, "imitate_stage", lambda stage, reward, learner: seen.append((stage, reward, learner)))
    cli.main(["imitate", "wm", "--out", "out", *METHODS[name]])
    ((stage, reward, learner),) = seen
    # What the name says; where it says nothing, DITTO's reward as it is and its horizon.
    ablation = re.fullmatch(r"(dot|l2|cosine|nearest)-(h|z|both)", name)
    horizon = re.fullmatch(r"(?:gail-)?horizon-(\d+)", name)
    if name == "anchor":
        assert (reward.weights, learner.anchor, learner.warm_start) == ((0.0,), 0.3, "bc")
        return
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
    if name.startswith("ditto-plain-"):  # one thing changed, but for the anchor with a cloned start
        changed = [learner.standardize_rewards, learner.anchor > 0, learner.control_variate, learner.entropy != 0.05]
        assert (learner.warm_start == "bc") == (name == "ditto-plain-anchor")
        assert (stage.num_envs, learner.learning_rate, sum(changed)) == (512, 3e-4, 1)
        assert learner.entropy == (0.01 if name == "ditto-plain-entropy" else 0.05)
    if name == "gail-horizon-5":
        assert (type(reward).__name__, stage.horizon, stage.num_envs) == ("Gail", 5, 384)
    if name == "ditto-annealed":
        assert (learner.entropy_weight(0.0), learner.entropy_weight(1.0)) == (0.05, 0.0)
    if name == "ditto-long":
        assert stage.steps == 12_000_000
    if name == "ditto-cv":
        assert learner.control_variate
    if name in ("ppo", "gail-ppo"):  # the same learner, on either reward
        assert (type(learner).__name__, learner.warm_start, learner.anchor) == ("PPO", "none", 0)
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
    assert not grid.results.exists()  # nobody but the commands writes it, and these are noted alone
    grid_of.main(grid)
    assert words_of(grid_of, "imitate") == words_of(grid_of, "evaluate") == []
    assert len(results.read(grid.results)) == 8  # of finished cells, if the file is gone
    curves.beside(grid.results).unlink()
    grid_of.main(grid)
    assert len(results.read(grid.results)) == 8
    assert len(curves.read(curves.beside(grid.results))) == 16


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
    recorded("bipedalwalker/a2c-v0", WALKER)
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
    for option, given in (("max-steps", {"max_steps": 100}), ("record", {"record": 60})):
        with pytest.raises(ConfigError, match=f"--{option} is of the games that this grid records"):
            grid_of.main(replace(grid, **given))


def test_each_game_has_its_own_agent_of_the_hub_and_one_dataset_may_fit_and_another_be_imitated(grid_of):
    for game in ("pong", "mspacman"):
        recorded(f"dream/{game}/ppo-v0")
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


def test_as_many_games_are_recorded_as_are_asked_for(grid_of):
    grid_of.main(grid_of.grid(methods=("bc",), demos=(60,), record=62))
    assert [value_of(words, "--episodes") for words in words_of(grid_of, "collect")] == ["62", "12"]  # clumsy: as ever


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"demos": (4, 47)},
            r"--demos 47 .*slips-v1 is to have 48 episodes, of which 2 are.*at most 46, or --record 49",
        ),
        ({"demos": (46,), "fit": "--updates 9 --held-out 5"}, r"of which 5 are held out .* at most 43, or --record 51"),
        ({"demos": (8,), "fit": "--held_out=3", "record": 10}, r"of which 3 are held out .* at most 7, or --record 11"),
        (
            {"demos": (6,), "expert": "recorded", "dataset": "some/{game}-v0"},
            r"some/pong-v0 has 7 episodes.* at most 5$",
        ),
        (
            {"demos": (6,), "imitate": "some/{game}-v0", "fit": "--held-out 9"},
            r"some/pong-v0 has 7 episodes.* at most 5$",
        ),
    ],
)
def test_more_demonstrations_than_there_will_be_are_refused_before_anything_is_done(grid_of, options, message):
    recorded("some/pong-v0")
    with pytest.raises(ConfigError, match=message):
        grid_of.main(grid_of.grid(**options))
    assert grid_of.commands == []
    grid_of.main(grid_of.grid(**{**options, "demos": (5,), "methods": ("bc",)}))
    assert len(words_of(grid_of, "imitate")) == 1


def test_recordings_that_are_nowhere_are_missed_before_anything_is_fitted(grid_of, monkeypatch):
    def download(name):
        raise ConnectionError("no network")

    monkeypatch.setattr("minari.download_dataset", download)
    with pytest.raises(DatasetError, match="no network"):
        grid_of.main(grid_of.grid(expert="recorded", dataset="some/pong-v0"))
    assert grid_of.commands == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "dream/pong/slips-v1"),  # as ``dream-env run``
        ({"fire": True}, "dream/pong/slips-v1"),
        ({"expert": "planner"}, "dream/pong/planner-v1"),
        ({"expert": "planner", "fire": True}, "dream/pong/planner-fire-v1"),
        ({"expert": "sb3/ppo-{id}NoFrameskip-v4"}, "dream/pong/ppo-pongnoframeskip-v4-v1"),
        ({"expert": "my_agents/{game}.zip", "dataset": "dream/{game}/mine-v3"}, "dream/pong/mine-v3"),
    ],
)
def test_recordings_of_another_expert_have_a_name_of_their_own(grid_of, options, expected):
    grid_of.main(grid_of.grid(methods=("bc",), **options))
    assert value_of(words_of(grid_of, "collect")[0], "--dataset") == expected
    ((fit,),) = (words_of(grid_of, "fit"),)
    assert fit[1] == expected
    assert ("--also" in fit) == (options.get("expert") is None)
    assert {point.dataset for point in curves.read(curves.beside(grid_of.grid().results))} == {expected}
    collected = []
    for words in words_of(grid_of, "collect"):  # they are commands that there are
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli, "collect", collected.append)
            cli.main(words)
    assert collected[0].dataset_id == expected


@pytest.mark.parametrize(
    ("expert", "pressed"),
    [("scripted", False), ("replay:some/pong-v0", False), ("planner", True), ("sb3/ppo-{id}NoFrameskip-v4", True)],
)
def test_fire_is_pressed_for_an_expert_that_does_not_serve_by_itself(grid_of, expert, pressed):
    grid = grid_of.grid(methods=("bc",), expert=expert, fire=True)
    grid_of.main(grid)
    assert ["--fire" in words for words in words_of(grid_of, "collect")][:1] == [pressed]
    assert "--fire" in words_of(grid_of, "evaluate")[0]
    grid_of.commands.clear()
    grid_of.main(replace(grid, out=grid.out / "without", fire=False))
    assert not any("--fire" in words for words in grid_of.commands)


@pytest.mark.parametrize(
    ("game", "space", "crop"),
    [
        ("breakout", screen(64, 64, 1), ["28", "60", "0", "64"]),
        ("breakout", screen(84, 84), ["37", "79", "0", "84"]),
        ("breakout", screen(210, 160, 3), ["92", "197", "0", "160"]),
        ("bipedalwalker", WALKER, ["24", "56", "0", "32"]),
        ("bipedalwalker", spaces.Dict({"pixels": screen(128, 128, 3)}), ["48", "112", "0", "64"]),
    ],
)
def test_the_same_part_is_shown_of_pictures_of_any_size(grid_of, game, space, crop):
    recorded("some/others-v0", space)
    grid_of.main(grid_of.grid(games=(game,), expert="recorded", dataset="some/others-v0", methods=("bc",)))
    assert value_of(words_of(grid_of, "fit")[0], "--observation.crop", 4) == crop


def test_nothing_is_cut_off_the_memory_of_a_console_nor_in_the_paper_s_size(grid_of):
    recorded("some/memory-v0", screen(128))
    grid = grid_of.grid(expert="recorded", dataset="some/memory-v0", methods=("bc",))
    grid_of.main(grid)
    for game in ("breakout", "bipedalwalker"):
        options = {"games": (game,), "expert": "planner", "preset": "paper", "methods": ("dbc",)}
        grid_of.main(grid_of.grid(**options))
    fits = words_of(grid_of, "fit")
    assert len(fits) == 3
    assert not any("--observation.crop" in words for words in fits)
    assert value_of(fits[2], "--observation.keys") == "pixels"  # not the state beside them


def test_crops_are_of_pictures_as_they_are_recorded_here(grid_of):
    assert CollectConfig.size == grid_of.SIDE


def test_cells_of_before_are_told_in_the_same_words(grid_of):
    """What the ``done`` files and folders in ``examples/results/`` were made with; a word more, and none is known again."""
    recorded("bipedalwalker/a2c-state-pixels-v0", WALKER, episodes=17)
    out, plain = grid_of.grid().out, {"methods": ("ppo",), "demos": (15,)}
    grid_of.main(grid_of.grid(games=("breakout",), max_steps=4500, updates=3000, **plain))
    collect, clumsy, fit, imitate, evaluate = (" ".join(words).replace(str(out), "OUT") for words in grid_of.commands)
    common = "--explore 0.05 --noise 0.0 --lapse"
    assert collect == (
        "collect breakout --dataset dream/breakout/slips-v1 --expert scripted --episodes 48 --workers 2 --max-steps 4500 "
        f"{common} 0.008"
    )
    assert clumsy == (
        "collect breakout --dataset dream/breakout/slips-clumsy-v1 --expert scripted --episodes 12 --workers 2 "
        f"--max-steps 4500 {common} 0.03 --seed 5000"
    )
    assert fit == (
        "fit dream/breakout/slips-v1 --out OUT/breakout/wm-0 --preset small --seed 0 --also dream/breakout/slips-clumsy-v1 "
        "--updates 3000 --observation.crop 28 60 0 64 --device cpu"
    )
    assert imitate == (
        "imitate OUT/breakout/wm-0 --out OUT/breakout/ppo-15-0 --seed 0 --demos 15 --steps 2000000 --snapshots 10 --tail 0 "
        "--device cpu --reward ditto --learner ppo"
    )
    assert evaluate.replace(str(grid_of.grid().results), "RESULTS") == (
        "evaluate OUT/breakout/ppo-15-0 --episodes 20 --seed 10000 --no-video --snapshot-episodes 4 --device cpu "
        "--experiment ditto-paper/ppo --results RESULTS"
    )
    grid_of.commands.clear()
    dataset = "bipedalwalker/a2c-state-pixels-v0"
    grid_of.main(grid_of.grid(games=("bipedalwalker",), dataset=dataset, expert="recorded", updates=2500, **plain))
    assert " ".join(words_of(grid_of, "fit")[0]).replace(str(out), "OUT") == (
        f"fit {dataset} --out OUT/bipedalwalker/wm-0 --preset small --seed 0 --updates 2500 --observation.keys pixels "
        "--observation.crop 24 56 0 32 --device cpu"
    )
