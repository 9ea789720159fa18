"""Stages on the CPU by Alibaba's MNN, which is small and made for Arm: `mnn:cpu`.

The wheel brings the converter from ONNX. It runs in a process of its own, since it prints, and ends the process where it fails. Its
command `mnnconvert` is not used: that one installs a logging package from the network and reports conversions to the vendor.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import BundleError, MissingError, UnsupportedError, quoted, require
from . import HOST, StageFile, pin_shapes, raise_out_of_memory
from ._stdout import printing_to_stderr

__all__ = ["PACKAGE", "build", "compile_stage", "describe_build", "list_places"]

PACKAGE = "mnn"

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
    return {PLACE: "the processor, with half the memory of other engines; float32 unless the stage is int8"}


def describe_build(place: str) -> dict[str, str]:
    """Return the version of MNN; a build fits every processor and any number of threads."""
    return {"engine": f"{PACKAGE} {_import().version()}", "threads": "any"}


def build(stage: StageFile, place: str, *, threads: int) -> bytes:
    """Convert a stage at batch 1 into MNN's own format.

    Raises:
        MissingError: the package is missing, or memory is too small.
        UnsupportedError: MNN cannot convert the stage, or an axis has a name.
    """
    _check(place)
    pin_shapes(stage, f"{PACKAGE}:{place}")
    path = stage.copied()
    with tempfile.TemporaryDirectory(prefix="offramp.") as folder:
        target = Path(folder, "stage.mnn")
        command = [sys.executable, "-c", CONVERT, str(path.absolute()), str(target)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=MOST_SECONDS, cwd=folder)
        except subprocess.TimeoutExpired as error:
            raise UnsupportedError(
                f"MNN did not convert {stage.path} within {MOST_SECONDS} s. Run this stage on the CPU by ONNX Runtime.",
                path=stage.path,
            ) from error
        if done.returncode or not target.is_file():
            lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
            lines += [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
            raise UnsupportedError(
                f"MNN cannot convert {stage.path}: {quoted(_reason(lines))}. Run this stage on the CPU by ONNX Runtime.",
                path=stage.path,
            )
        return target.read_bytes()


def _reason(lines: Sequence[str]) -> str:
    """Return what a converter says of its failure."""
    telling = [
        line for line in lines if any(word in line.lower() for word in ("error", "not support", "can't", "unknown"))
    ]
    return (telling or list(lines) or ["it says nothing"])[-1]


def compile_stage(stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> "MnnStage":
    """Load the build of a stage, or build it.

    Raises:
        MissingError: the package or the place is missing, or memory is too small.
        UnsupportedError: MNN cannot run the stage.
        BundleError: MNN cannot read the build.
    """
    mnn = _check(place)
    content = build(stage, place, threads=threads) if built is None else built
    try:
        with tempfile.TemporaryDirectory(prefix="offramp.") as folder, printing_to_stderr(drops=True):
            path = Path(folder, "stage.mnn")
            path.write_bytes(content)
            interpreter = mnn.Interpreter(str(path))
        return MnnStage(mnn, interpreter, stage, threads)
    except (MissingError, UnsupportedError):
        raise
    except Exception as error:  # MNN raises plain Exception, ValueError or RuntimeError
        raise_out_of_memory(error, stage.path, place)
        raise BundleError(f"MNN cannot load the build of {stage.path}: {quoted(error)}", path=stage.path) from error


class MnnStage:
    """A stage in MNN. Each binding has a session of its own, all of them share the weights; they run one at a time."""

    memory, allocate, batches, half = HOST, None, False, False
    clones = True

    def __init__(self, mnn: Any, interpreter: Any, stage: StageFile, threads: int) -> None:
        self._mnn, self._interpreter, self._stage, self._threads = mnn, interpreter, stage, threads
        self.runs_on = f"MNN {mnn.version()}, CPU"
        session = self._start()
        found = {"input": interpreter.getSessionInputAll(session), "output": interpreter.getSessionOutputAll(session)}
        for kind, names in (("input", [tensor.name for tensor in stage.inputs]), ("output", stage.outputs)):
            if lost := [name for name in names if name not in found[kind]]:
                raise UnsupportedError(
                    f"MNN's form of {stage.path} has no {kind} {lost[0]}. Run this stage on the CPU by ONNX Runtime.",
                    path=stage.path,
                )

    def _start(self) -> Any:
        """Return a session. `high` is float32 throughout."""
        with printing_to_stderr(drops=True):
            session = self._interpreter.createSession(
                {"numThread": self._threads, "precision": "high", "backend": "CPU"}
            )
        if session is None:
            raise UnsupportedError(
                f"MNN cannot run {self._stage.path} on this processor. Run this stage on the CPU by ONNX Runtime.",
                path=self._stage.path,
            )
        return session

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Callable[[], object]:
        """Tie arrays to a session, which has memory of its own; each run copies in and out."""
        interpreter, session = self._interpreter, self._start()
        for name, array in inputs.items():
            interpreter.resizeTensor(self._tensor("input", session, name), tuple(array.shape))
        interpreter.resizeSession(session)
        into = [(self._view("input", session, name), array) for name, array in inputs.items()]
        out = [(array, self._view("output", session, name)) for name, array in outputs.items()]
        for place, array in into + out:
            if place.shape != array.shape:
                raise BundleError(f"MNN makes {list(place.shape)} of {list(array.shape)} in {self._stage.path}.")
        run_session = interpreter.runSession

        def run() -> None:
            for place, array in into:
                place[...] = array
            if code := run_session(session):
                raise RuntimeError(f"MNN ends with error {code}")
            for array, place in out:
                array[...] = place

        return run

    def _tensor(self, kind: str, session: Any, name: str) -> Any:
        find = self._interpreter.getSessionInputAll if kind == "input" else self._interpreter.getSessionOutputAll
        tensors = find(session)
        if name not in tensors:
            raise BundleError(f"{self._stage.path} has no {kind} {name}.", path=self._stage.path)
        return tensors[name]

    def _view(self, kind: str, session: Any, name: str) -> np.ndarray:
        """Return the memory of a session's tensor."""
        view: np.ndarray = self._tensor(kind, session, name).getNumpyData()
        return view

    def infer(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Run the stage once into new arrays."""
        session = self._start()
        for name, array in inputs.items():
            self._interpreter.resizeTensor(self._tensor("input", session, name), tuple(array.shape))
        self._interpreter.resizeSession(session)
        for name, array in inputs.items():
            self._view("input", session, name)[...] = array
        if code := self._interpreter.runSession(session):
            raise RuntimeError(f"MNN ends with error {code}")
        return {name: self._view("output", session, name).copy() for name in outputs}

    def clone(self) -> "MnnStage":
        """Return the stage itself."""
        return self


def _import() -> Any:
    with printing_to_stderr(drops=True):
        return require("MNN", extra="mnn")


def _check(place: str) -> Any:
    if place != PLACE:
        raise MissingError(
            f"MNN has no place {place!r:.60}. It has {PLACE}, as {PACKAGE}:{PLACE}.", device=f"{PACKAGE}:{place}"
        )
    return _import()
