"""What learning in the dream costs beyond the learner itself: ``python examples/benchmark/learn_in_dream.py [--out speed.csv]``.

Stable-Baselines3's PPO, 512 environments, 15 steps, two layers of 64 for actor and critic; once with few large batches (2560, 4
epochs) and once with SB3's own (64, 10 epochs), whose training takes most of the time. The unit is an environment's step. It
learns in a dream of size S through ``as_sb3``, and for its own ceiling in a ``VecEnv`` that does nothing but hand back the same
arrays: one whose episodes are cut off at step 15 as a ``TimeLimit`` cuts them, to which the ratios are, and one whose episodes
never end. SB3 asks for the value of each last observation by itself, which the second does not pay; nor does the dream with
``BootstrapTogether``.
"""

import argparse
from typing import Any

import numpy as np
from contest import Entry, contest, parse
from contestant import System, part
from dream_step import dream_model
from gymnasium import spaces
from speed_rows import append
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from synthetic import encoded
from work import ACTIONS, HORIZON, SIZES, Size
from world_model_step import PRECISIONS

from dream_env import BootstrapTogether, DreamEnv, as_sb3


class Trivial(VecEnv):
    """Constant observations and rewards; episodes of HORIZON steps if they ``end``."""

    def __init__(self, num_envs: int, obs_size: int, end: bool) -> None:
        super().__init__(num_envs, spaces.Box(-np.inf, np.inf, (obs_size,), np.float32), spaces.Discrete(ACTIONS))
        rng = np.random.default_rng(0)
        self.observations = rng.normal(size=(num_envs, obs_size)).astype(np.float32)
        self.rewards = np.zeros(num_envs, np.float32)
        self.end = end
        self.step_t = 0

    def reset(self) -> np.ndarray:
        return self.observations

    def step_async(self, actions: np.ndarray) -> None:
        self.step_t += 1

    def step_wait(self) -> Any:
        over = self.end and self.step_t % HORIZON == 0
        infos = [{"terminal_observation": x, "TimeLimit.truncated": True} if over else {} for x in self.observations]
        return self.observations, self.rewards, np.full(self.num_envs, over), infos

    def close(self) -> None:
        """There is nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


BATCHES = {"": (2560, 4), ", SB3's own batches": (64, 10)}
"""Size and epochs of PPO's batches, by what is added to the size in the rows."""


def learner(venv: VecEnv, device: str, batches: tuple[int, int], together: bool = False) -> System:
    """PPO, one round of collecting and training a step, both timed."""
    parts: dict[str, list[float]] = {}

    class Timed(PPO):
        def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
            with part(parts, "collect"):
                return super().collect_rollouts(*args, **kwargs)

        def train(self) -> None:
            with part(parts, "train"):
                super().train()

    steps = HORIZON * venv.num_envs
    batch, epochs = batches
    model = Timed(
        "MlpPolicy", venv, n_steps=HORIZON, batch_size=min(batch, steps), n_epochs=epochs, device=device,
        policy_kwargs={"net_arch": [64, 64]},
    )  # fmt: skip
    model.set_logger(Logger(None, []))
    callback = BootstrapTogether() if together else None
    return System(lambda: model.learn(steps, callback=callback, reset_num_timesteps=False), steps, parts)


def in_dream(
    device: str, precision: str, size: dict[str, Any], batches: tuple[int, int], together: bool = False
) -> System:
    """In ``DreamEnv`` with the DITTO reward."""
    s = Size(**size)
    expert = encoded(s.deter, s.groups, s.classes, rows=20_000).to(device)
    envs = DreamEnv(s.dreams, wm=dream_model(s, device), expert=expert, horizon=HORIZON, precision=precision)  # type: ignore[arg-type]
    return learner(as_sb3(envs), device, batches, together)


def ceiling(device: str, precision: str, size: dict[str, Any], batches: tuple[int, int], end: bool) -> System:
    """In nothing."""
    s = Size(**size)
    return learner(Trivial(s.dreams, s.deter + s.stoch, end), device, batches)


def main() -> None:
    """Print, and with ``--out`` append, steps a second."""
    _, settings = parse(argparse.ArgumentParser(description=__doc__))
    size = SIZES["tiny" if settings.quick else "S"]
    for more, batches in BATCHES.items():
        options = {"size": size.json(), "batches": batches}
        dream, nothing = "PPO.learn in DreamEnv", "PPO.learn, constant arrays"
        end = {**options, "end": True}
        entries = [
            *(Entry(dream, "learn_in_dream:in_dream", options, p) for p in PRECISIONS),
            *(
                Entry(f"{dream}, bootstrapped together", "learn_in_dream:in_dream", {**options, "together": True}, p)
                for p in PRECISIONS
            ),
            Entry(f"{nothing}, cut off at 15", "learn_in_dream:ceiling", end, yardstick=True),
            Entry(f"{nothing}, no ends", "learn_in_dream:ceiling", {**options, "end": False}),
        ]
        label = f"{size.name}, {size.dreams} dreams{more}"
        append(contest("PPO (environment steps)", label, entries, settings), settings.out)


if __name__ == "__main__":
    main()
