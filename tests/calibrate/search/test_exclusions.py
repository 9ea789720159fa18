"""Compressed variants that are slower or much worse than what they were made of are kept, marked and never recommended."""

import functools
import re

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from offramp.bundle import Target, read_calibration
from offramp.errors import TargetError, UsageError
from offramp.export import Origin, export, keep
from offramp.tests.helpers import briefly
from offramp.tests.helpers.command import offramp
from offramp.tests.helpers.times import let_calls_take
from offramp.tests.zoo.dense import write_onnx

calibrate = functools.partial(briefly.calibrate, measure_s=0.3)  # latencies are compared


def write_slow(path):
    """Write the dense network with products before it that change nothing."""
    model = onnx.load(write_onnx(path))
    rng = np.random.default_rng(0)
    wide = [rng.standard_normal((16, 65536)), rng.standard_normal((65536, 16)) * 1e-9]
    model.graph.initializer.extend(
        numpy_helper.from_array(w.astype(np.float32), f"wide{i}") for i, w in enumerate(wide)
    )
    model.graph.node[0].input[0] = "same"
    nodes = [
        helper.make_node("MatMul", ["x", "wide0"], ["v0"]),
        helper.make_node("MatMul", ["v0", "wide1"], ["v1"]),
        helper.make_node("Add", ["x", "v1"], ["same"]),
    ]
    for i, node in enumerate(nodes):
        model.graph.node.insert(i, node)
    onnx.save(model, path)
    return path


def add(bundle, path, name, how="quantize"):
    return export(path, None, bundle.path, beside=name, origin=Origin("fp32", how, {}))


@pytest.mark.parametrize("alone", [False, True], ids=["beside its parent", "alone"])
def test_a_slower_variant_is_kept_and_never_recommended(dense, labelled, tmp_path, alone):
    add(dense, write_slow(tmp_path / "slow.onnx"), "slow")
    target = Target(max_drop=0.05)
    if alone:
        with pytest.raises(TargetError, match=r"slow on cpu is never recommended: .* than fp32: \d+ us against \d+ us"):
            calibrate(dense.path, labelled, target, variant="slow")
        return
    found = calibrate(dense.path, labelled, target)
    assert found.point.variant == found.early.variant == "fp32"
    assert all(one.variant == "fp32" for one in found.frontier)
    assert {one.variant for one in found.statics} == {one.variant for one in found.chains} == {"fp32", "slow"}
    (exclusion,) = read_calibration(dense.calibrations()[0]).gates
    assert (exclusion.variant, exclusion.parent) == (
        "slow",
        "fp32",
    ) and exclusion.latency_s > exclusion.parent_latency_s
    assert f"{exclusion.latency_s * 1e6:.0f} us against {exclusion.parent_latency_s * 1e6:.0f} us" in exclusion.reason
    shown = offramp("inspect", dense.path).stdout
    assert exclusion.reason in shown and shown.count("never recommended") == 4  # beside each static network too


def test_a_variant_that_loses_too_much_is_never_recommended(dense, labelled, tmp_path):
    add(dense, write_onnx(tmp_path / "other.onnx", seed=5), "broken")
    found = calibrate(dense.path, labelled, Target(max_latency_s=1.0))
    (exclusion,) = found.gates
    assert exclusion.accuracy < exclusion.parent_accuracy
    assert re.search(r"is worse at exit \w+ than fp32: ", exclusion.reason)
    assert f"{exclusion.accuracy:.2%} right against {exclusion.parent_accuracy:.2%}" in exclusion.reason
    assert found.point.variant == "fp32"


def test_without_labels_only_speed_can_be_compared(dense, labelled, tmp_path):
    add(dense, write_onnx(tmp_path / "other.onnx", seed=5), "broken")
    found = calibrate(dense.path, (labelled[0], None), Target(max_disagreement=0.05))
    assert all("not faster" in exclusion.reason and exclusion.accuracy is None for exclusion in found.gates)
    assert found.point.variant == "fp32"  # the target sees what it says


def test_variants_of_no_parent_or_with_fewer_exits_are_not_compared(dense, labelled, tmp_path):
    export(write_slow(tmp_path / "slow.onnx"), None, dense.path, beside="own")
    bundle = keep(dense.path, [0, 2])
    assert calibrate(bundle, labelled, Target(max_drop=0.05)).gates == ()


def test_a_good_variant_is_recommended(dense, labelled, tmp_path, monkeypatch):
    let_calls_take(monkeypatch, lambda network, exit_: (1e-5 if network.endswith("fast") else 1e-4) * (exit_ + 1))
    bundle = add(dense, write_onnx(tmp_path / "dense.onnx"), "fast", "prune")
    found = briefly.calibrate(bundle, labelled, Target(max_drop=0.05))
    assert found.gates == () and found.point.variant == "fast"


def test_what_is_made_of_a_variant_that_is_out_is_out_too(dense, labelled, tmp_path):
    bundle = add(dense, write_onnx(tmp_path / "other.onnx", seed=5), "broken", "prune")
    bundle = keep(bundle, [0, 2], variant="broken", name="kept")
    path = write_onnx(tmp_path / "again.onnx", seed=5)
    bundle = export(path, None, bundle.path, beside="broken-int8", origin=Origin("broken", "quantize", {}))
    found = calibrate(bundle, labelled, Target(max_latency_s=1.0))
    assert {exclusion.variant for exclusion in found.gates} == {"broken", "kept", "broken-int8"}
    assert found.point.variant == "fp32"
    with pytest.raises(TargetError, match="broken-int8 on cpu is never recommended: it is worse at exit .* than fp32"):
        calibrate(bundle, labelled, Target(max_latency_s=1.0), variant="broken-int8")


def test_an_origin_needs_a_variant_that_is_there(dense, tmp_path):
    path = write_onnx(tmp_path / "other.onnx")
    with pytest.raises(UsageError, match="give beside too"):
        export(path, None, tmp_path / "b.offramp", origin=Origin("fp32", "prune", {}))
    with pytest.raises(UsageError, match="Unknown variant 'nowhere'"):
        export(path, None, dense.path, beside="b", origin=Origin("nowhere", "prune", {}))
