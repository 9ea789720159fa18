"""What shells complete behind Tab: asked as click asks, and typed into the shells themselves."""

import os
import pty
import select
import shutil
import time

import pytest
from click.shell_completion import ShellComplete

from offramp.bundle import Preprocess
from offramp.bundle.target import BY, GOALS
from offramp.cli.app import app
from offramp.cli.completion import CHOICES, DEVICES, FILES
from offramp.export.cut.rules import RULES
from offramp.export.networks.pruning import SPREADS
from offramp.export.networks.training import RECIPES
from offramp.export.variants.int8 import RANGE_METHODS
from offramp.runtime.engines import find_device
from offramp.tests.cli.test_help import LEAVES
from offramp.tests.helpers.pages import ROOT, environment


def complete(line):
    """Return what is proposed for the last word of a line."""
    *words, incomplete = line.split(" ")
    proposed = ShellComplete(app, {}, "offramp", "_OFFRAMP_COMPLETE").get_completions(words, incomplete)
    return ["a file" if each.type == "file" else each.value for each in proposed]


def test_commands_and_options_are_completed():
    assert complete("expo") == ["export"] and complete("cache l") == ["list"]
    assert complete("run --va") == ["--variant"] and "--json-schema" in complete("run --js")


@pytest.mark.parametrize(
    "line", ["run ", "run d.offramp ", "export ", "calibrate a b --outside ", "audit a ", "export m -o "]
)
def test_files_are_left_to_the_shell(line):
    assert complete(line) == ["a file"]


def test_names_come_from_the_bundle_that_the_line_names(calibrated, monkeypatch):
    monkeypatch.chdir(calibrated.path.parent)
    assert complete("run dense.offramp data.npz --variant ") == ["fp32"]
    assert complete("run dense.offramp --point ") == complete("bench dense.offramp data.npz --point d")
    assert "default" in complete("run dense.offramp --point ")
    assert complete("run nowhere.offramp --variant ") == complete("run --variant ") == []
    (calibrated.path / "manifest.json").write_text("{")
    assert complete("run dense.offramp --variant ") == []


@pytest.mark.parametrize(
    ("manifest", "calibration"),
    [
        ('{"variants": [1, {"nom": 2}]}', '{"points": [1, 2]}'),
        ('{"variants": null}', '{"points": null}'),
        ("[" * 100_000, "[" * 100_000),
        (
            '{"variants": [{"name": "$(id)"}, {"name": "a b"}, {"name": "a\\nb"}, {"name": 3}]}',
            '{"points": {"`id`": 1}}',
        ),
    ],
)
def test_of_what_no_bundle_holds_nothing_is_proposed(manifest, calibration, tmp_path, monkeypatch):
    """A shell shows an error in the middle of a line, and runs what stands in `$()`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d.offramp" / "calibrations").mkdir(parents=True)
    (tmp_path / "d.offramp" / "manifest.json").write_text(manifest)
    (tmp_path / "d.offramp" / "calibrations" / "a.json").write_text(calibration)
    assert complete("run d.offramp --variant ") == complete("run d.offramp --point ") == []
    assert complete(f"run {'x' * 5000} --variant ") == []


def test_words_of_a_fixed_set_are_those_that_are_taken():
    assert complete("quantize d.offramp --to ") == ["int8", "fp16"]
    assert complete("run d.offramp x --device openvino:C") == ["openvino:CPU"]
    assert [find_device(name).name for name in DEVICES if name != "auto"]
    known = {"by": BY, "goal": GOALS, "recipe": RECIPES, "spread": SPREADS, "ranges": RANGE_METHODS}
    assert {name: set(CHOICES[name]) for name in known} == {name: set(words) for name, words in known.items()}
    assert set(RULES) <= set(CHOICES["rule"])
    for name in ("resize", "interpolation"):
        assert [Preprocess(mean=(0.0,), std=(1.0,), **{name: word}) for word in CHOICES[name]]


def test_every_proposal_is_for_a_parameter_that_there_is():
    names = {parameter.name for command in LEAVES.values() for parameter in command.params}
    assert {*CHOICES, *FILES} <= names


SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], 'eval "$(_OFFRAMP_COMPLETE=bash_source offramp)"'),
    "zsh": (["-f", "-i"], 'autoload -Uz compinit; compinit -u; eval "$(_OFFRAMP_COMPLETE=zsh_source offramp)"'),
    "fish": (["--no-config", "-i"], "_OFFRAMP_COMPLETE=fish_source offramp | source"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_what_is_typed(shell, calibrated, monkeypatch):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    monkeypatch.chdir(calibrated.path.parent)
    arguments, start = SHELLS[shell]
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(shell, [shell, *arguments], environment() | {"TERM": "dumb", "COLUMNS": "200"})
    try:
        os.write(terminal, f"{start}; echo RE''ADY\n".encode())
        read_until(terminal, "READY\r\n" if shell != "fish" else "READY")
        os.write(terminal, b"offramp ins\tden\t")
        read_until(terminal, "inspect")
        read_until(terminal, "dense.offramp")
    finally:
        os.close(terminal)  # which ends the shell
        os.waitpid(child, 0)


def test_the_page_says_what_was_typed():
    page = (ROOT / "docs/reference/commands.md").read_text()
    assert all(start.rpartition("; ")[2] in page for _, start in SHELLS.values())


def read_until(terminal, words):
    """Read what a shell shows until it has shown some words; it fails where it never does."""
    shown, end = "", time.monotonic() + 120
    while words not in shown:
        assert time.monotonic() < end and select.select([terminal], [], [], 120)[0], shown
        shown += os.read(terminal, 1).decode(errors="replace")  # no more, since somebody may wait for what comes behind
