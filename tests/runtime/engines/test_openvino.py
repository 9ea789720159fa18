import numpy as np
import pytest

from offramp.devices.board import is_x86_64
from offramp.runtime import load_uncalibrated
from offramp.runtime.engines.openvino import _subtracts_from_products
from offramp.tests.zoo import networks


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


@pytest.mark.parametrize(
    ("name", "turned"), [("multi-scale", [1, 3, 2]), ("reads-input-late", [1, 1]), ("shapes", [1, 0, 0])]
)
def test_maps_pass_between_stages_channels_last_where_convolutions_have_them_so(zoo, name, turned):
    """Inputs of the network stay as they are, and so does a map that something else than a convolution reads."""
    pytest.importorskip("openvino")
    _, bundle, _ = zoo(name)
    (x,) = networks.ZOO[name].draw(8, 1)
    expected = load_uncalibrated(bundle).every_exit(x)
    net = load_uncalibrated(bundle, "openvino:CPU")
    if is_x86_64():
        assert [len(link.compiled._turned) for link in net._links] == turned
    mixed = [
        load_uncalibrated(bundle, [("cpu", "openvino:CPU")[(k + j) % 2] for k in range(len(turned))]) for j in (0, 1)
    ]
    for other in (net, net.clone(), *mixed):
        found = other.every_exit(x)
        assert np.array_equal(found.label, expected.label) and np.allclose(found.score, expected.score, atol=1e-5)


def test_maps_lie_in_memory_as_stages_have_them_and_are_not_copied(zoo):
    pytest.importorskip("openvino")
    _, bundle, _ = zoo("multi-scale")
    runs = [run for run, *_ in load_uncalibrated(bundle, "openvino:CPU")._setup.memory.single.steps]
    made = {name: array for run in runs for name, array in run.memory[1].items() if array.ndim == 4}
    read = {name: array for run in runs for name, array in run.memory[0].items() if name in made}
    assert {*made} == {*read} and all(read[name] is array for name, array in made.items())
    if is_x86_64():
        assert all(array.transpose(0, 2, 3, 1).flags.c_contiguous for array in made.values())
