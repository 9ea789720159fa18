"""What a network refuses to answer, and whom it blames."""

import warnings

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from offramp.bundle import open_bundle
from offramp.errors import BundleError, DataError, MissingError, ModelError, UsageError
from offramp.export import export
from offramp.runtime import load_static, load_uncalibrated, verify
from offramp.runtime.chain.checks import raise_explained
from offramp.tests.zoo.dense import forge, write_convolutions, write_onnx


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def every_call(net, x):
    """Return all ways in which a batch can be run, by name; each runs sample 1 among others."""
    others = np.repeat(x[:1], 40, axis=0)
    others[1] = x[1]

    def alone():
        net._together = False
        return net.batch(others)

    def together():
        net._together = net._batches
        return net.batch(others)

    return {
        "one": lambda: net(x[1]),
        "one as a list": lambda: net(x[1].tolist()),
        "alone": alone,
        "together": together,
        "every exit": lambda: net.every_exit(others),
        "every exit at once": lambda: net.every_exit(others, size=16),
    }


@pytest.fixture(scope="module")
def pooled(tmp_path_factory):
    """A network that pools by maximum, which drops NaN: on every engine a broken pixel gets a confident label."""
    folder = tmp_path_factory.mktemp("pooled")
    model = onnx.load(write_convolutions(folder / "net.onnx"))
    model.graph.node.insert(0, onnx.helper.make_node("MaxPool", ["x"], ["pooled"], kernel_shape=[3, 3], pads=[1] * 4))
    for node in list(model.graph.node)[1:]:
        node.input[:] = ["pooled" if name == "x" else name for name in node.input]
    onnx.save(model, folder / "net.onnx")
    return export(folder / "net.onnx", draw(3, 3, 12, 12), folder / "pooled.offramp")


@pytest.mark.parametrize("device", ["cpu", "openvino:CPU"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_pixel_that_is_not_finite_is_refused_by_every_call(pooled, device, value):
    net, x = load_uncalibrated(pooled, device), draw(2, 3, 12, 12)
    right = net(x[1]).score
    x[1, 2, 11, 11] = value
    for name, call in every_call(net, x).items():
        with pytest.raises(DataError, match=r"holds NaN or infinity in x \(float32\)") as caught:
            call()
        assert ("Sample 1 " in str(caught.value)) == (not name.startswith("one"))
    assert net(draw(2, 3, 12, 12)[1]).score == right


def test_finite_samples_of_any_size_pass(pooled):
    net = load_uncalibrated(pooled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for scale in (0.0, 1e-40, 1e20):
            net.run_every_exit(draw(2, 3, 12, 12) * np.float32(scale), size=1)


def test_a_double_beyond_the_networks_floats_is_infinite(dense):
    net, x = load_uncalibrated(dense), draw(2, 16).astype(np.float64)
    x[1, 3] = 1e300
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in every_call(net, x).values():
            with pytest.raises(DataError, match="holds NaN or infinity"):
                call()


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_looked_at_too(tmp_path, dtype):
    bundle = export(write_onnx(tmp_path / "net.onnx", dtype=dtype), None, tmp_path / "b.offramp")
    net, x = load_uncalibrated(bundle), (draw(2, 16) * 100).astype(dtype)
    net(x[1])
    x[1, 3] = np.inf
    for call in every_call(net, x).values():
        with pytest.raises(DataError, match="holds NaN or infinity"):
            call()


def test_a_network_that_makes_the_nan_itself_is_blamed(dense):
    forge(dense, "weights.bin", lambda path: np.full(path.stat().st_size // 4, np.nan, np.float32).tofile(path))
    net, x = load_uncalibrated(open_bundle(dense.path)), draw(2, 16)
    for call in every_call(net, x).values():
        with pytest.raises(DataError, match="every value of the sample is finite: weights that are NaN"):
            call()
    (verification,) = verify(dense.path)
    assert not verification.passed and not any(check.passed for check in verification.networks)


def test_an_example_is_not_blamed_for_the_nan_of_its_network(tmp_path):
    path = write_onnx(tmp_path / "net.onnx")
    model = onnx.load(path)
    for weight in model.graph.initializer:
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(np.nan), weight.name))
    onnx.save(model, path)
    with pytest.raises(ModelError, match="NaN or infinite on the example, whose values are finite. Look for weights"):
        export(path, draw(3, 16), tmp_path / "b.offramp")


def say(dense, output, value):
    """Let the last stage of a bundle and its last static network say something else."""

    def change(path):
        model = onnx.load(path, load_external_data=False)
        (node,) = (node for node in model.graph.node if output in node.output)
        node.output[0] = "was"
        of = model.graph.node.add(op_type="Sub", input=["was", "was"], output=["none"])
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], of and value.dtype), "said"))
        model.graph.node.add(op_type="Add", input=["none", "said"], output=[output])
        onnx.save(model, path)

    for name in ("stage2.onnx", dense.variant().exits[2].static):
        forge(dense, name, change)
    return open_bundle(dense.path)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        *(("label", np.int64(label)) for label in (5, -1, 10**12)),
        *(("score", np.float32(score)) for score in (2.0, np.inf, 1e30, -1.0)),
    ],
)
def test_answers_that_no_exit_gives_are_refused_with_the_stage(dense, part, value):
    bundle = say(dense, getattr(dense.variant().exits[2], part), value)
    net, x = load_uncalibrated(bundle), draw(2, 16)
    words = r"stage2.onnx answers .*label .* and score .*, but labels run from 0 to 4 and scores from 0 to 1"
    for call in [*every_call(net, x).values(), lambda: load_static(bundle)(x[0])]:
        with pytest.raises(BundleError, match=words.replace("stage2.onnx", r"\S+")) as caught:
            call()
        assert caught.value.device == "cpu" and caught.value.stage.endswith(".onnx")
    assert [check.passed for check in verify(bundle)[0].networks] == [False, True, True, False]
    net.thresholds = (0.0, 2.0)
    assert net(x[0]).exit == 0


