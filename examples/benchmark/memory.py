"""How much memory a fit takes: ``python examples/benchmark/memory.py [pong/scripted-v0] [--size 64] [--out speed.csv]``.

All of ``dream-env fit`` from nothing, conversion and encoding of the demonstrations included, in a cache and a run folder of
its own. The peak of the resident set comes from the kernel. Part of it are pages of mapped files, which the system
takes back whenever somebody else needs them; the anonymous part, read 20 times a second, is what the fit cannot do without.
"""

import argparse
import os
import resource
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import torch
from speed_rows import SpeedRow, append


def status_kib(name: str) -> int:
    """An entry of this process's /proc/self/status, which Linux gives in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {name}; this needs Linux")


class PeakAnonymous(threading.Thread):
    """The largest ``RssAnon`` seen while running, in KiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.kib = 0
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(0.05):
            self.kib = max(self.kib, status_kib("RssAnon"))

    def finish(self) -> int:
        """Stop, and return the peak."""
        self._stop_asked.set()
        self.join()
        return self.kib


def main() -> None:
    """Fit, print the peaks, and with ``--out`` append them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", nargs="?", default="pong/scripted-v0", help="Minari id")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--size", type=int, help="side of the pictures; the preset's unless given")
    parser.add_argument("--out", type=Path, help="result file to append to")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DREAM_ENV_CACHE"] = f"{folder}/cache"  # a fresh one: converting counts too
        from dream_env.recordings.demos import Demos
        from dream_env.stages import FitStage, fit_stage

        peak = PeakAnonymous()
        peak.start()
        stage = FitStage.of("small", arguments.dataset, Path(folder) / "wm")
        train = replace(stage.train, updates=arguments.updates)
        observation = replace(stage.observation, size=arguments.size or stage.observation.size)
        fit_stage(replace(stage, train=train, observation=observation))
        anonymous = peak.finish() / 1024
        everything = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        high_water = status_kib("VmHWM") / 1024
        assert abs(everything - high_water) < 1 + 0.01 * high_water, "the kernel's two peaks should be one number"
        frames = Demos.load(arguments.dataset, observation).num_steps
    loop = f"fit {frames:,} frames, peak RSS (MiB)"
    size = f"small preset, pictures {observation.size} × {observation.size}"
    append(
        [
            SpeedRow(loop, size, "dream-env, all", everything),
            SpeedRow(loop, size, "dream-env, anonymous part", anonymous),
        ],
        arguments.out,
    )


if __name__ == "__main__":
    main()
