"""What is counted is what was run: by one network and its clones, in threads, batches, deadlines and calls within calls."""

import gc
import json
import logging
import os
import re
import subprocess
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from weakref import WeakSet

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from offramp.devices import Fault, SimulatedBoard
from offramp.errors import BundleError, DataError, MissingError, UsageError
from offramp.runtime import (
    Audit,
    BatchResult,
    Governor,
    Metrics,
    Move,
    Net,
    Snapshot,
    Stream,
    load,
    load_uncalibrated,
    read_snapshot,
)
from offramp.runtime.metrics import collection
from offramp.runtime.metrics.counting import Counters, read_sums
from offramp.tests.helpers.logs import Lines

pytestmark = pytest.mark.filterwarnings("ignore::offramp.errors.AuditWarning")


@pytest.fixture
def net(shared_dense):
    with load_uncalibrated(shared_dense) as net:
        net.thresholds = (0.4, 0.6)
        yield net


@pytest.fixture
def x(labelled):
    return labelled[0][:60]


def exit_counts(metrics):
    return [each.answers for each in metrics.snapshot().exits]


def count_of(results):
    return np.bincount([result.exit for result in results], minlength=3).tolist()


def test_calls_are_counted_by_exit_with_their_scores_and_latencies(net, x):
    net(x[0])
    with Metrics(net) as metrics:
        results = [net(one) for one in x]
        snapshot = metrics.snapshot()
    assert [each.answers for each in snapshot.exits] == count_of(results)
    assert sum(each.answers > 0 for each in snapshot.exits) > 1
    for each in snapshot.exits:
        here = [result for result in results if result.exit == each.exit]
        assert each.score.sum == pytest.approx(sum(result.score for result in here))
        assert each.latency_s.sum == pytest.approx(sum(result.latency_s for result in here))
        inside = np.searchsorted(each.latency_s.edges, [result.latency_s for result in here])
        assert each.latency_s.counts == tuple(np.bincount(inside, minlength=len(each.latency_s.counts)))
        assert each.score.count == len(here)
    assert snapshot.latency_s.count == len(x) and snapshot.answers == len(x)
    assert snapshot.health.startswith(f"ok: {len(x)} answers")


def test_batches_anytime_deadlines_and_errors_are_counted(net, x):
    with Metrics(net) as metrics:
        batch = net.batch(x)
        for result in net.anytime(x[0]):
            break
        hurried = net(x[1], deadline_s=1e-9)
        for call in (
            lambda: net(x[0] * np.nan),
            lambda: net.batch(x * np.nan),
            lambda: next(net.anytime(x[0] * np.nan)),
        ):
            with pytest.raises(DataError):
                call()
        snapshot = metrics.snapshot()
    expected = np.bincount([*batch.exit, result.exit, hurried.exit], minlength=3)
    assert [each.answers for each in snapshot.exits] == expected.tolist()
    assert snapshot.latency_s.count == 1 and snapshot.late == 1
    assert sum(each.score.sum for each in snapshot.exits) == pytest.approx(
        batch.score.sum() + result.score + hurried.score, rel=1e-5
    )
    assert snapshot.errors == {"DataError": 3} and snapshot.health.startswith("failing: the last call raised DataError")


def test_clones_and_threads_are_counted_exactly(net, x):
    before = net.clone()
    with Metrics(net) as metrics:
        shared = [net, net, before, before.clone()]
        threads = [threading.Thread(target=lambda one=one: [one(sample) for sample in x] * 1) for one in shared]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(exit_counts(metrics)) == 4 * len(x)
    before(x[0])
    assert sum(exit_counts(metrics)) == 4 * len(x)


def test_a_call_within_a_call_is_counted_once(net, x):
    with Metrics(net) as metrics:
        for _ in net.anytime(x[0]):
            net(x[1])
            net(x[1], deadline_s=60.0)
            net.batch(x[:3])
            next(net.anytime(x[2]))
        assert sum(exit_counts(metrics)) == 1 + 3 * (2 + 3 + 1) == net.stats().inferences


def test_a_network_that_another_thread_clones_meanwhile_is_counted(net, x, monkeypatch):
    class Changing(WeakSet[Net]):
        """Changes once while it is looked through."""

        changes = True

        def __iter__(self):
            if self.changes:
                self.changes = False
                raise RuntimeError("Set changed size during iteration")
            return super().__iter__()

    clone = net.clone()
    monkeypatch.setattr(collection, "LIVING", Changing([net, clone]))
    with Metrics(net) as metrics:
        clone(x[0])
        collection.LIVING.changes = True
    assert metrics.snapshot().answers == 1 and type(net) is type(clone) is Net


def test_a_batch_of_a_signal_handler_that_interrupts_the_counting_of_another_is_counted():
    counters, exits = Counters(1), np.zeros(3, np.int64)
    plain = BatchResult(exits, np.full(3, 0.5, np.float32), exits, 0.0)

    class Interrupted(np.ndarray):
        """Exits of a batch, while whose counting another one is counted."""

        def sum(self, *arguments, **options):
            counters.add_batch(plain)
            return super().sum(*arguments, **options)

    counters.add_batch(replace(plain, exit=exits.view(Interrupted)))
    assert (counters.untimed, sum(counters.scores[0]), counters.score_sums) == ([6], 6, [3.0])


