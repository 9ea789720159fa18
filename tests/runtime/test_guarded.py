"""Networks that answer in spite of faults: every answer is right or marked, nothing hangs, and nothing stays behind."""

import gc
import threading
import time
import tracemalloc
import warnings
import weakref
from contextlib import closing
from queue import Empty

import numpy as np
import psutil
import pytest
from msgspec.structs import replace

from offramp.bundle import open_bundle, read_calibration
from offramp.devices import Meter, Probe, Rail, State
from offramp.devices.simulated import SimulatedClock
from offramp.errors import DataError, EngineWarning, MissingError, OfframpError, UsageError
from offramp.export import export
from offramp.runtime import Audit, Metrics, Stream, load, load_static, load_uncalibrated
from offramp.runtime.chain.faults import Guard, StageFault, StageThread
from offramp.runtime.opening import open_network
from offramp.runtime.request import LoadOptions, chain_parts, static_parts
from offramp.tests.fakes import breaking_engine
from offramp.tests.helpers.bundles import ARCHIVE
from offramp.tests.helpers.interrupting import free, interrupt_at
from offramp.tests.helpers.points import make_point
from offramp.tests.runtime.chain import test_interruptions
from offramp.tests.zoo.dense import write_sequences

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
    break_each(engine, x, truth, on_fault, deed, step=1 if (on_fault, deed) == ("last_exit", "fail") else 11)


@pytest.mark.slow
@pytest.mark.parametrize("on_fault", ["raise", "last_exit", "fallback"])
@pytest.mark.parametrize("deed", DEEDS)
def test_whichever_of_all_runs_breaks_answers_are_right_or_marked(engine, x, truth, on_fault, deed):
    break_each(engine, x, truth, on_fault, deed, step=1)


def break_each(engine, x, truth, on_fault, deed, *, step):
    """Break each `step`-th run of an engine, one in each round of all samples."""
    results, every = truth
    net = load_guarded(engine, on_fault, hangs=deed == "hang")
    runs = sum(result.exit + 1 for result in results)
    faults = 0
    for number in range(0, runs, step):
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


@pytest.mark.parametrize("on_fault", ["last_exit", "fallback"])
def test_a_device_that_disappears_is_answered_for_until_it_is_back(engine, x, truth, on_fault):
    results, every = truth
    net = load_guarded(engine, on_fault)
    clock = net._guard.now
    late = [i for i, result in enumerate(results) if result.exit == 2]
    engine.plan = lambda n, file: "fail" if file == "stage2.onnx" else ""
    marked = [net(x[i]) for i in late[:5]]
    assert all(result.fault == "stage2.onnx on breaking:0 failed: the device is gone" for result in marked)
    for i, result in zip(late, marked, strict=False):
        check(result, results[i], every, i, on_fault)
    faults = net.stats().faults
    assert faults.marked == 5 and faults.errors == (5 if on_fault == "last_exit" else 1) and faults.away
    if on_fault == "fallback":
        for pause_s in (1, 2, 4, 8, 16, 32, 60, 60):
            net._guard._until_s -= 1e-9
            runs = engine.calls
            clock.now = net._guard._until_s - pause_s * 0.01
            assert net(x[late[0]]).fault and engine.calls == runs
            clock.now = net._guard._until_s + 1e-6
            before = net._guard._pause_s
            assert net(x[late[0]]).fault and engine.calls == runs + 3
            assert before == min(2 * pause_s, 60)
    engine.plan = lambda n, file: ""
    clock.now += 3600
    early = next(i for i, result in enumerate(results) if result.exit == 0)
    assert not net(x[early]).fault and net.stats().faults.away  # which says nothing of the stage that failed
    assert not net(x[late[0]]).fault
    faults = net.stats().faults
    assert (faults.away, faults.returns) == ("", 1) and net._stand_in is None
    assert net._guard._pause_s == 1.0


