"""Which calibration and which point a bundle runs with, here and on another board."""

import json
import os
import warnings

import pytest
from msgspec.structs import replace

from offramp.bundle import open_bundle, read_calibration, write_calibration
from offramp.devices import fingerprint
from offramp.errors import UncalibratedWarning, UsageError
from offramp.runtime import load, selection
from offramp.runtime.selection import find_calibration
from offramp.tests.helpers.logs import log_lines


@pytest.fixture
def three(calibrated):
    """A calibration with three points of one chain, which lose 1, 0 and 4 %."""
    path = calibrated.calibrations()[0]
    calibration = read_calibration(path)
    point = calibration.points["default"]
    points = {
        "balanced": replace(point, drop=0.01),
        "accurate": replace(point, drop=0.0, thresholds=(2.0, 2.0), exit_shares=(0.0, 0.0, 1.0)),
        "eco": replace(point, drop=0.04, thresholds=(0.5, 0.5)),
    }
    write_calibration(path, replace(calibration, points=points))
    return calibrated


def elsewhere(bundle, name, **fields):
    """Change fields of a calibration's fingerprint, as if it had been made on another board or in another power mode."""
    path = bundle.path / "calibrations" / f"{name}.json"
    calibration = read_calibration(path)
    write_calibration(path, replace(calibration, fingerprint=calibration.fingerprint | fields))


def test_here_the_first_point_runs_without_a_word(three):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = load(three)
    assert net.point == net.points["balanced"]
    net.use("eco")
    assert net.thresholds == (0.5, 0.5)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (
            "power_mode",
            r"power mode is none here and was 15W there: latencies and joules measured there do not hold here",
        ),
        ("soc", r"SoC is .* here and was 15W there: engines built there must not run here"),
    ],
)
def test_on_another_board_or_in_another_mode_the_careful_point_runs_and_it_is_said(three, field, words):
    elsewhere(three, "default", **{field: "15W"})
    with pytest.warns(UncalibratedWarning, match=words) as caught:
        net = load(three)
    assert net.point == net.points["accurate"]
    assert "Point accurate is in use. Calibrate on this device." in str(caught[0].message)


def test_a_point_that_is_asked_for_runs_on_another_board_too(three):
    elsewhere(three, "default", power_mode="15W")
    with pytest.warns(UncalibratedWarning, match="Point eco is in use"):
        assert load(three, point="eco").thresholds == (0.5, 0.5)


def test_of_several_power_modes_the_one_that_fits_is_taken(three):
    path = three.path / "calibrations"
    (path / "default.json").rename(path / "maxn.json")
    for name in ("15w", "30w"):
        (path / f"{name}.json").write_bytes((path / "maxn.json").read_bytes())
        elsewhere(three, name, power_mode=name)
    with log_lines() as lines:
        assert "power_mode" not in find_calibration(three).fingerprint
    assert "calibration maxn.json: 0 hard and 0 soft differences, chosen" in lines
    assert sum(line.endswith(" differences, not chosen") for line in lines) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(three).point == read_calibration(path / "maxn.json").points["balanced"]
    elsewhere(three, "maxn", soc="another")
    with pytest.warns(UncalibratedWarning, match="power mode is none here and was 15w there"):
        assert load(three).point == read_calibration(path / "15w.json").points["accurate"]


def test_two_that_fit_must_be_told_apart(three):
    path = three.path / "calibrations"
    (path / "second.json").write_bytes((path / "default.json").read_bytes())
    with pytest.raises(UsageError, match=r"several calibrations that fit this device \(default.json of fp32, second"):
        load(three)


def test_engines_that_this_offramp_does_not_know_fit_last(three):
    path = three.path / "calibrations"
    content = json.loads((path / "default.json").read_text())
    for point in content["points"].values():
        point["placement"] = ["npu:9"] * 3
    (path / "npu.json").write_text(json.dumps(content))
    assert find_calibration(three).points["balanced"].placement == ("cpu",) * 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_bundle_that_cannot_be_written_loads(three):
    for folder in (three.path, three.path / "calibrations"):
        folder.chmod(0o500)
    try:
        assert load(open_bundle(three.path)).point
    finally:
        for folder in (three.path, three.path / "calibrations"):
            folder.chmod(0o700)


def test_a_calibration_that_does_not_tell_of_its_quota_gives_way_to_those_that_do(calibrated):
    path = calibrated.calibrations()[0]
    sure = read_calibration(path)
    here = {"affinity": "0-1", "cpu_quota": "2 cores"}

    def made_under(name, point, **fields):
        told = {field: text for field, text in sure.fingerprint.items() if field not in here} | fields
        points = {point: sure.points["default"]}
        write_calibration(path.with_name(f"{name}.json"), replace(sure, fingerprint=told, points=points))

    path.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "fingerprint", lambda **given: fingerprint(**given) | here)
        made_under("a-silent", "silent")
        made_under("b-other", "other", **here | {"cpu_quota": "1 cores"})
        assert list(find_calibration(calibrated).points) == ["other"]
        made_under("c-same", "same", **here)
        assert list(find_calibration(calibrated).points) == ["same"]
