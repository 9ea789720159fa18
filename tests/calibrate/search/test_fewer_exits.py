"""Fewer exits are proposed where they are predicted to cost less, and made and measured where that can be done."""

import importlib
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Target, open_bundle
from offramp.calibrate.advice import advise
from offramp.calibrate.measure.tables import Costs
from offramp.calibrate.search import fewer_exits
from offramp.calibrate.search.choice import choose
from offramp.calibrate.search.fewer_exits import Proposal, propose_fewer_exits, with_exits
from offramp.calibrate.search.picks import make_picks
from offramp.errors import MeasurementError, UsageError
from offramp.export import keep
from offramp.tests.calibrate.search.test_gains import contend, make_table
from offramp.tests.helpers.briefly import calibrate
from offramp.tests.helpers.command import offramp

TARGET = Target(max_drop=0.05)


def make_contenders(*, passing_us, statics_us, costs_us=(100, 200, 400)):
    """A chain whose middle exit is always wrong, and its static networks."""
    table = make_table(costs_us)
    table.right[:, 1], table.label[:, 1], table.differs[:, 1] = False, 2, 1
    chain = contend(table)
    costs = [Costs((np.array([us, us]) * 1e-6,)) for us in statics_us]
    measured = replace(chain.configuration, chain=table.costs, statics=tuple(costs))
    assert measured.passing_s == pytest.approx(np.array(passing_us) * 1e-6, abs=1e-6)
    chain = replace(chain, configuration=measured)
    ends = [
        replace(
            chain,
            static=k,
            selecting=chain.selecting.columns([k], costs[k]),
            reporting=chain.reporting.columns([k], costs[k]),
        )
        for k in range(3)
    ]
    ends[2] = replace(ends[2], selecting=replace(ends[2].selecting, is_reference=True))
    return [chain, *ends]


def propose(contenders, *, least_gain=0.05):
    pick = make_picks(contenders, {"default": TARGET}, least_gain=least_gain)["default"]
    return propose_fewer_exits(pick, TARGET, contenders)


def test_an_exit_that_costs_much_and_serves_nobody_is_left_out():
    contenders = make_contenders(passing_us=(10, 90), statics_us=(100, 190, 300))
    found = propose(contenders)
    assert (found.parent, found.exits, found.device) == ("fp32", (0, 2), "cpu") and 0.15 < found.saving < 0.25
    assert found.command == "offramp keep BUNDLE --exits 0,2 --variant fp32"
    assert propose(contenders, least_gain=0.3) is None


@pytest.mark.parametrize("rule", ["ensemble", "patience", "agreement:angle=60"])
def test_exits_that_cannot_be_dropped_are_not_advised_to_be(rule):
    contenders = make_contenders(passing_us=(10, 90), statics_us=(100, 190, 300))
    for each in contenders:
        each.configuration.variant.rule = rule
    assert propose(contenders) is None
    picks = make_picks(contenders, {"default": TARGET}, least_gain=0.05)
    point: Any = SimpleNamespace(exits_early=True, exit_shares=(0.5, 0.0, 0.5))
    said = advise(picks, {"default": point}, SimpleNamespace(throttled=()))
    assert not [note for note in said if "offramp keep" in note]


def test_nothing_is_proposed_that_no_static_network_could_reach_or_that_one_beats():
    contenders = make_contenders(passing_us=(10, 90), statics_us=(100, 190, 300))
    shorter = with_exits(contenders[0], (0, 2), (1e-5, 9e-4), (1e-4, 1.9e-4, 3e-4))
    assert shorter.selecting.costs.latency_s[1] == pytest.approx(
        3e-4, rel=0.01
    )  # no less than the static network takes
    assert propose(make_contenders(passing_us=(10, 285), statics_us=(100, 190, 105))) is None


def test_thresholds_are_searched_only_for_exits_whose_passing_takes_long_enough(monkeypatch):
    search = fewer_exits.best_thresholds
    searched: list[int] = []

    def note(contenders, target):
        searched.extend(contender.selecting.exits for contender in contenders)
        return search(contenders, target)

    monkeypatch.setattr(fewer_exits, "best_thresholds", note)
    contenders = make_contenders(passing_us=(10, 90), statics_us=(100, 190, 300))
    assert propose(contenders).exits == (0, 2) and searched == [2]  # passing exit 0 takes too little to be looked at
    assert propose(contenders, least_gain=0.5) is None and searched == [2]


