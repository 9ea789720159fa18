"""What a chain refuses: thresholds out of range, answers that are not numbers, samples that an engine cannot run."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import NoReturn

import numpy as np

from ...bundle.manifest import NEVER
from ...errors import BundleError, DataError, MissingError, OfframpError, UsageError
from ..engines import Run

__all__ = [
    "CLOSED",
    "Where",
    "check_thresholds",
    "errors_located",
    "nan_error",
    "raise_explained",
    "refuse_closed",
    "refuse_nan",
    "run_stage",
]

Where = tuple[str | None, str]
"""A stage's device and its file: ("cuda:0", "stage1.onnx")."""

CLOSED = "The network is closed. Load it again."


def check_thresholds(values: Sequence[float], exits: int) -> tuple[float, ...]:
    """Return thresholds rounded to float32, as scores are.

    Raises:
        UsageError: there are more or fewer thresholds than exits before the last, or a threshold is out of range.
    """
    if exits == 1 and len(values):
        raise UsageError(
            "This network has one exit and takes no threshold: the point in use is a static network. For early exit load a "
            "point that has it, such as balanced-early."
        )
    if len(values) != exits - 1:
        raise UsageError(f"{exits} exits take {exits - 1} thresholds, not {len(values)}.")
    if not all(0 <= value <= NEVER for value in values):
        raise UsageError(f"Thresholds lie between 0 and 2.0 (never), not {list(values)}.")
    return tuple(float(np.float32(value)) for value in values)


def run_stage(run: Run, where: Where) -> None:
    """Run a stage, and explain what goes wrong."""
    try:
        run()
    except Exception as error:
        raise_explained(error, where)


@contextlib.contextmanager
def errors_located(where: Where) -> Iterator[None]:
    """Let an error of a device or a stage's file say which they are."""
    try:
        yield
    except (BundleError, MissingError) as error:
        error.device, error.stage = where
        raise


def raise_explained(error: Exception, where: Where) -> NoReturn:
    """Raise the error for a sample that an engine cannot run. Engines raise various types, which nobody can catch by name."""
    device, stage = where
    if isinstance(error, MissingError):
        error.device, error.stage = where
    if isinstance(error, OfframpError):
        raise error
    lines = [line for line in str(error).strip().splitlines() if not line.startswith("Exception from")]
    line = (lines or [type(error).__name__])[0]
    raise DataError(
        f"The engine cannot run this sample: {line} Is a value out of range, or a sequence too short or long?",
        device=device,
        stage=stage,
    ) from error


def refuse_closed() -> None:
    """Refuse to run a network that was closed."""
    raise UsageError(CLOSED)


def refuse_nan(score: np.ndarray) -> None:
    """Refuse scores that are not numbers; the error names the first such row."""
    wrong = np.isnan(score)
    if wrong.any():
        raise nan_error(int(np.argwhere(wrong)[0][0]))


def nan_error(row: int) -> DataError:
    """Return the error for an answer that is not a number."""
    return DataError(f"The network's answer to sample {row} is not a number: the input holds NaN or infinity.")