@pytest.mark.parametrize("deed", ["fail", "hang"])
def test_what_fails_before_any_exit_has_answered_is_raised(engine, x, truth, deed):
    net = load_guarded(engine, "last_exit", hangs=deed == "hang")
    engine.break_at(0, deed, on=True)
    kind, words = (
        (OfframpError, "stage0.onnx cannot run any sample") if deed == "fail" else (MissingError, "did not end")
    )
    with pytest.raises(kind, match=words) as refused:
        net(x[0])
    assert (refused.value.device, refused.value.stage) == ("breaking:0", "stage0.onnx")


def test_a_sample_that_no_device_can_run_is_refused_and_no_device_left_alone(engine, x):
    net = load_uncalibrated(ARCHIVE, "breaking:0", on_fault="fallback", fallback="breaking:0")
    for file in ("stage0.onnx", "stage2.onnx"):
        engine.plan = lambda n, broken, file=file: "nan" if broken == file else ""
        for call in (net, net.batch, lambda x: list(net.anytime(x))):
            with pytest.raises(DataError, match="not a number"):
                call(x[:1])
            assert not net._guard.standing_in()
    engine.plan = lambda n, file: ""
    assert not net(x[0]).fault and net.stats().faults.marked == 0
    counts = net.stats().faults
    with pytest.raises(DataError, match="NaN or infinity"):
        net(np.full(16, np.nan, np.float32))
    assert net.stats().faults == counts  # it is no fault of a stage


def test_the_first_fault_alone_raises_a_warning(engine, x, truth):
    net = load_guarded(engine, "last_exit")
    engine.plan = lambda n, file: "nan" if file == "stage1.onnx" else ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for sample in x[:20]:
            net.clone()(sample)
    assert [warning.category for warning in caught] == [EngineWarning] and caught[0].filename == __file__
    assert "stage1.onnx on breaking:0 gave NaN. Answers are marked" in str(caught[0].message)


def test_what_failed_is_said_to_its_end():
    error = MissingError(f"http://box:8000/digits failed: {'no answer, ' * 15}. Does the server run?")
    fault = StageFault("error", error, ("http://box:8000/digits?as=float16", "stage2.onnx"), f"failed: {error}")
    assert fault.words.endswith("Does the server run?") and "characters)" not in fault.words
    with pytest.warns(EngineWarning, match=r"Does the server run\? Answers are marked"):
        guard = Guard("last_exit")
        guard.begin()
        guard.note(fault)


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("on_fault", ["last_exit", "fallback"])
def test_batches_are_run_one_by_one_after_a_fault(engine, x, truth, on_fault, hangs):
    results, every = truth
    net = load_guarded(engine, on_fault, hangs=hangs, logits=True)
    clean = net.batch(x)
    assert clean.fault is None
    for deed in ("hang",) if hangs else ("fail", "nan"):
        engine.plan = lambda n, file, deed=deed: deed if file == "stage1.onnx" else ""
        batch = net.batch(x)
        assert batch.logits.shape == clean.logits.shape and batch.logits.dtype == clean.logits.dtype
        for i, right in enumerate(results):
            label, score, exit_, fault = batch.label[i], batch.score[i], batch.exit[i], batch.fault[i]
            if on_fault == "fallback" or not fault:
                assert (label, exit_) == (right.label, right.exit) and np.isclose(score, right.score, atol=1e-6)
                assert np.allclose(batch.logits[i], clean.logits[i], atol=1e-5)
            else:
                assert exit_ == 0 and np.isclose(score, every.score[i, 0], atol=1e-6)
            assert not right.exit or fault
        net._guard.now.now += 3600
    engine.let_go()
    engine.plan = lambda n, file: ""
    assert net.batch(x).fault is None and not net.stats().faults.away


def test_every_exit_raises_what_fails(engine, x):
    net = load_guarded(engine, "last_exit")
    engine.plan = lambda n, file: "fail" if file == "stage1.onnx" else ""
    with pytest.raises(OfframpError, match="stage1.onnx cannot run any sample"):
        net.every_exit(x)
    assert net.stats().faults.errors == 1


