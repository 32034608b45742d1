"""Others' .npz episodes: nothing is lost or shifted on the way to ``Demos``, and whatever is not in order is refused by name."""

import os
import pickle
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import pytest

from dream_env.cli import main
from dream_env.collecting.collect import CollectConfig, collect
from dream_env.collecting.npz_episodes import convert
from dream_env.errors import ConfigError, DatasetError
from dream_env.real.environments import environment_from_spec, protocol
from dream_env.recordings.demos import Demos
from dream_env.recordings.recording import unfinished_folder
from dream_env.spaces.observations import ObservationConfig

KITCHEN = Path(
    os.environ.get("DREAM_ENV_KITCHEN_NPZ", Path(__file__).parents[2] / "shared" / "data" / "kitchen-cmil-npz")
)
"""CMIL's ten demonstrations, where they are at hand."""
SIZE = 16
PICTURES = ObservationConfig(size=SIZE, gray=False, keys=("pixels",))


@pytest.fixture(autouse=True)
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "cache"))
    return tmp_path


def arrays(steps: int = 5, *, width: int = 2, seed: int = 0, **changes: Any) -> dict[str, np.ndarray]:
    """An episode in DreamerV2's order; the action that led to row t is (t / 10, -t / 10, …), its reward t."""
    rows = np.arange(steps + 1)
    signs = np.resize([1.0, -1.0], width)
    episode = {
        "image": np.random.default_rng(seed).integers(0, 256, (steps + 1, SIZE, SIZE, 3), np.uint8),
        "action": (rows[:, None] * signs / 10).astype(np.float32),
        "reward": rows.astype(np.float32),
        "is_first": rows == 0,
        "is_last": rows == steps,
        "is_terminal": np.zeros(steps + 1, bool),
    }
    return {name: x for name, x in {**episode, **changes}.items() if x is not None}


def write(folder: Path, *episodes: dict[str, np.ndarray]) -> Path:
    folder.mkdir(exist_ok=True)
    for index, episode in enumerate(episodes):
        np.savez_compressed(folder / f"2023-{index}-{len(episode['action']) - 1}.npz", **episode)
    return folder


def converted(folder: Path, environment: str | None = None, dataset: str = "tiny/npz-v0", **options: Any) -> Any:
    return convert(folder, environment, dataset, progress=False, **options)


def refused(folder: Path, match: str, environment: str | None = None) -> None:
    with pytest.raises(DatasetError, match=match):
        converted(folder, environment)
    assert not unfinished_folder("tiny/npz-v0").exists(), "nothing is begun before all files are known to be in order"


# ------------------------------------------------------------------------------------------------------ what comes out


def test_pictures_actions_and_rewards_stay_on_their_rows(tmp_path: Path) -> None:
    one, other = arrays(5), arrays(3, seed=1)
    converted(write(tmp_path / "npz", one, other))
    demos = Demos.load("tiny/npz-v0", PICTURES)
    assert demos.lengths.tolist() == [5, 3]
    assert demos.returns.tolist() == [15, 6], "1 + 2 + … + T"
    first, second = demos.episode(0), demos.episode(1)
    np.testing.assert_array_equal(first.obs["pixels"], one["image"])
    np.testing.assert_array_equal(second.obs["pixels"], other["image"])
    np.testing.assert_array_equal(first.action_t, one["action"][1:])
    np.testing.assert_allclose(first.action_t[0], [0.1, -0.1])
    batch = demos.take(1).sample(1, 6, np.random.default_rng(0))
    np.testing.assert_array_equal(batch.action_tm1[:, 0], one["action"])
    np.testing.assert_array_equal(batch.obs["pixels"][:, 0], one["image"])


def test_other_things_that_were_seen_become_vectors_and_what_reports_showed_is_left_out(tmp_path: Path) -> None:
    rows = np.arange(6.0)
    extra = {
        "orientations": np.stack([rows, -rows], axis=1), "height": rows.astype(np.float64), "obs": np.ones((6, 3)),
        "touch": rows > 2, "log_success": rows, "reward kettle": rows,
    }  # fmt: skip
    converted(write(tmp_path / "npz", arrays(5, **extra)))
    demos = Demos.load("tiny/npz-v0", ObservationConfig(size=SIZE))
    obs = demos.episode(0).obs
    assert obs.keys() == {"pixels", "orientations", "height", "state", "touch"}
    np.testing.assert_array_equal(obs["orientations"], extra["orientations"])
    np.testing.assert_array_equal(obs["height"][:, 0], rows)
    assert obs["touch"].tolist() == [[0], [0], [0], [1], [1], [1]]


