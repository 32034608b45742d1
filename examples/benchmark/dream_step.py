"""How fast a world model dreams, beside its peers: ``python examples/benchmark/dream_step.py [--out speed.csv]``.

The unit is a latent step: one dream, one step. Each turn is a whole dream of 15 steps, actions at hand, 512 dreams side by side
at size S and 2500 at P (sizes as in ``world_model_step.py``; ``--num-envs`` for others). What differs between the systems:

- dream-env's bare step is ``imagine_step`` of its RSSM, noise drawn. ``DreamEnv.step`` adds what an environment owes: the DITTO
  reward against the expert's states, checks, infos, final observations, the reset of all dreams at the horizon, a random
  stream for each dream of its own.
- TorchRL's bare prior is ``RSSMPriorV3`` in a loop: no reward, no environment, no LayerNorm. Its ``ModelBasedEnvBase.rollout``
  is that in its environment, with a reward of zero and neither expert nor horizon.
"""

import argparse
from dataclasses import replace
from typing import Any

import torch
from contest import Entry, contest, parse
from contestant import System
from peers import TORCHRL
from speed_rows import append
from synthetic import encoded, in_memory, world_model
from work import ACTIONS, HORIZON, SIZES, Size
from world_model_step import PRECISIONS, chosen_sizes, config_of

from dream_env.dream.env import DreamEnv
from dream_env.model.world_model import WorldModel
from dream_env.spaces import ObservationConfig


def dream_model(size: Size, device: str) -> WorldModel:
    """A world model of a size without its convolutions: nobody looks at pictures here."""
    config = replace(config_of(size, "float32"), image_net="mlp", width=16)
    return world_model(config, in_memory(16, 1, 1, ObservationConfig(size=8))).to(device).eval()


def bare(device: str, precision: str, size: dict[str, Any]) -> System:
    """``imagine_step`` of the world model's RSSM in a loop."""
    s = Size(**size)
    model = dream_model(s, device)
    rssm = model.rssm if precision == "float32" else model.rssm.in_half_precision()
    actions = model.action_spec.encode(torch.randint(ACTIONS, (HORIZON, s.dreams), device=device))
    generator = torch.Generator(device).manual_seed(0)
    start = model.initial(s.dreams)

    @torch.no_grad()
    def dream() -> None:
        latent = start
        for action in actions:
            noise = torch.rand(s.dreams, model.noise_size, generator=generator, device=device)
            latent = rssm.imagine_step(latent, action, noise)

    return System(dream, s.dreams * HORIZON)


def environment(device: str, precision: str, size: dict[str, Any], output: str) -> System:
    """``DreamEnv.step`` with the DITTO reward, from reset to reset."""
    s = Size(**size)
    expert = encoded(s.deter, s.groups, s.classes, rows=20_000).to(device)
    envs = DreamEnv(
        s.dreams,
        wm=dream_model(s, device),
        expert=expert,
        horizon=HORIZON,
        output=output,
        precision=precision,  # type: ignore[arg-type]
    )
    envs.reset(seed=0)
    chosen = torch.randint(ACTIONS, (HORIZON, s.dreams), device=device)
    actions = list(chosen) if output == "torch" else list(chosen.cpu().numpy())

    def dream() -> None:
        for action in actions:
            envs.step(action)

    return System(dream, s.dreams * HORIZON)


def entries(size: Size) -> list[Entry]:
    """Who runs at a size."""
    options = {"size": size.json()}
    return [
        *(Entry("imagine_step, bare", "dream_step:bare", options, p) for p in PRECISIONS),
        *(
            Entry(f"DreamEnv.step + reward, {output}", "dream_step:environment", {**options, "output": output}, p)
            for p in PRECISIONS
            for output in ("numpy", "torch")
        ),
        Entry("TorchRL 0.14 prior, bare", "peers:torchrl_prior", options, yardstick=True, install=TORCHRL),
        Entry("TorchRL 0.14 prior, bare", "peers:torchrl_prior", options, "bfloat16", install=TORCHRL),
        Entry("TorchRL 0.14 ModelBasedEnv", "peers:torchrl_env", options, yardstick=True, install=TORCHRL),
    ]


def main() -> None:
    """Print, and with ``--out`` append, latent steps a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["S", "P"])
    parser.add_argument("--activation", choices=["elu", "silu"], help="the papers' elu unless given")
    parser.add_argument("--num-envs", type=int, help="dreams; the size's unless given")
    arguments, settings = parse(parser)
    for size in chosen_sizes(arguments, settings.quick):
        size = replace(size, dreams=arguments.num_envs or size.dreams)
        label = f"{size.name}, {size.dreams} dreams, {size.activation}"
        append(contest("dream step (latent steps)", label, entries(size), settings), settings.out)


if __name__ == "__main__":
    main()
