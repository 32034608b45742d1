"""Real Minari datasets that cost no time: the ring of squares as pictures, and CartPole balanced by a rule."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer
from recordings import record

from dream_env.fitting.fit import FitConfig
from dream_env.model.rssm import RSSMConfig
from dream_env.model.world_model import WorldModelConfig
from dream_env.spaces import ObservationConfig
from dream_env.stages import FitStage, fit_stage
from dream_env.tiny import SIZE, tiny_demos

SQUARES = spaces.Box(0, 255, (SIZE, SIZE), np.uint8)
MOVES = spaces.Discrete(3)


def use(patch, root):
    """Datasets and their conversions lie under ``root``, and nowhere else."""
    patch.setenv("MINARI_DATASETS_PATH", str(root / "minari"))
    patch.setenv("DREAM_ENV_CACHE", str(root / "cache"))


def fit_squares(root):
    """The squares and, in ``root/wm``, a world model fitted to them; gives ``root``."""
    with pytest.MonkeyPatch.context() as patch:
        use(patch, root)
        fit_stage(tiny_fit(record_squares(), root / "wm"), progress=False)
    return root


def record_squares(name="squares/right-v0", episodes=4, steps=20, seed=0):
    """``tiny_demos`` as a dataset without an environment."""
    demos = tiny_demos(episodes, steps, seed=seed)
    played = []
    for index in range(episodes):
        episode = demos.episode(index)
        truncations = [False] * (steps - 1) + [True]
        played.append(
            EpisodeBuffer(
                observations=np.asarray(episode.obs["image"][..., 0]), actions=np.asarray(episode.action_t),
                rewards=(episode.action_t == 2).astype(float).tolist(), terminations=[False] * steps,
                truncations=truncations,
            )
        )  # fmt: skip
    record(name, played, SQUARES, MOVES)
    return name


def record_cartpole(name="cart/rule-v0", episodes=5, steps=40):
    """CartPole, cut off after ``steps``, by pushing to where the pole falls."""
    env = gymnasium.make("CartPole-v1", max_episode_steps=steps)
    played = []
    for seed in range(episodes):
        observations, actions, over = [env.reset(seed=seed)[0]], [], False
        while not over:
            actions.append(int(observations[-1][2] + 0.5 * observations[-1][3] > 0))
            observation, _, terminated, truncated, _ = env.step(actions[-1])
            observations.append(observation)
            over = terminated or truncated
        flags = [False] * (len(actions) - 1)
        played.append(
            EpisodeBuffer(
                observations=np.stack(observations), actions=np.array(actions), rewards=[1.0] * len(actions),
                terminations=[*flags, terminated], truncations=[*flags, truncated],
            )
        )  # fmt: skip
    record(name, played, env.observation_space, env.action_space, env=env, algorithm_name="rule")
    env.close()
    return name


def tiny_fit(dataset, out, **changes):
    """A ``FitStage`` of six updates."""
    options = {
        "model": WorldModelConfig(rssm=RSSMConfig(deter=16, groups=2, classes=4, hidden=16), width=16, layers=1),
        "train": FitConfig(updates=6, batch=4, length=6, log_every=2, test_every=4, warmup=1),
        "observation": ObservationConfig(size=SIZE),
        "held_out": 1,
    }
    return FitStage(dataset, out, **{**options, **changes})
