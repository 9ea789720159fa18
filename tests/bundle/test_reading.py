"""Bundles and calibrations are read as they were written. `test_attacks.py` has those that are refused."""

import numpy as np
import pytest

from offramp.bundle import check_bundle, open_bundle, read_calibration, write_calibration
from offramp.errors import BundleError, UsageError
from offramp.runtime import load


def test_a_whole_bundle_passes(dense):
    assert check_bundle(dense.path).manifest == dense.manifest


def test_what_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(UsageError, match="There is no bundle"):
        open_bundle(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="is not an offramp bundle"):
        open_bundle(tmp_path)


def test_calibrations_lie_beside_the_bundle_or_elsewhere(calibrated, tmp_path):
    inside = calibrated.path / "calibrations" / "default.json"
    outside = tmp_path / "deep" / "board.json"
    write_calibration(outside, read_calibration(inside))
    inside.unlink()
    assert load(calibrated.path, calibration=outside).point == read_calibration(outside).points["default"]


def test_thresholds_are_exact_float32_after_reading(calibrated):
    point = read_calibration(calibrated.calibrations()[0]).points["default"]
    assert all(float(np.float32(t)) == t for t in point.thresholds)
