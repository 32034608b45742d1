"""The house rules that a reader relies on, as tests: imports go down, the core names no algorithm, the wheel is complete."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import dream_env

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "dream_env"
FILES = sorted(PACKAGE.rglob("*.py"))
PLUGINS = sorted((ROOT / "plugins").glob("*.py"))


def module_of(path: Path) -> str:
    """``world_model`` of ``model/world_model.py`` is ``model.world_model``; a room's own ``__init__`` is the room."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


def imported_here(path: Path) -> set[str]:
    """Modules of dream_env that a file imports when it is imported itself (not under TYPE_CHECKING, not in functions)."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "dream_env":
            module = node.module.removeprefix("dream_env").removeprefix(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix(".")
                found.add(inner if inner in MODULES else module)
    return (found & MODULES) - {""}


def floors_of(graph: dict[str, set[str]]) -> dict[str, int]:
    floors: dict[str, int] = {}

    def floor(name: str, above: tuple[str, ...] = ()) -> int:
        assert name not in above, f"import circle: {' → '.join([*above, name])}"
        if name not in floors:
            floors[name] = 1 + max((floor(below, (*above, name)) for below in graph[name]), default=-1)
        return floors[name]

    for name in graph:
        floor(name)
    return floors


def test_imports_form_floors_without_a_circle():
    floors = floors_of({name: imported_here(path) for path in FILES if (name := module_of(path))})
    # The flow of the data is the order of the floors: through the dream, and through the real environment and what is kept.
    flows = [
        ["latent", "model.rssm", "model.world_model", "model.encoded", "dream.dreams", "dream.env", "learning.on_policy",
         "stages", "cli"],
        ["recordings.demos", "model.world_model", "fitting.graphed", "fitting.fit", "stages"],
        ["real.success", "real.real_rooms", "playing.real_episodes", "learning.online", "cli"],
        ["recordings.growing", "recordings.replay", "learning.online", "cli"],
    ]  # fmt: skip
    for flow in flows:
        assert [floors[name] for name in flow] == sorted(floors[name] for name in flow)
        assert len({floors[name] for name in flow}) == len(flow)
    assert max(floors.values()) == floors["cli"]


def test_so_do_the_rooms():
    graph: dict[str, set[str]] = {path.parent.name: set() for path in FILES if path.parent != PACKAGE}
    for path in FILES:
        if path.parent != PACKAGE:
            below = {name.split(".")[0] for name in imported_here(path)}
            graph[path.parent.name] |= (below & graph.keys()) - {path.parent.name}
    floors_of(graph)
    (listed,) = re.findall(r"```\n(spaces → .*?)plugin\.py", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    order = [name for line in listed.splitlines() for name in re.split(r"\s{2,}", line)[0].split(" → ")]
    assert sorted(order) == sorted(graph)
    for name, below in graph.items():
        assert all(order.index(other) < order.index(name) for other in below), (name, below)


def test_the_core_imports_no_plug_in():
    for path in FILES:
        tree = ast.parse(path.read_text())
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not any(module.startswith(("dream_env.plugins", "plugins")) for module in modules), path.name


def test_the_core_names_no_plug_in_but_as_a_default():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {name for kind in ("rewards", "learners") for name in project["entry-points"][f"dream_env.{kind}"]}
    assert ours >= {"ditto", "cmil", "ppo", "bc"}
    found = {
        (module_of(path), node.value)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in ours
    }
    assert found == {
        # What is used where nothing is said.
        ("cli", "ppo"), ("dream.env", "ditto"), ("online_stage", "ppo"), ("plugin", "ditto"), ("run", "ppo"),
        ("stages", "ppo"),
        # How a policy of SB3's starts, not the learner of this name.
        ("learning.on_policy", "bc"), ("run", "bc"),
    }  # fmt: skip


@pytest.mark.parametrize("path", [*FILES, *PLUGINS], ids=lambda path: "/".join(path.parts[-2:]))
def test_a_file_is_read_in_one_sitting(path):
    lines = len(path.read_text().splitlines())
    assert lines <= (250 if path in PLUGINS else 400), f"{path.name} has {lines} lines"


def test_every_public_module_class_and_function_explains_itself():
    for path in [*FILES, *PLUGINS]:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path.name
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_the_public_face_is_small_sorted_and_real():
    assert list(dream_env.__all__) == sorted(dream_env.__all__, key=str.lower) or list(dream_env.__all__) == sorted(
        dream_env.__all__
    )
    assert len(dream_env.__all__) <= 12
    for name in dream_env.__all__:
        assert callable(getattr(dream_env, name)), name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dream_env.nothing


def test_importing_does_nothing_but_register():
    code = (
        "import sys, gymnasium; before = len(gymnasium.registry); import dream_env; "
        "heavy = {'torch', 'stable_baselines3', 'minari', 'ale_py', 'cv2', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; assert len(gymnasium.registry) > before"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_plugins_under_another_name_are_refused():
    run = subprocess.run([sys.executable, "-c", "import plugins"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode != 0
    assert "import 'dream_env.plugins' instead" in run.stderr


def test_the_wheel_holds_every_module_and_the_dream_that_ships(tmp_path):
    # Of a copy without build/ and *.egg-info: setuptools takes from an earlier build what it would now leave out.
    source = tmp_path / "source"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source)
    for name in ("dream_env", "plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(source),
    ]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    inside = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    expected = {path.relative_to(ROOT).as_posix() for path in FILES} | {
        f"dream_env/plugins/{path.name}" for path in PLUGINS
    }
    assert expected | {"dream_env/py.typed"} <= inside
    shipped = {path.relative_to(ROOT).as_posix() for path in (PACKAGE / "shipped").rglob("*") if path.is_file()}
    assert "dream_env/shipped/pong/weights.safetensors" in shipped
    assert shipped <= inside
    assert not any(name.split("/")[0] in ("plugins", "tests", "examples") for name in inside)


def test_the_top_level_is_what_was_agreed():
    allowed = {"pyproject.toml", "dream_env", "plugins", "examples", "tests", "README.md", "LICENSE", "CHANGELOG.md"}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    assert {name.split("/")[0] for name in tracked if not name.startswith(".")} <= allowed
