"""The command line: one command a stage, one flag an option. The flags are made from the config dataclasses; no logic here."""

import ctypes
import dataclasses
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from rich.table import Table

from dream_env.collecting.collect import CollectConfig, collect
from dream_env.errors import ConfigError, DreamEnvError, nearest
from dream_env.learning.on_policy import resolve_learner
from dream_env.measuring.evaluation import EvaluateStage, evaluate_stage
from dream_env.online_stage import online_stage
from dream_env.plugin import available, load_reward
from dream_env.run import RunConfig, run
from dream_env.showing.report import report
from dream_env.showing.study_report import study_report
from dream_env.stages import FitStage, Flat, ImitateStage, fit_stage, imitate_stage


@dataclass(frozen=True)
class ReportCommand:
    """Draw the curves, videos and the table of a run; or the figures and tables of a result file of many runs."""

    what: tyro.conf.Positional[Path]
    """Folder of a run, as `dream-env run pong --out FOLDER` leaves; or a CSV file of result rows, as `dream-env evaluate
    --results FILE` leaves."""
    seed: int = 0
    """Seed of a run's bootstrap."""
    out: Path | None = None
    """Of a result file: folder for figures and Markdown; beside the file, with its name, unless given."""
    argmax: bool = False
    """Of a result file: show likeliest actions instead of sampled ones."""
    tail: bool = False
    """Of a result file: show the policies after the last updates (evaluate --tail-episodes) instead of the last one."""


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``dream-env``; errors that we raise on purpose are printed without a traceback."""
    words = sys.argv[1:] if arguments is None else arguments
    torch.set_num_threads(1)  # two threads on shared cores are slower than one; OMP_NUM_THREADS has no say after this
    if not words or words[0] in ("-h", "--help"):
        _overview()
        return
    _keep_freed_memory()
    if os.getcwd() not in sys.path:  # so that --reward my_reward:MyReward is found, as by python -m
        sys.path.insert(0, os.getcwd())
    command = COMMANDS.get(words[0])
    try:
        if command is None:
            raise ConfigError(
                f"there is no command {words[0]!r}.{nearest(words[0], COMMANDS)} One of: {', '.join(COMMANDS)}"
            )
        command(words[1:])
    except DreamEnvError as error:
        Console(stderr=True, soft_wrap=True).print(f"[bold red]{type(error).__name__}[/]: ", end="")
        print(error, file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{type(error).__name__}: {error}", file=sys.stderr)  # no permission, no room, no such folder
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where it was.", file=sys.stderr)
        sys.exit(130)


def _keep_freed_memory() -> None:
    """Let glibc keep what tensors give back for the next ones, instead of returning it to the system page by page.

    A world model's gradient step makes and drops hundreds of megabytes, and getting them anew, zeroed, took a tenth to a fifth of
    it (measured); the peak stays the same. Other C libraries have no such switch and are left alone.
    """
    mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
    with suppress(OSError, TypeError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _overview() -> None:
    """What there is, in the order it is used."""
    table = Table.grid(padding=(0, 2))
    for name, command in COMMANDS.items():
        table.add_row(f"  {name}", command.__doc__)
    console = Console()
    console.print(
        "World models learned from demonstrations, opened as Gymnasium environments.\n\nusage: dream-env COMMAND …\n"
    )
    console.print(table)
    console.print("\nEach command explains its flags: dream-env fit --help", highlight=False)


def _collect(words: list[str]) -> None:
    """Record an expert: an environment's episodes as a Minari dataset."""
    collect(_parse(CollectConfig, "collect", words))


def _fit(words: list[str]) -> None:
    """Learn a world model from a Minari dataset."""
    default = FitStage.of(peek(words, "--preset", "small"), "", Path())
    vars(default).update(dataset=tyro.MISSING, out=tyro.MISSING)  # no preset has these: they stay required
    folder = fit_stage(_parse(FitStage, "fit", words, default))
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun started, one speaks
        print(f"world model: {folder}")


def _imitate(words: list[str]) -> None:
    """Learn a policy in the model's dreams: an agent."""
    learner = resolve_learner(peek(words, "--learner", "ppo"))
    usual = type(learner).usual_reward
    reward = load_reward(peek(words, "--reward", usual))
    # The plug-ins' own options become flags: those of the reward under its name, those of the learner as they are.
    command: Any = dataclasses.make_dataclass(
        "Imitate",
        [
            ("stage", Annotated[ImitateStage, Flat]),
            ("reward", Annotated[str, tyro.conf.arg(help="Reward plug-in, or module:Class.")], usual),
            ("learner", Annotated[str, tyro.conf.arg(help="Learner plug-in, or module:Class.")], "ppo"),
            (
                "reward_options",
                Annotated[type(reward), tyro.conf.arg(name=reward.name)],
                dataclasses.field(default_factory=lambda: reward),
            ),
            ("learner_options", Annotated[type(learner), Flat], dataclasses.field(default_factory=lambda: learner)),
        ],
        namespace={"__doc__": ImitateStage.__doc__},
    )
    parsed = _parse(command, "imitate", words)
    run_stage = online_stage if parsed.stage.online_steps else imitate_stage
    print(f"agent: {run_stage(parsed.stage, parsed.reward_options, parsed.learner_options)}")


def _evaluate(words: list[str]) -> None:
    """Play the real environment with an agent."""
    evaluate_stage(_parse(EvaluateStage, "evaluate", words))


def _report(words: list[str]) -> None:
    """Draw curves and tables of a run, or of a file of results."""
    command = _parse(ReportCommand, "report", words)
    if command.what.is_dir() or command.what.suffix != ".csv":
        report(command.what, seed=command.seed)
    else:
        print(study_report(command.what, command.out, deterministic=command.argmax, tail=command.tail))


def _run(words: list[str]) -> None:
    """All of these one after the other, as on Pong."""
    run(_parse(RunConfig, "run", words))


def _plugins(words: list[str]) -> None:
    """List the rewards and learners that are installed."""
    table = Table("kind", "name", "where")
    for kind in ("rewards", "learners"):
        for name, where in available(kind).items():
            table.add_row(kind[:-1], name, where)
    Console().print(table)


def _parse(cls: Any, command: str, words: list[str], default: Any = None) -> Any:
    options = {} if default is None else {"default": default}
    return tyro.cli(cls, prog=f"dream-env {command}", args=words, **options)


def peek(words: list[str], flag: str, default: str) -> str:
    """The value of one flag before the others are looked at: of one given twice the last, ``_`` for ``-``, as for all flags."""
    found = default
    for i, word in enumerate(words):
        name, given, value = word.partition("=")
        if name.replace("_", "-") != flag:
            continue
        if given:
            found = value
        elif i + 1 < len(words):
            found = words[i + 1]
    return found


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "collect": _collect, "fit": _fit, "imitate": _imitate, "evaluate": _evaluate, "report": _report, "run": _run,
    "plugins": _plugins,
}  # fmt: skip
