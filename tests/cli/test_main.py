"""`python -m offramp` is the command line too."""

import subprocess
import sys

from offramp import __version__


def run_module(*arguments):
    return subprocess.run([sys.executable, "-m", "offramp", *arguments], capture_output=True, text=True)


def test_the_package_runs_as_a_module():
    done = run_module("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"offramp, version {__version__}\n", "")


def test_the_module_ends_with_the_commands_exit_code(tmp_path):
    done = run_module("inspect", str(tmp_path / "nowhere.offramp"))
    assert done.returncode == 2 and done.stdout == "" and done.stderr.startswith("Error: There is no bundle")
