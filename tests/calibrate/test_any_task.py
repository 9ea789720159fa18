"""Networks that do not classify, calibrated by losses: figures, promises, and what is refused."""

import json
import re

import numpy as np
import pytest
import torch
from msgspec.structs import replace

from offramp.bundle import Target, write_calibration
from offramp.calibrate import Ragged, bench, calibrate, comparison, dataset_metric, load_samples, report
from offramp.calibrate.measure import answers
from offramp.calibrate.measure.latency import measure, run_alone
from offramp.calibrate.truth import check_truth
from offramp.errors import DataError, UncalibratedWarning, UsageError
from offramp.export import export
from offramp.progress import no_progress
from offramp.runtime import load, load_uncalibrated
from offramp.runtime.chain.samples import convert_samples
from offramp.tests.helpers.command import offramp
from offramp.tests.helpers.report_pages import pictures_of, text_of
from offramp.tests.zoo.answers import ANSWERS, parts_of

SAMPLES = 900


@pytest.fixture(scope="module")
def regressor(tmp_path_factory):
    """Return the bundle of a regressor, samples, and noisy angles, with exits that get better."""
    entry = ANSWERS["regressor"]
    net, x = entry.build(), entry.draw(SAMPLES, 7)
    path = tmp_path_factory.mktemp("regressor") / "angle.offramp"
    bundle = export(net, x[:4], path, **entry.options)
    with torch.no_grad():
        exits = [part["angle"] for part in parts_of(net(torch.from_numpy(x)), ["angle"])]
    return bundle, x, exits[-1] + np.random.default_rng(1).normal(0, 5, SAMPLES).astype(np.float32), exits


def run(bundle, data, target, tmp_path, **options):
    return calibrate(bundle, data, target, output=tmp_path / "c.json", measure_s=0.05, **options)


def calibrate_to_leave_everywhere(bundle, x, y, tmp_path, target, **options):
    """Calibrate, and store a single point at which a third of the samples leave at each exit, whatever is fastest here."""
    found = run(bundle, (x, y), target, tmp_path, **options)
    point = next(point for point in found.points.values() if point.exits_early)
    with load_uncalibrated(bundle) as net:
        score = net.every_exit(x).score
    first = np.quantile(score[:, 0], 2 / 3)
    thresholds = float(first), float(np.median(score[score[:, 0] < first, 1]))
    point = replace(point, thresholds=tuple(float(np.float32(each)) for each in thresholds))
    write_calibration(tmp_path / "c.json", replace(found, points={"default": point}))
    return point


def test_figures_are_means_of_losses_and_thresholds_meet_the_limit(regressor, tmp_path):
    bundle, x, y, exits = regressor
    found = run(bundle, (x, y), Target(max_drop=0.05), tmp_path, loss="absolute:90", disagreement="absolute:90")
    point = found.points.get("default-early", found.point)
    losses = np.stack([np.minimum(np.abs(part - y) / 90, 1) for part in exits], 1)
    assert abs(point.full_accuracy - (1 - losses[:, -1].mean())) < 0.01  # of the reporting samples
    assert point.drop <= 0.05 and abs(1 - point.accuracy - (1 - point.full_accuracy) - point.drop) < 1e-9
    assert point.drop_interval[0] <= point.drop <= point.drop_interval[1]
    assert "the mean loss added on inputs like these is at most 5.00%" in point.promise
    assert str(point.target).endswith("a mean loss of at most 5.00% more than the whole network's")
    with load_uncalibrated(bundle) as net:
        net.thresholds = point.thresholds
        taken = net.batch(x).exit
    assert abs((losses[np.arange(SAMPLES), taken] - losses[:, -1]).mean() - point.drop) < 0.03
    static = next(each for each in found.statics if each.exit == 0)
    assert abs(static.disagreement - np.minimum(np.abs(exits[0] - exits[-1]) / 90, 1).mean()) < 0.01


def test_the_loss_itself_and_disagreement_without_targets_can_be_limited(regressor, tmp_path):
    bundle, x, y, exits = regressor
    limit = float(np.abs(exits[-1] - y).mean() / 90) + 0.05
    found = run(bundle, (x, y), Target(max_loss=limit), tmp_path, loss="absolute:90")
    assert 1 - found.point.accuracy <= limit and found.point.met
    found = run(bundle, (x, None), Target(max_disagreement=0.05), tmp_path, disagreement="absolute:90", replace=True)
    assert found.point.accuracy is None and found.point.disagreement <= 0.05
    early = found.points.get("default-early", found.point)
    assert "the mean disagreement with the whole network on inputs like these is at most 5.00%" in early.promise


