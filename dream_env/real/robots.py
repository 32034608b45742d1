"""Robots in MuJoCo, seen through a camera and without a screen: Franka Kitchen and the Adroit hand.

Three things change a simulated robot's picture without anybody's asking, and each is settled here, in a wrapper that is
written into the environment's ``EnvSpec``:

- shadows, reflections and multi-sampling, which cost a software renderer twenty to forty times the rest of the picture
  (``rendering``);
- the free camera, which Gymnasium points at the middle of whatever the first random reset happened to put there;
- another robot in the same process: unless each one's own OpenGL context is made current before it is drawn, and before
  what it holds is given back, they draw into each other's pictures and delete each other's textures.
"""

import atexit
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.wrappers import AddRenderObservation

from dream_env.errors import ConfigError, DreamEnvError

Env = gymnasium.Env[Any, Any]

Rendering = Literal["fast", "default"]
"""fast: no shadows, no reflections, one sample a pixel. default: as MuJoCo and the model's authors set it."""

ROBOTS: dict[str, str] = {
    "kitchen": "FrankaKitchen-v1",
    "adroit-door": "AdroitHandDoor-v1",
    "adroit-hammer": "AdroitHandHammer-v1",
    "adroit-pen": "AdroitHandPen-v1",
    "adroit-relocate": "AdroitHandRelocate-v1",
    "baoding": "dream_env/Baoding-v0",
}
"""Short name → Gymnasium id. All but the last come with gymnasium-robotics; ``baoding`` says what to bring for that one."""

KITCHEN: dict[str, Any] = {
    "tasks_to_complete": ["microwave", "kettle", "light switch", "slide cabinet"],
    "terminate_on_tasks_completed": False,
    "remove_task_when_completed": False,
    "default_camera_config": {"distance": 1.86, "lookat": [-0.3, 0.5, 2.0], "azimuth": 90, "elevation": -60},
}
"""Franka Kitchen as in CMIL: its four tasks and its camera. Episodes have a fixed length, 280 steps, as in the papers' data:
one that ended with the last task would tell a learner how well it does. Each step's reward is the number of tasks that
are done at that moment, which is what the published demonstrations hold (Gymnasium's default pays each task once)."""

_ID_STARTS = ("FrankaKitchen", "AdroitHand", "dream_env/Baoding")


class MujocoRendering(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Render one MuJoCo environment the same way each time, whatever else is rendered beside it.

    The pictures of two settings differ (by 8 grey levels of 255 on Adroit's door, more on the Kitchen's), so training and
    evaluation must use the same one; ``protocol`` states it.
    """

    def __init__(self, env: Env, rendering: Rendering = "fast") -> None:
        """Open the environment's viewer.

        Raises:
            ConfigError: if there is no OpenGL to render with, if ``rendering`` is unknown, or if this is not MuJoCo.
        """
        RecordConstructorArgs.__init__(self, rendering=rendering)
        gymnasium.Wrapper.__init__(self, env)
        if rendering not in get_args(Rendering):
            raise ConfigError(f"there is no rendering {rendering!r}; it is one of {', '.join(get_args(Rendering))}")
        # Franka Kitchen keeps its robot, and with it the renderer, one level further down.
        renderer = getattr(getattr(env.unwrapped, "robot_env", env.unwrapped), "mujoco_renderer", None)
        if renderer is None:
            raise ConfigError(
                f"{_name(env)} is not rendered by MuJoCo; the setting rendering={rendering!r} is not for it"
            )
        self.rendering = rendering
        _use_egl_without_a_screen()
        visual = renderer.model.vis
        # The framebuffer need not be larger than the picture, which stays the same: twice the speed on Adroit's door.
        visual.global_.offwidth, visual.global_.offheight = renderer.width, renderer.height
        if rendering == "fast":
            visual.quality.shadowsize = visual.quality.offsamples = 0
        with explained(_name(env)):
            env.reset(seed=0)  # where the free camera looks is decided now, for good
            env.render()
        self._viewer = renderer.viewer
        # MuJoCo's own way, whenever the garbage collector comes by, gives back the textures of whoever is current then.
        self._give_back = weakref.finalize(self, _give_back, self._viewer)
        self._give_back.atexit = False  # which would be after EGL has ended
        atexit.register(self._give_back)
        if rendering == "fast":
            from mujoco import mjtRndFlag

            self._viewer.scn.flags[mjtRndFlag.mjRND_SHADOW] = 0
            self._viewer.scn.flags[mjtRndFlag.mjRND_REFLECTION] = 0
        env.reset(seed=int(np.random.SeedSequence().generate_state(1)[0]))  # unseeded again, as an environment begins

    def render(self) -> Any:
        """The picture, (height, width, 3) uint8."""
        # Gymnasium does this only for several viewers of one environment; else two environments share one context.
        self._viewer.make_context_current()
        return self.env.render()

    def close(self) -> None:
        """Close the environment and its viewer."""
        self._give_back()
        atexit.unregister(self._give_back)
        self.env.close()


def is_robot(gym_id: str) -> bool:
    """Whether this is one of the robots here, in any version."""
    return gym_id.startswith(_ID_STARTS)


def make_robot(
    gym_id: str,
    *,
    size: int,
    max_steps: int | None = None,
    render_mode: str | None = None,
    rendering: Rendering = "fast",
) -> Env:
    """A robot with a Dict observation: its own entries (Adroit: ``state``) and ``pixels`` (size, size, 3)."""
    register_robots(gym_id)
    options = KITCHEN if gym_id.startswith("FrankaKitchen") else {}
    with explained(gym_id):
        # Gymnasium's checker objects to the Kitchen's goals, which are one array for all steps.
        env = gymnasium.make(
            gym_id, max_episode_steps=max_steps, render_mode=render_mode or "rgb_array", width=size, height=size,
            disable_env_checker=True, **options,
        )  # fmt: skip
    return AddRenderObservation(MujocoRendering(env, rendering), render_only=False)


def register_robots(gym_id: str) -> None:
    """Make gymnasium-robotics' environments known to Gymnasium, if ``gym_id`` is one of the robots here."""
    if not is_robot(gym_id):
        return
    _use_egl_without_a_screen()
    with explained(gym_id):
        try:
            import gymnasium_robotics
            import mujoco  # noqa: F401 (gymnasium-robotics installs it, but not always a version that loads)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{gym_id} needs gymnasium-robotics and MuJoCo, which are not installed: pip install "
                f'"dream-env[robotics]"'
            ) from error
    if gym_id not in gymnasium.registry:
        gymnasium.register_envs(gymnasium_robotics)


