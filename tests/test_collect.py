"""Recording games: lossless, the same again, resumable, refused when it would mix."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from minari.data_collector import EpisodeBuffer
from recordings import record
from robots import _robots  # noqa: F401

from dream_env.collecting.claims import check_dataset_id
from dream_env.collecting.collect import FURTHER_SEED, CollectConfig, _Player, collect
from dream_env.errors import ConfigError, DatasetError, SpaceError
from dream_env.experts.replay_expert import ReplayExpert
from dream_env.recordings.demos import Demos
from dream_env.recordings.recording import dataset_folder, play_episode, unfinished_folder
from dream_env.spaces import ObservationConfig

TINY = CollectConfig("pong", dataset="tiny/pong-v0", episodes=3, expert="random", size=16, max_steps=30)


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "cache"))
    return tmp_path


def options(**changes: Any) -> CollectConfig:
    return CollectConfig(**{**{name: getattr(TINY, name) for name in TINY.__dataclass_fields__}, **changes})


def arrays(dataset: minari.MinariDataset) -> list[np.ndarray]:
    return [np.asarray(x) for e in dataset.iterate_episodes() for x in (e.observations, e.actions, e.rewards)]


def assert_same(one: minari.MinariDataset, other: minari.MinariDataset) -> None:
    for x, y in zip(arrays(one), arrays(other), strict=True):
        np.testing.assert_array_equal(x, y)


def never(observation: Any) -> int:
    raise AssertionError("nothing was to be played")


def test_the_recovered_environment_replays_every_frame() -> None:
    dataset = collect(TINY, progress=False)
    env = dataset.recover_environment()
    seeds = [metadata["seed"] for metadata in dataset.storage.get_episode_metadata(range(3))]
    assert seeds == [0, 1, 2]
    for seed, episode in zip(seeds, dataset.iterate_episodes(), strict=True):
        frames, rewards = [env.reset(seed=seed)[0]], []
        for action in episode.actions:
            frame, reward, *ends, _ = env.step(action)
            frames.append(frame)
            rewards.append(reward)
        np.testing.assert_array_equal(np.stack(frames), episode.observations)
        np.testing.assert_array_equal(rewards, episode.rewards)
        assert ends == [episode.terminations[-1], episode.truncations[-1]] == [False, True]


def test_what_was_played_and_how_is_written_down() -> None:
    dataset = collect(TINY, progress=False)
    metadata = dataset.storage.metadata
    assert metadata["jpeg_encoding"] is False
    assert metadata["protocol"]["size"] == 16
    assert metadata["collected"]["environment"] == "ALE/Pong-v5"
    assert metadata["total_steps"] == sum(len(e.actions) for e in dataset.iterate_episodes())
    demos = Demos.load("tiny/pong-v0")
    assert demos.source.environment == "ALE/Pong-v5"
    assert demos.source.protocol["protocol"]["sticky"] == 0.0
    assert demos.num_episodes == 3


def test_files_are_packed() -> None:
    dataset = collect(options(episodes=1, size=64), progress=False)
    raw = next(dataset.iterate_episodes()).observations.nbytes
    assert (dataset_folder("tiny/pong-v0") / "data" / "main_data.hdf5").stat().st_size < raw / 4


def test_a_finished_dataset_is_reused() -> None:
    first = collect(TINY, progress=False)
    with pytest.raises(ConfigError, match="expert 'random', now"):
        collect(TINY, expert=never, progress=False)
    assert_same(first, collect(TINY, progress=False))


def test_other_options_are_refused_and_named() -> None:
    collect(TINY, progress=False)
    with pytest.raises(ConfigError, match=r"episodes 3, now 4, seed 0, now 5.*another --dataset"):
        collect(options(episodes=4, seed=5), progress=False)


def test_a_dataset_of_somebody_else_is_not_touched() -> None:
    collect(TINY, progress=False)
    path = dataset_folder("tiny/pong-v0") / "data" / "metadata.json"
    path.write_text(path.read_text().replace('"collected"', '"somebody"'))
    with pytest.raises(ConfigError, match="was not recorded by dream-env"):
        collect(TINY, progress=False)


def test_an_interrupted_recording_goes_on_where_it_was() -> None:
    played: list[int] = []

    def stops(observation: Any) -> int:
        if len(played) == 40:
            raise KeyboardInterrupt
        played.append(1)
        return len(played) % 3

    with pytest.raises(KeyboardInterrupt):
        collect(TINY, expert=stops, progress=False)
    done = sorted(path.name for path in unfinished_folder("tiny/pong-v0").glob("*.hdf5"))
    assert done == ["episode_00000.hdf5"]
    with pytest.raises(ConfigError, match=r"unfinished recording in .* expert .* now 'random'"):
        collect(TINY, progress=False)
    with pytest.raises(ConfigError, match="seed 0, now 1"):
        collect(options(seed=1), expert=stops, progress=False)
    played.append(1)
    dataset = collect(TINY, expert=stops, progress=False)
    assert dataset.total_episodes == 3
    assert next(dataset.iterate_episodes()).actions[0] == 1, "the game that was done is kept"
    assert minari.list_local_datasets() == {
        "tiny/pong-v0": dataset.storage.read_raw_metadata(dataset.storage.data_path)
    }
    assert not unfinished_folder("tiny/pong-v0").exists()


def test_a_killed_recording_equals_an_unbroken_one(datasets: Path) -> None:
    config = options(episodes=12, max_steps=200, expert="scripted")
    words = ["pong", "--dataset", config.dataset, "--episodes", "12", "--size", "16", "--max-steps", "200"]
    script = "import sys, tyro; from dream_env.collecting.collect import *; collect(tyro.cli(CollectConfig, args=sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", script, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    folder = unfinished_folder(config.dataset)
    deadline = time.monotonic() + 50
    while len(list(folder.glob("*.hdf5"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= len(list(folder.glob("*.hdf5"))) < 12
    resumed = collect(config, progress=False)
    unbroken = collect(options(**{**vars(config), "dataset": "tiny/other-v0"}), progress=False)
    assert_same(resumed, unbroken)


def test_more_workers_record_the_same_games() -> None:
    one = collect(TINY, progress=False)
    two = collect(options(dataset="tiny/two-v0", workers=2), progress=False)
    assert_same(one, two)


def test_states_and_pictures_are_recorded_together() -> None:
    pytest.importorskip("Box2D")
    config = options(environment="bipedalwalker", dataset="tiny/walker-v0", episodes=1, max_steps=4)
    episode = next(collect(config, progress=False).iterate_episodes())
    assert {name: x.shape for name, x in episode.observations.items()} == {"state": (5, 24), "pixels": (5, 16, 16, 3)}
    assert episode.actions.shape == (4, 4)
    assert episode.actions.dtype == np.float32


def test_an_action_outside_the_space_is_named() -> None:
    with pytest.raises(SpaceError, match=r"the expert chose 6 \(int\) at step 0, which is not in .* Discrete\(6\)"):
        collect(TINY, expert=lambda observation: 6, progress=False)


def test_a_full_disk_says_so_and_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("dream_env.collecting.collect.write_episode", full)
        with pytest.raises(DatasetError, match=r"No space left on device.*goes on where it was"):
            collect(TINY, progress=False)
    assert collect(TINY, progress=False).total_episodes == 3


@pytest.mark.parametrize("name", ["p/pong-v0", "tiny/pong", "tiny/pong v0"])
def test_a_malformed_id_is_refused_before_anything_is_played(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is no id for a Minari dataset; ids look like dream/pong/scripted-v0"):
        collect(options(dataset=name), expert=never, progress=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episodes": 0}, "must be at least 1, not 0 and 1"),
        ({"explore": 0.5}, "explore is a probability for scripted experts; got explore=0.5 for 'random'"),
        ({"explore": 1.5, "expert": "scripted"}, "got explore=1.5"),
        ({"environment": "pnog"}, 'Did you mean "pong"'),
    ],
)
def test_wrong_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        collect(options(**changes), progress=False)


def test_an_object_plays_in_one_process() -> None:
    with pytest.raises(ConfigError, match="workers must be 1"):
        collect(options(workers=2), expert=never, progress=False)


@pytest.mark.parametrize(
    ("environment", "expert", "expected"),
    [
        ("pong", "scripted", "dream/pong/scripted-v0"),
        ("space_invaders", "sb3/ppo-SpaceInvaders-v4", "dream/spaceinvaders/ppo-spaceinvaders-v4-v0"),
        ("CartPole-v1", "my_module:my_expert", "dream/cartpole/my_expert-v0"),
        ("bipedalwalker", "agents/a2c.zip", "dream/bipedalwalker/a2c-v0"),
        ("pong", r"C:\agents\PPO-x.zip", "dream/pong/ppo-x-v0"),
        ("pong", "agents/best.model.zip", "dream/pong/best-model-v0"),
        ("pong", "my agent.zip", "dream/pong/my-agent-v0"),
        ("CartPole-v1", "a/relocate_v1.pickle", "dream/cartpole/relocate_v1-v0"),
        ("pong", "replay:dream/pong/slips-v1", "dream/pong/slips-v1-v0"),
    ],
)
def test_a_dataset_without_a_name_is_named_after_game_and_expert(environment: str, expert: str, expected: str) -> None:
    assert CollectConfig(environment, expert=expert).dataset_id == expected
    check_dataset_id(expected)


def test_a_folder_of_episodes_whose_name_is_no_id_names_a_dataset_all_the_same(tmp_path: Path) -> None:
    config = CollectConfig("pong", episodes_from=tmp_path / "Others' games.1")
    assert config.dataset_id == "dream/pong/Others--games-1-v0"
    check_dataset_id(config.dataset_id)


def test_the_summary_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    collect(TINY)
    assert "tiny/pong-v0: 3 games" in capsys.readouterr().out


def test_random_games_differ() -> None:
    games = [tuple(e.actions) for e in collect(TINY, progress=False).iterate_episodes()]
    assert len(set(games)) == 3
    assert spaces.Discrete(6).contains(games[0][0])


# --------------------------------------------------------------------------------------- simulations that break down


class Shaky(gymnasium.Env[Any, Any]):
    """Three steps; breaks down in the second if the seed is among those, in what it shows or in what it pays."""

    observation_space = spaces.Dict(
        {"state": spaces.Box(-1.0, 1.0, (2,)), "pixels": spaces.Box(0, 255, (4, 4, 3), np.uint8)}
    )
    action_space = spaces.Discrete(2)
    broken: frozenset[int] = frozenset()
    what = "observation"

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.seed, self.steps = seed, 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        reward = float("inf") if self._breaks() and self.what == "reward" else 1.0
        return self._seen(), reward, self.steps == 3, False, {"success": self.steps == 2 and self.seed != 1}

    def _breaks(self) -> bool:
        return self.seed in self.broken and self.steps == 2

    def _seen(self) -> dict[str, Any]:
        value = np.nan if self._breaks() and self.what == "observation" else 0.5
        return {"state": np.array([0.0, value], np.float32), "pixels": np.zeros((4, 4, 3), np.uint8)}


@pytest.fixture
def shaky(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = EnvSpec("Shaky-v0", entry_point=f"{__name__}:Shaky")
    monkeypatch.setitem(gymnasium.registry, "Shaky-v0", spec)
    monkeypatch.setattr(Shaky, "what", "observation")
    return monkeypatch


SHAKY = CollectConfig("Shaky-v0", dataset="tiny/shaky-v0", episodes=3, expert="random")


def seeds_of(dataset: minari.MinariDataset) -> list[int]:
    return [int(facts["seed"]) for facts in dataset.storage.get_episode_metadata(range(dataset.total_episodes))]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's checker, about the numbers; Minari, about the spec
@pytest.mark.parametrize(
    ("what", "told"),
    [("observation", r"observation 'state' that is not finite \(nan\)"), ("reward", r"reward .* \(inf\)")],
)
def test_a_game_in_which_the_simulation_breaks_down_is_dropped_counted_and_replaced(
    shaky: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str, told: str
) -> None:
    shaky.setattr(Shaky, "broken", frozenset({1, 1 + FURTHER_SEED}))
    shaky.setattr(Shaky, "what", what)
    dataset = collect(SHAKY)
    assert seeds_of(dataset) == [0, 1 + 2 * FURTHER_SEED, 2]
    assert all(np.isfinite(x["state"]).all() for x in (e.observations for e in dataset.iterate_episodes()))
    assert dataset.storage.metadata["dropped_episodes"] == 2
    printed = " ".join(capsys.readouterr().out.split())
    said = rf"Shaky-v0 gave a {told} at step 2 of the episode with seed 1: the simulation has broken down. Dropped; seed 1000001"
    assert re.search(said, printed), printed
    assert "seed 2000001 is played instead" in printed
    assert "dropped 2 games, in which the simulation broke down; others were played instead" in printed


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_simulation_that_always_breaks_down_is_given_up(shaky: pytest.MonkeyPatch) -> None:
    shaky.setattr(Shaky, "broken", frozenset(range(0, 20 * FURTHER_SEED, FURTHER_SEED)))
    with pytest.raises(
        DatasetError, match=r"no game was left to play after 10 in which the simulation broke down.*seed 9000000"
    ):
        collect(SHAKY, progress=False)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_success_is_written_down_with_the_recordings(
    shaky: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = collect(SHAKY)
    assert dataset.storage.metadata["success"] == pytest.approx(2 / 3)
    episodes = dataset.storage.get_episode_metadata(range(3))
    assert [facts["success"] for facts in episodes] == [1.0, 0.0, 1.0]
    assert "dropped_episodes" not in dataset.storage.metadata
    assert "success: 0.67 a game, on average" in capsys.readouterr().out
    assert Demos.load("tiny/shaky-v0").source.protocol["success"] == pytest.approx(2 / 3)


# ------------------------------------------------------------------------------------- environments and experts of one's own


class Reusing(gymnasium.Env[Any, Any]):
    """Counts its three steps in an array that it shows again and again, and sets the actions it was given to 0."""

    observation_space = spaces.Dict({"steps": spaces.Box(0.0, 9.0, (1,), np.float32)})
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self) -> None:
        self.shown = {"steps": np.zeros(1, np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.shown["steps"][:] = 0
        return self.shown, {}

    def step(self, action: Any) -> Any:
        assert action.dtype == np.float32
        self.shown["steps"] += 1
        action[:] = 0
        return self.shown, 0.0, bool(self.shown["steps"] == 3), False, {}


class ReusingExpert:
    """Chooses a tenth of the steps, in an array of NumPy's own type that it gives again and again."""

    def __init__(self) -> None:
        self.chosen = np.zeros(2)

    def __call__(self, observation: Any) -> Any:
        self.chosen[:] = observation["steps"] / 10
        return self.chosen


