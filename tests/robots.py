"""What the tests of robots share: they are skipped, with the reason, where there is no MuJoCo or nothing to render with."""

import numpy as np
import pytest

from dream_env.errors import ConfigError
from dream_env.real.environments import make_environment


@pytest.fixture(scope="session")
def _robots():
    for package in ("mujoco", "gymnasium_robotics"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[robotics]'")
    try:
        make_environment("adroit-door", size=16).close()
    except ConfigError as error:
        pytest.skip(str(error))


def pictures(env, seed, steps=3):
    """The first few pictures of a game with fixed actions, (steps + 1, H, W, 3)."""
    shown = [env.reset(seed=seed)[0]["pixels"]]
    for i in range(steps):
        shown.append(env.step(np.full(env.action_space.shape, 0.1 * i, env.action_space.dtype))[0]["pixels"])
    return np.stack(shown).astype(np.int64)
