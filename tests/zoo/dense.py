"""Small multi-exit networks as ONNX files; needs no torch."""

import hashlib
import json
import threading

import numpy as np
import onnx
from onnx import helper, numpy_helper

CLASSES = 5


def write_onnx(
    path,
    *,
    exits=3,
    features=16,
    classes=CLASSES,
    opset=17,
    batch="N",
    seed=0,
    clash=False,
    old=False,
    dtype=np.float32,
):
    """Write a file with one output per exit, (N, features) -> (N, classes), as somebody else's exporter would.

    `clash` names a value like one that offramp adds; `old` lists the weights among the inputs, as was done before IR version 4.
    """
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    rng = np.random.default_rng(seed)
    nodes, weights, outputs, x = [], [], [], "x"
    for k in range(exits):
        w = rng.standard_normal((features, features)).astype(dtype) / features**0.5
        h = rng.standard_normal((features, classes)).astype(dtype)
        weights += [numpy_helper.from_array(w, f"w{k}"), numpy_helper.from_array(h, f"h{k}")]
        hidden = "z0.score" if clash and k == 0 else f"a{k}"
        nodes += [
            helper.make_node("MatMul", [x, f"w{k}"], [f"m{k}"]),
            helper.make_node("Tanh", [f"m{k}"], [hidden]),
            helper.make_node("MatMul", [hidden, f"h{k}"], [f"z{k}"]),
        ]
        outputs.append(helper.make_tensor_value_info(f"z{k}", kind, [batch, classes]))
        x = hidden
    value = helper.make_tensor_value_info("x", kind, [batch, features])
    listed = [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights] if old else []
    graph = helper.make_graph(nodes, "dense", [*listed, value], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def write_sequences(path):
    """Write two stages over sequences of any length, (N, time, 4) -> z0, z1; each exit reads the mean over time."""
    rng = np.random.default_rng(0)
    weights, nodes, outputs, x = [], [], [], "x"
    for k in range(2):
        weights += [
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), f"{name}{k}")
            for name, shape in (("w", (4, 4)), ("h", (4, CLASSES)))
        ]
        nodes += [
            helper.make_node("MatMul", [x, f"w{k}"], [f"m{k}"]),
            helper.make_node("Tanh", [f"m{k}"], [f"a{k}"]),
            helper.make_node("ReduceMean", [f"a{k}"], [f"p{k}"], axes=[1], keepdims=0),
            helper.make_node("MatMul", [f"p{k}", f"h{k}"], [f"z{k}"]),
        ]
        outputs.append(helper.make_tensor_value_info(f"z{k}", onnx.TensorProto.FLOAT, ["N", CLASSES]))
        x = f"a{k}"
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", "time", 4])
    graph = helper.make_graph(nodes, "sequences", [value], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_convolutions(path):
    """Write two convolutional stages, (N, 3, 12, 12) -> z0, z1; the first exit reads the map that the second goes on from."""
    rng = np.random.default_rng(0)
    weights = {f"c{k}": rng.standard_normal((8, 3 if k == 0 else 8, 3, 3)) / 5 for k in range(3)}
    weights |= {f"h{k}": rng.standard_normal((8, CLASSES)) for k in range(2)}
    nodes = []
    for k, source in enumerate(["x", "r0", "r1"]):
        nodes.append(helper.make_node("Conv", [source, f"c{k}"], [f"v{k}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"v{k}"], [f"r{k}"]))
    for k, source in enumerate(["r0", "r2"]):
        nodes.append(helper.make_node("GlobalAveragePool", [source], [f"p{k}"]))
        nodes.append(helper.make_node("Flatten", [f"p{k}"], [f"f{k}"]))
        nodes.append(helper.make_node("MatMul", [f"f{k}", f"h{k}"], [f"z{k}"]))
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    x = helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(np.dtype(np.float32)), ["N", 3, 12, 12])
    outputs = [helper.make_tensor_value_info(f"z{k}", x.type.tensor_type.elem_type, ["N", CLASSES]) for k in range(2)]
    graph = helper.make_graph(nodes, "convolutions", [x], outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def forge(bundle, name, change):
    """Change a file of a bundle, and the manifest with it, as if it had been exported so."""
    variant = bundle.variant()
    path = bundle.path / variant.folder / name
    change(path)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    manifest["variants"][0]["files"][name] = {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))


def labels_of_clones(net, samples, clones=3):
    """Run clones of a network at once, each in a thread of its own; return the labels that each gave."""
    found = {}

    def work(number):
        mine = net.clone()
        found[number] = [mine(sample).label for sample in samples]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clones)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[number] for number in range(clones)]