@pytest.mark.parametrize(
    ("changes", "terminated"),
    [
        ({}, False),
        ({"is_terminal": np.arange(6) == 5}, True),
        ({"is_terminal": None, "discount": np.array([1, 1, 1, 1, 1, 0.0])}, True),
        ({"is_terminal": None, "discount": np.full(6, 0.99)}, False),
        ({"is_terminal": None, "is_first": None, "is_last": None}, False),
    ],
)
def test_only_a_terminal_last_row_terminates_and_all_else_is_cut_off(
    tmp_path: Path, changes: dict[str, Any], terminated: bool
) -> None:
    episode = next(converted(write(tmp_path / "npz", arrays(5, **changes))).iterate_episodes())
    assert (bool(episode.terminations[-1]), bool(episode.truncations[-1])) == (terminated, not terminated)
    assert not episode.terminations[:-1].any()
    assert Demos.load("tiny/npz-v0", PICTURES).episode(0).is_terminal.tolist() == [False] * 5 + [terminated]


def test_the_named_environment_gives_bounds_and_spec_and_the_pictures_protocol_is_kept(tmp_path: Path) -> None:
    folder = write(tmp_path / "npz", arrays(5, width=1, action=np.array([0, -2, 2, 1, 0, 1.0])[:, None]))
    dataset = converted(folder, "Pendulum-v1")
    assert dataset.action_space == gymnasium.make("Pendulum-v1").action_space
    demos = Demos.load("tiny/npz-v0", PICTURES)
    assert demos.source.environment == "Pendulum-v1"
    facts = dataset.storage.metadata
    assert facts["protocol"]["environment"] == "Pendulum-v1"
    assert "rendering" not in facts["protocol"], "which is a matter of robots"
    assert facts["protocol"]["pictures"] == "found in .npz files"
    assert "from the folder 'npz', the first 2023-0-5.npz" in facts["description"]


@pytest.mark.parametrize(("given", "rendering"), [(None, "default"), ("fast", "fast")])
def test_robots_pictures_count_as_rendered_by_default_unless_said(
    tmp_path: Path, given: Literal["fast"] | None, rendering: str
) -> None:
    pytest.importorskip("gymnasium_robotics", reason="Adroit is in gymnasium-robotics, which is not installed")
    folder = write(tmp_path / "npz", arrays(5, width=28))
    try:
        dataset = converted(folder, "adroit-door", rendering=given)
    except ConfigError as error:
        if "cannot be rendered" not in str(error):
            raise
        pytest.skip(f"nothing can be rendered here: {error}")
    facts = dataset.storage.metadata
    assert facts["protocol"]["rendering"] == facts["collected"]["rendering"] == rendering
    assert f"({rendering} rendering)" in facts["description"]
    env = environment_from_spec(Demos.load("tiny/npz-v0", PICTURES).source.env_spec or "")
    assert protocol(env)["rendering"] == rendering, "agents are evaluated with the same"
    assert env.observation_space["pixels"].shape == (SIZE, SIZE, 3)
    env.close()


def test_one_hot_actions_become_choices_and_an_atari_picture_stands_alone(tmp_path: Path) -> None:
    choices = np.array([4, 0, 5, 2])
    action = np.concatenate([np.zeros((1, 6)), np.eye(6)[choices]])
    image = arrays(4)["image"][..., :1]
    dataset = converted(write(tmp_path / "npz", arrays(4, action=action, image=image)), "pong")
    episode = next(dataset.iterate_episodes())
    assert episode.actions.tolist() == choices.tolist()
    np.testing.assert_array_equal(episode.observations, image)
    assert dataset.recover_environment().observation_space.shape == (SIZE, SIZE, 1)
    assert Demos.load("tiny/npz-v0", ObservationConfig(size=SIZE)).source.environment == "ALE/Pong-v5"


def test_a_rounding_error_beyond_the_bounds_is_put_onto_them(tmp_path: Path) -> None:
    action = np.array([[0, 0], [1 + 2e-7, -1 - 2e-7], [0, 0]], np.float32)
    dataset = converted(write(tmp_path / "npz", arrays(2, action=action)))
    assert next(dataset.iterate_episodes()).actions[0].tolist() == [1.0, -1.0]


def test_a_finished_dataset_is_used_again_and_other_files_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "npz", arrays(5))
    first = converted(folder)
    again = converted(folder.rename(tmp_path / "moved"))
    assert again.storage.metadata["collected"] == first.storage.metadata["collected"]
    write(tmp_path / "moved", arrays(5, seed=2))
    with pytest.raises(ConfigError, match=r"dataset tiny/npz-v0 was recorded with other options: sha256 .* another"):
        converted(tmp_path / "moved")


