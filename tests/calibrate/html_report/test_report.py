"""The report: a page that says what the calibration says, runs nothing of a stranger's, and opens in a browser without a word."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Certificate, open_bundle, read_calibration, write_calibration
from offramp.bundle.calibration import WHOLE_NETWORK_PROMISE
from offramp.calibrate import Target, report
from offramp.calibrate.html_report.columns import Column, show_joules_column, show_times_column
from offramp.calibrate.html_report.predictions import compare_exits
from offramp.calibrate.html_report.recommendations import Recommendation, recommend
from offramp.errors import DataError, MissingError, UsageError
from offramp.export import export
from offramp.runtime import load_uncalibrated
from offramp.tests.helpers.briefly import calibrate
from offramp.tests.helpers.command import offramp
from offramp.tests.helpers.points import where_static_wins
from offramp.tests.helpers.report_pages import pictures_of, text_of
from offramp.tests.zoo import networks
from offramp.units import show_thresholds

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MOST_BYTES, MOST_S = 1_000_000, 2.0


def fresh(labelled, n=400):
    """Samples that calibration never saw, near those that it saw."""
    x, y = (np.resize(part, (n, *part.shape[1:])) for part in labelled)
    return x + 0.1 * np.random.default_rng(9).standard_normal(x.shape).astype(np.float32), y


def test_without_samples_it_says_what_the_calibration_says_and_what_is_missing(calibrated, tmp_path):
    made = report(calibrated, output=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    seen, point = text_of(page), made.calibration.points[made.point]
    for figure in (f"{point.accuracy:.2%}", f"{point.drop:.2%}", f"{point.disagreement:.2%}", point.promise):
        assert figure in seen
    for one in made.calibration.statics:
        assert f"static network to exit {one.exit}" in seen and f"{one.accuracy:.2%}" in seen
    for threshold in point.thresholds:
        assert show_thresholds([threshold]) in seen
    assert made.calibration.fingerprint["engine"] in seen and all(digest in seen for digest in made.sha256.values())
    assert made.measured is None and seen.count("needs samples that calibration never saw. Run: offramp report") == 4
    assert len(page) < MOST_BYTES


def test_with_samples_it_measures_and_says_what_scores_are_worth(calibrated, labelled, tmp_path):
    x, y = fresh(labelled)
    found = read_calibration(calibrated.calibrations()[0])
    point = replace(found.points["default"], thresholds=(found.points["default"].thresholds[0], 2.0))
    write_calibration(calibrated.calibrations()[0], replace(found, points={"default": point}))
    made = report(calibrated, (x, y), output=tmp_path / "report.html")
    seen, measured = text_of((tmp_path / "report.html").read_text()), made.measured
    assert "Note: The stages beside an exit that is never taken run as one" in seen
    with load_uncalibrated(calibrated) as net:
        every = net.every_exit(x)
    for k, one in enumerate(measured.reliability):
        right = every.label[:, k] == y
        assert one.accuracy == pytest.approx(right.mean()) and one.score == pytest.approx(
            every.score[:, k].mean(), abs=1e-6
        )
        bins = np.minimum((every.score[:, k] * 15).astype(int), 14)
        parts = [(bins == b).sum() * abs(every.score[bins == b, k].mean() - right[bins == b].mean()) for b in set(bins)]
        assert one.ece == pytest.approx(sum(parts) / len(y), abs=1e-6) and f"{one.ece:.4f}" in seen
    benchmark = measured.benchmark
    assert f"{benchmark.early.accuracy:.2%}" in seen and f"{benchmark.exit_shares[0]:.2%}" in seen
    assert [one.name for one in measured.distributions][-2:] == ["early exit", "whole static network"]
    assert measured.samples == 400 and all(one.picture for group in measured.examples for one in group.shown)
    # One speed-up at first sight, of the calibration; that of the measurement stands further down, with what it is against.
    page = (tmp_path / "report.html").read_text()
    first, rest = (text_of(part) for part in page.split('<section id="frontier">'))
    assert benchmark.verdict not in first and benchmark.verdict in rest.replace("&#39;", "'")
    assert len(re.findall(r"times (?:the speed|as fast)", first)) <= 1


def test_where_early_exit_does_not_pay_it_says_so_first(dense, labelled, tmp_path):
    found = where_static_wins(calibrate(dense, labelled, Target(max_drop=0.05)))
    write_calibration(dense.calibrations()[0], found)
    report(dense, output=tmp_path / "report.html")
    headline = re.search(r'class="headline">([^<]+)<', (tmp_path / "report.html").read_text())[1]
    assert headline == "Do not use early exit here"


def test_where_nothing_exits_early_the_scores_are_shown_all_the_same(dense, labelled, tmp_path):
    found = where_static_wins(calibrate(dense, labelled, Target(max_drop=0.05)))
    write_calibration(dense.calibrations()[0], replace(found, points={"default": found.point}))
    made = report(dense, fresh(labelled), output=tmp_path / "report.html")
    assert made.measured.benchmark is None and len(made.measured.reliability) == 3
    assert "No operating point exits early" in (tmp_path / "report.html").read_text()


def card_of(page):
    """Return the classes of the first card, and its text."""
    found = re.search(r'<div class="card ([^"]*)" id="point-[^>]*>(.*?)</div>', page, re.S)
    return found[1].split(), text_of(found[2])


def test_what_is_not_promised_looks_otherwise_and_says_so(calibrated, tmp_path):
    found = read_calibration(calibrated.calibrations()[0])
    point = replace(found.point, met=True, pays=True, verdict="Use early exit: it is fast.")
    certificate = Certificate({"max_drop": 0.05}, 0.9, 1, 600, 1, 2)
    bare = replace(point, certificate=None, promise="Nothing is promised: too few samples.")
    promised = recommend(replace(point, certificate=certificate, promise="With 90% confidence."))
    assert promised == Recommendation("good", "\N{CHECK MARK}", "Use early exit", "It is fast.")
    assert recommend(replace(bare, promise=WHOLE_NETWORK_PROMISE)) == promised
    assert recommend(bare) == Recommendation("unsure", "?", "Use early exit, without a promise", "It is fast.")
    missed = recommend(replace(point, met=False, pays=False, verdict="The target is missed."))
    assert missed == Recommendation("missed", "!", "The target is missed.", "")
    write_calibration(calibrated.calibrations()[0], replace(found, points={"default": bare}))
    report(calibrated, output=tmp_path / "report.html")
    looks, text = card_of((tmp_path / "report.html").read_text())
    assert looks == ["unsure", "hedged"] and "Nothing is promised" in text and "without a promise" in text


def test_the_plot_of_the_targets_goal_stands_beside_the_recommendation(calibrated, tmp_path):
    found = read_calibration(calibrated.calibrations()[0])
    point = replace(found.point, energy_j=2e-3, target=Target(goal="energy", max_drop=0.05))
    write_calibration(calibrated.calibrations()[0], replace(found, points={"default": point}, meter="a meter"))
    report(calibrated, output=tmp_path / "report.html")
    first, rest = (tmp_path / "report.html").read_text().split('<section id="frontier">')
    assert "over mean energy" in first and "over mean latency" not in first and "over mean latency" in rest


def test_latencies_of_an_exit_that_differ_have_names(calibrated, labelled, tmp_path):
    made = report(calibrated, fresh(labelled), output=tmp_path / "report.html")
    exits, point = compare_exits(made), made.calibration.points["default"]
    assert exits.equal is not None and len(exits.equal) == len(exits.predicted) == len(exits.measured) == 3
    latencies = [*(exit_.mean_s for exit_ in made.chain.exits), *point.exit_latency_s]
    factor = {"us": 1e6, "ms": 1e3}[exits.unit]
    for text, latency_s in zip((*exits.equal, *exits.predicted), latencies, strict=True):
        assert float(text) == pytest.approx(latency_s * factor, rel=0.01)
    assert "equally often" in text_of((tmp_path / "report.html").read_text())


def test_figures_of_a_column_have_one_unit_and_equally_many_decimals():
    assert show_times_column([58.494e-6, 42.5e-6, None, 1015e-6]) == Column("us", ("58.5", "42.5", "-", "1015.0"))
    assert show_times_column([12e-6, 0.25]) == Column("ms", ("0.012", "250.000"))
    assert show_joules_column([0.0029, 0.0]) == Column("mJ", ("2.90", "0.00")) and show_times_column([None]).texts == (
        "-",
    )


def test_a_point_beside_a_static_network_is_not_called_recommended(dense, labelled, tmp_path):
    found = where_static_wins(calibrate(dense, labelled, Target(max_drop=0.05)))
    write_calibration(dense.calibrations()[0], found)
    for point, recommended in (("default", True), ("default-early", False)):
        report(dense, output=tmp_path / "report.html", point=point)
        page = (tmp_path / "report.html").read_text()
        row = re.search(r'<h2>Point .*?<tr class="first"><td>([^:]+): (.*?)</td>', page, re.S)
        assert row is not None and row[1] == point and ("recommended" in row[2]) == recommended


def test_text_from_a_bundle_runs_nothing(calibrated, tmp_path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    manifest = json.loads((calibrated.path / "manifest.json").read_text())
    manifest["network"], manifest["class_names"] = evil, [f"{evil}{k}" for k in range(manifest["classes"])]
    (calibrated.path / "manifest.json").write_text(json.dumps(manifest))
    found = read_calibration(calibrated.calibrations()[0])
    write_calibration(calibrated.calibrations()[0], replace(found, fingerprint=found.fingerprint | {"module": evil}))
    report(open_bundle(calibrated.path), output=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "alert(1)" in page and "<script>alert" not in page and "<img src=x" not in page
    assert "<script" not in page and "default-src 'none'" in page and "script-src" not in page


def test_nothing_is_loaded_from_elsewhere(calibrated, tmp_path):
    report(calibrated, output=tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[^"'\s>]+|url\((?!#)|@import""", page)


