"""Minari's own ``atari/*/expert-v0``: raw frames, stored with loss, of a game without our wrappers. From recording to score."""

import json
import warnings

import ale_py
import gymnasium
import minari
import pytest
from minari import DataCollector

from dream_env import cli
from dream_env.measuring import results
from dream_env.real.environments import environment_from_spec, protocol
from dream_env.recordings.demos import Demos
from dream_env.spaces import ObservationConfig

DATASET = "atari/pong/expert-v0"
STEPS = 70
FIT = """
    --held-out 2 --updates 2 --batch 4 --length 6 --log-every 1 --test-every 2 --warmup 1 --model.width 16
    --model.layers 1 --model.rssm.deter 16 --model.rssm.groups 2 --model.rssm.classes 4 --model.rssm.hidden 16
""".split()  # noqa: SIM905 (as one types it)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Folder with what Minari's script records, but for who plays and for how long."""
    root = tmp_path_factory.mktemp("minari")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        warnings.simplefilter("ignore", DeprecationWarning)  # of libraries beneath Minari's recorder
        warnings.filterwarnings("ignore", ".* is (set to )?None")
        warnings.filterwarnings("ignore", "Implicitly cleaning up")  # Minari's own folder for what is being recorded
        gymnasium.register_envs(ale_py)
        env = DataCollector(
            gymnasium.make("ALE/Pong-v5", repeat_action_probability=0, max_episode_steps=STEPS), record_infos=False
        )
        env.action_space.seed(0)
        for seed in range(4):
            env.reset(seed=seed)
            over = False
            while not over:
                _, _, terminated, truncated, _ = env.step(env.action_space.sample())
                over = terminated or truncated
        env.create_dataset(dataset_id=DATASET, algorithm_name="random", author="a test")
        env.close()
        env._tmp_dir.cleanup()
    return root


@pytest.fixture(autouse=True)
def folders(recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(recorded))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "cache"))


def test_frames_are_packed_and_the_game_is_the_recorded_one():
    assert minari.load_dataset(DATASET).observation_space.shape == (210, 160, 3)
    demos = Demos.load(DATASET, ObservationConfig())
    assert (demos.num_episodes, demos.num_steps) == (4, 4 * STEPS)
    assert demos.observation_spec.keys[0].shape == (64, 64, 1)
    env = environment_from_spec(demos.source.env_spec)
    assert env.observation_space.shape == (210, 160, 3)
    told = protocol(env)
    assert (told["environment"], told["frame_skip"], told["max_pool"], told["noop_max"], told["sticky"]) == (
        "ALE/Pong-v5", 4, False, 0, 0.0,
    )  # fmt: skip
    env.close()


def test_from_the_recording_to_a_score_of_its_own_protocol(tmp_path):
    wm, agent = str(tmp_path / "wm"), tmp_path / "bc"
    cli.main(["fit", DATASET, "--out", wm, *FIT])
    cli.main(["imitate", wm, "--learner", "dbc", "--steps", "1024", "--snapshots", "0", "--out", str(agent)])
    cli.main(["evaluate", str(agent), "--episodes", "1", "--no-video"])
    rows = results.read(agent / "evaluation.csv")
    assert {row.method for row in rows} == {"random", "expert", "dbc"}
    assert json.loads(rows[0].protocol)["max_steps"] == STEPS
    assert {row.dataset for row in rows} == {DATASET}
