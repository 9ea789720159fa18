"""Labels that are asked for only where networks differ give the calibration that all labels give."""

import csv
import json
import shutil

import msgspec
import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import helper
from PIL import Image

from offramp.bundle import OperatingPoint, Target, open_bundle, read_calibration
from offramp.calibrate import ask_labels, bench, read_labels
from offramp.calibrate.certify.exact_tests import certify_drop
from offramp.calibrate.certify.points import make_points
from offramp.calibrate.disputes import describe_labels, find_disputed, rank_disputed
from offramp.calibrate.html_report.frontier_plot import arrange_scene
from offramp.calibrate.html_report.making import report
from offramp.calibrate.labels import check_asked_labels, settle_labels
from offramp.calibrate.measure import answers
from offramp.calibrate.measure.configurations import Answers
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.picks import make_picks
from offramp.errors import DataError, UsageError
from offramp.export import export
from offramp.runtime import EveryExit, load_uncalibrated
from offramp.tests.fakes.configurations import fake_configuration
from offramp.tests.helpers.briefly import calibrate
from offramp.tests.helpers.bundles import copy_archive
from offramp.tests.helpers.times import let_calls_take
from offramp.tests.zoo.dense import CLASSES
from offramp.tests.zoo.exit_tables import make_table

SAMPLES = 480


def draw(bundle, rng, count=SAMPLES):
    """Draw samples, on most of which all exits agree, with labels that are the last exit's, the first one's or others."""
    x = rng.standard_normal((40 * count, 16)).astype(np.float32)
    shape = [axis or len(x) for axis in bundle.manifest.inputs[0].shape]
    with load_uncalibrated(bundle) as net:
        label = net.every_exit(x.reshape(shape), size=16).label
    alike = (label == label[:, -1:]).all(1)
    rows = rng.permutation(np.r_[np.flatnonzero(alike)[: count * 3 // 4], np.flatnonzero(~alike)][:count])
    y = np.where(rng.random(count) < 0.3, label[rows, 0], label[rows, -1])
    wrong = rng.random(count) < 0.1
    y[wrong] = rng.integers(0, CLASSES, wrong.sum())
    return x.reshape(shape)[rows], y


@pytest.fixture(scope="module")
def pictures(dense_onnx, tmp_path_factory):
    """The dense network behind images of 4 by 4, with names of classes; and samples with all labels."""
    model, folder = onnx.load(dense_onnx), tmp_path_factory.mktemp("pictures")
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 1, 4, 4]))
    model.graph.node.insert(0, helper.make_node("Flatten", ["image"], ["x"]))
    onnx.save(model, folder / "pictures.onnx")
    names = ("ant", "bee", "cat", "dog", "owl")
    bundle = export(folder / "pictures.onnx", None, folder / "pictures.offramp", class_names=names)
    return bundle, *draw(bundle, np.random.default_rng(0), 120)


@pytest.fixture
def files(tmp_path):
    return tmp_path


@pytest.fixture
def own(pictures, tmp_path):
    bundle, x, y = pictures
    return open_bundle(shutil.copytree(bundle.path, tmp_path / "own.offramp")), x, y


def fill_in(path, filled, y, count=None, names=None):
    """Fill in the first labels of a table that asks for them."""
    head, *rows = csv.reader(path.read_text("utf-8-sig").splitlines())
    for row in rows[:count]:
        row[2] = names[y[int(row[0])]] if names else y[int(row[0])]
    with filled.open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([head, *rows])
    return filled


ABOUT_ACCURACY = {"accuracy", "full_accuracy", "full_accuracy_interval", "parent_accuracy", "labels"}

IN_WORDS = {"promise", "verdict", "reason", "notes", "conditions"}


def facts(value):
    """Return all of a calibration but accuracies, words, and what clocks and sensors of the board say."""
    if isinstance(value, dict):
        return {key: facts(each) for key, each in value.items() if key not in ABOUT_ACCURACY | IN_WORDS}
    return [facts(each) for each in value] if isinstance(value, (list, tuple)) else value


def test_asked_labels_give_what_all_labels_give_to_the_last_digit(tmp_path, monkeypatch):
    """Two variants, one of which quantises, so that they are compared; times are powers of two, whose means are exact."""
    let_calls_take(monkeypatch, lambda network, exit_: 2.0 ** ((-14 if "int8" in network else -13) + exit_))
    bundle = copy_archive(tmp_path)
    x, y = draw(bundle, np.random.default_rng(1))
    again = open_bundle(shutil.copytree(bundle.path, tmp_path / "again.offramp"))
    asked = ask_labels(again, (x, None), tmp_path / "ask.csv")
    assert (asked.samples, asked.images, asked.coco) == (SAMPLES, None, None) and 120 <= asked.asked < 200
    assert not (again.path / "calibrations").exists()  # nothing is written into the bundle
    some = read_labels(fill_in(tmp_path / "ask.csv", tmp_path / "filled.csv", y), (x, None), again)
    assert (some[1] >= 0).sum() == asked.asked
    targets = {"default": Target(max_drop=0.05), "best": Target(goal="accuracy", max_drop=0.1, max_latency_s=0.001)}
    full, few = calibrate(bundle, (x, y), targets), calibrate(again, some, targets)
    assert few.labels == (asked.asked, asked.asked) and full.labels is None
    assert facts(msgspec.to_builtins(few)) == facts(msgspec.to_builtins(full))
    for point, other in zip(few.points.values(), full.points.values(), strict=True):
        assert point.accuracy is point.full_accuracy is None
        low, high = point.full_accuracy_interval
        assert low <= other.full_accuracy <= high
    shift = {round(a.accuracy - b.accuracy, 9) for a, b in zip(few.frontier, full.frontier, strict=True)}
    assert len(shift) == 1 and few.early.certificate is not None
    assert f"({few.early.certificate.labels} of them labelled: " in few.early.promise
    assert read_calibration(again.calibrations()[0]) == few
    assert any(
        note.startswith(f"{asked.asked} of the {SAMPLES} labels are known. No other changes") for note in few.notes
    )


