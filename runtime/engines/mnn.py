"""Stages on the CPU by Alibaba's MNN, which is small and made for Arm: `mnn:cpu`.

The wheel brings the converter from ONNX. It runs in a process of its own, since it prints, and ends the process where it fails.
Its command `mnnconvert` is not used: that one installs a logging package from the network and reports conversions to the vendor.

The converter takes some graphs without an error and makes others of them, so what was converted must give the golden answers.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import BundleError, MissingError, UnsupportedError, quoted, require
from . import HOST, StageFile, pin_shapes, raise_out_of_memory
from ._stdout import printing_to_stderr

__all__ = ["CONVERTS", "PACKAGE", "build", "compile_stage", "describe_build", "list_places"]

PACKAGE = "mnn"

CONVERTS = True

PLACE = "cpu"

CONVERT = """
import sys
import MNN
import _tools
_tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", sys.argv[1], "--MNNModel", sys.argv[2], "--bizCode", "offramp"])
"""

MOST_SECONDS = 600
"""A conversion takes less than a second for most stages."""


def list_places() -> dict[str, str]:
    """Return the CPU.

    Raises:
        MissingError: the package is not installed or does not load.
    """
    _import()
    return {PLACE: "the processor, in float32"}


def describe_build(place: str) -> dict[str, str]:
    """Return the version of MNN; a build fits every processor and any number of threads."""
    return {"engine": f"{PACKAGE} {_import().version()}", "threads": "any"}


def build(stage: StageFile, place: str, *, threads: int) -> bytes:
    """Convert a stage at batch 1 into MNN's own format, and try whether it runs.

    Raises:
        MissingError: the package is missing, or memory is too small.
        UnsupportedError: MNN cannot convert the stage or run it, it is quantised, or an axis has a name.
    """
    mnn = _check(place)
    pin_shapes(stage, f"{PACKAGE}:{place}")
    if b"DequantizeLinear" in stage.read(stage.path):
        raise UnsupportedError(
            f"{PACKAGE}:{place} runs no int8 variant: MNN wants weights that are constants, and {stage.path} makes them by "
            "DequantizeLinear. Load a variant in float32 on it.",
            path=stage.path,
        )
    path = stage.copied()
    with tempfile.TemporaryDirectory(prefix="offramp.") as folder:
        target = Path(folder, "stage.mnn")
        command = [sys.executable, "-c", CONVERT, str(path.absolute()), str(target)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=MOST_SECONDS, cwd=folder)
        except subprocess.TimeoutExpired as error:
            raise UnsupportedError(
                f"MNN did not convert {stage.path} within {MOST_SECONDS} s.", path=stage.path
            ) from error
        if done.returncode or not target.is_file():
            said = (done.stdout + b"\n" + done.stderr).decode("utf-8", "replace")
            raise UnsupportedError(f"MNN cannot convert {stage.path}: {quoted(_reason(said))}", path=stage.path)
        content = target.read_bytes()
    _open(mnn, content, stage, place, threads).try_zeros()
    return content


def _reason(said: str) -> str:
    """Return what a converter says of its failure."""
    words = ("error", "not support", "can't", "unknown")
    telling = [line for line in said.splitlines() if any(word in line.lower() for word in words)]
    return telling[-1] if telling else "it does not say why"


def compile_stage(stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> "MnnStage":
    """Load the build of a stage, or build it.

    Raises:
        MissingError: the package or the place is missing, or memory is too small.
        UnsupportedError: MNN cannot run the stage.
        BundleError: MNN cannot read the build.
    """
    mnn = _check(place)
    return _open(mnn, build(stage, place, threads=threads) if built is None else built, stage, place, threads)


def _open(mnn: Any, content: bytes, stage: StageFile, place: str, threads: int) -> "MnnStage":
    """Load a build. MNN reads files only."""
    try:
        with tempfile.TemporaryDirectory(prefix="offramp.") as folder, printing_to_stderr(drops=True):
            path = Path(folder, "stage.mnn")
            path.write_bytes(content)
            interpreter = mnn.Interpreter(str(path))
        return MnnStage(
            interpreter,
            stage,
            f"MNN {mnn.version()}, CPU",
            threads,
            partial(_open, mnn, content, stage, place, threads),
        )
    except (MissingError, UnsupportedError):
        raise
    except Exception as error:  # MNN raises plain Exception, ValueError or RuntimeError
        raise_out_of_memory(error, stage.path, place)
        raise BundleError(f"MNN cannot load the build of {stage.path}: {quoted(error)}", path=stage.path) from error


class MnnStage:
    """A stage in MNN. Each binding has its own session, and one of them runs at a time.

    The stage takes one sample at a time: a session is for one batch size, and each has the weights once more.
    """

    memory, allocate, batches, half, clones = HOST, None, False, False, True

    def __init__(
        self, interpreter: Any, stage: StageFile, runs_on: str, threads: int, load: Callable[[], "MnnStage"]
    ) -> None:
        self.runs_on = runs_on
        self._interpreter, self._stage, self._threads, self._load = interpreter, stage, threads, load
        self._spare: MnnSession | None = self._start()  # for the first binding: it shows what MNN cannot run

    def _start(self) -> "MnnSession":
        """Return a session. `high` is float32 throughout.

        Raises:
            UnsupportedError: MNN cannot run the stage.
        """
        interpreter, stage = self._interpreter, self._stage
        shapes = pin_shapes(stage, f"{PACKAGE}:{PLACE}")
        if small := [tensor.name for tensor in stage.inputs if tensor.dtype == "int8"]:
            raise UnsupportedError(f"MNN takes no arrays of int8, as {small[0]} of {stage.path} is.", path=stage.path)
        with printing_to_stderr(drops=True):
            session = interpreter.createSession({"numThread": self._threads, "precision": "high", "backend": "CPU"})
            if session is None:
                raise UnsupportedError(f"MNN cannot run {stage.path} on this processor.", path=stage.path)
            inputs, outputs = interpreter.getSessionInputAll(session), interpreter.getSessionOutputAll(session)
            for kind, names, found in (("input", shapes, inputs), ("output", stage.outputs, outputs)):
                if lost := [name for name in names if name not in found]:
                    raise UnsupportedError(f"MNN's form of {stage.path} has no {kind} {lost[0]}.", path=stage.path)
            for name, shape in shapes.items():
                interpreter.resizeTensor(inputs[name], shape)
            interpreter.resizeSession(session)
        views = {name: self._view(inputs[name], name) for name in shapes}
        views |= {name: self._view(outputs[name], name) for name in stage.outputs}
        return MnnSession(session, views)

    def _view(self, tensor: Any, name: str) -> np.ndarray:
        """Return the memory of a session's tensor."""
        view: np.ndarray = tensor.getNumpyData()
        if not view.size:
            raise UnsupportedError(
                f"MNN cannot run {self._stage.path}: it finds no shape for {name}.", path=self._stage.path
            )
        return view

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Callable[[], object]:
        """Tie arrays to a session, which has memory of its own; each run copies in and out.

        Raises:
            BundleError: a tensor is not the stage's.
            MissingError: memory is too small.
        """
        (session, views), self._spare = self._spare or self._start(), None
        for name, array in {**inputs, **outputs}.items():
            if name not in views or views[name].shape != array.shape:
                found = list(views[name].shape) if name in views else "no such tensor"
                raise BundleError(
                    f"{name} is {list(array.shape)}, and in MNN's form of {self._stage.path} it is {found}. "
                    "Export the network anew.",
                    path=self._stage.path,
                )
        into = [(views[name], array) for name, array in inputs.items()]
        whole = [pair for pair in into if pair[0].dtype != pair[1].dtype and pair[1].dtype.kind in "iu"]
        out = [(array, views[name]) for name, array in outputs.items()]
        interpreter = self._interpreter
        run_session = interpreter.runSession

        def run() -> None:
            for place, array in into:
                place[...] = array
            for place, array in whole:
                if not (place == array).all():
                    raise ValueError("MNN has no whole numbers beyond 32 bits")
            if code := run_session(session):
                raise RuntimeError(f"MNN ends with error {code}")
            for array, place in out:
                array[...] = place

        return run

    def infer(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Run the stage once into new arrays."""
        session = self._spare = self._spare or self._start()
        arrays = {name: np.empty_like(session.views[name]) for name in outputs}
        run = self.bind(inputs, arrays)
        self._spare = session
        run()
        return arrays

    def try_zeros(self) -> None:
        """Run zeros.

        Raises:
            UnsupportedError: MNN cannot.
        """
        names = pin_shapes(self._stage, f"{PACKAGE}:{PLACE}")
        assert self._spare is not None
        try:
            self.infer({name: np.zeros_like(self._spare.views[name]) for name in names}, self._stage.outputs)
        except RuntimeError as error:
            raise UnsupportedError(f"MNN cannot run {self._stage.path}: {error}.", path=self._stage.path) from error

    def clone(self) -> "MnnStage":
        """Return the stage loaded once more: of an interpreter one session runs at a time."""
        return self._load()


class MnnSession(NamedTuple):
    """What runs, and the memory of its inputs and outputs by name."""

    session: Any
    views: dict[str, np.ndarray]


def _import() -> Any:
    with printing_to_stderr(drops=True):
        return require("MNN", extra="mnn")


def _check(place: str) -> Any:
    if place != PLACE:
        raise MissingError(
            f"MNN has no place {place!r:.60}. It has {PLACE}, as {PACKAGE}:{PLACE}.", device=f"{PACKAGE}:{place}"
        )
    return _import()
