"""Networks that C++ runs give what Python gives on the same engine: labels, exits, scores, answers."""

import os
import re
import shutil
from typing import Any

import numpy as np
import pytest

from offramp.bundle import open_bundle
from offramp.bundle.manifest import NEVER
from offramp.export import export, quantize
from offramp.runtime import load, load_uncalibrated
from offramp.runtime.chain.deadlines import StageLimits
from offramp.runtime.chain.samples import split_inputs
from offramp.tests.helpers.bundles import ARCHIVE, edit
from offramp.tests.zoo import networks
from offramp.tests.zoo.answers import ANSWERS

pytestmark = pytest.mark.cpp

SAMPLES = 500
ENGINES = ["openvino:CPU", *(["cpu"] if os.environ.get("ONNXRUNTIME_ROOT") else [])]
NETWORKS = ["plain", "shapes", "two-inputs", "looped", "gated", "encoder", "keyword-spotter", "int8"]
ANSWERING = ["detector", "segmenter", "regressor", "refiner", "words"]


@pytest.fixture(scope="module")
def made(zoo, tmp_path_factory):
    """Return a bundle by the name of its network, the variant to run, and a function that draws samples."""

    def make(name):
        if name in ANSWERS:
            answering = ANSWERS[name]
            path = tmp_path_factory.mktemp("answers") / "b.offramp"
            bundle = export(answering.build(), answering.draw(4), path, **answering.options)
            return bundle, None, lambda n: (answering.draw(n, 1),)
        if name == "int8":
            bundle = open_bundle(shutil.copytree(zoo("plain")[1].path, tmp_path_factory.mktemp("int8") / "b.offramp"))
            return quantize(bundle, networks.samples(64)), "int8", lambda n: (networks.samples(n, 1),)
        entry = networks.ZOO[name]
        return zoo(name)[1], None, lambda n: entry.draw(n, 1)

    found: dict[str, Any] = {}
    return lambda name: found.get(name) or found.setdefault(name, make(name))


def give(driver, folder, bundle, x, **options):
    """Run samples, one after another, in C++."""
    inputs = []
    for i, (part, tensor) in enumerate(
        zip(split_inputs(x, bundle.manifest.inputs), bundle.manifest.inputs, strict=True)
    ):
        rows = np.ascontiguousarray(np.moveaxis(part, tensor.batch_axis or 0, 0), tensor.dtype)
        rows.tofile(folder / f"{i}.bin")
        inputs.append({"file": folder / f"{i}.bin", "dtype": tensor.dtype, "shape": rows.shape[1:]})
    return driver.ask("run", inputs=inputs, samples=len(rows), **options)


def singles(bundle, x):
    """Yield each sample as Python takes it."""
    rows = [np.moveaxis(part, t.batch_axis or 0, 0) for part, t in zip(x, bundle.manifest.inputs, strict=True)]
    for i in range(len(rows[0])):
        yield tuple(row[i] for row in rows) if len(rows) > 1 else rows[0][i]


