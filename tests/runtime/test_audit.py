"""What counts prove, and states of many devices."""

import json
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.cli.app import exit_code_of
from offramp.errors import BundleError, MissingError, UsageError
from offramp.runtime import read_audits
from offramp.runtime.audit.evidence import doubt, renewed_limit, share_bound_of, shares_doubt, trust
from offramp.runtime.audit.states import MOST_BINS, MOST_EDGES, AuditState, write_state
from offramp.tests.helpers.documents import check_documents

STATE = AuditState(
    device="a",
    sequence=1,
    variant="v",
    point="p",
    promised=0.02,
    chance=(0.01, 0.01),
    calibrated=(60, 40),
    exits=(600, 400),
    audited=1000,
    disagreeing=20.0,
)


def test_bets_are_fair_where_the_hypothesis_just_holds():
    for n in (1, 7, 40):
        chances = [math.comb(n, k) * 0.1**k * 0.9 ** (n - k) for k in range(n + 1)]
        for bet in (doubt, trust):
            money = [math.exp(bet(k, n, 0.1)) for k in range(n + 1)]
            assert np.dot(chances, money) == pytest.approx(1)
    calibrated, chances, money = (6, 4), [], []
    for k in range(11):
        for j in range(13):
            chances.append(math.comb(10, k) * 0.3**k * 0.7 ** (10 - k) * math.comb(12, j) * 0.3**j * 0.7 ** (12 - j))
            money.append(math.exp(shares_doubt((k, 10 - k), (j, 12 - j))))
    assert np.dot(chances, money) < 1 < math.exp(shares_doubt(calibrated, (0, 90)))


def test_bets_win_where_the_hypothesis_is_wrong_and_lose_where_it_is_true():
    assert doubt(60, 1000, 0.02) > math.log(100) > 0 > doubt(20, 1000, 0.02)
    assert trust(5, 1000, 0.02) > math.log(20) > 0 > trust(20, 1000, 0.02)
    assert shares_doubt((600, 400), (400, 600)) > math.log(100) > 0 > shares_doubt((600, 400), (600, 400))
    assert doubt(0.5, 1, 0.02) <= (doubt(0, 1, 0.02) + doubt(1, 1, 0.02)) / 2 + math.log(5)
    assert doubt(0, 10, 0.0) <= 0 < doubt(1, 10, 0.0)


def test_a_renewed_limit_is_the_least_that_is_proven():
    limit = renewed_limit(20, 2000, chance=0.05)
    assert 0.01 < limit < 0.02
    assert trust(20, 2000, limit) == pytest.approx(math.log(20), abs=1e-3)
    assert renewed_limit(0, 1, chance=0.05) > 0.9 and renewed_limit(3, 3, chance=0.05) == 1.0
    assert renewed_limit(20_000, 2_000_000, chance=0.05) < 0.0105


@pytest.mark.parametrize(("count", "n"), [(0, 100), (5, 500), (499, 500), (500, 500)])
def test_the_bound_of_a_share_is_exact(count, n):
    bound = share_bound_of(count, n, chance=0.01)
    below = sum(math.comb(n, i) * bound**i * (1 - bound) ** (n - i) for i in range(count + 1))
    assert bound == 1 if count == n else below == pytest.approx(0.01, rel=1e-6)


def put(folder, state):
    place = folder / state.device / "audit.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_state(place, state)
    return place


def test_states_of_a_fleet_are_added_and_a_device_counts_once(tmp_path):
    old = put(tmp_path / "old", STATE)
    new = put(tmp_path / "new", replace(STATE, sequence=2, audited=1500, disagreeing=30.0, exits=(900, 600)))
    other = put(tmp_path / "new", replace(STATE, device="b", alarms=("shares",)))
    for paths in ([old, new, other], [new, other, old], [tmp_path / "old", tmp_path / "new"]):
        (found,) = read_audits(paths)
        assert (found.audited, found.disagreeing, found.devices, found.alarmed_devices) == (2500, 50, 2, 1)
        assert found.e_value == pytest.approx(math.exp(doubt(50, 2500, 0.02))) and found.alarms == ()
    put(tmp_path / "new", replace(STATE, device="c", promised=0.03))
    assert [found.devices for found in read_audits(tmp_path / "new")] == [2, 1]
    put(tmp_path / "new", replace(STATE, device="d", disagreeing=500.0))
    assert ("disagreement",) in [found.alarms for found in read_audits(tmp_path / "new")]


def test_the_command_shows_a_fleet_and_ends_with_3_at_an_alarm(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line replaces
    put(tmp_path, STATE)
    put(tmp_path, replace(STATE, device="b"))
    assert exit_code_of(["audit", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "2000, of which 40 disagree" in shown and "alarm at 100" in shown and "With 95% confidence" in shown
    put(tmp_path, replace(STATE, device="c", audited=500, disagreeing=400.0))
    assert exit_code_of(["audit", str(tmp_path), "--json"]) == 3
    captured = capsys.readouterr()
    check_documents(["audit"], captured.out)
    (found,) = json.loads(captured.out)
    assert found["alarms"] == ["disagreement"] and found["devices"] == 3
    assert "Alarm of disagreement" in captured.err
    assert exit_code_of(["audit", str(tmp_path / "none")]) == 2


def test_a_state_that_was_copied_to_another_device_is_refused(tmp_path):
    one = put(tmp_path / "one", replace(STATE, sequence=2, audited=1300, disagreeing=20.0, exits=(700, 600)))
    two = put(tmp_path / "two", replace(STATE, sequence=3, audited=1200, disagreeing=60.0, exits=(800, 400)))
    with pytest.raises(UsageError, match="are of one device and have counted apart"):
        read_audits([one, two])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"audited": 5000}, "more were audited than picked"),
        ({"disagreeing": -1}, ">= 0"),
        ({"schema": 2}, "<= 1"),
        ({"device": ""}, "length >= 1"),
        ({"exits": [1] * (MOST_BINS + 1)}, "length"),
        ({"more": 1}, "unknown field"),
        ({"point": "p" * 2000}, "more than 1024 bytes"),
    ],
)
def test_a_damaged_or_foreign_state_is_refused(tmp_path, change, words):
    place = put(tmp_path, STATE)
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(BundleError, match=words):
        read_audits(tmp_path)


def test_a_path_without_states_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no audit.json is in it"):
        read_audits(tmp_path)
    with pytest.raises(UsageError, match="There is no file or folder"):
        read_audits(tmp_path / "none")
    with pytest.raises(UsageError, match="confidence is a number"):
        read_audits([], confidence=1.0)


@pytest.mark.parametrize("inside", ["", "device"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path, inside, monkeypatch):
    (tmp_path / "device").mkdir()
    scan = os.scandir

    def refuse(path):
        if Path(path) == tmp_path / inside:
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(MissingError, match="Permission denied") as caught:
        read_audits(tmp_path)
    assert caught.value.path == tmp_path / inside


def test_the_largest_state_has_at_most_a_kilobyte(tmp_path):
    most = 10**12
    state = replace(
        STATE,
        device="f" * 32,
        variant="f" * 16,
        point="p" * 100,
        sequence=most,
        calibrated=(most,) * MOST_BINS,
        exits=(most,) * MOST_BINS,
        audited=most,
        disagreeing=most / 3,
        alarms=("disagreement", "shares", "scores"),
        edges=(0.8031245470046997,) * MOST_EDGES,
        known_scores=(most,) * (MOST_EDGES + 1),
        scores=(most,) * (MOST_EDGES + 1),
    )
    assert put(tmp_path, state).stat().st_size <= 1024
