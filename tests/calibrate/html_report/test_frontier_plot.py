import itertools

from offramp.calibrate.html_report.frontier_plot import LETTER_WIDTH, LINE_HEIGHT, place_labels


def test_no_label_covers_another():
    points = [(300.0 + i, 150.0 + 2 * i) for i in range(8)] + [(5.0, 3.0)]
    labels = [f"static network {i}" for i in range(9)]
    boxes = [
        (x + dx, y + dy, x + dx + LETTER_WIDTH * len(label), y + dy + LINE_HEIGHT)
        for (x, y), (dx, dy), label in zip(points, place_labels(points, labels), labels, strict=True)
    ]
    for a, b in itertools.combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    assert all(left >= 0 and low >= 0 for left, low, _, _ in boxes)


def test_a_label_alone_stands_right_above_its_mark():
    assert place_labels([(100.0, 100.0)], ["exit 1"]) == [(8.0, 6.0)]
