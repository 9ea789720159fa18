import contextlib
import time

import numpy as np
import pytest

from offramp.cache import list_cache
from offramp.calibrate import Target
from offramp.calibrate.measure import configurations
from offramp.calibrate.measure.answers import record_answers
from offramp.calibrate.measure.energy import model_energy
from offramp.devices.simulated import SimulatedBoard
from offramp.errors import DataError
from offramp.runtime import EveryExit, load_uncalibrated
from offramp.runtime.chain.samples import Samples, check_samples
from offramp.tests.helpers.briefly import calibrate


class Killed(BaseException):
    pass


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def run(bundle, data, *, kill_at=None, **how):
    """Calibrate; die in the recording when so many samples are done, or in the step of a name.

    Returns how far recordings went, and the calibration if it did not die.
    """
    seen = []

    def progress(step, done, total):
        if step == "recording":
            seen.append(done)
        if kill_at == (done if step == "recording" else step):
            raise Killed

    found = None
    with contextlib.suppress(Killed):
        found = calibrate(bundle, data, Target(max_drop=0.05), save_s=0.0, progress=progress, **how)
    return seen, found


def test_a_calibration_that_was_killed_goes_on_where_it_was(dense, labelled):
    seen, _ = run(dense, labelled, kill_at=500)
    assert seen[-1] == 500 and not dense.calibrations()
    (kept,) = list_cache()
    assert kept.entry.label.startswith("unfinished calibration: fp32")
    seen, found = run(dense, labelled)
    assert seen[:4] == [500, 600, 700, 800]  # the chunk in which it died was not kept yet
    assert seen[4:].count(800) == 3  # the static networks are recorded too, or answer as the chain does
    assert not list_cache()
    again = run(dense, labelled)[1]
    assert [one.accuracy for one in found.statics] == [one.accuracy for one in again.statics]


def test_other_samples_or_another_device_begin_anew(dense, labelled):
    x, y = labelled
    run(dense, labelled, kill_at=500)
    assert run(dense, (x + 1e-3, y))[0][0] == 100
    run(dense, labelled, kill_at=500)
    assert run(dense, labelled, threads=2)[0][0] == 100
    run(dense, labelled, kill_at=500)
    assert run(dense, labelled, device="openvino:CPU")[0][0] == 100


def test_joules_are_kept_too(dense, labelled, monkeypatch):
    calls = []

    def fake_energy_per_exit(net, x, meter, **_):  # no meter is at hand, and the simulated one has a time of its own
        calls.append(1)
        return model_energy([1e-4, 2e-4, 3e-4], 10.0)

    monkeypatch.setattr(configurations, "measure_energy", fake_energy_per_exit)
    meter = SimulatedBoard().meter()
    run(dense, labelled, meter=meter, kill_at="certifying")
    _, found = run(dense, labelled, meter=meter)
    assert len(calls) == 1 and [one.mean_s for one in found.chains[0].exits] == pytest.approx(
        [joules / 10.0 for joules in found.chains[0].exit_energy_j]
    )
    assert found.meter.startswith(meter.name) and not list_cache()


def test_without_a_cache_nothing_is_kept_and_nothing_fails(dense, labelled, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert run(dense, labelled)[1].early.met


def test_an_answer_that_is_no_number_is_named(dense):
    x = np.full((150, 16), 1.0, np.float32)
    x[120, 3] = np.nan  # past the check of all samples
    with pytest.raises(DataError, match="Counted from sample 100 on: Sample 20 holds NaN or infinity"):
        record_answers(
            load_uncalibrated(dense),
            check_samples(x, dense.manifest.inputs),
            progress=lambda *_: None,
        )


class Chain:
    """A chain of two exits whose answers in batches are off, at one sample or nowhere."""

    exits = "early", "late"

    def __init__(self, is_off_at=None):
        self.is_off_at, self.sizes = is_off_at, []

    def every_exit(self, x, *, size=1):
        self.sizes.append(size)
        number = x.arrays[0][:, 0]
        score = np.stack([1 - number / 2000, 1 - number / 4000], 1).astype(np.float32)
        if size > 1:
            score[number == self.is_off_at] += np.float32(1e-7)
        else:
            time.sleep(1e-4 * len(score))  # a batch is faster
        return EveryExit(np.zeros(score.shape, np.int64), score)


@pytest.mark.parametrize("is_off_at", [3, 999, None])
def test_batches_are_recorded_only_where_they_answer_as_samples_alone(is_off_at):
    x = Samples((np.arange(1000, dtype=np.float32)[:, None],))
    chain = Chain(is_off_at)
    answers = record_answers(chain, x, progress=lambda *_: None)
    assert np.array_equal(answers.score, Chain().every_exit(x).score)
    assert (max(chain.sizes[7:]) > 1) == (is_off_at != 3)  # behind the trial


def test_a_network_that_answers_as_another_is_not_recorded_again():
    x, chain = Samples((np.arange(1000, dtype=np.float32)[:, None],)), Chain()
    one = chain.every_exit(x)
    chain.sizes.clear()
    assert record_answers(chain, x, progress=lambda *_: None, like=one) is one and len(chain.sizes) == 1
    other = EveryExit(one.label, one.score + np.float32(1e-7))
    assert np.array_equal(record_answers(chain, x, progress=lambda *_: None, like=other).score, one.score)
