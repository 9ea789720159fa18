"""Networks that answer in spite of faults: every answer is right or marked, nothing hangs, and nothing stays behind."""

import numpy as np
import pytest

from offramp.errors import OfframpError
from offramp.runtime import load_uncalibrated
from offramp.tests.fakes import breaking_engine
from offramp.tests.helpers.bundles import ARCHIVE

THRESHOLDS = (0.625, 0.75)
DEEDS = "fail", "nan", "nan inside", "label", "score", "hang"

pytestmark = pytest.mark.filterwarnings("ignore::offramp.errors.EngineWarning")


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def truth(x):
    """What the network answers without faults, and what every exit says."""
    with load_uncalibrated(ARCHIVE) as net:
        net.thresholds = THRESHOLDS
        results = [net(sample) for sample in x]
        assert {result.exit for result in results} == {0, 1, 2}
        return results, net.every_exit(x)


@pytest.fixture
def engine(monkeypatch):
    engine = breaking_engine.install(monkeypatch)
    yield engine
    engine.let_go()


class FakeClock:
    """Seconds that pass only where a test says so."""

    now = 0.0

    def __call__(self):
        return self.now


def load_guarded(engine, on_fault, *, hangs=False, **options):
    fallback = "cpu" if on_fault == "fallback" else None
    limit_s = 60.0 if hangs else None
    net = load_uncalibrated(
        ARCHIVE, "breaking:0", on_fault=on_fault, fallback=fallback, stage_limit_s=limit_s, **options
    )
    net.thresholds = THRESHOLDS
    if on_fault != "raise" or hangs:
        net._guard.wait, net._guard.now = engine.wait, FakeClock()
    return net


def same(result, label, score, exit_):
    return (result.label, result.score, result.exit) == (label, score, exit_)


def check(result, right, every, i, on_fault):
    """Assert that an answer is right, or marked and that of an earlier exit or of the fallback device."""
    if not result.fault or on_fault == "fallback":
        assert same(result, right.label, right.score, right.exit)
    else:
        assert result.exit < right.exit
        assert same(result, every.label[i, result.exit], every.score[i, result.exit], result.exit)


@pytest.mark.parametrize("on_fault", ["raise", "last_exit", "fallback"])
@pytest.mark.parametrize("deed", DEEDS)
def test_whichever_run_of_an_engine_breaks_answers_are_right_or_marked(engine, x, truth, on_fault, deed):
    results, every = truth
    net = load_guarded(engine, on_fault, hangs=deed == "hang")
    runs = sum(result.exit + 1 for result in results)
    faults = 0
    for number in range(0, runs, 1 if deed == "fail" else 3):
        engine.break_at(number, deed)
        raised = 0
        for i, (sample, right) in enumerate(zip(x, results, strict=True)):
            try:
                result = net(sample)
            except OfframpError:
                raised += 1
                engine.let_go()
            else:
                check(result, right, every, i, on_fault)
                faults += bool(result.fault)
                if result.fault and on_fault == "last_exit":
                    engine.let_go()
        engine.let_go()
        assert raised <= (on_fault != "fallback")
        if on_fault == "fallback":
            net._guard.now.now += 3600
    stats = net.stats()
    assert (faults > 0) == (on_fault != "raise") and (faults == 0 or stats.faults.marked == faults)