@pytest.mark.parametrize("on_fault", ["raise", "last_exit", "fallback"])
def test_the_answers_of_anytime_go_on_with_a_mark(engine, x, truth, on_fault):
    _, every = truth
    net = load_guarded(engine, on_fault, hangs=True)
    engine.plan = lambda n, file: "fail" if file == "stage1.onnx" else ""
    seen = []
    try:
        for result in net.anytime(x[0]):
            seen.append((result.exit, result.score, bool(result.fault)))
    except OfframpError:
        assert on_fault == "raise"
    first, *others = [(k, float(every.score[0, k])) for k in range(3)]
    expected = {"raise": [], "last_exit": [(*first, True)], "fallback": [(*other, True) for other in others]}
    assert seen == [(*first, False), *expected[on_fault]]
    assert net.stats().exit_counts == ((0, 0, 1) if on_fault == "fallback" else (1, 0, 0))
    if on_fault == "fallback":
        with closing(net.anytime(x[0])) as answers:
            assert next(answers).fault  # at once
        assert net.stats().exit_counts == (1, 0, 1) and net.stats().faults.marked == 2
    assert net._lock.acquire(blocking=False)


@pytest.mark.parametrize("on_fault", ["last_exit", "fallback"])
def test_a_call_with_a_deadline_is_answered_for_too(engine, x, truth, on_fault):
    results, every = truth
    net = load_guarded(engine, on_fault)
    i = next(i for i, result in enumerate(results) if result.exit == 2)
    engine.plan = lambda n, file: "nan inside" if file == "stage0.onnx" else ""
    if on_fault == "last_exit":
        with pytest.raises(DataError):
            net(x[i], deadline_s=60)
    engine.plan = lambda n, file: "nan inside" if file == "stage1.onnx" else ""
    result = net(x[i], deadline_s=60)
    assert result.fault and not result.late and not result.cut
    check(result, results[i], every, i, on_fault)
    result = net(x[i], deadline_s=1e-9)
    assert result.late and result.exit == 0
    if on_fault == "fallback":
        assert not net._stand_in.stops_stages
        net.stops_stages = True
        assert net(x[i]).fault and net._stand_in.stops_stages


def test_joined_stages_answer_or_fail_as_one(engine, x, truth):
    _, every = truth
    bundle = open_bundle(ARCHIVE)
    for thresholds, last in (((0.0, 2.0), 0), ((2.0, 0.0), None), ((2.0, 2.0), None)):
        point = make_point(bundle.variant(), (2.0, 2.0) if last is None else (0.9999, 2.0))
        options = LoadOptions(on_fault="last_exit")
        net = open_network(chain_parts(bundle, bundle.variant()), "cpu", options, point=point)
        assert net.joins_stages and net(x[0]).exit == 2
        (span, link), *_ = net._joined.items()
        file = type("File", (), {"path": ARCHIVE / "joined", "boundaries": frozenset()})
        stage = breaking_engine.BreakingStage(engine, link.compiled, file)
        net._joined[span] = replace(link, compiled=stage)
        net._take_memory()
        engine.plan = lambda n, file: "fail"
        if last is None:
            with pytest.raises(OfframpError):
                net(x[0])
        else:
            result = net(x[0])
            assert result.exit == 0 and result.fault and result.score == every.score[0, 0]
        for _ in range(2):
            assert not net(x[0], deadline_s=60).fault  # which runs single stages


def wait_until(holds):
    for _ in range(6000):
        if holds():
            return
        time.sleep(0.01)
    raise AssertionError


