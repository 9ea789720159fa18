"""Stages joined where an operating point never takes the exits between them answer as single ones do."""

import shutil

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper, numpy_helper

from offramp.bundle import read_calibration, write_calibration
from offramp.calibrate import Target, bench
from offramp.calibrate.search import choice
from offramp.errors import BundleError
from offramp.export import quantize
from offramp.runtime import joined_stages, load, load_uncalibrated
from offramp.runtime.chain.lazy import LazyRun
from offramp.runtime.graph_bytes import join_graphs
from offramp.runtime.opening import open_network
from offramp.runtime.request import LoadOptions, chain_parts
from offramp.tests.helpers.briefly import calibrate
from offramp.tests.helpers.points import make_point
from offramp.tests.zoo import networks

NEVER = 2.0


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def set_points(bundle, **thresholds):
    """Put operating points with these thresholds into the bundle's calibration."""
    path = bundle.calibrations()[0]
    calibration = read_calibration(path)
    point = calibration.points["default"]
    points = {name: replace(point, thresholds=values, joined=False) for name, values in thresholds.items()}
    write_calibration(path, replace(calibration, points=points))


def count_calls(net):
    """Return how many calls of the engine a sample takes that goes to the last exit."""
    return len(net._setup.steps)


def test_an_exit_that_is_never_taken_costs_no_call_and_changes_no_answer(calibrated):
    set_points(calibrated, default=(NEVER, 0.6), other=(0.7, NEVER), all=(0.7, 0.6))
    x = draw(60)
    with load(calibrated.path, logits=True) as net, load_uncalibrated(calibrated, logits=True) as chain:
        for name, calls in (("default", 2), ("other", 2), ("all", 3), ("default", 2)):
            net.use(name)
            assert count_calls(net) == calls
            chain.thresholds = net.thresholds
            expected = [chain(sample) for sample in x]
            for result, right in zip(map(net, x), expected, strict=True):
                assert (result.exit, result.label) == (right.exit, right.label)
                assert np.isclose(result.score, right.score, atol=1e-6)
                assert np.allclose(result.logits, right.logits, atol=1e-5)
            for together in (True, False):
                net._together = together
                assert net.batch(x).exit.tolist() == [right.exit for right in expected]
        assert net.stats().slowdown is None  # a calibration measures single stages
        assert np.array_equal(net.every_exit(x).score, chain.every_exit(x).score)
        clone = net.clone()
        assert count_calls(clone) == 2 and clone(x[0]).exit == net(x[0]).exit
        taken = [right.exit for right in expected]
        clone.stats(reset=True)
        clone.batch(x)
        assert clone.stats().exit_counts == tuple(taken.count(k) for k in range(3)) and 0 not in taken


def test_thresholds_by_hand_use_what_is_joined_and_no_more(calibrated):
    set_points(calibrated, default=(NEVER, 0.6))
    with load(calibrated.path) as net:
        for thresholds, calls in (((0.0, NEVER), 3), ((NEVER, NEVER), 2), ((NEVER, 0.0), 2), ((0.5, 0.5), 3)):
            net.thresholds = thresholds
            assert count_calls(net) == calls
        net.thresholds = (NEVER, NEVER)
        assert {net(sample).exit for sample in draw(8)} == {2}


def test_a_network_without_a_calibration_keeps_its_single_stages(dense):
    assert count_calls(load_uncalibrated(dense)) == 3


def test_a_large_variant_is_not_joined(calibrated, monkeypatch):
    set_points(calibrated, default=(NEVER, 0.6))
    monkeypatch.setattr(joined_stages, "MOST_JOINED_BYTES", 1000)
    with load(calibrated.path) as net:
        assert count_calls(net) == 3 and net(draw(1)[0]).exit > 0


def test_half_precision_is_not_joined_since_answers_would_differ(dense):
    bundle = quantize(dense, None, to="fp16")
    parts, point = chain_parts(bundle, bundle.variant("fp16")), make_point(bundle.variant("fp16"), (NEVER, NEVER))
    with (
        open_network(parts, "cpu", LoadOptions(), point=point) as net,
        load_uncalibrated(bundle, variant="fp16") as chain,
    ):
        assert [net(x).score for x in draw(9)] == chain.every_exit(draw(9)).score[:, 2].tolist()


def test_the_point_that_is_loaded_is_joined_before_others(calibrated, monkeypatch):
    set_points(calibrated, other=(0.7, NEVER), default=(NEVER, 0.6))
    variant = calibrated.variant()
    used = [variant.weights, *(stage.file for stage in variant.stages[:2])]
    monkeypatch.setattr(joined_stages, "MOST_JOINED_BYTES", sum(variant.files[name].bytes for name in used))
    with load(calibrated.path, point="default") as net:
        assert count_calls(net) == 2
        net.use("other")
        assert count_calls(net) == 3
    monkeypatch.setattr(joined_stages, "MOST_JOINED", 0)
    with load(calibrated.path, point="default") as net:
        assert count_calls(net) == 3