def test_images_are_shown_by_the_exit_at_which_they_leave(tmp_path):
    entry = networks.ZOO["plain"]
    bundle = export(networks.build(entry), entry.draw(3, 0), tmp_path / "net.offramp", **entry.options)
    x, other = entry.draw(500, 1)[0], entry.draw(200, 2)[0]
    with load_uncalibrated(bundle) as net:
        labels, unseen = net.every_exit(x).label[:, -1], net.every_exit(other)
    found = calibrate(bundle, (x, labels), Target(max_drop=0.3))
    write_calibration(bundle.calibrations()[0], replace(found, points={"default": found.early}))
    made = report(bundle, (other, unseen.label[:, -1]), output=tmp_path / "report.html")
    thresholds = made.measured.thresholds
    left = (unseen.score[:, :-1] >= thresholds).argmax(1)
    left[~(unseen.score[:, :-1] >= thresholds).any(1)] = len(thresholds)
    for group in made.measured.examples:
        for one in group.shown:
            assert one.exit == left[one.sample] and one.picture.startswith(b"\x89PNG")
    assert sum(group.samples for group in made.measured.examples if ": the surest" in group.title) > 0
    shown = [one.picture for group in made.measured.examples for one in group.shown]
    assert pictures_of((tmp_path / "report.html").read_text()) == shown


