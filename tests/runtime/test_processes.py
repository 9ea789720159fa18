"""What forks, signals, interruptions and the end of a program leave of networks, streams and governors."""

import asyncio
import os
import pickle
import signal
import threading
import time

import numpy as np
import pytest

from offramp.bundle import open_bundle, read_calibration, write_calibration
from offramp.errors import MissingError, UsageError
from offramp.runtime import Audit, Governor, Stream, load, load_uncalibrated
from offramp.runtime.chain import deadlines
from offramp.runtime.chain.deadlines import _run_until
from offramp.tests.helpers.bundles import ARCHIVE
from offramp.tests.helpers.interrupting import Interrupted, exit_code_of, free, interrupt_at

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)


@pytest.fixture
def net():
    with load_uncalibrated(ARCHIVE) as net:
        yield net


def in_child(work):
    """Do some work in a forked process; return what it returns, or None if it hangs."""
    child = os.fork()
    if child == 0:
        code = 100
        try:
            code = work()
        finally:
            os._exit(code)
    return exit_code_of(child)


PROGRAM = """
import atexit, os, sys, threading
atexit.register(lambda: print(net(x).exit))  # which runs after all that offramp does at the end
import numpy as np
from offramp.runtime import load_uncalibrated
x = np.zeros(16, np.float32)
net, lazy = [load_uncalibrated(sys.argv[1], sys.argv[2], threads=2, lazy=lazy) for lazy in (False, True)]
net(x), lazy(x)
for _ in range(2):
    child = os.fork()
    if not child:
        lazy(x)
        net.batch(np.zeros((20, 16), np.float32))
        sys.exit(7)  # as an ordinary program ends
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
def call():
    own = net.clone()
    ready.set()
    while True:
        own(x, 1e-3)
for _ in range(2):
    ready = threading.Event()
    threading.Thread(target=call, daemon=True).start()
    ready.wait()
"""


@needs_fork
@pytest.mark.parametrize("device", ["cpu", pytest.param("openvino:CPU", marks=pytest.mark.slow)])
def test_children_end_as_programs_do_and_their_parent_ends_while_daemon_threads_call(python, device):
    assert python(PROGRAM, ARCHIVE, device).split() == ["2", "2", "2"]


@needs_fork
def test_a_child_has_no_stream_and_is_told(net, x):
    ready = threading.Event()

    def camera():
        yield x[0]
        ready.wait()

    with Stream(net) as waiting, Stream(net, camera()) as fed:
        waiting.put(x[0])
        next(fed)

        def work():
            for stream in (waiting, fed):
                for use in (lambda stream=stream: next(stream), lambda stream=stream: stream.put(x[0])):
                    with pytest.raises(UsageError, match="was forked.* Make a Stream here"):
                        use()
                assert list(stream) == [] and stream.stats().waiting == 0
            with Stream(net) as own:
                own.put(x[1])
                return next(own).number

        with fed._lock:  # as if another thread had it
            assert in_child(work) == 0
        assert next(waiting).number == 0
        ready.set()


@pytest.fixture(scope="module")
def two_points(tmp_path_factory):
    import shutil

    from msgspec.structs import replace

    bundle = open_bundle(shutil.copytree(ARCHIVE, tmp_path_factory.mktemp("two") / "dense.offramp"))
    (file,) = bundle.calibrations()
    calibration = read_calibration(file)
    early = replace(calibration.points["default-early"], name="early", thresholds=(0.6, 0.7))
    points = {"early": early, "late": replace(early, name="late", thresholds=(0.9, 0.9))}
    write_calibration(file, replace(calibration, points=points))
    return bundle


@needs_fork
def test_a_child_has_no_governor_and_is_told(two_points, x):
    with load(two_points) as net, Governor(net, max_latency_s=10.0, every_s=1000.0) as governor:

        def work():
            assert "Make one here" in governor.problem
            governor.close()
            with Governor(net, max_latency_s=1e-9, every_s=1000.0) as own:
                [net(sample) for sample in x]
                time.sleep(0.01)
                own._owed["latency"] = 1.0
                own.look()
                return len(own.moves)

        assert in_child(work) == 1 and not governor.problem


def test_a_signal_handler_may_give_a_stream_an_input(net, x):
    stream = Stream(net, most_waiting=1000)
    given = []

    def handle(number, frame):
        given.append(stream.put(x[0]))
        if len(given) < 100:
            signal.setitimer(signal.ITIMER_REAL, 0.0003)

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0003)
    replies = []
    try:
        while len(given) < 100:
            stream.put(x[1])
            replies.append(next(stream).number)
            stream.stats()
        while stream.stats().waiting:
            replies.append(next(stream).number)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert replies == list(range(stream.stats().came)) and all(given)


def test_what_a_handler_gives_in_the_midst_of_a_streams_work_waits_for_its_turn(net, x):
    stream = Stream(net, most_waiting=2, when_full="block")
    with stream._lock:  # as the interrupted work has it
        assert all(stream.put(x[i]) for i in range(3))
    assert stream.stats().came == 2
    with pytest.raises(UsageError, match="thread that answers its inputs cannot wait for room"):
        [stream.put(x[3]) for _ in range(3)] if next(stream) else None
    assert [next(stream).number for _ in range(2)] == [1, 2] and stream.stats().waiting == 0
    with stream._lock:
        stream.put(x[4])
    assert next(stream).number == 3  # and what was given before anybody listened is heard


