"""Every block of the README is run, in order, from a folder laid out like a checkout; its figures are measured ones."""

import json
import re

import numpy as np
import onnx
import onnxruntime
from PIL import Image

from offramp.cli.app import COMMANDS
from offramp.tests.helpers.pages import ROOT, blocks, check_make, follow, lay_out, reader_in, row_names, run_script
from offramp.tests.zoo.dense import write_onnx

README, TUTORIAL = ROOT / "README.md", ROOT / "docs/tutorials/network-with-exits.md"


def test_the_quickstart_prints_the_comparison_and_where_picture_and_page_lie(checkout):
    start = (checkout, "samples/quickstart/quickstart.py", "--epochs", 3, "--images", 600)
    printed = run_script(*start)
    for words in ("early exit", "whole static network", "static to exit 0", "small, then whole", "The promise: "):
        assert words in printed
    # A network trained this briefly may get another verdict.
    (shown, *_) = blocks(TUTORIAL, "text")
    assert row_names(shown.text) - {"Of those that surely lose at most"} <= row_names(printed)
    picture = checkout / printed.split("picture: ")[1].splitlines()[0]
    with Image.open(picture) as image:
        assert image.width > 800
    page = (checkout / printed.split("open in a browser: ")[1].strip()).read_text()
    assert "<html" in page

    again = run_script(*start)
    steps, found = printed.split("\n\n", 1)
    assert again.split("\n\n", 1)[1] == found and again.count("done before") == len(steps.splitlines()) == 7


def test_it_shows_the_same_run_as_the_tutorial():
    (table,) = (block.text for block in blocks(README) if not block.language)
    (whole, *_) = blocks(TUTORIAL, "text")
    assert table in whole.text


def read_result(name):
    """Return what a benchmark found."""
    return json.loads((ROOT / f"docs/benchmarks/{name}.json").read_text())["result"]


def test_the_figures_of_its_claims_are_those_of_the_benchmarks():
    text = re.sub(r"\s+", " ", README.read_text())
    rows = read_result("compressed")["rows"]
    statics = [row for row in rows if row["certified"] and len(row["shares"]) == 1]
    (chosen,) = (row for row in rows if row["name"] == "early exit, all variants")
    assert f"takes {min(row['mean_s'] for row in statics) / chosen['mean_s']:.2f} times as long" in text
    assert f"all {len(rows)} forms" in text
    ways = [row for name, part in (("certify", "splits"), ("recorded", "recorded")) for row in read_result(name)[part]]
    for way, words in (
        ("exact, path as calibrate splits", "{:.1f} to {:.1f} % of {} calibrations promised too much"),
        ("best vector, no promise", "{:.0f} to {:.0f} % of {} ("),
    ):
        broken = [100 * row["broken"] for row in ways if row["way"] == way]
        (draws,) = {row["splits"] for row in ways if row["way"] == way}
        assert words.format(min(broken), max(broken), draws) in text
    energy = read_result("power")["energy"]
    held = [100 * share for row in energy for share in row["coverage"]]
    assert f"{min(held):.1f} to {max(held):.1f} % of {energy[0]['runs']} runs" in text


def test_the_ratios_beside_neighbours_are_those_of_the_benchmarks():
    page, benchmarks = ((ROOT / f"docs/{name}.md").read_text() for name in ("neighbours", "benchmarks"))
    ratios = re.findall(r"(\d\.\d\d to \d+\.\d\d) times(?! as long)", re.sub(r"\s+", " ", page))
    assert len(ratios) >= 5
    assert not [ratio for ratio in ratios if f" {ratio} times the whole graph's time" not in benchmarks]


def test_every_block_runs_in_order(tmp_path, capsys):
    lay_out(tmp_path)
    with reader_in(tmp_path):
        bring_own_files()
        follow(README)
    said = capsys.readouterr().out
    assert said.count("Result(label=") == 5
    assert all((tmp_path / f"{name}.offramp").is_dir() for name in ("digits", "plain", "both", "net"))


def bring_own_files():
    """Write what a reader brings: a network with exits, a small and a large one without as ONNX files, and labelled samples."""
    write_onnx("small.onnx", exits=1)
    model = onnx.load(write_onnx("net.onnx"))
    del model.graph.output[:-1]
    onnx.save(model, "large.onnx")
    x = np.random.default_rng(0).standard_normal((400, 16)).astype(np.float32)
    (logits,) = onnxruntime.InferenceSession("large.onnx").run(None, {"x": x})
    np.savez("samples.npz", x=x, y=logits.argmax(1))


def test_the_two_commands_run_the_quickstart_and_the_tests():
    (block, *_) = blocks(README, "bash")
    demo, test = map(check_make, block.commands)
    assert "quickstart.py" in demo and "pytest" in test


def test_no_command_is_left_out():
    commands = [command for block in blocks(README, "bash") for command in block.commands]
    assert all(command.split()[0] in ("make", "offramp", "pip", "python3", "eval") for command in commands)
    text = README.read_text()
    assert [each.name for each in COMMANDS if not re.search(rf"`{each.name}`|\nofframp {each.name}\b", text)] == []


def test_it_fits_on_a_page():
    assert len(README.read_text().splitlines()) <= 120
