"""Every block of the README is run, in order, from a folder laid out like a checkout; and so is the quickstart itself."""

import re

from PIL import Image

from offramp.cli.app import COMMANDS
from offramp.tests.helpers.pages import ROOT, blocks, check_make, follow, lay_out, reader_in, row_names, run_script

README = ROOT / "README.md"


def test_the_quickstart_prints_the_comparison_and_where_picture_and_page_lie(checkout):
    start = (checkout, "samples/quickstart/quickstart.py", "--epochs", 3, "--images", 600)
    printed = run_script(*start)
    for words in ("early exit", "whole static network", "static to exit 0", "small, then whole", "The promise: "):
        assert words in printed
    # A network trained this briefly may get another verdict.
    (shown, *_) = blocks(ROOT / "docs/quickstart.md", "text")
    assert row_names(shown.text) - {"Of those that surely lose at most"} <= row_names(printed)
    picture = checkout / printed.split("picture: ")[1].splitlines()[0]
    with Image.open(picture) as image:
        assert image.width > 800
    page = (checkout / printed.split("open in a browser: ")[1].strip()).read_text()
    assert "<html" in page

    again = run_script(*start)
    steps, found = printed.split("\n\n", 1)
    assert again.split("\n\n", 1)[1] == found and again.count("done before") == len(steps.splitlines()) == 7


def test_it_shows_the_same_run_as_the_quickstart():
    start = "train three exits on"
    table, whole = (path.read_text().partition(start)[2] for path in (README, ROOT / "docs/quickstart.md"))
    assert table.partition("\n```")[0] == whole.partition("\n```")[0] != ""


def test_every_block_runs_in_order(tmp_path, capsys):
    lay_out(tmp_path)
    with reader_in(tmp_path):
        follow(README)
    said = capsys.readouterr().out
    assert "Result(label=" in said and "accuracy drop" in said
    assert (tmp_path / "results.json").stat().st_size > 1000 and (tmp_path / "report.html").exists()


def test_the_two_commands_run_the_quickstart_and_the_tests():
    (block, *_) = blocks(README, "bash")
    demo, test = map(check_make, block.commands)
    assert "quickstart.py" in demo and "pytest" in test


def test_no_command_is_left_out():
    commands = [command for block in blocks(README, "bash") for command in block.commands]
    assert all(command.split()[0] in ("make", "offramp", "pip", "python3", "eval") for command in commands)
    text = README.read_text()
    assert [each.name for each in COMMANDS if not re.search(rf"`{each.name}`|\nofframp {each.name}\b", text)] == []
