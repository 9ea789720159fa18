import functools
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from offramp.bundle import Target, read_calibration
from offramp.calibrate import Row, bench
from offramp.calibrate.benchmark import MeasuredLimit, judge_early_exit
from offramp.calibrate.certify.exact_tests import certify_drop
from offramp.calibrate.intervals import ratio_error
from offramp.calibrate.measure.tables import exits_taken
from offramp.calibrate.verdict import judge
from offramp.devices.meters import modelled
from offramp.errors import BundleError, DataError, MissingError, TargetError, UnsupportedError, UsageError
from offramp.export import export, keep, quantize
from offramp.runtime import load, load_static, load_uncalibrated
from offramp.runtime.engines import openvino
from offramp.tests.helpers import briefly
from offramp.tests.helpers.points import where_static_wins
from offramp.tests.helpers.times import let_calls_take
from offramp.tests.zoo.dense import CLASSES, write_onnx

calibrate = functools.partial(briefly.calibrate, measure_s=0.3)  # latencies are compared


def test_the_figures_come_from_the_samples_that_did_not_choose(dense, labelled):
    x, y = labelled
    found = calibrate(dense, labelled, Target(max_drop=0.05), seed=3)
    point = found.early
    assert (found.select_samples, found.report_samples, found.outside) == (200, 600, False)
    report = np.random.default_rng(3).permutation(len(x))[200:]
    answers = load_uncalibrated(dense).every_exit(x[report])
    taken = exits_taken(answers.score, point.thresholds)
    right = answers.label == y[report, None]
    early = right[np.arange(600), taken]
    assert point.accuracy == pytest.approx(early.mean() - point.choice_bias)
    assert point.full_accuracy == right[:, -1].mean()
    assert point.drop == pytest.approx(right[:, -1].mean() - early.mean() + point.choice_bias)
    assert point.drop_interval[0] < point.drop < point.drop_interval[1]
    assert point.exit_shares == tuple(np.bincount(taken, minlength=3) / 600)
    assert point.latency_s == pytest.approx(np.dot(point.exit_shares, point.exit_latency_s))


def test_what_can_be_promised_is_stored_with_the_point(dense, labelled):
    found = calibrate(dense, labelled, Target(max_drop=0.05), confidence=0.95)
    point = read_calibration(dense.calibrations()[0]).early
    certificate = point.certificate
    assert point == found.early and certificate is not None
    assert (certificate.limits, certificate.confidence, certificate.samples) == ({"max_drop": 0.05}, 0.95, 600)
    assert point.promise.startswith("With 95% confidence the accuracy drop on inputs like these is at most 5.00%")
    answers, y = load_uncalibrated(dense).every_exit(labelled[0]), labelled[1]
    report = np.random.default_rng(0).permutation(len(y))[200:]
    right, taken = answers.label[report] == y[report, None], exits_taken(answers.score[report], point.thresholds)
    early = right[np.arange(600), taken]
    lost, won = (right[:, -1] & ~early).sum(), (early & ~right[:, -1]).sum()
    assert certify_drop(lost, won, 600, eps=0.05, delta=1 - 0.95)


def test_samples_from_outside_leave_all_others_for_the_promise(dense, labelled):
    x, y = labelled
    for outside in ((x[600:], y[600:]), (x[600:], None)):
        found = calibrate(dense, (x[:600], y[:600]), Target(max_drop=0.05), outside=outside)
        assert (found.select_samples, found.report_samples, found.outside) == (200, 600, True)
        assert found.early.certificate.samples == 600


def test_too_few_samples_promise_nothing_and_say_how_many_could(dense, labelled):
    x, y = labelled
    point = calibrate(dense, (x[:100], y[:100]), Target(max_drop=0.01)).early
    assert point.certificate is None
    assert re.match(r"Nothing is promised: 50 samples cannot show .* About \d{3,} could\.", point.promise)
    point = calibrate(dense, labelled, Target(max_drop=0.0)).early
    assert point.certificate is None and "no number of samples" in point.promise


def test_a_confidence_that_is_none_is_refused(dense, labelled):
    with pytest.raises(UsageError, match=r"confidence is a probability from 0\.5"):
        calibrate(dense, labelled, Target(max_drop=0.05), confidence=90)