def test_zero_one_losses_of_answers_choose_as_labels_do(dense, tmp_path, dense_onnx):
    x = np.random.default_rng(0).standard_normal((600, 16)).astype(np.float32)
    with load_uncalibrated(dense) as net:
        y = net.every_exit(x).label[:, -1]
    other = export(
        dense_onnx, x[:4], tmp_path / "other.offramp", answer=["scores"], rule="mean_softmax", exits=["z0", "z1", "z2"]
    )
    ours = run(other, (x, y), Target(max_drop=0.1), tmp_path, loss="zero_one")
    theirs = run(dense, (x, y), Target(max_drop=0.1), tmp_path, replace=True)
    assert [each.accuracy for each in ours.statics] == [each.accuracy for each in theirs.statics]
    assert [each.drop for each in ours.statics] == [each.drop for each in theirs.statics]


def test_targets_may_be_several_and_of_different_lengths_in_a_file(tmp_path):
    entry = ANSWERS["detector"]
    net, x = entry.build(), entry.draw(60, 1)
    bundle = export(net, x[:4], tmp_path / "boxes.offramp", **entry.options)
    offset = np.cumsum([0, *np.random.default_rng(0).integers(0, 4, 60)])
    arrays = {"x": x, "y.boxes": np.zeros((offset[-1], 5)), "y.boxes.offset": offset, "y.any": np.ones(60)}
    np.savez(tmp_path / "data.npz", **arrays)
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def loss(answer, target):\n"
        "    assert isinstance(target['boxes'], list) and len(target['boxes']) == len(target['any'])\n"
        "    wrong = answer['boxes'].shape[1] / 10 - 0.4 + np.abs(answer['boxes']).mean((1, 2)) / 1e3\n"
        "    return wrong + [len(boxes) / 100 for boxes in target['boxes']]\n"
    )
    done = offramp(
        *("calibrate", bundle.path, tmp_path / "data.npz", "--loss", f"{tmp_path}/mine.py:loss", "--max-drop", "10%"),
        *("--measure-s", "0.05", "--json"),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    point = found["points"]["default"]
    assert not any(
        "gives every input the score" in note for note in found["notes"]
    )  # as agreement does at the first exit
    assert 0.8 < point["full_accuracy"] < 0.9
    done = offramp(
        "quantize", bundle.path, "--data", tmp_path / "data.npz", "--json"
    )  # of the same file, truth and all
    assert done.returncode == 0, done.stderr
    assert [shift["accuracy"] for shift in json.loads(done.stdout)["shifts"]] == [None] * 3
    with load(bundle) as loaded:
        assert set(loaded(x[0]).answer) == {"boxes", "classes"}


def test_run_prints_the_answers_as_text_and_as_json(regressor, tmp_path):
    bundle, x, _, exits = regressor
    np.savez(tmp_path / "x.npz", x=x[:2])
    done = offramp("run", bundle.path, tmp_path / "x.npz")
    assert done.returncode == 0 and "angle" in done.stdout, done.stderr
    done = offramp("run", bundle.path, tmp_path / "x.npz", "--json")
    assert [row["answer"]["angle"] for row in json.loads(done.stdout)] == pytest.approx(
        exits[-1][:2].tolist(), rel=1e-4
    )


def test_targets_of_a_program_may_be_several_and_of_different_lengths(tmp_path):
    entry = ANSWERS["detector"]
    net, x = entry.build(), entry.draw(30, 1)
    manifest = export(net, x[:4], tmp_path / "boxes.offramp", **entry.options).manifest
    boxes = Ragged(np.zeros((60, 5)), np.arange(0, 61, 2))
    for y in (boxes, {"boxes": boxes, "any": np.ones(30)}, torch.ones(30, 2)):
        samples, given = load_samples((x, y), manifest)
        assert len(samples) == 30 and len(check_truth(given, 30)) == 30
    assert list(load_samples((x, {"boxes": boxes, "any": np.ones(30)}), manifest)[1]) == ["boxes", "any"]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"loss": None}, UsageError, "say how wrong an answer is"),
        ({"y": None, "loss": "absolute:90"}, UsageError, "limit max_disagreement"),
        ({"loss": "absolute"}, UsageError, "a number above 0"),
        ({"y": np.zeros(7)}, DataError, "of 7 samples, but there are 900"),
        ({"y": Ragged(np.zeros((3, 2)), np.array([0, 1, 3]))}, DataError, "of 2 samples"),
        ({"loss": lambda answer, target: np.full(len(target), np.nan)}, DataError, "loss of sample 0 is nan"),
        ({"loss": lambda answer, target: np.full(len(target), 1.5)}, DataError, "loss of sample 0 is 1.5"),
        ({"loss": lambda answer, target: 0.5}, DataError, "it gives one number per sample"),
        ({"loss": lambda answer, target: answer["boxes"]}, DataError, "cannot be computed: KeyError: 'boxes'"),
    ],
)
def test_what_cannot_be_judged_is_refused_and_nothing_is_stored(regressor, tmp_path, change, error, words):
    bundle, x, y, _ = regressor
    given = {"y": y, "loss": "absolute:90"} | change
    with pytest.raises(error, match=words):
        run(bundle, (x, given["y"]), Target(max_drop=0.05), tmp_path, loss=given["loss"])
    assert not (tmp_path / "c.json").exists()


