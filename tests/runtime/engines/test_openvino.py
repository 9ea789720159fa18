import numpy as np
import pytest

from offramp.runtime.engines.openvino import _subtracts_from_products


@pytest.mark.parametrize(("other", "stays_open"), [("input", True), ("constant", False), ("mean", False)])
def test_a_batch_stays_open_only_where_a_fixed_one_crashes_the_compiler(other, stays_open):
    """An open batch is slower, and normalisations subtract the mean of what they normalise, which leaves the batch fixed."""
    openvino = pytest.importorskip("openvino")
    ops, weights = openvino.opset13, np.ones((4, 4), np.float32)
    x = ops.parameter([-1, 4], np.float32)
    y = ops.matmul(ops.relu(ops.matmul(x, weights, False, False)), weights, False, False)
    subtracted = {
        "input": lambda: x,
        "constant": lambda: ops.constant(weights[:1]),
        "mean": lambda: ops.reduce_mean(y, [1], True),
    }
    model = openvino.Model([ops.result(ops.subtract(y, subtracted[other]()))], [x])
    assert _subtracts_from_products(model) == stays_open