def test_the_loaded_network_leaves_where_the_calibration_said(calibrated, labelled):
    point = read_calibration(calibrated.calibrations()[0]).points["default"]
    net, x = load(calibrated.path), labelled[0]
    answers = net.every_exit(x)
    assert net.point == point
    assert [net(sample).exit for sample in x[:200]] == exits_taken(answers.score, point.thresholds)[:200].tolist()


def stage_by_stage(network, exit_):
    """Every call of a stage takes 50 us, as of a network so small that it costs more to call it than to compute it."""
    return 5e-5 * (exit_ + 1 if "chain" in network else 1)


def test_costs_are_those_of_each_exit_and_the_fingerprint_is_there(dense, labelled, monkeypatch):
    let_calls_take(monkeypatch, stage_by_stage)
    found = calibrate(dense, labelled, Target(max_drop=0.05))
    (chain,) = found.chains
    for quantile in ("p50_s", "p90_s", "p99_s"):
        assert [getattr(one, quantile) for one in chain.exits] == pytest.approx([5e-5, 1e-4, 1.5e-4])
    assert chain.passing_s == pytest.approx([5e-5, 5e-5])
    assert [one.latency_s for one in found.statics] == pytest.approx([5e-5] * 3)
    assert {"architecture", "cores", "engine", "threads"} <= set(found.fingerprint)
    assert [one.exit for one in found.statics] == [0, 1, 2] and found.early.rival == 2


def test_a_network_too_small_to_gain_is_told_not_to_use_early_exit(dense, labelled, monkeypatch):
    let_calls_take(monkeypatch, stage_by_stage)
    x, y = labelled
    y = load_uncalibrated(dense).every_exit(x).label[:, -1]
    found = calibrate(dense, (x, y), Target(max_drop=0.0))
    assert found.verdict.startswith("Do not use early exit here")
    assert found.point.static == 2 and not found.point.pays and "whole network" in found.point.promise
    with load(dense) as net:
        assert net.point == found.point and net.exits == ("z2",)
        assert [net(sample).label for sample in x[:50]] == y[:50].tolist()
        with pytest.raises(UsageError, match=r"for the chain of fp32 .* loaded for the static network to exit 2"):
            net.use("default-early")
    with load(dense, point="default-early") as net:
        assert len(net.exits) == 3


def test_the_best_accuracy_under_a_latency(dense, labelled):
    generous = calibrate(dense, labelled, Target(max_latency_s=1.0)).point
    assert generous.met and generous.latency_s < 1
    with pytest.raises(
        TargetError,
        match=r"Nothing .* gives the best accuracy .* smallest mean latency that any exit reaches is \d+ us",
    ):
        calibrate(dense, labelled, Target(max_latency_s=1e-9))


def test_a_target_that_nothing_meets_leaves_the_bundle_as_it_was(calibrated, labelled):
    before = calibrated.calibrations()[0].read_bytes()
    with pytest.raises(TargetError):
        calibrate(calibrated, labelled, Target(max_latency_s=1e-9))
    assert calibrated.calibrations()[0].read_bytes() == before


def test_a_calibration_may_be_stored_elsewhere(dense, labelled, tmp_path):
    calibrate(dense, labelled, Target(max_drop=0.05), output=tmp_path / "board.json")
    assert not dense.calibrations() and load(dense, calibration=tmp_path / "board.json").point


def test_it_is_stored_as_readable_json(calibrated):
    content = json.loads(calibrated.calibrations()[0].read_text())
    assert content["points"]["default"]["target"] == {"goal": "latency", "max_drop": 0.05}


