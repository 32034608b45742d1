"""A Shadow Hand that turns two Baoding balls: PDDM's environment (Nagabandi et al. 2019), from pictures CMIL's second task.

It is on no registry, and its model is not ours to ship. Download Google's repository, and this file plays it in a MuJoCo of
today::

    git clone https://github.com/google-research/pddm
    gymnasium.make("dream_env/Baoding-v0", assets="pddm")   # or, on every machine its own: export DREAM_ENV_PDDM=…/pddm

What is done so that recorded actions mean what they meant in the MuJoCo of 2019. (Measured with MuJoCo 4.0.0 before this
file was written: 15 of CMIL's 20 demonstrations, played back blindly, keep both balls up; without the second point 0,
without the third 7. This file itself was tested on a stand-in of the model only.)

1. ``<option apirate>`` is left out: MuJoCo knows it no more.
2. Tendons are not limited. They have a ``range`` and no ``limited``; MuJoCo takes that for a limit today, and did not then.
3. Actions are scaled with PDDM's slip, see ``joint_targets``.
4. The hand follows at most 3 rad/s: control = q + clip(target − q, ±0.3) over 40 steps of 2.5 ms, from keyframe 0 on.

The camera is CMIL's, and the two marks that PDDM shows where the balls should be are made invisible, as in CMIL's copy of
the model: a picture is to show the scene, not the task.
"""

import os
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dream_env.errors import ConfigError

ASSETS = "DREAM_ENV_PDDM"
"""Environment variable with the folder of PDDM, for where ``assets`` is not given."""
MODEL = "shadowhand_baoding_2.xml"
"""The model that is played; it includes others of its repository."""
STEPS = 120
"""Steps of an episode, those of CMIL's demonstrations: two rounds of the balls. (CMIL's released settings cut off at 75,
PDDM's own at 100.)"""

_PLACES = (".", "envs/baoding/assets", "pddm/envs/baoding/assets", "common/pddm/envs/baoding/assets")
_JOINTS, _BALL = 24, 7  # a free body has a position (3) and a quaternion (4)
_SUBSTEPS, _SECONDS, _SPEED, _POSITION = 40, 0.1, 3.0, 40.0  # of one step; rad/s; rad
_PERIOD = 60  # steps of one round
_RADII, _CENTER, _ABOVE = (0.02, 0.036), (0.005, 0.055), -0.07  # m, in the palm's frame, whose y points down
_STARTS = (3 * np.pi / 4, -np.pi / 4)  # rad, ball 1 and ball 2
_FALLEN, _LIFTED = 0.06, 0.15  # m, rad
_CAMERA = {"distance": 0.3, "azimuth": -67.5, "elevation": -42.5}


