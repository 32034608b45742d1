"""dream-env: world models learned from demonstrations, opened as Gymnasium environments.

::

    import gymnasium, dream_env
    dream = gymnasium.make("Dream-Pong-v0", wm="runs/pong/wm")

Importing registers the ids and does nothing else; everything below is imported when it is first asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dream_env.dream.registration import register_dreams

if TYPE_CHECKING:
    from dream_env.agent import Agent
    from dream_env.checkpoint import load, save
    from dream_env.dream.env import DreamEnv
    from dream_env.fitting.fit import fit
    from dream_env.learning.sb3 import BootstrapTogether, as_sb3
    from dream_env.measuring.evaluation import evaluate
    from dream_env.model.encoded import encode
    from dream_env.model.world_model import WorldModel
    from dream_env.plugin import Reward
    from dream_env.recordings.demos import Demos

__all__ = [
    "Agent", "BootstrapTogether", "Demos", "DreamEnv", "Reward", "WorldModel", "as_sb3", "encode", "evaluate", "fit", "load",
    "save",
]  # fmt: skip

_HOME = {
    "Agent": "agent", "Demos": "recordings.demos", "DreamEnv": "dream.env", "Reward": "plugin",
    "WorldModel": "model.world_model", "BootstrapTogether": "learning.sb3", "as_sb3": "learning.sb3", "encode": "model.encoded",
    "evaluate": "measuring.evaluation", "fit": "fitting.fit", "load": "checkpoint", "save": "checkpoint",
}  # fmt: skip

register_dreams()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dream_env' has no attribute {name!r}")
    return getattr(import_module(f"dream_env.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