def test_scores_that_half_precision_leads_out_of_bounds_pass(dense):
    bundle = say(dense, dense.variant().exits[2].score, np.float32(1.001))
    assert load_uncalibrated(bundle)(draw(16)).score == pytest.approx(1.001)


def manifest_with(bundle, change):
    """Change a bundle's manifest, as if it had been exported so."""
    path = bundle.path / "manifest.json"
    document = msgspec.json.decode(path.read_bytes())
    change(document["variants"][0])
    path.write_bytes(msgspec.json.encode(document))
    return open_bundle(bundle.path)


def widen(variant):
    for stage in variant["stages"]:
        for tensor in [*stage["inputs"], *stage["outputs"]]:
            if tensor["name"] != "x":
                tensor["shape"] = [None, 17]


def test_a_stage_that_does_not_fit_its_manifest_is_to_blame_and_not_the_sample(dense):
    net = load_uncalibrated(manifest_with(dense, widen))
    for call in every_call(net, draw(2, 16)).values():
        with pytest.raises(
            BundleError, match="stage0.onnx cannot run .* not even zeros: .*does not fit the manifest"
        ) as caught:
            call()
        assert (caught.value.device, caught.value.stage) == ("cpu", "stage0.onnx")


def test_a_stage_that_takes_no_batches_says_so(dense):
    def fix(path):
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer.append(numpy_helper.from_array(np.array([1, 16]), "fixed"))
        node = model.graph.node[0]
        model.graph.node.insert(0, onnx.helper.make_node("Reshape", [node.input[0], "fixed"], ["one"]))
        model.graph.node[1].input[0] = "one"
        onnx.save(model, path)

    forge(dense, "stage1.onnx", fix)
    net = load_uncalibrated(open_bundle(dense.path))
    assert net(draw(16)).exit == 2
    with pytest.raises(
        BundleError, match=r"stage1.onnx cannot run 3 samples at once, not even zeros: .*batch is fixed"
    ):
        net.every_exit(draw(3, 16), size=3)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(
            "Non-zero status code returned while running Expand node. Failed to allocate memory for 192000000"
        ),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA failure 2: out of memory"),
    ],
    ids=["python", "onnxruntime", "c++", "cuda"],
)
def test_memory_that_runs_out_is_no_fault_of_the_sample(error):
    with pytest.raises(MissingError, match=r"Memory ran out in stage1.onnx"):
        raise_explained(error, ("cpu", "stage1.onnx"), samples=1, has_lengths=False, try_zeros=lambda: False)


@pytest.mark.parametrize(
    "values", [None, 0.5, "0.5", "11", {0.9, 0.8}, {"a": 1}, [None, 0.5], [[0.5], [0.5]], [0.5, [0.5, 0.5]], object()]
)
def test_thresholds_that_are_no_numbers_are_refused(dense, values):
    net = load_uncalibrated(dense)
    with pytest.raises(UsageError, match="hresholds"):
        net.thresholds = values
    assert net.thresholds == (2.0, 2.0)
    net.thresholds = np.array([0.5, 0.25])
    assert net.thresholds == (0.5, 0.25)
    with pytest.raises(UsageError, match="^This is a static network: it has one exit and takes no threshold"):
        load_static(dense).thresholds = (0.5,)


@pytest.mark.parametrize("point", [[], None, 0, {}, np.zeros(2)])
def test_a_point_that_is_no_name_is_unknown(calibrated, point):
    from offramp.runtime import load

    with pytest.raises(UsageError, match="Unknown operating point"):
        load(calibrated).use(point)
