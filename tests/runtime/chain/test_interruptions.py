"""A call that is interrupted, called from within, or cut off by a fork."""

import copy
import os
import pickle
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import offramp.runtime.chain as chain
from offramp.errors import UsageError
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.runtime.opening import open_network
from offramp.runtime.request import LoadOptions, chain_parts
from offramp.tests.helpers.interrupting import exit_code_of, free, interrupt_at
from offramp.tests.helpers.points import make_point
from offramp.tests.zoo.dense import write_sequences

CHAIN = Path(chain.__file__).parent
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def draw(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 16)).astype(np.float32)


def with_hook(net, hook):
    """Call a function inside each call of a network, after its first stage."""
    heads = net._setup.memory.heads
    run, *rest = heads[0]
    heads[0] = ((lambda: (run(), hook())), *rest)
    net.thresholds = net.thresholds


def test_a_call_from_within_a_call_changes_neither_answer(dense):
    net, (a, b), many = load_uncalibrated(dense), draw(2), draw(20, 1)
    right = [net(x).score for x in (a, b)]
    batch, every = net.batch(many).score, net.every_exit(many).score
    inner = []
    with_hook(net, lambda: inner.append((net(b).score, net.batch(many).score, net.every_exit(many).score)))
    assert net(a).score == right[0] and len(inner) == 1
    score, batch_score, every_score = inner[0]
    assert score == right[1] and (batch_score == batch).all() and (every_score == every).all()
    assert net.stats().exit_counts[2] == 2 + 20 + 2 + 20


def test_a_signal_handler_that_calls_the_network_changes_no_answer(dense):
    net, x = load_uncalibrated(dense), draw(40)
    right = [net(sample).score for sample in x]
    inner = []

    def handle(number, frame):
        inner.append(net(x[0]).score == right[0])

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        end = time.monotonic() + 0.3
        while time.monotonic() < end or len(inner) < 20:
            assert [net(sample).score for sample in x] == right
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert all(inner)


def test_what_a_handler_changes_while_something_else_is_changed_stays(dense, monkeypatch):
    net = load_uncalibrated(dense)
    tie = net._tie
    handled: list[bool] = []

    def tie_and_handle(setup):
        if not handled:
            handled.append(True)
            net.thresholds = (0.0, 0.0)
        return tie(setup)

    monkeypatch.setattr(net, "_tie", tie_and_handle)
    net._change(memory=net._setup.memory)
    assert handled and net.thresholds == (0.0, 0.0) and net(draw(1)[0]).exit == 0


def test_the_stages_of_an_engine_that_cannot_share_them_are_called_once_at_a_time(dense, monkeypatch):
    net, x = load_uncalibrated(dense), draw(1)[0]
    monkeypatch.setattr(net._links[0].compiled, "clones", False)
    with_hook(net, lambda: net(x))
    with pytest.raises(UsageError, match="once for each thread or signal handler"):
        net(x)


def test_whatever_line_an_interruption_hits_the_next_answer_is_right(tmp_path):
    x = np.random.default_rng(0).standard_normal((3, 9, 4)).astype(np.float32)
    bundle = export(write_sequences(tmp_path / "net.onnx"), x, tmp_path / "b.offramp")
    short, long = x[0][:4], x[1]
    fresh = load_uncalibrated(bundle)
    right = [fresh(sample).score for sample in (short, long)]
    net, line = load_uncalibrated(bundle), 1
    net(short)
    while interrupt_at(line, lambda: net(long), CHAIN):
        assert [net(long).score, net(short).score] == right[::-1], line
        free(net._lock)
        line += 1
    assert line > 60
    while interrupt_at(line, lambda: net.clone()(short), CHAIN):  # which learns the length anew
        assert net(short).score == right[0], line
        line += 7


def test_thresholds_and_point_change_together_or_not_at_all(calibrated, tmp_path):
    import msgspec
    from msgspec.structs import replace

    from offramp.bundle import read_calibration
    from offramp.runtime import load

    calibration = read_calibration(calibrated.calibrations()[0])
    eco = replace(calibration.points["default"], thresholds=(0.0, 0.0), exit_shares=(1.0, 0.0, 0.0))
    path = tmp_path / "two.json"
    path.write_bytes(msgspec.json.encode(replace(calibration, points={**calibration.points, "eco": eco})))
    net, x, line = load(calibrated, calibration=path, point="default"), draw(1)[0], 1
    while interrupt_at(line, lambda: net.use("eco"), CHAIN):
        expected = net.points["default" if net.thresholds != (0.0, 0.0) else "eco"]
        assert net.point is expected and tuple(step[-1] for step in net._setup.steps[:-1]) == net.thresholds
        net.use("default")
        line += 1
    assert line > 5 and net(x).exit == 0


def in_child(work):
    """Do some work in a forked process; return its exit code, or None if it hangs."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return exit_code_of(child)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_goes_on_and_closes(dense):
    options, point = LoadOptions(threads=2), make_point(dense.variant(), (2.0, 2.0))
    joined = open_network(chain_parts(dense, dense.variant()), "cpu", options, point=point)
    assert joined.joins_stages
    x = draw(3)
    for net in (load_uncalibrated(dense), load_uncalibrated(dense, threads=2), joined):
        right = net.batch(x).score

        def work(net=net, x=x, right=right):
            same = np.allclose([net(sample).score for sample in x], right, atol=1e-6)
            net.close()
            del net
            return 0 if same else 2

        assert in_child(work) == 0
        assert np.allclose(net.batch(x).score, right, atol=1e-6)


@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_was_forked_in_the_middle_of_another_threads_call_says_what_to_do(dense):
    net, x = load_uncalibrated(dense), draw(1)[0]
    clone, other = net.clone(), load_uncalibrated(dense)
    inside, done = threading.Event(), threading.Event()
    with_hook(net, lambda: (inside.set(), done.wait(60)))
    thread = threading.Thread(target=net, args=(x,))
    thread.start()
    inside.wait(60)

    def work():
        for call in (
            lambda: net(x),
            lambda: net.batch(x[None]),
            net.clone,
            lambda: clone(x),
        ):  # clones share the engine
            try:
                call()
                return 2
            except UsageError as error:
                if "forked while another thread ran" not in str(error):
                    return 3
        net.close()
        clone.close()
        return 0 if other(x).label == load_uncalibrated(dense)(x).label else 4

    try:
        assert in_child(work) == 0
    finally:
        done.set()
        thread.join()
    assert clone(x).score == other(x).score


@pytest.mark.parametrize("send", [pickle.dumps, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_network_that_cannot_be_sent_says_where_to_load_it(dense, send):
    net = load_uncalibrated(dense)
    with pytest.raises(UsageError, match="load the bundle there"):
        send(net)
    assert net(draw(1)[0]).exit == 2


def test_a_process_that_is_spawned_with_a_network_says_where_to_load_it(dense):
    from multiprocessing import get_context

    with pytest.raises(UsageError, match="load the bundle there"):
        get_context("spawn").Process(target=print, args=(load_uncalibrated(dense),)).start()
