"""Quantised stages for LiteRT: the float form of a stage, and the same computed in int8 by the stage's own scales.

onnx2tf computes in float32 what QuantizeLinear and DequantizeLinear stand around. So `take_scales` takes them out of the ONNX
graph before, and `quantise` puts what they say into the `.tflite` file that was made of the rest. `converter.py` runs both.
"""

from typing import Any, NamedTuple

import numpy as np

KEEP_SCALE = (
    "TRANSPOSE",
    "RESHAPE",
    "SLICE",
    "STRIDED_SLICE",
    "MAX_POOL_2D",
    "AVERAGE_POOL_2D",
    "PAD",
    "SQUEEZE",
    "EXPAND_DIMS",
)
"""Nodes whose output has the scale of their input."""

WEIGHTED = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
"""Nodes with weights, and the axis of these that counts the outputs."""

OTHERS = ("ADD", "SUB", "MUL", "MEAN", "RELU", "RELU6", "CONCATENATION")


class Scale(NamedTuple):
    """real = (quantised - zero point) * scale, with the zero point of int8."""

    scale: float
    zero_point: int


class Scales(NamedTuple):
    """What a quantised graph says.

    Attributes:
        tensors: the scales of its tensors, by name.
        edges: the inputs and outputs in 8 bits, and which.
        clips: the scale of which each upper bound of a Clip tells that stands in the place of a QuantizeLinear.
        weights: its weights as float32, with the scale of each output.
    """

    tensors: dict[str, Scale]
    clips: dict[float, Scale]
    edges: dict[str, str]
    weights: list[tuple[np.ndarray, np.ndarray]]


def take_scales(model: Any) -> Scales:
    """Make a quantised ONNX graph one in float32, its inputs and outputs too; return what it said."""
    from onnx import TensorProto, helper, numpy_helper

    graph, found = model.graph, Scales({}, {}, {}, [])
    numbers = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    ends = {value.name: value for value in (*graph.input, *graph.output)}
    floats: dict[str, str] = {}  # the float32 tensor in whose place a tensor of the graph is
    kept = []

    def note(node: Any, name: str) -> None:
        zero = numbers[node.input[2]] if len(node.input) > 2 else np.uint8(0)
        shift = 128 if zero.dtype == np.uint8 else 0
        found.tensors.setdefault(name, Scale(float(numbers[node.input[1]]), int(zero) - shift))
        for end in {name, node.output[0]} & {*ends}:
            if ends[end].type.tensor_type.elem_type in (TensorProto.UINT8, TensorProto.INT8):
                found.edges[end] = str(zero.dtype)
                ends[end].type.tensor_type.elem_type = TensorProto.FLOAT

    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in numbers:
            values, scale = numbers[node.input[0]], numbers[node.input[1]]
            axis = next((each.i for each in node.attribute if each.name == "axis"), 1) if scale.ndim else 0
            shape = [-1 if k == axis else 1 for k in range(values.ndim)] if scale.ndim else []
            zero = numbers[node.input[2]] if len(node.input) > 2 else np.zeros_like(scale, values.dtype)
            real = (values.astype(np.float32) - zero.astype(np.float32).reshape(shape)) * scale.reshape(shape)
            graph.initializer.append(numpy_helper.from_array(real.astype(np.float32), node.output[0]))
            if values.dtype == np.int8 and not zero.any():
                found.weights.append((np.sort(real.astype(np.float32), None), scale.ravel()))
        elif node.op_type == "DequantizeLinear":
            floats[node.output[0]] = floats.get(node.input[0], node.input[0])
            note(node, floats[node.output[0]])
        elif node.op_type == "QuantizeLinear":
            source = floats.get(node.input[0], node.input[0])
            note(node, source)
            step, zero_point = found.tensors[source]
            # Names do not outlast the conversion, and a ReLU may lie in the quantisation alone: a Clip tells of both. Its upper
            # bound is a little larger, so that no activation that LiteRT knows is made of it.
            low, high = (-128 - zero_point) * step, (127 - zero_point) * step * 1.000001
            name = node.output[0] if node.output[0] in ends else f"{node.output[0]} clipped"
            for bound, value in (("low", low), ("high", high)):
                graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), f"{name} {bound}"))
            kept.append(helper.make_node("Clip", [source, f"{name} low", f"{name} high"], [name]))
            found.clips[float(np.float32(high))] = found.tensors[name] = found.tensors[source]
            floats[node.output[0]] = name
        else:
            copy = type(node).FromString(node.SerializeToString())
            copy.input[:] = [floats.get(name, name) for name in copy.input]
            kept.append(copy)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    return found


