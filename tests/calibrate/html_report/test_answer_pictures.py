"""Pictures of answers that are no labels: where boxes and maps lie, in which colours, and what is said of the rest."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace
from PIL import Image

from offramp.bundle import Target, Tensor, write_calibration
from offramp.calibrate import calibrate, report
from offramp.calibrate.html_report.answer_pictures import COLOURS, AnswerPainter
from offramp.calibrate.html_report.input_pictures import CURVE_SIZE
from offramp.calibrate.losses import find_decode, read_loss
from offramp.errors import DataError
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.tests.helpers.report_pages import pictures_of, text_of
from offramp.tests.zoo.answers import ANSWERS


def painter(x, decode=None):
    tensor = Tensor(name="x", dtype=str(x.dtype), shape=(None, *x.shape[1:]))
    return AnswerPainter((x,), SimpleNamespace(inputs=(tensor,)), decode)


def pixels(view):
    return np.asarray(Image.open(io.BytesIO(view.picture)).convert("RGB")).astype(int)


def rgb(kind):
    return [int(COLOURS[kind][k : k + 2], 16) for k in (1, 3, 5)]


def where(image, colour):
    """Return left, top, right and bottom of the pixels that have a colour."""
    rows, columns = np.nonzero((image == colour).all(-1))
    return columns.min(), rows.min(), columns.max(), rows.max()


@pytest.mark.parametrize("scale", [1, 1 / 16])
def test_boxes_are_outlined_in_the_colours_of_their_classes(scale):
    x = np.random.default_rng(0).random((3, 1, 16, 16)).astype(np.float32)
    found = np.array([[4, 2, 12, 8, 3], [np.nan, 0, 1, 1, 0], [-50, 0, 2, 400, 1]])
    sides = np.array([scale] * 4 + [1])
    made = painter(x, lambda answer: [each * sides for each in answer["boxes"]])
    views = made.view(1, {"exit 0": {"boxes": found[None]}}, [np.array([[0, 0, 8, 8, 2]]) * sides])
    assert [view.title for view in views] == ["exit 0", "truth"] and views[0].lines == ("3 boxes",)
    image = pixels(views[0])
    assert image.shape == (96, 96, 3)  # 16 pixels, each six times as large
    assert where(image, rgb(3)) == pytest.approx((24, 12, 72, 48), abs=2)
    assert where(image, rgb(1)) == pytest.approx((0, 0, 12, 95), abs=2)
    assert where(pixels(views[1]), rgb(2)) == pytest.approx((0, 0, 48, 48), abs=2)
    assert made.classes == {1, 2, 3}


def test_maps_lie_over_the_image_and_class_0_has_no_colour():
    x = np.zeros((2, 3, 32, 64), np.uint8)
    x[1, 0] = 255
    scores = np.zeros((1, 4, 8, 16), np.float32)
    scores[0, 2, :4] = 1
    truth = np.zeros((1, 32, 64), np.uint8)
    truth[0, :, 32:] = 1
    answer = {"map": scores, "sure": np.array([0.5]), "rest": np.zeros((1, 40))}
    views = painter(x).view(1, {"exit 0": answer}, {"map": truth})
    assert views[0].lines == ("sure 0.5", "rest float64 40, not drawn") and views[1].lines == ()
    image = pixels(views[0])
    assert image.shape == (32, 64, 3) and (image[16:] == [255, 0, 0]).all()
    mixed = 0.4 * np.array([255, 0, 0]) + 0.6 * np.array(rgb(2))
    assert np.abs(image[:16] - mixed).max() <= 2
    image = pixels(views[1])
    assert (image[:, :32] == [255, 0, 0]).all() and not (image[:, 32:] == [255, 0, 0]).all(-1).any()
    (single, _) = painter(x).view(0, {"exit 0": {"map": scores[:, 2:3] - 0.5}}, truth)
    assert (pixels(single)[16:] == 0).all() and (pixels(single)[:16].sum(-1) > 0).all()


@pytest.mark.parametrize("factor", [1e-30, 1.0, 3e38])
def test_images_of_any_range_and_size_become_small_ones(factor):
    x = np.zeros((2, 1, 500, 250), np.float32)
    x[0, 0, :250], x[1, 0, 250:] = factor, -factor
    (view, *rest) = painter(x).view(0, {"exit 0": {"angle": np.array([1.25])}}, np.array([2], np.int64))
    image = pixels(view)
    assert image.shape == (96, 48, 3) and (image[:40] == 255).all() and (np.abs(image[60:] - 128) <= 1).all()
    assert [(each.title, each.picture, each.lines) for each in rest] == [
        ("exit 0", None, ("angle 1.25",)),
        ("truth", None, ("2",)),
    ]


def test_samples_that_are_no_images_have_text_and_maps():
    x = np.zeros((2, 7), np.float32)
    made = painter(x, lambda answer: answer["boxes"])
    views = made.view(0, {"exit 0": {"boxes": [np.zeros((1, 5))]}}, [np.zeros((0, 5))])
    assert [(view.picture, view.lines) for view in views] == [
        (None, ("1 box, not drawn",)),
        (None, ("0 boxes, not drawn",)),
    ]
    with pytest.raises(DataError, match="The boxes of sample 0, alone, cannot be drawn: KeyError: 'boxes'"):
        made.view(0, {"exit 0": {}}, [])
    views = painter(x).view(0, {"exit 0": {"cells": np.arange(18).reshape(1, 3, 6)}}, np.zeros((1, 3, 6), int))
    assert pixels(views[0]).shape == (48, 96, 3) and where(pixels(views[1]), [118] * 3) == (0, 0, 95, 47)
    words = [np.arange(30)]  # rows of different lengths
    (given, exit_, truth) = painter(x).view(0, {"exit 0": {"words": np.array([[0, 5, -1, 2]])}}, words)
    assert (given.title, given.picture, given.lines) == ("input", None, ("0, 0, 0, 0, 0, 0, 0",))
    assert exit_.tokens == (("0", False), ("5", True), ("2", False)) and len(truth.tokens) == 30  # -1 is a blank
    assert exit_.lines == truth.lines == () and not any(is_wrong for _, is_wrong in truth.tokens)


def test_a_row_of_classes_is_made_of_scores_and_a_curve_is_drawn_between_the_limits_of_all(tmp_path):
    x = np.random.default_rng(0).random((2, 3, 40)).astype(np.float32)  # a signal of three channels
    scores = np.zeros((1, 4, 5), np.float32)
    scores[0, [1, 2, 0, 3, 3], range(5)] = 1
    given, exit_, _ = painter(x).view(0, {"exit 0": {"tags": scores}}, np.array([[1, 2, 3, 3, 3]]))
    assert pixels(given).shape == (*CURVE_SIZE[::-1], 3)
    assert exit_.tokens == (("1", False), ("2", False), ("0", True), ("3", False), ("3", False))
    low, high = np.zeros((1, 20)), np.ones((1, 20))
    _, exit_, truth = painter(x).view(0, {"exit 0": {"curve": low}}, high)
    darkest = [(pixels(view).sum((1, 2))).argmin() for view in (exit_, truth)]
    assert darkest[0] > 0.9 * CURVE_SIZE[1] and darkest[1] < 0.1 * CURVE_SIZE[1]
    assert exit_.lines == truth.lines == ()


def test_numbers_are_drawn_over_what_is_true(tmp_path):
    entry = ANSWERS["regressor"]
    net, x = entry.build(), entry.draw(300, 3)
    bundle = export(net, x[:4], tmp_path / "angle.offramp", **entry.options)
    truth = np.random.default_rng(0).random(300).astype(np.float32)
    found = calibrate(bundle, (x, truth), Target(max_drop=0.5), loss="absolute:4", measure_s=0.05, replace=True)
    point = replace(next(point for point in found.points.values() if point.exits_early), thresholds=(0.0, 2.0))
    write_calibration(tmp_path / "c.json", replace(found, points={"default": point}))
    options = {"loss": "absolute:4", "calibration": tmp_path / "c.json"}
    made = report(bundle, (x, truth), output=tmp_path / "r.html", **options)
    numbers = made.measured.answers.numbers
    assert sorted(numbers.truth) == sorted(truth.tolist()) and set(numbers.exit) == {0} and numbers.name == "angle"
    with load_uncalibrated(bundle) as loaded:
        said = loaded.every_exit(x).answers[0]["angle"].reshape(-1)
    assert sorted(numbers.answer) == pytest.approx(sorted(said.tolist()), abs=1e-4)
    assert "left at exit 0 (300)" in (tmp_path / "r.html").read_text()


def test_the_page_shows_maps_beside_the_true_ones(tmp_path):
    entry = ANSWERS["segmenter"]
    net, x = entry.build(), entry.draw(40, 3)
    bundle = export(net, x[:4], tmp_path / "map.offramp", **entry.options)
    truth = np.random.default_rng(0).integers(0, 3, (40, 16, 16))
    found = calibrate(bundle, (x, truth), Target(max_drop=0.5), loss="iou", measure_s=0.05, replace=True)
    point = next(point for point in found.points.values() if point.exits_early)
    point = replace(point, thresholds=(0.0, 2.0))  # all leave at the first exit
    write_calibration(tmp_path / "c.json", replace(found, points={"default": point}))
    made = report(
        bundle,
        (x, truth),
        output=tmp_path / "r.html",
        loss="iou",
        disagreement="iou",
        calibration=tmp_path / "c.json",
    )
    groups = made.measured.answers.groups
    assert [(len(group.shown), group.samples) for group in groups] == [(5, 40), (0, 0), (5, 40)]
    for one in groups[0].shown:
        titles = [view.title for view in one.views]
        assert titles == ["exit 0", "exit 2", "truth"] and one.exit == 0
    views = [view for group in groups for one in group.shown for view in one.views]
    page = (tmp_path / "r.html").read_text()
    assert pictures_of(page) == [view.picture for view in views] and all(view.picture for view in views)
    assert made.measured.answers.colours == {kind: COLOURS[kind] for kind in (1, 2)}
    assert "class 2" in text_of(page) and all(group.title in text_of(page) for group in groups)
    assert len(page) < 3_000_000


def test_boxes_are_made_by_the_function_of_the_loss(tmp_path):
    (tmp_path / "boxes.py").write_text("def decode(answer):\n    return answer['boxes']\n")
    decode = find_decode(read_loss(f"f1@0.5:{tmp_path}/boxes.py:decode"))
    assert decode is not None and decode({"boxes": np.arange(3)}).tolist() == [0, 1, 2]
    assert find_decode(read_loss("iou")) is find_decode(None) is None
