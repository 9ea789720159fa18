"""A stage's ONNX file to LiteRT's form: a script that runs in an environment with onnx2tf, which offramp itself cannot have.

    python converter.py < job.json    # in an empty folder; onnx2tf prints to stdout and stderr

The script knows nothing of offramp. The job has `onnx` (a path), `inputs` (name and fixed shape of each), `outputs` (names) and
`boundaries` (names of those that only stages see). The script writes `stage.tflite` and `reply.json`, which has the version of
onnx2tf, or `error` with its `kind` (`unsupported` or `missing`). It asks nothing of the network.

onnx2tf takes layouts from shapes, and may turn what it reads and writes. So inputs keep their shapes, outputs of more than two
axes are written flat, and maps at boundaries are channels last, as LiteRT computes them: their names end in `CHANNELS_LAST`. What
was made is compared with the stage.
"""

import importlib.metadata
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .int8 import Scales

MOST_ERROR = 1e-3
"""How far what was made may be off for random numbers, relative to the largest if that is above 1. Rounding differs by 1e-5."""

CHANNELS_LAST = " channels last"
"""Ends the name of an input or output that holds a map as (N, H, W, C)."""


class RefusedStage(Exception):
    """onnx2tf does not take something in the stage."""


def main() -> None:
    """Read a job from stdin and do it."""
    reply: dict[str, Any]
    sys.path.append(str(Path(__file__).parent))  # Python runs with -I, and so does not look here
    try:
        reply = convert(json.load(sys.stdin))
    except RefusedStage as error:
        reply = {"error": str(error), "kind": "unsupported"}
    except ImportError as error:
        reply = {"error": str(error), "kind": "missing"}
    Path("reply.json").write_text(json.dumps(reply))


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Convert the stage of a job.

    Raises:
        RefusedStage: onnx2tf refuses the stage; has its reason.
    """
    import onnx2tf
    from int8 import quantise

    names, scales = prepare(job)
    try:
        onnx2tf.convert(
            input_onnx_file_path="stage.onnx",
            output_folder_path="made",
            keep_shape_absolutely_input_names=names,
            not_use_onnxsim=True,  # it runs the graph with random numbers; `prepare` has simplified it
            verbosity="error",
        )
        Path("made/stage_float32.tflite").replace("stage.tflite")
        compare()
        if scales is not None:
            made = Path("stage.tflite")
            made.write_bytes(quantise(made.read_bytes(), scales, CHANNELS_LAST))
    except (ImportError, RefusedStage):
        raise
    except (Exception, SystemExit) as error:
        raise RefusedStage(_reason(error)) from error
    return {"toolkit": importlib.metadata.version("onnx2tf")}


def prepare(job: dict[str, Any]) -> "tuple[list[str], Scales | None]":
    """Write `stage.onnx`: the stage of a job at fixed shapes, with no outputs but those wanted, and what is constant worked out.

    Returns:
        The names of its inputs, and what a quantised stage says of its tensors, which `stage.onnx` has in float32.

    Raises:
        RefusedStage: ONNX Runtime refuses the stage.
    """
    import onnx
    import onnxruntime
    from int8 import take_scales

    model = onnx.load(job["onnx"])
    graph = model.graph
    shapes = {tensor["name"]: tensor["shape"] for tensor in job["inputs"]}
    for value in graph.input:
        axes = value.type.tensor_type.shape.dim
        for axis, length in zip(axes, shapes[value.name], strict=True):
            axis.dim_value = length
    scales = take_scales(model) if any(node.op_type == "DequantizeLinear" for node in graph.node) else None
    kept = [value for value in graph.output if value.name in job["outputs"]]
    for value in kept:
        value.type.tensor_type.ClearField("shape")
    del graph.output[:], graph.value_info[:]
    graph.output.extend(kept)
    onnx.save_model(model, "fixed.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = "folded.onnx"
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession("fixed.onnx", options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise RefusedStage(_reason(error)) from error
    model = onnx.shape_inference.infer_shapes(onnx.load("folded.onnx"), data_prop=True)
    lay_out(model, job["boundaries"])
    onnx.save_model(model, "stage.onnx")
    return [value.name for value in model.graph.input], scales


def lay_out(model: Any, boundaries: list[str]) -> None:
    """Write maps at boundaries channels last, and other outputs of more than two axes flat."""
    from onnx import TensorProto, helper

    graph = model.graph
    nodes: list[Any] = []
    read, made, tails = (
        {},
        {},
        {},
    )  # the inside's names of what is read and of what is made; the nodes behind what is made

    def read_shape(value: Any) -> list[int]:
        return [axis.dim_value for axis in value.type.tensor_type.shape.dim]

    def is_map(value: Any) -> bool:
        is_float = value.type.tensor_type.elem_type == TensorProto.FLOAT
        return value.name in boundaries and is_float and len(read_shape(value)) == 4 and all(read_shape(value))

    def replace(value: Any, ending: str, shape: list[int]) -> tuple[str, str]:
        """Put another tensor in a value's place; return the value's name and the other's."""
        name = value.name
        value.CopyFrom(helper.make_tensor_value_info(name + ending, value.type.tensor_type.elem_type, shape))
        return name, name + ending

    for value in filter(is_map, graph.input):
        n, c, h, w = read_shape(value)
        name, last = replace(value, CHANNELS_LAST, [n, h, w, c])
        read[name] = f"{name} inside"
        nodes.append(helper.make_node("Transpose", [last], [read[name]], perm=[0, 3, 1, 2]))
    for value in graph.output:
        if is_map(value):
            n, c, h, w = read_shape(value)
            name, last = replace(value, CHANNELS_LAST, [n, h, w, c])
            made[name], read[name] = f"{name} made", f"{name} inside"
            tails[name] = [helper.make_node("Transpose", [made[name]], [last], perm=[0, 2, 3, 1])]
            # What reads the map inside reads it from there, too, else onnx2tf transposes in the midst of convolutions.
            tails[name].append(helper.make_node("Transpose", [last], [read[name]], perm=[0, 3, 1, 2]))
        elif len(read_shape(value)) > 2:
            name, _ = replace(value, "", [1, math.prod(read_shape(value))])
            made[name] = read[name] = f"{name} made"
            graph.initializer.append(helper.make_tensor(f"{name} flat", TensorProto.INT64, [2], [1, -1]))
            tails[name] = [helper.make_node("Reshape", [made[name], f"{name} flat"], [name])]
    for node in graph.node:
        outputs = list(node.output)
        node.input[:] = [read.get(name, name) for name in node.input]
        node.output[:] = [made.get(name, name) for name in outputs]
        nodes += [node, *(tail for name in outputs for tail in tails.get(name, ()))]
    kept = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)


