"""Stages by Google's LiteRT, which was TensorFlow Lite: `litert:cpu`, or a delegate's library for another processor.

On `litert:cpu` XNNPACK computes. `litert:/usr/lib/libvx_delegate.so?option=value` loads the library of a delegate, as makers of
NPUs offer it, with its options. A stage is converted by onnx2tf, which wants exact versions of many packages and so has an
environment of its own; a build is the `.tflite` file, the same for all places and processors. What is quantised in the bundle
computes in int8, by its own scales.

The converter may err in silence, so what was converted must give the golden answers.
"""

import ctypes
import os
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....errors import BundleError, MissingError, UnsupportedError, UsageError, quoted, require
from .. import StageFile, pin_shapes, raise_out_of_memory

if TYPE_CHECKING:
    from .stage import LiteRtStage

__all__ = ["CONVERTS", "PACKAGE", "build", "compile_stage", "describe_build", "list_places"]

PACKAGE = "ai-edge-litert"

CONVERTS = True

PLACE = "cpu"

BUILD_FORM = 1
"""The version of a build's form. Counted up if the converter changes so that older builds do not fit."""


def list_places() -> dict[str, str]:
    """Return the CPU. Delegates are libraries, which nobody lists.

    Raises:
        MissingError: the package is not installed or does not load.
    """
    from .toolkit import TOOLKIT

    _import()
    try:
        converter = f"stages are converted in {TOOLKIT.find_python().parents[1]}"
    except MissingError:
        converter = "stages cannot be converted here (offramp build says what is missing), only run"
    return {PLACE: f"the processor, in float32 and int8; {converter}"}


def describe_build(place: str) -> dict[str, str]:
    """Return the form of the build, which neither the place nor the processor nor the number of threads decides."""
    _parse(place)
    form = {"engine": PACKAGE, "device": "litert", "architecture": "any", "threads": "any"}
    return form | {"offramp": f"form {BUILD_FORM}"}


def build(stage: StageFile, place: str, *, threads: int) -> bytes:
    """Convert a stage at batch 1 with onnx2tf, and try whether it runs.

    Raises:
        MissingError: the package is missing, there is no environment with onnx2tf, or memory is too small.
        UnsupportedError: onnx2tf cannot convert the stage, LiteRT cannot run it, or an axis has a name.
    """
    from .toolkit import TOOLKIT

    _parse(place)
    _import()
    shapes = pin_shapes(stage, f"litert:{place}")
    if halves := [tensor.name for tensor in stage.inputs if tensor.dtype == "float16"]:
        raise UnsupportedError(
            f"LiteRT's converter takes no float16, as {halves[0]} of {stage.path} is. Load a variant in float32 or int8 on it.",
            path=stage.path,
        )
    python = TOOLKIT.find_python()
    job = {
        "onnx": os.path.realpath(stage.copied()),
        "inputs": [{"name": tensor.name, "shape": shapes[tensor.name]} for tensor in stage.inputs],
        "outputs": stage.outputs,
        "boundaries": sorted(stage.boundaries),
    }
    with tempfile.TemporaryDirectory(prefix="offramp.") as folder:
        reply, content, _ = TOOLKIT.convert(python, job, Path(folder))
    if "error" in reply:
        raise UnsupportedError(f"onnx2tf cannot convert {stage.path}: {quoted(reply['error'])}.", path=stage.path)
    try:
        _open(content, stage, place, threads).try_zeros()
    except BundleError as error:
        raise UnsupportedError(f"LiteRT cannot run what onnx2tf makes of it: {error}", path=stage.path) from error
    return content


def compile_stage(stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> "LiteRtStage":
    """Load the build of a stage, or build it.

    Raises:
        MissingError: the package, the delegate or the environment of the converter is missing, or memory is too small.
        UnsupportedError: LiteRT cannot run the stage, or a delegate takes nothing of it.
        BundleError: LiteRT cannot read the build.
    """
    return _open(build(stage, place, threads=threads) if built is None else built, stage, place, threads)


def _open(content: bytes, stage: StageFile, place: str, threads: int) -> "LiteRtStage":
    from .stage import LiteRtStage

    library, options = _parse(place)
    start = partial(_start, _import(), content, library, options, threads)
    try:
        return LiteRtStage(start, stage, library)
    except (MissingError, UnsupportedError):
        raise
    except Exception as error:  # ValueError or RuntimeError
        raise_out_of_memory(error, stage.path, place)
        raise BundleError(f"LiteRT cannot load the build of {stage.path}: {quoted(error)}", path=stage.path) from error


def _start(litert: Any, content: bytes, library: str | None, options: dict[str, str], threads: int) -> Any:
    """Return an interpreter of a stage, with its memory.

    Raises:
        MissingError: a delegate cannot be loaded.
    """
    kinds = litert.OpResolverType
    if library is None:
        interpreter = litert.Interpreter(model_content=content, num_threads=threads)
    else:
        try:
            ctypes.CDLL(library).tflite_plugin_create_delegate  # noqa: B018  # else LiteRT prints a traceback of its own
            delegate = litert.load_delegate(library, options)
        except (OSError, AttributeError, ValueError) as error:  # no library, another one, or one that finds no device
            raise MissingError(
                f"LiteRT cannot load the delegate {quoted(library)}: {quoted(error) or 'it does not say why'}. It comes with the "
                "software of the NPU, for this processor.",
                path=library,
            ) from error
        # XNNPACK does not take what is left: each node that is in a delegate is in the one that was asked for.
        interpreter = litert.Interpreter(
            model_content=content,
            num_threads=threads,
            experimental_delegates=[delegate],
            experimental_op_resolver_type=kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    interpreter.allocate_tensors()
    return interpreter


def _parse(place: str) -> tuple[str | None, dict[str, str]]:
    """Return the library of a delegate and its options: none for the CPU.

    Raises:
        MissingError: LiteRT has no such place.
        UsageError: the options are not written as `name=value`.
    """
    if place == PLACE:
        return None, {}
    library, _, text = place.partition("?")
    if not re.search(r"\.(so|dylib|dll)\b", library):
        raise MissingError(
            f"LiteRT has no place {place!r:.60}. It has {PLACE}, as litert:{PLACE}, and the libraries of delegates, as "
            "litert:/usr/lib/libvx_delegate.so.",
            device=f"litert:{place}",
        )
    pairs = [part.partition("=") for part in text.split("&") if part]
    if any(not equals for _, equals, _ in pairs):
        raise UsageError(
            f"Options of a delegate look like litert:{library}?name=value&other=value, not ?{quoted(text)}.",
            device=f"litert:{place}",
        )
    return library, {name: value for name, _, value in pairs}


def _import() -> Any:
    return require("ai_edge_litert.interpreter", extra="litert")
