"""CSV files of one dataclass that grow by rows; the first columns say what a row is of, and another of the same replaces it."""

import csv
import io
import types
from collections.abc import Callable, Iterable
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from dream_env.checkpoint import write_file
from dream_env.errors import ConfigError
from dream_env.measuring.results import alone

T = TypeVar("T")


def append(
    path: Path, kind: type[T], rows: Iterable[T], *, same: int, what: str, forget: Callable[[T], bool] = lambda _: False
) -> None:
    """Add rows to a file, made if missing; whole or not at all, and several runs may append at the same time.

    Args:
        path: the file.
        kind: dataclass of its rows, whose fields are str, int, float or one of these or None.
        rows: to add.
        same: so many columns tell what a row is of.
        what: a row, in words, for errors.
        forget: rows of the file that are not to stay.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone(path.parent):
        known = [row for row in read(path, kind, what=what) if not forget(row)] if path.is_file() else []
        merged = {astuple(row)[:same]: row for row in [*known, *rows]}  # type: ignore[call-overload]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_columns(kind))
        writer.writerows([_cell(value) for value in astuple(row)] for row in merged.values())  # type: ignore[call-overload]
        write_file(path, text.getvalue())


def read(path: Path, kind: type[T], *, what: str) -> list[T]:
    """The rows of a file.

    Raises:
        ConfigError: if it is no such file, or a cell is no number.
    """
    columns, hints = _columns(kind), get_type_hints(kind)
    rows = []
    with path.open(newline="") as file:
        for line, row in enumerate(csv.DictReader(file), start=2):
            try:
                rows.append(kind(**{name: _value(hints[name], cell) for name, cell in row.items() if name in columns}))
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"{path}, line {line} is none of {what}: {error}; such a file has the columns {', '.join(columns)}"
                ) from error
    return rows


def _columns(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _value(hint: Any, cell: str) -> Any:
    if not isinstance(hint, types.UnionType):
        return hint(cell)
    return get_args(hint)[0](cell) if cell else None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