@pytest.mark.filterwarnings("ignore::UserWarning")  # Minari, about the spec
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_that_environment_and_expert_use_again_are_recorded_row_by_row(
    monkeypatch: pytest.MonkeyPatch, dtype: Any
) -> None:
    spec = EnvSpec("Reusing-v0", entry_point=f"{__name__}:Reusing", disable_env_checker=True)
    monkeypatch.setitem(gymnasium.registry, "Reusing-v0", spec)
    expert = ReusingExpert()
    expert.chosen = expert.chosen.astype(dtype)
    config = CollectConfig("Reusing-v0", dataset="tiny/reusing-v0", episodes=2)
    for episode in collect(config, expert=expert, progress=False).iterate_episodes():
        assert episode.observations["steps"][:, 0].tolist() == [0, 1, 2, 3]
        np.testing.assert_array_equal(episode.actions[:, 1], np.array([0, 0.1, 0.2], np.float32))
        assert episode.actions.dtype == np.float32


@pytest.mark.parametrize(
    ("space", "action"),
    [
        (spaces.Box(-1, 1, (2,), np.float32), np.array([0.5, 1.1])),
        (spaces.Box(-1, 1, (2,), np.float32), np.array([0.5, np.nan])),
        (spaces.Box(-1, 1, (2,), np.float32), np.array([0.5])),
        (spaces.Box(0, 9, (2,), np.int64), np.array([0.7, 1.0])),
        (spaces.Discrete(3), np.array(1.0)),
        (spaces.Discrete(3), None),
    ],
)
def test_an_action_that_would_become_another_is_refused(space: spaces.Space[Any], action: Any) -> None:
    env = Reusing()
    env.action_space = space  # type: ignore[assignment]
    with pytest.raises(SpaceError, match=r"the expert chose .* at step 0, which is not in the environment's"):
        play_episode(env, lambda observation: action, env.reset(seed=0)[0], 0)