def test_to_limit_disagreement_takes_a_measure_of_it(regressor, tmp_path):
    bundle, x, y, _ = regressor
    with pytest.raises(UsageError, match="say how far apart they are"):
        run(bundle, (x, y), Target(max_disagreement=0.05), tmp_path, loss="absolute:90")


def test_a_network_that_classifies_takes_no_loss(dense, tmp_path):
    x = np.random.default_rng(0).standard_normal((30, 16)).astype(np.float32)
    with pytest.raises(UsageError, match="leave loss and disagreement out"):
        calibrate(dense, (x, np.zeros(30, int)), loss="zero_one", output=tmp_path / "c.json")


def test_early_exit_is_compared_by_losses(regressor, tmp_path):
    bundle, x, y, exits = regressor
    limit = Target(max_drop=0.2, max_loss=0.4)
    judged = {"loss": "absolute:90", "disagreement": "absolute:90"}
    point = calibrate_to_leave_everywhere(bundle, x, y, tmp_path, limit, **judged)
    seen = []

    def worst(answers, truth):
        seen.append(answers["angle"].copy())
        truth[:] = 0 * (far := np.abs(answers["angle"] - truth).max())  # the next network gets its own
        return far

    options = {"calibration": tmp_path / "c.json", "loss": "absolute:90"}
    result = bench(bundle, (x, y), **options, metric=worst)
    losses = np.stack([np.minimum(np.abs(part - y) / 90, 1) for part in exits], 1)
    with load_uncalibrated(bundle) as net:
        net.thresholds = point.thresholds
        taken = net.batch(x).exit
    ours = losses[np.arange(SAMPLES), taken]
    assert set(taken.tolist()) == {0, 1, 2}
    angles = np.stack(exits, 1)[np.arange(SAMPLES), taken], exits[-1]
    for row, kept, angle in zip((result.early, result.whole), seen, angles, strict=False):
        assert kept == pytest.approx(angle, rel=1e-4, abs=1e-3)
        assert row.metric == pytest.approx(np.abs(angle - y).max(), rel=1e-4)
    head, early, *_ = str(result).splitlines()
    assert head.split() == ["loss", "worst", "mean", "p50", "p90", "p99", "us"]
    assert early.split()[3] == f"{result.early.metric:.4g}" and result.metric == "worst"
    assert result.early.accuracy == pytest.approx(1 - ours.mean(), abs=1e-5)
    assert result.whole.accuracy == pytest.approx(1 - losses[:, -1].mean(), abs=1e-5)
    assert result.drop == pytest.approx((ours - losses[:, -1]).mean(), abs=1e-5)
    assert "loss added" in str(result) and "accuracy" not in str(result)