class OneByOneNet(Net):
    """A network that runs the samples of a batch one by one."""

    def batch(self, x):
        results = [self(one) for one in x]
        label, score, exit_ = (
            np.array([getattr(each, name) for each in results]) for name in ("label", "score", "exit")
        )
        return BatchResult(label, score, exit_, 0.0)


def test_a_batch_that_runs_one_by_one_is_counted_once(net, x):
    net.__class__ = OneByOneNet
    with Metrics(net) as metrics:
        net.batch(x)
        net(x[0])
        assert (metrics.snapshot().answers, metrics.snapshot().latency_s.count) == (len(x) + 1, 1)
    assert type(net) is OneByOneNet


def test_a_network_is_what_it_was_before_and_after_and_collected(shared_dense, x):
    net = load_uncalibrated(shared_dense)
    kind = type(net)
    with Metrics(net):
        assert type(net) is not kind and isinstance(net, kind)
        with pytest.raises(UsageError, match="has metrics already"):
            Metrics(net)
        clone = net.clone()
    assert type(net) is type(clone) is kind
    Metrics(net)  # which nobody can close, and nothing holds
    gc.collect()
    Metrics(net).close()
    assert type(net) is kind
    gone = weakref.ref(net)
    del net, clone
    gc.collect()
    assert gone() is None


def test_an_audited_network_counts_and_shows_its_audit(calibrated, labelled):
    early = "default"
    with load(calibrated, point=early, audit=Audit(share=1.0, in_call=True, promised=0.001)) as net:
        with Metrics(net) as metrics:
            results = [net(one) for one in labelled[0][:100]]
            net.close()  # which waits until all are counted
            snapshot = metrics.snapshot()
        assert [each.answers for each in snapshot.exits] == count_of(results)
        assert (snapshot.audited, snapshot.disagreeing) == (net.stats().audit.audited, net.stats().audit.disagreeing)
        assert snapshot.audited and snapshot.alarms == net.stats().audit.alarms
        assert snapshot.exits[0].calibrated_share == net.point.exit_shares[0]


def test_a_stream_a_governor_and_a_meter_are_shown(calibrated, x):
    board = SimulatedBoard(idle_w=4.0)
    with load(calibrated, "cpu", meter=board.meter()) as net:
        stream = Stream(net, most_waiting=2)
        governor = Governor.__new__(Governor)  # one that another test drives
        governor._moves, governor.problem = deque(), ""
        with Metrics(net, stream=stream, governor=governor) as metrics:
            for one in x[:5]:
                stream.put(one)
            next(stream)
            governor._moves += [Move(1.0, "a", "b", "hot"), Move(2.0, "b", "a", "cool")]
            board.work(10.0, power_w=9.0)
            first = metrics.snapshot()
            net.stats(reset=True)
            board.work(10.0, power_w=9.0)
            second = metrics.snapshot()
    assert first.stream == stream.stats() and first.stream.dropped == 3
    assert first.moves == 2 and second.moves == 2
    assert first.energy_j == pytest.approx(90, rel=0.05) and second.energy_j == pytest.approx(180, rel=0.05)
    assert first.answers == second.answers == 1  # the product's reset is not ours
    assert first.meter_problem == "" and first.temperature_c is not None


class FaultSums(msgspec.Struct):
    errors: int
    hangs: int
    away: str


