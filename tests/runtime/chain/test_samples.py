"""What programs give as a sample."""

from typing import Any

import numpy as np
import pytest

from offramp.bundle import Exit, Stage, Tensor
from offramp.errors import DataError, UsageError
from offramp.export import export
from offramp.runtime import Net, load_uncalibrated
from offramp.runtime.chain import runner
from offramp.runtime.chain.samples import check_samples, prepare_single
from offramp.runtime.engines import HOST
from offramp.tests.zoo.dense import write_onnx

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    return load_uncalibrated(export(write_onnx(folder / "net.onnx"), None, folder / "net.offramp"))


GOOD = torch.linspace(-1, 1, 16)


@pytest.mark.parametrize(
    "x",
    [
        GOOD,
        GOOD.clone().requires_grad_(),
        torch.nn.Parameter(GOOD.clone()),
        GOOD.double(),
        GOOD.tolist(),
        np.ma.array(GOOD.numpy()),
        tuple(GOOD.tolist()),
        memoryview(GOOD.numpy()),
        [GOOD],
        {"x": GOOD.clone().requires_grad_()},
    ],
    ids=["tensor", "gradient", "parameter", "double", "list", "no mask", "tuple", "memory", "parts", "named"],
)
def test_what_holds_the_numbers_is_taken(net, x):
    assert net(x).score == net(GOOD.numpy()).score


def test_bfloat16_is_converted_as_other_floats_are(net):
    half = GOOD.bfloat16()
    assert net(half).score == net(half.float().numpy()).score
    assert (net.batch(half[None].repeat(3, 1)).score == net(half).score).all()


@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([[1.0, 2.0], [3.0]], "a list"),
        (GOOD.to_sparse(), "a torch.Tensor: .*[Ss]parse"),
        (torch.empty(16, device="meta"), "a torch.Tensor"),
        (torch.quantize_per_tensor(GOOD, 0.1, 0, torch.qint8), "a torch.Tensor"),
        (None, "numbers for x, not a NoneType"),
        ("a.png", "numbers for x, not a str"),
        (b"abc", "numbers for x, not a bytes"),
        ((value for value in range(16)), "numbers for x, not a generator"),
        ({1.0, 2.0}, "numbers for x, not a set"),
        (np.array([{}] * 16), "numbers for x, not a numpy.ndarray of object"),
        (np.array(["1"] * 16), "numbers for x, not a numpy.ndarray of <U1"),
        (np.zeros(16, "datetime64[s]"), "numbers for x"),
        (np.zeros(16, [("a", np.float32)]), "numbers for x"),
        (np.zeros(16, np.complex64), "takes float32 for x, not complex64"),
        (np.zeros(16, bool), "takes float32 for x, not bool"),
        (np.ma.masked_greater(GOOD.numpy(), 0), r"has masked values.* x\.filled\(value\)"),
        ([np.ma.array(GOOD.numpy()), np.ma.masked_greater(GOOD.numpy(), 0)], "has masked values"),
        ([GOOD.numpy(), np.ma.masked_greater(GOOD.numpy(), 0)], "has masked values"),
    ],
    ids=[
        "ragged",
        "sparse",
        "meta",
        "quantised",
        "none",
        "text",
        "bytes",
        "generator",
        "set",
        "objects",
        "strings",
        "times",
        "records",
        "complex",
        "bool",
        "masked",
        "a list of masked ones",
        "a list with a masked one",
    ],
)
def test_what_does_not_is_refused_in_a_sentence(net, x, words):
    for call in (net, net.batch, net.every_exit):
        with pytest.raises(DataError, match=f"{words}|takes samples of shape|data set is empty"):
            call(x)
    with pytest.raises(DataError, match=words):
        net(x)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_list_of_any_number_of_samples_is_a_batch(net, count):
    for samples in ([GOOD.numpy()] * count, [GOOD.numpy().tolist()] * count, (GOOD.numpy(),) * count):
        assert net.batch(samples).label.tolist() == [net(GOOD.numpy()).label] * count


