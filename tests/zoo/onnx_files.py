"""ONNX files as other people's exporters write them."""

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn


def convolutions(width, classes=5, stride=2):
    torch.manual_seed(width)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    ).eval()


def write(path, network, *, shape, opset=17, outputs=("scores",), batch="n"):
    """Write an ONNX file as others would, by torch's older exporter."""
    torch.onnx.export(
        network,
        torch.zeros(1, *shape, dtype=next(network.parameters()).dtype),
        path,
        input_names=["pixels"],
        output_names=list(outputs),
        dynamic_axes={name: {0: batch} for name in ("pixels", *outputs)} if batch else None,
        opset_version=opset,
        dynamo=False,
    )
    return path


def write_product(path, inputs, *, opset=17, nodes=(), weights=()):
    """Write an ONNX file of opset and nodes of choice, which ends with the sum of a product of each input (n, 8): y (n, 5)."""
    rng, tensor = np.random.default_rng(len(path.stem)), onnx.helper.make_tensor_value_info
    products = {f"w_{name}": rng.standard_normal((8, 5)).astype(np.float32) for name in inputs}
    graph = onnx.helper.make_graph(
        [
            *(onnx.helper.make_node("MatMul", [name, f"w_{name}"], [f"m_{name}"]) for name in inputs),
            onnx.helper.make_node("Sum", [f"m_{name}" for name in inputs], ["sum"]),
            *(nodes or [onnx.helper.make_node("Identity", ["sum"], ["y"])]),
        ],
        "graph",
        [tensor(name, onnx.TensorProto.FLOAT, ["n", 8]) for name in inputs],
        [tensor("y", onnx.TensorProto.FLOAT, ["n", 5])],
        [onnx.numpy_helper.from_array(value, name) for name, value in [*products.items(), *weights]],
    )
    sets = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=sets, ir_version=8), path)
    return path


def images(n, side=40):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3)).astype(np.uint8)


def run(path, x):
    """Run a file that `write` has written."""
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"pixels": x.astype(np.float32)})[0]
