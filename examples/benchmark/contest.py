"""Times systems against each other: in turns, each in a process of its own, and beside the machine's limits.

A busy neighbour, a hot processor or a slow memory then hits all alike, and what is compared are ratios within one round.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from contestant import Contestant
from speed_rows import KEPT, SpeedRow, machine

KEEPING = {"MALLOC_MMAP_THRESHOLD_": "2000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
"""What ``--keep-memory`` sets. Otherwise every system has the allocator as it comes, whatever the caller's shell has set."""

LIMITS = ("gemm", "conv")
"""Functions of ``machine_limits.py``; their units are MFLOP."""

Rounds = list[dict[str, list[float]]]
"""A round each: CPU and wall seconds of one step (under "") and of its parts."""


@dataclass(frozen=True)
class Entry:
    """A system that takes part."""

    system: str
    """Its name in the rows."""
    factory: str
    """``module:function``, which makes it out of ``device`` and the options."""
    options: dict[str, Any] = field(default_factory=dict)
    """What JSON can hold."""
    precision: str = "float32"
    """Passed on too."""
    yardstick: bool = False
    """Whether the ratios of all are to this one, or to the best of those that say so."""
    install: str = ""
    """For a peer: what pip needs to be told. Without it, the system may not be missing."""


@dataclass(frozen=True)
class Settings:
    """How a contest is held."""

    rounds: int = 11
    seconds: float = 1.0
    device: str = "cpu"
    threads: int = 1
    peers: bool = True
    keep_memory: bool = False
    quick: bool = False
    out: Path | None = None


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Settings]:
    """The script's own arguments, and those that all have."""
    parser.add_argument("--rounds", type=int, default=Settings.rounds, help="turns of each system")
    parser.add_argument("--seconds", type=float, default=Settings.seconds, help="least work in a turn")
    parser.add_argument("--device", default=Settings.device, help="cpu, or cuda: wall seconds count there")
    parser.add_argument("--threads", type=int, default=Settings.threads, help="threads of each system")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="only dream-env's own rates")
    keep = "let glibc's allocator keep what is freed, for all systems: those that allocate most gain most"
    parser.add_argument("--keep-memory", action="store_true", help=keep)
    quick = "tiny sizes, two rounds, all in one process: does everything run?"
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--out", type=Path, help="result file to append to")
    arguments = parser.parse_args()
    names = Settings.__dataclass_fields__
    settings = Settings(**{name: value for name, value in vars(arguments).items() if name in names})
    if settings.quick:
        settings = replace(settings, rounds=2, seconds=0.0)
    return arguments, settings


