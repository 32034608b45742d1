"""Baoding: what must be put right for PDDM's model, with a stand-in of the same names and sizes, for theirs is not ours."""

import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import AddRenderObservation

import dream_env  # noqa: F401 (registers the id)
from dream_env.collecting.npz_episodes import convert
from dream_env.errors import ConfigError
from dream_env.real.baoding import MODEL, Baoding, baoding_reward, find_model, joint_targets
from dream_env.real.environments import environment_from_spec, make_environment, protocol
from dream_env.real.success import SuccessTracker
from dream_env.recordings.demos import Demos
from dream_env.spaces import ObservationConfig

ID = "dream_env/Baoding-v0"
MIDDLE = [0.0126, -0.398, *(0.1 * i for i in range(22))]
"""Keyframe of the joints."""
SHARED = """
<mujocoinclude>
  <compiler angle="radian"/>
  <option timestep="0.002" iterations="20" apirate="200"/>
  <asset><mesh name="ball" file="../shadowhand/resources/meshes/corner.obj"/></asset>
  <tendon><fixed name="T_WRJ0u" range="-.0001 .0001"><joint joint="J1" coef="0.018"/></fixed></tendon>
</mujocoinclude>
"""
CORNER = "v 0 0 0\nv .01 0 0\nv 0 .01 0\nv 0 0 .01\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n"


def write_model(
    repository: Path, *, table: bool = True, marks: tuple[str, str] = ("target1_site", "target2_site")
) -> Path:
    """A hand of 24 joints without fingers over a table (or none), laid out over folders as PDDM's repository is."""
    package = repository / "pddm"
    assets, shared = package / "envs/baoding/assets", package / "env_models/shadowhand/resources"
    assets.mkdir(parents=True)
    (shared / "meshes").mkdir(parents=True)
    (shared / "assets.xml").write_text(SHARED)
    (shared / "meshes/corner.obj").write_text(CORNER)
    joints = "".join(
        f'<body name="b{i}"><joint name="J{i}" axis="0 1 0" damping="1"/><geom size=".01" mass=".01" contype="0" '
        f'conaffinity="0"/>'
        for i in range(24)
    )
    sites = "".join(f'<site name="{name}" size=".007" rgba="1 .8 .3 1"/>' for name in marks)
    (assets / "chain.xml").write_text(
        f'<mujocoinclude><body name="palm" pos="0 -.4 .2" euler="-1.57 0 0">{sites}'
        f'<geom type="mesh" mesh="ball" contype="0" conaffinity="0"/>{joints}{"</body>" * 24}</body></mujocoinclude>'
    )
    motors = "".join(f'<position joint="J{i}" ctrlrange="-2 3" kp="1"/>' for i in range(24))
    balls = "".join(f'<body name="ball{i}"><freejoint/><geom size=".028" mass=".043"/></body>' for i in (1, 2))
    keys = " ".join(map(str, [*MIDDLE, -0.029, 0, 0.19, 1, 0, 0, 0, 0.03, 0.01, 0.19, 1, 0, 0, 0]))
    (assets / MODEL).write_text(f"""
<mujoco>
  <include file="../../../env_models/shadowhand/resources/assets.xml"/>
  <compiler meshdir="../../../env_models/shadowhand/"/>
  <option timestep="0.0025"/>
  <worldbody>
    <light pos="0 1 4" dir="0 -1 -4"/>
    <include file="chain.xml"/>{balls}
    {'<geom type="box" size=".2 .2 .08" pos="0 0 .08"/>' if table else ""}
  </worldbody>
  <actuator>{motors}</actuator>
  <keyframe><key qpos="{keys}"/></keyframe>
</mujoco>""")
    return repository


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    pytest.importorskip("mujoco", reason="Baoding plays in MuJoCo, which is not installed")
    return write_model(tmp_path / "clone")


def make(repository: Path, **options: Any) -> Any:
    return gymnasium.make(ID, assets=str(repository), **options)


