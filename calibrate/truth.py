"""What is true of samples whose network does not classify: arrays, or rows of different lengths such as the boxes of an image."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from msgspec import Struct

from ..errors import DataError

__all__ = ["Ragged", "Truth", "check_truth", "gather_truth"]

HOW_TO_GIVE = (
    "Give an array (N, ...), Ragged(values, offset) for rows of different lengths, or a dict of them by name. In a .npz file "
    "these are y, y and y.offset, or y.boxes and y.boxes.offset."
)


class Ragged(Struct, frozen=True):
    """Rows of different lengths, one after the other: sample i has `values[offset[i]:offset[i + 1]]`.

    Attributes:
        values: (all rows, ...), such as boxes (all boxes, 5).
        offset: whole numbers (N + 1,), rising from 0 to the number of rows.

    Example:
        >>> import numpy as np
        >>> from offramp.calibrate import Ragged
        >>> boxes = Ragged(np.zeros((3, 5)), np.array([0, 2, 2, 3]))
        >>> len(boxes), [row.shape for row in boxes.rows(np.arange(3))]
        (3, [(2, 5), (0, 5), (1, 5)])
    """

    values: np.ndarray
    offset: np.ndarray

    def __len__(self) -> int:
        return len(self.offset) - 1

    def rows(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return what belongs to some samples."""
        return [self.values[self.offset[i] : self.offset[i + 1]] for i in rows]


class Truth(Struct, frozen=True):
    """What is true of some samples.

    Attributes:
        parts: arrays (N, ...) or `Ragged`, by name; a single one without a name is called "".
        numbers: the samples' numbers in them, (N,).
    """

    parts: dict[str, "np.ndarray | Ragged"]
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, rows: Any) -> "Truth":
        """Return what is true of some of the samples."""
        return Truth(self.parts, self.numbers[rows])

    @property
    def sha256(self) -> str:
        """The hash of all of it."""
        digest = hashlib.sha256()
        for name, part in self.parts.items():
            digest.update(name.encode())
            for array in (part.values, part.offset) if isinstance(part, Ragged) else (part,):
                digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
        digest.update(self.numbers.astype("<i8").tobytes())
        return digest.hexdigest()

    def read(self) -> Any:
        """Return it as a loss takes it: arrays, lists of rows, or a dict of these."""
        taken = {
            name: part.rows(self.numbers) if isinstance(part, Ragged) else part[self.numbers]
            for name, part in self.parts.items()
        }
        return taken[""] if list(taken) == [""] else taken


def gather_truth(arrays: Mapping[str, np.ndarray]) -> "np.ndarray | Ragged | dict[str, np.ndarray | Ragged] | None":
    """Return the truth from arrays by name: `y`, or `y.boxes` and so on, where `y.boxes.offset` says that rows differ in length.

    Returns:
        One of them, several by name, or None if there are none.
    """
    found: dict[str, np.ndarray | Ragged] = {}
    for key, array in arrays.items():
        is_offset = key.endswith(".offset") and key.removesuffix(".offset") in arrays
        if key.partition(".")[0] == "y" and not is_offset:
            offset = arrays.get(f"{key}.offset")
            found[key.partition(".")[2]] = array if offset is None else Ragged(array, offset)
    return found[""] if list(found) == [""] else found or None


def check_truth(given: Any, samples: int) -> Truth:
    """Return what is true of samples, checked.

    Args:
        given: an array (N, ...), a `Ragged`, or a dict of them by name.
        samples: N.

    Raises:
        DataError: it is none of these, or is of another number of samples; or its offsets do not rise from 0 to its rows.
    """
    if isinstance(given, Truth):
        parts = given.parts if len(given) == samples else {}
    else:
        parts = dict(given) if isinstance(given, Mapping) else {"": given}
    checked: dict[str, np.ndarray | Ragged] = {}
    for name, part in parts.items():
        what = f"The truth ({name})" if name else "The truth"
        if isinstance(part, Ragged):
            checked[str(name)] = _check_ragged(part, what)
        else:
            try:
                checked[str(name)] = np.asarray(part)
            except ValueError as error:
                raise DataError(f"{what} is rows of different lengths. {HOW_TO_GIVE}") from error
            if checked[str(name)].dtype == object or not np.ndim(part):  # type: ignore[union-attr]
                raise DataError(f"{what} is no array of numbers. {HOW_TO_GIVE}")
        if (found := len(checked[str(name)])) != samples:
            raise DataError(f"{what} is of {found} samples, but there are {samples}.")
    if not checked:
        raise DataError(f"There is no truth for the samples. {HOW_TO_GIVE}")
    return Truth(checked, np.arange(samples)) if not isinstance(given, Truth) else given


def _check_ragged(ragged: Ragged, what: str) -> Ragged:
    values, offset = np.asarray(ragged.values), np.asarray(ragged.offset)
    if (
        values.dtype == object
        or offset.dtype.kind not in "iu"
        or offset.ndim != 1
        or len(offset) < 2
        or not values.ndim
    ):
        raise DataError(
            f"{what}: values are numbers, and offset is whole numbers, one more than samples. {HOW_TO_GIVE}"
        )
    offset = offset.astype(np.int64)
    falls = np.flatnonzero(np.diff(offset) < 0)
    if offset[0] != 0 or offset[-1] != len(values) or len(falls):
        found = f"it falls behind sample {falls[0]}" if len(falls) else f"it runs from {offset[0]} to {offset[-1]}"
        raise DataError(f"{what}: offset rises from 0 to {len(values)}, the number of rows, but {found}.")
    return Ragged(values, offset)