def middle_thresholds(net, x):
    """Return thresholds at which about half of the samples leave at each exit."""
    score = net.every_exit(x if len(x) > 1 else x[0]).score
    found = [np.unique(score[:, k]) for k in range(score.shape[1] - 1)]
    return [float(each[len(each) // 2]) if len(each) > 1 else NEVER for each in found]


@pytest.mark.parametrize("device", ENGINES)
@pytest.mark.parametrize("name", NETWORKS + ANSWERING)
def test_samples_get_the_labels_exits_scores_and_answers_of_python(driver, made, name, device, tmp_path):
    bundle, variant, draw = made(name)
    x = draw(SAMPLES)
    with load_uncalibrated(bundle, device, variant=variant, logits=True) as net:
        thresholds = middle_thresholds(net, tuple(part for part in draw(40)))
        net.thresholds = thresholds
        expected = [net(sample) for sample in singles(bundle, x)]
    done = driver.ask("load", path=bundle.path, devices=[device], variant=variant or "", calibrated=False, logits=True)
    assert [stage[0] for stage in done["stages"]] == [device] * (len(thresholds) + 1)
    assert driver.ask("thresholds", values=thresholds)["thresholds"] == thresholds
    found = give(driver, tmp_path, bundle, x)["results"]
    assert len(found) == len(expected) == SAMPLES and len({result.exit for result in expected}) > 1
    near = 0
    for ours, theirs in zip(found, expected, strict=True):
        if (ours["exit"], ours["label"]) != (theirs.exit, theirs.label):
            near += 1  # a score beside its threshold, in another rounding
            continue
        assert ours["score"] == pytest.approx(theirs.score, abs=1e-5)
        parts: dict[str, Any] = {"logits": theirs.logits} if theirs.answer is None else theirs.answer
        assert ours["answer"].keys() == parts.keys()
        for part, array in parts.items():
            value = ours["answer"][part]
            assert (value["dtype"], tuple(value["shape"])) == (str(array.dtype), array.shape)
            assert np.allclose(np.reshape(value["values"], array.shape), array, rtol=1e-4, atol=1e-4)
    assert near <= 1


def test_sequences_of_many_lengths_are_answered_in_any_order(driver, made, tmp_path):
    bundle, _, _ = made("encoder")
    driver.ask("load", path=bundle.path, devices=["openvino:CPU"], calibrated=False)
    rng = np.random.default_rng(0)
    with load_uncalibrated(bundle, "openvino:CPU") as net:
        for length in (5, 12, 7, 5, *range(3, 15), 5):
            x = rng.integers(0, 50, (1, length))
            (found,) = give(driver, tmp_path, bundle, (x,))["results"]
            theirs = net(x)
            assert found["label"] == theirs.label and found["score"] == pytest.approx(theirs.score, abs=1e-5)


def test_a_sample_needs_no_shape_if_the_network_has_no_named_axes(driver, made, tmp_path):
    bundle, _, draw = made("two-inputs")
    driver.ask("load", path=bundle.path, devices=["openvino:CPU"], calibrated=False)
    x = draw(3)
    assert give(driver, tmp_path, bundle, x, shapes=False)["results"][0]["score"] == pytest.approx(
        give(driver, tmp_path, bundle, x)["results"][0]["score"]
    )


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("plain", lambda x: x[:, :, :8], r"takes a sample of shape \(3, 16, 16\) for \w+.*not 384 values"),
        ("plain", lambda x: x.astype(np.float64), "takes float32 for .*, not float64"),
        ("plain", lambda x: np.where(x > 1, np.nan, x), "NaN or infinity"),
        ("plain", lambda x: np.where(x > 1, -np.inf, x), "NaN or infinity"),
        ("encoder", lambda x: np.where(x > 1, 50, x), "holds 50 in .*, which is an index into 50 rows: 0 to 49"),
        ("encoder", lambda x: np.where(x > 1, -51, x), "holds -51 in .*from the end -1 to -50"),
        ("encoder", lambda x: x[:, :0], "not 0 values"),
    ],
)
def test_samples_that_python_refuses_are_refused(driver, made, name, change, words, tmp_path):
    bundle, _, draw = made(name)
    driver.ask("load", path=bundle.path, devices=["openvino:CPU"], calibrated=False)
    x = change(draw(1)[0])
    x.tofile(tmp_path / "0.bin")
    input_ = {"file": tmp_path / "0.bin", "dtype": str(x.dtype), "shape": x.shape[1:]}
    done = driver.ask("run", inputs=[input_], samples=1)
    assert done["error"] == "DataError"
    assert re.search(words, done["message"]), done["message"]
    assert "error" not in give(driver, tmp_path, bundle, draw(1))  # and the next sample is answered


# operating points


@pytest.fixture
def archive(copied):
    """The archived bundle with two points of its chain, on OpenVINO, beside the recommended static network."""
    path = copied(ARCHIVE)
    calibration = path / "calibrations/default.json"

    def add_points(document):
        for point in document["points"].values():
            point["placement"] = ["openvino:CPU"] * len(point["placement"])
        early = document["points"]["default-early"]
        document["points"]["careful"] = early | {"thresholds": [0.9, 2.0]}
        document["chains"] = [
            chain | {"placement": ["openvino:CPU"] * len(chain["placement"])} for chain in document["chains"]
        ]

    edit(calibration, add_points)
    return path


def draw_dense(n):
    return (np.random.default_rng(3).standard_normal((n, 16)).astype(np.float32),)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("point", ["", "default-early", "careful"])
def test_a_calibrated_bundle_runs_the_point_that_python_runs(driver, archive, point, tmp_path):
    done = driver.ask("load", path=archive, point=point)
    name = done["point"]
    with load(archive, point=name) as net:
        assert done["thresholds"] == [*net.thresholds]
        assert [stage[0] for stage in done["stages"]] == [*net.provenance.devices]
        expected = [net(x) for x in draw_dense(SAMPLES)[0]]
    found = give(driver, tmp_path, open_bundle(archive), draw_dense(SAMPLES))["results"]
    assert sum((ours["label"], ours["exit"]) != (r.label, r.exit) for ours, r in zip(found, expected, strict=True)) <= 1
    assert name == (point or "default") and not done["notices"]


def test_a_network_switches_between_points_of_the_same_engines_alone(driver, archive):
    done = driver.ask("load", path=archive, point="careful")
    early = driver.ask("use", point="default-early")
    assert done["thresholds"] == [0.9, 2.0] != early["thresholds"]
    assert driver.ask("use", point="default")["error"] == "UsageError"
    unknown = driver.ask("use", point="ghost")
    assert unknown["error"] == "UsageError" and "careful" in unknown["message"]
    assert driver.ask("thresholds", values=[0.5])["error"] == "UsageError"
    assert driver.ask("thresholds", values=[0.5, 3.0])["error"] == "UsageError"
    assert driver.ask("thresholds", values=[0.1, 2.0])["thresholds"] == [float(np.float32(0.1)), 2.0]


def test_what_is_not_as_calibrated_is_said(driver, archive):
    done = driver.ask("load", path=archive, point="careful", devices=["openvino:CPU"] * 3, variant="fp32")
    assert not done["notices"]
    shutil.copy(archive / "calibrations/default.json", archive / "calibrations/other.json")
    several = driver.ask("load", path=archive)
    assert several["error"] == "UsageError" and "default.json, other.json" in several["message"]
    assert "error" not in driver.ask("load", path=archive, calibration=archive / "calibrations/other.json")
    (archive / "calibrations/other.json").unlink()
    edit(archive / "calibrations/default.json", lambda c: c["variants"].update(fp32="0" * 64))
    (stale, uncalibrated) = driver.ask("load", path=archive)["notices"]
    assert "Not used: default.json" in stale and "every input runs to the last exit" in uncalibrated
    given = driver.ask("load", path=archive, calibration=archive / "calibrations/default.json")
    assert given["error"] == "BundleError" and "another export" in given["message"]


def test_a_chain_across_two_variants_is_refused_and_other_points_are_not(driver, archive):
    def rename(document):
        point = document["points"].pop("careful")
        document["points"]["across"] = point | {"variant": "int8:0+fp32"}
        document["variants"]["int8:0+fp32"] = "0" * 64

    edit(archive / "calibrations/default.json", rename)
    assert driver.ask("load", path=archive)["point"] == "default"
    done = driver.ask("load", path=archive, point="across")
    assert done["error"] == "UnsupportedError" and "chain across two variants" in done["message"]


def test_a_device_that_no_engine_has_is_missing(driver, archive):
    for device in ("cuda:0", "openvino:NPU9", "http://x"):
        done = driver.ask("load", path=archive, devices=[device])
        assert done["error"] == "MissingError" and "CPU" in done["message"]
    done = driver.ask("load", path=archive, point="careful", devices=["openvino:CPU"] * 2)
    assert done["error"] == "UsageError"


@pytest.mark.skipif(len(ENGINES) < 2, reason="needs ONNXRUNTIME_ROOT")
def test_stages_run_on_the_devices_that_are_named_for_them(driver, made, tmp_path):
    bundle, _, draw = made("plain")
    devices = ["cpu", "openvino:CPU", "cpu"]
    done = driver.ask("load", path=bundle.path, devices=devices, calibrated=False)
    assert [stage[0] for stage in done["stages"]] == devices
    assert "ONNX Runtime" in done["stages"][0][1] and "OpenVINO" in done["stages"][1][1]
    with load_uncalibrated(bundle, devices) as net:
        expected = [net(x).label for x in draw(50)[0]]
    assert [result["label"] for result in give(driver, tmp_path, bundle, draw(50))["results"]] == expected


# deadlines


def test_limits_of_stages_are_those_of_python(driver):
    rng = np.random.default_rng(0)
    spent = [*rng.lognormal(0, 0.5, 200), -1.0, -1.0, *rng.lognormal(1, 0.5, 50)]
    for latencies in ([], [1.0, 2.5]):
        chain = StageLimits(2)
        if latencies:
            chain._limits[1] = 1.5e9
        expected = []
        for each in spent:
            chain.pass_over(1) if each < 0 else chain.note(1, each * 1e9)
            expected.append(chain.limit_ns(1) / 1e9)
        assert driver.ask("limits", latencies=latencies, spent=spent)["limits"] == pytest.approx(expected, rel=1e-9)


def test_answers_by_a_deadline_are_marked(driver, archive, tmp_path):
    def slow_down(document):
        for chain in document["chains"]:
            for exit_, seconds in zip(chain["exits"], (1e-4, 2e-4, 1000), strict=True):
                exit_.update(p50_s=1e-4, p99_s=seconds)

    edit(archive / "calibrations/default.json", slow_down)
    bundle = open_bundle(archive)

    def answer(thresholds, deadline_s):
        driver.ask("load", path=archive, point="careful")
        driver.ask("thresholds", values=thresholds)
        (found,) = give(driver, tmp_path, bundle, draw_dense(1), deadline_s=deadline_s)["results"]
        return found["exit"], found["cut"], found["late"]

    assert answer([2.0, 2.0], 100) == (1, True, False)  # the third stage may take 1000 s
    assert answer([2.0, 2.0], 1e9) == (2, False, False)
    assert answer([2.0, 0.0], 100) == (1, False, False)
    assert answer([2.0, 2.0], 1e-9) == (0, True, True)
    assert answer([0.0, 2.0], 1e-9) == (0, False, True)
    for wrong in (0, -1):
        (tmp_path / "0.bin").write_bytes(bytes(64))
        input_ = {"file": tmp_path / "0.bin", "dtype": "float32", "shape": [16]}
        done = driver.ask("run", inputs=[input_], samples=1, deadline_s=wrong)
        assert done["error"] == "UsageError" and "above 0" in done["message"]