def test_an_interrupted_conversion_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dream_env.collecting import npz_episodes

    folder = write(tmp_path / "npz", *(arrays(4 + seed, seed=seed) for seed in range(3)))
    written: list[str] = []

    def stops(path: Path, *rest: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path.name)
        write_episode(path, *rest)

    write_episode = npz_episodes.write_episode
    monkeypatch.setattr(npz_episodes, "write_episode", stops)
    with pytest.raises(KeyboardInterrupt):
        converted(folder)
    assert [path.name for path in unfinished_folder("tiny/npz-v0").glob("*.hdf5")] == ["episode_00000.hdf5"]
    written.clear()
    monkeypatch.setattr(
        npz_episodes, "write_episode", lambda path, *rest: (written.append(path.name), write_episode(path, *rest))
    )
    dataset = converted(folder)
    assert written == ["episode_00001.hdf5", "episode_00002.hdf5"]
    assert [len(episode) for episode in dataset.iterate_episodes()] == [4, 5, 6]
    assert not unfinished_folder("tiny/npz-v0").exists()


def test_collect_converts_instead_of_playing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "Others-1", arrays(5, width=1), arrays(4, width=1))
    main(["collect", "Pendulum-v1", "--episodes-from", str(folder), "--dataset", "tiny/npz-v0"])
    assert "tiny/npz-v0: 2 games, 9 steps, return 12.50" in capsys.readouterr().out
    assert Demos.load("tiny/npz-v0", PICTURES).lengths.tolist() == [5, 4]
    assert CollectConfig("pong", episodes_from=folder).dataset_id == "dream/pong/Others-1-v0"
    config = CollectConfig("Pendulum-v1", episodes_from=folder, seed=3, workers=2)
    with pytest.raises(ConfigError, match=r"with episodes_from nothing is played: leave seed, workers out"):
        collect(config, progress=False)
    with pytest.raises(ConfigError, match=r"leave expert out"):
        collect(CollectConfig("Pendulum-v1", episodes_from=folder), expert=lambda _: 0, progress=False)


# ----------------------------------------------------------------------------------------------------------- bad input


def test_a_folder_without_episodes_says_where_there_are_some(tmp_path: Path) -> None:
    write(tmp_path / "train", arrays(5))
    refused(tmp_path, r"holds no .npz episodes. There are some in .*train. Name the folder")
    refused(tmp_path / "nothing", r"there is no folder .*nothing")


@pytest.mark.parametrize("name", ["image", "action", "reward"])
def test_a_missing_key_is_named_with_its_file(tmp_path: Path, name: str) -> None:
    whole = arrays(5)
    folder = write(tmp_path / "npz", whole)
    np.savez(folder / "bad.npz", **{key: x for key, x in whole.items() if key != name})
    refused(folder, rf"bad.npz: it has no '{name}', only ")


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (
            {"image": np.zeros((6, 8, 8, 3), np.uint8)},
            r"'pixels' is \(8, 8, 3\) a row, but \(16, 16, 3\) in 2023-0-5.npz",
        ),
        ({"action": np.zeros((6, 3))}, r"'action' is \(3,\) a row, but \(2,\) in 2023-0-5.npz"),
        ({"height": np.zeros(6)}, r"'height' is \(1,\) a row, but not there in 2023-0-5.npz"),
        ({"reward": np.zeros(5)}, r"'reward' is of shape \(5,\), 'action' of \(6, 2\): rows differ"),
        ({"image": np.zeros((6, 16, 16, 3))}, r"'image' is float64 of shape \(6, 16, 16, 3\); expected uint8"),
        ({"reward": np.zeros((6, 1))}, r"'action' and 'reward' are of shapes \(6, 2\) and \(6, 1\)"),
        ({"name": np.array(["a"] * 6)}, r"'name' holds <U1, no numbers"),
        ({"extra": np.array([{}] * 6)}, r"it cannot be read \(Object arrays cannot be loaded"),
    ],
)
def test_files_of_other_shapes_are_refused(tmp_path: Path, bad: dict[str, np.ndarray], match: str) -> None:
    refused(write(tmp_path / "npz", arrays(5), arrays(5, **bad)), rf"2023-1-5.npz: {match}")


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        # (o_t, a_t) on one row beside files in DreamerV2's order, and the reward of a reset.
        ({"action": np.full((6, 2), 0.5)}, r"row 0 holds the action \[0.5 0.5\], expected 0.*one row later"),
        ({"reward": np.ones(6)}, r"row 0 holds the reward 1.0, expected 0"),
        ({"is_first": np.arange(6) % 3 == 0}, r"'is_first' is true in row 3 of 0 … 5; a file must be one episode"),
        ({"is_first": np.zeros(6, bool)}, r"'is_first' is false in row 0"),
        ({"is_last": np.arange(6) == 2}, r"'is_last' is true in row 2 of 0 … 5"),
        ({"is_terminal": np.arange(6) == 2}, r"'is_terminal' is true in row 2"),
        ({"discount": np.array([1, 1, 0, 1, 1, 1])}, r"'discount' is 0 in row 2 of 0 … 5, but the episode goes on"),
        ({"discount": np.array([1, 1, 1, 1, 1, 0])}, r"last row has is_terminal False and discount 0: is it over"),
    ],
)
def test_mixed_orders_are_refused(tmp_path: Path, bad: dict[str, np.ndarray], match: str) -> None:
    refused(write(tmp_path / "npz", arrays(5), arrays(5, **bad)), rf"2023-1-5.npz: .*{match}")


