"""All that a calibration can refuse before it measures is refused before anything is loaded."""

import inspect

import numpy as np
import pytest

from offramp.bundle import Target
from offramp.calibrate import calibrate, labels
from offramp.calibrate.requests import read_request
from offramp.errors import DataError, UsageError


def read(bundle, data, target=None, **given):
    """Read a request as `calibrate` does, with its defaults."""
    parameters = inspect.signature(calibrate).parameters.values()
    defaults = {
        parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY
    }
    return read_request(bundle, data, target, **defaults | given)


def test_samples_are_hashed_once_and_ordered_by_the_seed(dense, labelled, monkeypatch):
    hashed, hash_each = [], labels.hash_each
    monkeypatch.setattr(labels, "hash_each", lambda x: hashed.append(len(x)) or hash_each(x))
    x, y = labelled
    request = read(dense, (x[300:], y[300:]), Target(max_drop=0.05), outside=(x[:300], y[:300]), seed=7)
    key = request.resume_key({"soc": "simulated", "temperature": "warm"})
    assert hashed == [500, 300]
    assert (key["data"], key["outside"]) == (request.samples.sha256, request.outside.sha256)
    assert key["soc"] == "simulated" and "temperature" not in key
    assert request.selecting == 0 and sorted(request.order) == list(range(500)) and request.notes == ()
    alone = [read(dense, (x, y), seed=7) for _ in range(2)]
    assert (alone[0].order == alone[1].order).all() and alone[0].selecting == 200


def test_samples_from_outside_that_are_in_data_too_do_not_choose(dense, labelled):
    x, y = labelled
    target, shuffled = Target(max_drop=0.05), np.random.default_rng(0).permutation(800)
    with pytest.raises(UsageError, match="800 of its 800 are in data too, and selecting samples must not"):
        read(dense, (x, y), target, outside=(x[shuffled], y[shuffled]))
    request = read(dense, (x[:500], y[:500]), target, outside=(x[400:], y[400:]))
    assert len(request.outside) == 300 and (request.outside.y == y[500:]).all()
    assert (request.outside.x.arrays[0] == x[500:]).all()
    assert request.notes[0].startswith("100 of the 400 samples in outside are in data too. They were left out")


def test_the_parts_of_a_target_are_the_groups_as_given_and_the_classes_that_samples_have(dense, labelled):
    x, y = labelled
    request = read(dense, (x, y), Target(max_drop=0.05, by="group"), groups=range(800))
    assert request.find_parts(y)["group"].count == 800  # one each: nothing is promised of all as if of each
    unknown = np.where(np.arange(300) % 3 == 0, -1, y[:300])
    request = read(dense, (x[300:], y[300:]), Target(max_drop=0.05, by="class"), outside=(x[:300], unknown))
    parts = request.find_parts(y[:300], request.outside)["class"]  # a class that is unknown is the reference's
    assert [parts.names[k] for k in parts.number] == [str(label) for label in y[:300]]


def test_samples_that_are_all_alike_are_refused(dense, labelled):
    x, y = labelled
    with pytest.raises(DataError, match="Only 10 of the 800 samples in data differ; calibrating takes at least 20"):
        read(dense, (np.tile(x[:10], (80, 1)), np.tile(y[:10], 80)))


def test_each_variant_is_placed_on_each_device_that_fits_it(dense, labelled):
    request = read(dense, labelled, also=["cpu", ["cpu", "cpu", "openvino:CPU"]])
    assert [str(placed) for placed in request.placed] == ["fp32 on cpu", "fp32 on cpu, cpu, openvino:CPU"]
    assert request.other_devices == ["cpu", "cpu", "cpu", "openvino:CPU"]
    assert request.path == dense.path / "calibrations" / "default.json" and not request.is_path_named


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"confidence": 0.2}, "confidence is a probability"),
        ({"measure_s": 0.0}, "measure_s is a time in seconds above 0"),
        ({"variant": []}, "no variant to calibrate"),
        ({"target": {}}, "There is no target"),
        ({"target": Target(goal="energy", max_drop=0.01)}, "give a meter"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(dense, labelled, how, words):
    with pytest.raises(UsageError, match=words):
        read(dense, labelled, **how)


def test_labels_of_a_single_class_are_refused(dense, labelled):
    x, y = labelled
    with pytest.raises(DataError, match="All 800 labels are class 0"):
        read(dense, (x, np.zeros_like(y)))