def test_actions_are_scaled_with_pddm_s_slip() -> None:
    middle, up, down = np.array([0.5, -0.4, -0.4, 0.3, 0.0]), np.full(5, 1.0), np.full(5, 0.5)
    action = np.array([0.2, 0.2, 0.9, -2.0, 0.0], np.float32)
    # 0.5 + 0.2; -0.4 + 0.2 = -0.2, which is scaled again: -0.4 - 0.2 / 2; -0.4 + 0.9; 0.3 - 1 / 2 (clipped to -1); 0.
    np.testing.assert_allclose(joint_targets(action, middle, up, down), [0.7, -0.5, 0.5, -0.2, 0.0], atol=1e-6)
    assert action[1] == np.float32(0.2), "the caller's action stays as it was"


def test_the_reward_is_pddm_s() -> None:
    state = np.zeros(40)
    state[24:27], state[30:33], state[36:] = (0.03, 0.04, 0.2), (0.0, 0.0, 0.2), (0.0, 0.0, 0.12, 0.05)
    reward, error, fallen = baoding_reward(state)
    assert (reward, error, fallen) == (pytest.approx(-5 * (0.05 + 0.13)), pytest.approx(0.18), False)
    state[1] = 0.16  # the wrist is lifted
    assert baoding_reward(state)[0] == pytest.approx(-0.9 - 10)
    state[32] = 0.05  # a ball is down: the wrist's 10 are paid once
    assert baoding_reward(state)[::2] == (pytest.approx(-0.9 - 510), True)


def test_the_model_is_put_right_and_the_user_s_files_are_not_touched(repository: Path) -> None:
    before = {path: path.read_bytes() for path in repository.rglob("*.*")}
    env = make(repository).unwrapped
    assert not env.model.tendon_limited.any()
    assert env.model.opt.timestep == 0.0025
    assert env.model.nmesh == 1
    assert (env.model.site_rgba[:, 3] == 0).all(), "the marks are invisible"
    assert before == {path: path.read_bytes() for path in repository.rglob("*.*")}


def test_a_step_is_a_tenth_of_a_second_in_which_the_target_moves_at_most_three_tenths(repository: Path) -> None:
    env = make(repository).unwrapped
    state, info = env.reset(seed=0)
    np.testing.assert_allclose(state[:24], MIDDLE, atol=1e-7)
    np.testing.assert_allclose(state[24:30], [-0.029, 0, 0.19, 0, 0, 0], atol=1e-7)
    assert info == {}
    action = np.zeros(24, np.float32)
    action[:3] = 1.0, -0.01, -1.0
    env.step(action)
    assert env.data.time == pytest.approx(0.1)
    # Far targets, 0.0126 + 0.9 · (3 - 0.0126) and 0 - 0.9 · 2, are cut; -0.398 - 0.01 · 0.9 · (2 - 0.398) is near.
    np.testing.assert_allclose(env.data.ctrl[:3], [0.3126, -0.398 - 0.01 * 0.9 * 1.602, -0.3], atol=1e-6)
    np.testing.assert_allclose(env.data.ctrl[4], 0.2, atol=1e-6)  # action 0 asks for the keyframe's angle


def test_the_marks_go_round_once_in_sixty_steps(repository: Path) -> None:
    env = make(repository).unwrapped
    env.reset()
    mark = env.model.site("target1_site").id
    half = np.sqrt(0.5)
    start = [0.005 - 0.02 * half, -0.07, 0.055 + 0.036 * half]  # 135 degrees
    np.testing.assert_allclose(env.model.site_pos[mark], start)
    still = np.zeros(24, np.float32)
    places = []
    for _ in range(61):
        env.step(still)
        places.append(env.model.site_pos[mark].copy())
    np.testing.assert_allclose(places[0], start)
    np.testing.assert_allclose(places[15], [0.005 - 0.02 * half, -0.07, 0.055 - 0.036 * half])  # a quarter, leftwards
    np.testing.assert_allclose(places[60], start)
    state, _ = env.reset()
    assert env.step(still)[0].shape == state.shape == (40,)
    np.testing.assert_allclose(env.model.site_pos[mark], start)