def quantise(content: bytes, found: Scales, ending: str) -> bytes:
    """Return a `.tflite` file in which int8 computes whatever has scales; names at its ends may have an ending."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    quantiser = _Quantiser(schema, model, found, ending)
    quantiser.spread()
    quantiser.rewrite()
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Quantiser:
    def __init__(self, schema: Any, model: Any, found: Scales, ending: str) -> None:
        self._schema, self._model, self._graph, self._found = schema, model, model.subgraphs[0], found
        codes = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        self._kinds = [codes[max(code.builtinCode, code.deprecatedBuiltinCode)] for code in model.operatorCodes]
        self._tensors = self._graph.tensors
        self._names = [tensor.name.decode().removesuffix(ending) for tensor in self._tensors]
        self._scales: dict[int, Scale] = {}
        for k, name in enumerate(self._names):
            if name in found.tensors:
                self._learn(k, found.tensors[name])
        self._twins: dict[int, int] = {}  # their forms in int8
        self._reals: dict[int, int] = {}  # these in float32 again
        self._nodes: list[Any] = []

    def spread(self) -> None:
        """Give scales to what clips tell of, and to what is the same in another order."""
        before = -1
        while before < len(self._scales):
            before = len(self._scales)
            for node in self._graph.operators:
                ends = int(node.inputs[0]), int(node.outputs[0])
                told = self._read_clip(node)
                if told is not None:
                    self._learn(ends[1], told)
                if self._keeps_scale(node):
                    for known, other in (ends, ends[::-1]):
                        if known in self._scales:
                            self._learn(other, self._scales[known])

    def _learn(self, k: int, scale: Scale) -> None:
        """Note the scale of a tensor of float32, unless it has one, or is constant."""
        if self._tensors[k].type == self._schema.TensorType.FLOAT32 and self._read(k) is None:
            self._scales.setdefault(k, scale)

    def _read_clip(self, node: Any) -> Scale | None:
        """Return the scale of which a node tells that is the upper half of a Clip."""
        if self._kinds[node.opcodeIndex] != "MINIMUM":
            return None
        bound = self._read(int(node.inputs[1]))
        return self._found.clips.get(float(bound.ravel()[0])) if bound is not None and bound.size == 1 else None

    def _keeps_scale(self, node: Any) -> bool:
        return self._kinds[node.opcodeIndex] in KEEP_SCALE or self._is_clip(node)

    def _is_clip(self, node: Any) -> bool:
        """Tell whether a node is half of a Clip that int8 does by itself."""
        kind, scale = self._kinds[node.opcodeIndex], self._scales.get(int(node.outputs[0]))
        if (
            scale is None
            or kind not in ("MINIMUM", "MAXIMUM", "RELU")
            or self._scales.get(int(node.inputs[0]), scale) != scale
        ):
            return False
        if kind == "RELU":
            return scale.zero_point == -128
        bound = self._read(int(node.inputs[1]))
        low = (-128 - scale.zero_point) * scale.scale
        return (
            bound is not None
            and bound.size == 1
            and (self._read_clip(node) is not None or float(bound.ravel()[0]) == float(np.float32(low)))
        )

    def rewrite(self) -> None:
        """Let nodes compute in int8 where all that they read and write has scales, and convert where these meet others.

        What has a scale is rounded and clipped whatever computes it: a ReLU may be in that alone.
        """
        graph = self._graph
        graph.inputs = [self._put_input(int(k)) for k in graph.inputs]
        for node in graph.operators:
            reads, makes = [int(k) for k in node.inputs], [int(k) for k in node.outputs]
            if self._is_clip(node) and reads[0] in self._scales:
                self._twins[makes[0]] = self._twin(reads[0])
                continue
            if self._fits(node):
                self._fill_weights(node)
                node.inputs = [self._twins.get(int(k), int(k)) for k in node.inputs]
                node.outputs = [self._twin(k) for k in makes]
                self._nodes.append(node)
                continue
            node.inputs = [self._get_real(k) for k in reads]
            raw = {k: self._add(self._tensors[k], "FLOAT32") for k in makes if k in self._scales}
            node.outputs = [raw.get(k, k) for k in makes]
            self._nodes.append(node)
            for k, own in raw.items():
                self._convert("QUANTIZE", own, self._twin(k))
        graph.outputs = [self._put_output(int(k)) for k in graph.outputs]
        graph.operators, self._model.signatureDefs = self._nodes, []

    def _get_real(self, k: int) -> int:
        """Return the number of a tensor in float32; it has gone through int8 if it has a scale."""
        if k in self._scales and k not in self._reals:
            self._reals[k] = self._add(self._tensors[k], "FLOAT32")
            self._convert("DEQUANTIZE", self._twin(k), self._reals[k])
        return self._reals.get(k, k)

    def _fits(self, node: Any) -> bool:
        kind, scales = self._kinds[node.opcodeIndex], self._scales
        inputs, outputs = [int(k) for k in node.inputs], [int(k) for k in node.outputs]
        if not inputs or inputs[0] not in scales or outputs[0] not in scales or len(outputs) > 1:
            return False
        if kind in WEIGHTED:
            return all(k < 0 or self._read(k) is not None for k in inputs[1:])
        if kind in (*KEEP_SCALE, "CONCATENATION"):
            floats = [k for k in inputs if self._tensors[k].type == self._schema.TensorType.FLOAT32]
            return all(scales.get(k) == scales[outputs[0]] for k in floats)
        return kind in OTHERS and all(k in scales for k in inputs if kind != "MEAN" or k == inputs[0])

    def _read(self, k: int) -> np.ndarray | None:
        """Return the numbers of a constant in float32."""
        tensor = self._tensors[k]
        data = self._model.buffers[tensor.buffer].data
        if data is None or not len(data) or tensor.type != self._schema.TensorType.FLOAT32:
            return None
        return np.frombuffer(bytes(data), np.float32).reshape(tensor.shape)

    def _fill_weights(self, node: Any) -> None:
        """Give a node with weights those in int8, and its bias in int32."""
        kind = self._kinds[node.opcodeIndex]
        if kind not in WEIGHTED:
            return
        reads, axis = [int(k) for k in node.inputs], WEIGHTED[kind]
        weights = self._read(reads[1])
        assert weights is not None
        count = weights.shape[axis]
        ordered, largest = (
            np.sort(weights, None),
            np.abs(weights).max(tuple(k for k in range(weights.ndim) if k != axis)),
        )
        scale = next(
            (own for values, own in self._found.weights if own.size in (1, count) and np.array_equal(values, ordered)),
            np.maximum(largest, 1e-30) / 127,  # another one, such as that of a folded normalisation
        )
        scale = np.broadcast_to(scale, count).astype(np.float32)
        shape = [-1 if k == axis else 1 for k in range(weights.ndim)]
        numbers = np.clip(np.rint(weights / scale.reshape(shape)), -127, 127).astype(np.int8)
        reads[1] = self._add(self._tensors[reads[1]], "INT8", scale, np.zeros(count, np.int64), axis, numbers)
        if len(reads) > 2 and reads[2] >= 0:
            bias, both = self._read(reads[2]), scale * np.float32(self._scales[reads[0]].scale)
            assert bias is not None
            whole = np.clip(np.rint(bias / both), -(2**31), 2**31 - 1).astype(np.int32)
            reads[2] = self._add(self._tensors[reads[2]], "INT32", both, np.zeros(count, np.int64), 0, whole)
        node.inputs = reads

    def _twin(self, k: int) -> int:
        """Return the number of a tensor's form in int8."""
        if k not in self._twins:
            scale, zero = self._scales[k]
            self._twins[k] = self._add(self._tensors[k], "INT8", np.array([scale]), np.array([zero]))
        return self._twins[k]

    def _put_input(self, k: int) -> int:
        """Quantise an input, if it has a scale; return the number of the one that the file has."""
        edge = self._make_edge(k)
        if k in self._scales:
            self._convert("QUANTIZE", edge, self._twin(k))
        return edge

    def _put_output(self, k: int) -> int:
        """Return the number of the output that the file has in the place of one."""
        edge = self._make_edge(k)
        if k in self._scales:
            self._convert("DEQUANTIZE" if edge == k else "QUANTIZE", self._twin(k), edge)
        return edge

    def _make_edge(self, k: int) -> int:
        """Return the number of a new tensor in 8 bits for an input or output that shall have them, or of itself."""
        kind = self._found.edges.get(self._names[k])
        if kind is None:
            return k
        (scale, zero), shift = self._scales[k], 128 * (kind == "uint8")
        edge = self._add(self._tensors[k], kind.upper(), np.array([scale]), np.array([zero + shift]))
        self._tensors[edge].name, self._tensors[k].name = self._tensors[k].name, self._tensors[k].name + b" real"
        return edge

    def _add(
        self,
        like: Any,
        kind: str,
        scale: np.ndarray | None = None,
        zero: np.ndarray | None = None,
        axis: int = 0,
        numbers: np.ndarray | None = None,
    ) -> int:
        """Add a tensor like another, of another type; return its number."""
        schema, tensor = self._schema, self._schema.TensorT()
        tensor.shape, tensor.shapeSignature, tensor.hasRank = like.shape, like.shapeSignature, like.hasRank
        tensor.type, tensor.name, tensor.buffer = getattr(schema.TensorType, kind), like.name + b" " + kind.encode(), 0
        if scale is not None and zero is not None:
            quantization = tensor.quantization = schema.QuantizationParametersT()
            quantization.scale, quantization.zeroPoint = scale.astype(np.float32), zero.astype(np.int64)
            quantization.quantizedDimension = axis
        if numbers is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(numbers.tobytes(), np.uint8)
            self._model.buffers.append(buffer)
            tensor.buffer = len(self._model.buffers) - 1
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def _convert(self, kind: str, source: int, target: int) -> None:
        """Add a node that makes one tensor of another."""
        schema, node = self._schema, self._schema.OperatorT()
        if kind not in self._kinds:
            code = schema.OperatorCodeT()
            code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
            code.version = 2
            self._model.operatorCodes.append(code)
            self._kinds.append(kind)
        node.opcodeIndex, node.inputs, node.outputs = self._kinds.index(kind), [source], [target]
        self._nodes.append(node)
