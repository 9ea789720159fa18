"""Inputs from the field, kept as samples for a new calibration: a bounded number, the oldest go first."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import time

import numpy as np
from numpy.lib import format as npy

from ...errors import DataError, MissingError
from ...files import lock_folder, os_errors_explained

__all__ = ["Collector"]

TIMES = ".times.npy"
"""When each row was kept, seconds since 1970; hidden from who looks for samples."""


class Collector:
    """A folder with two folders of samples: `random`, of all audited inputs, and `disagreeing`, of those that disagreed.

    The random ones are what the field is like. The others are not: a promise that is made of them is of no use.

    Args:
        folder: is made, readable for its owner alone.
        most_mb: megabytes in both folders together.
        names: the names of the network's inputs.
        axes: the batch axis of each input.

    Raises:
        MissingError: it cannot be written, or another network collects there.
    """

    def __init__(self, folder: Path, most_mb: float, names: Sequence[str], axes: Sequence[int]) -> None:
        self._axes = axes
        self._names = ["x"] if len(names) == 1 else list(names)
        self._most_bytes = most_mb * 1e6 / 2
        with os_errors_explained(folder, "write"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._lock = lock_folder(folder)
            except BlockingIOError as error:
                raise MissingError(
                    f"Another network collects inputs in {folder}: name another folder.", path=folder
                ) from error
        self._folder = folder

    def keep(self, sample: Sequence[np.ndarray], *, disagrees: bool) -> None:
        """Keep an audited input.

        Args:
            sample: one array per input, with a batch axis of 1.
            disagrees: whether it is kept among those too.

        Raises:
            DataError: the folder holds samples of another shape or dtype, or one is larger than what may be kept.
            MissingError: the disk is full or cannot be written.
        """
        rows = {n: np.moveaxis(part, axis, 0) for n, part, axis in zip(self._names, sample, self._axes, strict=True)}
        most = int(self._most_bytes // sum(row.nbytes for row in rows.values()))
        if not most:
            raise DataError("One input is larger than all that may be collected: raise collect_mb.", path=self._folder)
        for part in ("random", "disagreeing") if disagrees else ("random",):
            with os_errors_explained(self._folder / part, "write"):
                _put(self._folder / part, rows, most)

    def close(self) -> None:
        """Let another network collect there."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _put(folder: Path, rows: Mapping[str, np.ndarray], most: int) -> None:
    """Append a row to each array of a folder, or put it in the place of the oldest if there are `most`."""
    folder.mkdir(mode=0o700, exist_ok=True)
    times = folder / TIMES
    kept = np.load(times, allow_pickle=False) if times.exists() else np.empty(0)
    row = len(kept) if len(kept) < most else int(kept.argmin())
    for name, value in rows.items():
        _write_row(folder / f"{name}.npy", row, len(kept), value)
    _write_row(times, row, len(kept), np.array([time()]))


def _write_row(path: Path, row: int, rows: int, value: np.ndarray) -> None:
    """Write one row of an array's file that has `rows`; the header counts it when it is whole."""
    form = {"descr": npy.dtype_to_descr(value.dtype), "fortran_order": False}
    header = io.BytesIO()  # always of one length: NumPy leaves room for a first axis that grows
    npy.write_array_header_1_0(header, form | {"shape": (max(rows, row + 1), *value.shape[1:])})
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        if rows:
            npy.read_magic(file)
            shape, _, dtype = npy.read_array_header_1_0(file)
            if (shape[1:], dtype) != (value.shape[1:], value.dtype):
                raise DataError(
                    f"{path} holds inputs of another shape or dtype: inputs of one kind are kept.", path=path
                )
        file.seek(len(header.getvalue()) + row * value.nbytes)
        file.write(np.ascontiguousarray(value).tobytes())
        file.flush()
        file.seek(0)
        file.write(header.getvalue())