def test_a_run_that_hangs_is_left_alone_with_its_memory(engine, x, truth):
    results, every = truth
    net = load_guarded(engine, "last_exit", hangs=True)
    clone = net.clone()
    i = next(i for i, result in enumerate(results) if result.exit == 2)
    clone(x[i])
    memory = weakref.ref(net._setup.memory.single.steps[1][1])
    engine.break_at(1, "hang")
    result = net(x[i])
    assert result.fault == "stage1.onnx on breaking:0 did not end within 60 s" and result.exit == 0
    (thread,) = engine.threads
    for other in (net, clone):  # which share the stage
        result = other(x[i])
        assert result.fault == "stage1.onnx on breaking:0 still hangs" and result.exit == 0
        check(result, results[i], every, i, "last_exit")
    assert net._setup.memory.single.steps[1][1] is not memory() is not None
    engine.let_go()
    assert not thread.is_alive()
    for other in (net, clone):
        result = other(x[i])
        check(result, results[i], every, i, "last_exit")
        assert not result.fault
    wait_until(lambda: gc.collect() is not None and memory() is None)
    assert net.stats().faults.hangs == 3
    threads = list(net._guard._threads)
    del net, clone, other
    wait_until(lambda: gc.collect() is not None and not any(thread.is_alive() for thread in threads))


def test_faults_leave_no_threads_no_files_and_no_memory_behind(engine, x):
    net, process = load_guarded(engine, "fallback", hangs=True), psutil.Process()
    deeds = ["fail", "hang", "nan"]

    def run(rounds):
        for number in range(rounds):
            engine.break_at(number % 5, deeds[number % 3])
            for sample in x[:4]:
                net(sample)
            engine.let_go()
            net._guard.now.now += 3600
        gc.collect()
        alive = sum(thread.is_alive() for thread in net._guard._threads)
        return process.num_fds(), alive, tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        run(15)
        files, threads, size = run(5)
        after = run(30)
    finally:
        tracemalloc.stop()
    assert after[0] <= files and max(after[1], threads) <= 1 and after[2] < size + 20_000
    assert net.stats().faults.returns > 10


def test_a_network_that_goes_while_a_stage_hangs_leaves_that_run_alone(engine, x):
    net = load_guarded(engine, "last_exit", hangs=True)
    net.thresholds = (2.0, 2.0)
    with closing(net.anytime(x[0])) as answers:
        next(answers)
        net.clone()(x[0])
    engine.break_at(1, "hang")
    assert net(x[0]).fault
    threads = list(net._guard._threads)
    net.close()
    with pytest.raises(UsageError, match="closed"):
        net(x[0])
    del net, answers
    gc.collect()
    wait_until(lambda: {thread for thread in threads if thread.is_alive()} == engine.threads)
    engine.let_go()
    assert not any(thread.is_alive() for thread in threads)


def test_whatever_line_an_interruption_hits_the_next_answer_is_right(engine, x):
    net, line = load_guarded(engine, "last_exit", hangs=True), 1
    net.thresholds = (2.0, 2.0)
    right = [net(sample).score for sample in x[:2]]
    while interrupt_at(line, lambda: net(x[0])):
        free(net._lock)
        results = [net(sample) for sample in x[:2]]
        assert [result.score for result in results] == right and not any(result.fault for result in results), line
        line += 1
    assert line > 100


@test_interruptions.needs_fork
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own(engine, x, truth):
    results, every = truth
    net = load_guarded(engine, "last_exit", hangs=True)
    net(x[0])

    held, lets_go = threading.Event(), threading.Event()

    def hold():
        with net._guard._lock:
            held.set()
            lets_go.wait(300)

    def work():
        for i, sample in enumerate(x):
            check(net(sample), results[i], every, i, "last_exit")
        marked = net.stats().faults.marked
        engine.plan = lambda n, file: "fail" if file == "stage1.onnx" else ""
        for i, sample in enumerate(x):
            check(net(sample), results[i], every, i, "last_exit")
        return 0 if net.stats().faults.marked > marked == 0 else 2

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        assert test_interruptions.in_child(work) == 0
    finally:
        lets_go.set()
        holder.join()
    assert not net(x[0]).fault