def test_faults_are_those_of_the_statistics_and_few_kinds_of_errors_are_told_apart():
    stats = SimpleNamespace(faults=FaultSums(3, 1, "stage1.onnx"), power=None)
    assert read_sums(stats) == {"errors": 3, "hangs": 1}
    counters = Counters(1)
    for number in range(40):
        counters.fail(type(f"Error{number}", (Exception,), {})())
    assert len(counters.errors) == 17 and counters.errors["other"] == 24


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_counts_nothing_and_does_not_hang(net, x, tmp_path):
    with Metrics(net, file=tmp_path / "metrics.json", every_s=1000) as metrics:
        with metrics._counters.lock, metrics._busy:
            child = os.fork()
            if not child:
                done = threading.Thread(target=lambda: [net(x[0]), metrics.snapshot(), metrics.close()])
                done.start()
                done.join(20)
                os._exit(1 if done.is_alive() or "Counted" in type(net).__name__ else 0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert read_snapshot(tmp_path / "metrics.json").answers == 0


def events(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_happens_is_logged_a_json_object_a_line(calibrated, x, tmp_path):
    board = SimulatedBoard(idle_w=4.0, faults=[Fault(rail="VDD_IN", start_s=5.0)])
    log = tmp_path / "log.jsonl"
    with load(calibrated, "cpu", meter=board.meter()) as net:
        stream = Stream(net, most_waiting=2)
        with Metrics(net, stream=stream, log=log, name="door", every_s=1000) as metrics:
            for one in x[:5]:
                stream.put(one)
            metrics.look()
            metrics.look()
            with pytest.raises(DataError):
                net(x[0] * np.nan)
            board.work(10.0, power_w=9.0)
            metrics.look()
    found = events(log)
    assert [each["event"] for each in found] == ["loaded", "drops_begin", "drops_end", "errors", "meter_lost", "closed"]
    assert found[1]["dropped"] == 3 and found[3]["kind"] == "DataError" and "NaN" in found[3]["last"]
    assert {each["net"] for each in found} == {"door"} and all(each["at"].endswith("+00:00") for each in found)


def test_a_logger_gets_the_same_lines(net):
    logger, handler = logging.Logger("product"), Lines()
    logger.addHandler(handler)
    with Metrics(net, log=logger, every_s=1000):
        pass
    assert [json.loads(line)["event"] for line in handler.lines] == ["loaded", "closed"]


def test_health_tells_whether_the_network_answers_and_its_age_is_that_of_the_last_answer(net, x, tmp_path):
    health = tmp_path / "run" / "health"
    with Metrics(net, health=health, every_s=1000) as metrics:
        assert health.read_text() == "waiting: no call has ended yet\n"
        net(x[0])
        metrics.look()
        answered_s = metrics.snapshot().last_answer_s
        assert health.read_text().startswith("ok: 1 answers") and health.stat().st_mtime == pytest.approx(answered_s)
        with pytest.raises(DataError):
            net(x[0] * np.nan)
        metrics.look()
        assert health.read_text().startswith("failing") and health.stat().st_mtime == pytest.approx(answered_s)
    assert health.read_text().startswith("closed: failing")
    silent = Snapshot(at_s=100.0, started_s=0.0, every_s=5.0, last_answer_s=50.0)
    assert silent.health == "silent: no call has ended for 50 s"


def test_the_health_check_of_the_guide_passes_while_the_file_is_fresh(tmp_path):
    guide = Path(__file__).parents[3] / "docs/how-to/watch.md"
    (check,) = re.findall(r"^HEALTHCHECK .* CMD (.*)$", guide.read_text(), re.M)
    health = tmp_path / "health"
    command = check.replace("/run/offramp/health", str(health))
    assert command != check and subprocess.run(command, shell=True, stderr=subprocess.DEVNULL).returncode
    health.touch()
    assert subprocess.run(command, shell=True).returncode == 0
    os.utime(health, (0, time.time() - 60))
    assert subprocess.run(command, shell=True).returncode == 1


def test_the_file_is_the_snapshot_and_what_is_none_is_refused(net, x, tmp_path):
    path = tmp_path / "metrics.json"
    with Metrics(net, file=path, every_s=1000) as metrics:
        net(x[0])
        metrics.look()
        assert read_snapshot(path).exits == metrics.snapshot().exits
    written = json.loads(path.read_text())
    for change in ({"schema": 2}, {"at_s": 1e300}, {"exits": [written["exits"][0] | {"answers": -1}]}, {"errors": 3}):
        path.write_text(json.dumps(written | change))
        with pytest.raises(BundleError):
            read_snapshot(path)
    written["exits"][0]["score"]["counts"].pop()
    path.write_text(json.dumps(written))
    with pytest.raises(BundleError, match="do not fit together"):
        read_snapshot(path)
    with pytest.raises(UsageError, match="There is no file"):
        read_snapshot(tmp_path / "missing")


def test_what_cannot_be_written_is_said_and_the_product_goes_on(net, x, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MissingError):
        Metrics(net, file=tmp_path / "file" / "metrics.json")
    with pytest.raises(UsageError, match="every_s"):
        Metrics(net, every_s=0)
    folder = tmp_path / "folder"
    with Metrics(net, file=folder / "metrics.json", every_s=1000) as metrics:
        (folder / "metrics.json").unlink()
        folder.rmdir()
        folder.touch()
        net(x[0])
        metrics.look()
        assert "Cannot write" in metrics.problem and exit_counts(metrics) != [0, 0, 0]
        folder.unlink()
        folder.mkdir()
        metrics.look()
        assert metrics.problem == ""


def test_what_was_counted_since_an_earlier_snapshot(net, x):
    with Metrics(net) as metrics:
        [net(one) for one in x[:20]]
        first = metrics.snapshot()
        results = [net(one) for one in x[20:]]
        second = metrics.snapshot()
    part = second.since(first)
    assert [each.answers for each in part.exits] == count_of(results)
    assert part.latency_s.count == 40 and part.started_s == first.at_s
    with Metrics(net) as metrics:
        assert metrics.snapshot().since(second).answers == 0  # of another start


def test_a_quantile_is_as_if_values_were_spread_evenly_within_a_bin(net, x):
    with Metrics(net) as metrics:
        [net(one) for one in x]
        latency = metrics.snapshot().latency_s
    assert latency.quantile(0.0) == 0 or latency.quantile(0.0) in (0.0, *latency.edges)
    assert latency.quantile(0.5) <= latency.quantile(0.99) <= latency.quantile(1.0)
    assert latency.sum / latency.count <= 10 * latency.quantile(1.0)