@pytest.mark.parametrize(
    ("name", "value"), [("action", np.nan), ("reward", -np.inf), ("height", np.nan), ("height", 1e300)]
)
def test_numbers_that_are_not_finite_are_refused_by_file_key_and_row(tmp_path: Path, name: str, value: float) -> None:
    bad = arrays(5, height=np.ones(6))
    bad[name][4] = value
    refused(write(tmp_path / "npz", bad), rf"2023-0-5.npz: '{name}' is not finite, as float32, in row 4")


def test_broken_files_are_refused_and_none_is_unpickled(tmp_path: Path) -> None:
    folder = write(tmp_path / "npz", arrays(5), arrays(5))
    path = sorted(folder.glob("*.npz"))[1]
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = (
        whole[:middle],
        whole[:middle] + b"\0" * 99 + whole[middle + 99 :],
        b"",
        b"no archive",
        pickle.dumps([1]),
    )
    for data in damaged:
        path.write_bytes(data)
        refused(folder, r"2023-1-5.npz: it cannot be read \(.+\). Mend the file or move it away")
    with path.open("wb") as file:
        np.save(file, np.zeros(3))  # one array, no archive of them
    refused(folder, r"2023-1-5.npz: it cannot be read")


def test_actions_outside_the_environment_s_bounds_are_refused_by_file_row_and_entry(tmp_path: Path) -> None:
    folder = write(tmp_path / "npz", arrays(5), arrays(12))
    refused(folder, r"2023-1-12.npz: row 11 holds an action whose entry 0 is 1.1, outside -1 … 1")
    narrow = write(tmp_path / "narrow", arrays(5, width=1, action=np.array([0, 1, 1, 2.5, 0, 0])[:, None]))
    refused(narrow, r"row 3 holds an action whose entry 0 is 2.5, outside -2 … 2", "Pendulum-v1")
    refused(folder, r"its actions are vectors of 2, but the environment takes Box\(-2.0, 2.0, \(1,\)", "Pendulum-v1")
    hot = np.array([[0, 0], [1, 0], [0.5, 0.5]])
    refused(
        write(tmp_path / "hot", arrays(2, action=hot)),
        r"row 2 holds the action \[0.5 0.5\]; expected one-hot",
        "CartPole-v1",
    )


def test_a_file_with_a_reset_alone_has_no_step(tmp_path: Path) -> None:
    refused(write(tmp_path / "npz", arrays(0)), "it has 1 rows; one step makes two")


# ----------------------------------------------------------------------------------------------------------- real data


def test_cmil_s_kitchen_demonstrations_are_converted_whole() -> None:
    files = sorted(KITCHEN.glob("*.npz"))
    if len(files) != 10:
        pytest.skip(f"CMIL's ten demonstrations are not in {KITCHEN}; set DREAM_ENV_KITCHEN_NPZ")
    converted(KITCHEN)
    demos = Demos.load("tiny/npz-v0", ObservationConfig(gray=False, keys=("pixels",)))
    assert demos.lengths.tolist() == [280] * 10
    for index in (0, 9):
        with np.load(files[index]) as file:
            episode = demos.episode(index)
            np.testing.assert_array_equal(episode.obs["pixels"], file["image"])
            np.testing.assert_array_equal(episode.action_t, file["action"][1:])
            assert demos.returns[index] == file["reward"].sum()
            assert file["reward"][-1] == 4
    # By hand: the first action of the first file led to its row 1.
    batch = demos.take(1).sample(1, 281, np.random.default_rng(0))
    np.testing.assert_allclose(batch.action_tm1[1, 0, :3], [-0.10030017, -0.13763739, -0.9044986])
    assert not batch.action_tm1[0].any()