def compare() -> None:
    """See that `stage.tflite` computes what `stage.onnx` does.

    Raises:
        RefusedStage: it does not.
    """
    import numpy as np
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    session = onnxruntime.InferenceSession("stage.onnx", providers=["CPUExecutionProvider"])
    interpreter = Interpreter("stage.tflite")
    interpreter.allocate_tensors()
    rng, feeds = np.random.default_rng(0), {}
    for tensor in interpreter.get_input_details():
        is_float, shape = np.dtype(tensor["dtype"]).kind == "f", tensor["shape"]
        # An image of 0 and 1 alone, divided by 255, would hide that it is turned; what is no image may be indices of a table.
        is_image = len(shape) == 4 and tensor["dtype"] == np.uint8
        values = rng.standard_normal(shape) if is_float else rng.integers(0, 256 if is_image else 2, shape)
        feeds[tensor["name"]] = values.astype(tensor["dtype"])
        interpreter.set_tensor(tensor["index"], feeds[tensor["name"]])
    interpreter.invoke()
    found = {tensor["name"]: interpreter.get_tensor(tensor["index"]) for tensor in interpreter.get_output_details()}
    names = [output.name for output in session.get_outputs()]
    for name, expected in zip(names, session.run(names, feeds), strict=True):
        if expected.dtype.kind != "f" or not expected.size:
            continue
        error = np.abs(found[name] - expected).max() if found[name].shape == expected.shape else np.inf
        if not error <= MOST_ERROR * max(1.0, np.abs(expected).max()):
            raise RefusedStage(f"what it made computes another {name}, off by {error:.2g}")


def _reason(error: BaseException) -> str:
    """Return what the first of a row of errors says, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
