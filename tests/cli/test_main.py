"""`python -m offramp` is the command line too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from offramp import __version__


def run_module(*arguments):
    return subprocess.run([sys.executable, "-m", "offramp", *arguments], capture_output=True, text=True)


def test_the_package_runs_as_a_module():
    done = run_module("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"offramp, version {__version__}\n", "")


def test_the_module_ends_with_the_commands_exit_code(tmp_path):
    done = run_module("inspect", str(tmp_path / "nowhere.offramp"))
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("Error: There is no bundle")


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_stream_loses_what_is_written_and_nothing_else(dense, closed):
    shell = f'exec "$@" {closed}>&-'
    for bundle, code in ((dense.path, 0), ("nowhere.offramp", 2)):
        command = ["sh", "-c", shell, "sh", sys.executable, "-m", "offramp", "inspect", str(bundle)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code and "fault" not in done.stderr


def test_notes_for_a_full_disk_are_lost(tmp_path):
    """Whether Python keeps what is written or not: what it keeps it writes once more at its end."""
    command = [sys.executable, "-m", "offramp", "inspect", str(tmp_path / "nowhere")]
    keeps = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for environment in (keeps, keeps | {"PYTHONUNBUFFERED": "1"}):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stderr=full, env=environment)
        assert done.returncode == 2


COLLECTIONS = """
import gc, sys
from offramp.cli import main
found = []
gc.callbacks.append(lambda phase, info: found.append(phase))
try:
    main(["inspect", sys.argv[1]])
finally:
    print(found.count("start"), file=sys.stderr)
"""


def test_a_command_seldom_looks_for_garbage(dense):
    command = [sys.executable, "-c", COLLECTIONS, str(dense.path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and int(done.stderr) <= 2  # thirty by Python's own threshold