def test_an_interrupted_answer_of_a_stream_is_counted(net, x, monkeypatch):
    stream = Stream(net)
    for sample in x[:3]:
        stream.put(sample)

    def interrupt(*_):
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(stream, "_answer", interrupt)  # before the call that would count it
        with pytest.raises(Interrupted):
            next(stream)
    assert next(stream).number == 1
    stats = stream.stats()
    assert (stats.came, stats.answered, stats.dropped, stats.waiting) == (3, 1, 1, 1)


def test_tasks_that_are_cancelled_leave_nothing_and_another_event_loop_takes_their_answer(net, x):
    stream = Stream(net)

    async def wait_in_vain():
        for _ in range(10):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(stream.__anext__(), 0.001)
        return len(stream._waiters)

    async def begin():
        task = asyncio.create_task(stream.__anext__())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def end():
        return (await stream.__anext__()).number

    assert asyncio.run(wait_in_vain()) <= 1
    for sample in x[:2]:
        stream.put(sample)
    asyncio.run(begin())
    assert asyncio.run(end()) == 0
    asyncio.run(begin())
    assert next(stream).number == 1 and stream.stats().answered == 2


WAYS = {
    "deadline": lambda net, x: net(x, deadline_s=60.0),
    "anytime": lambda net, x: list(net.anytime(x)),
    "batch": lambda net, x: net.batch(x[None]),
    "every_exit": lambda net, x: net.every_exit(x[None]),
    "audited": lambda net, x: net(x),
    "audited deadline": lambda net, x: net(x, deadline_s=60.0),
    "lazy": lambda net, x: ([stage.let_go() for stage in net.lazy_stages], net(x)),
}


@pytest.mark.parametrize("way", WAYS)
def test_whatever_line_of_a_call_is_interrupted_the_next_one_is_right(two_points, x, way):
    audit = Audit(share=1.0, in_call=True) if "audited" in way else None
    with (
        load(two_points, point="late", audit=audit, lazy=way == "lazy") as net,
        load(two_points, point="late") as plain,
    ):
        right, line = [plain(sample).score for sample in x[:3]], 1
        while interrupt_at(line, lambda: WAYS[way](net, x[0])):
            free(net._lock)
            assert [net(sample).score for sample in x[:3]] == right, line
            assert not audit or not net.stats().audit.notice
            line += 3
    assert line > 30


def test_whatever_line_of_a_streams_work_is_interrupted_each_input_is_counted(net, x):
    stream, line = Stream(net), 1
    while interrupt_at(line, lambda: (stream.put(x[0]), next(stream))):
        free(stream._lock)
        free(net._lock)
        stream.put(x[1])
        while stream.stats().waiting:
            last = next(stream)
        stats = stream.stats()
        assert last.number == stats.came - 1 and stats.came == stats.answered + stats.dropped + stats.refused, line
        line += 2
    assert line > 60


def test_an_interrupted_stage_stops_no_later_one(monkeypatch):
    told: list[object] = []

    def run():
        raise Interrupted

    run.stop = told.append
    timers = []

    class Timer(threading.Timer):
        def __init__(self, *args):
            super().__init__(0.01, args[1])
            timers.append(self)

        def cancel(self):
            raise Interrupted  # a second time

    monkeypatch.setattr(deadlines, "Timer", Timer)
    with pytest.raises(Interrupted):
        _run_until(run, 0.0)
    timers[0].join()
    assert told == [False]

    class Limited(threading.Timer):
        def start(self):
            raise RuntimeError("can't start new thread")

    def whole():
        told.append("ran")

    whole.stop = told.append
    monkeypatch.setattr(deadlines, "Timer", Limited)
    assert _run_until(whole, 0.0) and told == [False, "ran", False]


def test_a_call_that_was_cut_off_while_it_was_counted_does_not_break_the_statistics(two_points, x):
    with load(two_points) as net:
        note_exit, calls = net._note_exit, []

        def interrupt(k):
            calls.append(k)
            if len(calls) == 3:
                raise Interrupted
            note_exit(k)

        net._note_exit = interrupt
        for i in range(150):
            if i == 2:
                with pytest.raises(Interrupted):
                    net(x[0])
            else:
                net(x[i % 20])
        stats = net.stats()
        assert stats.inferences == 150 and stats.slowdown > 0


@pytest.mark.parametrize("lends", [lambda net: Stream(net), lambda net: net], ids=["stream", "network"])
def test_what_cannot_be_sent_says_where_to_load_it(net, lends):
    with pytest.raises(UsageError, match="load the bundle there"):
        pickle.dumps(lends(net))


def test_answers_and_errors_come_back_from_other_processes(net, x):
    for answer in (net(x[0]), net.stats(), net.provenance, open_bundle(ARCHIVE)):
        assert pickle.loads(pickle.dumps(answer)) == answer
    assert (pickle.loads(pickle.dumps(net.every_exit(x[:2]))).score == net.every_exit(x[:2]).score).all()
    error = pickle.loads(pickle.dumps(MissingError("None is here.", device="cuda:0", stage="stage1.onnx")))
    assert (str(error), error.device, error.stage) == ("None is here.", "cuda:0", "stage1.onnx")
