"""Where a calibration is stored, what it replaces, and which it does not replace unasked."""

from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from offramp.bundle import read_calibration
from offramp.bundle.calibration import WHOLE_NETWORK_PROMISE
from offramp.calibrate.storing import store
from offramp.runtime import load


@pytest.fixture
def promised(calibrated):
    """A calibration that is stored in its bundle and promises its target."""
    return with_point(read_calibration(calibrated.calibrations()[0]), met=True, promise=WHOLE_NETWORK_PROMISE)


def with_point(calibration, **changed):
    point = replace(calibration.point, certificate=None, **changed)
    return replace(calibration, points={"default": point})


def request(bundle, **changed):
    path = bundle.path / "calibrations" / "default.json"
    return SimpleNamespace(**{"bundle": bundle, "path": path, "is_path_named": False, "replace": False} | changed)


@pytest.mark.parametrize(
    "worse", [{"met": True, "promise": "Nothing is promised."}, {"met": False, "promise": "None."}]
)
def test_a_worse_calibration_replaces_none_that_promises_unless_it_is_asked_for(calibrated, promised, worse):
    stored, is_stored = store(promised, request(calibrated))
    path = calibrated.calibrations()[0]
    assert is_stored and read_calibration(path) == stored and f"Stored in {path}." in stored.notes[-1]
    unpromised = with_point(promised, **worse)
    kept, is_stored = store(unpromised, request(calibrated))
    assert not is_stored and read_calibration(path) == stored
    assert "It was not stored" in kept.notes[-1] and f"{path} stays as it was" in kept.notes[-1]
    asked, is_stored = store(unpromised, request(calibrated, replace=True))
    assert is_stored and read_calibration(path) == asked
    assert "promised, by 600 samples) is kept as default.json.before" in asked.notes[-1]
    assert read_calibration(path.with_name("default.json.before")) == stored
    assert calibrated.calibrations() == [path] and load(calibrated).point == asked.point  # the one before is not loaded


def test_a_calibration_that_promises_too_replaces_one_and_the_one_before_is_kept(calibrated, promised):
    first, _ = store(promised, request(calibrated))
    second, is_stored = store(replace(promised, seed=9), request(calibrated))
    path = calibrated.calibrations()[0]
    assert is_stored and read_calibration(path) == second
    assert read_calibration(path.with_name("default.json.before")) == first


def test_one_of_another_device_is_no_better_and_is_kept(calibrated, promised):
    path = calibrated.calibrations()[0]
    worse = with_point(promised, met=True, promise="Nothing is promised.")
    chains = tuple(replace(chain, placement=("openvino:NPU",) * 3) for chain in promised.chains)
    other_board = worse.fingerprint | {"soc": "another"}
    for elsewhere in (replace(worse, chains=chains), replace(worse, fingerprint=other_board)):
        store(promised, request(calibrated, replace=True))
        stored, is_stored = store(elsewhere, request(calibrated))
        assert is_stored and read_calibration(path) == stored
        assert "; on cpu; promised, by 600 samples) is kept as default.json.before" in stored.notes[-1]
    upgraded = replace(worse, fingerprint=worse.fingerprint | {"engine": "a later version"})
    store(promised, request(calibrated, replace=True))
    assert not store(upgraded, request(calibrated))[1]


def test_a_file_that_was_named_is_replaced(calibrated, promised, tmp_path):
    path = tmp_path / "board.json"
    first, _ = store(promised, request(calibrated, path=path, is_path_named=True))
    assert first.notes[-1] == f"Stored in {path}."
    unpromised = with_point(promised, met=True, promise="Nothing is promised.")
    second, is_stored = store(unpromised, request(calibrated, path=path, is_path_named=True))
    assert is_stored and read_calibration(path) == second and "board.json.before" in second.notes[-1]


def test_one_of_another_export_is_replaced_and_kept(calibrated, promised):
    path = calibrated.calibrations()[0]
    store(replace(promised, variants={"fp32": "of another export"}), request(calibrated))
    unpromised = with_point(promised, met=True, promise="Nothing is promised.")
    stored, is_stored = store(unpromised, request(calibrated))
    assert is_stored and read_calibration(path) == stored
    assert (
        "What stood there, which is no calibration of this export, is kept as default.json.before" in stored.notes[-1]
    )


def test_too_few_samples_to_promise_early_exit_do_not_replace_what_recommends_it(calibrated, promised):
    """The whole network can be promised by any samples, so that every target is promised."""
    recommending, _ = store(read_calibration(calibrated.calibrations()[0]), request(calibrated, replace=True))
    assert recommending.point.exits_early and recommending.point.certificate is not None
    early = replace(recommending.point, certificate=None, promise="Nothing is promised.")
    alone = {"static": 2, "placement": ("cpu",), "thresholds": (), "exit_shares": (1.0,), "exit_latency_s": (1e-5,)}
    static = replace(early, promise=WHOLE_NETWORK_PROMISE, **alone)
    few = replace(recommending, points={"default": static, "default-early": early})
    assert few.is_promised
    kept, is_stored = store(few, request(calibrated))
    assert not is_stored and "can promise early exit for no target" in kept.notes[-1]
    sure = replace(recommending, points={"default": static, "default-early": recommending.point})
    assert store(sure, request(calibrated))[1]
