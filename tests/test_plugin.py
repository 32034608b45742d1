"""Finding plug-ins by name, and what is said when that fails."""

import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from dream_env.plugins.ditto import Ditto
from gymnasium.spaces import Box, Discrete

from dream_env.dream.env import DreamEnv
from dream_env.errors import ConfigError, PluginError
from dream_env.plugin import Learner, Reward, available, find, load_learner, load_reward, plugin_identity
from dream_env.testing import check_learner, check_reward, tiny_expert, tiny_world_model

EXAMPLES = Path(__file__).parent.parent / "examples"


def offer(folder: Path, distribution: str, name: str, target: str) -> None:
    """An installed distribution with one reward, as pip leaves it."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dream_env.rewards]\n{name} = {target}\n")


@dataclass(frozen=True)
class Constant(Reward):
    value: float = 0.5

    def __call__(self, transition):
        return torch.full(transition.step_t.shape, self.value)


@dataclass
class Table(Reward):
    """Reads a file, and makes a tensor of it: neither is JSON."""

    file: Path = Path("table.csv")
    part: Constant = Constant(0.25)
    _rows: torch.Tensor = field(init=False)

    def prepare(self, world_model, expert):
        self._rows = torch.zeros(3)

    def __call__(self, transition):
        return self.part(transition)


@dataclass(frozen=True)
class Second(Reward):
    """1 for the second action."""

    def __call__(self, transition):
        return (transition.action_t == 1).float()


class Bare(Reward):
    def __call__(self, transition):
        return torch.zeros(transition.step_t.shape)


class NeverCalled(Reward):
    """Abstract still."""


def test_our_plugins_are_available_by_name():
    assert available("rewards")["ditto"] == "dream_env.plugins.ditto:Ditto (dream-env)"
    assert {"ppo", "a2c", "trpo", "recurrent-ppo"} <= available("learners").keys()


def test_listing_plugins_imports_none_of_them(tmp_path):
    offer(tmp_path, "explosive", "boom", "no_such_module:Boom")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from dream_env.plugin import available;"
        "assert available('rewards')['boom'] == 'no_such_module:Boom (explosive)'; available('learners');"
        "assert not {'dream_env.plugins.ditto', 'stable_baselines3'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_a_reward_is_loaded_with_its_options():
    reward = load_reward("ditto", space="both", last_step_zero=True)
    assert reward == Ditto(space="both", last_step_zero=True)


def test_a_finished_reward_is_passed_through():
    reward = Constant()
    assert load_reward(reward) is reward


def test_a_class_can_be_named_directly():
    reward = load_reward(f"{__name__}:Constant", value=0.25)
    assert type(reward).__name__ == "Constant"
    assert reward.value == 0.25


def test_unknown_reward_suggests_the_nearest():
    with pytest.raises(
        PluginError, match=r"no reward named 'dito'. Did you mean \"ditto\"\? Installed: .*ditto.*installed"
    ):
        load_reward("dito")


def test_unknown_learner_suggests_the_nearest():
    with pytest.raises(PluginError, match=r"no learner named 'pppo'. Did you mean \"ppo\"\?"):
        load_learner("pppo")


def test_two_plugins_of_one_name_are_refused_with_both_distributions(tmp_path, monkeypatch):
    offer(tmp_path, "first-author", "twin", "a:A")
    offer(tmp_path, "second-author", "twin", "b:B")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=r"first-author \(a:A\) and second-author \(b:B\); uninstall one"):
        load_reward("twin")
    assert available("rewards")["twin"] == "a:A (first-author), b:B (second-author)"


def test_a_plugin_whose_import_fails_is_named(tmp_path, monkeypatch):
    offer(tmp_path, "broken", "broken", "no_such_module:Reward")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PluginError, match=r"'broken' could not be imported from no_such_module:Reward: ModuleNotFound"):
        load_reward("broken")


def test_an_unknown_option_suggests_the_nearest_and_lists_all():
    with pytest.raises(
        PluginError, match=r"no option 'spce'. Did you mean \"space\"\? Its options: space, last_step_zero"
    ):
        load_reward("ditto", spce="h")


def test_options_beside_a_finished_reward_are_refused():
    with pytest.raises(PluginError, match=r"options \['value'\] came with a finished reward"):
        load_reward(Constant(), value=1.0)


def test_a_class_of_another_kind_is_refused():
    with pytest.raises(PluginError, match=r"no subclass of dream_env\.plugin\.Reward"):
        load_reward("collections:OrderedDict")
    with pytest.raises(PluginError, match=r"no subclass of dream_env\.plugin\.Learner"):
        load_learner(f"{__name__}:Constant")


def test_a_reward_that_left_its_call_out_is_refused():
    with pytest.raises(PluginError, match=r"could not be made: .*abstract"):
        load_reward(f"{__name__}:NeverCalled")


def test_find_gives_the_class_alone():
    assert find("rewards", "ditto") is Ditto
    assert issubclass(find("learners", "ppo"), Learner)


def test_a_reward_is_named_after_its_class_unless_it_says_otherwise():
    assert Constant().name == "constant"
    assert Ditto().name == "ditto"


def test_state_for_a_reward_that_keeps_none_is_refused():
    Constant().load_state_dict({})
    with pytest.raises(PluginError, match=r"reward 'constant' keeps no state, but was given \['weight'\]"):
        Constant().load_state_dict({"weight": torch.zeros(1)})


def installed(example: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the examples, as pip installs it."""
    source, target = folder / "source", folder / "site"
    shutil.copytree(EXAMPLES / example, source)  # building writes beside the sources
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    run = subprocess.run(
        [*install, "--no-build-isolation", "--no-index", "--target", str(target), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    monkeypatch.syspath_prepend(target)


def test_a_stranger_s_reward_is_found_by_name(tmp_path, monkeypatch):
    installed("my_reward", tmp_path, monkeypatch)
    assert available("rewards")["action-match"] == "action_match:ActionMatch (dream-env-action-match)"
    check_reward("action-match")
    box = tiny_world_model(action_space=Box(-1.0, 1.0, (2,)))
    check_reward("action-match", world_model=box, width=0.2)
    with pytest.raises(PluginError, match=r"Did you mean \"action-match\"\?"):
        load_reward("action-mach")


def test_a_stranger_s_learner_is_found_by_name(tmp_path, monkeypatch):
    installed("my_learner", tmp_path, monkeypatch)
    assert available("learners")["random-search"] == "random_search:RandomSearch (dream-env-random-search)"
    check_learner("random-search")
    check_learner("random-search", action_space=Box(-2.0, 1.0, (2,)))
    check_learner("random-search", action_space=Discrete(2, start=1))


def test_random_search_finds_the_better_of_two_actions(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "my_learner")
    world_model = tiny_world_model(action_space=Discrete(2))
    dream = DreamEnv(32, wm=world_model, expert=tiny_expert(world_model), reward=Second(), horizon=5)
    earned = []
    load_learner("random_search:RandomSearch", rate=0.5).learn(
        dream, 32 * 5 * 40, progress=lambda _, metrics: earned.append(metrics["return"])
    )
    assert earned[0] < 4.0 < 4.9 < earned[-1]


def test_random_search_refuses_dreams_that_it_cannot_pair(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "my_learner")
    world_model = tiny_world_model()
    dream = DreamEnv(3, wm=world_model, expert=tiny_expert(world_model), reward=Constant(), horizon=5)
    with pytest.raises(ConfigError, match="tries pairs, but num_envs is 3; give an even number"):
        load_learner("random_search:RandomSearch").learn(dream, 100)
    with pytest.raises(ConfigError, match=r"sigma must be above 0, not 0\.0"):
        load_learner("random_search:RandomSearch", sigma=0.0)


def test_the_identity_of_a_plugin_is_its_options_as_json_and_nothing_it_made_of_them():
    reward = Table()
    before = plugin_identity(reward)
    reward.prepare(None, None)
    expected = {"class": f"{__name__}:Table", "file": "table.csv", "part": {"value": 0.25}}
    assert plugin_identity(reward) == before == expected
    with pytest.raises(PluginError, match="Bare is no dataclass, whose fields are a plug-in's options"):
        plugin_identity(Bare())