def test_progress_is_told(dense, labelled):
    seen = []
    calibrate(dense, labelled, Target(max_drop=0.05), progress=lambda *step: seen.append(step))
    steps = {"calibrating", "compiling", "recording", "measuring", "certifying", "laying the frontier"}
    assert {what for what, _, _ in seen} == steps
    assert all(0 <= done <= total for _, done, total in seen)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y: (x[:0], y[:0]), "empty"),
        (lambda x, y: (x[:10], y[:10]), "10 samples"),
        (lambda x, y: (x[:, :4], y), r"takes samples of shape \(N, 16\) for x, not \(800, 4\)"),
        (lambda x, y: (np.where(np.arange(len(x))[:, None] == 7, np.nan, x), y), "Sample 7 holds NaN"),
        (lambda x, y: (x, y + 1), "Label 5 of sample .* 0 to 4"),
        (lambda x, y: (x, -y), "is not one of the network's classes"),
        (lambda x, y: (x, y[:-1]), "one label per sample"),
        (lambda x, y: (x, y.astype(float)), "whole numbers"),
        (lambda x, y: (x.astype(int), y), "takes float32"),
        (lambda x, y: (np.array("x"), y), "array of numbers"),
        (lambda x, y: (x, y * 0 + 3), "All 800 labels are class 3"),
        (lambda x, y: (x, (y + 1) % 5), r"right on \d.\d% of the samples, no better than chance among 5 classes"),
    ],
)
def test_samples_that_do_not_fit_are_refused(dense, labelled, change, words):
    with pytest.raises(DataError, match=words):
        calibrate(dense, change(*labelled), Target(max_drop=0.05))
    assert not dense.calibrations()


def test_fewer_samples_than_classes_are_refused(tmp_path):
    bundle = export(write_onnx(tmp_path / "many.onnx", classes=40), None, tmp_path / "many.offramp")
    x = np.random.default_rng(0).standard_normal((30, 16)).astype(np.float32)
    with pytest.raises(DataError, match="There are 30 samples in data; calibrating takes at least 40"):
        calibrate(bundle, (x, np.arange(30)), Target(max_drop=0.05))


def test_a_last_exit_that_is_much_worse_than_another_is_noted(dense):
    x = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    with load_uncalibrated(dense) as net:
        label = net.every_exit(x).label
    y = np.where(
        np.arange(300) % 3 == 0, label[:, -1], label[:, 0]
    )  # neither better than chance nor as good as the first
    said = " ".join(calibrate(dense, (x, y), Target(max_drop=0.01)).notes)
    assert re.search(
        r"The last exit of fp32 is right on [\d.]+% of the samples, exit 0 on [\d.]+%: .* or name another", said
    )


def test_scores_that_are_all_alike_and_exits_that_nobody_takes_are_noted(tmp_path):
    path = write_onnx(tmp_path / "flat.onnx")
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "h0":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros((16, CLASSES), np.float32), "h0"))
    onnx.save(model, path)
    bundle = export(path, None, tmp_path / "flat.offramp")
    x = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    y = load_uncalibrated(bundle).every_exit(x).label[:, -1]
    found = calibrate(bundle, (x, y), Target(max_drop=0.01))
    said = " ".join(found.notes)
    assert "Exit 0 of fp32 gives every input the score 0.2: it cannot tell easy from hard." in said
    assert re.search(r"Exits 0, 1 of fp32 are right on [12]\d\.\d%, .* the last on 100\.0%: .* other heads", said)
    assert "In a cascade check what that network was said to take and to mean (--mean, --std, --bgr, --labels)." in said
    assert (
        "No sample leaves early at any exit of fp32." in said or "No sample leaves at exit 0 of fp32: without" in said
    )


def test_without_labels_the_whole_network_is_the_reference(dense, labelled):
    found = calibrate(dense, (labelled[0], None), Target(max_disagreement=0.05))
    point = found.early
    assert (point.accuracy, point.drop, point.full_accuracy) == (None, None, None)
    assert point.disagreement <= 0.05 and point.certificate.limits == {"max_disagreement": 0.05}
    assert all(one.accuracy is None for one in found.statics)
    names = list(calibrate(dense, (labelled[0], None)).points)
    assert [name for name in names if not name.endswith("-early")] == ["balanced", "accurate", "eco"]
    with pytest.raises(UsageError, match="no labels, so nothing tells whether an accuracy drop"):
        calibrate(dense, (labelled[0], None), Target(max_drop=0.05))
    with pytest.raises(UsageError, match="cannot choose thresholds for min_accuracy"):
        calibrate(dense, labelled, Target(min_accuracy=0.5), outside=(labelled[0][:500], None))
    with pytest.raises(UsageError, match="selecting samples must not be reporting samples too"):
        calibrate(dense, labelled, Target(max_drop=0.05), outside=labelled)


