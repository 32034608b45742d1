"""How much memory a fit takes, and whether files slow it: ``python examples/benchmark/memory.py [--out speed.csv]``.

First all of ``dream-env fit`` from nothing, conversion and encoding included, in a cache and a run folder of its own. The peak of
the resident set comes from the kernel. Part of it are pages of mapped files, which the system takes back whenever
somebody else needs them; the anonymous part, read 20 times a second, is what the fit cannot do without. Then training alone, with
batches from the converted files and, beside it, from the same arrays read into memory before. The system's disk cache holds the
files as long as there is room for them, beside those arrays.

The recordings are made for the occasion, or are a Minari dataset that is named. A thousand Atari episodes are
``--episodes 1000 --folder /somewhere/with/10/GB``: 2 million frames, 8.2 GB converted.
"""

import argparse
import os
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
from contest import Entry, Settings, contest, parse, start
from contestant import System, memory_mib
from speed_rows import SpeedRow, append, machine
from synthetic import record
from work import SIDE
from world_model_step import fitting, small_sizes

from dream_env.device import fast_precision
from dream_env.fitting.fit import FitConfig
from dream_env.recordings.cache import cache_root, converted
from dream_env.recordings.datasets import find_dataset
from dream_env.recordings.demos import Demos
from dream_env.spaces import ObservationConfig
from dream_env.stages import FitStage, fit_stage


class PeakAnonymous(threading.Thread):
    """The largest ``RssAnon`` seen while running, in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mib = 0.0
        self._stop_asked = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stop_asked.wait(0.05):
            self.mib = max(self.mib, memory_mib("RssAnon"))

    def finish(self) -> float:
        """Stop, and return the peak."""
        self._stop_asked.set()
        self.join()
        return self.mib


def whole_fit(device: str, precision: str, dataset: str, side: int, quick: bool, updates: int, folder: str) -> System:
    """``dream-env fit``, once."""
    config, train = small_sizes(precision, quick)
    observation = replace(ObservationConfig.small(), size=side)
    train = replace(train, updates=updates, log_every=FitConfig.log_every)
    stage = FitStage(
        dataset, Path(folder), "small", config, train, observation, device=device, precision=config.precision
    )
    peak = PeakAnonymous()
    frames = train.updates * train.batch * train.length
    return System(
        lambda: fit_stage(stage, progress=False), frames,
        extra=lambda: {"anonymous_mib": peak.finish()}, warm_up=False,
    )  # fmt: skip


def training(device: str, precision: str, dataset: str, side: int, quick: bool, ram: bool) -> System:
    """``fit`` alone, from files or from memory."""
    observation = replace(ObservationConfig.small(), size=side)
    demos = Demos.load(dataset, observation)
    if ram:
        data = converted(find_dataset(dataset), observation, cache_root())
        data = replace(data, obs={name: np.array(x) for name, x in data.obs.items()}, bulk=None)
        demos = Demos(demos.source, observation, data)
    return fitting(*small_sizes(precision, quick), demos, device)


def fit_once(loop: str, size: str, entry: Entry, settings: Settings) -> list[SpeedRow]:
    """One row with rates and the whole peak, one with the anonymous part of it."""
    process = start(entry, settings)
    process.ready()
    cpu, wall = process.run(1)[""]
    facts = process.facts()
    process.close()
    row = SpeedRow(
        loop, size, entry.precision, entry.system, facts["units"] / cpu, facts["units"] / wall,
        peak_rss_mib=facts["peak_rss_mib"], peak_gpu_mib=facts.get("peak_gpu_mib"), machine=machine(settings.device),
        threads=settings.threads,
    )  # fmt: skip
    name = f"{entry.system}, anonymous memory"
    rest = {"units_per_cpu_second": None, "units_per_wall_second": None, "peak_gpu_mib": None}
    return [row, replace(row, system=name, peak_rss_mib=facts["anonymous_mib"], **rest)]  # type: ignore[arg-type]


def forget(folder: Path) -> None:
    """Tell the system that the recordings are read no more: their pages would push the converted ones out of its cache."""
    for path in folder.rglob("*.hdf5"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    """Print, and with ``--out`` append, peaks and frames a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", nargs="?", help="Minari id; recordings are made unless given")
    parser.add_argument("--episodes", type=int, default=50, help="of the recordings that are made")
    parser.add_argument("--steps", type=int, default=2000, help="of each of them")
    parser.add_argument("--updates", type=int, default=200, help="of the fit from nothing")
    parser.add_argument("--size", type=int, default=SIDE, help="side of the pictures")
    parser.add_argument("--folder", type=Path, help="where temporary files go; they take what the frames take")
    arguments, settings = parse(parser)
    if settings.quick:
        arguments.episodes, arguments.steps, arguments.updates, arguments.size = 4, 60, 2, 16
    precision = fast_precision(settings.device)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as root:
        os.environ["DREAM_ENV_CACHE"] = f"{root}/cache"  # a fresh one: converting counts too
        dataset = arguments.dataset or str(record(Path(root), SIDE, arguments.episodes, arguments.steps))
        frames = find_dataset(dataset).num_steps
        size = f"{frames:,} frames of {arguments.size} × {arguments.size}"
        options = {"dataset": dataset, "side": arguments.size, "quick": settings.quick}
        whole = {**options, "updates": arguments.updates, "folder": f"{root}/wm"}
        entry = Entry("dream-env fit, from conversion to encoding", "memory:whole_fit", whole, precision)
        append(fit_once("fit from nothing (frames)", size, entry, settings), settings.out)
        forget(find_dataset(dataset).folder)
        entries = [
            Entry("from files", "memory:training", {**options, "ram": False}, precision),
            Entry("from memory", "memory:training", {**options, "ram": True}, precision, yardstick=True),
        ]
        append(contest("fit from files or memory (frames)", size, entries, settings), settings.out)


if __name__ == "__main__":
    main()
