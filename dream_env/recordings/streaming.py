"""Writing, measuring and reading arrays that are never in memory as a whole."""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np


class ArrayWriter:
    """A ``.npy`` file written from front to back: a full disk is an error, where a mapped file would crash."""

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.num_bytes = int(np.prod(shape)) * dtype.itemsize
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115 (closed on exit)
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> "ArrayWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, array: np.ndarray) -> None:
        """Write further rows."""
        self._file.write(np.ascontiguousarray(array).data)


class Moments:
    """Mean and standard deviation in one pass, in float64, shifted by the first row: large offsets cost no digits."""

    CHUNK = 256
    """Rows converted to float64 at a time."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shift: np.ndarray | None = None
        self._count = 0
        self._sum = np.zeros(shape)
        self._square = np.zeros(shape)

    def add(self, array: np.ndarray) -> None:
        """Take in rows (N, *shape)."""
        if self._shift is None:
            self._shift = array[0].astype(np.float64)
        for start in range(0, len(array), self.CHUNK):
            x = array[start : start + self.CHUNK] - self._shift
            self._sum += x.sum(axis=0)
            self._square += np.einsum("n...,n...->...", x, x)
        self._count += len(array)

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Both of the packed shape, float32."""
        offset = self._sum / self._count
        variance = np.maximum(self._square / self._count - offset**2, 0.0)
        assert self._shift is not None
        return (offset + self._shift).astype(np.float32), np.sqrt(variance).astype(np.float32)


class BulkReader:
    """Rows of mapped arrays, copied so that what was read is not held.

    A page of a mapped file counts as the process's memory from its first reading on, until the system needs it elsewhere:
    a training that draws from 8 GB holds 8 GB. Here they are given back every ``HELD`` bytes. They stay in the system's disk
    cache, so reading them again costs next to nothing. Nothing is given back of arrays that are not mapped read-only: of
    others, changes would be lost.
    """

    HELD = 2**24
    """Bytes read until pages are given back. The system maps up to 2 MiB around every byte that is touched (measured: windows
    of 200 KB hold ten times their size), so little is read and much is held."""

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = dict(arrays)
        self._read = 0

    def take(self, rows: np.ndarray | slice) -> dict[str, np.ndarray]:
        """The rows (*shape of numbers, or N of a slice) of each array, in memory of their own."""
        arrays = {name: np.asarray(x) for name, x in self._arrays.items()}
        if isinstance(rows, slice):
            taken = {name: x[rows].copy() for name, x in arrays.items()}
        else:
            taken = {name: np.take(x, rows, axis=0) for name, x in arrays.items()}
        self._read += sum(x.nbytes for x in taken.values())
        if self._read > self.HELD:
            self._read = 0
            for x in self._arrays.values():
                _give_back(x)
        return taken


def _give_back(x: np.ndarray) -> None:
    mapped: object = x.base  # a mapped array's is its map
    if isinstance(mapped, mmap.mmap) and not x.flags.writeable and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