def test_energy_takes_a_meter_and_may_be_stated(dense, labelled):
    with pytest.raises(UsageError, match="asks for energy: give a meter"):
        calibrate(dense, labelled, Target(goal="energy", max_drop=0.05))
    found = calibrate(dense, labelled, Target(goal="energy", max_drop=0.05), meter=modelled(10.0))
    assert (
        1 < found.early.energy_j / found.early.latency_s < 100
    )  # 10 W, but energy and latency are measured one after the other
    assert "nothing was measured" in found.meter and all(one.energy_j for one in found.statics)


def test_all_variants_and_placements_are_tried_and_the_best_chain_serves_all_points(dense, labelled):
    bundle = keep(dense.path, [0, 2], name="two")
    targets = {"a": Target(max_drop=0.05), "b": Target(max_drop=0.02)}
    found = calibrate(bundle, labelled, targets, also=["openvino:CPU"])
    tried = [(chain.variant, set(chain.placement)) for chain in found.chains]
    assert tried == [
        ("fp32", {"cpu"}),
        ("fp32", {"openvino:CPU"}),
        ("two", {"cpu"}),
        ("two", {"openvino:CPU"}),
    ]
    assert len(found.statics) == 10 and {one.device for one in found.statics} == {"cpu", "openvino:CPU"}
    # Which chain is the fastest is this machine's affair; that one of those tried serves all points is not.
    early = {(point.variant, point.placement) for point in found.points.values() if point.exits_early}
    assert len(early) == 1 and early <= {(chain.variant, chain.placement) for chain in found.chains}
    assert found.frontier == tuple(sorted(found.frontier, key=lambda one: one.latency_s))
    assert [one.accuracy for one in found.frontier] == sorted(one.accuracy for one in found.frontier)
    for name, point in found.points.items():
        with load(bundle, point=name) as net:
            assert net.point == point
    only = calibrate(bundle, labelled, Target(max_drop=0.05), variant="two")
    assert [chain.variant for chain in only.chains] == ["two"] and only.points.keys() <= {"default", "default-early"}


def test_placements_that_fit_no_variant_are_refused(dense, labelled):
    with pytest.raises(UsageError, match="There are 2 devices for 3 stages"):
        calibrate(dense, labelled, Target(max_drop=0.05), also=[("cpu", "cpu")])


def test_a_device_that_is_missing_is_refused_before_anything_is_measured(dense, labelled):
    steps = set()
    with pytest.raises(MissingError, match="no device GPU.9"):
        calibrate(
            dense, labelled, Target(max_drop=0.05), also=["openvino:GPU.9"], progress=lambda step, *_: steps.add(step)
        )
    assert not steps & {"recording", "measuring"}


def test_nothing_but_a_calibration_is_replaced(dense, labelled, tmp_path):
    target = Target(max_drop=0.05)
    for path in (dense.path / "manifest.json", dense.path / "variants" / "fp32" / "whole.onnx", Path("/dev/null")):
        with pytest.raises(UsageError, match="is no calibration|is a folder|There is no|is a device"):
            calibrate(dense, labelled, target, output=path)
    with pytest.raises(UsageError, match="is empty"):
        calibrate(dense, labelled, target, output="")
    calibrate(dense, labelled, target, output=tmp_path / "new" / "c.json")
    calibrate(dense, labelled, target, output=tmp_path / "new" / "c.json")
    path = tmp_path / "new" / "c.json"
    path.write_text(path.read_text().replace('"schema": 4', '"schema": 1'))
    calibrate(dense, labelled, target, output=path)


def test_old_calibrations_are_left_out_and_it_is_said(calibrated):
    path = calibrated.calibrations()[0]
    path.with_name("old.json").write_text(path.read_text().replace('"schema": 4', '"schema": 1'))
    with pytest.warns(
        UserWarning,
        match=r"old.json has schema 1.* Calibrate again, and remove it. It is not used",
    ):
        assert load(calibrated).point == read_calibration(path).point


def test_bench_needs_a_point_that_exits_early(dense, labelled):
    found = where_static_wins(calibrate(dense, labelled, Target(max_drop=0.05)))
    with pytest.raises(UsageError, match="does not exit early. Name one that does: default-early"):
        bench(dense, labelled, calibration=found, point="default")
    with pytest.raises(UsageError, match="No operating point exits early"):
        bench(dense, labelled, calibration=replace(found, points={"default": found.point}))
    with pytest.raises(UsageError, match="Unknown operating point 'nope'"):
        bench(dense, labelled, calibration=found, point="nope")