def test_success_is_to_keep_both_balls_up_to_the_last_step(repository: Path) -> None:
    env = make(repository)
    env.reset(seed=0)
    said = []
    while True:
        state, _, terminated, truncated, info = env.step(np.zeros(24, np.float32))
        assert state in env.observation_space
        said.append(info["success"])
        if terminated or truncated:
            break
    assert (len(said), terminated, truncated) == (120, False, True)
    assert said == [False] * 119 + [True]


def test_a_dropped_ball_ends_the_episode_without_success(tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="Baoding plays in MuJoCo, which is not installed")
    env = make(write_model(tmp_path / "clone", table=False))
    env.reset(seed=0)
    steps = 0
    terminated = False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(np.zeros(24, np.float32))
        steps += 1
        assert not truncated
    assert steps == 2, "13 cm take 0.16 s to fall"
    assert reward < -500
    assert not info["success"]
    while not truncated:  # played on against the rules, it does not become one
        _, _, _, truncated, info = env.step(np.zeros(24, np.float32))
    assert not info["success"]


def test_every_episode_begins_alike_and_equal_actions_do_equal_things(repository: Path) -> None:
    env = make(repository)
    env.action_space.seed(3)
    actions = [env.action_space.sample() for _ in range(5)]
    runs = []
    for seed in (0, 1):
        states = [env.reset(seed=seed)[0]]
        states += [env.step(action)[0] for action in actions]
        runs.append(np.stack(states))
    np.testing.assert_array_equal(*runs)
    assert np.abs(np.diff(runs[0], axis=0)).max() > 0.01