def test_simulated_tables_give_the_same_point():
    """The drop, its interval and bias, the step along the path: all but accuracy comes from what is lost."""
    full, targets = make_table(900, exits=3, seed=2), {"default": Target(max_drop=0.05)}
    points = list[OperatingPoint]()
    known = (full.label != full.label[:, -1:]).any(1)
    right = np.where(known[:, None], full.right, full.label == full.label[:, -1:])
    for table in (full, replace(full, right=right, reference_right=right[:, -1], known=known)):
        halves = {"selecting": table.rows(slice(300)), "reporting": table.rows(slice(300, None))}
        chain = Contender(configuration=fake_configuration("fp32", 3), static=None, **halves)
        points += make_points(make_picks([chain], targets), targets, [], confidence=0.9).values()
    by_all, by_few = points
    assert facts(msgspec.to_builtins(by_few)) == facts(msgspec.to_builtins(by_all))
    assert by_few.certificate.labels == known[300:].sum() < 300 and by_few.choice_bias != 0
    assert by_few.full_accuracy_interval[1] - by_few.full_accuracy_interval[0] == pytest.approx(1 - known[300:].mean())


def test_asking_and_going_on_by_the_command(own, call, files):
    bundle, x, y = own
    np.savez(files / "pool.npz", x=x)
    code, out, err = call("calibrate {f}/own.offramp {f}/pool.npz --ask {f}/tool --json")
    assert code == 0 and not err
    asked = json.loads(out)
    assert asked["samples"] == 120 and asked["table"] == f"{files}/tool/ask.csv"
    coco = json.loads((files / "tool/ask.json").read_text())
    assert [each["name"] for each in coco["categories"]] == ["ant", "bee", "cat", "dog", "owl"]
    shown = [Image.open(files / "tool" / image["file_name"]) for image in coco["images"]]
    assert len(shown) == asked["asked"] and all(picture.size == (4, 4) for picture in shown)
    for options in (
        "--ask {f}/tool",
        "--ask {f}/other --labels {f}/tool/ask.csv",
        "--ask {f}/a.json",
        "--labels {f}/tool/ask.csv",
    ):
        code, out, err = call(f"calibrate {{f}}/own.offramp {{f}}/pool.npz {options}")
        assert code in (2, 5) and not out and err.startswith("Error: ")
    coco["annotations"] = [
        {"image_id": image["id"], "category_id": int(y[int(image["file_name"][7:13])])} for image in coco["images"]
    ]
    (files / "tool/done.json").write_text(json.dumps(coco))
    code, out, err = call("calibrate {f}/own.offramp {f}/pool.npz --labels {f}/tool/done.json --max-drop 0.2")
    assert code == 0 and "accuracy     unknown without all labels: the whole network's is from" in out
    page = report(bundle, output=files / "report.html")
    assert page.calibration.labels == (asked["asked"], asked["asked"])
    scene = arrange_scene(page, energy=False)
    assert scene.measure == "accuracy against the whole network's"
    heights = {mark.name: 100 * mark.accuracy for mark in scene.marks}
    drops = {f"static network to exit {each.exit}": each.drop for each in page.calibration.statics}
    assert all(heights[name] == pytest.approx(100 - 100 * drop) for name, drop in drops.items())
    point = page.calibration.early
    assert heights[f"operating point {point.name}"] == pytest.approx(100 - 100 * point.drop)


def test_what_was_recorded_to_ask_is_not_recorded_again(own, tmp_path, monkeypatch):
    bundle, x, y = own
    ask_labels(bundle, (x, None), tmp_path / "ask.csv", save_s=0)
    names = bundle.manifest.class_names
    some = read_labels(fill_in(tmp_path / "ask.csv", tmp_path / "b.csv", y, names=names), (x, None), bundle)
    record = answers._record

    def restored(net, x, done, *rest):
        assert done == len(x)
        return record(net, x, done, *rest)

    monkeypatch.setattr(answers, "_record", restored)
    calibrate(bundle, some, Target(max_drop=0.2), save_s=0)