def test_a_static_network_goes_over_too(engine, x):
    with load_static(ARCHIVE) as plain:
        right = [plain(sample).score for sample in x[:5]]
    bundle = open_bundle(ARCHIVE)
    for on_fault in ("last_exit", "fallback"):
        options = LoadOptions(on_fault=on_fault, fallback="cpu")
        net = open_network(static_parts(bundle, bundle.variant(), 2), "breaking:0", options)
        assert [net(sample).score for sample in x[:5]] == right
        engine.plan = lambda n, file: "nan"
        if on_fault == "fallback":
            results = [net(sample) for sample in x[:5]]
            assert [result.score for result in results] == right and all(result.fault for result in results)
            assert {result.exit for result in results} == {2} and net.stats().exit_counts == (0, 0, 10)
        else:
            with pytest.raises(DataError, match="not a number"):
                net(x[0])
        engine.plan = lambda n, file: ""


@pytest.mark.parametrize("on_fault", ["last_exit", "fallback"])
def test_a_new_length_of_a_sequence_is_learnt_in_spite_of_faults(engine, tmp_path, on_fault, monkeypatch):
    x = np.random.default_rng(0).standard_normal((3, 9, 4)).astype(np.float32)
    bundle = export(write_sequences(tmp_path / "net.onnx"), x, tmp_path / "b.offramp")
    plain = load_uncalibrated(bundle)
    fallback = "cpu" if on_fault == "fallback" else None
    net = load_uncalibrated(bundle, "breaking:0", on_fault=on_fault, fallback=fallback, stage_limit_s=60.0)
    net._guard.now = FakeClock()
    for length in (4, 5):
        monkeypatch.setattr(breaking_engine.BreakingStage, "infer", lambda *_: 1 / 0)
        if on_fault == "fallback":
            result = net(x[0][:length])
            assert result.score == plain(x[0][:length]).score and "failed with a new length" in result.fault
        else:
            with pytest.raises(OfframpError):
                net(x[0][:length])
        monkeypatch.undo()
        breaking_engine.install(monkeypatch)
        net._guard.now.now += 3600
        result = net(x[0][:length])
        assert result.score == plain(x[0][:length]).score and not result.fault


def test_a_lazy_stage_that_cannot_be_loaded_is_answered_for(engine, x, truth, monkeypatch):
    _, every = truth
    net = load_guarded(engine, "last_exit", hangs=True, lazy=True)
    net.thresholds = (2.0, 2.0)
    (stage, _) = net.lazy_stages
    with monkeypatch.context() as patch:
        patch.setattr(stage, "_open_again", lambda: exec("raise MemoryError"))
        result = net(x[0])
    assert (result.exit, result.score) == (0, every.score[0, 0]) and "stage1.onnx" in result.fault
    assert net.stats().faults.errors == 1 and net.stats().lazy.failures == 1
    assert net(x[0]).fault == ""


def test_a_signal_handler_runs_a_stage_whose_load_it_has_interrupted(x):
    with load_uncalibrated(ARCHIVE, lazy=True, on_fault="last_exit", stage_limit_s=2.0) as net:
        with net.lazy_stages[0]._lock:  # which this thread holds while it loads
            result = net(x[0])
        assert (result.exit, result.fault) == (2, "")


@pytest.mark.parametrize(("in_call", "deadline_s"), [(True, None), (False, None), (True, 60.0)])
def test_an_audit_leaves_marked_answers_out_and_goes_on(engine, x, in_call, deadline_s):
    bundle = open_bundle(ARCHIVE)
    (file,) = bundle.calibrations()
    calibration = read_calibration(file)
    early = replace(calibration.points["default-early"], thresholds=THRESHOLDS, placement=("breaking:0",) * 3)
    calibration = replace(calibration, points={"default": early})
    audit = Audit(share=1.0, in_call=in_call, promised=0.5)
    net = load(bundle, calibration=calibration, on_fault="last_exit", audit=audit)
    results, rounds = [], (("", 10), ("stage2.onnx", 20), ("", 10))
    for broken, count in rounds:
        engine.plan = lambda n, file, broken=broken: "fail" if file == broken else ""
        for sample in x[:count]:
            results.append(net(sample, deadline_s))
            keeper = net._picker.keeper
            wait_until(lambda keeper=keeper: not keeper.queue.qsize())
    with load(bundle, calibration=calibration, on_fault="last_exit", audit=audit) as again:
        assert type(again) is type(net)  # metrics keep a class of each kind
    clean = sum(not result.fault for result in results)
    wait_until(lambda: sum(net.stats().audit.exit_shares) > 0)
    net.close()
    stats = net.stats()
    assert stats.audit.notice == "" and 0 < stats.faults.marked == len(results) - clean
    seen = sum(net._picker.keeper.state.exits) + stats.audit.missed
    assert seen == clean and stats.audit.audited >= 20


