"""The dream as a Gymnasium vector environment; ``single.py`` is its face for one dream.

A dream starts on a state of the expert, drawn from its encoded demonstrations; every step is one step of the world
model's prior; a reward plug-in compares it with what the expert did from the same start; after ``horizon`` steps it is
truncated. The observation is the model state ``(h, z)`` as one float32 vector. The mechanics are in ``dreams.py``; here
are Gymnasium's rules: spaces, seeding, the three autoreset modes, infos, rendering, numpy at the border.
"""

from pathlib import Path
from typing import Any, Literal, get_args

import gymnasium
import numpy as np
import torch
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from dream_env.dream.dreams import Dreams
from dream_env.dream.opening import check_environment, latent_space, open_world_model
from dream_env.dream.resetting import Seed, chosen_by, expert_rows, known_options, seeds_for
from dream_env.errors import ConfigError, SpaceError, nearest
from dream_env.model.encoded import EncodedDemos, Split
from dream_env.model.world_model import Precision, WorldModel
from dream_env.plugin import Reward, load_reward

RENDER_FPS = 15
"""Frames a second of a dream's video: Atari's 60 with every fourth kept."""


class DreamEnv(VectorEnv[Any, Any, Any]):
    """N dreams as one vector environment; ``gymnasium.make_vec("Dream-Pong-v0", num_envs=N, wm=folder)`` makes it too.

    Sub-environment ``i`` of ``reset(seed=s)`` dreams exactly what a single dream of ``reset(seed=s + i)`` does.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (Gymnasium declares it so)
        "render_modes": ["rgb_array"],
        "render_fps": RENDER_FPS,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        wm: str | Path | WorldModel | None = None,
        reward: str | Reward = "ditto",
        reward_options: dict[str, Any] | None = None,
        horizon: int = 15,
        expert: EncodedDemos | None = None,
        split: Split = "train",
        episodes: int | None = None,
        environment: str | None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.SAME_STEP,
        render_mode: str | None = None,
        render_scale: int = 1,
        output: Literal["numpy", "torch"] = "numpy",
        device: str | None = None,
        terminate: bool = False,
        precision: Precision = "float32",
        max_episode_steps: int | None = None,
    ) -> None:
        """Open a world model.

        Args:
            num_envs: number of dreams.
            wm: folder of a world model, hub id ``"user/repository"``, one that comes with this package (``"shipped:pong"``,
                which ``Dream-Pong-v0`` takes by itself), or a WorldModel (then give ``expert`` too).
            reward: name of a reward plug-in, ``"module:Class"``, or an instance.
            reward_options: options of a reward given by name.
            horizon: steps of a dream; 15 is DITTO's.
            expert: encoded demonstrations; those in the model's folder unless given.
            split: which demonstrations of the folder: those the model was fitted on, or those held out.
            episodes: use only the first so many expert episodes.
            environment: what the model must be of, as ``"ALE/Pong-v5"``; the registered ids set it.
            autoreset_mode: when an ended dream starts again: ``"SAME_STEP"`` (Stable-Baselines3's), ``"NEXT_STEP"``, or
                ``"DISABLED"``; Gymnasium's ``AutoresetMode`` and its values (``"SameStep"``) do too.
            render_mode: ``"rgb_array"`` decodes the model state into a picture.
            render_scale: show every pixel as a square of this many; 4 makes 64 × 64 watchable.
            output: ``"torch"`` leaves observations, rewards and flags as tensors on the device.
            device: of the model; ``"cpu"``, or where a given WorldModel already is.
            terminate: let the continue head end dreams before the horizon; a model without one is refused.
            precision: arithmetic of the dream's matrix products; ``"bfloat16"`` is 1.4 times (small preset) to 1.8
                times (paper) as fast where the processor has units for it. States, samples and rewards are float32 either way.
            max_episode_steps: a lower horizon; what ``gymnasium.make_vec`` calls it.
        """
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.horizon = horizon if max_episode_steps is None else min(horizon, max_episode_steps)
        _check_options(num_envs, self.horizon, render_mode, render_scale, output, precision)
        self.world_model, expert = open_world_model(wm, expert, split, device, environment)
        self.device = self.world_model.device
        if environment is not None:
            check_environment(self.world_model, environment)
        if terminate and self.world_model.continue_net is None:
            raise ConfigError(
                f"terminate=True lets the continue head end dreams, but this world model (dataset "
                f"{self.world_model.source.dataset}) has none; fit one with --model.continue-head, or leave terminate out"
            )
        self.expert = expert if episodes is None else expert.take(episodes)
        self.reward = load_reward(reward, **(reward_options or {}))
        self.reward.prepare(self.world_model, self.expert)
        # Public for learners that work on tensors: it steps without numpy, and with gradients where they are on.
        self.dreams = Dreams(num_envs, self.world_model, self.expert, self.reward, self.horizon, terminate, precision)

        self.num_envs = num_envs
        self.render_mode = render_mode
        self.render_scale = render_scale
        self.output = output
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        if render_mode is not None:
            _ = self.world_model.image_key  # a model without pictures is refused now, not at the first frame
        self.single_observation_space = latent_space(self.world_model)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = self.world_model.action_spec.space
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._action_dtype = torch.int64 if self.world_model.action_spec.discrete else torch.float32
        self.last_rewards = torch.zeros(num_envs, device=self.device)  # (N,) of the last step, untouched by wrappers
        self._seeded = False
        self._ended: Tensor | None = None  # (N,) bool: dreams that wait for a reset; None if none does

    # ------------------------------------------------------------------------------------------------- reset and step

    @torch.no_grad()
    def reset(self, *, seed: Seed = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start dreams on expert states.

        Args:
            seed: dream ``i`` gets ``seed + i`` (or the i-th of a sequence); without one its random stream goes on.
            options: ``"reset_mask"``, a bool array: only these; ``"rows"``, an int array: the expert row that each
                dream starts on, instead of a random one.
        """
        options = known_options(options, ("reset_mask", "rows"))
        which = chosen_by(options.get("reset_mask"), self.dreams.everyone)
        if len(which) < self.num_envs and not self._seeded:
            raise ResetNeeded("the first reset must be of all dreams; call reset() without a reset_mask before")
        rows = None
        if options.get("rows") is not None:
            rows = expert_rows(options["rows"], self.dreams.starts, self.num_envs, self.horizon)[which]
        super().reset(seed=int(seed) if isinstance(seed, (int, np.integer)) else None)
        if not self._seeded:
            self.dreams.seed(*seeds_for(int(self.np_random.integers(2**31)), which, self.num_envs))
            self._seeded = True
        self.dreams.seed(*seeds_for(seed, which, self.num_envs))
        self.dreams.restart(which, rows)
        if self._ended is not None:
            still = self._ended.index_fill(0, which, False)
            self._ended = still if bool(still.any()) else None
        return self._observation(), {}

    @torch.no_grad()
    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """One step of every dream, with the semantics of the autoreset mode."""
        if not self._seeded:
            raise ResetNeeded("reset() must be called before the first step()")
        if self._ended is None:
            reward, terminated, truncated = self.dreams.step(self._action(actions, None))
        elif self.autoreset_mode is AutoresetMode.NEXT_STEP:
            reward, terminated, truncated = self._step_or_restart(actions, self._ended)
        else:
            raise ResetNeeded(
                f"dreams {self._ended.nonzero().flatten().tolist()} have ended; without autoreset they wait for "
                f'reset(options={{"reset_mask": mask}})'
            )
        ended = terminated | truncated
        self._ended = ended if bool(ended.any()) else None
        infos: dict[str, Any] = {}
        if self._ended is not None and self.autoreset_mode is AutoresetMode.SAME_STEP:
            infos = self._final_infos(ended)
            self.dreams.restart(self.dreams.everyone[ended])
            self._ended = None
        self.last_rewards = reward
        flags = self._border(terminated), self._border(truncated)
        return self._observation(), self._border(reward.double()), *flags, infos

    def _step_or_restart(self, actions: Any, ended: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        live, over = self.dreams.everyone[~ended], self.dreams.everyone[ended]
        reward = torch.zeros(self.num_envs, device=ended.device)
        terminated, truncated = torch.zeros_like(ended), torch.zeros_like(ended)
        self.dreams.restart(over)
        if len(live):
            reward[live], terminated[live], truncated[live] = self.dreams.step(self._action(actions, live), live)
        return reward, terminated, truncated

    def _final_infos(self, ended: Tensor) -> dict[str, Any]:
        # As Gymnasium's own vector environments give them: an array of arrays, None where the dream goes on.
        mask = self._border(ended)
        final_obs = self.dreams.latent.feat
        if self.output == "torch":
            return {"final_obs": final_obs, "_final_obs": mask, "final_info": {}, "_final_info": mask.clone()}
        array = np.full(self.num_envs, None, dtype=object)
        array[mask] = np.fromiter(final_obs.cpu().numpy()[mask], dtype=object)
        return {"final_obs": array, "_final_obs": mask, "final_info": {}, "_final_info": mask.copy()}

    def _observation(self) -> Any:
        return self._border(self.dreams.latent.feat)

    def _border(self, tensor: Tensor) -> Any:
        return tensor if self.output == "torch" else tensor.cpu().numpy()

    def _action(self, actions: Any, live: Tensor | None) -> Tensor:
        array = actions.detach().cpu().numpy() if isinstance(actions, Tensor) else np.asarray(actions)
        expected = (self.num_envs, *(self.single_action_space.shape or ()))
        if array.shape != expected:
            raise SpaceError(
                f"actions of shape {array.shape} came; expected {expected}, one {self.single_action_space} a dream"
            )
        if live is not None:  # what the others are told to do is ignored, so it may be anything
            array = array[live.cpu().numpy()]
        self.world_model.action_spec.validate(array)
        return torch.as_tensor(array, dtype=self._action_dtype, device=self.device)

    # ---------------------------------------------------------------------------------------------- everything else

    @property
    def reward_metrics(self) -> dict[str, float]:
        """What the reward's ``update`` last reported; empty for a reward that does not learn."""
        return self.dreams.reward_metrics

    def render(self) -> tuple[np.ndarray, ...] | None:
        """One decoded RGB picture a dream, each pixel ``render_scale`` wide."""
        if self.render_mode is None:
            gymnasium.logger.warn(
                'render() does nothing without a render mode; make the dream with render_mode="rgb_array"'
            )
            return None
        frames = self.world_model.render(self.dreams.latent)
        return tuple(frames.repeat(self.render_scale, axis=1).repeat(self.render_scale, axis=2))

    def state_dict(self) -> dict[str, Tensor]:
        """All that a resumed run needs to go on as if it had not stopped, the reward's learning included."""
        ended = torch.zeros(self.num_envs, dtype=torch.bool) if self._ended is None else self._ended.clone()
        return {"ended": ended, "seeded": torch.tensor(self._seeded), **self.dreams.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where ``state_dict`` was taken, in an environment made with the same options."""
        self.dreams.load_state_dict(state)
        ended = state["ended"].to(self.device)
        self._ended = ended if bool(ended.any()) else None
        self._seeded = bool(state["seeded"])


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    for each in AutoresetMode:
        if mode in (each, each.name, each.value):
            return each
    names = [each.name for each in AutoresetMode]
    raise ConfigError(f"autoreset_mode must be one of {', '.join(names)}, not {mode!r}.{nearest(str(mode), names)}")


def _check_options(
    num_envs: int, horizon: int, render_mode: str | None, render_scale: int, output: str, precision: str
) -> None:
    for name, value in (("num_envs", num_envs), ("horizon", horizon), ("render_scale", render_scale)):
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    if render_mode not in (None, "rgb_array"):
        raise ConfigError(f'render_mode must be "rgb_array" or None, not {render_mode!r}')
    if output not in ("numpy", "torch"):
        raise ConfigError(f'output must be "numpy" or "torch", not {output!r}')
    if precision not in get_args(Precision):
        raise ConfigError(f"precision must be one of {', '.join(get_args(Precision))}, not {precision!r}")
