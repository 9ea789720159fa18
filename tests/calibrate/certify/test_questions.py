"""Questions to the same samples share one chance of error, and are remembered in the bundle."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from offramp.bundle import Target
from offramp.calibrate.certify import questions
from offramp.calibrate.certify.points import make_points
from offramp.calibrate.certify.questions import ask, check_remembered, describe_question, part_of_chance
from offramp.calibrate.pace import Pace
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.picks import Pick
from offramp.errors import BundleError, MissingError, UsageError
from offramp.files import lock_folder, read_file
from offramp.tests.fakes.configurations import fake_configuration
from offramp.tests.zoo.exit_tables import UNEVEN, make_table


def question(folder, hashes, *, seed=0, reference="network", y=None, **changed):
    """A request, of which only what makes a question is there."""
    hashes = np.asarray(hashes, np.uint64)
    variant = SimpleNamespace(digest=reference)
    given = {
        "bundle": SimpleNamespace(path=folder, read_file=read_file, check_changeable=lambda folder: None),
        "samples": SimpleNamespace(hashes=hashes, y=y, sha256=str(hash(hashes.tobytes()))),
        "outside": None,
        "targets": {"default": Target(max_drop=0.01)},
        "placed": (SimpleNamespace(variant=variant),),
        "reference_variant": variant,
        "seed": seed,
        "confidence": 0.9,
        "least_gain": 0.05,
        "threads": 1,
        "pace": Pace(),
        "meter_name": None,
        "judging": None,
        "groups": None,
    }
    return SimpleNamespace(**given | changed)


def numbers(*asked):
    return [ask(request)[0] for request in asked]


def test_the_parts_add_up_to_the_whole_chance_of_error():
    parts = [part_of_chance(number) for number in range(1, 20_001)]
    assert sum(parts) == pytest.approx(1, abs=1e-4) and sum(parts) < 1
    assert parts == sorted(parts, reverse=True) and parts[0] == 0.8


def test_another_question_counts_and_the_same_one_is_free(tmp_path):
    samples = np.random.default_rng(0).integers(0, 2**63, 3000)
    first = question(tmp_path, samples)
    again = question(tmp_path, samples, seed=np.int64(1))
    other = question(tmp_path, samples, targets={"default": Target(max_drop=0.02)})
    relabelled = question(tmp_path, samples, y=np.zeros(3000, np.int64))
    assert numbers(first, again, other, relabelled, again, first) == [1, 2, 3, 4, 2, 1]
    slower, stricter = question(tmp_path, samples, pace=Pace(0.1)), question(tmp_path, samples, least_gain=0.2)
    assert numbers(slower, stricter, slower) == [5, 6, 5]
    assert describe_question(1, 0.9) == []
    assert "answered 2 other questions" in describe_question(3, 0.9)[0]
    assert "share a chance of error of 10.00%, of which this one has 0.33%" in describe_question(3, 0.9)[0]


def test_data_that_grow_or_overlap_are_the_same_samples_and_others_are_not(tmp_path):
    hashes = np.random.default_rng(0).integers(0, 2**63, 20_000)
    few, more, rest, half = hashes[:300], hashes[:6000], hashes[6000:12_000], hashes[9000:15_000]
    asked = [question(tmp_path, part) for part in (few, more, rest, half)]
    assert numbers(*asked) == [1, 2, 1, 2]
    assert numbers(question(tmp_path, np.r_[more[:10], hashes[15_000:20_000]])) == [1]  # ten of five thousand
    assert numbers(question(tmp_path, few, reference="exported again")) == [1]


def test_some_hundred_of_a_million_are_the_same_samples(tmp_path):
    hashes = np.random.default_rng(0).integers(0, 2**63, 1_000_300)
    million, few, others = hashes[:1_000_000], hashes[:300], hashes[1_000_000:]
    assert numbers(*(question(tmp_path, part) for part in (million, few, others))) == [1, 2, 1]


def test_a_file_of_many_questions_stays_readable(tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "MOST_BYTES", 50_000)
    hashes = np.random.default_rng(0).integers(0, 2**63, 50_000)
    asked = [question(tmp_path, hashes[i * 10_000 : (i + 1) * 10_000]) for i in range(5)]
    assert numbers(*asked, question(tmp_path, hashes[40_000:], seed=1)) == [1, 1, 1, 1, 1, 2]


def test_a_damaged_file_is_named_and_a_bundle_that_cannot_be_written_does_not_stop(tmp_path, monkeypatch):
    request = question(tmp_path, np.arange(100))
    (tmp_path / "calibrations").mkdir()
    path = tmp_path / "calibrations" / "asked.ledger"
    asked = b'{"key": "k", "reference": "network", "samples": "s", "number": 1}'
    no_hashes = b'{"questions": [%b], "samples": {"s": {"count": 9, "smallest": []}}}' % asked
    for content in (b"{", b'{"schema": 1, "questions": 7}', no_hashes, b"[" * 100_000, b"\xff"):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="Remove it, and promises count from the first question again"):
            ask(request)
        with pytest.raises(BundleError, match="Remove it"):
            check_remembered(request.bundle)
    monkeypatch.setattr(questions, "MOST_BYTES", 10)
    path.write_bytes(b" " * 11)
    with pytest.raises(BundleError, match="does not hold the questions"):
        ask(request)
    path.unlink()

    def refuse(path, content):
        raise MissingError("The disk is full.")

    monkeypatch.setattr(questions, "write_atomically", refuse)
    number, notes = ask(request)
    assert number == 1 and "could not be remembered in the bundle: The disk is full." in notes[0]

    def refuse_packed(folder):
        raise UsageError("It is packed.")

    request.bundle.check_changeable = refuse_packed
    assert "could not be remembered in the bundle: It is packed." in ask(request)[1][0]


def test_asking_until_a_promise_comes_out_gets_no_more_false_ones_than_it_says():
    """Where nothing deserves a promise, ten seeds at the whole chance of error each get one from 16 of 60 data sets."""
    population = make_table(50_000, exits=2, temperatures=UNEVEN[:2], seed=1)
    target = {"default": Target(min_accuracy=float(population.right[:, -1].mean()) + 1e-4)}
    rng, configuration, lucky, runs = np.random.default_rng(0), fake_configuration("synthetic", 2), 0, 60
    for _ in range(runs):
        rows = rng.choice(len(population), 400, replace=False)
        for number in range(1, 11):
            rows = rng.permutation(rows)
            selecting, reporting = population.rows(rows[:200]), population.rows(rows[200:])
            chain = Contender(configuration=configuration, static=None, selecting=selecting, reporting=reporting)
            pick = Pick(chain, (0.95,), None)
            if make_points({"default": pick}, target, [], confidence=0.9, question=number)["default"].is_promised:
                lucky += 1
                break
    assert lucky <= 0.1 * runs


def test_calibrations_at_once_lose_no_question(tmp_path, monkeypatch):
    """Each waits for the other to write: threads here, whose locks are as strange to each other as those of processes."""
    read = questions._read

    def read_slowly(path):
        earlier = read(path)
        time.sleep(0.02)
        return earlier

    monkeypatch.setattr(questions, "_read", read_slowly)
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda seed: ask(question(tmp_path, range(50), seed=seed))[0], range(4)))
    assert sorted(numbers) == [1, 2, 3, 4]


def test_a_lock_that_is_never_given_back_is_not_waited_for_forever(tmp_path, monkeypatch):
    monkeypatch.setattr(questions, "MOST_WAIT_S", 0.05)
    (tmp_path / "calibrations").mkdir()
    lock = lock_folder(tmp_path / "calibrations")
    assert ask(question(tmp_path, range(50))) == (1, ())
    os.close(lock)
