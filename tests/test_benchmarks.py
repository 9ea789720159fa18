"""The benchmark page: made from JSON alone, and the runs that write it."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

import doubts
import page
import plots
import promises
import run_all
from sections import SECTIONS

RECORDED = Path(__file__).parent / "benchmarks" / "brief"
"""What `run_all.py --brief` wrote."""

NAMES = [section.__name__ for section in SECTIONS]
NOT_IN_THE_TEXT = {
    "chain": r"ratio\.whole$",  # 1 by definition
}


def found(name):
    return json.loads((RECORDED / f"{name}.json").read_bytes())


def figures(value, path=()):
    """Give the paths of all numbers in JSON."""
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from figures(part, (*path, key))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path


def changed(value, path):
    """Return JSON with another number in one place."""
    value = copy.deepcopy(value)
    part = value
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = 7 * part[path[-1]] + 5000
    return value


@pytest.mark.parametrize("section", SECTIONS, ids=NAMES)
def test_every_figure_of_the_json_is_in_its_section(section):
    name = section.__name__
    one = found(name)
    before = page.write_section(section, one, "benchmarks")
    for path in figures(one["result"]):
        text = ".".join(map(str, path))
        if path[0] == "seeds" or re.search(NOT_IN_THE_TEXT.get(name, "^$"), text):
            continue
        other = one | {"result": changed(one["result"], path)}
        assert page.write_section(section, other, "benchmarks") != before, text


def test_figures_are_shown_as_they_were_measured():
    one = found("compressed")["result"]["rows"][0]
    text = page.render(RECORDED, Path("docs/benchmarks.md"))
    cells = (
        f"{one['held_accuracy']:.2%} | {one['accuracy']:.2%} | {one['mean_s'] * 1e6:,.1f} | {one['p50_s'] * 1e6:,.1f}"
    )
    assert f"| 1. {one['name']} | yes | {cells} | " in text
    one = found("chain")["result"]["results"][0]["ratio"]
    assert f" {one['chain']:.2f} | {one['net']:.2f} | " in text and f" {one['plain']:.2f} | " in text


def test_the_page_says_when_where_and_with_what_each_benchmark_ran():
    text = page.render(RECORDED, Path("docs/benchmarks.md"))
    for name in NAMES:
        one = found(name)
        assert one["command"] in text and one["date"] in text and all(v in text for v in one["machine"].values())
        assert all(f"{package} {version}" in text for package, version in one["versions"].items())
        assert all(f"{what} {seed}" in text for what, seed in one["result"]["seeds"].items())


@pytest.mark.parametrize("name", plots.PLOTS)
def test_a_plot_of_the_same_json_has_the_same_bytes_and_no_date(name, tmp_path):
    result = found(name)["result"]
    for file in ("a.svg", "b.svg"):
        plots.draw(name, result, tmp_path / file)
    first = (tmp_path / "a.svg").read_bytes()
    assert first == (tmp_path / "b.svg").read_bytes() and b"<svg" in first and b"date" not in first


def test_the_picture_of_the_first_page_is_drawn_from_the_json_that_is_here(tmp_path):
    drawn, stored = tmp_path / "front.svg", run_all.FOLDER.parent / "pictures/front.svg"
    subprocess.run([sys.executable, Path(page.__file__).with_name("pictures.py"), tmp_path, "front"], check=True)
    maker = re.compile(rb"Matplotlib v[\d.]+")
    if maker.findall(drawn.read_bytes()) != maker.findall(stored.read_bytes()):
        pytest.skip("another matplotlib drew the picture in docs/pictures")
    assert drawn.read_bytes() == stored.read_bytes()


def test_the_same_json_gives_the_same_page_with_links_to_files_that_are_there(tmp_path):
    folder = tmp_path / "docs" / "benchmarks"
    folder.mkdir(parents=True)
    for name in ("chain", "power"):
        (folder / f"{name}.json").write_bytes((RECORDED / f"{name}.json").read_bytes())
    command = [sys.executable, page.__file__, "--from", folder, "--page", tmp_path / "docs" / "benchmarks.md"]
    subprocess.run(command, check=True, capture_output=True)
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert text == page.render(folder, tmp_path / "docs" / "benchmarks.md")
    links = re.findall(r"\]\((benchmarks/.*?)\)", text)
    assert links == ["benchmarks/chain.svg", "benchmarks/chain.json", "benchmarks/power.json"]
    assert all((tmp_path / "docs" / link).stat().st_size for link in links)


def test_the_page_says_what_was_not_run_and_how_to_run_it(tmp_path):
    text = page.render(tmp_path, tmp_path / "benchmarks.md")
    assert text.count("**This was not run**") == len(SECTIONS)
    for name, run in run_all.RUNS.items():
        assert run_all.show(name, run_all.command_of(name)) in text
    assert text.count("make benchmarks DATA=FOLDER") == sum(run.needs_data for run in run_all.RUNS.values())
    assert set(run_all.RUNS) == set(NAMES)


def test_a_peer_that_was_not_installed_is_named():
    one = found("chain")
    for row in one["result"]["results"]:
        row["ratio"].pop("earlyon", None)
    assert "earlyon is missing" in page.write_section(SECTIONS[NAMES.index("chain")], one, ".")
    one = found("recorded")
    one["result"]["recorded"] = [row for row in one["result"]["recorded"] if "MAPIE" not in row["way"]]
    assert "MAPIE is missing" in page.write_section(SECTIONS[NAMES.index("recorded")], one, ".")


def test_early_exit_that_loses_is_shown_as_losing():
    one = found("compressed")
    for row in one["result"]["rows"]:
        row["mean_s"] = 2e-3 if len(row["shares"]) > 1 else 1e-3
    text = page.write_section(SECTIONS[NAMES.index("compressed")], one, ".")
    assert "the static network takes 0.50 times that (above 1 early exit is faster, below 1 slower)" in text


def test_runs_on_two_machines_are_told_apart(tmp_path):
    one = found("chain")
    for name, soc in (("chain", "one chip"), ("fuse", "another chip")):
        (tmp_path / f"{name}.json").write_text(json.dumps(found(name) | {"machine": one["machine"] | {"soc": soc}}))
    text = page.render(tmp_path, tmp_path / "benchmarks.md")
    assert "| chain | Machine and versions |" in text and "| fuse | Machine and versions |" in text


SCRIPT = """
import json, sys
from pathlib import Path
if "broken" in sys.argv:
    sys.exit("broken on purpose")
