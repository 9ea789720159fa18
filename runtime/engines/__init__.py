"""The engines that run a stage, one module each.

A module offers `compile_stage(path, *, threads)`, which returns an object with `bind(inputs, outputs)`: given arrays by name,
that returns a function without arguments which runs the stage from the inputs into the outputs. The arrays stay in place, so
one stage's output array is the next stage's input; and with `infer(inputs, outputs)`, which runs the stage once into new arrays.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ...errors import MissingError

if TYPE_CHECKING:
    import numpy as np

Arrays = Mapping[str, "np.ndarray"]
Run = Callable[[], object]


class Compiled(Protocol):
    """A stage compiled for a device."""

    def bind(self, inputs: Arrays, outputs: Arrays) -> Run:
        """Tie arrays (C-contiguous, of the stage's dtypes and shapes) to the stage and return what runs it."""
        ...

    def infer(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, "np.ndarray"]:
        """Run the stage once into new arrays, for outputs whose shapes are not known beforehand."""
        ...


PACKAGES = {"cpu": "onnxruntime"}
"""The package that serves each device name."""


def compile_stage(path: Path, *, device: str, threads: int) -> Compiled:
    """Compile a stage for a device.

    Raises:
        MissingError: there is no such device, or its package is not installed.
        BundleError: the engine cannot read the stage.
    """
    if device not in PACKAGES:
        raise MissingError(f"There is no device {device!r} in this version. Devices: {', '.join(PACKAGES)}.")
    from . import onnxruntime

    return onnxruntime.compile_stage(path, threads=threads)