def test_the_spec_goes_through_json_and_the_folder_may_stand_in_a_variable(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREAM_ENV_PDDM", str(repository))
    env = gymnasium.make(ID)
    text = env.spec.to_json()
    assert str(repository) not in text
    again = gymnasium.make(EnvSpec.from_json(text))
    np.testing.assert_array_equal(env.reset(seed=0)[0], again.reset(seed=0)[0])
    assert "Dream-Baoding-v0" in gymnasium.registry


@pytest.mark.parametrize("place", [".", "pddm", "pddm/envs/baoding/assets"])
def test_the_model_is_found_in_the_clone_in_the_package_and_in_its_own_folder(repository: Path, place: str) -> None:
    assert find_model(repository / place) == (repository / "pddm/envs/baoding/assets" / MODEL).resolve()


@pytest.fixture
def baoding(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """As ``make_environment`` makes it, or none where nothing can be rendered."""
    pytest.importorskip("gymnasium_robotics", reason="gymnasium-robotics is not installed")
    monkeypatch.setenv("DREAM_ENV_PDDM", str(repository))
    try:
        return make_environment("baoding", size=32)
    except ConfigError as error:
        pytest.skip(f"nothing can be rendered here: {error}")


def test_it_is_one_of_the_robots(baoding: Any) -> None:
    assert baoding.observation_space["pixels"].shape == (32, 32, 3)
    assert baoding.observation_space["state"].shape == (40,)
    facts = protocol(baoding)
    assert (facts["rendering"], facts["size"], facts["max_steps"]) == ("fast", 32, 120)
    twin = environment_from_spec(baoding.spec.to_json())
    action = np.full(24, 0.3, np.float32)
    tracker = SuccessTracker(baoding)
    for env in (baoding, twin):
        env.reset(seed=0)
    for _ in range(3):
        (one, *_, info), (other, *_) = baoding.step(action), twin.step(action)
        np.testing.assert_array_equal(one["pixels"], other["pixels"])
        np.testing.assert_array_equal(one["state"], other["state"])
        tracker.step(info)
    assert tracker.success == 0.0
    baoding.close()
    twin.close()


def test_cmil_s_kind_of_recordings_become_a_dataset_of_it(
    baoding: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("DREAM_ENV_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    action = rng.uniform(-1, 1, (4, 24)).astype(np.float32)
    action[0] = 0
    (tmp_path / "npz").mkdir()
    np.savez(
        tmp_path / "npz/20210209T205252-0-4.npz", action=action, image=rng.integers(0, 256, (4, 128, 128, 3), np.uint8),
        obs=rng.normal(size=(4, 40)), reward=np.array([0, -0.1, -0.2, -0.3]), discount=np.ones(4),
    )  # fmt: skip
    convert(tmp_path / "npz", "baoding", "tiny/baoding-v0", progress=False)
    demos = Demos.load("tiny/baoding-v0", ObservationConfig(gray=False))
    assert demos.observation_spec.space["pixels"].shape == (128, 128, 3)
    episode = demos.episode(0)
    assert (episode.obs["pixels"].shape, episode.obs["state"].shape) == ((4, 64, 64, 3), (4, 40))
    np.testing.assert_array_equal(episode.action_t, action[1:])
    env = environment_from_spec(demos.source.env_spec or "")
    assert protocol(env)["rendering"] == "default", "as others' pictures are"
    assert {key.name: key.source_shape for key in demos.observation_spec.keys} == {
        name: space.shape for name, space in env.observation_space.spaces.items()
    }, "what was recorded is what an agent will see"
    env.close()
    baoding.close()


def test_a_picture_is_put_beside_the_state(repository: Path) -> None:
    from dream_env.real.robots import MujocoRendering

    try:
        env = AddRenderObservation(
            MujocoRendering(make(repository, render_mode="rgb_array", width=64, height=64), "fast"), render_only=False
        )
    except ConfigError as error:
        pytest.skip(f"nothing can be rendered here: {error}")
    observation, _ = env.reset(seed=0)
    assert observation.keys() == {"state", "pixels"}
    assert observation["pixels"].shape == (64, 64, 3)
    assert observation["pixels"].std() > 5, "something is to be seen"
    viewer = env.unwrapped.mujoco_renderer.viewer
    assert (viewer.cam.distance, viewer.cam.azimuth, viewer.cam.elevation) == (0.3, -67.5, -42.5)
    env.close()


# -------------------------------------------------------------------------------------------------------- bad input


def test_without_assets_it_says_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("mujoco", reason="Baoding plays in MuJoCo, which is not installed")
    monkeypatch.delenv("DREAM_ENV_PDDM", raising=False)
    with pytest.raises(
        ConfigError, match=r"git clone https://github.com/google-research/pddm.*assets='pddm'.*DREAM_ENV_PDDM"
    ):
        gymnasium.make(ID)
    with pytest.raises(ConfigError, match=r"holds no shadowhand_baoding_2.xml.*git clone"):
        make(tmp_path)


def test_a_clone_without_its_other_folders_is_named(repository: Path) -> None:
    shutil.rmtree(repository / "pddm/env_models/shadowhand/resources/meshes")
    with pytest.raises(ConfigError, match=r"cannot be loaded.*corner.obj.*meshes too\?"):
        make(repository)
    shutil.rmtree(repository / "pddm/env_models")
    with pytest.raises(ConfigError, match=r"cannot be loaded.*assets.xml"):
        make(repository)


def test_a_broken_file_and_another_model_are_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not PDDM's Baoding model.*target1_site and target2_site"):
        make(write_model(tmp_path / "other", marks=("target1_site", "elsewhere")))
    (repository / "pddm/envs/baoding/assets/chain.xml").write_text("<mujocoinclude>")
    with pytest.raises(ConfigError, match=r"cannot be loaded: no element found"):
        make(repository)


def test_without_mujoco_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(ConfigError, match=r'pip install "dream-env\[robotics\]"'):
        Baoding()
