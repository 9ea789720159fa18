"""Calls with a deadline and calls that answer at every exit, by a clock that is not the machine's."""

import threading

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import open_bundle, read_calibration
from offramp.bundle.calibration import Latency
from offramp.errors import MissingError, UsageError
from offramp.runtime import load, load_uncalibrated
from offramp.runtime.chain import deadlines
from offramp.runtime.chain.deadlines import LEARNING_RUNS, StageLimits
from offramp.tests.helpers.bundles import ARCHIVE

MS = 1_000_000


class FakeClock:
    """Nanoseconds that pass only where a test says so."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(deadlines, "perf_counter_ns", clock)
    return clock


def slow_down(net, clock, *stages_ms):
    """Let each stage of a network take so many milliseconds of a fake clock; the list that is returned may be changed."""
    took = list(stages_ms)
    heads = net._setup.memory.heads
    for k, (run, *rest) in enumerate(heads):

        def slow(k=k, run=run):
            run()
            clock.now += round(took[k] * MS)

        heads[k] = (slow, *rest)
    net.thresholds = net.thresholds
    return took


def open_slow(clock, *stages_ms, latencies_ms=()):
    net = load_uncalibrated(ARCHIVE)
    net._latencies = [Latency(ms / 1e3, ms / 1e3, ms / 1e3, ms / 1e3) for ms in latencies_ms]
    return net, slow_down(net, clock, *stages_ms)


def test_a_stage_that_may_end_too_late_is_not_started_and_the_exit_before_answers(clock):
    net, _ = open_slow(clock, 1, 2, 3, latencies_ms=(1, 3, 6))
    x = draw(1)[0]
    right = [result.score for result in load_uncalibrated(ARCHIVE).anytime(x)]
    for deadline_ms, exit_, cut, late in (
        (np.float64(6.1), 2, False, False),
        (5.9, 1, True, False),
        (2.9, 0, True, False),
        (0.5, 0, True, True),
    ):
        result = net(x, deadline_s=deadline_ms / 1e3)
        assert (result.exit, result.cut, result.late) == (exit_, cut, late) and result.score == right[exit_]
        assert result.latency_s == pytest.approx((1, 3, 6)[exit_] / 1e3)
    stats = net.stats(reset=True)
    assert (stats.cut, stats.late, stats.exit_counts) == (3, 1, (2, 1, 1)) and stats.latency_s["most"] == 0.006
    assert (net.stats().cut, net.stats().late) == (0, 0)


def test_a_sample_that_leaves_by_its_threshold_is_not_cut(clock):
    net, _ = open_slow(clock, 1, 2, 3, latencies_ms=(1, 3, 6))
    net.thresholds = (0.0, 2.0)
    result = net(draw(1)[0], deadline_s=1.5e-3)
    assert (result.exit, result.cut, result.late) == (0, False, False)
    assert net(draw(1)[0]).cut is False  # as without a deadline


def test_the_wait_for_another_thread_counts(clock, monkeypatch):
    net, _ = open_slow(clock, 1, 2, 3, latencies_ms=(1, 3, 6))
    results, asked = [], threading.Event()

    def read():
        asked.set()
        return clock.now

    monkeypatch.setattr(deadlines, "perf_counter_ns", read)
    thread = threading.Thread(target=lambda: results.append(net(draw(1)[0], deadline_s=5e-3)))
    with net._lock:
        thread.start()
        asked.wait(60)
        clock.now = 3 * MS
    thread.join(60)
    assert (results[0].exit, results[0].cut, results[0].late) == (0, True, False)


def test_without_a_calibration_the_first_runs_tell_how_long_a_stage_takes(clock):
    net, _ = open_slow(clock, 1, 2, 3)
    x, results = draw(1)[0], []
    for _ in range(LEARNING_RUNS):
        results.append(net(x, deadline_s=4e-3))
    assert all(result.exit == 2 and result.late for result in results)
    after = net(x, deadline_s=4e-3)
    assert (after.exit, after.cut, after.late) == (1, True, False)


def test_a_limit_follows_a_stage_that_becomes_slow_and_fast_again(clock):
    net, took = open_slow(clock, 1, 2, 3, latencies_ms=(1, 3, 6))
    x = draw(1)[0]
    took[2] = 9
    late = [net(x, deadline_s=8e-3).late for _ in range(1003)]
    assert all(late[:3]) and sum(late[3:]) <= 5  # it is tried again, once in 200 calls
    took[2] = 3
    results = [net(x, deadline_s=8e-3) for _ in range(1000)]
    assert not any(result.late for result in results) and results[-1].exit == 2


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_one_run_in_200_overruns_its_limit_whatever_was_calibrated(scale):
    random = np.random.default_rng(0)
    limits = StageLimits(2, [Latency(scale, scale, scale, scale), Latency(2 * scale, 2 * scale, 2 * scale, 2 * scale)])
    over = 0
    for took in random.lognormal(0, 0.5, 20_000) * 1e9:
        over += took > limits.limit_ns(1)
        limits.note(1, took)
    assert 0.003 < over / 20_000 < 0.007


@pytest.mark.filterwarnings("ignore")  # whether figures of the archive hold here is not asked
def test_a_calibration_gives_the_first_limits():
    bundle = open_bundle(ARCHIVE)
    calibration = read_calibration(bundle.calibrations()[0])
    chain = next(chain for chain in calibration.chains if chain.variant == "fp32")
    name = next((name for name, point in calibration.points.items() if point.exits_early), None)
    with load(bundle, point=name) as net:
        assert tuple(net._latencies) == chain.exits
        net._take_limits()
        assert net._limits.limit_ns(1) == pytest.approx((chain.exits[1].p99_s - chain.exits[0].p50_s) * 1e9)
        net._latencies = ()
        net.know_latencies([replace(chain, placement=("cuda:0",) * 3)])
        assert not net._latencies


@pytest.mark.parametrize("deadline", [0, -1.0, float("nan"), "1", [1]])
def test_a_deadline_is_a_time(deadline):
    net = load_uncalibrated(ARCHIVE)
    with pytest.raises(UsageError, match="deadline_s is a number of seconds above 0"):
        net(draw(1)[0], deadline_s=deadline)
    assert net(draw(1)[0], deadline_s=float("inf")).exit == net(draw(1)[0], deadline_s=10**400).exit == 2
    assert net(draw(1)[0], deadline_s=np.float32(1e-9)).late is True


def test_anytime_answers_at_each_exit_and_can_be_left():
    net, x = load_uncalibrated(ARCHIVE, logits=True), draw(1)[0]
    every = net.every_exit(x[None])
    results = list(net.anytime(x))
    assert [result.exit for result in results] == [0, 1, 2]
    assert [result.score for result in results] == every.score[0].tolist()
    assert all((result.logits == every.logits[0, k]).all() for k, result in enumerate(results))
    net.stats(reset=True)
    for result in net.anytime(x):
        inner = net(x)  # from within it runs in memory of its own
        assert inner.exit == 2
        if result.exit == 1:
            break
    counts = net.stats()
    assert counts.exit_counts == (0, 1, 2) and len(counts.latency_s) > 0
    iterator = net.anytime(x)
    next(iterator)
    assert net._lock._is_owned()
    iterator.close()
    assert not net._lock._is_owned()
    thread = threading.Thread(target=net, args=(x,))
    thread.start()
    thread.join(60)
    assert not thread.is_alive() and net.stats().inferences == 5


def test_a_closed_network_says_so():
    net = load_uncalibrated(ARCHIVE)
    net.close()
    for work in (lambda: net(draw(1)[0], deadline_s=1), lambda: next(net.anytime(draw(1)[0]))):
        with pytest.raises(UsageError, match="closed"):
            work()


def test_a_call_from_within_a_call_has_its_own_deadline():
    net, x = load_uncalibrated(ARCHIVE), draw(1)[0]
    right = net(x).score
    with net._lock:
        assert net(x, deadline_s=60).score == right


@pytest.mark.filterwarnings("error")  # of a timer that fails
def test_a_stage_is_stopped_at_the_deadline_where_its_engine_can_be(clock):
    net, x = load_uncalibrated(ARCHIVE), draw(1)[0]
    right = [result.score for result in net.anytime(x)]
    heads = net._setup.memory.heads
    told: list[bool] = []

    class SlowRun:
        """Runs until it is told to stop."""

        over = threading.Event()

        def __call__(self):
            if self.over.wait(60):
                raise RuntimeError("terminated")

        def stop(self, is_over):
            told.append(is_over)
            self.over.set() if is_over else self.over.clear()

    before = heads[2]
    heads[2] = (SlowRun(), *before[1:])
    net.stops_stages = True
    result = net(x, deadline_s=0.2)
    assert (result.exit, result.cut) == (1, True) and result.score == right[1] and told == [True, False]
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())
    heads[2] = before
    result = net(x, deadline_s=float("inf"))
    assert (result.exit, result.cut, result.score) == (2, False, right[2])


def test_an_engine_that_fails_before_the_deadline_is_not_taken_for_stopped():
    net = load_uncalibrated(ARCHIVE)
    heads = net._setup.memory.heads

    def fail():
        raise MemoryError("out of memory")

    fail.stop = lambda is_over: None
    heads[1] = (fail, *heads[1][1:])
    net.stops_stages = True
    with pytest.raises(MissingError, match="Memory ran out in stage1.onnx"):
        net(draw(1)[0], deadline_s=60)


@pytest.mark.parametrize("lazy", [False, True])
def test_onnx_runtime_can_be_told_to_stop(lazy):
    net, x = load_uncalibrated(ARCHIVE, lazy=lazy), draw(1)[0]
    clone, right = net.clone(), net(x).score
    run = net._setup.memory.heads[1][0]
    run.stop(True)
    with pytest.raises(Exception, match="terminate"):
        run()
    assert clone(x).score == right  # whose runs are others
    run.stop(False)
    run()
    net.stops_stages = True
    assert net(x, deadline_s=60).score == right