def test_a_label_that_lacks_counts_as_the_worst(own, tmp_path):
    bundle, x, y = own
    asked = ask_labels(bundle, (x, None), tmp_path / "ask.csv")
    path = fill_in(tmp_path / "ask.csv", tmp_path / "half.csv", y, count=asked.asked // 2)
    some = read_labels(path, (x, None), bundle)
    few = calibrate(bundle, some, Target(max_drop=0.3))
    assert few.labels == (asked.asked // 2, asked.asked)
    assert any(f"{asked.asked - asked.asked // 2} of them have no label" in note for note in few.notes)
    report = np.random.default_rng(0).permutation(len(y))[few.select_samples :]
    right = load_uncalibrated(bundle).every_exit(x[report]).label == y[report, None]
    true = right[:, -1].mean() - right.mean(0)
    assert all(static.drop > drop - 1e-9 for static, drop in zip(few.statics, true, strict=True))
    assert few.statics[0].drop > true[0] + 0.01 and few.statics[0].accuracy is None


def test_a_single_label_is_spoken_of_as_one():
    y = np.array([3, -1, -1])
    (note,) = describe_labels(y, np.array([False, True, False]))
    assert "1 of the 3 labels is known. " in note and "1 of them has no label" in note


def test_no_label_makes_more_be_lost_than_the_reference_s_own():
    """Whatever is true. So a test that fails more easily the more is lost and the less is won keeps its chance of error."""
    reference, said = np.meshgrid(np.arange(3), np.arange(3))
    settled = settle_labels(np.full(reference.shape, -1), reference)
    lost = (reference == settled).astype(int) - (said == settled)
    for truth in range(3):
        assert (lost >= (reference == truth).astype(int) - (said == truth)).all()
    assert (lost == (said != reference)).all()
    n = 120
    proven = np.array([[certify_drop(lost, won, n, eps=0.05, delta=0.1) for won in range(20)] for lost in range(20)])
    assert proven.any() and not proven.all()
    assert (proven[:-1] >= proven[1:]).all() and (proven[:, 1:] >= proven[:, :-1]).all()


def make_answers(label, score):
    return EveryExit(np.array(label), np.array(score, np.float32))


def test_the_most_useful_are_those_that_the_least_disagreement_reaches():
    chain = make_answers([[0, 1], [1, 1], [0, 1], [1, 1]], [[0.9, 1], [0.8, 1], [0.7, 1], [0.7, 1]])
    reference = make_answers([[1], [1], [1], [1]], [[1]] * 4)
    first = make_answers([[0], [1], [0], [1]], [[0.9]] * 4)
    recorded = [Answers(chain, (first, reference))]
    assert find_disputed(recorded, reference).tolist() == [True, False, True, False]
    assert rank_disputed(recorded, reference).tolist() == [0.25, np.inf, 0.5, np.inf]


def test_labels_of_other_samples_are_refused_where_networks_differ():
    rng = np.random.default_rng(0)
    said = rng.integers(0, 10, (300, 2))
    y = np.where(rng.random(300) < 0.9, said[np.arange(300), rng.integers(0, 2, 300)], rng.integers(0, 10, 300))
    y[100:] = -1
    check_asked_labels(y, said, 10)
    with pytest.raises(
        DataError, match=r"Of 100 labels \d+\.\d% are what any exit says .* Do they belong to other samples"
    ):
        check_asked_labels(np.r_[np.roll(y[:100], 1), y[100:]], said, 10)
    check_asked_labels(np.r_[np.roll(y[:10], 1), np.full(290, -1)], said, 10)  # too few to tell


def test_what_cannot_be_asked_is_refused(own, dense_onnx, tmp_path):
    bundle, x, y = own
    some = np.where(np.arange(len(y)) < 50, y, -1)
    for target in (Target(min_accuracy=0.5), Target(max_loss=0.5)):
        with pytest.raises(UsageError, match="needs every label, and 70 of the 120 in data are unknown"):
            calibrate(bundle, (x, some), target)
        with pytest.raises(UsageError, match="70 of the 120 in outside are unknown"):
            calibrate(bundle, (x[:60] + 9, y[:60]), target, outside=(x, some))
    with pytest.raises(UsageError, match="All labels of these samples are known"):
        ask_labels(bundle, (x, y), tmp_path / "ask.csv")
    assert not (tmp_path / "ask.csv").exists()
    for inside in (bundle.path, bundle.path / "asked" / "ask.csv"):
        with pytest.raises(UsageError, match="lies in the bundle, which holds nothing else"):
            ask_labels(bundle, (x, None), inside)
    other = export(
        dense_onnx, x.reshape(-1, 16)[:4], tmp_path / "other.offramp", answer=["scores"], rule="mean_softmax"
    )
    for refused in (ask_labels, lambda bundle, data, path: read_labels(path, data, bundle)):
        with pytest.raises(
            UsageError, match=r"labels are asked for where networks classify|Labels are for networks that"
        ):
            refused(other, (x, None), tmp_path / "ask.csv")
    with pytest.raises(DataError, match=r"The label of sample 50 is unknown \(-1\): only calibrate\(\) does without"):
        bench(bundle, (x, some))
    with pytest.raises(UsageError, match="limit max_disagreement"):
        calibrate(bundle, (x, np.full(len(y), -1)), Target(max_drop=0.1))
