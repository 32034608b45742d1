"""One system of a contest, in a process of its own: told over a pipe how many steps to do, it reports what they took.

A process for each, because only then is the peak of its memory its own. It is started by ``contest.py``:
``python contestant.py '{"factory": "module:function", "options": {...}, "device": "cpu", "threads": 1}'``.
"""

import importlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Seconds = list[float]
"""CPU seconds of the whole process, wall seconds."""


@dataclass
class System:
    """What a factory makes."""

    step: Callable[[], object]
    """A piece of the work."""
    units: float
    """How many units that piece is."""
    parts: dict[str, Seconds] = field(default_factory=dict)
    """Seconds spent so far in each part of the steps, for systems that measure their parts with ``part``."""
    extra: Callable[[], dict[str, float]] = dict
    """Further facts that are known at the end."""
    count: tuple[Callable[[], object], float] | None = None
    """Where the FLOP of ``step`` cannot be counted (a recorded one's are not seen): one of which they can, and its units."""
    warm_up: bool = True
    """Do one step before any is timed. False for work that is done once."""


class part:
    """``with part(system.parts, "name"):`` adds what the block takes."""

    def __init__(self, parts: dict[str, Seconds], name: str) -> None:
        self.seconds = parts.setdefault(name, [0.0, 0.0])

    def __enter__(self) -> None:
        self.start = time.process_time(), time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds[0] += time.process_time() - self.start[0]
        self.seconds[1] += time.perf_counter() - self.start[1]


def memory_mib(name: str) -> float:
    """An entry of this process's /proc/self/status, such as ``VmHWM``, the peak of its resident set."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    if name != "VmHWM":
        raise RuntimeError(f"/proc/self/status has no {name}; this needs Linux")
    # Elsewhere the next best; on Linux it would start at what the parent held when it started this process.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def count_flop(function: Callable[[], object]) -> int:
    """Additions and multiplications in the matrix products and convolutions of a call, those of gradients included."""
    with FlopCounterMode(display=False, custom_mapping=_NOT_KNOWN_TO_TORCH) as counter:
        function()
    return int(counter.get_total_flops())


def _linear_flop(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * int(weight[0])


# oneDNN's linear layer, which dream-env calls by itself where it is the faster one.
_NOT_KNOWN_TO_TORCH = (
    {torch.ops.mkldnn._linear_pointwise: _linear_flop} if hasattr(torch.ops.mkldnn, "_linear_pointwise") else {}
)


class Contestant:
    """A system that is ready to be timed."""

    def __init__(self, factory: str, options: dict[str, Any], device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        module, _, name = factory.partition(":")
        self.cuda = device.startswith("cuda")
        self.system: System = getattr(importlib.import_module(module), name)(device=device, **options)
        self.mflop = 0.0
        if self.system.warm_up:
            function, units = self.system.count or (self.system.step, self.system.units)
            self.mflop = count_flop(function) / units / 1e6
            if self.system.count:
                self.system.step()

    def run(self, steps: int) -> dict[str, Seconds]:
        """Do so many steps; the seconds of all (under "") and of each part."""
        parts = self.system.parts
        before = {name: list(seconds) for name, seconds in parts.items()}
        whole: dict[str, Seconds] = {}
        self._synchronize()
        with part(whole, ""):
            for _ in range(steps):
                self.system.step()
            self._synchronize()
        for name, seconds in parts.items():
            whole[name] = [now - then for now, then in zip(seconds, before.get(name, (0.0, 0.0)), strict=True)]
        return whole

    def facts(self) -> dict[str, float]:
        """What is known of the system beside its seconds."""
        facts = {
            "units": self.system.units,
            "mflop_per_unit": self.mflop,
            "peak_rss_mib": memory_mib("VmHWM"),
        }
        if self.cuda:
            facts["peak_gpu_mib"] = torch.cuda.max_memory_reserved() / 2**20
        return {**facts, **self.system.extra()}

    def _synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def main() -> None:
    """Answer each line of the input, a number of steps, with their seconds; the line 0 with the facts."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    try:
        contestant = Contestant(**json.loads(sys.argv[1]))
    except ImportError as error:
        print(json.dumps({"missing": f"{type(error).__name__}: {error}"}), file=answers)
        return
    print(json.dumps({"missing": ""}), file=answers)
    for line in sys.stdin:
        print(json.dumps(contestant.run(int(line)) if int(line) else contestant.facts()), file=answers)


if __name__ == "__main__":
    main()
