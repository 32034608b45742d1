"""The rows of ``speed.csv`` as Markdown: what was aimed at and reached (``goals``, for the README), and a table for each loop."""

from dataclasses import dataclass

from speed_rows import KEPT, SpeedRow
from work import SIZES

from dream_env.measuring.tables import markdown

HEAD = ("size", "system", "precision", "per CPU s", "per s", "MFLOP", "of GEMM", "of conv", "MiB", "ratio")


@dataclass(frozen=True)
class Goal:
    """A rate to reach; it is found in rows of this loop, and of this size or one that begins with it and a comma."""

    what: str
    wanted: str
    loop: str
    size: str
    systems: tuple[str, ...] = ("dream-env",)
    precision: str = ""
    machine: str = ""
    """Rates a second on a machine so called are compared, and not the ratios of CPU rows."""

    def reached(self, rows: list[SpeedRow]) -> str:
        """The best that the rows of one thread and the allocator as it comes have."""
        found = [
            row.units_per_wall_second if self.machine else row.ratio_to_best_peer
            for row in rows
            if row.loop == self.loop and self.size in (row.size, row.size.split(",")[0]) and row.system in self.systems
            and self.precision in ("", row.precision) and row.threads == 1
            and self.machine in row.machine and KEPT not in row.machine
            and (row.peak_gpu_mib is not None) == bool(self.machine)
        ]  # fmt: skip
        best = max((value for value in found if value is not None), default=None)
        if best is None:
            return "not measured"
        return f"{best:,.0f}" if self.machine else f"{best:.2f}"


_STEP, _DREAM, _PPO = "world-model step (frames)", "dream step (latent steps)", "PPO (environment steps)"
_NUMPY, _TORCH = (("DreamEnv.step + reward, numpy",), ("DreamEnv.step + reward, torch",))
_IN_DREAM = ("PPO.learn in DreamEnv", "PPO.learn in DreamEnv, bootstrapped together")
_LARGE, _OWN = "S, 512 dreams", "S, 512 dreams, SB3's own batches"
GOALS = (
    Goal("world-model step, S, relative to the fastest float32 peer", "≥ 2.5", _STEP, "S"),
    Goal("the same in float32", "≥ 1.4", _STEP, "S", precision="float32"),
    Goal("world-model step, P, relative to the fastest float32 peer", "≥ 3.5", _STEP, "P"),
    Goal("`DreamEnv.step` + reward, S, relative to TorchRL's bare prior", "≥ 2", _DREAM, "S", _NUMPY),
    Goal("the same in torch tensors", "≥ 2", _DREAM, "S", _TORCH),
    Goal("`DreamEnv.step` + reward, P, relative to TorchRL's bare prior", "≥ 3", _DREAM, "P", _NUMPY),
    Goal("the same in torch tensors", "≥ 3", _DREAM, "P", _TORCH),
    Goal(
        "SB3's PPO in the dream, its own batches of 64, relative to SB3's own ceiling", "≥ 0.9", _PPO, _OWN, _IN_DREAM
    ),
    Goal("the same with batches of 2,560", "≥ 0.9", _PPO, _LARGE, _IN_DREAM),
    Goal("one H200, P: trained frames a second", "≥ 100,000", _STEP, "P", machine="H200"),
    Goal("one H200, P: imagined steps a second", "≥ 1,000,000", _DREAM, "P", _TORCH, machine="H200"),
)


def goals(rows: list[SpeedRow]) -> str:
    """What was aimed at, and what was measured."""
    lines = [(goal.what, goal.wanted, goal.reached(rows)) for goal in GOALS]
    return markdown(("goal", "aim", "measured"), lines, text_columns=1)


def loops(rows: list[SpeedRow]) -> str:
    """All rows, a table for each loop."""
    texts = ["# How fast, and beside whom", "Sizes: " + "; ".join(SIZES[name].label for name in ("S", "P")) + "."]
    tables: dict[tuple[str, str, int], list[SpeedRow]] = {}
    for row in rows:
        tables.setdefault((row.loop, row.machine, row.threads), []).append(row)
    for (loop, machine, threads), found in tables.items():
        texts.append(f"**{loop[0].upper()}{loop[1:]}**, {machine}, {threads} thread{'s' * (threads != 1)}:")
        texts.append(markdown(HEAD, map(_line, found), text_columns=3))
    return "\n\n".join(texts)


def _line(row: SpeedRow) -> tuple[str, ...]:
    mflop = row.mflop_per_unit or None  # 0 is what has no products
    memory = row.peak_rss_mib if row.peak_gpu_mib is None else row.peak_gpu_mib
    return (
        row.size, row.system, row.precision,
        _cell(row.units_per_cpu_second, ",.0f"), _cell(row.units_per_wall_second, ",.0f"),
        _cell(mflop, ",.1f"), _cell(mflop and row.fraction_of_gemm, ".0%"), _cell(mflop and row.fraction_of_conv, ".0%"),
        _cell(memory, ",.0f"), _cell(row.ratio_to_best_peer, ".2f"),
    )  # fmt: skip


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
