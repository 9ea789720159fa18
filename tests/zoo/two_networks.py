"""Two networks in one bundle: a small one that is right where it is sure, and a large one that is right everywhere."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from offramp.export import export

CLASSES, FEATURES = 5, 16


def write_pair(path):
    """Export both, the large one first, as variants `fp32` and `small` with two exits each.

    An input tells its class in its first five features; a hard one, of three in ten, in the next five. The small network reads
    the first five at both exits, the large one's last exit all ten. Its first exit reads noise.
    """
    first, second, noise = (np.eye(FEATURES, CLASSES, -k, np.float32) for k in (0, CLASSES, 2 * CLASSES))
    bundle = export(_write(path.with_name("large.onnx"), noise, first + second), None, path)
    return export(_write(path.with_name("small.onnx"), first, first), None, bundle.path, beside="small")


def draw_pair(count, seed=0):
    """Draw samples and labels, and which samples are hard."""
    rng = np.random.default_rng(seed)
    y, is_hard = rng.integers(0, CLASSES, count), rng.random(count) < 0.3
    x = rng.standard_normal((count, FEATURES)).astype(np.float32) * 0.5
    x[np.arange(count), y + CLASSES * is_hard] += 12
    return x, y, is_hard


def _write(path, *heads):
    """Write a network whose exits multiply the input by these matrices, (features, classes)."""
    nodes, weights, x = [], [], "x"
    for k, head in enumerate(heads):
        weights += [numpy_helper.from_array(np.eye(FEATURES, dtype=np.float32), f"w{k}")]
        weights += [numpy_helper.from_array(head, f"h{k}")]
        nodes += [helper.make_node("MatMul", [x, f"w{k}"], [f"a{k}"])]
        nodes += [helper.make_node("MatMul", [f"a{k}", f"h{k}"], [f"z{k}"])]
        x = f"a{k}"
    value, *outputs = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", size])
        for name, size in (("x", FEATURES), *((f"z{k}", CLASSES) for k in range(len(heads))))
    )
    graph = helper.make_graph(nodes, "pair", [value], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
