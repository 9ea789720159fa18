import contextlib
import math
from types import SimpleNamespace

import numpy as np
import pytest

from offramp.cache import list_cache
from offramp.calibrate import Target
from offramp.calibrate.measure import answers, configurations
from offramp.calibrate.measure.answers import record_answers
from offramp.calibrate.measure.energy import model_energy
from offramp.devices.simulated import SimulatedBoard
from offramp.errors import DataError
from offramp.runtime import EveryExit, Net, load_uncalibrated
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
    """A chain of two exits that counts how many samples it is asked at once."""

    exits = "early", "late"
    provenance = SimpleNamespace(devices=("rknn",))

    def __init__(self, differs_at=()):
        self.differs_at, self.asked = differs_at, []

    def every_exit(self, x, *, size=1):
        self.asked.append(len(x))
        number = x.arrays[0][:, 0]
        score = np.stack([1 - number / 2000, 1 - number / 4000], 1).astype(np.float32)
        score[np.isin(number, self.differs_at)] += np.float32(1e-7)
        return EveryExit(np.zeros(score.shape, np.int64), score)


def test_a_network_that_answers_as_another_is_not_recorded_again():
    x, chain = Samples((np.arange(1000, dtype=np.float32)[:, None],)), Chain()
    one = chain.every_exit(x)
    chain.asked.clear()
    assert record_answers(chain, x, progress=lambda *_: None, like=one) is one
    assert len(chain.asked) == 2 and max(chain.asked) == 300
    surest_of_least_sure, anywhere = [999], range(0, 1000, 50)  # 2 % of the samples
    for differs_at in (surest_of_least_sure, anywhere):
        other = Chain(differs_at)
        found = record_answers(other, x, progress=lambda *_: None, like=one)
        assert np.array_equal(found.score, other.every_exit(x).score) and not np.array_equal(found.score, one.score)


def test_copies_of_a_network_record_what_it_records_alone(dense, monkeypatch):
    x = check_samples(np.random.default_rng(0).standard_normal((1050, 16)).astype(np.float32), dense.manifest.inputs)
    net, done, copies, clone = load_uncalibrated(dense), [], [], Net.clone
    monkeypatch.setattr(answers, "read_quota", lambda root: math.inf)
    monkeypatch.setattr(answers.os, "sched_getaffinity", lambda process: {0, 1, 2}, raising=False)
    monkeypatch.setattr(Net, "clone", lambda net: copies.append(clone(net)) or copies[-1])
    found = record_answers(net, x, progress=lambda step, count, total: done.append(count))
    assert len(copies) == 2
    alone = net.every_exit(x)
    assert np.array_equal(found.score, alone.score) and np.array_equal(found.label, alone.label)
    assert done == [*range(100, 1001, 100), 1050]


class Batcher(Chain):
    """A chain whose samples take less time together, by a clock of its own."""

    provenance = SimpleNamespace(devices=("cpu",))

    def __init__(self, *, alone_s, together, error=0.0):
        super().__init__()
        self.seconds = {1: alone_s, 10: together * alone_s}
        self.error, self.sizes, self.now_s = np.float32(error), [], 0.0

    def every_exit(self, x, *, size=1):
        answers = super().every_exit(x)
        self.sizes += [size] * len(x)
        self.now_s += len(x) * self.seconds[size]
        return EveryExit(answers.label, answers.score + (self.error if size > 1 else 0))


@pytest.mark.parametrize(
    ("alone_s", "together", "error", "recorded_at"),
    [(1e-4, 0.7, 0.0, 10), (1e-4, 0.7, 1e-7, 1), (1e-4, 0.9, 0.0, 1), (1e-4, 1.2, 0.0, 1), (6e-3, 0.7, 0.0, 1)],
)
def test_samples_go_through_together_where_that_is_equal_and_saves_time(
    monkeypatch, alone_s, together, error, recorded_at
):
    x = Samples((np.arange(2005, dtype=np.float32)[:, None],))
    chain = Batcher(alone_s=alone_s, together=together, error=error)
    monkeypatch.setattr(answers, "process_time", lambda: chain.now_s)
    monkeypatch.setattr(answers, "_copy", lambda *_: [])
    found = record_answers(chain, x, progress=lambda *_: None)
    assert chain.sizes[-2005:] == [recorded_at] * 2000 + [1] * 5
    assert alone_s < 1e-3 or 10 not in chain.sizes  # memory for ten is not even taken
    assert np.array_equal(found.score, Chain().every_exit(x).score)