class Baoding(gymnasium.Env[np.ndarray, np.ndarray]):
    """Turn two balls counter-clockwise in the palm, a round in 60 steps, and drop none.

    - Action: 24 numbers in [−1, 1], a target for each joint.
    - Observation: PDDM's 40 numbers: joint angles (24), then of each ball position (3) and "velocity" (3), then where each
      should be (x, y). PDDM takes the balls' velocities from the last 14 of the model's, where they have the last 12: what
      it calls velocity is shifted by two, and is kept so, because recordings hold it. ``make_environment`` puts the picture
      beside it.
    - Reward, PDDM's, an oracle that no learner sees: −5 Σ ‖(x, y) of a ball − where it should be‖ (m), −10 while the wrist is
      lifted over 0.15 rad, −510 for a dropped ball. (500 for the ball; its penalty and the wrist's share one array in the
      code, so that a dropped ball costs the wrist's 10 as well.)
    - The episode ends when a ball is below 6 cm, or after 120 steps. ``info["success"]``: at step 120, none ever was.
      ``info["ball_error"]``: sum of both distances, m.

    There is no chance in it: every episode begins alike.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own way)

    def __init__(
        self,
        assets: str | os.PathLike[str] = "",
        *,
        render_mode: str | None = None,
        width: int = 128,
        height: int = 128,
    ) -> None:
        """Load the model; nothing is drawn before ``render``.

        Args:
            assets: folder of PDDM's repository, or of the model in it; ``$DREAM_ENV_PDDM`` unless given.
            render_mode: None or ``"rgb_array"``.
            width: of pictures, in pixels; those of CMIL's recordings are 128 × 128.
            height: likewise.

        Raises:
            ConfigError: the assets are not there or not PDDM's, or MuJoCo is not installed.
        """
        mujoco = _mujoco()
        self.model = _load(mujoco, find_model(assets))
        self.data = mujoco.MjData(self.model)
        self._advance, self._forward, self._reset = mujoco.mj_step, mujoco.mj_forward, mujoco.mj_resetDataKeyframe
        self._marks = [self.model.site(f"target{ball}_site").id for ball in (1, 2)]
        self._middle = self.model.key_qpos[0, :_JOINTS].copy()
        low, high = self.model.actuator_ctrlrange.T
        self._up, self._down = 0.9 * (high - self._middle), 0.9 * (self._middle - low)
        self.action_space = spaces.Box(-1.0, 1.0, (_JOINTS,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (_JOINTS + 2 * 6 + 2 * 2,), np.float32)
        self.render_mode = render_mode
        self._begin()
        from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer

        # Where mujoco-py looks unless told: PDDM sets the rest of the camera alone.
        camera = {**_CAMERA, "lookat": np.median(self.data.geom_xpos, axis=0)}
        self.mujoco_renderer: Any = MujocoRenderer(self.model, self.data, camera, width, height)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Put hand and balls as the model's keyframe has them."""
        super().reset(seed=seed)
        self._begin()
        return self._state().astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the marks on, set the joints' targets, and let a tenth of a second pass."""
        self._put_marks(self._steps)
        angle = self.data.qpos[:_JOINTS].copy()
        target = joint_targets(action, self._middle, self._up, self._down)
        speed = np.clip((target - angle) / _SECONDS, -_SPEED, _SPEED)
        self.data.ctrl[:] = np.clip(angle + speed * _SECONDS, -_POSITION, _POSITION)
        self._advance(self.model, self.data, _SUBSTEPS)
        self._steps += 1
        state = self._state()
        reward, error, fallen = baoding_reward(state)
        self._dropped |= fallen
        success = self._steps >= STEPS and not self._dropped
        return state.astype(np.float32), reward, fallen, False, {"success": success, "ball_error": error}

    def render(self) -> Any:
        """Draw the scene, (height, width, 3) uint8."""
        return None if self.render_mode is None else self.mujoco_renderer.render(self.render_mode)

    def close(self) -> None:
        """Let the graphics go."""
        self.mujoco_renderer.close()

    def _begin(self) -> None:
        self._steps, self._dropped = 0, False
        self._put_marks(0)  # PDDM leaves them where the episode before had them
        self._reset(self.model, self.data, 0)
        self._forward(self.model, self.data)

    def _put_marks(self, step: int) -> None:
        for mark, start in zip(self._marks, _STARTS, strict=True):
            angle = start + 2 * np.pi * step / _PERIOD
            x, z = _CENTER[0] + _RADII[0] * np.cos(angle), _CENTER[1] + _RADII[1] * np.sin(angle)
            self.model.site_pos[mark] = (x, _ABOVE, z)

    def _state(self) -> np.ndarray:
        balls = self.data.qpos[-2 * _BALL :].reshape(2, _BALL)[:, :3]
        velocities = self.data.qvel[-2 * _BALL :].reshape(2, _BALL)[:, :3]  # two too early: see the class
        marks = self.data.site_xpos[self._marks, :2]
        return np.concatenate([
            self.data.qpos[:_JOINTS], balls[0], velocities[0], balls[1], velocities[1], marks[0], marks[1],
        ])  # fmt: skip