def test_what_cannot_be_reported_is_said_and_leaves_no_file(calibrated, labelled, tmp_path):
    output = tmp_path / "report.html"
    for path in calibrated.calibrations():
        path.rename(tmp_path / path.name)
    with pytest.raises(UsageError, match="has no calibration to report.*Run: offramp calibrate"):
        report(calibrated, output=output)
    kept = tmp_path / "default.json"
    with pytest.raises(DataError, match="shape"):
        report(calibrated, (labelled[0][:, :3], labelled[1]), output=output, calibration=kept)
    with pytest.raises(UsageError, match="Unknown operating point"):
        report(calibrated, output=output, calibration=kept, point="nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(MissingError, match="file"):
        report(calibrated, output=tmp_path / "file" / "report.html", calibration=kept)
    assert not output.exists()


def test_the_command_writes_the_page_and_prints_the_recommendation(calibrated, tmp_path):
    done = offramp("report", calibrated.path, "-o", tmp_path / "report.html")
    verdict = read_calibration(calibrated.calibrations()[0]).point.verdict
    assert done.returncode == 0 and verdict in done.stdout and "report.html" in done.stdout
    told = json.loads(offramp("report", calibrated.path, "-o", tmp_path / "again.html", "--json").stdout)
    assert told["point"] == "default" and told["measured"] is None


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: apt install chromium")
def test_with_ten_thousand_samples_it_is_small_and_opens_at_once_without_a_word(calibrated, labelled, tmp_path):
    import resource  # where there is no such module there is no such browser either

    report(calibrated, fresh(labelled, 10_000), output=tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < MOST_BYTES
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    flags += ["--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]

    def browser_s():
        """CPU time of all that has run and ended: what the clock says of two cores depends on what else they do."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    def open_page(name):
        start = browser_s()
        done = subprocess.run(
            [str(BROWSER), *flags, "--dump-dom", (tmp_path / name).as_uri()], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done, browser_s() - start

    (tmp_path / "empty.html").write_text("<!doctype html><title>empty</title>")
    open_page("empty.html")  # makes the profile
    spent = []
    for _ in range(3):
        page, page_s = open_page("report.html")
        spent.append(page_s - open_page("empty.html")[1])
    assert ":CONSOLE" not in page.stderr and page.stdout.count("<svg") > 3
    assert min(spent) < MOST_S
