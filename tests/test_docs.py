"""What docs/ says is run, page by page, in a folder laid out like a checkout after the first tutorial; and the site is built."""

import ast
import re
import shutil
import subprocess
import sys

import pytest

from offramp.bundle import open_bundle, read_calibration, write_calibration
from offramp.tests.helpers.pages import NEEDS, ROOT, blocks, follow, lay_out, reader_in, row_names
from offramp.tests.helpers.points import where_early_exit_wins

PAGES = sorted((ROOT / "docs").rglob("*.md"))
GUIDES = sorted((ROOT / "docs/how-to").glob("*.md"))
FIRST, *TUTORIALS = (
    ROOT / f"docs/tutorials/{name}.md"
    for name in ("network-with-exits", "plain-network", "two-networks", "onnx-file", "product")
)
EARLY = {"thresholds", "exit shares", "drop", "promise"}
"""Rows that a calibration prints of early exit: on a machine that is busy for a moment a static network may win."""


@pytest.fixture(scope="module")
def first_tutorial(tmp_path_factory):
    """A folder laid out like a checkout after the first tutorial, with small networks in place of its own; what was printed."""
    folder = tmp_path_factory.mktemp("checkout")
    lay_out(folder)
    with reader_in(folder):
        printed = follow(FIRST)
    # The pages go on from a calibration that recommends early exit, whichever network is faster on this machine now.
    (path,) = open_bundle(folder / "digits.offramp").calibrations()
    write_calibration(path, where_early_exit_wins(read_calibration(path)))
    return folder, printed


def test_the_first_tutorial_shows_what_is_printed(first_tutorial):
    _, *shown = (block.text for block in blocks(FIRST, "text"))
    assert len(shown) == 2
    for text in shown:
        assert row_names(text) <= row_names(first_tutorial[1])


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_a_tutorial_shows_what_its_blocks_print(page, first_tutorial, tmp_path):
    shutil.copytree(first_tutorial[0], tmp_path / "checkout")
    with reader_in(tmp_path / "checkout"):
        printed = follow(page)
    shown = [block.text for block in blocks(page, "text")]
    assert shown
    for text in shown:
        assert row_names(text) - EARLY <= row_names(printed)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_every_block_of_a_guide_runs_in_order_after_the_first_tutorial(page, first_tutorial, tmp_path):
    shutil.copytree(first_tutorial[0], tmp_path / "checkout")
    with reader_in(tmp_path / "checkout"):
        follow(page)


def test_no_block_is_left_out():
    others = [page for page in PAGES if page not in (*GUIDES, FIRST, *TUTORIALS) and page.parent.name != "development"]
    assert not [page for page in others if blocks(page, "bash", "python", "yaml")]


def test_every_reason_for_not_running_a_block_is_used():
    assert {block.title for page in PAGES for block in blocks(page, "bash")} == {None, *NEEDS}


def test_the_gallery_names_programs_that_are_there():
    programs = re.findall(r"python (\S+\.py)", (ROOT / "docs/gallery.md").read_text())
    assert len(programs) > 5 and all((ROOT / program).exists() for program in programs)


def test_every_fence_says_its_language():
    for page in PAGES:
        fences = re.findall(r"^ *```(.*)$", page.read_text(), re.M)
        assert all(fences[::2]) and not any(fences[1::2]), page


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: make docs installs it")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(site):
    loaded = re.compile(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//", re.I)
    for page in site.rglob("*.html"):
        assert not loaded.findall(page.read_text()), page
    assert not [sheet for sheet in site.rglob("*.css") if re.search(r"url\([\"']?(?:https?:)?//", sheet.read_text())]


def test_the_references_name_everything_that_is_public(site):
    from offramp import bundle, calibrate, devices, export, fleet, runtime, serve, sweep
    from offramp.cli.app import app

    text = (site / "reference/api.html").read_text()
    for name in [
        name
        for package in (bundle, export, sweep, calibrate, fleet, runtime, serve, devices)
        for name in package.__all__
    ]:
        assert f'.{name}"' in text, name
    text = (site / "reference/commands.html").read_text()
    assert all(f'id="offramp-{name}"' in text for name in app.commands)


def messages():
    """Return the texts in the code, … standing for what is put in."""
    found = set()
    for folder in ("bundle", "calibrate", "cli", "devices", "export", "runtime", "serve", "sweep"):
        for file in [*ROOT.glob("*.py"), *(ROOT / folder).rglob("*.py")]:
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.JoinedStr):
                    found.add("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return found


def test_every_message_that_troubleshooting_explains_is_one_that_the_code_says():
    headings = re.findall(r"^### (.*)$", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
    assert len(headings) == len(set(headings)) > 25
    known = messages()
    assert not [heading for heading in headings if not any(text.startswith(heading) for text in known)]