def test_a_list_of_samples_is_not_taken_for_the_arrays_of_several_inputs():
    inputs = [Tensor(name=name, dtype="float32", shape=(None, 3)) for name in ("left", "right")]
    net, left, right = sum_net(inputs, {}), np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    assert net.batch((left, right)).score.tolist() == net.batch([list(left), list(right)]).score.tolist()
    with pytest.raises(
        DataError, match=r"\(left, right\): pass a tuple of an array for each, .*, not a list of samples.$"
    ):
        net.batch(list(zip(left, right, strict=True)))


def test_inputs_that_differ_in_the_length_of_an_axis_are_told_which():
    inputs = [Tensor(name=name, dtype="int64", shape=(None, "time")) for name in ("ids", "mask")]
    words = (
        r"\(time,\) \(or \(1, time\)\) for mask, not \(4,\). The axis time is 4 long here, and 5 in an input before.$"
    )
    with pytest.raises(DataError, match=words):
        prepare_single([np.zeros(5, np.int64), np.zeros(4, np.int64)], inputs)
    with pytest.raises(DataError, match=r"not \(2, 4\). The axis time is 4 long here, and 5 in an input before.$"):
        check_samples((np.zeros((2, 5), np.int64), np.zeros((2, 4), np.int64)), inputs)
    with pytest.raises(DataError, match=r"for mask, not \(2, 4, 1\).$"):
        check_samples((np.zeros((2, 5), np.int64), np.zeros((2, 4, 1), np.int64)), inputs)


class Broken:
    def __array__(self, *_, **__):
        raise RuntimeError("no memory on the device\nin two lines")


def test_an_object_whose_array_fails_is_refused_with_its_reason(net):
    with pytest.raises(DataError, match=r"given for x, a \w+\.Broken: no memory on the device$"):
        net(Broken())


class Sum:
    """A fake of a compiled stage: its score tells the sum of its inputs."""

    runs_on, memory, allocate, batches, clones, half = "fake", HOST, None, True, True, False

    def bind(self, inputs, outputs):
        def run():
            outputs["score"][...] = sum(float(array.sum()) for array in inputs.values()) / 1000
            outputs["label"][...] = 0

        return run


def sum_net(inputs, rows):
    exits = [Exit(name="exit", logits="logits", score="score", label="label", static="static0.onnx", macs=1)]
    stages = [Stage(file="stage0.onnx", inputs=tuple(inputs), outputs=(), macs=1)]
    compiled: Any = Sum()
    return Net([compiled], stages, exits, inputs=inputs, classes=2, logits=False, table_rows=rows)


def test_arrays_of_the_right_shapes_are_copied_without_more_ado(monkeypatch):
    inputs = [
        Tensor(name="ids", dtype="int64", shape=(None, 3)),
        Tensor(name="mask", dtype="float32", shape=(2, None, 3)),
    ]
    net = sum_net(inputs, {"ids": 5})
    ids, mask = np.array([4, 1, -5]), np.arange(6, dtype=np.float32).reshape(2, 3)
    understand = runner.split_inputs
    monkeypatch.setattr(runner, "split_inputs", None)  # which understands whatever else programs pass
    samples = (
        (ids, mask),
        [ids[None], mask[:, None]],
        {"mask": mask, "ids": ids},
        (np.ascontiguousarray(ids[::-1])[::-1], np.asfortranarray(mask)),
    )
    for sample in samples:
        assert net(sample).score == np.float32(0.015)
    late = sum_net(inputs[1:], {})
    assert late(mask).score == late(mask[:, None]).score == late((mask,)).score == np.float32(0.015)
    for value, words in (
        ((ids + 1, mask), "holds 5 in ids"),
        ((ids - 1, mask), "holds -6 in ids"),
        ((ids, mask + np.inf), "infinity"),
    ):
        with pytest.raises(DataError, match=words):
            net(value)
    monkeypatch.setattr(runner, "split_inputs", understand)
    assert net((ids.astype(np.int32), mask.astype(float))).score == net((ids.tolist(), mask)).score == np.float32(0.015)
    for wrong in ((ids,), (ids, mask, mask), {"ids": ids}, {"ids": ids, "mask": mask, "x": ids}, (ids, mask.T), ids):
        with pytest.raises(DataError):
            net(wrong)
    net.close()
    with pytest.raises(UsageError, match="closed"):
        net((ids, mask))