def test_a_stream_runs_on(engine, x, truth):
    results, every = truth
    net = load_guarded(engine, "fallback")
    engine.plan = lambda n, file: "fail" if n > 20 else ""
    with Stream(net, iter(x), when_full="block", deadline_s=60.0) as stream:
        replies = list(stream)
    assert [reply.number for reply in replies] == list(range(50))
    for reply in replies:
        check(reply.result, results[reply.number], every, reply.number, "fallback")
    assert replies[-1].result.fault and stream.stats().answered == 50
    engine.plan = lambda n, file: ""
    net = load_guarded(engine, "last_exit")
    engine.plan = lambda n, file: "fail" if file == "stage1.onnx" else ""
    with Stream(net, iter(x[:10]), when_full="leave_earlier", most_waiting=10) as stream:
        assert all(reply.result.exit == 0 for reply in stream)


def test_each_clone_answers_at_thresholds_of_its_own_on_the_fallback_device(engine, x, truth):
    _, every = truth
    net = load_guarded(engine, "fallback")
    clone = net.clone()
    net.thresholds, clone.thresholds = (0.0, 0.0), (2.0, 0.0)
    engine.plan = lambda n, file: "fail"
    for _ in range(2):
        assert same(net(x[0]), every.label[0, 0], every.score[0, 0], 0)
        assert same(clone(x[0]), every.label[0, 1], every.score[0, 1], 1)
    assert clone._stand_in._links[0].compiled is net._stand_in._links[0].compiled  # in memory once
    assert net._stand_in._setup.memory is not clone._stand_in._setup.memory


def test_a_call_from_within_a_call_is_answered_for_by_itself(engine, x, truth):
    results, every = truth
    i, j = [i for i, result in enumerate(results) if result.exit == 2][:2]
    net, inner = load_guarded(engine, "last_exit"), []

    def plan(n, file):
        if n == 1:
            inner.append(net(x[j]))
        return "fail" if n in (3, 4) else ""  # stage 1 of the inner call, then stage 2 of the outer one

    engine.plan = plan
    engine.calls = 0
    outer = net(x[i])
    check(inner[0], results[j], every, j, "last_exit")
    check(outer, results[i], every, i, "last_exit")
    assert (inner[0].exit, outer.exit) == (0, 1) and inner[0].fault and outer.fault


def test_a_call_from_within_a_call_is_no_return_of_the_first_devices(engine, x, truth):
    results, _ = truth
    net = load_guarded(engine, "fallback")
    with Metrics(net) as metrics, closing(net.anytime(x[0])) as outer:
        next(outer)
        engine.plan = lambda n, file: "fail"
        for deadline_s in (None, None, 60.0):
            result = net(x[1], deadline_s)
            assert result.fault and same(result, results[1].label, results[1].score, results[1].exit)
        assert all(net.batch(x[:9]).fault)
        faults = net.stats().faults
        assert (faults.errors, faults.marked, faults.returns) == (1, 12, 0) and "stage0.onnx" in faults.away
        engine.plan = lambda n, file: ""
    assert metrics.snapshot().answers == net.stats().inferences == 13


