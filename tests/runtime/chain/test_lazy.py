"""Stages that are loaded when they are used: the same answers, and nothing stays that is not needed."""

import gc
import os
import shutil
import signal
import threading
import time
import weakref

import numpy as np
import pytest

from offramp.bundle import open_bundle
from offramp.errors import BundleError, MissingError, UsageError
from offramp.runtime import load_static, load_uncalibrated
from offramp.runtime.chain import lazy
from offramp.runtime.chain.lazy import LazyStage
from offramp.tests.helpers.bundles import ARCHIVE

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def eager():
    return load_uncalibrated(ARCHIVE)


@pytest.fixture
def copied(tmp_path):
    return open_bundle(shutil.copytree(ARCHIVE, tmp_path / "dense.offramp"))


class FakeStage:
    """A compiled stage that only counts."""

    runs_on, memory, allocate, batches, clones, half = "fake", "host", None, True, True, False

    def __init__(self):
        self.runs = 0

    def bind(self, inputs, outputs):
        def run():
            self.runs += 1

        return run

    def clone(self):
        return self


class FakeClock:
    """Seconds that pass only where a test says so."""

    now = 0.0

    def __call__(self):
        return self.now


def watchers():
    return [thread for thread in threading.enumerate() if thread.name == "offramp-release"]


def wait_until(holds):
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("number, counts", [(True, (0, 1, 2)), (2, (0, 0, 1)), (False, None)])
def test_a_stage_is_loaded_by_the_first_sample_that_needs_it(eager, number, counts):
    x = draw(3)
    with load_uncalibrated(ARCHIVE, lazy=number) as net:
        for k, thresholds in enumerate(((0.0, 2.0), (2.0, 0.0), (2.0, 2.0))):
            net.thresholds = eager.thresholds = thresholds
            assert [net(sample).score for sample in x] == [eager(sample).score for sample in x]
            loads = net.stats().lazy
            assert (loads and loads.loads) == (counts and counts[k]) and (loads and loads.here) == (
                counts and counts[k]
            )
        assert np.array_equal(net.batch(draw(40)).score, eager.batch(draw(40)).score)
        assert net.provenance.devices == eager.provenance.devices and not watchers()


def test_the_wait_for_a_load_is_in_the_statistics_and_not_in_the_slowdown():
    net = load_uncalibrated(ARCHIVE, lazy=2)
    first, second = net(draw(1)[0]), net(draw(1)[0])
    loads = net.stats(reset=True).lazy
    assert 0 < loads.longest_s == loads.total_s < first.latency_s and second.exit == 2
    assert net.stats().lazy.loads == 0 and net.stats().lazy.here == 1
    assert net._eager == 2


def test_a_stage_is_let_go_after_a_time_without_use_and_loaded_again():
    clock, made = FakeClock(), []

    def open_again():
        clock.now += 0.5
        made.append(FakeStage())
        return made[-1]

    stage = LazyStage(FakeStage(), open_again, load_s=0.25, release_after_s=1000.0, now=clock)
    assert stage.wait_s == 0
    stage.let_go()
    run = stage.bind({}, {})
    assert not stage.is_here and stage.wait_s == 0.25
    run()
    assert stage.wait_s == 0 and stage.loads == 1 and made[0].runs == 1
    for _ in range(3):
        clock.now += 900
        assert stage.let_go_if_idle() == 100
        run()
    clock.now += 1000
    assert stage.let_go_if_idle() == 0 and not stage.is_here and stage.releases == 1
    assert stage.wait_s == 0.5  # what the load took
    gone = weakref.ref(made.pop())
    gc.collect()
    assert gone() is None
    run()
    assert made[0].runs == 1 and stage.loads == 2


def test_a_stage_that_runs_for_longer_than_that_is_not_let_go_meanwhile():
    clock, left = FakeClock(), []

    class Slow(FakeStage):
        def bind(self, inputs, outputs):
            def run():
                clock.now += 5000
                left.append(stage.let_go_if_idle())

            return run

    stage = LazyStage(Slow(), Slow, load_s=0.1, release_after_s=1000.0, now=clock)
    stage.bind({}, {})()
    assert left == [1000] and stage.is_here


def test_a_thread_lets_it_go_and_ends_with_it_or_with_the_network(eager):
    eager.thresholds = (2.0, 2.0)
    net, x = load_uncalibrated(ARCHIVE, lazy=True, release_after_s=np.float32(0.02)), draw(1)[0]
    for _ in range(2):
        assert net(x).score == eager(x).score
        wait_until(lambda: net.stats().lazy.here == 0 and not watchers())
    loads = net.stats().lazy
    assert loads.releases == loads.loads >= 4
    other = load_uncalibrated(ARCHIVE, lazy=True, release_after_s=10_000)
    other(x)
    stages = [weakref.ref(stage) for stage in other.lazy_stages]
    assert len(watchers()) == 2
    del other
    gc.collect()
    wait_until(lambda: not watchers())
    assert not any(stage() for stage in stages)