@pytest.fixture
def proposing(monkeypatch):
    """Propose to keep exits 1 and 2, whatever the machine measures."""
    proposal = Proposal("fp32", (1, 2), "cpu", 0.2)
    monkeypatch.setattr(fewer_exits, "propose_fewer_exits", lambda *_: proposal)


def test_the_variant_stays_if_it_is_the_best_chain_and_is_removed_if_not(proposing, dense, labelled):
    files = {path for path in dense.path.rglob("*") if "calibrations" not in path.parts}
    found = calibrate(dense, labelled, TARGET, keep=keep)
    names = [variant.name for variant in open_bundle(dense.path).manifest.variants]
    (note,) = [note for note in found.notes if "With exits 1, 2 of fp32 alone" in note]
    if "fp32-exits1-2" in names:
        assert "it is the best chain" in note and found.early.variant == "fp32-exits1-2"
    else:
        assert "was removed again" in note and found.early.variant == "fp32"
        assert {path for path in dense.path.rglob("*") if "calibrations" not in path.parts} == files


def test_without_what_makes_variants_or_with_named_ones_it_is_only_proposed(proposing, dense, labelled):
    for how in ({}, {"keep": keep, "variant": "fp32"}):
        found = calibrate(dense, labelled, TARGET, **how)
        assert len(open_bundle(dense.path).manifest.variants) == 1
        assert any(
            "Try: offramp keep BUNDLE --exits 1,2 --variant fp32, then calibrate" in note for note in found.notes
        )


def test_the_command_makes_it_too(proposing, dense, labelled, tmp_path, monkeypatch):
    command = importlib.import_module("offramp.cli.commands.calibrate")
    monkeypatch.setattr(command, "_find_keep", lambda: keep)
    np.savez(tmp_path / "samples.npz", x=labelled[0], y=labelled[1])
    done = offramp("calibrate", dense.path, tmp_path / "samples.npz", "--max-drop", "0.05", "--measure-s", "0.2")
    assert done.returncode in (0, 3) and re.search("was (made and measured: it is the best|removed again)", done.stdout)


def test_a_variant_that_cannot_be_made_is_noted_and_the_calibration_goes_on(proposing, dense, labelled):
    def refuse(*_, **__):
        raise UsageError("The disk is read-only.")

    found = calibrate(dense, labelled, TARGET, keep=refuse)
    assert any(note.endswith("could not be made and measured: The disk is read-only.") for note in found.notes)


@pytest.mark.parametrize("error", [MeasurementError("The meter is gone."), KeyboardInterrupt()])
def test_a_variant_whose_measuring_ends_early_does_not_stay(proposing, dense, labelled, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(fewer_exits, "measure_configuration", fail)
    if isinstance(error, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            calibrate(dense, labelled, TARGET, keep=keep)
    else:
        notes = calibrate(dense, labelled, TARGET, keep=keep).notes
        assert any(note.endswith("could not be made and measured: The meter is gone.") for note in notes)
    assert [variant.name for variant in open_bundle(dense.path).manifest.variants] == ["fp32"]


def test_the_same_command_is_the_same_question_after_a_variant_was_made(monkeypatch, dense, labelled):
    def propose(pick, target, contenders):
        return Proposal("fp32", (1, 2), "cpu", 0.2) if len(chains(contenders)) == 1 else None

    def choose_last(contenders, measured, request):
        choice = choose(contenders, measured, request)
        picks = {name: replace(pick, chain=chains(choice.contenders)[-1]) for name, pick in choice.picks.items()}
        return replace(choice, picks={name: replace(pick, thresholds=(0.9,)) for name, pick in picks.items()})

    def chains(contenders):
        return [contender for contender in contenders if contender.static is None]

    monkeypatch.setattr(fewer_exits, "propose_fewer_exits", propose)
    monkeypatch.setattr(fewer_exits, "choose", choose_last)
    target = Target(max_disagreement=0.99)  # anything can be promised
    found = [calibrate(dense.path, labelled, target, keep=keep) for _ in range(2)]
    assert all(set(each.variants) == {"fp32", "fp32-exits1-2"} for each in found)
    assert [each.early.certificate.question for each in found] == [1, 1]
