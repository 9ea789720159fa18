"""Two bundles beside each other: what is claimed of their figures, and what is not."""

import json
import math
import shutil

import numpy as np
import pytest
from msgspec.structs import replace

from offramp import pictures
from offramp.bundle import Target, open_bundle, pack, read_calibration, write_calibration
from offramp.bundle.calibration import WHOLE_NETWORK_PROMISE
from offramp.calibrate import compare_bundles
from offramp.calibrate.compared import _difference
from offramp.errors import BundleError, UsageError
from offramp.export import keep
from offramp.tests.helpers.command import clear_message, offramp


@pytest.fixture
def found(calibrated):
    """The calibration of the dense bundle, measured on a machine almost without noise."""
    return steady(read_calibration(calibrated.calibrations()[0]), 0.001)


def steady(calibration, noise):
    return replace(
        calibration,
        chains=tuple(replace(chain, noise=noise) for chain in calibration.chains),
        statics=tuple(replace(static, noise=noise) for static in calibration.statics),
    )


def with_point(calibration, **changes):
    return replace(calibration, points={"default": replace(calibration.point, **changes)})


def on_board(calibration, **fields):
    return replace(calibration, fingerprint=calibration.fingerprint | fields)


def compare_points(bundle, first, second, **options):
    return compare_bundles(bundle, calibration=(first, second), **options).compared[0]


@pytest.mark.parametrize(
    ("noise", "said"), [(0.01, "B is 1.25 times as fast as A"), (0.2, "does not tell"), (0.0, "not known")]
)
def test_a_speed_is_claimed_only_beyond_the_machines_noise(calibrated, found, noise, said):
    first = steady(found, noise)
    shown = compare_points(calibrated, first, with_point(first, latency_s=first.point.latency_s / 1.25))
    assert said in shown.verdict and shown.speedup == pytest.approx(1.25)
    if noise:
        low, high = shown.speedup_interval
        assert math.log(high / low) == pytest.approx(2 * 1.96 * math.sqrt(2) * noise, rel=0.01)
    else:
        assert shown.speedup_interval is None and "times as fast" not in shown.verdict


def test_figures_of_strangers_that_cannot_be_are_claimed_of_nothing(calibrated, found):
    wild = steady(found, 1e300)
    assert "does not tell" in compare_points(calibrated, found, with_point(wild, latency_s=1e-3)).verdict
    shown = compare_points(calibrated, found, with_point(found, latency_s=0.0))
    assert shown.speedup == math.inf and shown.speedup_interval is None and "times as" not in shown.verdict


def test_a_slower_b_takes_longer(calibrated, found):
    shown = compare_points(calibrated, found, with_point(found, latency_s=found.point.latency_s * 2))
    assert "B takes 2 times as long as A" in shown.verdict and shown.speedup == 0.5


def test_what_the_machine_drifted_between_two_calibrations_is_no_difference(calibrated, found):
    slow = replace(found.conditions, reference_s=found.conditions.reference_s * 1.3)
    second = replace(with_point(found, latency_s=found.point.latency_s * 1.25), conditions=slow)
    shown = compare_bundles(calibrated, calibration=(found, second))
    assert shown.drift == pytest.approx(math.log(1.3)) and "does not tell" in shown.compared[0].verdict
    assert any("took 1.30 times as long" in note for note in shown.notes)


@pytest.mark.parametrize(("samples", "said"), [(10_000, "at 2.00 points less accuracy"), (200, "do not tell")])
def test_an_accuracy_is_claimed_only_beyond_the_samples_noise(calibrated, found, samples, said):
    first = replace(with_point(found, accuracy=0.9, drop_interval=None, certificate=None), report_samples=samples)
    assert said in compare_points(calibrated, first, with_point(first, accuracy=0.88)).verdict


def test_no_difference_is_claimed_of_equal_networks_more_often_than_one_in_twenty():
    rng = np.random.default_rng(0)
    for accuracy in (0.7, 0.97):
        pairs = rng.binomial(400, accuracy, (2000, 2)) / 400
        ends = [_difference(first, second, 400, 400) for first, second in pairs.tolist()]
        assert sum(low > 0 or high < 0 for low, high in ends) / len(ends) <= 0.06


def test_drops_against_one_reference_tell_more_than_accuracies(calibrated, found):
    drops = {"accuracy": 0.90, "drop": 0.0, "drop_interval": (-0.002, 0.002)}
    worse = {"accuracy": 0.89, "drop": 0.01, "drop_interval": (0.007, 0.013)}
    first = replace(with_point(found, **drops), report_samples=1000)
    shown = compare_points(calibrated, first, replace(with_point(first, **worse)))
    assert shown.gain_interval == pytest.approx((-0.015, -0.005)) and "1.00 points less accuracy" in shown.verdict


