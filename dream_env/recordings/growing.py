"""An array on disk that grows by rows and is read without being in memory."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np

from dream_env.errors import DatasetError


class GrowingArray:
    """A file of plain rows, each (*shape) of one type.

    How many rows count is kept elsewhere, by whoever calls: a write that was cut off leaves bytes that nobody reads, and
    the next one goes over them. Rows are written by ordinary writes and only read through maps, so that a full disk is an
    error, where writing to a mapped file would crash.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path = path
        self.shape = shape
        self.dtype = dtype
        self._row_bytes = int(np.prod(shape)) * dtype.itemsize

    def write(self, first: int, rows: np.ndarray) -> None:
        """Write rows (N, *shape) from number ``first`` on, and wait until they are on the disk."""
        self.path.touch()
        with self.path.open("r+b") as file:
            file.seek(first * self._row_bytes)
            file.write(np.ascontiguousarray(rows, dtype=self.dtype).data)
            file.flush()
            os.fsync(file.fileno())

    def map(self, rows: int) -> np.ndarray:
        """The first ``rows`` rows as they are now; map again after a ``write``.

        Raises:
            DatasetError: if the file is shorter.
        """
        if rows == 0:
            return np.zeros((0, *self.shape), self.dtype)
        size = self.path.stat().st_size if self.path.is_file() else 0
        if size < rows * self._row_bytes:
            raise DatasetError(
                f"{self.path} is damaged: it has {size} bytes, and {rows * self._row_bytes} are needed. Put a copy of the "
                f"folder {self.path.parent} back, or delete it and start again"
            )
        try:  # copy-on-write, as in the cache: what a user does to an array stays theirs, and PyTorch does not warn
            mapped = np.memmap(self.path, self.dtype, mode="c", shape=(rows, *self.shape))
        except OSError as error:
            if error.errno != errno.ENOMEM:  # some kernels refuse private maps beyond the memory there is
                raise
            mapped = np.memmap(self.path, self.dtype, mode="r", shape=(rows, *self.shape))
        return np.asarray(mapped)