def test_what_is_wrong_with_samples_is_noted_or_refused(dense, labelled):
    x, y = labelled
    first = calibrate(dense, labelled, Target(max_drop=0.05))
    assert not re.search("samples differ|resemble|answered|trained|knows", " ".join(first.notes))
    copies = calibrate(dense, (np.repeat(x[:200], 4, 0), np.repeat(y[:200], 4)), Target(max_drop=0.15))
    certificate = next(point.certificate for point in copies.points.values() if point.certificate is not None)
    assert certificate.independent == certificate.samples // 4 and certificate.question == 2
    said = " ".join(copies.notes)
    assert "Only 200 of the 800 samples differ" in said and "answered 1 other question" in said
    with load_static(dense) as whole:
        right = whole.batch(x).label == y
    learnt = calibrate(dense, (x[right], y[right]), Target(max_drop=0.05), seed=1)
    assert "Was the network trained on some of these?" in " ".join(learnt.notes)
    half = np.where(np.arange(800) % 2, y, np.roll(y, 1))
    with pytest.raises(DataError, match="Do the labels belong to other samples"):
        calibrate(dense, (x, half), Target(max_drop=0.05))


def test_a_name_of_a_point_that_cannot_be_one_is_refused(dense, labelled):
    for name in ("a b", "eco-early", ""):
        with pytest.raises(UsageError, match="A point's name has letters"):
            calibrate(dense, labelled, {name: Target(max_drop=0.05)})
    with pytest.raises(UsageError, match="no target"):
        calibrate(dense, labelled, {})


def test_a_device_that_is_not_there(dense, labelled):
    with pytest.raises(MissingError, match="no device 'npu'"):
        calibrate(dense, labelled, Target(max_drop=0.05), device="npu")


def test_bench_compares_on_the_same_samples(calibrated, labelled):
    x, y = labelled
    result = bench(calibrated, (x[:300], y[:300]))
    assert result.samples == 300 and sum(result.exit_shares) == pytest.approx(1)
    assert result.drop == pytest.approx(result.whole.accuracy - result.early.accuracy)
    assert result.predicted_s == pytest.approx(np.dot(result.exit_shares, result.exit_latency_s))
    assert result.prediction_error == pytest.approx(result.predicted_s / result.early.mean_s - 1)
    assert result.speedup == pytest.approx(result.whole.mean_s / result.early.mean_s)
    assert result.early.p50_s <= result.early.p90_s <= result.early.p99_s
    assert "early exit" in str(result) and "paired 95 % interval" in str(result)
    (path,) = calibrated.calibrations()
    found = read_calibration(path)
    then_s = found.conditions.reference_s
    assert then_s is not None and result.slowdown == pytest.approx(result.whole.mean_s / then_s)
    expected_s = found.points["default"].latency_s * result.slowdown
    assert result.calibration_error == pytest.approx(expected_s / result.early.mean_s - 1)
    assert f"takes {result.slowdown:.2f} times as long as when it was calibrated" in str(result)


def test_the_drift_is_unknown_where_the_reference_ran_elsewhere_or_was_not_stored(calibrated, labelled):
    (path,) = calibrated.calibrations()
    found = read_calibration(path)
    others = [
        *(
            replace(found, conditions=replace(found.conditions, **change))
            for change in ({"reference_device": "npu"}, {"reference_s": None})
        ),
        replace(found, fingerprint=found.fingerprint | {"threads": "7"}),
    ]
    for other in others:
        result = bench(calibrated, (labelled[0][:50], labelled[1][:50]), calibration=other)
        assert result.slowdown is None and result.calibration_error is None and "The machine takes" not in str(result)


def test_bench_refuses_labels_that_are_another_sets(calibrated, labelled):
    x, y = labelled
    with pytest.raises(DataError, match="no better than chance"):
        bench(calibrated, (x[:300], (y[:300] + 1) % 5))


