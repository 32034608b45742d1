"""How fast a world model learns, beside its peers: ``python examples/benchmark/world_model_step.py [--out speed.csv]``.

One step is encode, observe, decode, KL, squared error, backward, clip and Adam; its unit is a frame. Size S: gray pictures of
64 × 64, DreamerV2's convolutions at depth 16, deter 256, 16 × 16 categoricals, hidden 256, 6 actions, 16 sequences of 32. Size
P is the papers': depth 48, deter 1024, 32 × 32, hidden 1000, 50 sequences, of which 10 frames are run instead of 50
(``--time 50`` for all): a frame costs the same. Only dream-env has the small preset's plain networks.

What differs between the systems:

- dream-env's is ``fit`` itself: it also draws its batches (from memory), looks whether all is finite, and computes metrics.
- TorchRL's is ``ObsEncoder``, ``RSSMRolloutV3`` and ``ObsDecoder``, with our KL and squared error. It has no LayerNorm, ReLU in
  the convolutions and SiLU elsewhere, which are cheaper than ELU; ``--activation silu`` gives the others SiLU too.
- sheeprl's is its DreamerV2's ``world_model_loss``, which also has a reward: one linear layer here.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from contest import Entry, contest, parse
from contestant import System
from peers import SHEEPRL, TORCHRL
from speed_rows import append
from synthetic import in_memory, world_model
from work import SIDE, SIZES, Size

from dream_env.fitting.fit import FitConfig, fit
from dream_env.model.rssm import RSSMConfig
from dream_env.model.world_model import WorldModelConfig
from dream_env.recordings.demos import Demos
from dream_env.spaces import ObservationConfig

PRECISIONS = ("float32", "bfloat16")


def config_of(size: Size, precision: str) -> WorldModelConfig:
    """A size as dream-env writes it."""
    rssm = RSSMConfig("categorical", size.deter, size.groups, size.classes, size.hidden, activation=size.activation)  # type: ignore[arg-type]
    return WorldModelConfig(rssm=rssm, image_net="cnn", depth=size.depth, precision=precision)  # type: ignore[arg-type]


def fitting(config: WorldModelConfig, train: FitConfig, demos: Demos, device: str) -> System:
    """``fit``, some updates a step."""
    model = world_model(config, demos).to(device)
    rows = fit(model, demos, train)

    def count() -> None:
        batch = demos.sample(train.batch, train.length, np.random.default_rng(0)).to(device)
        noise = model.draw_noise(train.length, train.batch, torch.Generator(device))
        model.loss(batch, noise).total.backward()

    frames = train.batch * train.length
    return System(lambda: next(rows), train.log_every * frames, count=(count, frames))


def ours(device: str, precision: str, size: dict[str, Any]) -> System:
    """dream-env at a given size."""
    s = Size(**size)
    demos = in_memory(SIDE, 4, max(100, s.time), ObservationConfig())
    updates = 4 if s.name == "S" else 1  # a row of metrics is made after each so many
    return fitting(config_of(s, precision), FitConfig(10**9, s.batch, s.time, log_every=updates), demos, device)


def small_sizes(precision: str, quick: bool) -> tuple[WorldModelConfig, FitConfig]:
    """dream-env's own small preset; less than that for a quick look."""
    config, train = WorldModelConfig.small(), replace(FitConfig.small(), updates=10**9, log_every=10)
    if quick:
        config = replace(config, rssm=RSSMConfig(deter=16, groups=2, classes=4, hidden=16), width=16)
        train = replace(train, batch=4, length=8, log_every=1)
    return replace(config, precision=precision), train  # type: ignore[arg-type]


def small_preset(device: str, precision: str, quick: bool) -> System:
    """The small preset on its own pictures of 32 × 32."""
    observation = ObservationConfig.small()
    config, train = small_sizes(precision, quick)
    return fitting(config, train, in_memory(observation.size, 4, 100, observation), device)


def entries(size: Size) -> list[Entry]:
    """Who runs at a size."""
    options = {"size": size.json()}
    mine = [Entry("dream-env", "world_model_step:ours", options, p) for p in PRECISIONS]
    return [
        *mine,
        Entry("TorchRL 0.14", "peers:torchrl_world_model", options, yardstick=True, install=TORCHRL),
        Entry("TorchRL 0.14", "peers:torchrl_world_model", options, "bfloat16", install=TORCHRL),
        Entry("sheeprl 0.8 DreamerV2", "peers:sheeprl_world_model", options, yardstick=True, install=SHEEPRL),
    ]


def chosen_sizes(arguments: argparse.Namespace, quick: bool) -> Iterator[Size]:
    """The sizes asked for, with what else was asked of them."""
    for name in ["tiny"] if quick else arguments.sizes:
        size = SIZES[name]
        yield replace(size, activation=arguments.activation or size.activation)


def main() -> None:
    """Print, and with ``--out`` append, frames a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=[*SIZES, "small"], default=["S", "P", "small"])
    parser.add_argument("--activation", choices=["elu", "silu"], help="the papers' elu unless given")
    parser.add_argument("--time", type=int, help="frames in a sequence; the size's unless given")
    arguments, settings = parse(parser)
    loop = "world-model step (frames)"
    if "small" in arguments.sizes:
        quick = {"quick": settings.quick}
        mine = [Entry("dream-env", "world_model_step:small_preset", quick, p) for p in PRECISIONS]
        append(contest(loop, "small preset, 32 × 32, silu", mine, settings), settings.out)
        arguments.sizes.remove("small")
    for size in chosen_sizes(arguments, settings.quick):
        size = replace(size, time=arguments.time or size.time)
        label = f"{size.name}, {size.batch} × {size.time}, {size.activation}"
        append(contest(loop, label, entries(size), settings), settings.out)


if __name__ == "__main__":
    main()
