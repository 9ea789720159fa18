"""An accuracy far from what an earlier calibration of the bundle knew."""

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import read_calibration, write_calibration
from offramp.calibrate.earlier import KnownAccuracy, compare_accuracy, find_known_accuracy
from offramp.errors import DataError

KNOWN = KnownAccuracy("default.json", 0.92, 1520)


def right(share, n=1500):
    return np.arange(n) < share * n


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_far_below_what_was_known_is_refused(share):
    with pytest.raises(DataError, match="default.json knows 92.00% of 1520.*remove calibrations/default.json"):
        compare_accuracy(right(share), KNOWN, chance=0.1)


def test_a_little_below_is_noted_and_the_same_is_not():
    assert "these samples are harder" in compare_accuracy(right(0.85), KNOWN, chance=0.1)[0]
    for share in (0.91, 0.92, 0.935):
        assert compare_accuracy(right(share), KNOWN, chance=0.1) == []
    assert compare_accuracy(right(0.1), None, chance=0.1) == []


@pytest.mark.parametrize("trained", [0.5, 0.9])
def test_far_above_is_what_training_data_look_like(trained):
    (note,) = compare_accuracy(right(0.92 + 0.08 * trained), KNOWN, chance=0.1)
    assert "Was the network trained on some of these?" in note


def test_what_is_known_comes_from_the_bundles_own_calibrations(calibrated):
    known = find_known_accuracy(calibrated)
    calibration = read_calibration(calibrated.calibrations()[0])
    assert known == KnownAccuracy("default.json", calibration.point.full_accuracy, 600)
    write_calibration(calibrated.calibrations()[0], replace(calibration, groups=30))
    assert find_known_accuracy(calibrated) is None  # a mean over groups is no share of samples
    calibrated.calibrations()[0].write_text("{")
    assert find_known_accuracy(calibrated) is None
