"""A stage's ONNX file to Rockchip's form: a script that `toolkit.py` beside it runs in an environment that has rknn-toolkit2.

    python converter.py < job.json    # in an empty folder; rknn-toolkit2 prints to stdout and stderr

The script knows nothing of offramp. The job has `onnx` (a path), `soc`, `inputs` (name and fixed shape of each) and `outputs`
(names, in the order wanted). The script writes `stage.rknn` and `reply.json`, which has the toolkit's version and the edges of
the stage, or `error` with its `kind` (`unsupported` or `missing`).

Stages of a quantised network hand over tensors in 8 bits. Here they become float32, since rknn-toolkit2 takes QuantizeLinear and
DequantizeLinear only inside a graph, not at its border. `reply.json` has their scales and zero points, by which the stage is run.
"""

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NEWEST_OPSET = 19
"""The newest opset that rknn-toolkit2 2.5 reads."""


class UnsupportedStage(Exception):
    """rknn-toolkit2 does not take something in the stage."""


def main() -> None:
    """Read a job from stdin and do it."""
    reply: dict[str, Any]
    try:
        reply = convert(json.load(sys.stdin), _start())
    except UnsupportedStage as error:
        reply = {"error": str(error), "kind": "unsupported"}
    except ImportError as error:
        reply = {"error": str(error), "kind": "missing"}
    Path("reply.json").write_text(json.dumps(reply))


def _start() -> Any:
    from rknn.api import RKNN

    return RKNN(verbose=True)  # only then does it print which layer runs where


def convert(job: dict[str, Any], rknn: Any) -> dict[str, Any]:
    """Convert the stage of a job with an RKNN object, which can then simulate the stage.

    Raises:
        UnsupportedStage: rknn-toolkit2 refuses the stage; has its reason.
    """
    import onnx

    model, inputs, outputs = prepare(job)
    onnx.save_model(model, "stage.onnx")
    # rknn-toolkit2's own words: level 3 makes quantised models less accurate than level 2.
    level = 2 if any(node.op_type == "QuantizeLinear" for node in model.graph.node) else 3
    steps: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("config", lambda: rknn.config(target_platform=job["soc"], optimization_level=level)),
        ("load", lambda: rknn.load_onnx("stage.onnx")),
        ("build", lambda: rknn.build(do_quantization=False)),
        ("export", lambda: rknn.export_rknn("stage.rknn")),
    )
    for name, step in steps:
        try:
            code = step()
        except Exception as error:  # ValueError with a traceback inside, or any other error
            raise UnsupportedStage(_last_line(error)) from error
        if code != 0:
            raise UnsupportedStage(f"rknn-toolkit2 says no more than that it failed to {name} the stage")
    return {"toolkit": importlib.metadata.version("rknn-toolkit2"), "inputs": inputs, "outputs": outputs}


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("ValueError: ") if lines else type(error).__name__


