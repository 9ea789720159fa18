"""pnnx, which makes ncnn's two files of an ONNX file. It runs in a process of its own, as do the first runs of what it made."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...bundle import Tensor
from ...errors import MissingError, UnsupportedError, quoted, require
from ..graph_bytes import GraphNode
from ..graph_values import edit_nodes, read_array, read_model, read_operator, write_array, write_node
from . import StageFile

__all__ = ["convert", "single_shape"]

TRIAL = """
import sys
import ncnn
import numpy

net = ncnn.Net()
net.opt.use_vulkan_compute, net.opt.num_threads = False, 1
failed = net.load_param("stage.ncnn.param") or net.load_model("stage.ncnn.bin")
extractor = net.create_extractor()
for k, shape in enumerate(sys.argv[2:]):
    zeros = numpy.zeros([int(axis) for axis in shape.split(",")], numpy.float32)
    failed = failed or extractor.input(f"in{k}", ncnn.Mat(zeros).clone())
for k in range(int(sys.argv[1])):
    code, made = extractor.extract(f"out{k}")
    failed = failed or code or made.empty()  # which NumPy would read, and end the process
sys.exit(bool(failed))
"""
"""Runs zeros in a process of its own, since ncnn does not check shapes and ends the process where they do not fit."""

MOST_SECONDS = 600
"""A conversion takes less than a second for most networks."""


def convert(
    model: bytes, inputs: Sequence[Tensor], outputs: int, stage: StageFile, *, half: bool
) -> tuple[bytes, bytes]:
    """Return ncnn's two files of a model with those inputs and so many outputs.

    Raises:
        MissingError: pnnx is missing.
        UnsupportedError: pnnx does not convert the model, or to what ncnn does not run.
    """
    converter = find_converter()
    with tempfile.TemporaryDirectory(prefix="offramp.") as folder:
        Path(folder, "stage.onnx").write_bytes(_spread_reductions(model))
        written = ",".join(f"[{','.join(map(str, tensor.at(1)))}]" for tensor in inputs)
        command = [converter, "stage.onnx", f"inputshape={written}", f"fp16={int(half)}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(command, capture_output=True, timeout=MOST_SECONDS, cwd=folder, env=environment)
        except subprocess.TimeoutExpired as error:
            raise UnsupportedError(
                f"pnnx did not convert {stage.path} within {MOST_SECONDS} s.", path=stage.path
            ) from error
        param, weights = Path(folder, "stage.ncnn.param"), Path(folder, "stage.ncnn.bin")
        if done.returncode or not param.is_file() or not weights.is_file():
            said = (done.stdout + b"\n" + done.stderr).decode("utf-8", "replace").split("\n")
            telling = [line for line in said if any(word in line.lower() for word in ("error", "fail", "unsupported"))]
            reason = telling[-1] if telling else f"it ends with {done.returncode}"
            raise UnsupportedError(f"pnnx cannot convert {stage.path}: {quoted(reason)}", path=stage.path)
        _try(folder, [single_shape(tensor) for tensor in inputs], outputs, stage)
        return param.read_bytes(), weights.read_bytes()


def _try(folder: str, shapes: Sequence[Sequence[int]], outputs: int, stage: StageFile) -> None:
    """See that ncnn runs what pnnx made.

    Raises:
        UnsupportedError: it lacks an operator, or does not run it.
    """
    param = Path(folder, "stage.ncnn.param").read_text("utf-8", "replace")
    kinds = [line.split()[0] for line in param.splitlines()[2:] if line.strip()]
    if strange := [kind for kind in dict.fromkeys(kinds) if require("ncnn", extra="ncnn").layer_to_index(kind) < 0]:
        raise UnsupportedError(
            f"ncnn has no operator for {', '.join(map(quoted, strange[:5]))}, which pnnx finds in {stage.path}.",
            path=stage.path,
            nodes=tuple(strange),
        )
    command = [sys.executable, "-c", TRIAL, str(outputs), *(",".join(map(str, shape)) for shape in shapes)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=MOST_SECONDS, cwd=folder)
    except subprocess.TimeoutExpired as error:
        raise UnsupportedError(f"ncnn does not run {stage.path} within {MOST_SECONDS} s.", path=stage.path) from error
    if done.returncode:
        raise UnsupportedError(
            f"ncnn does not run what pnnx made of {stage.path}: it ends with {done.returncode}.", path=stage.path
        )


def single_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of a tensor in ncnn, which has no axis for the batch: (None, 3, 32, 32) is (3, 32, 32)."""
    return tuple(size for axis, size in enumerate(tensor.at(1)) if axis != tensor.batch_axis) or (1,)


def find_converter() -> str:
    """Return the path of pnnx, in this environment or on the PATH.

    Raises:
        MissingError: it is not installed.
    """
    spec = importlib.util.find_spec("pnnx")
    places = [Path(folder, "pnnx") for folder in (spec.submodule_search_locations or ())] if spec else []
    found = next((str(path) for path in places if path.is_file()), None) or shutil.which("pnnx")
    if found is None:
        raise MissingError(
            "To convert networks for ncnn takes pnnx: pip install pnnx. A device needs none for a bundle that holds builds for "
            "its version of ncnn: offramp build --into-bundle.",
            package="pnnx",
        )
    return found


def _spread_reductions(model: bytes) -> bytes:
    """Return a model whose reductions over one axis are over two, of which the second has the length 1.

    pnnx forgets the axis of those over one, and ncnn then computes something else.
    """
    arrays = {name.decode(): weight for name, weight in read_model(model).weights.items()}

    def edit(node: GraphNode) -> bytes | None:
        kind, reads, (made, *_), settings = read_operator(node)
        if kind not in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"):
            return None
        axes = settings.get("axes") or (
            read_array(arrays[reads[1]]).tolist() if reads[1:] and reads[1] in arrays else []
        )
        if len(axes) != 1:
            return None
        last, wide, kept, both = (f"{made}.pnnx.{name}" for name in ("last", "wide", "kept", "both"))
        new = [axes[0] if axes[0] >= 0 else axes[0] - 1, -1]
        keeps = settings.get("keepdims", 1)
        written = [write_array(last, [-1]), write_node("Unsqueeze", [reads[0], last], wide)]
        if "axes" in settings:
            written.append(write_node(kind, [wide], kept if keeps else made, node, axes=new))
        else:
            written += [write_array(both, new), write_node(kind, [wide, both], kept if keeps else made, node)]
        if keeps:
            written.append(write_node("Squeeze", [kept, last], made))
        return b"".join(written)

    return edit_nodes(model, edit)
