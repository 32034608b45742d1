"""The command line from the outside: ``main([...])`` on small real data, its messages, its help."""

import ast
import csv
import dataclasses
import inspect
import itertools
import os
import re
import subprocess
import sys
import textwrap
import typing
from dataclasses import replace
from pathlib import Path

import minari
import numpy as np
import pytest
import torch
from dream_env.plugins.actor_critic import ActorCritic
from dream_env.plugins.ditto import Ditto
from dream_env.plugins.gail import Gail
from dream_env.plugins.on_policy import PPO
from gymnasium import spaces
from recordings import buffers, record
from small_datasets import record_cartpole

from dream_env import cli
from dream_env.checkpoint import read_json, read_tensors
from dream_env.collecting.collect import CollectConfig
from dream_env.measuring import results
from dream_env.measuring.evaluation import EvaluateStage
from dream_env.run import RunConfig
from dream_env.run_folder import read_metrics
from dream_env.stages import FitStage, ImitateStage

FIT = """
    --held-out 1 --updates 6 --batch 4 --length 6 --log-every 2 --test-every 4 --warmup 1 --model.width 16
    --model.layers 1 --model.rssm.deter 16 --model.rssm.groups 2 --model.rssm.classes 4 --model.rssm.hidden 16
""".split()  # noqa: SIM905 (as one types it)
IMITATE = """
    --steps 120 --num-envs 4 --horizon 5 --snapshots 2 --n-steps 10 --minibatches 2 --epochs 1 --net-arch 8
    --warm-start bc --warm-start-updates 3
""".split()  # noqa: SIM905
EVALUATE = ["--episodes", "3", "--snapshot-episodes", "1", "--seed", "50"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a run from a recording of CartPole to its report, each stage by its command."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        use(patch, root)
        record_cartpole()
        folder = root / "cart"
        cli.main(["fit", "cart/rule-v0", "--out", str(folder / "wm"), *FIT])
        cli.main(["imitate", str(folder / "wm"), "--out", str(folder / "ditto"), *IMITATE])
        cli.main(["evaluate", str(folder / "ditto"), *EVALUATE])
        cli.main(["report", str(folder)])
    return folder


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    use(monkeypatch, tmp_path)


def use(patch, root):
    patch.setenv("MINARI_DATASETS_PATH", str(root / "minari"))
    patch.setenv("DREAM_ENV_CACHE", str(root / "cache"))


@pytest.fixture
def beside(run, monkeypatch):
    """Like ``run``, with its recording found."""
    use(monkeypatch, run.parent)
    return run


def refused(capsys, *words):
    """What is printed for a command that is refused: one message, no traceback, exit code 1."""
    with pytest.raises(SystemExit) as stop:
        cli.main([str(word) for word in words])
    assert stop.value.code == 1
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    return printed


def parsed(monkeypatch, stage, *words):
    """The arguments that a command hands to its stage."""
    seen = []
    monkeypatch.setattr(cli, stage, lambda *arguments, **options: seen.append(arguments))
    cli.main([str(word) for word in words])
    return seen[0]


# ------------------------------------------------------------------------------------------------------- the whole way


def test_the_whole_way_leaves_a_report(run):
    text = (run / "report.md").read_text()
    assert "wm/fit.png" in text
    assert "ditto/imitate.png" in text
    assert "| random | sampled | 3 |" in text
    assert "| ditto + ppo from bc | argmax | 3 |" in text
    assert (run / "ditto" / "agent.mp4").stat().st_size > 1000
    assert not (run / "wm" / "open_loop.mp4").exists()  # there is no picture in CartPole


def test_the_rows_are_of_the_real_environment(run):
    rows = results.read(run / "ditto" / "evaluation.csv")
    assert [row.method for row in rows] == ["random", "expert", "ditto", "ditto"]
    agent = rows[-1]
    assert (agent.environment, agent.dataset, agent.learner, agent.warm_start) == (
        "CartPole-v1", "cart/rule-v0", "ppo", "bc"
    )  # fmt: skip
    assert (agent.experiment, agent.preset, agent.n_expert, agent.eval_seed) == ("cart", "custom", 4, 50)
    assert all(1 <= value <= 40 for row in rows for value in row.returns)  # cut off where the recording was
    assert '"max_steps": 40' in agent.protocol
    with (run / "ditto" / "episodes.csv").open(newline="") as file:
        played = list(csv.DictReader(file))
    assert {line["steps"] for line in played} == {"-1", "0", "80", "120"}


def test_the_same_commands_again_do_nothing_and_return_at_once(beside, monkeypatch, capsys):
    def never(*arguments, **options):
        raise AssertionError("this was done before")

    for name in (
        "dream_env.stages.fit",
        "dream_env.learning.on_policy.OnPolicyLearner.learn",
        "dream_env.measuring.evaluation.evaluate",
    ):
        monkeypatch.setattr(name, never)
    cli.main(["fit", "cart/rule-v0", "--out", str(beside / "wm"), *FIT])
    assert f"world model: {beside / 'wm'}" in capsys.readouterr().out.replace("\n", "")
    cli.main(["imitate", str(beside / "wm"), "--out", str(beside / "ditto"), *IMITATE])
    assert f"agent: {beside / 'ditto'}" in capsys.readouterr().out.replace("\n", "")
    cli.main(["evaluate", str(beside / "ditto"), *EVALUATE])


def test_ctrl_c_is_answered_and_the_same_command_goes_on(beside, tmp_path, monkeypatch, capsys):
    command = ["fit", "cart/rule-v0", "--out", str(tmp_path / "wm"), *FIT]
    with monkeypatch.context() as patch:
        patch.setattr("dream_env.stages.encode", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(SystemExit) as stop:
            cli.main(command)
    assert stop.value.code == 130
    assert "The same command goes on where it was" in capsys.readouterr().err
    cli.main(command)
    one, other = (read_tensors(folder / "weights.safetensors") for folder in (tmp_path / "wm", beside / "wm"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert [row["update"] for row in read_metrics(tmp_path / "wm" / "metrics.csv")] == [2, 4, 6]


# -------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["imitat"], ["ConfigError", "no command 'imitat'", 'Did you mean "imitate"?']),
        (["fit", "a/b-v0", "--out", "x", "--preset", "papr"], ["no preset 'papr'", 'Did you mean "paper"?']),
        (["fit", "a/b-v0", "--out", "x", "--preset=smal"], ["no preset 'smal'", 'Did you mean "small"?']),
        (["imitate", "wm", "--out", "x", "--reward", "dito"], ["PluginError", 'Did you mean "ditto"?', "Installed: "]),
        (["imitate", "wm", "--out", "x", "--learner", "pppo"], ["PluginError", 'Did you mean "ppo"?']),
        (["imitate", "wm", "--out", "x", "--learner", "math:pi"], ["plug-in 'math:pi' is 3.14", "expected a class"]),
        (["imitate", "wm", "--out", "x", "--learner", "stable_baselines3:DQN"], ["off-policy ones learn from a replay"]),
        (["imitate", "nothing/here/at/all", "--out", "x"], ["CheckpointError", "there is no folder"]),
        (["evaluate", "nothing"], ["CheckpointError", "nothing is not an agent", "dream-env imitate"]),
        (["report", "nothing"], ["CheckpointError", "there is no folder nothing"]),
        (["collect", "pnog", "--episodes", "1"], ["ConfigError", 'Did you mean "pong"?']),
        (["collect", "pong", "--dataset", "no id"], ["ConfigError", "'no id' is no id for a Minari dataset"]),
    ],
)  # fmt: skip
def test_a_wrong_name_is_told_and_the_nearest_suggested(tmp_path, monkeypatch, capsys, words, messages):
    monkeypatch.chdir(tmp_path)
    printed = refused(capsys, *words)
    for message in messages:
        assert message in printed
    assert not (tmp_path / "x").exists()


def test_a_dataset_that_is_not_there_is_told(tmp_path, monkeypatch, capsys):
    record_cartpole(episodes=1)

    def unreachable(name):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(minari, "download_dataset", unreachable)
    printed = refused(capsys, "fit", "cart/rulle-v0", "--out", tmp_path / "wm")
    assert "DatasetError: dataset 'cart/rulle-v0' is not in" in printed
    assert 'Did you mean "cart/rule-v0"?' in printed
    assert "no route to host" in printed
    assert not (tmp_path / "wm").exists()


def test_a_dataset_of_spaces_that_cannot_be_learned_is_told(tmp_path, capsys):
    episodes = [replace(episode, actions=np.zeros((len(episode.rewards), 2), np.int64)) for episode in buffers()]
    record("game/pairs-v0", episodes, action_space=spaces.MultiDiscrete([2, 3]))
    printed = refused(capsys, "fit", "game/pairs-v0", "--out", tmp_path / "wm")
    assert "SpaceError" in printed
    assert "MultiDiscrete" in printed
    assert not (tmp_path / "wm").exists()


def test_more_held_out_episodes_than_there_are_are_told(beside, tmp_path, capsys):
    printed = refused(capsys, "fit", "cart/rule-v0", "--out", tmp_path / "wm", *FIT, "--held-out", "5")
    assert "cart/rule-v0 has 5 episodes, of which 5 are to be held out" in printed
    assert not (tmp_path / "wm").exists()


def test_other_options_for_a_folder_that_is_taken_are_refused(beside, capsys):
    printed = refused(capsys, "fit", "cart/rule-v0", "--out", beside / "wm", *FIT, "--seed", "1")
    assert "train.seed is 0 there and 1 here" in printed
    printed = refused(
        capsys, "imitate", beside / "wm", "--out", beside / "ditto", *IMITATE, "--ditto.space", "both"
    )  # fmt: skip
    assert "reward.space is 'h' there and 'both' here" in printed


def test_an_option_that_there_is_not_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["fit", "a/b-v0", "--out", "x", "--update", "5"])
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert "--updates" in printed.err + printed.out


# ------------------------------------------------------------------------------------------------------ flags and help


def test_a_preset_is_where_flags_start_from(monkeypatch):
    (stage,) = parsed(monkeypatch, "fit_stage", "fit", "a/b-v0", "--out", "x", "--preset", "paper", "--batch", "7")
    assert stage.model.rssm.deter == 1024
    assert (stage.train.batch, stage.train.length) == (7, 50)
    (stage,) = parsed(monkeypatch, "fit_stage", "fit", "a/b-v0", "--out", "x")
    assert (stage.preset, stage.model.rssm.deter, stage.train.batch) == ("small", 256, 32)


def test_of_a_flag_given_twice_the_last_counts_also_where_it_decides_on_others(monkeypatch):
    words = ["--out", "x", "--preset=paper", "--preset", "small", "--preset", "paper"]
    (stage,) = parsed(monkeypatch, "fit_stage", "fit", "a/b-v0", *words)
    assert (stage.preset, stage.model.rssm.deter, stage.train.batch) == ("paper", 1024, 50)
    words = ["--out", "x", "--learner", "ppo", "--reward", "ditto", "--reward=gail", "--learner=ditto"]
    _, reward, learner = parsed(monkeypatch, "imitate_stage", "imitate", "wm", *words)
    assert (type(reward), type(learner)) == (Gail, ActorCritic)


MY_REWARD = """
from dataclasses import dataclass
from dream_env import Reward

@dataclass
class Far(Reward):
    scale: float = 1.0
    '''Distance that costs one.'''

    def __call__(self, transition):
        return -transition.latent_tp1.deter.norm(dim=-1) / self.scale
"""


def test_options_of_the_plug_ins_are_flags(tmp_path, monkeypatch):
    (tmp_path / "far_away.py").write_text(MY_REWARD)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["imitate", "wm", "--out", "x", "--horizon", "9", "--gamma", "0.5"]
    stage, reward, learner = parsed(
        monkeypatch, "imitate_stage", *words, "--reward", "far_away:Far", "--far.scale", "2.5",
        "--learner", "a2c", "--no-normalize-advantage",
    )  # fmt: skip
    assert stage.horizon == 9
    assert (reward.name, reward.scale) == ("far", 2.5)
    assert (learner.algorithm, learner.gamma, learner.normalize_advantage) == ("stable_baselines3:A2C", 0.5, False)
    _, reward, learner = parsed(monkeypatch, "imitate_stage", *words, "--learner", "sb3_contrib:TRPO")
    assert reward == Ditto()
    assert learner.algorithm == "sb3_contrib:TRPO"


def test_a_reward_of_ones_own_runs_through_the_command(beside, tmp_path, monkeypatch):
    (tmp_path / "far_off.py").write_text(MY_REWARD)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--reward", "far_off:Far", "--far.scale", "2.5"]
    cli.main(["imitate", str(beside / "wm"), "--out", str(tmp_path / "far"), *IMITATE, *words])
    assert read_json(tmp_path / "far" / "meta.json")["reward"] == {"class": "far_off:Far", "scale": 2.5}
    assert read_metrics(tmp_path / "far" / "metrics.csv")[-1]["dream_reward"] < 0


def test_a_module_in_the_current_folder_is_found_and_a_folder_that_cannot_be_written_is_told(beside, tmp_path):
    (tmp_path / "next_door.py").write_text(MY_REWARD)
    (tmp_path / "file").write_text("")
    words = ["imitate", str((beside / "wm").resolve()), "--reward", "next_door:Far", "--out", "file/agent"]
    program = [str(Path(sys.executable).with_name("dream-env")), *words]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "CheckpointError: file/agent cannot be written: " in done.stderr  # so the reward had been found
    assert "Traceback" not in done.stderr


def test_plugins_lists_what_is_installed(capsys):
    cli.main(["plugins"])
    printed = capsys.readouterr().out
    for name in ("ditto", "ppo", "a2c", "trpo", "recurrent-ppo", "reward", "learner"):
        assert re.search(rf"\b{name}\b", printed)
    assert "dream_env.plugins.ditto:Ditto" in re.sub(r"\s", "", printed)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_without_a_command_all_of_them_are_named(words, capsys):
    cli.main(words)
    printed = capsys.readouterr().out
    for command in cli.COMMANDS:
        assert command in printed


CONFIGS = {
    "collect": (CollectConfig,), "fit": (FitStage,), "imitate": (ImitateStage, Ditto, PPO), "evaluate": (EvaluateStage,),
    "report": (cli.ReportCommand,), "run": (RunConfig,),
}  # fmt: skip


def documented(cls):
    """Name and docstring of every option of a config class, nested ones included."""
    for base in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for statement, after in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr):
                yield statement.target.id, after.value.value
    for hint in typing.get_type_hints(cls).values():
        if dataclasses.is_dataclass(hint):
            yield from documented(hint)