def prepare(job: dict[str, Any]) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the stage as rknn-toolkit2 takes it, and the edges: for each input and output its name and what stands in its place.

    Raises:
        UnsupportedStage: the stage has control flow, or cannot be converted to the opset.
    """
    import onnx
    from onnx import TensorProto, helper, version_converter

    model = onnx.load(job["onnx"])
    for node in model.graph.node:
        if any(attribute.type in (5, 10) for attribute in node.attribute):  # graphs
            raise UnsupportedStage(
                f"the node {node.name or node.output[0]} is an {node.op_type}, and NPUs take no branches"
            )
    if any(opset.domain in ("", "ai.onnx") and opset.version > NEWEST_OPSET for opset in model.opset_import):
        _spell_gelu(model)
        try:
            model = version_converter.convert_version(model, NEWEST_OPSET)
        except Exception as error:
            raise UnsupportedStage(f"it is not to be had in opset {NEWEST_OPSET}: {_last_line(error)}") from error
    graph = model.graph
    for node in graph.node:
        _drop_layout(node)
    _widen_weights(graph)
    _part_readers(graph)
    border = _Border(graph)
    inputs = [border.read_input(tensor["name"]) for tensor in job["inputs"]]
    shapes = {tensor["name"]: tensor["shape"] for tensor in job["inputs"]}
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    outputs = [border.write_output(name) for name in job["outputs"]]
    nodes = [*border.before, *graph.node]

    def make_value(edge: dict[str, Any], shape: Any) -> Any:
        dtype = TensorProto.FLOAT if "scale" in edge else types[edge["name"]]
        return helper.make_tensor_value_info(edge["tensor"], dtype, shape)

    in_values = [make_value(edge, shapes[edge["name"]]) for edge in inputs]
    out_values = [make_value(edge, None) for edge in outputs if "tensor" in edge]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.input.extend(in_values)
    graph.output.extend(out_values)
    return onnx.shape_inference.infer_shapes(model, data_prop=True), inputs, outputs


def _spell_gelu(model: Any) -> None:
    """Write Gelu, which is newer than the opset, out as ONNX defines it: x / 2 * (1 + erf(x / sqrt 2)), or with tanh."""
    import math

    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    if not any(node.op_type == "Gelu" for node in graph.node):
        return
    typed = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*typed.input, *typed.value_info)}
    nodes: list[Any] = []
    for node in graph.node:
        if node.op_type != "Gelu":
            nodes.append(node)
            continue
        (x,), (y,) = node.input, node.output
        dtype = helper.tensor_dtype_to_np_dtype(types.get(x, onnx.TensorProto.FLOAT))

        def add(
            kind: str, a: str, b: str | float | None = None, *, to: str = "", y: str = y, dtype: Any = dtype
        ) -> str:
            name = to or f"{y}.{len(nodes)}"
            if isinstance(b, float):
                graph.initializer.append(numpy_helper.from_array(np.array(b, dtype), f"{name}.by"))
                b = f"{name}.by"
            nodes.append(helper.make_node(kind, [a] if b is None else [a, b], [name], name=name))
            return name

        if any(attribute.s == b"tanh" for attribute in node.attribute):
            cubed = add("Mul", add("Mul", add("Mul", x, x), x), 0.044715)
            bent = add("Tanh", add("Mul", add("Add", x, cubed), math.sqrt(2 / math.pi)))
        else:
            bent = add("Erf", add("Div", x, math.sqrt(2)))
        add("Mul", add("Mul", x, add("Add", bent, 1.0)), 0.5, to=y)
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_layout(node: Any) -> None:
    """Remove the attribute `layout` of a recurrent node if it has its default value: rknn-toolkit2 stumbles over it."""
    attributes = [attribute for attribute in node.attribute if attribute.name != "layout" or attribute.i != 0]
    if len(attributes) < len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(attributes)


def _widen_weights(graph: Any) -> None:
    """Write weights of 7 bits, as processors want them, in 8 bits: every number twice as large, its scale half as large.

    From weights of 7 bits rknn-toolkit2 2.5 computes products that are 0.8 % too large.
    """
    import numpy as np
    from onnx import numpy_helper

    stored = {value.name: value for value in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            weights = numpy_helper.to_array(stored[node.input[0]])
            if weights.dtype == np.int8 and weights.size and np.abs(weights.astype(int)).max() <= 64:
                scale = numpy_helper.to_array(stored[node.input[1]])
                # 64 doubled is 128, one more than int8 holds.
                doubled = np.minimum(weights.astype(int) * 2, 127).astype(np.int8)
                for k, values in enumerate((doubled, scale / np.float32(2))):
                    name = f"{node.output[0]}.wide{k}"
                    graph.initializer.append(numpy_helper.from_array(values, name))
                    node.input[k] = name


def _part_readers(graph: Any) -> None:
    """Give every reader of a dequantised tensor its own DequantizeLinear: rknn-toolkit2 loses types if readers share one."""
    from onnx import helper

    makers = {name: node for node in graph.node for name in node.output}
    nodes, read = [], set()
    for node in graph.node:
        for k, name in enumerate(node.input):
            maker = makers.get(name)
            if maker is None or maker.op_type != "DequantizeLinear":
                continue
            if name in read:
                copied = f"{name}.for.{node.output[0]}.{k}"
                copy = helper.make_node("DequantizeLinear", maker.input, [copied], name=copied)
                copy.attribute.extend(maker.attribute)
                nodes.append(copy)
                node.input[k] = copied
            read.add(name)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


class _Border:
    """Moves the quantisation of a graph's inputs and outputs out of the graph.

    Attributes:
        before: nodes to run before the graph's own, which quantise inputs that come as float32.
    """

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.before: list[Any] = []
        self._types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._inputs = {*self._types}
        self._numbers = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers = {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}

    def read_input(self, name: str) -> dict[str, Any]:
        """Return the edge of an input; one that the graph dequantises comes as float32 instead."""
        from onnx import helper

        reader = self._readers.get(name)
        if reader is None and self._types.get(name) in (2, 3):  # uint8 and int8, such as pixels
            return {"name": name, "tensor": name, "scale": 1.0, "zero_point": 0}
        if reader is None:
            return {"name": name, "tensor": name}
        float_name = f"{name}.float"
        self.before.append(
            helper.make_node("QuantizeLinear", [float_name, *reader.input[1:]], [name], name=f"{name}.quantize")
        )
        return {"name": name, "tensor": float_name, **self._scale(reader)}

    def write_output(self, name: str) -> dict[str, Any]:
        """Return the edge of an output; one that the graph quantises at its end is taken as float32 before that."""
        maker = self._makers.get(name)
        if maker is None or maker.op_type != "QuantizeLinear":
            return {"name": name, "tensor": name}
        if maker.input[0] in self._inputs:
            return {"name": name, "input": maker.input[0], **self._scale(maker)}
        return {"name": name, "tensor": maker.input[0], **self._scale(maker)}

    def _scale(self, node: Any) -> dict[str, float | int]:
        scale = self._numbers[node.input[1]]
        zero_point = self._numbers[node.input[2]] if len(node.input) > 2 else 0
        return {"scale": float(scale), "zero_point": int(zero_point)}


if __name__ == "__main__":
    main()
