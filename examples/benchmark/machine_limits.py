"""How fast this machine multiplies at best: ``python examples/benchmark/machine_limits.py [--out speed.csv]``.

A product of large square matrices, and a convolution of a shape that libraries like (3 × 3, 64 to 64 channels, channels last),
forward only. ``contest.py`` measures both beside every benchmark, in the same rounds, and rows hold the fractions.

PyTorch has two libraries for matrix products on a CPU, and ``torch.mm`` in float32 calls MKL, which on a processor of AMD's
runs at less than half of oneDNN's rate (measured: 85 and 195 GFLOP/s). The limit is the better one.
"""

import argparse
import time
from collections.abc import Callable

import torch
from contest import Entry, contest, parse
from contestant import System
from speed_rows import append


def gemm(device: str, precision: str, quick: bool = False) -> System:
    """A product of square matrices; its unit is a MFLOP, a million additions and multiplications."""
    n = 128 if quick else 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(n, n, device=device, dtype=getattr(torch, precision)) for _ in range(2))
    ways: list[Callable[[], object]] = [lambda: torch.mm(a, b)]
    if device == "cpu" and torch.backends.mkldnn.is_available():
        ways.append(lambda: torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], ""))
    return System(min(ways, key=_seconds), 2 * n**3 / 1e6)


def _seconds(function: Callable[[], object]) -> float:
    function()
    start = time.process_time()
    for _ in range(5):
        function()
    return time.process_time() - start


def conv(device: str, precision: str, quick: bool = False) -> System:
    """A convolution, in the same unit."""
    batch, channels, side = (512, 64, 64) if device.startswith("cuda") else (1 if quick else 16, 64, 32)
    kind = getattr(torch, precision)
    x = torch.randn(batch, channels, side, side, device=device, dtype=kind)
    weight = torch.randn(channels, channels, 3, 3, device=device, dtype=kind)
    x, weight = (tensor.to(memory_format=torch.channels_last) for tensor in (x, weight))
    flop = 2 * 9 * channels**2 * batch * side**2

    @torch.no_grad()
    def step() -> None:
        torch.nn.functional.conv2d(x, weight, padding=1)

    return System(step, flop / 1e6)


def main() -> None:
    """Print, and with ``--out`` append, MFLOP a second."""
    _, settings = parse(argparse.ArgumentParser(description=__doc__))
    entries = [
        Entry(system, f"machine_limits:{system}", {"quick": settings.quick}, precision)
        for precision in ("float32", "bfloat16")
        for system in ("gemm", "conv")
    ]
    append(contest("machine limit (MFLOP)", "", entries, settings, limits=False), settings.out)


if __name__ == "__main__":
    main()
