"""What the papers' grids share: one ``dream-env`` command as a process, and many jobs side by side, here or on a Ray cluster."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Literal, TypeVar

import tyro

from dream_env.checkpoint import write_file
from dream_env.errors import ConfigError, DreamEnvError

Config = TypeVar("Config")
Engine = Literal["processes", "ray"]
Job = Callable[[], None]


def start(main: Callable[[Config], None], config: type[Config]) -> None:
    """A script's ``main`` with what the command line says; what is wrong with that is told in a line, without a traceback."""
    try:
        main(tyro.cli(config))
    except DreamEnvError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on where it was.")


def run(words: Sequence[str]) -> None:
    """One command of ``dream-env``, on one thread; raises with the end of what it said if it fails."""
    print(f"begun            dream-env {' '.join(words)}", flush=True)
    began = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    program = str(Path(sys.executable).with_name("dream-env"))
    done = subprocess.run([program, *words], env=environment, capture_output=True, text=True, check=False)
    minutes = (time.monotonic() - began) / 60
    print(
        f"{'ok    ' if done.returncode == 0 else 'FAILED'} {minutes:5.1f} min dream-env {' '.join(words)}", flush=True
    )
    if done.returncode:
        raise RuntimeError(f"dream-env {words[0]} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def finished(folder: Path, commands: Sequence[Sequence[str]]) -> bool:
    """Whether a cell was done before.

    Raises:
        ConfigError: if it was done with other flags.
    """
    file = folder / "done"
    if not file.is_file():
        return False
    before = file.read_text()
    if before and before != _told(commands):  # what an earlier version left says nothing
        raise ConfigError(
            f"{folder} is finished, but with other flags:\n{before}\nwhere these were asked for:\n{_told(commands)}\nTake "
            f"another --out and other --results, or remove that folder"
        )
    return True


def note_finished(folder: Path, commands: Sequence[Sequence[str]]) -> None:
    """Note that a cell is done, and how."""
    write_file(folder / "done", _told(commands))


def _told(commands: Sequence[Sequence[str]]) -> str:
    lines = []
    for words in commands:
        at = list(words).index("--device") if "--device" in words else len(words)  # where it ran changes nothing
        lines.append(shlex.join([*words[:at], *words[at + 2 :]]))
    return "\n".join(lines)


def spread(jobs: Sequence[Job], *, workers: int, engine: Engine = "processes", device: str = "cpu") -> None:
    """All jobs, ``workers`` at a time; one that fails is told of at the end and stops none of the others.

    Ctrl-C ends those that run and begins none of the others.
    """
    failures: list[BaseException] = []
    if engine == "ray":
        for count, one in enumerate(_on_ray(jobs, device), start=1):
            try:
                one()
            except Exception as error:  # any failure of a cell, told below
                failures.append(error)
            print(f"{count} of {len(jobs)} are done", flush=True)
    else:
        with ThreadPoolExecutor(workers) as pool:
            try:
                for count, future in enumerate(as_completed([pool.submit(job) for job in jobs]), start=1):
                    if (error := future.exception()) is not None:
                        failures.append(error)
                    print(f"{count} of {len(jobs)} are done", flush=True)
            except BaseException:  # Ctrl-C: left alone, the pool would first work through all that wait
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    if failures:
        again = (
            "" if all(isinstance(error, ConfigError) for error in failures) else "; the same command tries them again"
        )
        raise SystemExit(f"{len(failures)} of {len(jobs)} runs failed{again}:\n{failures[0]}")


def _on_ray(jobs: Sequence[Job], device: str) -> list[Job]:
    """Start all jobs on the cluster; what comes back waits for one of them each."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install ray") from error
    if not ray.is_initialized():
        told = ("MINARI_DATASETS_PATH", "DREAM_ENV_CACHE")  # other machines do not have this one's environment
        ray.init(runtime_env={"env_vars": {name: os.environ[name] for name in told if name in os.environ}})
    gpus = 1 if device.startswith("cuda") else 0  # Ray hides all others
    waiting = [ray.remote(num_cpus=1, num_gpus=gpus)(job).remote() for job in jobs]
    return [lambda one=one: ray.get(one) for one in waiting]