def test_a_calibration_that_misses_its_target_replaces_none_unless_it_is_told_where(dense, labelled):
    x, y = labelled
    with load_static(dense) as whole:
        right = whole.batch(x).label == y  # on these alone everything looks attainable
    how = {"outside": (x[right] + np.float32(1e-6), y[right])}  # which are not the samples that report
    first = calibrate(dense, labelled, Target(min_accuracy=0.9999), **how)
    (path,) = dense.calibrations()
    assert not first.point.met and read_calibration(path) == first
    second = calibrate(dense, labelled, Target(min_accuracy=0.9998), **how)
    assert read_calibration(path) == second  # which is no worse
    good = calibrate(dense, labelled, Target(max_drop=0.05))
    again = calibrate(dense, labelled, Target(min_accuracy=0.9999), **how)
    assert read_calibration(path) == good and good.point.met and not again.point.met
    assert f"{path} stays as it was" in again.notes[-1]
    elsewhere = dense.path.parent / "missed.json"
    named = calibrate(dense, labelled, Target(min_accuracy=0.9999), output=elsewhere, **how)
    assert read_calibration(elsewhere) == named and "stays as it was" not in " ".join(named.notes)


def test_bench_shows_the_whole_network_on_a_faster_device_beside_that_on_the_chains_own(dense, labelled):
    found = calibrate(dense, labelled, Target(max_drop=0.05), also=["openvino:CPU"])
    point = replace(found.early, placement=("cpu",) * 3)
    names = {}
    for i, one in enumerate(found.statics):
        if one.exit == 2:
            chosen = replace(found, points={"default": replace(point, rival=i)})
            names[one.device] = bench(dense, (labelled[0][:100], labelled[1][:100]), calibration=chosen).single_name
    assert names == {"cpu": None, "openvino:CPU": "static fp32 to exit 2 on openvino:CPU"}


def test_bench_says_when_early_exit_loses(dense, labelled):
    x, y = labelled
    with pytest.warns(UserWarning, match="no calibration"):
        result = bench(dense, (x[:200], y[:200]))
    # The chain does more than the static network; whether that is more than the clock's noise is the machine's affair.
    starts = ("Early exit loses here", "Early exit saves nothing for sure here")
    assert result.verdict.startswith(("Early exit wins here", *starts[1:]) if result.speedup > 1 else starts)
    assert result.predicted_shares is None and result.single is None and result.drop == 0


def row(accuracy, mean_s):
    return Row("row", accuracy, mean_s, mean_s, mean_s, mean_s)


@pytest.mark.parametrize(
    ("early", "single", "target", "words"),
    [
        (
            (0.955, 3e-4),
            (0.955, 4e-4),
            Target(max_drop=0.01),
            r"wins here: 1\.33 times .* best static .* \(3\.33 times",
        ),
        ((0.955, 3e-4), (0.955, 2e-4), Target(max_drop=0.01), "loses here: the best static network"),
        (
            (0.30, 1e-4),
            None,
            Target(max_drop=0.01),
            "misses its target here: .* 1.00%, but 66.00% .* was .* 10.00 times",
        ),
        ((0.95, 4.8e-4), (0.90, 3e-4), Target(max_latency_s=5e-4), "wins here"),
        ((0.85, 4.8e-4), (0.90, 3e-4), Target(max_latency_s=5e-4), "loses here"),
        (
            (0.95, 6e-4),
            (0.90, 3e-4),
            Target(max_latency_s=5e-4),
            "misses its target here: .* 500 us, but 600 us .* was",
        ),
        ((0.95, 3e-4), None, Target(max_drop=0.01), "wins here"),
        ((0.96, 2e-3), None, None, "loses here: the whole static network"),
    ],
)
def test_the_verdict_goes_by_the_target(early, single, target, words):
    whole, measured = row(0.96, 1e-3), {"max_drop": round(0.96 - early[0], 6), "max_latency_s": early[1]}
    measured = {name: MeasuredLimit(value, value, value) for name, value in measured.items()}
    measured = {name: value for name, value in measured.items() if target and name in target.limits}
    single_row = None if single is None else row(*single)
    assert re.search(words, judge_early_exit(row(*early), whole, single_row, measured, target, samples=1000))