Path(sys.argv[sys.argv.index("--json") + 1]).write_text(json.dumps({"seeds": {}, "value": 5}))
"""


@pytest.fixture
def runs(tmp_path, monkeypatch, capfd):
    """Run benchmarks of our own: a function of arguments that gives the exit code and what was printed."""
    (tmp_path / "script.py").write_text(SCRIPT)
    script = str(tmp_path / "script.py")
    made = {
        "first": run_all.Run(script, "broken", "", 1),
        "second": run_all.Run(script, "", "", 2),
        "third": run_all.Run(script, "", "", 3, needs_data=True),
    }
    monkeypatch.setattr(run_all, "RUNS", made)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["run_all.py", "--into", str(tmp_path / "json"), *arguments])
        code: str | int | None = 0
        try:
            run_all.main()
        except SystemExit as error:
            code = error.code
        return code, capfd.readouterr().out

    return run


def test_a_benchmark_that_fails_leaves_no_file_and_the_others_run(runs, tmp_path):
    code, printed = runs()
    assert "first" in str(code) and [path.name for path in (tmp_path / "json").iterdir()] == ["second.json"]
    assert "about 3 minutes" in printed and "third: not run, since it needs --data" in printed
    one = json.loads((tmp_path / "json" / "second.json").read_bytes())
    assert one["result"]["value"] == 5 and one["machine"]["cores"] and one["versions"]["numpy"]


def test_what_was_run_is_not_run_again_unless_asked(runs, tmp_path):
    runs("second")
    before = (tmp_path / "json" / "second.json").read_bytes()
    code, printed = runs("second")
    assert code == 0 and "there already" in printed and (tmp_path / "json" / "second.json").read_bytes() == before
    code, printed = runs("--again", "second")
    assert code == 0 and "took" in printed


def test_shortest_settings_are_refused_for_the_page(runs):
    code, _ = runs("--brief", "--into", str(run_all.FOLDER))
    assert code == 2


def test_the_committed_page_is_what_the_committed_json_gives():
    if not list(run_all.FOLDER.glob("*.json")):
        pytest.skip("the benchmarks were not run yet: make benchmarks")
    assert run_all.PAGE.read_text() == page.render(run_all.FOLDER, run_all.PAGE)
    assert all(
        (run_all.FOLDER / f"{name}.svg").exists() for name in plots.PLOTS if (run_all.FOLDER / f"{name}.json").exists()
    )


def recorded(count, seed, *, worse=0.0):
    """Losses of two exits, of which the first has `worse` more than its score tells, and the second 0.2 in the mean."""
    rng = np.random.default_rng(seed)
    hard, last = rng.random((2, count, 1))
    return promises.Recorded(
        loss=np.hstack([(0.4 * last + 0.3 * (hard > 0.5) + worse).clip(0, 1), 0.4 * last]).astype(np.float32),
        score=np.hstack([1 - hard, hard]).astype(np.float32),
        costs=np.array([0.25, 1]),
    )


def test_promises_break_where_fresh_samples_lose_more_than_those_that_were_calibrated():
    pool, draws = recorded(500, 0), promises.draw_samples(500, 1, 500)
    for worse, share in ((0.0, 0.0), (0.2, 1.0)):
        rows = promises.broken(pool, recorded(4000, 1, worse=worse), draws, 0.3, map)
        assert {row["promised"] for row in rows if row["broken"] == share} >= {"mean loss added"}
        added = [row for row in rows if row["promised"] == "mean loss added"]
        assert [row["way"] for row in added] == ["as calibrate", "plain bets"] and all(
            row["cost"] < 0.8 for row in added
        )


def test_calibrations_share_no_samples_where_there_are_enough():
    for pool, shared in ((1200, 0), (900, 300)):
        first, second = promises.draw_samples(pool, 2, 600)
        assert len(set(first)) == len(set(second)) == 600 and len(set(first) & set(second)) >= shared
        assert shared or not set(first) & set(second)


def test_bets_that_recalculate_win_more_often_than_plain_ones(monkeypatch):
    monkeypatch.setattr(promises, "KNOWN", ((500, 0.005),))
    monkeypatch.setattr(promises, "KNOWN_DROPS", (0.0,))
    shares = {row["way"]: row["certified"] for row in promises.known(60)}
    assert shares["exact"] > shares["plain bets"] and shares["recalculating bets"] > shares["plain bets"]


def test_doubts_find_a_promise_that_a_population_breaks(capsys):
    """Thresholds that let all leave at the first exit lose more than the limit; those that let nobody leave lose nothing."""
    truth, tally = doubts.population(count=2000), doubts.Tally("a", "b", doubts.population(count=2000))
    samples = truth.rows(slice(600))
    points = doubts.calibrate_once(samples, {"default": doubts.Target(max_drop=0.05)})
    early = next(point for point in points.values() if point.exits_early)
    for thresholds in ((0.0, 0.0), (2.0, 2.0)):
        tally.add({"default": replace(early, thresholds=thresholds, drop=0.0, drop_interval=(-0.01, 0.01))})
    row = tally.row()
    assert (row["runs"], row["promised"], row["broken"], row["covered"]) == (2, 2, 1, 0.5) and row["bias"] < -0.02
