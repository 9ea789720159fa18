"""Inputs that are indices into a table."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.errors import DataError, UsageError
from offramp.export import export
from offramp.runtime import load_static, load_uncalibrated
from offramp.tests.zoo.dense import CLASSES

ROWS = 10


def write(path, *, on_the_way=(), kind=TensorProto.INT64, rows=ROWS, length=3):
    """Write two exits on the rows of a table, (N, length) -> (N, classes); `on_the_way` stand between input and table."""
    rng = np.random.default_rng(0)
    values = {"table": rng.standard_normal((rows, 8)), "h0": rng.standard_normal((8, CLASSES))}
    values |= {"w1": rng.standard_normal((8, 8)), "h1": rng.standard_normal((8, CLASSES))}
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()]
    tensors.append(numpy_helper.from_array(np.array([0]), "first"))
    tensors.append(numpy_helper.from_array(np.array([[ROWS - 1]]), "last"))
    nodes, name = [], "x"
    for k, (operator, more, options) in enumerate(on_the_way):
        nodes.append(helper.make_node(operator, [name, *more], [f"i{k}"], **options))
        name = f"i{k}"
    nodes += [
        helper.make_node("Gather", ["table", name], ["rows"]),
        helper.make_node("ReduceMean", ["rows"], ["y"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["y", "h0"], ["z0"]),
        helper.make_node("MatMul", ["y", "w1"], ["u"]),
        helper.make_node("Tanh", ["u"], ["t"]),
        helper.make_node("MatMul", ["t", "h1"], ["z1"]),
    ]
    x = helper.make_tensor_value_info("x", kind, ["N", length])
    outputs = [helper.make_tensor_value_info(f"z{k}", TensorProto.FLOAT, ["N", CLASSES]) for k in range(2)]
    graph = helper.make_graph(nodes, "table", [x], outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


EXAMPLE = np.arange(9).reshape(3, 3)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return export(write(folder / "net.onnx"), EXAMPLE, folder / "net.offramp")


@pytest.mark.parametrize("device", ["cpu", "openvino:CPU"])
@pytest.mark.parametrize("index", [ROWS, 10**6, -ROWS - 1, -(2**40)])
def test_an_index_beyond_the_table_is_refused_on_every_engine(tokens, device, index):
    for net in (load_uncalibrated(tokens, device), load_static(tokens, device)):
        right = net(EXAMPLE[1]).score
        wrong = EXAMPLE.copy()
        wrong[1, 2] = index
        words = (
            f"holds {index} in x, which is an index into {ROWS} rows: 0 to {ROWS - 1}, or from the end -1 to -{ROWS}"
        )
        with pytest.raises(DataError, match=f"^The sample {words}"):
            net(wrong[1])
        for many in (net.batch, net.every_exit):
            with pytest.raises(DataError, match=f"^Sample 1 {words}"):
                many(wrong)
        assert net(EXAMPLE[1]).score == right
        assert net(np.array([-1, -ROWS, ROWS - 1])).score > 0


def test_the_first_sample_of_a_new_length_is_looked_at_before_an_engine_runs_it(tmp_path):
    bundle = export(write(tmp_path / "net.onnx", length="time"), EXAMPLE, tmp_path / "net.offramp")
    net = load_uncalibrated(bundle)
    with pytest.raises(DataError, match="^The sample holds 99 in x, which is an index into 10 rows"):
        net(np.array([1, 99]))
    with pytest.raises(DataError, match="^Sample 0 holds 99 in x"):
        net.batch(np.array([[99, 1, 2, 3], [1, 2, 3, 4]]))
    with pytest.raises(DataError, match=r"takes samples of shape \(N, time\) for x, not \(2, 0\)"):
        net.batch(np.zeros((2, 0), np.int64))
    assert net(np.array([1, 9])).exit == 1


@pytest.mark.parametrize(
    ("on_the_way", "rows"),
    [
        ([("Unsqueeze", ["first"], {}), ("Squeeze", ["first"], {})], ROWS),
        ([("Cast", [], {"to": TensorProto.INT32})], ROWS),
        ([("Min", ["last"], {})], None),
        ([("Add", ["last"], {}), ("Sub", ["last"], {})], None),
    ],
    ids=["shapes", "cast", "bounded", "shifted"],
)
def test_only_values_that_reach_the_table_as_they_are_have_its_bounds(tmp_path, on_the_way, rows):
    bundle = export(write(tmp_path / "net.onnx", on_the_way=on_the_way), EXAMPLE, tmp_path / "b.offramp")
    assert bundle.manifest.table_rows == ({} if rows is None else {"x": rows})
    assert load_uncalibrated(bundle)(EXAMPLE[0]).exit == 1


def test_the_tables_of_a_torch_network_are_found(zoo):
    assert zoo("encoder")[1].manifest.table_rows == {"tokens": 50}


def test_a_variant_with_a_smaller_table_is_refused(tmp_path):
    x = np.zeros((3, 3), np.int64)
    bundle = export(write(tmp_path / "net.onnx"), x, tmp_path / "b.offramp")
    with pytest.raises(UsageError, match="a table of 4 rows in the network, of 10 in the bundle's first"):
        export(write(tmp_path / "small.onnx", rows=4), x, bundle.path, beside="small")
    export(write(tmp_path / "large.onnx", rows=20), x, bundle.path, beside="large")