def test_a_metric_of_too_many_answers_is_refused_before_anything_is_measured(regressor, monkeypatch):
    bundle, x, y, _ = regressor
    monkeypatch.setattr(dataset_metric, "MOST_ANSWER_BYTES", 4 * SAMPLES - 1)
    monkeypatch.setattr(comparison, "measure", lambda *_, **__: pytest.fail("it was measured"))
    words = f"those to {SAMPLES} samples need more than 0 MB"
    with pytest.warns(UncalibratedWarning), pytest.raises(DataError, match=words):
        bench(bundle, (x, y), loss="absolute:90", metric=len)


def test_no_answers_are_kept_while_latencies_are_measured(regressor):
    bundle, x, _, _ = regressor
    with load_uncalibrated(bundle) as net:
        samples = convert_samples(x[:64], bundle.manifest.inputs)
        results = measure({0: run_alone(net)}, samples, rng=np.random.default_rng(0), progress=no_progress)[0][0]
        assert net(x[0]).answer is not None
    assert len(results) == 64 and all(result.answer is None for result in results)


def test_the_report_shows_losses_and_the_answers_of_easy_and_hard_samples(regressor, tmp_path):
    bundle, x, y, exits = regressor
    point = calibrate_to_leave_everywhere(bundle, x, y, tmp_path, Target(max_drop=0.2), loss="absolute:90")
    options = {"calibration": tmp_path / "c.json", "loss": "absolute:90"}
    made = report(
        bundle, (x, y), output=tmp_path / "r.html", **options, metric=lambda answers, truth: np.ptp(answers["angle"])
    )
    page = (tmp_path / "r.html").read_text()
    seen = text_of(page)
    losses = np.stack([np.minimum(np.abs(part - y) / 90, 1) for part in exits], 1)
    for k, exit_ in enumerate(made.measured.losses):
        assert exit_.mean == pytest.approx(losses[:, k].mean(), abs=1e-5) and f"{exit_.mean:.2%}" in seen
        assert exit_.percentiles[50] == pytest.approx(np.median(losses[:, k]), abs=1e-5)
    assert sum(exit_.taken for exit_ in made.measured.losses) == SAMPLES and "absolute:90" in seen
    assert f"{1 - point.accuracy:.2%}" in seen and "loss added" in seen
    assert not {"accuracy", "label", "class "} & set(re.findall(r"accuracy|label|class ", seen))
    assert "disagreement" not in seen  # nothing says how far answers are apart
    early = made.measured.benchmark.early
    assert f"early exit {early.metric:.4g}" in seen and "of which nothing is promised" in seen
    easy, hard, apart = made.measured.answers.groups
    assert {one.exit for one in hard.shown} == {2} and {one.exit for one in easy.shown} == {0}
    assert [one.differs for one in apart.shown] == sorted((one.differs for one in apart.shown), reverse=True)
    for one in (*easy.shown, *hard.shown, *apart.shown):
        assert one.loss == pytest.approx(losses[one.sample, one.exit], abs=1e-5)
        (line,) = one.views[1].lines
        assert float(line.removeprefix("angle ")) == pytest.approx(exits[one.exit][one.sample], rel=1e-3)
        assert one.views[-1].lines == (f"{y[one.sample]:.4g}",) and f"{y[one.sample]:.4g}" in seen
    assert len(pictures_of(page)) == sum(len(group.shown) for group in made.measured.answers.groups)


def test_what_is_for_labels_alone_says_so(regressor):
    bundle, x, y, _ = regressor
    with pytest.raises(UsageError, match="are of samples: give data too"):
        report(bundle, output="report.html", loss="absolute:90")
    with pytest.raises(UsageError, match="say how wrong an answer is"):
        report(bundle, data=(x, y), output="report.html")
    with pytest.raises(UsageError, match="without the truth"):
        bench(bundle, (x, None), loss="absolute:90")


def test_few_samples_with_large_answers_are_recorded_at_once(regressor, monkeypatch):
    bundle, x, _, _ = regressor
    samples = convert_samples(x[:10], bundle.manifest.inputs)
    with load_uncalibrated(bundle) as net:
        assert answers._samples_at_once(net, samples) == answers.SAMPLES_AT_ONCE
        monkeypatch.setattr(answers, "MOST_ANSWER_BYTES", 3 * answers.MOST_COPIES * 3 * 4)  # three exits, a float each
        assert answers._samples_at_once(net, samples) == 3
        monkeypatch.setattr(answers, "MOST_ANSWER_BYTES", 0)
        assert answers._samples_at_once(net, samples) == 1
