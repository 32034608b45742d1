"""One dream as a plain Gymnasium environment: what ``gymnasium.make("Dream-Pong-v0", wm=folder)`` gives."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode

from dream_env.dream.env import RENDER_FPS, DreamEnv
from dream_env.dream.resetting import known_options
from dream_env.errors import ConfigError


class SingleDream(gymnasium.Env[np.ndarray, Any]):
    """DreamEnv's implementation with ``num_envs=1`` and no autoreset."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        """Open a world model; the options are DreamEnv's, less ``num_envs``, ``autoreset_mode`` and ``output``."""
        self.dream = DreamEnv(1, autoreset_mode=AutoresetMode.DISABLED, **options)
        self.render_mode = self.dream.render_mode
        self.observation_space = self.dream.single_observation_space
        self.action_space = self.dream.single_action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start on an expert state: of the row ``options["row"]``, else a random one."""
        super().reset(seed=seed)
        known = known_options(options, ("row",))
        obs, info = self.dream.reset(seed=seed, options={"rows": np.array([known["row"]])} if "row" in known else None)
        return obs[0], info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step of the world model."""
        obs, reward, terminated, truncated, _ = self.dream.step(np.asarray(action)[None])
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}

    def render(self) -> np.ndarray | None:
        """The model state as an RGB picture."""
        frames = self.dream.render()
        return None if frames is None else frames[0]

    def get_keys_to_action(self) -> dict[Any, Any]:
        """The real game's keys, for ``gymnasium.utils.play.play``."""
        import ale_py  # noqa: F401 (registers the Atari games)

        source = self.dream.world_model.source
        game = gymnasium.make(EnvSpec.from_json(source.env_spec) if source.env_spec else source.environment)
        try:
            keys: dict[Any, Any] = game.get_wrapper_attr("get_keys_to_action")()
        except AttributeError as error:
            raise ConfigError(f"{source.environment} has no keys of its own; give play() keys_to_action=...") from error
        finally:
            game.close()
        return keys