def test_samples_that_do_not_contradict_the_limit_are_no_miss():
    early, whole, target = row(0.946, 3e-4), row(0.96, 1e-3), Target(max_drop=0.01)
    verdict = judge_early_exit(
        early, whole, None, {"max_drop": MeasuredLimit(0.014, 0.0061, 0.0219)}, target, samples=1000
    )
    assert verdict.startswith("Early exit wins here: 3.33 times as fast in the mean as the whole static network.")
    assert verdict.endswith(
        "Measured for max_drop: 1.40% (95 % interval 0.61% to 2.19%). These 1000 samples neither show that it is at most 1.00% "
        "nor contradict it; about 15700 would."
    )
    verdict = judge_early_exit(
        early, whole, None, {"max_drop": MeasuredLimit(0.014, 0.0101, 0.018)}, target, samples=1000
    )
    assert verdict.startswith("Early exit misses its target here: max_drop is 1.00%, but 1.40% (95 % interval 1.01%")
    for value, words in ((0.0085, "about 13000 would."), (0.0099, "the two are too close to tell."), (0.0001, None)):
        measured = {"max_drop": MeasuredLimit(value, value - 0.0027, value + 0.0027)}
        verdict = judge_early_exit(early, whole, None, measured, target, samples=1000)
        assert verdict.endswith(words or "as the whole static network.")
    least = Target(goal="latency", min_accuracy=0.95)
    for high, start in ((0.949, "Early exit misses"), (0.951, "Early exit wins")):
        measured = {"min_accuracy": MeasuredLimit(0.946, 0.93, high)}
        assert judge_early_exit(early, whole, None, measured, least, samples=1000).startswith(start)


def test_a_saving_within_the_noise_is_no_win():
    early, whole, single = row(0.95, 3.0e-4), row(0.96, 1e-3), row(0.95, 3.1e-4)
    for error, start in ((0.05, "Early exit saves nothing for sure here: the best static"), (0.005, "Early exit wins")):
        verdict = judge_early_exit(early, whole, single, {}, Target(max_drop=0.02), samples=1000, errors=(0.01, error))
        assert verdict.startswith(start)


def test_a_static_network_that_was_held_up_is_no_win():
    """Two of eight parts of its measurement stalled: it looks eight times as slow, and may be as fast as early exit."""
    parts, steady = np.ones(128), np.ones(128)
    parts[[0, 70]] = 449.0
    error = ratio_error(steady, parts, 16)
    early, whole = row(0.95, 3e-4), row(0.96, 3e-4 * parts.mean())
    assert 0.05 < error < 1 / 8 and parts.mean() == 8
    verdict = judge_early_exit(early, whole, None, {}, Target(max_drop=0.02), samples=1000, errors=(error, 0.0))
    assert verdict.startswith("Early exit saves nothing for sure here")


def test_a_missed_target_is_not_recommended(dense, labelled):
    point = calibrate(dense, labelled, Target(max_drop=0.05)).early
    missed = replace(point, met=False, accuracy=0.85, drop=0.08)
    pays, verdict = judge(missed, None)
    assert not pays and "target is missed" in verdict and "8.00% below the whole network's 93.00%" in verdict


def test_a_calibration_that_names_no_such_static_network_is_refused(calibrated, labelled):
    path = calibrated.calibrations()[0]
    content = json.loads(path.read_text())
    content["points"]["default"]["rival"] = 9
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="names static network 9 of 3"):
        bench(calibrated, labelled)


def test_a_variant_that_a_device_cannot_run_is_left_out_with_its_reason_unless_it_is_named(
    dense, labelled, monkeypatch
):
    bundle = quantize(dense, labelled[0][:100], to="fp16")
    compile_stage = openvino.compile_stage

    def refuse(source, place, **how):  # as an NPU does that knows no half precision
        if "fp16" in str(source.path):
            raise UnsupportedError("The fake NPU knows no half precision.")
        return compile_stage(source, place, **how)

    monkeypatch.setattr(openvino, "compile_stage", refuse)
    found = calibrate(bundle, labelled, Target(max_drop=0.1), device="openvino:CPU", also=["cpu"])
    ran = {(chain.variant, chain.placement[0]) for chain in found.chains}
    assert ran == {("fp32", "openvino:CPU"), ("fp32", "cpu"), ("fp16", "cpu")}
    assert any("fp16 on openvino:CPU is left out: The fake NPU" in note for note in found.notes)
    with pytest.raises(UnsupportedError, match="--place 0=cpu"):
        calibrate(bundle, labelled, Target(max_drop=0.1), device="openvino:CPU", variant="fp16")
