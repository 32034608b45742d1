import ast
import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path, PureWindowsPath

import pytest
import safetensors
import torch

from dream_env import checkpoint
from dream_env.checkpoint import Store, load, load_optimizer, model_folder, optimizer_tensors, save, write_folder
from dream_env.errors import CheckpointError, ConfigError
from dream_env.testing import tiny_world_model


@pytest.fixture
def folder(tmp_path) -> Path:
    return save(tiny_world_model(), tmp_path / "wm", {"note": "a test"})


def test_a_saved_world_model_comes_back_the_same(folder):
    before, after = tiny_world_model(), load(folder)
    assert after.config == before.config
    assert after.source == before.source
    assert all(
        torch.equal(a, b) for a, b in zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    )
    assert json.loads((folder / "meta.json").read_text())["note"] == "a test"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "meta.json", "weights.safetensors"]


def test_a_missing_folder_says_what_to_give():
    with pytest.raises(
        CheckpointError, match=r"there is no folder 'no/such/place'; give the folder that `dream-env fit"
    ):
        load("no/such/place")


def test_a_file_is_no_world_model(tmp_path):
    (tmp_path / "wm").write_text("")
    with pytest.raises(CheckpointError, match=r"is a file; a world model is a folder with config.json"):
        load(tmp_path / "wm")


def test_an_unfinished_folder_points_to_what_there_is(tmp_path):
    store = Store(tmp_path / "wm")
    kept = store.save(7, {"x": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match=rf"training has not finished.*{kept}"):
        load(tmp_path / "wm")


def test_truncated_weights_are_named(folder):
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"weights.safetensors is damaged or cut short"):
        load(folder)


def test_weights_of_another_model_are_named(folder, tmp_path):
    other = save(tiny_world_model(continue_head=True), tmp_path / "other")
    shutil.copy(other / "weights.safetensors", folder / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"does not fit config.json, first at 'continue_net"):
        load(folder)


def test_a_folder_from_a_newer_version_asks_for_an_upgrade(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "format": 99}))
    with pytest.raises(
        CheckpointError, match=r"written by a newer dream-env \(folder format 99.*pip install --upgrade"
    ):
        load(folder)


def test_an_unknown_option_in_a_config_suggests_the_nearest(folder):
    config = json.loads((folder / "config.json").read_text())
    config["world_model"]["rssm"]["dter"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r'RSSMConfig has no option \'dter\'. Did you mean "deter"'):
        load(folder)


def test_a_hub_id_is_downloaded(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub_id: str(folder))
    assert model_folder("somebody/pong-dream") == folder


@pytest.mark.parametrize("name", ["somebody/pong-dream", PureWindowsPath("somebody/pong-dream")])
def test_a_hub_id_has_a_forward_slash_whatever_the_systems_paths_have(folder, monkeypatch, name):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda hub_id: asked.append(hub_id) or str(folder))
    assert model_folder(name) == folder
    assert asked == ["somebody/pong-dream"]
    assert model_folder(PureWindowsPath("shipped:pong")).is_dir()


