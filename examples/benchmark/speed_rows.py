"""The rows of ``examples/results/speed.csv``, which the benchmarks beside this file append to with ``--out``."""

import csv
import platform
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

from dream_env.checkpoint import commit


def machine() -> str:
    """The processor's name; every benchmark here runs on one thread of it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, 1 thread"


@dataclass(frozen=True)
class SpeedRow:
    """One system's rate in one loop. A row whose loop says so holds another quantity, as MiB of memory."""

    loop: str
    """What was done, and in which units it is counted."""
    size: str
    """Sizes of the networks and the arithmetic."""
    system: str
    """Who did it."""
    units_per_cpu_second: float
    """Median over all rounds."""
    ratio_to_best_peer: float | None = None
    """Median over the rounds of this rate by the best peer's in the same round; None where no peer does the same."""
    machine: str = field(default_factory=machine)
    commit: str = field(default_factory=commit)


def append(rows: list[SpeedRow], path: Path | None) -> None:
    """Show the rows, and add them to a result file if one is given."""
    for row in rows:
        ratio = "" if row.ratio_to_best_peer is None else f"   ratio {row.ratio_to_best_peer:.2f}"
        print(f"{row.loop:40s} {row.size:36s} {row.system:28s} {row.units_per_cpu_second:>10,.0f}{ratio}")
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.is_file()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow([f.name for f in fields(SpeedRow)])
        for row in rows:
            ratio = "" if row.ratio_to_best_peer is None else f"{row.ratio_to_best_peer:.2f}"
            loop, size, system, rate, _, *origin = astuple(row)
            writer.writerow([loop, size, system, f"{rate:.1f}", ratio, *origin])
