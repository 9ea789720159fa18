"""The canvases with scattered digits: their truth fits what is drawn."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def canvases():
    sys.path.insert(1, str(ROOT / "samples"))
    import canvases

    yield canvases
    sys.path.remove(str(ROOT / "samples"))


def test_boxes_hold_the_pixels_of_their_digits(canvases):
    drawn = canvases.draw("test", 40)
    assert drawn.images.shape == (40, 1, 96, 96) and drawn.images.dtype == np.float32
    assert len(drawn.boxes) == len(drawn.masks) == 40
    for boxes, mask in zip(drawn.boxes.rows(np.arange(40)), drawn.masks, strict=True):
        inside = np.zeros_like(mask, bool)
        for left, top, right, bottom, digit in boxes.astype(int):
            window = np.s_[top:bottom, left:right]
            inside[window] = True
            assert (mask[window] > 0).any() and 0 <= digit <= 9
        assert not mask[~inside].any()
        assert set(np.unique(mask)) - {0} <= {1 + int(digit) for digit in boxes[:, 4]}


def test_a_seed_gives_the_same_canvases_and_training_shares_none_with_test(canvases):
    first, again, other = (canvases.draw(part, 3, seed=1).images for part in ("test", "test", "training"))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