def joint_targets(action: np.ndarray, middle: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Targets of the joints, rad: middle + a · up for a > 0, middle + a · down for a ≤ 0; with PDDM's slip.

    PDDM scales in place, first what is above 0, then what is at or below 0 *by now*. Where the first step gave a target
    below 0 (a joint whose middle is negative), the second takes this for an action and scales it again.
    """
    target: np.ndarray = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
    above = target > 0
    target[above] = middle[above] + target[above] * up[above]
    below = target <= 0
    target[below] = middle[below] + target[below] * down[below]
    return target


def baoding_reward(state: np.ndarray) -> tuple[float, float, bool]:
    """PDDM's reward of a state, the sum of both balls' distances from where they should be (m), and whether one fell."""
    balls = state[_JOINTS : _JOINTS + 12].reshape(2, 6)[:, :3]
    error = float(np.linalg.norm(balls[:, :2] - state[-4:].reshape(2, 2), axis=1).sum())
    fallen = bool((balls[:, 2] < _FALLEN).any())
    lifted = bool(state[1] > _LIFTED)
    return -5.0 * error - 500.0 * fallen - 10.0 * (lifted or fallen), error, fallen


def find_model(assets: str | os.PathLike[str] = "") -> Path:
    """The model's file in PDDM's repository, its package, or the folder itself.

    Raises:
        ConfigError: saying what to download, if it is not there.
    """
    advice = (
        "It is in Google's repository: git clone https://github.com/google-research/pddm, then pass assets='pddm' (the folder "
        f"of the clone) or set {ASSETS}"
    )
    given = os.fspath(assets) or os.environ.get(ASSETS, "")
    if not given:
        raise ConfigError(
            f"Baoding needs the model of PDDM's hand and balls, which this package does not hold. {advice}"
        )
    folder = Path(given).expanduser()
    for place in _PLACES:
        if (folder / place / MODEL).is_file():
            return (folder / place / MODEL).resolve()
    raise ConfigError(f"{folder} holds no {MODEL}, neither there nor in {', '.join(_PLACES[1:])}. {advice}")


def _load(mujoco: Any, path: Path) -> Any:
    """The model with what MuJoCo has changed since put right; nothing in the user's folder is touched."""
    try:
        root = _included(path, path.parent)[0]
        for option in root.iter("option"):
            option.attrib.pop("apirate", None)
        for compiler in root.iter("compiler"):
            for name in ("meshdir", "texturedir", "assetdir"):
                if name in compiler.attrib:
                    compiler.set(name, str(path.parent / compiler.attrib[name]))
        model = mujoco.MjModel.from_xml_string(ElementTree.tostring(root, encoding="unicode"))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be loaded: {error}. Is the whole repository of PDDM there, meshes too?"
        ) from error
    marks = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, f"target{ball}_site") for ball in (1, 2)]
    if (model.nu, model.nq) != (_JOINTS, _JOINTS + 2 * _BALL) or model.nkey < 1 or min(marks) < 0:
        raise ConfigError(
            f"{path} is not PDDM's Baoding model: it has {model.nu} actuators, {model.nq} positions and {model.nkey} keyframes; "
            f"expected {_JOINTS}, {_JOINTS + 2 * _BALL}, at least one, and sites named target1_site and target2_site"
        )
    model.tendon_limited[:] = 0
    model.site_rgba[marks, 3] = 0.0
    return model


def _included(path: Path, main: Path) -> list[ElementTree.Element]:
    """What stands in a file, with the files that it includes in their places; paths are relative to the main file's folder."""
    root = ElementTree.parse(path).getroot()
    for parent in list(root.iter()):
        for index, child in reversed(list(enumerate(parent))):
            if child.tag == "include":
                parent[index : index + 1] = _included(main / child.attrib["file"], main)
    return [root] if root.tag == "mujoco" else list(root)


def _mujoco() -> Any:
    try:
        import mujoco
    except ImportError as error:
        raise ConfigError('Baoding needs MuJoCo, which is not installed: pip install "dream-env[robotics]"') from error
    return mujoco
