"""The one progress bar: what is being done, how far, how fast, how long still."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

Advance = Callable[..., None]
"""``advance(done, **shown)``: how much is done in all, and a few numbers to show beside it."""


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("…/s")
        return Text(f"{speed:.1f}/s" if speed < 100 else f"{speed:,.0f}/s", style="cyan")


@contextmanager
def progress_bar(what: str, total: int, unit: str, *, start: int = 0, enabled: bool = True) -> Iterator[Advance]:
    """Show a bar on standard error while the block runs; where that is no terminal, nothing but the end is printed."""
    console = Console(stderr=True)
    columns = (
        TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), _Rate(),
        TimeRemainingColumn(), TextColumn("{task.fields[shown]}"),
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not enabled) as progress:
        task = progress.add_task(what, total=total, completed=start, shown="")

        def advance(done: int | float, **shown: float) -> None:
            numbers = "  ".join(f"{name} {value:.3g}" for name, value in shown.items())
            progress.update(task, completed=done, shown=numbers)

        yield advance
