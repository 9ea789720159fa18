"""More weights than one protobuf file can hold."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.export import export, fuse
from offramp.runtime import verify

ROWS, WIDTH = 280_000, 2048


@pytest.mark.large
def test_weights_over_two_gigabytes_are_one_file_that_small_stages_share(tmp_path):
    size = 4 * ROWS * WIDTH
    with (tmp_path / "net.data").open("wb") as file:
        file.truncate(size)
    table = TensorProto(
        name="table", data_type=TensorProto.FLOAT, dims=[ROWS, WIDTH], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", "net.data"), ("offset", "0"), ("length", str(size))):
        table.external_data.add(key=key, value=value)
    rng = np.random.default_rng(0)
    shapes = {"bias": (WIDTH,), "H0": (WIDTH, 5), "M": (WIDTH, 64), "H1": (64, 5)}
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("Add", ["mean", "bias"], ["y"]),
        helper.make_node("MatMul", ["y", "H0"], ["z0"]),
        helper.make_node("MatMul", ["y", "M"], ["t"]),
        helper.make_node("MatMul", ["t", "H1"], ["z1"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["N", 4])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 5]) for name in ("z0", "z1")]
    graph = helper.make_graph(nodes, "large", [x], outputs, [table, *weights])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "net.onnx"
    )
    bundle = export(tmp_path / "net.onnx", rng.integers(0, ROWS, (3, 4)), tmp_path / "b.offramp")
    files = bundle.variant().files
    assert size < files["weights.bin"].bytes < size + 4_000_000
    assert all(file.bytes < 2000 for name, file in files.items() if name.endswith(".onnx"))
    assert verify(bundle)[0].passed
    fused = fuse(bundle, tmp_path / "one.onnx", thresholds=[0.0])
    assert fused.bytes > size
    session = onnxruntime.InferenceSession(fused.path, providers=["CPUExecutionProvider"])
    assert session.run(["exit"], {"x": np.zeros((1, 4), np.int64)})[0].tolist() == [0]


def test_stages_refer_to_one_data_file_beside_them(dense):
    folder = dense.path / dense.variant().folder
    for stage in dense.variant().stages:
        graph = onnx.load(folder / stage.file, load_external_data=False).graph
        places = {entry.value for t in graph.initializer for entry in t.external_data if entry.key == "location"}
        assert places == {"weights.bin"} and (folder / stage.file).stat().st_size < 1500
