"""What --quiet and --verbose change, and that neither colours nor bars reach a file."""

import os
import shutil
import subprocess

import numpy as np
import pytest

from offramp.cli.app import app
from offramp.cli.verbosity import is_quiet, is_verbose
from offramp.tests.cli.test_help import LEAVES
from offramp.tests.helpers.command import PROCESS, in_terminal, offramp


@pytest.fixture
def folder(tmp_path, monkeypatch, shared_dense, dense_onnx, labelled):
    np.savez(tmp_path / "data.npz", x=labelled[0][:40], y=labelled[1][:40])
    shutil.copytree(shared_dense.path, tmp_path / "d.offramp")
    shutil.copy(dense_onnx, tmp_path / "dense.onnx")
    monkeypatch.chdir(tmp_path)


def test_every_command_has_both():
    for command in LEAVES.values():
        names = [name for option in command.params for name in option.opts]
        assert {"-q", "--quiet", "-v", "--verbose"} <= set(names) and len(names) == len(set(names))
    assert app.params  # the group itself has none: they stand behind the command


def test_quiet_leaves_results_and_errors(folder):
    loud, quiet = offramp("run", "d.offramp", "data.npz"), offramp("run", "d.offramp", "data.npz", "--quiet")
    assert loud.stderr.startswith("Note: ") and quiet.stderr == ""
    columns = [[line.split()[:4] for line in done.stdout.splitlines()] for done in (loud, quiet)]
    assert columns[0] == columns[1]  # all but the latency
    failed = offramp("run", "nowhere.offramp", "data.npz", "-q")
    assert failed.returncode == 2 and failed.stderr.startswith("Error: There is no bundle")


def test_verbose_tells_of_each_step_and_of_what_is_used(folder):
    done = offramp("export", "dense.onnx", "-o", "e.offramp", "-v")
    lines = done.stderr.splitlines()
    assert done.returncode == 0 and lines[0].startswith("offramp ")
    for step in ("capturing the network", "cutting it into stages", "comparing with the original"):
        assert f"{step} ..." in lines
        assert [line for line in lines if line.startswith("Took ") and line.endswith(step)] != []
    assert "  cut.variant: " in done.stderr.replace("export.cut", "cut")
    assert offramp("inspect", "e.offramp").stderr == ""  # and the next command says no more than before


def test_the_steps_of_a_project_say_as_much_as_it_does(folder, tmp_path):
    (tmp_path / "offramp.yaml").write_text("bundle: p.offramp\nsteps:\n  - export:\n      network: dense.onnx\n")
    done = offramp("go", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert "comparing with the original ..." in offramp("go", "--again", "--verbose").stderr


def test_an_option_before_the_command_is_told_its_place(folder):
    done = offramp("-q", "inspect", "d.offramp")
    assert done.returncode == 2 and "Options stand behind the command: offramp COMMAND -q." in done.stderr


def test_both_at_once_are_refused(folder):
    done = offramp("inspect", "d.offramp", "-q", "-v")
    assert done.returncode == 2 and "--quiet and --verbose" in done.stderr
    for wrong in (["run", "-q"], ["run", "-v"]):  # which end before there is a command
        assert offramp(*wrong).returncode == 2 and not is_quiet() and not is_verbose()


COLOUR = b"\x1b[3"
"""How the colours begin that bars have."""


def test_a_terminal_gets_colours_if_it_wants_them(folder):
    command = ("bench", "d.offramp", "data.npz")
    for variables in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"}):
        out, shown = in_terminal(*command, **variables)
        assert b"\x1b" not in out
        assert (COLOUR in shown) == (not variables)
        assert (b"\x1b" in shown) == ("TERM" not in variables)


def test_no_colours_in_a_file_whatever_is_forced(folder):
    environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color", "CLICOLOR_FORCE": "1"}
    for command in (["bench", "d.offramp", "data.npz", "--json"], ["-h"]):
        done = subprocess.run([*PROCESS, *command], capture_output=True, env=environment)
        assert done.returncode == 0 and b"\x1b" not in done.stdout + done.stderr