class Process:
    """A contestant at the other end of two pipes."""

    def __init__(self, entry: Entry, settings: Settings) -> None:
        threads = str(settings.threads)
        environment = {name: value for name, value in os.environ.items() if name not in KEEPING}
        environment |= KEEPING if settings.keep_memory else {}
        self.entry = entry
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("contestant.py")), json.dumps(_request(entry, settings))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**environment, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )  # fmt: skip

    def ready(self) -> str:
        """Wait until it is; what it misses, or nothing."""
        missing: str = self._answer()["missing"]
        return missing

    def run(self, steps: int) -> dict[str, list[float]]:
        """Let it do so many steps."""
        return self._ask(steps)

    def facts(self) -> dict[str, float]:
        """Ask what it knows of itself."""
        return self._ask(0)

    def close(self) -> None:
        """Let it end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, number: int) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{number}\n")
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.entry.system} ended with code {self._process.wait()}; what it said is above")
        return json.loads(line)


class Here:
    """A contestant in this very process, for ``--quick``: starting one for each is what would take longest."""

    def __init__(self, entry: Entry, settings: Settings) -> None:
        self.entry = entry
        self._settings = settings

    def ready(self) -> str:
        """Make it; what it misses, or nothing."""
        try:
            contestant = Contestant(**_request(self.entry, self._settings))
        except ImportError as error:
            return f"{type(error).__name__}: {error}"
        self.run, self.facts = contestant.run, contestant.facts
        return ""

    def close(self) -> None:
        """It ends with this process."""


def _request(entry: Entry, settings: Settings) -> dict[str, Any]:
    options = {**entry.options, "precision": entry.precision}
    return {"factory": entry.factory, "options": options, "device": settings.device, "threads": settings.threads}


def start(entry: Entry, settings: Settings) -> Process | Here:
    """A contestant, not yet ready."""
    return Here(entry, settings) if settings.quick else Process(entry, settings)


@dataclass(frozen=True)
class Result:
    """What one system did."""

    entry: Entry
    facts: dict[str, float]
    rounds: Rounds

    def rates(self, part: str, clock: int) -> list[float]:
        """Units a second of each round: a CPU second if ``clock`` is 0, a wall second if it is 1."""
        return [self.facts["units"] / taken[part][clock] for taken in self.rounds]


def contest(loop: str, size: str, entries: list[Entry], settings: Settings, *, limits: bool = True) -> list[SpeedRow]:
    """Rows of all systems, then of their parts, in the order of the entries."""
    precisions = list(dict.fromkeys(entry.precision for entry in entries)) if limits else []
    quick = {"quick": settings.quick}
    beside = [Entry(name, f"machine_limits:{name}", quick, p) for p in precisions for name in LIMITS]
    wanted = [entry for entry in entries if settings.peers or not entry.install]
    with ExitStack() as stack:
        started = [start(entry, settings) for entry in [*wanted, *beside]]
        for process in started:
            stack.callback(process.close)
        processes = [process for process in started if _can_start(process)]
        rounds = _take_turns(processes, settings)
        results = [Result(p.entry, p.facts(), taken) for p, taken in zip(processes, rounds, strict=True)]
    systems, limiting = results[: len(results) - len(beside)], results[len(results) - len(beside) :]
    cuda = settings.device.startswith("cuda")
    limit = {(r.entry.system, r.entry.precision): statistics.median(r.rates("", int(cuda))) for r in limiting}
    where = {"machine": machine(settings.device), "threads": settings.threads}
    if settings.keep_memory:
        where["machine"] += f", {KEPT}"
    return [replace(row, loop=loop, size=size, **where) for row in compared(systems, limit, cuda=cuda)]  # type: ignore[arg-type]


def compared(systems: list[Result], limit: dict[tuple[str, str], float], *, cuda: bool = False) -> list[SpeedRow]:
    """Rows of the systems, and then of their parts, without what is the same for all.

    ``limit`` has MFLOP a second by LIMITS and precision. On a GPU wall seconds are compared, else CPU seconds.
    """
    rows = []
    for part in dict.fromkeys(name for result in systems for name in result.rounds[0]):
        yardsticks = [result.rates(part, int(cuda)) for result in systems if result.entry.yardstick]
        for result in systems:
            entry, cpu, wall = result.entry, result.rates(part, 0), result.rates(part, 1)
            mine = wall if cuda else cpu
            row = SpeedRow(
                "", "", entry.precision, f"{entry.system}: {part}" if part else entry.system,
                None if cuda else statistics.median(cpu), statistics.median(wall),
                ratio_to_best_peer=ratio_to_best(mine, yardsticks),
            )  # fmt: skip
            rows.append(row if part else replace(row, **_known(result, statistics.median(mine), limit)))
    return rows


def _known(result: Result, rate: float, limit: dict[tuple[str, str], float]) -> dict[str, Any]:
    known = {name: result.facts.get(name) for name in ("mflop_per_unit", "peak_rss_mib", "peak_gpu_mib")}
    for name in LIMITS:
        if (name, result.entry.precision) in limit:
            flop = rate * result.facts["mflop_per_unit"]
            known[f"fraction_of_{name}"] = flop / limit[name, result.entry.precision]
    return known


def ratio_to_best(mine: list[float], yardsticks: list[list[float]]) -> float | None:
    """Median over the rounds of my rate by the best of the others' in the same round; None without others."""
    if not yardsticks:
        return None
    return statistics.median(rate / max(others) for rate, *others in zip(mine, *yardsticks, strict=True))


def _can_start(process: Process | Here) -> bool:
    missing, entry = process.ready(), process.entry
    if missing and not entry.install:
        raise RuntimeError(f"{entry.system} cannot start: {missing}")
    if missing:
        print(f"{entry.system}, {entry.precision}, is left out ({missing}); to have it: pip install {entry.install}")
    return not missing


def _take_turns(processes: list[Process | Here], settings: Settings) -> list[Rounds]:
    steps = [max(1, math.ceil(settings.seconds / process.run(1)[""][1])) for process in processes]
    rounds: list[Rounds] = [[] for _ in processes]
    everyone = list(range(len(processes)))
    for index in range(settings.rounds):
        shift = index % len(everyone)
        for i in everyone[shift:] + everyone[:shift]:  # nobody is always the first
            taken = processes[i].run(steps[i])
            rounds[i].append({name: [s / steps[i] for s in both] for name, both in taken.items()})
    return rounds
