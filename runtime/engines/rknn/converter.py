"""A stage's ONNX file to Rockchip's form: a script that `engines/rknn.py` runs in an environment that has rknn-toolkit2.

    python converter.py < job.json    # in an empty folder; rknn-toolkit2 prints to stdout and stderr

It knows nothing of offramp. The job names `onnx` (a path), `soc`, `inputs` (name and fixed shape of each) and `outputs` (their
names, in the order wanted). It leaves `reply.json`, what was made or `error` with its `kind` (`unsupported`, `missing`), and
beside it `stage.rknn`.

Tensors in 8 bits that stages of a quantised network hand over become float32 here: rknn-toolkit2 takes QuantizeLinear and
DequantizeLinear inside a graph only, not at its border. `reply.json` has their scales and zero points for who runs the stage.
"""

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NEWEST_OPSET = 19
"""The newest one that rknn-toolkit2 2.5 reads."""


class UnsupportedStage(Exception):
    """The stage holds what rknn-toolkit2 does not take."""


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

    return RKNN(verbose=True)  # only then does it tell what runs where


def convert(job: dict[str, Any], rknn: Any) -> dict[str, Any]:
    """Convert the stage of a job with an RKNN object, which can then simulate it.

    Raises:
        UnsupportedStage: with the reason.
    """
    import onnx

    model, inputs, outputs = prepare(job)
    onnx.save_model(model, "stage.onnx")
    # rknn-toolkit2 says of itself that level 3 makes quantised models less accurate than level 2.
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
        except Exception as error:  # it raises ValueError with a traceback inside, and whatever it stumbles over
            raise UnsupportedStage(_last_line(error)) from error
        if code != 0:
            raise UnsupportedStage(f"rknn-toolkit2 says no more than that it failed to {name} the stage")
    return {"toolkit": importlib.metadata.version("rknn-toolkit2"), "inputs": inputs, "outputs": outputs}


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("ValueError: ") if lines else type(error).__name__


def prepare(job: dict[str, Any]) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the stage as rknn-toolkit2 takes it, and how its inputs and outputs differ from the stage's own.

    Raises:
        UnsupportedStage: it has control flow, or cannot be brought to the opset.
    """
    import onnx
    from onnx import TensorProto, helper, version_converter

    model = onnx.load(job["onnx"])
    for node in model.graph.node:
        if any(attribute.type in (5, 10) for attribute in node.attribute):  # graphs
            raise UnsupportedStage(
                f"the node {node.name or node.output[0]} is an {node.op_type}, and NPUs take no branches"
            )
    if any(known.domain in ("", "ai.onnx") and known.version > NEWEST_OPSET for known in model.opset_import):
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
    inputs = [border.read(tensor) for tensor in job["inputs"]]
    shapes = {tensor["name"]: tensor["shape"] for tensor in job["inputs"]}
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    outputs = [border.write(name) for name in job["outputs"]]
    nodes = [*border.before, *graph.node]
    values = [
        helper.make_tensor_value_info(
            one["tensor"], TensorProto.FLOAT if "scale" in one else types[one["name"]], shapes[one["name"]]
        )
        for one in inputs
    ]
    del graph.node[:], graph.input[:], graph.output[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.input.extend(values)
    graph.output.extend(
        helper.make_tensor_value_info(one["tensor"], TensorProto.FLOAT if "scale" in one else types[one["name"]], None)
        for one in outputs
        if "tensor" in one
    )
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
    """Leave the attribute `layout` of recurrent nodes out where it says what is so without it: rknn-toolkit2 stumbles over it."""
    kept = [attribute for attribute in node.attribute if attribute.name != "layout" or attribute.i != 0]
    if len(kept) < len(node.attribute):
        del node.attribute[:]
        node.attribute.extend(kept)


def _widen_weights(graph: Any) -> None:
    """Write weights that fill 7 bits only, for processors, in 8: every number twice as large, its scale half as large.

    With 7 bits rknn-toolkit2 2.5 computes products that are 0.8 % too large.
    """
    import numpy as np
    from onnx import numpy_helper

    stored = {value.name: value for value in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in stored:
            weights = numpy_helper.to_array(stored[node.input[0]])
            if weights.dtype == np.int8 and weights.size and np.abs(weights.astype(int)).max() <= 64:
                scale = numpy_helper.to_array(stored[node.input[1]])
                doubled = np.minimum(weights.astype(int) * 2, 127).astype(np.int8)  # 64 doubled is one too many
                for k, values in enumerate((doubled, scale / np.float32(2))):
                    name = f"{node.output[0]}.wide{k}"
                    graph.initializer.append(numpy_helper.from_array(values, name))
                    node.input[k] = name


def _part_readers(graph: Any) -> None:
    """Give every reader of a dequantised tensor a DequantizeLinear of its own: rknn-toolkit2 loses types where they share one."""
    from onnx import helper

    makers = {name: node for node in graph.node for name in node.output}
    nodes, read = [], set()
    for node in graph.node:
        for k, name in enumerate(node.input):
            maker = makers.get(name)
            if maker is None or maker.op_type != "DequantizeLinear":
                continue
            if name in read:
                own = f"{name}.for.{node.output[0]}.{k}"
                copy = helper.make_node("DequantizeLinear", maker.input, [own], name=own)
                copy.attribute.extend(maker.attribute)
                nodes.append(copy)
                node.input[k] = own
            read.add(name)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


class _Border:
    """Moves the quantisation of tensors that enter or leave a graph out of it."""

    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.before: list[Any] = []
        self._types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._inputs = {*self._types}
        self._numbers = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers = {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}

    def read(self, tensor: dict[str, Any]) -> dict[str, Any]:
        from onnx import helper

        name = tensor["name"]
        reader = self._readers.get(name)
        if reader is None and self._types.get(name) in (2, 3):  # uint8 and int8, such as pixels
            return {"name": name, "tensor": name, "scale": 1.0, "zero_point": 0}
        if reader is None:
            return {"name": name, "tensor": name}
        made = f"{name}.float"
        self.before.append(
            helper.make_node("QuantizeLinear", [made, *reader.input[1:]], [name], name=f"{name}.quantize")
        )
        return {"name": name, "tensor": made, **self._scale(reader)}

    def write(self, name: str) -> dict[str, Any]:
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