def test_a_benchmark_says_that_a_calibration_measured_single_stages(calibrated, labelled):
    x, y = (part[:32] for part in labelled)
    for thresholds, says in (((NEVER, 0.6), True), ((0.7, 0.6), False)):
        set_points(calibrated, default=thresholds)
        assert any("single stages" in note for note in bench(calibrated.path, (x, y)).notes) == says


def test_a_chain_is_calibrated_as_it_is_loaded(dense, labelled, monkeypatch):
    """Else the search would take exit 0 at last, whose passing costs a call only if stages are not joined."""

    def pick(*arguments, **options):
        return {name: replace(one, thresholds=(NEVER, 0.0)) for name, one in make_picks(*arguments, **options).items()}

    make_picks = choice.make_picks
    monkeypatch.setattr(choice, "make_picks", pick)
    found = calibrate(dense, labelled, Target(max_drop=0.9))
    (point,) = [each for each in found.points.values() if each.exits_early]
    assert point.thresholds[0] == NEVER and point.joined
    with load(dense.path, point=point.name) as net:
        assert net.joins_stages
        for sample in labelled[0][:100]:
            net(sample)
        assert net.stats().slowdown is not None
    said = bench(dense.path, tuple(part[:32] for part in labelled), point=point.name).notes
    assert not any("single stages" in note for note in said)


def test_a_chain_whose_certified_exits_may_differ_is_measured_in_single_stages():
    promised = Target(max_drop=0.01), Target(max_disagreement=0.1), Target(goal="energy", max_drop=0.01)
    assert all(choice.stays_never(target) for target in promised)
    others = Target(goal="accuracy", max_latency_s=1.0), Target(max_drop=0.01, max_latency_s=1.0)
    assert not any(choice.stays_never(target) for target in others)


def test_statistics_of_a_closed_network_are_those_of_the_open_one(calibrated):
    for thresholds, knows in (((0.7, 0.6), True), ((NEVER, 0.6), False)):
        set_points(calibrated, default=thresholds)
        with load(calibrated.path) as net:
            for sample in draw(100):
                net(sample)
            before = net.stats().slowdown
        assert net.stats().slowdown == before and (before is not None) == knows


def test_joined_stages_read_files_where_the_engine_takes_no_bytes(calibrated, monkeypatch):
    import onnxruntime

    monkeypatch.delattr(onnxruntime.SessionOptions, "add_external_initializers_from_files_in_memory")
    set_points(calibrated, default=(NEVER, 0.6))
    with load(calibrated.path) as net:
        assert count_calls(net) == 2 and net(draw(1)[0]).exit > 0


def load_point(bundle, *thresholds):
    """Load a bundle with an operating point, as from a calibration."""
    parts, point = chain_parts(bundle, bundle.variant()), make_point(bundle.variant(), thresholds)
    return open_network(parts, "cpu", LoadOptions(logits=True), point=point, points={"default": point})


@pytest.mark.parametrize("name", networks.ZOO)
def test_joined_stages_of_any_network_answer_as_single_ones(name, zoo):
    bundle = zoo(name)[1]
    samples, between = networks.ZOO[name].draw(6, 7), len(bundle.variant().exits) - 2
    axes = [tensor.batch_axis for tensor in bundle.manifest.inputs]
    singles = [tuple(np.take(a, [i], axis) for a, axis in zip(samples, axes, strict=True)) for i in range(6)]
    with load_uncalibrated(bundle, logits=True) as chain:
        taken = float(np.median(chain.every_exit(samples).score[:, 0]))
        for thresholds in ((NEVER,) * (between + 1), (taken, *(NEVER,) * between)):
            chain.thresholds = thresholds
            with load_point(bundle, *thresholds) as net:
                calls = between + 2 - thresholds.count(NEVER)
                for sample in singles:
                    result, right = net(sample), chain(sample)
                    assert (result.exit, result.label) == (right.exit, right.label)
                    assert np.allclose(result.logits, right.logits, rtol=1e-4, atol=1e-5 * np.abs(right.logits).max())
                assert count_calls(net) == calls or name == "looped"  # whose stages share a file, and are not joined


