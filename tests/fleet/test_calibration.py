"""One command calibrates every board: kinds are recorded once, boards measured, labels stay."""

import shutil

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Target, open_bundle, read_calibration
from offramp.bundle.manifest import NEVER
from offramp.calibrate import calibrate
from offramp.errors import MeasurementError, MissingError, UsageError
from offramp.fleet import board, boards, calibrate_fleet, recording
from offramp.fleet.messages import SentAnswers, SentCosts, decode, encode, read_answers, read_costs
from offramp.runtime import load_uncalibrated
from offramp.tests.fakes.fleet import BOARDS, FakeBoard, simulated
from offramp.tests.helpers.bundles import copy_archive

distributed = pytest.importorskip("distributed")

TARGET, SAMPLES, BRIEF_S = Target(max_drop=0.3), 220, 0.01


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Samples of which all exits are right alike, so that leaving early loses nothing."""
    return draw(tmp_path_factory.mktemp("labels"), seed=1)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """As many samples from outside."""
    return draw(tmp_path_factory.mktemp("outside"), seed=2)


def draw(folder, *, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((SAMPLES, 16)).astype(np.float32)
    label = load_uncalibrated(copy_archive(folder)).every_exit(x, size=10).label
    return x, label[np.arange(SAMPLES), rng.integers(0, label.shape[1], SAMPLES)]


@pytest.fixture
def cluster():
    """A scheduler, and three workers in this process by the names of the simulated boards."""
    workers = {name: {"cls": distributed.Worker, "options": {"nthreads": 1}} for name in BOARDS}
    scheduler = {"cls": distributed.Scheduler, "options": {"dashboard": False, "dashboard_address": ":0", "port": 0}}
    with distributed.SpecCluster(workers=workers, scheduler=scheduler, silence_logs=50) as cluster:
        yield cluster


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(boards, "PATIENCE_S", 0.5)
    return copy_archive(tmp_path)


def by_fleet(bundle, samples, cluster, target=TARGET, **settings):
    settings = {"variant": "fp32", "measure_s": BRIEF_S} | settings
    return calibrate_fleet(bundle, samples, cluster.scheduler_address, target, **settings)


def test_one_command_calibrates_three_boards_and_names_the_throttled_one(bundle, samples, cluster, monkeypatch):
    sent = []
    ask = boards.Boards._ask
    monkeypatch.setattr(boards.Boards, "_ask", lambda *given: sent.append(given[2:]) or ask(*given))
    with simulated(BOARDS):
        found = by_fleet(bundle, samples, cluster)
    assert not found.missing and [each.name for each in found.boards] == list(BOARDS)
    assert len(found.calibrations) == 3 == len(open_bundle(bundle.path).calibrations())
    assert len({each.kind for each in found.boards}) == 1
    (outlier,) = found.outliers
    assert "board3 is 50% slower" in outlier and "throttled (its clock was at 1.2 of 1.8 GHz)" in outlier
    points = [each.points["default-fleet"] for each in found.calibrations.values()]
    assert len({(point.thresholds, point.variant, point.promise, point.accuracy) for point in points}) == 1
    assert all(point.certificate and point.spread == points[0].spread for point in points)
    spread = points[0].spread
    assert (spread.boards, spread.kinds, spread.slowest) == (3, 1, "board3")
    assert spread.least_s / 0.75 == pytest.approx(spread.median_s) == pytest.approx(spread.most_s / 1.5)
    assert all(read_calibration(path).points["default-fleet"].spread == spread for path in found.calibrations)
    # Every sample was recorded once, and no label left.
    recorded = [given[-1][-1] for given in sent if given[0] is board.record_samples]
    assert sum(len(arrays[0]) for arrays in recorded) == len(samples[0])
    arrays = [part for given in sent for each in given[1] if isinstance(each, tuple) for part in each]
    assert {part.dtype for part in arrays if isinstance(part, np.ndarray)} == {np.dtype("float32")}


def test_a_worker_killed_in_the_middle_changes_nothing_in_what_one_board_finds_alone(
    bundle, samples, others, cluster, monkeypatch, tmp_path
):
    alone = open_bundle(shutil.copytree(bundle.path, tmp_path / "alone.offramp"))
    monkeypatch.setattr(recording, "MOST_SAMPLES", 60)  # so that there are four parts
    killed: list[int] = []

    def kill(task, count, total):
        if task == "recording" and not killed:
            killed.append(count)
            cluster.sync(cluster.workers["board2"].close)

    with simulated({}):
        here = calibrate(alone, samples, TARGET, variant="fp32", measure_s=BRIEF_S, confidence=0.95, outside=others)
        found = by_fleet(bundle, samples, cluster, confidence=0.9, progress=kill, outside=others)
    assert 0 < killed[0] < SAMPLES and found.missing == {"board2": "It went away."}
    (there,) = found.calibrations.values()
    assert here.confidence == pytest.approx(there.confidence) == 0.95
    fields = [
        "variant",
        "static",
        "thresholds",
        "accuracy",
        "drop",
        "drop_interval",
        "exit_shares",
        "disagreement",
        "score_shares",
    ]
    for name, point in here.points.items():
        again = there.points[name]
        assert {field: getattr(again, field) for field in fields} == {field: getattr(point, field) for field in fields}
        assert (again.certificate and again.certificate.step) == (point.certificate and point.certificate.step)
    assert there.points["default-fleet"].spread.boards == 2


def test_a_board_of_another_kind_goes_and_is_missing_until_the_same_call_goes_on(bundle, samples, cluster, monkeypatch):
    asked = []
    measure = boards.Boards.ask

    def ask(self, board, kind, work, *rest):
        if work.__name__ == "measure_board":
            asked.append(board.name)
            if board.name == "board2" and asked.count("board2") == 1:
                raise boards.LostError("It went away.")
        return measure(self, board, kind, work, *rest)

    monkeypatch.setattr(boards.Boards, "ask", ask)
    others = {"board1": FakeBoard(fields={"affinity": "0"}), "board2": FakeBoard(fields={"soc": "another chip"})}
    with simulated({**BOARDS, **others, "board3": FakeBoard(fields={"affinity": "1"})}):
        first = by_fleet(bundle, samples, cluster)
        again = by_fleet(bundle, samples, cluster)
    assert first.missing == {"board2": "It went away."} and len(first.calibrations) == 2
    assert not again.missing and len(again.calibrations) == 3
    assert sorted(asked) == ["board1", "board2", "board2", "board3"]
    assert [each.kind for each in again.boards] == [0, 1, 0]
    points = [each.points["default-fleet"] for each in again.calibrations.values()]
    assert all(point.spread.kinds == 2 and point.certificate for point in points)


def test_a_board_that_answers_otherwise_than_its_kind_is_left_out(bundle, samples, cluster, monkeypatch):
    every_exit = board.record_all

    def lie(session):
        recorded, reference = every_exit(session)
        if str(distributed.get_worker().name) == "board3":
            reference = replace(reference, score=reference.score * np.float32(0.999))
        return recorded, reference

    monkeypatch.setattr(board, "record_all", lie)
    monkeypatch.setattr(recording, "AT_ONCE", 1)  # the only part goes to the first board
    with simulated(BOARDS):
        found = by_fleet(bundle, samples, cluster)
    assert list(found.missing) == ["board3"] and "otherwise than the boards of its kind" in found.missing["board3"]
    assert len(found.calibrations) == 2


def test_a_board_that_sends_no_answers_is_left_out_alone(bundle, samples, cluster, monkeypatch):
    send = board.send_answers

    def spoil(answers):
        sent = send(answers)
        return replace(sent, label=b"") if str(distributed.get_worker().name) == "board3" else sent

    monkeypatch.setattr(board, "send_answers", spoil)
    monkeypatch.setattr(recording, "MOST_SAMPLES", 60)
    targets = {"alike": Target(max_disagreement=0.5), "right": TARGET}
    with simulated(BOARDS):
        found = by_fleet(bundle, samples, cluster, targets, confidence=1 - 1e-9)
    assert list(found.missing) == ["board3"] and "0 and" in found.missing["board3"]
    assert len(found.calibrations) == 2
    for calibration in found.calibrations.values():
        alike, right = (calibration.points[f"{name}-fleet"] for name in targets)
        assert alike.certificate and alike.thresholds[1] == NEVER and alike.joined  # as it is loaded
        assert "2 boards of one kind, each of which keeps its promise: " in alike.verdict
        assert right.certificate is None and "2 boards of one kind: " in right.verdict


def test_what_a_broken_board_recorded_is_not_kept(bundle, samples, cluster, monkeypatch):
    send = board.send_answers

    def spoil(answers):
        is_broken = str(distributed.get_worker().name) == "board3"
        return send(replace(answers, label=(answers.label + 1) % 5) if is_broken else answers)

    monkeypatch.setattr(recording, "MOST_SAMPLES", 60)
    with simulated(BOARDS):
        with monkeypatch.context() as broken, pytest.raises(MeasurementError, match="end the one that is broken"):
            broken.setattr(board, "send_answers", spoil)
            by_fleet(bundle, samples, cluster)
        assert not by_fleet(bundle, samples, cluster).missing


def test_what_boards_send_is_checked():
    whole = {"samples": 2, "exits": 1, "classes": 5, "board": "b"}
    good = SentAnswers(1, np.array([0, 4], "<i4").tobytes(), np.array([0, 1], "<f4").tobytes())
    assert read_answers(good, **whole).label.tolist() == [[0], [4]]
    for wrong, words in (
        (replace(good, label=np.array([0, 5], "<i4").tobytes()), "none of the 5 classes"),
        (replace(good, label=np.array([-1, 0], "<i4").tobytes()), "none of the 5 classes"),
        (replace(good, score=np.array([0, np.nan], "<f4").tobytes()), "not from 0 to 1"),
        (replace(good, label=good.label * 2), "16 and 8 bytes"),
        (replace(good, exits=2), "answers of 2 exits"),
    ):
        with pytest.raises(MeasurementError, match=words):
            read_answers(wrong, **whole)
    for times in (
        (),
        (b"",),
        (b"1234",),
        (np.array([-1.0]).tobytes(),),
        (np.array([np.inf]).tobytes(),),
        (np.array([1e300]).tobytes(),),
    ):
        with pytest.raises(MeasurementError, match="'b'"):
            read_costs(SentCosts(times, 0.0, 0.0), exits=1, board="b")
    for field in ("noise", "machine_noise"):
        costs = replace(SentCosts((b"",), 0.0, 0.0), **{field: np.inf})
        with pytest.raises(MeasurementError, match="no SentCosts"):
            decode(encode(costs), SentCosts, "b")
    with pytest.raises(MeasurementError, match="no SentAnswers"):
        decode(b"\x00", SentAnswers, "b")


def test_what_boards_are_not_asked_is_refused(bundle, samples, cluster, monkeypatch):
    with pytest.raises(UsageError, match="auto"):
        by_fleet(bundle, samples, cluster, device="auto")
    with pytest.raises(UsageError, match="name the target 'fast-fleet' otherwise"):
        by_fleet(bundle, samples, cluster, {"fast": TARGET, "fast-fleet": TARGET})
    monkeypatch.setattr(boards, "__version__", "0.0.1")
    with pytest.raises(MissingError, match="install the same one"):
        by_fleet(bundle, samples, cluster)