def test_a_gain_lies_in_its_interval_where_one_side_had_harder_samples(calibrated, found):
    first = with_point(found, accuracy=0.90, drop=0.01, drop_interval=(0.008, 0.012))
    harder = with_point(found, accuracy=0.85, drop=0.01, drop_interval=(0.007, 0.013))
    shown = compare_points(calibrated, first, harder)
    assert shown.gain == 0 and shown.gain_interval == pytest.approx((-0.005, 0.005))
    assert "5.00 points" not in shown.verdict


def test_other_data_makes_accuracies_incomparable(calibrated, found):
    second = replace(with_point(found, accuracy=0.1), report_samples=found.report_samples + 1)
    shown = compare_bundles(calibrated, calibration=(found, second))
    assert shown.compared[0].gain is None and "accuracies cannot be compared" in shown.compared[0].verdict
    assert any("different data" in note for note in shown.notes)


def test_samples_that_no_bundle_remembers_are_not_taken_for_the_same(calibrated, found, tmp_path):
    inside = calibrated.path / "calibrations/slow.json"
    write_calibration(inside, with_point(found, latency_s=1e-3))
    shown = compare_bundles(calibrated, calibration=("default", "slow"))
    assert not shown.notes  # the bundle was asked about one data set only
    shutil.copy(inside, tmp_path / "slow.json")
    shown = compare_bundles(calibrated, calibration=("default", tmp_path / "slow.json"))
    assert ["Nothing shows whether" in note for note in shown.notes] == [True]


def test_other_boards_paces_meters_and_targets_are_named(calibrated, found):
    second = replace(
        on_board(found, soc="another SoC"),
        every_s=0.1,
        meter="another meter",
        conditions=replace(found.conditions, throttled=("heat",)),
    )
    second = with_point(second, energy_j=0.001, target=Target(max_drop=0.07))
    first = with_point(replace(found, meter="a meter"), energy_j=0.002)
    shown = compare_bundles(calibrated, calibration=(first, second))
    assert shown.board["soc"] == (found.fingerprint["soc"], "another SoC")
    for words in ("devices that differ (soc)", "different paces", "different meters", "heat", "different targets"):
        assert any(words in note for note in shown.notes), words
    verdict = shown.compared[0].verdict
    assert verdict.count("cannot be compared") == 2 and "times as" not in verdict


def test_two_boards_are_compared_as_such(calibrated, found):
    second = with_point(on_board(found, soc="another SoC"), latency_s=found.point.latency_s * 3)
    shown = compare_points(calibrated, found, second)
    assert "B on its device takes 3 times as long as A on its device" in shown.verdict


def test_what_only_one_side_promises_is_said(calibrated, found):
    second = with_point(found, certificate=None, promise="Nothing is promised: too few samples.")
    shown = compare_points(calibrated, with_point(found, promise=WHOLE_NETWORK_PROMISE), second)
    assert "only A is promised to keep its target" in shown.verdict
    assert shown.certificates[1] is None and shown.promises[1].startswith("Nothing")


def test_losses_and_missing_labels_are_compared_too(calibrated, found):
    counted = replace(found.point.target, counts="losses")
    first = replace(with_point(found, target=counted, accuracy=0.9, drop_interval=None), report_samples=5000)
    assert "at 5.00 points more loss" in compare_points(calibrated, first, with_point(first, accuracy=0.85)).verdict
    first = replace(with_point(found, accuracy=None, drop=None, disagreement=0.1), report_samples=5000)
    shown = compare_points(calibrated, first, with_point(first, disagreement=0.02))
    unlabelled = with_point(found, accuracy=None, drop=0.0, drop_interval=(0.0, 0.0))
    worse = with_point(found, accuracy=None, drop=0.01, drop_interval=(0.008, 0.012))
    assert "at 1.00 points more drop" in compare_points(calibrated, unlabelled, worse).verdict
    assert shown.measure == "disagreement" and "at 8.00 points less disagreement" in shown.verdict


def test_bundles_of_other_tasks_are_not_compared_by_accuracy(calibrated, shared_dense, found):
    shown = compare_bundles(calibrated, shared_dense)
    assert shown.compared == () and shown.verdict == "There are no figures to compare."
    assert any("B has no calibration" in note for note in shown.notes)
    renamed = replace(
        calibrated,
        manifest=replace(calibrated.manifest, class_names=tuple("abcdefghij"[: calibrated.manifest.classes])),
    )
    shown = compare_bundles(calibrated, renamed, calibration=(found, with_point(found, accuracy=0.2)))
    assert any("different questions, classes of other names" in note for note in shown.notes)
    assert shown.compared[0].gain is None


