"""A few of the files that `long.py` makes for hours: each is read and written equal, or refused by one clear error."""

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings

from offramp.tests.fuzzing.readers import READERS, Place
from offramp.tests.fuzzing.structures import STRUCTURES

FEW = settings(max_examples=25, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("kind", READERS)
def test_an_example_is_read_and_written_equal(kind):
    assert Place(kind).check(READERS[kind].example)


@pytest.mark.parametrize("kind", READERS)
def test_files_changed_in_their_structure_are_read_or_refused(kind):
    place, seen = Place(kind), Counter[bool]()

    @FEW
    @given(STRUCTURES[kind])
    def check(content):
        seen[place.check(content)] += 1

    check()
    assert seen[False]


@pytest.mark.parametrize("kind", READERS)
def test_files_changed_in_their_bytes_are_read_or_refused(kind):
    place, rng, example = Place(kind), random.Random(kind), READERS[kind].example
    for _ in range(30):
        content = bytearray(example)
        for _ in range(rng.choice([1, 1, 4])):
            at = rng.randrange(len(content))
            content[at : at + rng.choice([0, 1, 9])] = rng.choice([b"", b"\0", b"[" * 999, b"9" * 99, rng.randbytes(3)])
        place.check(bytes(content))


def test_what_no_check_refuses_would_be_seen(monkeypatch):
    place = Place("state")
    for error in (RecursionError(), MemoryError()):
        monkeypatch.setattr(place, "reader", place.reader._replace(read=lambda path, error=error: raise_(error)))
        with pytest.raises(type(error)):
            place.check(b"")
    monkeypatch.setattr(
        place, "reader", place.reader._replace(read=lambda path: [path.read_bytes()], write=lambda *_: None)
    )
    assert place.check(b"")
    twice = place.reader._replace(write=lambda path, _: path.write_bytes(b"other"), read=lambda path: path.read_text())
    monkeypatch.setattr(place, "reader", twice)
    with pytest.raises(AssertionError):
        place.check(b"")


def raise_(error):
    raise error
