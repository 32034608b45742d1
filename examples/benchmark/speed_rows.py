"""The rows of ``examples/results/speed.csv``, which the benchmarks beside this file append to with ``--out``."""

import csv
import platform
import types
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from dream_env.checkpoint import commit

KEPT = "freed memory kept"
"""Said of the machine where all systems ran with glibc's allocator set to keep what is freed."""


def machine(device: str = "cpu") -> str:
    """The name of the processor, or of the accelerator."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@dataclass(frozen=True)
class SpeedRow:
    """One system's rate in one loop; None is what was not measured or means nothing there."""

    loop: str
    """What was done, and in which units it is counted."""
    size: str
    """Sizes of the networks and of the data."""
    precision: str
    """Arithmetic of the matrix products."""
    system: str
    """Who did it."""
    units_per_cpu_second: float | None = None
    """Median over all rounds; CPU seconds of all threads together."""
    units_per_wall_second: float | None = None
    """Median over all rounds."""
    mflop_per_unit: float | None = None
    """Millions of additions and multiplications in matrix products and convolutions, as torch counts them."""
    fraction_of_gemm: float | None = None
    """Of the rate at which the same machine multiplied large matrices of that precision in the same run."""
    fraction_of_conv: float | None = None
    """Of the rate of a convolution that suits the machine: 3 × 3, 64 channels."""
    peak_rss_mib: float | None = None
    """Peak of the resident set of the system's own process."""
    peak_gpu_mib: float | None = None
    """Peak of what its process held of the accelerator's memory."""
    ratio_to_best_peer: float | None = None
    """Median over the rounds of this rate by the best float32 peer's in the same round."""
    machine: str = field(default_factory=machine)
    threads: int = 1
    commit: str = field(default_factory=commit)


NAMES = [f.name for f in fields(SpeedRow)]
_KINDS = get_type_hints(SpeedRow)


def append(rows: list[SpeedRow], path: Path | None) -> None:
    """Show the rows, and add them to a result file if one is given."""
    for row in rows:
        print(shown(row))
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.is_file()
    if not fresh and path.read_text().splitlines()[:1] != [",".join(NAMES)]:
        raise ValueError(f"{path} has other columns than these rows ({', '.join(NAMES)}): write to a new file")
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(NAMES)
        writer.writerows([_cell(getattr(row, name)) for name in NAMES] for row in rows)


def read(path: Path) -> list[SpeedRow]:
    """All rows of a result file; of a measurement that was repeated, the last, where the first stood."""
    with path.open(newline="") as file:
        rows = [SpeedRow(**{name: _value(name, line.get(name, "")) for name in NAMES}) for line in csv.DictReader(file)]
    return list({(r.loop, r.size, r.precision, r.system, r.machine, r.threads): r for r in rows}.values())


def shown(row: SpeedRow) -> str:
    """A line for the terminal."""
    cpu = row.units_per_cpu_second
    rates = f"{_number(cpu)}/CPU s {_number(row.units_per_wall_second)}/s"
    fractions = f"GEMM {_percent(row.fraction_of_gemm)} conv {_percent(row.fraction_of_conv)}"
    ratio = "" if row.ratio_to_best_peer is None else f"ratio {row.ratio_to_best_peer:.2f}"
    what = f"{row.loop} | {row.size} | {row.precision} | {row.system}"
    return f"{what}\n    {rates}  {fractions}  {_number(row.peak_rss_mib)} MiB  {ratio}"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return "" if value is None else str(value)


def _value(name: str, text: str) -> Any:
    if isinstance(_KINDS[name], types.UnionType):
        return float(text) if text else None
    return int(text or 1) if _KINDS[name] is int else text


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"
