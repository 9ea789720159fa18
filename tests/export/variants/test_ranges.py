"""Ranges of values: how many samples run at once, how much memory that takes, and which values 8 bits would spoil."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from offramp.export import compare_variants, export, quantize
from offramp.export.variants import int8

ROW_BYTES, SIDE, DEPTH = 1 << 18, 8, 24
PEAK_MB = 50
"""Between the memory of a few values for 16 samples (4 MB each) and that of all of them, which is 100 MB."""


def write_deep(path):
    """Write a network with two exits whose values are small at first and then large: `DEPTH` of `ROW_BYTES` for each sample."""
    rng = np.random.default_rng(0)
    scale = [1, 1] + [int((ROW_BYTES / 4) ** 0.5) // SIDE] * 2
    weights = {f"c{k}": np.full(1, 0.9 + k / 100, np.float32) for k in range(DEPTH)}
    for k in range(2):
        weights[f"w{k}"] = rng.standard_normal((4 + k, 1, 1, 1), np.float32)
        weights[f"H{k}"] = rng.standard_normal((4 + k, 4), np.float32)
    weights["scale"] = np.array(scale, np.float32)
    nodes = [helper.make_node("Resize", ["x", "", "scale"], ["v0"], mode="nearest")]
    nodes += [helper.make_node("Mul", [f"v{k}", f"c{k}"], [f"v{k + 1}"]) for k in range(DEPTH)]
    for k, value in enumerate(("x", f"v{DEPTH}")):
        steps = (
            ("GlobalMaxPool", [value], "top"),
            ("Conv", [f"top{k}", f"w{k}"], "conv"),
            ("Flatten", [f"conv{k}"], "flat"),
        )
        nodes += [helper.make_node(kind, inputs, [f"{output}{k}"]) for kind, inputs, output in steps]
        nodes.append(helper.make_node("MatMul", [f"flat{k}", f"H{k}"], [f"z{k}"]))
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 1, SIDE, SIDE])
    outputs = [helper.make_tensor_value_info(f"z{k}", onnx.TensorProto.FLOAT, ["N", 4]) for k in range(2)]
    graph = helper.make_graph(
        nodes, "deep", [x], outputs, [numpy_helper.from_array(array, name) for name, array in weights.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deep")
    x = np.random.default_rng(1).standard_normal((32, 1, SIDE, SIDE)).astype(np.float32)
    return export(write_deep(folder / "net.onnx"), x[:3], folder / "b.offramp"), x


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of memory")
def test_values_are_dropped_while_their_smallest_and_largest_are_found(deep):
    bundle, x = deep
    quantize(bundle, x[:1], name="first")  # loads what takes memory once
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")
    before = int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0])
    quantize(bundle, x, name="second")
    peak = int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0])
    assert (peak - before) / 1000 < PEAK_MB


@pytest.mark.parametrize(("ranges", "fitting", "rows"), [("minmax", 4.5, 4), ("percentile", 0.5, 1)])
def test_fewer_samples_run_at_once_where_their_values_are_many(deep, monkeypatch, ranges, fitting, rows):
    bundle, x = deep
    found = []
    for most, at_once in ((int8.MOST_BYTES, 16), (int(fitting * DEPTH * ROW_BYTES), rows)):
        monkeypatch.setattr(int8, "MOST_BYTES", most)
        seen: list[int] = []
        name = f"{ranges}{at_once}"
        bundle = quantize(bundle, x[:16], ranges=ranges, name=name, progress=lambda _, done, __: seen.append(done))  # noqa: B023
        assert seen == list(range(at_once, 17, at_once))
        variant = bundle.variant(name)
        weights = onnx.load(bundle.path / variant.folder / variant.whole).graph.initializer
        found.append({w.name: numpy_helper.to_array(w) for w in weights if w.name.endswith("_scale")})
    for name, scale in found[0].items():
        np.testing.assert_allclose(found[1][name], scale, rtol=0 if ranges == "minmax" else 0.02)


WIDTH = 8

LAYER_NORM = (("LayerNormalization", ["sum", "scale"], "normal"),)
IN_PARTS = (
    ("ReduceMean", ["sum"], "mean"),
    ("Sub", ["sum", "mean"], "centred"),
    ("Pow", ["centred", "two"], "squares"),
    ("ReduceMean", ["squares"], "variance"),
    ("Sqrt", ["variance"], "deviation"),
    ("Div", ["centred", "deviation"], "normal"),
)
WITHOUT_MEAN = (
    ("Mul", ["sum", "sum"], "squares"),
    ("ReduceMean", ["squares"], "variance"),
    ("Sqrt", ["variance"], "deviation"),
    ("Reciprocal", ["deviation"], "reciprocal"),
    ("Mul", ["sum", "reciprocal"], "normal"),
)


def save_graph(path, nodes, arrays, *, tokens):
    """Write a graph of x (N, tokens, width) with the exits z0 and z1, and return its path."""
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", tokens, WIDTH])
    outputs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in ("z0", "z1")]
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "tokens", [x], outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def write_normalised(path, normalisation):
    """Write a network with two exits; the last normalises two tokens of which the second is a thousand times the first."""
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.standard_normal((WIDTH, size), np.float32) for name, size in (("W", WIDTH), ("H0", 4), ("H1", 4))
    }
    arrays |= {"position": np.stack([np.zeros(WIDTH), 1e3 * rng.standard_normal(WIDTH)]).astype(np.float32)}
    arrays |= {"scale": np.ones(WIDTH, np.float32), "two": np.array(2, np.float32), "first": np.array(0, np.int64)}
    steps = [
        ("Gather", ["x", "first"], "x0"),
        ("MatMul", ["x0", "H0"], "z0"),
        ("MatMul", ["x", "W"], "product"),
        ("Add", ["product", "position"], "placed"),
        ("Add", ["placed", "x"], "sum"),
        *normalisation,
        ("Gather", ["normal", "first"], "first_normal"),
        ("MatMul", ["first_normal", "H1"], "z1"),
    ]
    attributes = {"Gather": {"axis": 1}, "ReduceMean": {"axes": [-1]}}
    nodes = [helper.make_node(kind, inputs, [output], **attributes.get(kind, {})) for kind, inputs, output in steps]
    return save_graph(path, nodes, arrays, tokens=2)


@pytest.mark.parametrize("normalisation", [LAYER_NORM, IN_PARTS, WITHOUT_MEAN], ids=["one", "parts", "rms"])
def test_sums_that_are_normalised_stay_in_float(tmp_path, normalisation):
    x = np.random.default_rng(1).standard_normal((300, 2, WIDTH)).astype(np.float32)
    bundle = quantize(export(write_normalised(tmp_path / "net.onnx", normalisation), x[:3], tmp_path / "b.offramp"), x)
    _, last = compare_variants(bundle, "int8", "fp32", x)
    assert last.alike > 0.9


def write_masked(path):
    """Write a network with two exits; the last attends to steps whose first feature is above 0, by a mask made in the graph."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((WIDTH, WIDTH), np.float32) for name in ("Q", "K")}
    arrays |= {name: rng.standard_normal((WIDTH, 4), np.float32) for name in ("H0", "H1")}
    arrays |= {"bias": rng.standard_normal((4, 4), np.float32), "fill": np.array(-1e9, np.float32)}
    arrays |= {"zero": np.array(0, np.float32), "first": np.array(0, np.int64), "axis": np.array([1], np.int64)}
    steps = [
        ("Gather", ["x", "first"], "x0", {"axis": 1}),
        ("MatMul", ["x0", "H0"], "z0", {}),
        ("MatMul", ["x", "Q"], "q", {}),
        ("MatMul", ["x", "K"], "k", {}),
        ("Transpose", ["k"], "kt", {"perm": [0, 2, 1]}),
        ("MatMul", ["q", "kt"], "products", {}),
        ("Gather", ["x", "first"], "feature", {"axis": 2}),
        ("Greater", ["feature", "zero"], "above", {}),
        ("Unsqueeze", ["above", "axis"], "seen", {}),
        ("Where", ["seen", "products", "fill"], "filled", {}),
        ("Add", ["filled", "bias"], "biased", {}),
        ("Softmax", ["biased"], "shares", {"axis": -1}),
        ("MatMul", ["shares", "x"], "mixed", {}),
        ("Gather", ["mixed", "first"], "m0", {"axis": 1}),
        ("MatMul", ["m0", "H1"], "z1", {}),
    ]
    nodes = [helper.make_node(kind, inputs, [output], **attributes) for kind, inputs, output, attributes in steps]
    return save_graph(path, nodes, arrays, tokens=4)


def test_what_a_mask_of_the_graph_reaches_stays_in_float(tmp_path):
    x = np.random.default_rng(1).standard_normal((300, 4, WIDTH)).astype(np.float32)
    bundle = quantize(export(write_masked(tmp_path / "net.onnx"), x[:3], tmp_path / "b.offramp"), x)
    _, last = compare_variants(bundle, "int8", "fp32", x)
    assert last.alike > 0.9
