"""A stage's ONNX file to LiteRT's form: a script that runs in an environment with onnx2tf, which offramp itself cannot have.

    python converter.py < job.json    # in an empty folder; onnx2tf prints to stdout and stderr

The script knows nothing of offramp. The job has `onnx` (a path), `inputs` (name and fixed shape of each) and `outputs` (names).
The script writes `stage.tflite` and `reply.json`, which has the version of onnx2tf, or `error` with its `kind` (`unsupported` or
`missing`). It asks nothing of the network.

Inputs and outputs keep the shapes that they have in ONNX: (N, C, H, W) stays so, and the file transposes.
"""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any


class UnsupportedStage(Exception):
    """onnx2tf does not take something in the stage."""


def main() -> None:
    """Read a job from stdin and do it."""
    reply: dict[str, Any]
    try:
        reply = convert(json.load(sys.stdin))
    except UnsupportedStage as error:
        reply = {"error": str(error), "kind": "unsupported"}
    except ImportError as error:
        reply = {"error": str(error), "kind": "missing"}
    Path("reply.json").write_text(json.dumps(reply))


def convert(job: dict[str, Any]) -> dict[str, Any]:
    """Convert the stage of a job.

    Raises:
        UnsupportedStage: onnx2tf refuses the stage; has its reason.
    """
    import onnx2tf

    prepare(job)
    try:
        onnx2tf.convert(
            input_onnx_file_path="stage.onnx",
            output_folder_path="made",
            keep_shape_absolutely_input_names=[tensor["name"] for tensor in job["inputs"]],
            not_use_onnxsim=True,  # it runs the graph with random numbers; `prepare` has simplified it
            verbosity="error",
        )
        Path("made/stage_float32.tflite").replace("stage.tflite")
    except ImportError:
        raise
    except (Exception, SystemExit) as error:
        raise UnsupportedStage(_reason(error)) from error
    return {"toolkit": importlib.metadata.version("onnx2tf")}


def prepare(job: dict[str, Any]) -> None:
    """Write `stage.onnx`: the stage of a job at fixed shapes, with no outputs but those wanted, and what is constant worked out.

    Raises:
        UnsupportedStage: ONNX Runtime refuses the stage.
    """
    import onnx
    import onnxruntime

    model = onnx.load(job["onnx"])
    graph = model.graph
    shapes = {tensor["name"]: tensor["shape"] for tensor in job["inputs"]}
    for value in graph.input:
        axes = value.type.tensor_type.shape.dim
        for axis, length in zip(axes, shapes[value.name], strict=True):
            axis.dim_value = length
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
        raise UnsupportedStage(_reason(error)) from error
    model = onnx.shape_inference.infer_shapes(onnx.load("folded.onnx"), data_prop=True)
    onnx.save_model(model, "stage.onnx")


def _reason(error: BaseException) -> str:
    """Return what the first of a row of errors says, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    main()
