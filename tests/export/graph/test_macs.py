"""Multiply-accumulates, where inference leaves shapes unknown too."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, ValueInfoProto, helper
from torch import nn

from offramp.export import export
from offramp.export.graph.macs import count_macs
from offramp.tests.zoo.dense import CLASSES


class TwoRecurrent(nn.Module):
    """Two recurrent layers, an exit behind each."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.LSTM(6, 8, batch_first=True), nn.LSTM(8, 8, batch_first=True)
        self.early, self.late = nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)

    def forward(self, x):
        y, _ = self.a(x)
        z, _ = self.b(y)
        return self.early(y[:, -1]), self.late(z[:, -1])


def test_every_recurrent_layer_counts(tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 7, 6)).astype(np.float32)
    stages = export(TwoRecurrent().eval(), x, tmp_path / "b.offramp").variant().stages
    head = 8 * CLASSES
    assert [stage.macs for stage in stages] == [7 * 32 * (6 + 8) + head, 7 * 32 * (8 + 8) + head]


def model_of(nodes, inputs, outputs, weights):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    ends = [ValueInfoProto(name=name) for name in outputs]
    tensors = [helper.make_tensor(name, kind, array.shape, array.flatten()) for name, (kind, array) in weights.items()]
    graph = helper.make_graph(nodes, "net", values, ends, tensors)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=opsets))


def floats(*shape):
    return TensorProto.FLOAT, np.ones(shape, np.float32)


def bytes_of(*shape):
    return TensorProto.UINT8, np.ones(shape, np.uint8)


NODE = helper.make_node
COUNTED = {
    "Einsum": (
        [NODE("Einsum", ["x", "w"], ["y"], "n", equation="bti,io->bto")],
        {"x": ["batch", 5, 6]},
        {"w": floats(6, 7)},
        5 * 6 * 7,
    ),
    "MatMulInteger": (
        [
            NODE("DynamicQuantizeLinear", ["x"], ["q", "s", "p"], "d"),
            NODE("MatMulInteger", ["q", "w"], ["y"], "n"),
        ],
        {"x": ["batch", 6]},
        {"w": bytes_of(6, 7)},
        6 * 7,
    ),
    "QLinearMatMul": (
        [
            NODE("QuantizeLinear", ["x", "s", "p"], ["q"], "d"),
            NODE("QLinearMatMul", ["q", "s", "p", "w", "s", "p", "s", "p"], ["y"], "n"),
        ],
        {"x": ["batch", 6]},
        {"w": bytes_of(6, 7), "s": floats(), "p": bytes_of()},
        6 * 7,
    ),
    "Attention": (
        [NODE("Attention", ["x", "k", "v"], ["y"], "n")],
        {"x": ["batch", 2, 5, 8], "k": ["batch", 2, 9, 8], "v": ["batch", 2, 9, 4]},
        {},
        2 * 5 * 9 * (8 + 4),
    ),
    "batch first GRU": (
        [NODE("GRU", ["x", "w", "r"], ["", "y"], "n", hidden_size=8, layout=1)],
        {"x": ["batch", 5, 6]},
        {"w": floats(1, 24, 6), "r": floats(1, 24, 8)},
        5 * 24 * (6 + 8),
    ),
}


@pytest.mark.parametrize(("nodes", "inputs", "weights", "macs"), COUNTED.values(), ids=COUNTED)
def test_a_product_counts_by_its_operands(nodes, inputs, weights, macs):
    assert count_macs(model_of(nodes, inputs, ["y"], weights), {})["n"] == macs


def test_shapes_that_inference_leaves_unknown_are_asked_for_once():
    nodes = [NODE("Reshape", ["x", "shape"], ["r"], "reshape"), NODE("MatMul", ["r", "w"], ["y"], "n")]
    model = model_of(nodes, {"x": ["batch", 12], "shape": ["three"]}, ["y"], {"w": floats(6, 7)})
    asked = []

    def measure(names):
        asked.append(sorted(names))
        return {"r": (1, 2, 6), "y": (1, 2, 7)}

    assert count_macs(model, {"three": 3})["n"] == 0
    assert count_macs(model, {"three": 3}, measure)["n"] == 2 * 6 * 7 and asked == [["r", "y"]]
