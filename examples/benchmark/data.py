"""Whether drawing batches keeps up with training on them, and how fast demonstrations are encoded.

``python examples/benchmark/data.py [--out speed.csv]``: ``Demos.sample`` from memory maps, 32 sequences of 32 rows, beside the
rate at which the small preset's ``fit`` takes sequences in (ratios are to that: above 1, the model is what one waits for); then
``encode`` of the same recordings, in frames. The recordings are made for the occasion, in a temporary folder.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from contest import Entry, contest, parse
from contestant import System
from speed_rows import append
from synthetic import record, world_model
from work import SIDE, SIZES
from world_model_step import config_of, fitting, small_sizes

from dream_env.device import fast_precision
from dream_env.model.encoded import encode
from dream_env.recordings.demos import Demos
from dream_env.spaces import ObservationConfig


def load(folder: str, side: int) -> Demos:
    """The recordings as pictures of a side, converted beside where they lie."""
    config = replace(ObservationConfig.small(), size=side)
    return Demos.load(Path(folder), config, cache=Path(folder).parent / "cache")


def sampling(device: str, precision: str, folder: str, side: int, quick: bool) -> System:
    """``Demos.sample`` by itself."""
    _, train = small_sizes(precision, quick)
    demos, rng = load(folder, side), np.random.default_rng(0)
    return System(lambda: demos.sample(train.batch, train.length, rng), train.batch)


def training(device: str, precision: str, folder: str, side: int, quick: bool) -> System:
    """``fit`` with the small preset's networks; its unit is a sequence too."""
    config, train = small_sizes(precision, quick)
    system = fitting(config, train, load(folder, side), device)
    assert system.count is not None
    return replace(system, units=system.units / train.length, count=(system.count[0], train.batch))


def encoding(device: str, precision: str, folder: str, size: str, quick: bool) -> System:
    """``encode`` of all recordings: by the small preset, or by a size of the table."""
    small = size == "small"
    config = small_sizes(precision, quick)[0] if small else config_of(SIZES[size], precision)
    demos = load(folder, ObservationConfig.small().size if small else SIDE)
    model = world_model(config, demos).to(device).eval()
    return System(lambda: encode(model, demos), demos.num_rows)


def main() -> None:
    """Print, and with ``--out`` append, sequences and frames a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1000, help="of an episode")
    arguments, settings = parse(parser)
    if settings.quick:
        arguments.episodes, arguments.steps = 3, 40
    precision = fast_precision(settings.device)
    with tempfile.TemporaryDirectory() as root:
        folder = str(record(Path(root), SIDE, arguments.episodes, arguments.steps))
        for side in (SIDE, ObservationConfig.small().size):
            load(folder, side)  # converted once, not by every process
            options = {"folder": folder, "side": side, "quick": settings.quick}
            entries = [
                Entry("Demos.sample from memory maps", "data:sampling", options, precision),
                Entry("the small preset's fit", "data:training", options, precision, yardstick=True),
            ]
            size = f"{side} × {side} pictures"
            append(contest("draw batches (sequences)", size, entries, settings), settings.out)
        for size in ("small", "tiny" if settings.quick else "S"):
            label = "small preset, 32 × 32 pictures" if size == "small" else f"{size}, 64 × 64 pictures"
            options = {"folder": folder, "size": size, "quick": settings.quick}
            entries = [Entry("encode", "data:encoding", options)]
            append(contest("encode demonstrations (frames)", label, entries, settings), settings.out)


if __name__ == "__main__":
    main()
