"""Rules for answers given again: what is promised of them is tested on clips, and stored with the operating point."""

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import read_calibration, write_calibration
from offramp.calibrate import calibrate_reuse
from offramp.calibrate.reuse_rules import DIFFERENCES, Recorded, certify_rule
from offramp.cli.app import exit_code_of
from offramp.errors import DataError, TargetError, UsageError
from offramp.runtime import Stream, load
from offramp.tests.helpers.documents import check_documents

CLIPS, FRAMES = 40, 8


@pytest.fixture
def never(calibrated):
    """A calibrated bundle whose point runs every sample to the last exit."""
    path = calibrated.calibrations()[0]
    found = read_calibration(path)
    write_calibration(path, replace(found, points={"default": replace(found.point, thresholds=(2.0, 2.0))}))
    return calibrated


def film(noise=0.01, clips=CLIPS, seed=0):
    """Return clips with one cut each in their middle, and the clip of each frame."""
    rng = np.random.default_rng(seed)
    scenes = np.repeat(rng.standard_normal((clips, 2, 16)), FRAMES // 2, axis=1)
    x = scenes + noise * rng.standard_normal(scenes.shape)
    return x.reshape(-1, 16).astype(np.float32), np.repeat(np.arange(clips), FRAMES)


def test_still_clips_get_a_rule_that_is_stored_and_does_what_it_said(never):
    x, clips = film()
    made = calibrate_reuse(never, (x, None), clips, max_disagreement=0.1, most_in_row=20)
    rule = made.point.reuse
    assert read_calibration(never.calibrations()[0]) == made
    assert (rule.limit, rule.most, rule.clips, rule.samples) == ("max_disagreement", 0.1, CLIPS, CLIPS * FRAMES)
    assert rule.share > 0.7 and rule.loss < 0.05 and "With 90% confidence" in rule.promise
    reused = []
    for clip in x.reshape(CLIPS, FRAMES, 16):
        with load(never) as net, Stream(net, iter(clip), when_full="block", reuse=True) as stream:
            reused += [reply.result.reused for reply in stream]
    assert np.mean(reused) == pytest.approx(rule.share, abs=1e-9)


def test_clips_whose_frames_are_mixed_count_the_same(never):
    x, clips = film()
    order = np.argsort(np.tile(np.arange(FRAMES), CLIPS), kind="stable")
    rules = [
        calibrate_reuse(never, (a, None), b, max_disagreement=0.1).point.reuse
        for a, b in ((x, clips), (x[order], clips[order]))
    ]
    assert rules[0].share == rules[1].share and rules[0].loss == rules[1].loss


def test_labels_tell_what_an_old_answer_costs(never):
    x, clips = film()
    with load(never) as net:
        y = net.batch(x).label.copy()
    y[::FRAMES] = (y[::FRAMES] + 1) % 5
    rule = calibrate_reuse(never, (x, y), clips, max_drop=0.2).point.reuse
    assert rule.limit == "max_drop" and "costs at most 20.00% of accuracy" in rule.promise
    with pytest.raises(UsageError, match="label of every sample"):
        calibrate_reuse(never, (x, None), clips, max_drop=0.2)


def test_too_few_clips_promise_nothing_and_store_nothing(never):
    x, clips = film(clips=10)
    before = never.calibrations()[0].read_bytes()
    with pytest.raises(TargetError, match=r"10 clips cannot show it at 90% confidence. About \d+ could"):
        calibrate_reuse(never, (x, None), clips, max_disagreement=0.02)
    assert never.calibrations()[0].read_bytes() == before


def test_the_candidate_that_saves_most_among_those_before_the_first_failure_is_taken():
    n, steps = 100, len(DIFFERENCES)
    losses, shares = np.zeros((n, steps)), np.tile(np.linspace(0.1, 0.9, steps), (n, 1))
    losses[:, 5] = 0.5
    assert certify_rule(Recorded(losses, shares), "max_disagreement", 0.1, delta=0.1) == 4
    shares[:, 2] = 0.95
    assert certify_rule(Recorded(losses, shares), "max_disagreement", 0.1, delta=0.1) == 2
    losses[:, 0] = 0.3
    with pytest.raises(TargetError, match="even the smallest difference loses 30.00%"):
        certify_rule(Recorded(losses, shares), "max_disagreement", 0.1, delta=0.1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Give one limit"),
        ({"max_disagreement": 0.1, "max_drop": 0.1}, "Give one limit"),
        ({"max_disagreement": 1.0}, "max_disagreement is a fraction above 0 and below 1"),
        ({"max_disagreement": 0.1, "confidence": 0.4}, "confidence is a fraction above 0.5"),
        ({"max_disagreement": 0.1, "most_in_row": 0}, "most_in_row is a whole number from 1 to 1000"),
        ({"max_disagreement": 0.1, "points": ["none"]}, "operating point"),
    ],
)
def test_what_makes_no_sense_is_refused(never, options, words):
    x, clips = film()
    with pytest.raises(UsageError, match=words):
        calibrate_reuse(never, (x, None), clips, **options)


def test_one_clip_is_no_sample_of_clips_and_a_bundle_needs_a_calibration(never, dense):
    x, clips = film()
    with pytest.raises(DataError, match="two clips at least"):
        calibrate_reuse(never, (x, None), np.zeros(len(x), int), max_disagreement=0.1)
    never.calibrations()[0].unlink()
    with pytest.raises(UsageError, match="has no calibration that fits"):
        calibrate_reuse(never, (x, None), clips, max_disagreement=0.1)


def test_the_command_stores_rules_and_shows_what_they_promise_and_save(never, tmp_path, capfd):
    x, clips = film()
    np.savez(tmp_path / "film.npz", x=x, clip=clips)
    line = [str(never.path), str(tmp_path / "film.npz"), "--groups", "clip", "--max-disagreement", "0.1"]
    assert exit_code_of(["reuse", *line]) == 0
    out = capfd.readouterr().out
    for words in ("point default: the last answer again at a difference of at most", "With 90% confidence", "pay"):
        assert words in out
    assert exit_code_of(["inspect", str(never.path)]) == 0
    assert "reuse        at a difference of at most" in capfd.readouterr().out
    assert exit_code_of(["reuse", *line, "--json"]) == 0
    check_documents(["reuse"], capfd.readouterr().out)
    assert exit_code_of(["reuse", *line[:2], *line[4:]]) == 2
    assert exit_code_of(["reuse", *line, "--max-drop", "0.1"]) == 2