def test_clones_share_a_lazy_stage_and_run_it_while_it_is_let_go(eager, monkeypatch):
    eager.thresholds = (2.0, 2.0)
    x = draw(30)
    right = [eager(sample).score for sample in x]
    net = load_uncalibrated(ARCHIVE, lazy=True)
    clone = net.clone()
    with monkeypatch.context() as patch:
        for stage in net.lazy_stages:
            patch.setattr(stage, "_open_again", pytest.fail)  # it is not opened once more
            assert stage.clone() is stage
    assert clone.lazy_stages == net.lazy_stages and net.stats().lazy.here == 0
    wrong: list[int] = []
    over = threading.Event()

    def call(one):
        while not over.is_set():
            wrong.extend(1 for sample, score in zip(x, right, strict=True) if one(sample).score != score)

    threads = [threading.Thread(target=call, args=(one,)) for one in (net, clone)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        for stage in net.lazy_stages:
            stage.let_go()
    over.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_an_engine_whose_clones_are_loaded_once_more_has_lazy_ones_of_its_own():
    class Apart(FakeStage):
        def clone(self):
            return Apart()

    class Alone(FakeStage):
        def clone(self):
            return None

    stage = LazyStage(Apart(), Apart, load_s=0.1)
    stage.let_go()
    other = stage.clone()
    assert other is not stage and not other.is_here and other.wait_s == 0.1
    assert LazyStage(Alone(), Alone, load_s=0.1).clone() is None


def test_where_memory_is_too_small_inputs_that_need_no_more_are_answered(monkeypatch):
    net, x = load_uncalibrated(ARCHIVE, lazy=True), draw(1)[0]
    stage = net.lazy_stages[0]
    open_again = stage._open_again

    def fail():
        raise MissingError("The memory is too small for stage1.onnx on cpu.")

    monkeypatch.setattr(stage, "_open_again", fail)
    for _ in range(2):
        with pytest.raises(MissingError, match="memory is too small") as refused:
            net(x)
        assert refused.value.stage == "stage1.onnx"
        net.thresholds = (0.0, 2.0)
        assert net(x).exit == 0
        net.thresholds = (2.0, 2.0)
    assert net.stats().lazy.failures == 2 and net.stats().inferences == 2
    monkeypatch.setattr(stage, "_open_again", open_again)
    assert net(x).exit == 2


def test_a_file_that_was_replaced_or_is_gone_is_never_run(copied, monkeypatch):
    net, x = load_uncalibrated(os.path.relpath(copied.path), lazy=True), draw(1)[0]
    monkeypatch.chdir(copied.path.parent)  # where a relative path leads elsewhere
    file = copied.path / copied.variant().folder / copied.variant().stages[1].file
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match="stage1.onnx is damaged: its sha256 is not"):
        net(x)
    file.unlink()
    with pytest.raises(BundleError, match="stage1.onnx is missing"):
        net(x)
    file.write_bytes(content)
    assert net(x).exit == 2


def test_a_damaged_file_is_refused_when_the_network_is_loaded(copied):
    file = copied.path / copied.variant().folder / copied.variant().stages[2].file
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(BundleError):
        load_uncalibrated(copied.path, lazy=True)


def test_a_deadline_counts_the_load(eager):
    net, x = load_uncalibrated(ARCHIVE, lazy=2), draw(1)[0]
    net.lazy_stages[0]._load_s = 1000.0
    result = net(x, deadline_s=60)
    assert (result.exit, result.cut, result.late) == (1, True, False) and net.stats().lazy.loads == 0
    assert net(x).exit == 2 and net(x, deadline_s=60).exit == 2
    net.lazy_stages[0].let_go()
    net._limits._limits[2] = limit = 1e6
    assert (
        net(x, deadline_s=60).cut and net._limits.limit_ns(2) == limit
    )  # a load that has no time says nothing of the run


def test_only_what_can_be_lazy_is():
    for number, words in (
        (3, "stages 0 to 2"),
        (-1, "number of a stage"),
        ("big", "number of a stage"),
        (0.5, "number of"),
    ):
        with pytest.raises(UsageError, match=words):
            load_uncalibrated(ARCHIVE, lazy=number)
    for after in (0, -1, float("nan"), float("inf"), "soon"):
        with pytest.raises(UsageError, match="release_after_s is a number of seconds above 0"):
            load_uncalibrated(ARCHIVE, lazy=True, release_after_s=after)
    with pytest.raises(UsageError, match="give lazy=, too"):
        load_uncalibrated(ARCHIVE, release_after_s=1)
    assert load_static(ARCHIVE).stats().lazy is None


def test_a_signal_handler_may_load_what_the_call_is_loading():
    net, x = load_uncalibrated(ARCHIVE, lazy=True), draw(1)[0]
    right, stage = load_uncalibrated(ARCHIVE)(x).score, net.lazy_stages[0]
    open_again = stage._open_again
    inner: list[float | None] = []

    def interrupted():
        if not inner:
            inner.append(None)
            inner.append(net(x).score)
        return open_again()

    stage._open_again = interrupted
    assert net(x).score == right and inner[1] == right


@needs_fork
@pytest.mark.parametrize("loaded", [True, False])
def test_a_forked_child_goes_on(loaded):
    net, x = load_uncalibrated(ARCHIVE, lazy=True, release_after_s=10_000 if loaded else 0.01), draw(1)[0]
    right = load_uncalibrated(ARCHIVE)(x).score
    if loaded:
        net(x)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        fine = net(x).score == right
        if loaded:
            net.lazy_stages[0].let_go()  # what the parent loaded is not freed
            fine &= len(lazy.LEFT_BEHIND) >= 2 and net(x).score == right
        else:
            wait_until(lambda: net.stats().lazy.here == 0)
        net.close()
        os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_gives_memory_back_is_looked_up_once(monkeypatch):
    asked: list[object] = []
    lazy._find_trim.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(lazy.ctypes, "CDLL", asked.append)  # as on a system that has no such function
        lazy.return_memory()
        lazy.return_memory()
    lazy._find_trim.cache_clear()
    assert asked == [None]