def test_sides_are_folders_packed_files_and_calibrations_by_name_or_file(calibrated, found, tmp_path):
    write_calibration(calibrated.path / "calibrations/slow.json", found)
    outside = tmp_path / "board.json"
    write_calibration(outside, on_board(found, soc="another SoC"))
    packed = pack(calibrated.path, tmp_path / "dense.packed")
    shown = compare_bundles(calibrated.path, tmp_path / "dense.packed", calibration=("slow", outside))
    assert packed and (shown.first.calibration, shown.second.calibration) == ("slow", str(outside))
    assert list(shown.first.calibrations) == ["default", "slow"] == list(shown.second.calibrations)
    assert shown.first.bytes == shown.second.bytes > 0 and set(shown.board) == {"soc"}
    with pytest.raises(UsageError, match="several calibrations: default, slow"):
        compare_bundles(calibrated.path, calibrated.path)
    with pytest.raises(UsageError, match="Did you mean 'slow'"):
        compare_bundles(calibrated.path, calibration=("default", "slwo"))
    with pytest.raises(UsageError, match="no calibration at"):
        compare_bundles(calibrated.path, calibration=("default", "none.json"))


def test_a_variant_that_was_not_measured_is_named(calibrated):
    keep(calibrated, [0, 2], name="two")
    shown = compare_bundles(calibrated.path, variant=("fp32", "two"))
    assert shown.compared == () and "B: the calibration default measured nothing of variant two" in shown.notes[0]


def test_nonsense_is_refused(calibrated, found):
    for options, said in (
        ({}, "A and B are the same"),
        ({"variant": "fp32"}, "A and B are the same"),
        ({"point": ("default", "eco")}, "Unknown operating point 'eco'"),
        ({"variant": ("fp32", "int8")}, "int8"),
        ({"point": ("a", "b", "c")}, "two sides"),
    ):
        with pytest.raises(UsageError, match=said):
            compare_bundles(calibrated, **options)
    other = replace(found, variants=dict.fromkeys(found.variants, "0" * 64))
    with pytest.raises(BundleError, match="another export"):
        compare_bundles(calibrated, calibration=("default", other))


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({}, "accuracy, %"),
        ({"accuracy": None, "drop": None, "full_accuracy": None}, "accuracy or agreement with the whole network, %"),
    ],
)
def test_the_picture_says_what_is_drawn(calibrated, found, tmp_path, monkeypatch, known, said):
    monkeypatch.setitem(pictures.STYLE, "svg.fonttype", "none")
    statics = tuple(
        replace(static, **{key: None for key in known if key != "full_accuracy"}) for static in found.statics
    )
    second = replace(with_point(found, **known, latency_s=1e-3), statics=statics if known else found.statics)
    compare_bundles(calibrated, calibration=(found, second), plot=tmp_path / "both.svg")
    assert f">{said}<" in (tmp_path / "both.svg").read_text()


def test_the_command_prints_draws_and_refuses(calibrated, found, tmp_path, monkeypatch):
    monkeypatch.setitem(pictures.STYLE, "svg.fonttype", "none")
    other = shutil.copytree(calibrated.path, tmp_path / "other.offramp")
    slow = on_board(with_point(found, latency_s=found.point.latency_s * 2), soc="another SoC")
    write_calibration(open_bundle(other).calibrations()[0], slow)
    picture = tmp_path / "both.svg"
    done = offramp("compare", calibrated.path, other, "--plot", picture)
    assert done.returncode == 0, done.stderr
    for words in ("another SoC", "same", "promise", "point default: ", "note: Measured on devices that differ (soc)"):
        assert words in done.stdout, words
    assert "A: frontier" in picture.read_text() and "other.offramp" in picture.read_text()
    shown = json.loads(offramp("compare", calibrated.path, other, "--json").stdout)
    assert shown["board"]["soc"][1] == "another SoC" and shown["compared"][0]["speedup"] == pytest.approx(0.5, rel=0.01)
    clear_message(offramp("compare", calibrated.path), 2, "A and B are the same")
    clear_message(offramp("compare", calibrated.path, tmp_path / "none"), 2, "There is no bundle")
    clear_message(offramp("compare", calibrated.path, other, "--plot", "both.gif"), 2, ".svg")
