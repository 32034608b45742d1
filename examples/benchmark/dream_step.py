"""What a step of 512 dreams costs beyond the world model's own step: ``python examples/benchmark/dream_step.py``.

Both are measured in turns, in CPU seconds of one thread, so that a busy neighbour hits both alike. The bare step is
``world_model.imagine_step`` with noise and actions at hand; the dream's adds noise, expert, reward, checks and resets.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from speed_rows import SpeedRow, append

from dream_env.dream.env import DreamEnv
from dream_env.model.world_model import WorldModelConfig
from dream_env.testing import tiny_expert, tiny_world_model


def main() -> None:
    """Print milliseconds a step and the overhead, and with ``--out`` append latent steps a CPU second."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-envs", type=int, default=512)
    parser.add_argument("--preset", choices=["small", "paper"], default="small")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, help="result file to append to; its ratio is to the bare step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = WorldModelConfig.small() if arguments.preset == "small" else WorldModelConfig.paper()
    config = WorldModelConfig(rssm=config.rssm)  # pictures are not needed: plain networks
    world_model = tiny_world_model(config=config)
    expert = tiny_expert(world_model, episodes=20, steps=1000)
    envs = DreamEnv(arguments.num_envs, wm=world_model, expert=expert)
    envs.reset(seed=0)
    steps = 4 * envs.horizon
    actions = np.random.default_rng(0).integers(3, size=(steps, arguments.num_envs))
    noise = torch.rand(steps, arguments.num_envs, world_model.noise_size)

    @torch.no_grad()
    def bare() -> None:
        latent = expert.latents(torch.arange(arguments.num_envs))
        for action, uniform in zip(actions, noise, strict=True):
            latent = world_model.imagine_step(latent, torch.as_tensor(action), uniform)

    def dream() -> None:
        for action in actions:
            envs.step(action)

    seconds: dict[str, list[float]] = {"bare": [], "dream": []}
    for _ in range(arguments.rounds):
        for name, function in (("bare", bare), ("dream", dream)):
            start = time.process_time()
            function()
            seconds[name].append((time.process_time() - start) / steps)
    plain, whole = (statistics.median(seconds[name][1:]) for name in ("bare", "dream"))
    ratios = [d / b for b, d in zip(seconds["bare"][1:], seconds["dream"][1:], strict=True)]
    print(f"imagine_step {1e3 * plain:.2f} ms, DreamEnv.step {1e3 * whole:.2f} ms, {arguments.num_envs} dreams")
    print(f"overhead {100 * (statistics.median(ratios) - 1):.1f} % (median of {len(ratios)} rounds)")
    loop, size = "dream step (latent steps)", f"{arguments.preset} preset's RSSM, {arguments.num_envs} dreams"
    rows = [
        SpeedRow(loop, size, "bare imagine_step", arguments.num_envs / plain, 1.0),
        SpeedRow(loop, size, "DreamEnv.step + reward", arguments.num_envs / whole, 1 / statistics.median(ratios)),
    ]
    append(rows, arguments.out)


if __name__ == "__main__":
    main()