def test_a_download_that_fails_says_so(monkeypatch):
    def refuse(hub_id):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(
        CheckpointError, match=r"neither a folder here nor a world model that could be downloaded.*no network"
    ):
        load("somebody/pong-dream")


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "thing"
    with write_folder(target) as temporary:
        (temporary / "a").write_text("1")

    def give_up_half_way():
        with write_folder(target) as temporary:
            (temporary / "a").write_text("2")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        give_up_half_way()
    assert (target / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_after(monkeypatch, count):
    """Let nothing be renamed or removed any more after so many times, by blocks that clean up neither."""
    made = []

    def until(then):
        def do(*given, **options):
            if len(made) >= count:
                raise Killed
            made.append(1)
            return then(*given, **options)

        return do

    monkeypatch.setattr(Path, "replace", until(Path.replace))
    monkeypatch.setattr(shutil, "rmtree", until(shutil.rmtree))


def test_what_was_there_is_put_back_if_the_new_folder_cannot_take_its_place(tmp_path, monkeypatch):
    def fill(text):
        with write_folder(tmp_path / "thing") as temporary:
            (temporary / "a").write_text(text)

    fill("1")
    rename = Path.replace

    def stuck(path, target):
        if target == tmp_path / "thing" and ".tmp-" in path.name:
            raise OSError("device or resource busy")
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", stuck)
        with pytest.raises(OSError, match="device or resource busy"):
            fill("2")
    assert (tmp_path / "thing" / "a").read_text() == "1"
    fill("3")
    assert (tmp_path / "thing" / "a").read_text() == "3"
    assert [path.name for path in tmp_path.iterdir()] == ["thing"]


def test_a_kill_at_any_moment_leaves_a_whole_state_also_of_the_same_step(tmp_path, monkeypatch):
    for count in range(50):
        store = Store(tmp_path / str(count))
        store.save(7, {"x": torch.zeros(1)}, {"try": 0})
        with monkeypatch.context() as patch:
            killed_after(patch, count)
            try:
                store.save(7, {"x": torch.ones(1)}, {"try": 1})
                break
            except Killed:
                pass
        step, tensors, state = store.latest()
        assert (step, float(tensors["x"])) == (7, state["try"])
        store.save(7, {"x": torch.full((1,), 2.0)}, {"try": 2})
        store.save(8, {"x": torch.full((1,), 3.0)}, {"try": 3})
        assert (store.latest()[0], store.latest()[2]) == (8, {"try": 3})
    assert 5 < count < 49, "as many moments as there are to be killed in"
    assert store.latest()[2] == {"try": 1}


def test_the_newest_state_is_that_of_the_most_steps_also_of_very_many(tmp_path):
    store = Store(tmp_path)
    for step in (999_999_999, 1_000_000_000):
        (tmp_path / "resume" / str(step)).mkdir(parents=True)
        for name in ("state.json", "training.safetensors"):
            (tmp_path / "resume" / str(step) / name).write_text("{}")
    assert store.latest_folder().name == "1000000000"


def test_a_full_disk_is_named_and_what_was_saved_stays(folder, monkeypatch):
    before = (folder / "config.json").read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(
        CheckpointError, match=r"No space left on device; what was saved before is intact.*run the same command"
    ):
        save(tiny_world_model(seed=1), folder)
    assert (folder / "config.json").read_bytes() == before
    assert torch.equal(load(folder).rssm.posterior_out.bias, tiny_world_model().rssm.posterior_out.bias)


def test_tensors_are_written_from_where_they_are(tmp_path):
    script = f"""
import resource, pathlib, torch
from dream_env import checkpoint
tensors = {{"a": torch.ones(50_000_000)}}  # 200 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
checkpoint.write_tensors(pathlib.Path({str(tmp_path)!r}) / "a.safetensors", tensors)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(said.stdout) < 50_000  # KiB: no copy of all of them


def test_what_is_written_may_be_read_by_whom_the_user_lets(tmp_path):
    (tmp_path / "usual").touch()
    checkpoint.write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_disk_that_fills_up_in_mid_tensor_is_named_too(tmp_path, monkeypatch):
    def full(tensors, path):
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint.safetensors.torch, "save_file", full)
    with pytest.raises(
        CheckpointError, match=r"\(0\.0 MiB\): I/O error: No space left on device .*Free some disk space"
    ):
        checkpoint.write_tensors(tmp_path / "a.safetensors", {"a": torch.ones(1)})
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    shared = torch.ones(3)
    with pytest.raises(RuntimeError, match="share memory"):
        checkpoint.write_tensors(tmp_path / "a.safetensors", {"a": shared, "b": shared})
    assert not list(tmp_path.iterdir())


def test_the_store_keeps_the_newest_complete_state(tmp_path):
    store = Store(tmp_path)
    assert store.latest() is None
    store.save(1, {"x": torch.ones(2)}, {"note": 1})
    store.save(2, {"x": torch.full((2,), 2.0)}, {"note": 2})
    (tmp_path / "resume" / "000000003").mkdir()  # a kill left it without its state.json
    step, tensors, state = Store(tmp_path).latest()
    assert (step, state) == (2, {"note": 2})
    assert tensors["x"].tolist() == [2.0, 2.0]
    assert not (tmp_path / "resume" / "000000001").exists()
    store.clear()
    assert store.latest() is None


@pytest.mark.parametrize("gone", ["state.json", "training.safetensors"])
def test_a_state_that_was_half_removed_when_the_run_was_killed_is_none(tmp_path, gone):
    store = Store(tmp_path)
    kept = store.save(2, {"x": torch.ones(1)}, {"note": 2})
    half = shutil.copytree(kept, tmp_path / "resume" / "000000003")
    (half / gone).unlink()
    assert store.latest_folder() == kept
    assert store.latest()[2] == {"note": 2}
    (kept / gone).unlink()
    assert store.latest() is None


def test_an_optimisers_step_counts_come_back_on_the_cpu(monkeypatch):
    # On a GPU the host would wait for each of them at each update; moments belong where the weights are.
    parameter = torch.nn.Parameter(torch.ones(3))
    one, other = (torch.optim.Adam([parameter]) for _ in range(2))
    parameter.grad = torch.ones(3)
    one.step()
    tensors, moved = optimizer_tensors(one, "optimizer"), []
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda x: moved.append(x) or cpu(x))
    load_optimizer(other, tensors, "optimizer")
    assert [x.data_ptr() for x in moved] == [tensors["optimizer/0/step"].data_ptr()]
    assert other.state[parameter]["step"] == 1.0
    assert torch.equal(other.state[parameter]["exp_avg"], one.state[parameter]["exp_avg"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("options", "device"), [({}, "cpu"), ({"fused": True}, "cuda"), ({"capturable": True}, "cuda")]
)
def test_on_a_gpu_step_counts_come_back_where_the_optimiser_keeps_them(options, device):
    parameter = torch.nn.Parameter(torch.ones(3, device="cuda"))
    one, other = (torch.optim.Adam([parameter], **options) for _ in range(2))
    parameter.grad = torch.ones(3, device="cuda")
    one.step()
    load_optimizer(other, {name: x.to("cuda") for name, x in optimizer_tensors(one, "optimizer").items()}, "optimizer")
    assert other.state[parameter]["step"].device.type == one.state[parameter]["step"].device.type == device


# --------------------------------------------------------------------------------------------------------------- pickles

HARMLESS = {"json.load", "json.loads", "dream_env.checkpoint.load", "dream_env.recordings.demos.Demos.load"}
SAFE_IF_TOLD = {"torch.load": ("weights_only", {True}), "numpy.load": ("allow_pickle", {False, None})}
"""Keyword, and what it must be; None is that it is not given."""
UNPICKLERS = {
    # DAPG's policies are strangers' pickles: read by an unpickler that makes arrays, and empty shells of everything else.
    ("dream_env/experts/dapg_expert.py", "_ArraysOnly", "pickle.Unpickler"),
    ("dream_env/experts/dapg_expert.py", "read_policy", "_ArraysOnly(file, encoding='latin1').load"),
    # So are SB3's observation statistics.
    ("dream_env/learning/sb3_normalize.py", "_NumbersOnly", "pickle.Unpickler"),
    ("dream_env/learning/sb3_normalize.py", "Normalizer.read", "_NumbersOnly(file).load"),
    # SB3 itself unpickles, and runs what it finds: only for who said --trust.
    ("dream_env/experts/sb3_expert.py", "TrustedPolicy.reset", "self._algorithm.load"),
}
"""Where a pickle may be opened, each place once: file, class or function, and by what."""


def unpickling(source: str) -> list[tuple[str, str]]:
    """Everything called load, loads, read_pickle or Unpickler that may open a pickle: where it is named, and its full name."""
    tree = ast.parse(source)
    full, found = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            full |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            full |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}

    def visit(node, where, keywords):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            where = f"{where}.{node.name}".lstrip(".")
        if isinstance(node, ast.Attribute | ast.Name):
            head, *rest = ast.unparse(node).split(".")
            name = ".".join([full.get(head, head), *rest])
            last = name.split(".")[-1]
            if name != last and last in ("load", "loads", "read_pickle", "Unpickler") and name not in HARMLESS:
                keyword, good = SAFE_IF_TOLD.get(name, ("", set()))
                # Without keywords it is no call, but handed on to somebody who may give any.
                if keywords is None or None in keywords or keywords.get(keyword) not in good:
                    found.append((where, name))
        for child in ast.iter_child_nodes(node):
            called = isinstance(node, ast.Call) and child is node.func
            visit(child, where, {k.arg: getattr(k.value, "value", "?") for k in node.keywords} if called else None)

    visit(tree, "", None)
    return found


def test_pickles_are_opened_only_where_it_is_known_to_be_safe():
    root = Path(__file__).resolve().parent.parent
    files = [path for folder in ("dream_env", "plugins") for path in (root / folder).rglob("*.py")]
    found = [(path.relative_to(root).as_posix(), *place) for path in files for place in unpickling(path.read_text())]
    assert sorted(found) == sorted(UNPICKLERS)


@pytest.mark.parametrize("line", [
    "torch.load(f, weights_only=False)", "torch.load(f)", "torch.load(f, **options)", "partial(torch.load, f)", "load(f)",
    "numpy.load(f, allow_pickle=True)", "np.load(f, allow_pickle=some)", "pickle.loads(b)", "p.Unpickler(f)",
    "joblib.load(f)", "model.load(f)", "pandas.read_pickle(f)",
])  # fmt: skip
def test_a_pickle_that_would_be_opened_is_found_beside_what_is_safe(line):
    safe = """import numpy as np, pickle as p, json
from torch import load
from dream_env import checkpoint
torch.load(f, weights_only=True)
np.load(f), np.load(f, allow_pickle=False), json.loads(f), checkpoint.load(f)
"""
    assert unpickling(safe) == []
    assert [where for where, _ in unpickling(f"{safe}def opens():\n    {line}\n")] == ["opens"]