def test_a_stage_is_told_to_stop_at_a_deadline_or_at_its_limit():
    x = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    net = load_uncalibrated(ARCHIVE, on_fault="last_exit", stage_limit_s=np.float32(60.0))
    net.stops_stages = True
    assert not net(x, deadline_s=60).cut
    told = []

    class SlowRun:
        """Runs until it has been told to stop so many times."""

        def __init__(self, times=1):
            self.over, self.left = threading.Event(), times

        def __call__(self):
            self.over.wait(60)
            raise RuntimeError("terminated")

        def stop(self, is_over):
            told.append(is_over)
            self.left -= is_over
            if not self.left:
                self.over.set()

    run = net._setup.memory.heads[1][0]
    run._run = SlowRun()
    result = net(x, deadline_s=0.05)
    assert (result.exit, result.cut, result.fault) == (0, True, "") and told == [True, False]
    run._run, told[:] = SlowRun(), []
    net._guard.limit_s = 0.05
    result = net(x, deadline_s=60)
    assert (result.exit, result.cut) == (0, False) and "did not end" in result.fault and told == [True]
    net._guard.limit_s = 60.0
    net(x)  # which leaves the memory of that run
    run, told[:] = net._setup.memory.heads[1][0], []
    run._run = SlowRun(times=2)
    net._guard.limit_s = 0.5
    result = net(x, deadline_s=0.05)
    assert (result.exit, result.cut) == (0, True) and told == [True, True]


def test_a_run_that_ends_as_it_is_told_to_stop_is_not_used_again(engine, x, monkeypatch):
    net = load_guarded(engine, "last_exit", hangs=True)
    memory, end = net._setup.memory, StageThread.end

    def wait(thread, limit_s):
        thread.wait(60.0)
        raise Empty  # the limit had just passed

    monkeypatch.setattr(StageThread, "end", lambda thread: (end(thread), thread.join(60.0)))
    net._guard.wait = wait
    with pytest.raises(MissingError, match="did not end"):
        net(x[0])
    net._guard.wait = engine.wait
    assert net(x[0]).fault == "" and net._setup.memory is not memory


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"on_fault": "cpu"}, "on_fault is 'raise', 'last_exit' or 'fallback', not 'cpu'"),
        ({"on_fault": "fallback"}, "give fallback='cpu', say"),
        ({"stage_limit_s": 0}, "stage_limit_s is a number of seconds above 0, at most .*, not 0"),
        ({"stage_limit_s": "1"}, "stage_limit_s is a number"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, words):
    with pytest.raises(UsageError, match=words):
        load_uncalibrated(ARCHIVE, **arguments)


def test_a_fallback_device_that_cannot_run_the_network_is_found_when_it_is_loaded(engine, monkeypatch):
    monkeypatch.setattr(
        engine, "compile_stage", lambda *_, **__: exec("raise MissingError('the device is not here')", globals())
    )
    with pytest.raises(MissingError, match="not here"):
        load_uncalibrated(ARCHIVE, on_fault="fallback", fallback="breaking:0")


@pytest.mark.parametrize("deed, step", [("raise", 1), ("nan", 9), ("exit", 9)])
def test_whichever_read_of_a_sensor_fails_no_answer_changes_and_none_is_marked(x, truth, deed, step):
    results, _ = truth
    reads = {"n": 0, "broken": -1}

    def read():
        reads["n"] += 1
        if reads["n"] - 1 == reads["broken"]:
            if deed == "nan":
                return (float("nan"),)
            raise OSError("no such device") if deed == "raise" else SystemExit
        return (5.0,)

    supply = Rail(name="P", role="total", covers="the board")
    broken, count = 0, 1
    while broken < count:
        reads.update(n=0, broken=broken)
        clock = SimulatedClock()
        state = State if deed == "exit" else lambda: State(temperature_c=read()[0])
        meter = Meter("fake", [Probe((supply,), read)], scope="the board", clock=clock, state=state)
        with load_uncalibrated(ARCHIVE, meter=meter, on_fault="last_exit") as net:
            net.thresholds = THRESHOLDS
            for sample, right in zip(x, results, strict=True):
                result = net(sample)
                assert same(result, right.label, right.score, right.exit) and not result.fault
                clock.advance(0.1)
            stats = net.stats()
        assert stats.inferences == 50 and stats.faults.marked == 0 and stats.power.seen_s > 3
        count, broken = max(count, reads["n"]), broken + step
    assert count > 30