def bare(text):
    """Letters, digits and signs alone: without blanks, and without the frame around a help text."""
    return re.sub(r"[\s│╭╮╰╯─]", "", text)


@pytest.mark.parametrize("command", CONFIGS)
def test_help_explains_every_option(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    printed = bare(capsys.readouterr().out)
    explained = [(name, text) for cls in CONFIGS[command] for name, text in documented(cls)]
    assert explained
    options = {field.name for cls in CONFIGS[command] for field in dataclasses.fields(cls)}
    for name, text in explained:
        assert bare(text) in printed or _overridden(name, text, explained), f"{name}: {text}"
    assert options <= {name for name, _ in explained} | {"model", "train", "observation"} | {"algorithm"}
    assert bare(CONFIGS[command][0].__doc__) in printed


def _overridden(name, text, explained):
    """Whether a subclass says something else of the same option."""
    last = [other for same, other in explained if same == name][-1]
    return last != text


def test_commands_let_glibc_keep_freed_memory(monkeypatch):
    told = []

    class Glibc:
        def mallopt(self, option, value):
            told.append((option, value))

    monkeypatch.setattr(cli.ctypes, "CDLL", lambda name: Glibc())
    cli.main(["plugins"])
    assert told == [(-4, 0), (-1, 2**31 - 1)]  # M_MMAP_MAX, M_TRIM_THRESHOLD


@pytest.mark.parametrize("error", [OSError, TypeError, AttributeError])
def test_commands_run_with_other_c_libraries(monkeypatch, capsys, error):
    def no_library(name):
        raise error("no such thing here")

    monkeypatch.setattr(cli.ctypes, "CDLL", no_library)
    cli.main(["plugins"])
    assert "ditto" in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts page faults as Linux does")
def test_kept_memory_is_not_asked_of_the_system_again():
    """The same block of 64 MiB, taken and given back: without the switch each time costs its 16384 pages."""
    program = """
import resource, sys
import torch
from dream_env import cli
if sys.argv[1] == "keep":
    cli._keep_freed_memory()
for _ in range(5):
    torch.ones(16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    faults = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", program, how], capture_output=True, text=True, check=True, env=environment
            ).stdout
        )
        for how in ("keep", "leave")
    }
    if faults["leave"] < 100_000:
        pytest.skip(f"this allocator keeps memory by itself ({faults['leave']} page faults)")
    assert faults["keep"] < faults["leave"] / 4