def write_part(nodes, inputs, outputs, weights=(), opset=17):
    given, made = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in names]
        for names in (inputs, outputs)
    )
    graph = helper.make_graph([helper.make_node(*node) for node in nodes], "part", given, made, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def weight(name, value):
    return numpy_helper.from_array(np.full(2, value, np.float32), name)


FIRST = write_part(
    [("Add", ["x", "w"], ["inner"]), ("Mul", ["inner", "same"], ["a"]), ("Neg", ["a"], ["score0"])],
    ["x"],
    ["a", "score0"],
    [weight("w", 1), weight("same", 2)],
)
SECOND = write_part(
    [("Add", ["a", "w"], ["inner"]), ("Mul", ["inner", "same"], ["next"]), ("Neg", ["next"], ["score1"])],
    ["a"],
    ["next", "score1"],
    [weight("w", 10), weight("same", 2)],
)


def test_graphs_whose_inner_names_clash_are_joined_without_what_nobody_reads():
    import onnxruntime

    joined = onnx.load_from_string(join_graphs([FIRST, SECOND], ["score1"]))
    onnx.checker.check_model(joined, full_check=True)
    assert [value.name for value in joined.graph.input] == ["x"]
    assert [value.name for value in joined.graph.output] == ["score1"]
    assert [node.op_type for node in joined.graph.node] == ["Add", "Mul", "Add", "Mul", "Neg"]
    assert len(joined.graph.initializer) == 3  # one serves both graphs
    x = draw(3)[:, :2].copy()
    session = onnxruntime.InferenceSession(joined.SerializeToString())
    assert np.allclose(session.run(None, {"x": x})[0], -((x + 1) * 2 + 10) * 2)


@pytest.mark.parametrize(
    ("models", "outputs", "words"),
    [
        ([FIRST, write_part([("Neg", ["a"], ["b"])], ["a"], ["b"], opset=18)], ["b"], "different opsets"),
        ([FIRST, SECOND], ["score7"], "no graph has the output b'score7'"),
        ([FIRST, write_part([("Neg", ["x"], ["a"])], ["x"], ["a"])], ["a"], "two values are called b'a'"),
        (
            [FIRST, write_part([("Add", ["a", "inner"], ["b"])], ["a", "inner"], ["b"])],
            ["b"],
            "two values are called b'inner'",
        ),
        (
            [
                write_part([("Add", ["x", "w.joined-graph1"], ["a"])], ["x"], ["a"], [weight("w.joined-graph1", 1)]),
                SECOND,
            ],
            ["score1"],
            "names that are given to values renamed",
        ),
        ([FIRST, b"\x08" + b"\xff" * 12], ["a"], "a number has no end"),
        ([FIRST, b"\x0b"], ["a"], "3 is no kind of field"),
        ([FIRST, b"\x0a\0" * 50_001], ["a"], "more than 50000 fields"),
    ],
)
def test_graphs_that_cannot_be_joined_are_refused(models, outputs, words):
    with pytest.raises(ValueError, match=words):
        join_graphs(models, outputs)


def test_damaged_graphs_are_refused_or_joined_and_nothing_else():
    rng, refused = np.random.default_rng(0), 0
    for k in range(400):
        damaged = bytearray(SECOND)
        if k % 2:
            del damaged[rng.integers(len(damaged)) :]
        else:
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
        try:
            join_graphs([FIRST, bytes(damaged)], ["score1"])
        except ValueError:
            refused += 1
    assert refused > 200


def opened(net):
    """Return which single stages of a network are in memory."""
    return [getattr(link.compiled, "is_here", True) for link in net._links]


def test_single_stages_are_opened_when_they_are_needed_whatever_became_of_the_bundle(calibrated, tmp_path):
    set_points(calibrated, default=(NEVER, 0.6), all=(0.7, 0.6))
    bundle = tmp_path / "bundle"
    shutil.copytree(calibrated.path, bundle)
    x = draw(20)
    with load(bundle) as net, load(bundle) as other, load_uncalibrated(calibrated) as chain:
        shutil.rmtree(bundle)
        assert opened(net) == [False, False, True] and net.lazy_stages == () and net.stats().lazy is None
        assert [stage.digest for stage in net.provenance.stages] == [stage.digest for stage in chain.provenance.stages]
        chain.thresholds = (NEVER, 0.6)
        assert [net(sample).exit for sample in x] == [chain(sample).exit for sample in x]
        assert opened(net) == [False, False, True]
        chain.thresholds = (0.7, 0.6)
        net.use("all")  # not the call after it: that would wait
        assert opened(net) == [True] * 3 and not any(isinstance(step[1], LazyRun) for step in net._setup.steps)
        steps = net._setup.steps
        net.use("default")
        net.use("all")  # which ties nothing anew
        assert [step[1] for step in net._setup.steps] == [step[1] for step in steps]
        assert [net(sample).score for sample in x] == [chain(sample).score for sample in x]
        assert not net(x[0], deadline_s=10.0).cut
        assert np.array_equal(other.every_exit(x).score, chain.every_exit(x).score) and opened(other) == [True] * 3


def test_a_deadline_never_waits_for_a_stage_that_the_point_does_not_run(calibrated):
    set_points(calibrated, default=(NEVER, NEVER))
    with load(calibrated.path) as net:
        result = net(draw(1)[0], deadline_s=10.0)
        assert opened(net) == [True] * 3 and (result.exit, result.cut) == (2, False)


def test_a_damaged_stage_is_known_at_once_though_the_point_does_not_run_it(calibrated):
    set_points(calibrated, default=(NEVER, NEVER))
    file = calibrated.path / "variants" / "fp32" / calibrated.variant().stages[1].file
    file.write_bytes(file.read_bytes()[::-1])
    with pytest.raises(BundleError, match="damaged"):
        load(calibrated.path)