def test_an_environment_registered_by_its_class_is_refused_before_a_game_is_played(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(gymnasium.registry, "Reusing-v0", EnvSpec("Reusing-v0", entry_point=Reusing))
    config = CollectConfig("Reusing-v0", dataset="tiny/reusing-v0", episodes=2)
    message = (
        r"a recording of Reusing-v0 could not say how to make it again: Callable found.*entry_point='module:Class'"
    )
    with pytest.raises(ConfigError, match=message):
        collect(config, expert=never, progress=False)


def dies(observation: Any) -> int:
    os._exit(7)


def test_a_worker_that_dies_says_what_may_be_the_matter_and_how_to_go_on() -> None:
    with pytest.raises(DatasetError, match=r"a process that played died.*lack `if __name__ == .*goes on where it was"):
        collect(options(expert=f"{__name__}:dies", workers=2), progress=False)


# --------------------------------------------------------------------------------------------------- played once more


def test_a_replay_plays_the_recorded_games_again() -> None:
    first = collect(options(seed=7), progress=False)
    again = collect(options(dataset="tiny/again-v0", expert="replay:tiny/pong-v0", size=32), progress=False)
    assert seeds_of(again) == [7, 8, 9]
    small = collect(options(dataset="tiny/small-v0", expert="replay:tiny/pong-v0"), progress=False)
    assert_same(first, small)
    assert next(again.iterate_episodes()).observations.shape[1:] == (32, 32, 1)


def test_a_replay_says_what_it_lacks() -> None:
    collect(TINY, progress=False)
    replay = {"dataset": "tiny/again-v0", "expert": "replay:tiny/pong-v0"}
    with pytest.raises(ConfigError, match=r"replay:tiny/pong-v0 has 3 games, and 4 are to be recorded"):
        collect(options(**replay, episodes=4), progress=False)
    with pytest.raises(DatasetError, match=r"actions that tiny/pong-v0 has for seed 0 are over.*--max-steps"):
        collect(options(dataset="tiny/longer-v0", expert=replay["expert"], max_steps=40), progress=False)
    record("tiny/unseeded-v0")
    assert ReplayExpert("tiny/unseeded-v0").seeds == list(range(len(ReplayExpert("tiny/unseeded-v0").seeds)))


def record_twice_with_seed_7() -> list[np.ndarray]:
    """Two games of three pushes, of one seed."""
    pushes = [np.array([0, 0, 1]), np.array([1, 0, 0])]
    space = gymnasium.make("CartPole-v1").observation_space
    flags = {"terminations": [False] * 3, "truncations": [False, False, True]}
    games = [
        EpisodeBuffer(seed=7, observations=np.zeros((4, 4), np.float32), actions=actions, rewards=[1.0] * 3, **flags)
        for actions in pushes
    ]
    record("tiny/twice-v0", games, space, spaces.Discrete(2))
    return pushes


def test_games_of_one_seed_are_each_played_again_whoever_plays_them() -> None:
    pushes = record_twice_with_seed_7()
    config = CollectConfig(
        "CartPole-v1", dataset="tiny/again-v0", episodes=2, expert="replay:tiny/twice-v0", max_steps=3
    )
    alone = _Player(config)
    unfinished_folder(config.dataset).mkdir(parents=True)
    alone.play(1)  # what a second worker does, or a recording that goes on
    with h5py.File(unfinished_folder(config.dataset) / "episode_00001.hdf5") as file:
        assert file["actions"][()].tolist() == pushes[1].tolist()
    shutil.rmtree(unfinished_folder(config.dataset))
    played = [episode.actions.tolist() for episode in collect(config, progress=False).iterate_episodes()]
    assert played == [actions.tolist() for actions in pushes]


def test_a_seed_that_several_games_have_does_not_say_which_is_meant() -> None:
    record_twice_with_seed_7()
    expert, env = ReplayExpert("tiny/twice-v0"), gymnasium.make("CartPole-v1")
    with pytest.raises(
        DatasetError, match=r"tiny/twice-v0 has 2 episodes with seed 7; expected one, or a take_up\(game\)"
    ):
        expert.reset(env, 7)
    with pytest.raises(DatasetError, match="has 0 episodes with seed 8"):
        expert.reset(env, 8)
    expert.take_up(1)
    expert.reset(env, 7)
    assert expert(None) == 1


@pytest.mark.usefixtures("_robots")
def test_the_kitchens_nested_observation_is_recorded_and_learned_from_by_its_pictures() -> None:
    config = options(environment="kitchen", dataset="tiny/kitchen-v0", episodes=1, max_steps=2)
    dataset = collect(config, progress=False)
    observations = next(dataset.iterate_episodes()).observations
    assert observations["achieved_goal"]["light switch"].shape == (3, 2)
    assert observations["pixels"].shape == (3, 16, 16, 3)
    assert dataset.storage.metadata["protocol"]["rendering"] == "fast"
    assert dataset.storage.metadata["collected"]["rendering"] == "fast"
    assert dataset.storage.metadata["tasks"] == 0.0
    demos = Demos.load("tiny/kitchen-v0", ObservationConfig(size=16, gray=False, keys=("pixels",)))
    assert [key.name for key in demos.observation_spec.keys] == ["pixels"]
    with pytest.raises(ConfigError, match="rendering 'fast', now 'default'"):
        collect(options(**{**vars(config), "rendering": "default"}), progress=False)
    env = dataset.recover_environment()
    np.testing.assert_array_equal(env.reset(seed=0)[0]["pixels"], observations["pixels"][0])
    env.close()


def test_a_rendering_is_refused_for_games_that_have_none() -> None:
    with pytest.raises(ConfigError, match="ALE/Pong-v5 has none, leave it out"):
        collect(options(rendering="fast"), progress=False)


def test_noise_of_a_dapg_policy_is_not_negative() -> None:
    with pytest.raises(ConfigError, match="noise is a share of a DAPG policy's own, 0 or more; got -1"):
        collect(options(expert="door.pickle", noise=-1.0), progress=False)


def test_options_that_do_not_fit_the_environment_leave_the_id_free() -> None:
    wrong = CollectConfig("CartPole-v1", "tiny/cart-v0", episodes=1, expert="random", fire=True)
    with pytest.raises(ConfigError, match="the button FIRE is a matter of the Atari emulator"):
        collect(wrong, progress=False)
    assert not unfinished_folder("tiny/cart-v0").exists()
    assert collect(CollectConfig("CartPole-v1", "tiny/cart-v0", 1, "random"), progress=False).total_episodes == 1
