"""A network that audits itself in the field: what it picks, counts, keeps and says, and that it never fails for it."""

import json
import os
import shutil
import stat
import time

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from offramp.bundle import open_bundle, read_calibration, write_calibration
from offramp.calibrate import load_samples
from offramp.errors import AuditWarning, UsageError
from offramp.export import export
from offramp.runtime import Alarm, Audit, Stream, lazy_stages, load, load_uncalibrated, read_audits
from offramp.runtime.audit.keeping import MOST_WAITING, Picked
from offramp.runtime.audited import find_promise
from offramp.runtime.chain.net import Net
from offramp.tests.helpers.bundles import ARCHIVE
from offramp.tests.helpers.points import make_point

THRESHOLDS = (0.625, 0.75)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((120, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The archived bundle, whose point lets many inputs leave early. Nobody writes into it."""
    bundle = open_bundle(shutil.copytree(ARCHIVE, tmp_path_factory.mktemp("audited") / "dense.offramp"))
    (file,) = bundle.calibrations()
    calibration = read_calibration(file)
    early = replace(calibration.points["default-early"], thresholds=THRESHOLDS)
    write_calibration(file, replace(calibration, points={"default": early}))
    return bundle.path


@pytest.fixture(scope="module")
def truth(path, x):
    """The exit where each input leaves, and whether its label differs from the last exit's."""
    with load(path) as net:
        results, every = net.batch(x), net.every_exit(x)
    differs = results.label != every.label[:, -1]
    assert 0 < differs.sum() < len(x) and {0, 2} <= set(results.exit.tolist())
    return results.exit, differs


@pytest.fixture(scope="module")
def turns(tmp_path_factory, x):
    """A network that does not classify, and a calibration by hand."""
    folder = tmp_path_factory.mktemp("turns")
    bundle = export(
        Turns().eval(),
        x[:3],
        folder / "turns.offramp",
        answer=["turn"],
        rule="gate",
        gates=["exit0.sure", "exit1.sure"],
    )
    (file,) = open_bundle(ARCHIVE).calibrations()
    variant = bundle.variant()
    point = replace(make_point(variant, (0.5,)), variant=variant.name)
    calibration = replace(read_calibration(file), variants={variant.name: variant.digest}, points={"default": point})
    return bundle.path, calibration


def wait_for(net, picked):
    """Wait until a network's thread has counted so many inputs."""
    for _ in range(6000):
        audit = net.stats().audit
        if audit.audited + audit.missed >= picked or audit.notice:
            return audit
        time.sleep(0.01)
    raise AssertionError(net.stats().audit)


def run(net, x, **how):
    """Give a network one input after the other, as slowly as its thread counts."""
    audit = net.stats().audit
    for sample in x:
        net(sample, **how)
        audit = wait_for(net, audit.audited + audit.missed + 1)
    return audit


@pytest.mark.parametrize("in_call", [True, False])
def test_every_input_of_an_audit_of_all_is_compared_with_the_last_exit(path, x, truth, in_call):
    exits, differs = truth
    with load(path, audit=Audit(share=1.0, in_call=in_call)) as net, load(path) as plain:
        audit = run(net, x[:40])
        assert (audit.audited, audit.disagreeing, audit.missed) == (40, differs[:40].sum(), 0)
        assert audit.exit_shares == tuple(np.bincount(exits[:40], minlength=3) / 40)
        assert net.stats().exit_counts == tuple(np.bincount(exits[:40], minlength=3))
        given, wanted = net(x[50]), plain(x[50])
        assert (given.label, given.score, given.exit) == (wanted.label, wanted.score, wanted.exit)


@pytest.mark.parametrize("in_call", [True, False])
def test_batches_are_audited_as_single_inputs_are(path, x, truth, in_call):
    _, differs = truth
    with load(path, audit=Audit(share=1.0, in_call=in_call)) as net:
        for i in range(0, 24, 4):
            net.batch(x[i : i + 4])
            audit = wait_for(net, i + 4)
        assert (audit.audited, audit.disagreeing) == (24, differs[:24].sum())


def test_which_inputs_are_picked_does_not_depend_on_them(path, x):
    def pick(inputs, *, together):
        with load(path, audit=Audit(share=0.2)) as net:
            picker = net._picker
            picked: list[Picked] = []
            picker.left, picker._draw = 1, np.random.default_rng(0).random
            picker.keeper.put = picked.append
            for part in np.split(inputs, 10):
                net.batch(part) if together else [net(sample) for sample in part]
        return [one.sample for one in picked]

    samples = x + 100 * np.arange(len(x), dtype=np.float32)[:, None]  # the number of each can be told from it
    at = [round(float(parts[0].mean()) / 100) for parts in pick(samples, together=True)]
    assert 10 < len(at) < 40 and at == sorted(at) and at[0] == 0
    for inputs in (x, x[::-1], x[:1].repeat(len(x), 0)):
        assert [parts[0].tolist() for parts in pick(inputs, together=True)] == inputs[at][:, None].tolist()
        net_picked = pick(inputs, together=False)  # of those that left at the last exit no copy is made
        assert len(net_picked) == len(at)
        assert all(parts is None or (parts[0] == inputs[i]).all() for i, parts in zip(at, net_picked, strict=True))


def test_an_input_for_which_there_is_no_room_is_left_out_wherever_it_left(path, x):
    with load(path, audit=Audit(share=1.0)) as net:
        keeper = net._picker.keeper
        keeper.busy.acquire()  # as if an audit took long
        try:
            for sample in x:
                net(sample)
            assert keeper.queue.qsize() <= MOST_WAITING + 1 and net.stats().audit.missed > 100
        finally:
            keeper.busy.release()


def test_an_alarm_names_what_spoke_and_is_raised_once(path, x, tmp_path):
    alarms: list[Alarm] = []
    audit = Audit(share=1.0, in_call=True, promised=1e-6, state=tmp_path / "state")
    with load(path, audit=audit, on_alarm=alarms.append) as net:
        run(net, x)
    names = [alarm.name for alarm in alarms]
    assert sorted(names) == ["disagreement", "shares"]  # thresholds that the calibration never saw
    (first,) = [alarm for alarm in alarms if alarm.name == "disagreement"]
    assert "disagree with the last exit" in first.words and first.audit.e_value >= 100
    with load(path, audit=audit, on_alarm=alarms.append) as net:  # which is told again after a restart
        assert set(net.stats().audit.alarms) == set(names)
        run(net, x[:1])
    assert len(alarms) == 4


def test_scores_of_the_first_exit_are_counted_and_raise_an_alarm_of_their_own(path, x, tmp_path):
    alarms: list[Alarm] = []
    calibration = read_calibration(open_bundle(path).calibrations()[0])
    with load(path) as net:
        score, thresholds = net.every_exit(x).score, net.thresholds
    edges = tuple(float(np.quantile(score[:, 0], share, method="lower")) for share in (0.25, 0.5))
    point = replace(calibration.point, score_edges=edges, score_shares=(0.05, 0.05, 0.9), thresholds=thresholds)
    calibration = replace(calibration, points={"default": point})
    audit = Audit(share=1.0, in_call=True, promised=0.9, state=tmp_path / "state")
    with load(path, calibration=calibration, audit=audit, on_alarm=alarms.append) as net:
        run(net, x[:60])
        run(net, x[60:], deadline_s=60.0)
        net.batch(x)  # of which the first exit's score is not always known: no batch counts
        seen = wait_for(net, 2 * len(x))
    counts = np.bincount(np.searchsorted(edges, score[:, 0], side="right"))
    assert seen.score_shares == pytest.approx(counts / len(x)) and seen.scores_e_value >= 100
    assert "scores" in {alarm.name for alarm in alarms}
    (both,) = read_audits(tmp_path / "state")
    assert both.score_shares == seen.score_shares and "scores" in both.alarms


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_function_that_fails_stops_nothing(path, x, error):
    def fail(alarm):
        raise error("no radio")

    with load(path, audit=Audit(share=1.0, in_call=True, promised=1e-6), on_alarm=fail) as net:
        for sample in x[:60]:
            net(sample)
            time.sleep(0.001)
        for _ in range(3000):
            if net.stats().audit.notice:
                break
            time.sleep(0.01)
        assert net.stats().audit.notice == f"on_alarm failed: {error.__name__}: no radio"
        assert net(x[0]).exit in (0, 1, 2)


def test_counts_survive_restarts_and_clones_add_to_them(path, x, tmp_path, truth):
    audit = Audit(share=1.0, in_call=True, state=tmp_path)
    for i in range(3):
        with load(path, audit=audit) as net:
            run(net, x[10 * i : 10 * i + 5])
            other = net.clone()
            for sample in x[10 * i + 5 : 10 * i + 10]:
                other(sample)
            assert wait_for(net, 10 * i + 10) == other.stats().audit
            other.close()
    (file,) = tmp_path.glob("*/audit.json")
    assert file.stat().st_size <= 1024 and json.loads(file.read_text())["sequence"] >= 3
    (found,) = read_audits(tmp_path)
    assert (found.audited, found.disagreeing, found.devices) == (30, truth[1][:30].sum(), 1)
    assert "With 95% confidence" in found.promise


def test_two_processes_of_a_device_have_a_state_each(path, x, tmp_path):
    audit = Audit(share=1.0, in_call=True, state=tmp_path)
    with load(path, audit=audit) as one, load(path, audit=audit) as two:
        run(one, x[:3])
        run(two, x[:4])
    assert len(list(tmp_path.glob("*/audit.json"))) == 2
    (found,) = read_audits([tmp_path, tmp_path])
    assert (found.audited, found.devices) == (7, 2)


def test_a_state_that_cannot_be_kept_is_told_of_and_the_network_runs(path, x, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(AuditWarning, match="What is counted is lost with this process"):
        net = load(path, audit=Audit(share=1.0, in_call=True, state=tmp_path / "file"))
    assert run(net, x[:0]).notice and net(x[0]) and net.stats().audit.notice
    place = tmp_path / "state" / "broken"
    place.mkdir(parents=True)
    (place / "audit.json").write_text("{")
    with pytest.warns(AuditWarning, match=r"is no state of an audit.* A new one is begun"):
        load(path, audit=Audit(state=tmp_path / "state")).close()
    with load(path, audit=Audit(share=1.0, in_call=True, state=tmp_path / "later")) as net:
        run(net, x[:1])
        keeper, away = net._picker.keeper, (tmp_path / "later").rename(tmp_path / "away")
        with pytest.warns(AuditWarning, match="What is counted is lost"):
            keeper._write()
        away.rename(tmp_path / "later")
        keeper._write()
        assert not net.stats().audit.notice
    assert [found.audited for found in read_audits(tmp_path / "later")] == [1]


def test_another_point_is_not_audited_and_another_promise_has_a_state_of_its_own(path, x, tmp_path, monkeypatch):
    with load(path, audit=Audit(share=1.0, in_call=True, state=tmp_path)) as net:
        net.thresholds = (0.1, 0.1)
        net(x[0])
        net.batch(x[:5])
        with monkeypatch.context() as patch:
            patch.setattr(Net, "_check_taken", lambda self, *_: setattr(self, "thresholds", THRESHOLDS))
            net.batch(x[:5])  # and another thread switches back
        run(net, x[:2])
    with load(path, audit=Audit(share=1.0, in_call=True, state=tmp_path, promised=np.float64(0.3))) as net:
        assert run(net, x[:1]).audited == 1
    assert [found.audited for found in read_audits(tmp_path)] in ([1, 2], [2, 1])


@pytest.mark.parametrize("in_call", [True, False])
@pytest.mark.parametrize("deadline_s", [60.0, 1e-9])
def test_a_call_with_a_deadline_is_judged_as_if_it_had_none(path, x, truth, deadline_s, in_call):
    exits, differs = truth
    with load(path, audit=Audit(share=1.0, in_call=in_call)) as net:
        for i, sample in enumerate(x[:30]):
            results = [net(sample, deadline_s=deadline_s) for _ in range(i % 2)] or [net(sample)]
            assert not results[0].cut or results[0].exit < exits[i]
            audit = wait_for(net, i + 1)
        assert (audit.audited, audit.disagreeing) == (30, differs[:30].sum()) and net.stats().cut >= (deadline_s < 1)
        assert audit.exit_shares == tuple(np.bincount(exits[:30], minlength=3) / 30)
        net.thresholds = (0.1, 0.1)
        net(x[0], deadline_s=deadline_s)
        assert net.stats().audit == audit and not audit.notice


def test_hurried_inputs_are_not_audited_nor_deadlines_where_no_thread_runs_them_on(path, x):
    with load(path, audit=Audit(share=1.0, in_call=True)) as net, Stream(net, when_full="leave_earlier") as stream:
        for sample in x[:8]:
            next(net.anytime(sample))
            stream.put(sample)
        hurried = [next(stream).hurried for _ in range(4)]
        assert all(hurried) and net.stats().exit_counts[0] >= 12
        assert run(net, x[:1]).audited == 1
    calibration = read_calibration(open_bundle(path).calibrations()[0])
    unknown = replace(calibration.point, variant="other", certificate=None, own_disagreement=None)
    assert find_promise(calibration, unknown, Audit(), classifies=True)[0] is None
    with load(path, audit=1.0) as net:
        keeper = net._picker.keeper
        keeper._new, keeper._compare = replace(keeper._new, promised=None), None  # as of such a point
        net(x[0], deadline_s=60.0)
        net(x[0])
        keeper.stop()
        keeper.wait()
        assert sum(keeper.state.exits) == 1


def test_inputs_are_collected_as_samples_that_others_cannot_read(path, x, tmp_path, truth):
    folder = tmp_path / "field"
    with load(path, audit=Audit(share=1.0, in_call=True, collect=folder)) as net:
        run(net, x[:30])
        with (
            pytest.warns(AuditWarning, match="Another network collects"),
            load(path, audit=Audit(share=1.0, in_call=True, collect=folder)) as other,
        ):
            assert "No more inputs are collected" in run_until_notice(other, x[0])
    samples, labels = load_samples(folder / "random", path)
    assert (samples == x[:30]).all() and labels is None
    samples, _ = load_samples(folder / "disagreeing", path)
    assert (samples == x[:30][truth[1][:30]]).all()
    for file in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def run_until_notice(net, sample):
    net(sample)
    for _ in range(3000):
        if notice := net.stats().audit.notice:
            return notice
        time.sleep(0.01)
    raise AssertionError("no notice")


def test_the_oldest_of_the_collected_inputs_go_first(path, x, tmp_path):
    megabytes = 2 * 5 * 16 * 4 / 1e6  # five inputs in each of both folders
    for part in (x[:7], x[7:9]):
        with load(path, audit=Audit(share=1.0, in_call=True, collect=tmp_path, collect_mb=megabytes)) as net:
            run(net, part)
    samples, _ = load_samples(tmp_path / "random", path)
    assert sorted(map(bytes, samples)) == sorted(map(bytes, x[4:9]))


def test_where_nothing_can_be_audited_it_is_said_and_a_plain_network_runs(dense, path):
    with pytest.warns(match=r"Nothing is audited: there is no calibration"):
        assert type(load(dense, audit=0.01)) is Net
    with pytest.warns(AuditWarning, match="Nothing is audited: a static network runs"):
        assert load(ARCHIVE, audit=0.01).stats().audit is None
    with pytest.raises(UsageError, match="on_alarm is a function that an audit calls"):
        load(path, on_alarm=print)
    with pytest.raises(UsageError, match="on_alarm is a function that an audit calls"):
        load(path, audit=0.01, on_alarm="print")
    with pytest.raises(UsageError, match="leave disagreement= out"):
        load(path, audit=Audit(disagreement=lambda a, b: 0.0))
    for wrong in (0, 1.5, -1, True, "much", float("nan")):
        with pytest.raises(UsageError, match="share is a number above 0 and at most 1"):
            load(path, audit=wrong)
    assert Audit(share=np.float32(0.5), collect_mb=np.int64(1)).share == 0.5
    assert not hasattr(load_uncalibrated(path), "_picker")


def test_what_is_promised_comes_from_the_certificate_or_from_what_was_calibrated(path):
    calibration = read_calibration(open_bundle(path).calibrations()[0])
    point, audit = calibration.points["default"], Audit()

    def found(point, audit=audit, classifies=True):
        return find_promise(calibration, point, audit, classifies=classifies)

    certificate = replace(point.certificate, limits={"max_disagreement": 0.04}) if point.certificate else None
    if certificate:
        assert found(replace(point, certificate=certificate)) == (0.04, 0.01, "")
    plain = replace(point, certificate=None)
    promised, chance, _ = found(plain)  # 20 of 600 samples
    assert 0.05 < promised < 0.065 and chance == 0.005
    assert found(replace(plain, own_disagreement=0.0))[0] == pytest.approx(1 - 0.005 ** (1 / 600), abs=1e-6)
    grouped = find_promise(
        replace(calibration, groups=30), replace(plain, own_disagreement=0.0), Audit(), classifies=True
    )
    assert grouped[0] == pytest.approx(
        1 - 0.005 ** (1 / 30), abs=1e-6
    )  # each of 30 groups counts as one, whatever its size
    other = replace(plain, variant="int8")
    assert found(other)[0] is None and "does not know how often this variant disagrees" in found(other)[2]
    assert found(replace(other, own_disagreement=0.0))[0] < 0.01
    assert found(other, Audit(promised=0.1)) == (0.1, 0.01, "")
    assert found(plain, classifies=False)[0] is None


class Turns(torch.nn.Module):
    """Two exits that give two numbers each."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(16, 2), torch.nn.Linear(2, 2)

    def forward(self, x):
        y = torch.tanh(self.first(x))
        sure = torch.sigmoid(4 * y[:, :1])
        return [{"turn": y, "sure": sure}, {"turn": y + 0.1 * torch.tanh(self.second(y)), "sure": sure}]


@pytest.mark.slow  # it exports a network
@pytest.mark.parametrize("in_call", [True, False])
def test_answers_that_are_no_labels_are_compared_by_a_function(turns, x, in_call):
    def differ(early, last):
        return np.abs(early["turn"] - last["turn"]).mean(axis=1) / 4

    bundle, calibration = turns
    audit = Audit(share=1.0, in_call=in_call, promised=0.9, disagreement=differ)
    with load(bundle, calibration=calibration, audit=audit) as net:
        found, every = run(net, x[:10]), net.every_exit(x[:10])
        exits = np.where(every.score[:, 0] >= net.thresholds[0], 0, 1)
    wanted = sum(differ(every.parts(k), every.parts(1))[i] for i, k in enumerate(exits))
    assert found.disagreeing == pytest.approx(wanted, rel=1e-4) and 0 < found.disagreeing < 10
    with pytest.raises(UsageError, match="are compared by a function"):
        load(bundle, calibration=calibration, audit=Audit(promised=0.9))
    with load(
        bundle, calibration=calibration, audit=Audit(disagreement=lambda a, b: 2.0, promised=0.9, share=1.0)
    ) as net:
        for sample in x[:20]:
            net(sample)
        assert "is one number from 0 to 1" in run_until_notice(net, x[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_counts_for_itself(path, x, tmp_path):
    alarms: list[Alarm] = []
    with load(path, audit=Audit(share=1.0, state=tmp_path, promised=1e-6), on_alarm=alarms.append) as net:
        run(net, x[:25])
        told = len(alarms)
        child = os.fork()
        if not child:
            try:
                audit = run(net, x[:23])
                net.close()
                os._exit(0 if audit.audited == 23 and len(alarms) > told else 1)  # which it raises for itself, too
            finally:
                os._exit(2)
        assert told and os.waitpid(child, 0)[1] == 0
        run(net, x[25:27])
    assert sorted(found["audited"] for found in map(json.loads, texts(tmp_path))) == [23, 27]


def texts(folder):
    return [file.read_text() for file in folder.glob("*/audit.json")]


END = """
import sys
import numpy as np
from offramp.runtime import Audit, load
x = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
net = load(sys.argv[1], audit=Audit(share=1.0, in_call=True, state=sys.argv[2]))
for sample in x[:5]:
    net(sample)
"""


def test_what_was_counted_is_written_when_the_program_ends_without_closing(path, python, tmp_path):
    python(END, path, tmp_path)
    assert sum(json.loads(text)["audited"] for text in texts(tmp_path)) == 5


def test_no_share_is_too_small(path, x):
    with load(path, audit=1e-320) as net:  # whose distance to the first that is picked is infinite
        assert net(x[0]) and net._picker.left > 1e17


def test_all_that_is_wrong_is_told(path, x):
    with load(path, audit=1.0) as net, pytest.warns(AuditWarning) as caught:
        keeper = net._picker.keeper
        for words in ("One thing.", "Another.", "One thing."):
            keeper._say(words)
        assert net.stats().audit.notice == "One thing. Another." and len(caught) == 2
        for i in range(9):
            keeper._say(f"{i}")
        assert net.stats().audit.notice == "5 6 7 8"


def test_an_audit_opens_no_lazy_stage_once_more(path, x, monkeypatch):
    opened = []
    compile_job = lazy_stages.compile_job
    monkeypatch.setattr(lazy_stages, "compile_job", lambda job: (opened.append(job), compile_job(job))[1])
    with load(path, lazy=True, audit=Audit(share=1.0)) as net:
        assert not opened and net.stats().lazy.here == 0
        assert run(net, x[:3]).audited == 3 and len(opened) == 2


def test_the_thread_ends_with_the_network(path, x):
    net = load(path, audit=Audit(share=1.0))
    run(net, x[:2])
    thread = net._picker.keeper._thread
    assert thread.daemon
    del net
    thread.join(60)
    assert not thread.is_alive()
