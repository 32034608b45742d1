"""What is said where there is nothing to draw robots with: ``test_robots`` is skipped there, and this is not."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

# Not imported to find out: MuJoCo chooses what draws when it is, which is for the tests that draw.
pytestmark = pytest.mark.skipif(
    find_spec("mujoco") is None or find_spec("gymnasium_robotics") is None,
    reason="robots' packages are not installed: pip install -e '.[robotics]'",
)


@pytest.mark.parametrize("backend", ["osmesa-that-is-not-there", "off"])
def test_no_opengl_says_what_to_set_and_to_install(backend):
    code = (
        "import sys; from dream_env.real.environments import make_environment; from dream_env.errors import ConfigError\n"
        "try:\n    make_environment('adroit-door', size=8)\n"
        "except ConfigError as error:\n    print(error); sys.stdout.flush(); import os; os._exit(3)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "MUJOCO_GL": backend}, capture_output=True, text=True
    )
    assert run.returncode == 3, run.stderr
    assert f"AdroitHandDoor-v1 cannot be rendered with MUJOCO_GL='{backend}'" in run.stdout
    assert "set MUJOCO_GL=egl before Python starts" in run.stdout
    assert "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri" in run.stdout
    assert "MUJOCO_GL=osmesa and libosmesa6" in run.stdout