def with_rendering(spec: EnvSpec) -> EnvSpec:
    """A robot's spec that says how it is rendered: others' recordings do not, and mean ``"default"``."""
    wrappers = spec.additional_wrappers
    drawn = any(wrapper.name == AddRenderObservation.__name__ for wrapper in wrappers)
    if not drawn or any(wrapper.name == MujocoRendering.__name__ for wrapper in wrappers):
        return spec
    plain = WrapperSpec(MujocoRendering.__name__, f"{__name__}:{MujocoRendering.__name__}", {"rendering": "default"})
    return replace(spec, additional_wrappers=(plain, *wrappers))


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Say what to do about the two ways in which a robot cannot be made: no OpenGL, and a MuJoCo too new."""
    try:
        yield
    except DreamEnvError:
        raise
    except AssertionError as error:
        raise ConfigError(
            f"{name} cannot be built with this MuJoCo; gymnasium-robotics 1.4.2 needs one before 3.12: pip install "
            f'"mujoco<3.12"'
        ) from error
    except Exception as error:
        # MuJoCo, PyOpenGL, EGL and GLFW fail each in a way of their own where there is no OpenGL.
        if not isinstance(error, RuntimeError | ImportError | AttributeError | OSError | Warning) and (
            type(error).__name__ != "FatalError"
        ):
            raise
        raise ConfigError(
            f"{name} cannot be rendered with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r} "
            f"({type(error).__name__}: {error}). Without a screen, set MUJOCO_GL=egl before Python starts and install "
            f"EGL (Debian: apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri), or MUJOCO_GL=osmesa and libosmesa6"
        ) from error


def rendering_facts(env: Env) -> dict[str, Any]:
    """What changes a robot's pictures, for ``protocol``: ``rendering``, ``size``, and the Kitchen's ``camera``."""
    spec = env.spec
    if spec is None or not is_robot(spec.id):
        return {}
    facts: dict[str, Any] = {"rendering": "default", "gray": False}
    for wrapper in spec.additional_wrappers:
        if wrapper.name == MujocoRendering.__name__:
            facts["rendering"] = (wrapper.kwargs or {})["rendering"]
    if "width" in spec.kwargs:
        facts["size"] = spec.kwargs["width"]
    if "default_camera_config" in spec.kwargs:
        facts["camera"] = spec.kwargs["default_camera_config"]
    if "tasks_to_complete" in spec.kwargs:
        facts["tasks"] = list(spec.kwargs["tasks_to_complete"])
    return facts


def _use_egl_without_a_screen() -> None:
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not screen:
        os.environ.setdefault("MUJOCO_GL", "egl")


def _give_back(viewer: Any) -> None:
    viewer.make_context_current()
    viewer.con.free()
    viewer.free()


def _name(env: Env) -> str:
    return env.spec.id if env.spec else type(env.unwrapped).__name__
