"""The README, and that of the results, do what they say: their Python runs, their commands parse, their tables are those of
the result files."""

import contextlib
import dataclasses
import importlib
import io
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from agents import LinearLearner, linear_agent, pong_model, short_pong
from stable_baselines3 import PPO

from dream_env import Reward, checkpoint, cli
from dream_env.agent import save_agent
from dream_env.model.encoded import save_encoded
from dream_env.testing import check_reward, tiny_expert

ROOT = Path(__file__).resolve().parent.parent
RESULTS = (ROOT / "examples" / "results" / "README.md").read_text()
TEXT = (ROOT / "README.md").read_text() + RESULTS
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
SHELL = [
    line
    for block in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
CALLS = [words for line in SHELL for part in line.split("#")[0].split("&&") if (words := shlex.split(part))]
COMMANDS = [words[1:] for words in CALLS if Path(words[0]).name == "dream-env"]
EXAMPLES = [
    [words[1].removeprefix("examples/"), *words[2:]]
    for words in CALLS
    if Path(words[0]).name.startswith("python") and words[1:] and words[1].startswith("examples/")
]
SCRIPTS = {
    "ditto_paper.py": "Grid", "cmil_paper.py": "Grid", "pong_minutes.py": "Minutes", "planner_scores.py": "Scores",
    "ship_dream.py": "Ship",
}  # fmt: skip
"""Those of the examples that have a dataclass of options, and its name."""
NO_OPTIONS = {"readme_tables.py", "benchmark/all.py"}
"""Those that have none: one takes --check, the other hands on whatever it is given."""
STAGES = {
    "collect": "collect", "fit": "fit_stage", "imitate": "imitate_stage", "evaluate": "evaluate_stage",
    "report": "report", "run": "run",
}  # fmt: skip

LEARN_NOTHING = (
    ('PPO("MlpPolicy", dream).learn(100_000)', ""),
    ('PPO("MlpPolicy", dream_env.as_sb3(dreams), n_steps=30, batch_size=2560).learn(2_000_000)', ""),
    ("num_envs=512", "num_envs=1"),
)


def block_with(text):
    (found,) = [block for block in PYTHON if text in block]
    return found


@pytest.fixture(scope="module")
def wm(tmp_path_factory):
    """A tiny model of Pong, standing in for runs/pong/wm."""
    folder = tmp_path_factory.mktemp("runs") / "wm"
    world_model = pong_model()
    checkpoint.save(world_model, folder)
    save_encoded(tiny_expert(world_model), folder, "train")
    return folder


def smaller(block, folder, *changes, instead_of="runs/pong/wm"):
    """The block with a folder of ours and small numbers; everything that is to be replaced must be there."""
    for old, new in ((instead_of, str(folder)), *changes):
        assert old in block
        block = block.replace(old, new)
    return block


def test_the_three_lines_of_python_learn_in_one_dream_and_in_many(wm):
    block = smaller(
        block_with("PPO("), wm,
        ('"MlpPolicy", dream)', '"MlpPolicy", dream, n_steps=64)'),
        ("100_000", "64"),
        ("num_envs=512", "num_envs=8"),
        ("n_steps=30, batch_size=2560", "n_steps=30, batch_size=60"),
        ("2_000_000", "240"),
    )  # fmt: skip
    names = {}
    exec(block, names)
    assert names["dream"].spec.id == "Dream-Pong-v0"
    assert names["dreams"].num_envs == 8


@pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped with a ``Monitor``")
def test_sb3s_own_evaluation_plays_the_real_game_through_the_filter(wm):
    names = {}
    exec(smaller(block_with("PPO("), wm, *LEARN_NOTHING), names)
    names |= {"model": PPO("MlpPolicy", names["dream"], n_steps=64, device="cpu"), "real_env": short_pong()}
    block = block_with("evaluate_policy(").replace("evaluate_policy(model", "result = evaluate_policy(model")
    exec(smaller(block, wm), names)
    mean, deviation = names["result"]
    assert -21 <= mean <= 21
    assert deviation >= 0


def test_a_loaded_agent_acts_on_one_observation_after_another(wm, tmp_path):
    save_agent(linear_agent(checkpoint.load(wm)), tmp_path / "ppo", world_model_folder=wm, learner=LinearLearner)
    env = short_pong()
    observation, _ = env.reset(seed=0)
    names = {"observation": observation}
    exec(smaller(block_with("load_agent("), str(tmp_path / "ppo"), instead_of="runs/mine/ppo"), names)
    assert names["action"].shape == (1,)
    env.step(int(names["action"][0]))
    assert names["state"] is not None


def test_the_reward_of_the_example_keeps_the_contract(tmp_path, monkeypatch):
    (tmp_path / "my_package.py").write_text(block_with("(Reward)"))
    monkeypatch.syspath_prepend(tmp_path)
    check_reward("my_package:StayClose")
    check_reward("my_package:StayClose", scale=2.0)
    import my_package

    assert issubclass(my_package.StayClose, Reward)
    assert my_package.StayClose.name == "stay-close"
    assert 'stay-close = "my_package:StayClose"' in TEXT


def test_every_block_of_python_is_run_here():
    assert len(PYTHON) == 4


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_one_that_there_is(words, monkeypatch, capsys):
    if words == ["plugins"]:
        cli.main(words)
        return
    called = []
    stage = "online_stage" if "--online-steps" in words else STAGES[words[0]]
    stage = "study_report" if words[-1].endswith(".csv") else stage
    monkeypatch.setattr(cli, stage, lambda *arguments, **options: called.append(arguments))
    cli.main(words)
    assert len(called) == 1


@pytest.mark.parametrize("words", [words for words in EXAMPLES if words[0] not in NO_OPTIONS], ids=" ".join)
def test_every_example_is_given_what_it_takes(words, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    script = importlib.import_module(Path(words[0]).stem)
    config = tyro.cli(getattr(script, SCRIPTS[words[0]]), args=words[1:])
    if hasattr(script, "METHODS"):
        assert set(config.methods) <= script.METHODS.keys()


def test_every_stage_is_shown():
    assert {words[0] for words in COMMANDS} == set(cli.COMMANDS)


@pytest.fixture(scope="module")
def flags():
    """Every flag of every command, with the learners' that ship."""
    found = set()
    for words in (
        *([command] for command in STAGES),
        ["imitate", "--learner", "a2c"],
        ["imitate", "--learner", "cmil"],
        ["imitate", "--learner", "pdac"],
    ):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            cli.main([*words, "--help"])
        found |= set(re.findall(r"--[a-z][a-z.-]+", printed.getvalue()))
    return found


def test_every_flag_in_the_text_is_one_that_there_is(flags, monkeypatch):
    others = {
        "--check",
        "--strict",
        "--explicit-package-bases",
        "--nproc-per-node",
        "--index-url",
    }  # of the tools named beside
    others |= {"--stay-close.scale"}  # of the reward that is written there
    monkeypatch.syspath_prepend(ROOT / "examples")
    for name, config in SCRIPTS.items():
        grid = runpy.run_path(str(ROOT / "examples" / name))[config]
        flags = flags | {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(grid)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z.-]+", TEXT)) - others
    assert {"--quick", "--warm-start", "--anchor", "--preset"} <= named
    assert named <= flags


def test_every_learner_and_preset_in_the_text_is_one_that_there_is():
    from dream_env.plugin import available
    from dream_env.stages import PRESETS

    (learners,) = re.findall(r"`--learner ([\w|-]+)`", TEXT)
    assert set(learners.split("|")) == set(available("learners"))
    (presets,) = re.findall(r"--preset ([\w-]+(?:\|[\w-]+)+)", TEXT)
    assert set(presets.split("|")) == set(PRESETS)


def test_every_file_and_folder_of_the_repository_in_the_text_is_there():
    named = set(re.findall(r"\b(?:examples|dream_env|plugins)/[\w/]*(?:\.\w+)?", TEXT)) | {".ci/run"}
    assert {"examples/readme_tables.py", "examples/my_reward"} <= named
    for path in named:
        assert (ROOT / path).exists(), path
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", RESULTS):
        assert (ROOT / "examples" / "results" / picture).is_file(), picture


def test_the_tables_are_those_of_the_result_files():
    assert len(re.findall("<!-- results: ", TEXT)) == len(re.findall("<!-- end -->", TEXT)) > 10
    program = [sys.executable, str(ROOT / "examples" / "readme_tables.py"), "--check"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_line_that_ci_runs_is_there():
    lines = [line for line in SHELL if re.match(r"python3 -m venv .*pytest", line)]
    assert len(lines) == 1
    assert lines[0].endswith("-m pytest -n 2 -q")
