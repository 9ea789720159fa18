"""Labels that cover nothing, and axes on which marks stand apart."""

import itertools

import pytest

from offramp.calibrate.html_report.label_places import LINE_HEIGHT, MARK_RADIUS, choose_axis, place_labels

AREA = (500.0, 300.0)


def boxes_of(points, widths, offsets):
    return [
        (x + dx, y + dy, x + dx + width, y + dy + LINE_HEIGHT)
        for (x, y), width, offset in zip(points, widths, offsets, strict=True)
        if offset is not None
        for dx, dy in [offset]
    ]


def do_overlap(a, b):
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@pytest.mark.parametrize(
    "points",
    [
        [(300.0 + i, 150.0 + 2 * i) for i in range(8)] + [(5.0, 3.0), (495.0, 298.0), (495.0, 3.0)],
        [(10.0 + 3 * i, 290.0) for i in range(12)],
        [(250.0, 150.0)] * 40,
    ],
)
def test_no_label_covers_another_or_a_mark_or_leaves_the_plot(points):
    widths, others = [90.0] * len(points), [(250.0, 165.0)]
    offsets = place_labels(points, widths, area=AREA, others=others)
    boxes = boxes_of(points, widths, offsets)
    marks = [(x - MARK_RADIUS, y - MARK_RADIUS, x + MARK_RADIUS, y + MARK_RADIUS) for x, y in {*points, *others}]
    assert len(boxes) >= 8 and offsets[0] is not None
    assert not any(do_overlap(a, b) for a, b in itertools.combinations(boxes, 2))
    assert not any(do_overlap(box, mark) for box in boxes for mark in marks)
    assert all(left >= 0 and low >= 0 and right <= AREA[0] and high <= AREA[1] for left, low, right, high in boxes)


def test_a_label_alone_stands_right_above_its_mark():
    assert place_labels([(100.0, 100.0)], [50.0], area=AREA) == [(8.0, 5.0)]


def test_costs_of_several_decades_stand_on_a_logarithmic_axis():
    axis = choose_axis([12, 40, 160, 700, 5000], [], may_be_log=True)
    assert axis.is_log and 0 < axis.low < 12 and axis.high > 5000


def test_costs_that_are_alike_begin_at_zero_unless_that_wastes_half_the_width():
    assert choose_axis([100, 250, 400], [], may_be_log=True).low == 0
    near = choose_axis([390, 395, 400], [], may_be_log=True)
    assert not near.is_log and 300 < near.low < 390 and 400 < near.high < 500


@pytest.mark.parametrize("sign", [1, -1])
def test_few_marks_that_are_far_stand_at_the_end_and_others_have_the_room(sign):
    values = [sign * value for value in (81, 82, 83, 84, 10)]
    axis = choose_axis(values, values[:2], may_be_log=False)
    assert axis.is_outside(values[-1]) and not any(map(axis.is_outside, values[:-1]))
    assert axis.place(values[-1]) == (axis.low if sign > 0 else axis.high)
    assert axis.high - axis.low < 5


def test_what_is_needed_is_never_cut_off():
    axis = choose_axis([81, 82, 83, 84, 10], [10], may_be_log=False)
    assert not axis.is_outside(10)
    assert not any(map(choose_axis([1, 2, 98, 99], [], may_be_log=False).is_outside, [1, 2, 98, 99]))  # half of them


def test_one_mark_or_equal_ones_have_an_axis():
    for values in ([5.0], [5.0, 5.0], [0.0]):
        axis = choose_axis(values, values, may_be_log=True)
        assert axis.low < values[0] + 1e-9 < axis.high
