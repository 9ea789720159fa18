"""A few of the damaged and forged bundles that `fuzz.py` makes by thousands."""

import pytest

from offramp.tests.bundle import fuzz


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_damaged_and_forged_bundles_are_refused_or_answer_as_before(kind):
    verdicts, bad = fuzz.fuzz(kind, 20)
    assert not bad and sum(verdicts.values()) == 20
    assert verdicts["refused"] + verdicts["failed"] > 5


@pytest.mark.parametrize("number", [790, 1364])
def test_a_changed_static_network_fails_by_its_logits_where_scores_and_labels_are_within_the_tolerance(number):
    verdicts, _ = fuzz.fuzz("refitted", 1, first=number)
    assert verdicts == {"failed": 1}


def test_what_golden_samples_cannot_show_is_counted_apart_and_only_of_quantised_networks_with_refitted_hashes(
    monkeypatch,
):
    verdicts, listed = fuzz.fuzz("refitted", 1, first=837)
    assert verdicts == {"unseen": 1} and listed == [(837, "unseen", "")]
    monkeypatch.setattr(fuzz, "REFITS", ())
    assert fuzz.fuzz("refitted", 1, first=837)[0] == {"wrong": 1}


def test_a_wrong_answer_would_be_seen(monkeypatch):
    monkeypatch.setitem(fuzz.KINDS, "forged", lambda bundle, rng: None)
    monkeypatch.setattr(fuzz, "answer", lambda bundle, answer=fuzz.answer: shifted(answer(bundle), bundle.path.name))
    verdicts, bad = fuzz.fuzz("forged", 2)
    assert verdicts["wrong"] == len(bad) == 2


def test_what_is_opened_outside_would_be_seen(monkeypatch, tmp_path):
    (tmp_path / "secret").write_text("")

    def judge(path, expected):
        (tmp_path / "secret").open(*("r",) if path.name.startswith("0") else ("a",)).close()
        return "same"

    monkeypatch.setattr(fuzz, "judge", judge)
    _, bad = fuzz.fuzz("bits", 2)
    assert [(verdict, "secret" in reason) for _, verdict, reason in bad] == [("outside", True)] * 2


def shifted(answers, name):
    """Shift the scores of every bundle but the archived one."""
    return [(label, score + (0.5 if name[0].isdigit() else 0)) for label, score in answers]


def test_a_crash_and_a_hang_would_be_seen(monkeypatch):
    def judge(path, expected):
        if path.name.startswith("0"):
            raise ValueError("a fault")
        if path.name.startswith("1"):
            fuzz.signal.raise_signal(fuzz.signal.SIGKILL)
        if path.name.startswith("2"):
            fuzz.signal.raise_signal(fuzz.signal.SIGALRM)
        while True:
            pass

    monkeypatch.setattr(fuzz, "judge", judge)
    monkeypatch.setattr(fuzz, "LIMIT_CPU_S", 0.2)
    _, bad = fuzz.fuzz("bits", 4)
    assert [verdict for _, verdict, _ in bad] == ["crash", "crash", "hang", "hang"]
