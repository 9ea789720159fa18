"""A few of the damaged and forged bundles that `fuzz.py` makes by thousands."""

import pytest

from offramp.tests.bundle import fuzz


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_and_forged_bundles_are_refused_or_answer_as_before(kind):
    verdicts, bad = fuzz.fuzz(kind, 20)
    assert not bad and sum(verdicts.values()) == 20
    assert verdicts["refused"] + verdicts["failed"] > 5


def test_a_wrong_answer_would_be_seen(monkeypatch):
    monkeypatch.setitem(fuzz.KINDS, "forged", lambda bundle, rng: None)
    monkeypatch.setattr(fuzz, "answer", lambda bundle, answer=fuzz.answer: shifted(answer(bundle), bundle.path.name))
    verdicts, bad = fuzz.fuzz("forged", 2)
    assert verdicts["wrong"] == len(bad) == 2


def shifted(answers, name):
    """Shift the scores of every bundle but the archived one."""
    return [(label, score + (0.5 if name[0].isdigit() else 0)) for label, score in answers]


def test_a_crash_and_a_hang_would_be_seen(monkeypatch):
    def judge(path, expected):
        if path.name.startswith("0"):
            raise ValueError("a fault")
        if path.name.startswith("1"):
            fuzz.signal.raise_signal(fuzz.signal.SIGKILL)
        fuzz.signal.raise_signal(fuzz.signal.SIGALRM)

    monkeypatch.setattr(fuzz, "judge", judge)
    _, bad = fuzz.fuzz("bits", 3)
    assert [verdict for _, verdict, _ in bad] == ["crash", "crash", "hang"]
