"""The programs of C++, built once and kept in `build/cpp`, and how a test speaks to them."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from offramp.tests.helpers.cpp import BUILD, build

SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TBB_ENABLE_SANITIZERS": "1",
}
"""OpenVINO leaves memory when a program ends, and its TBB loads a library in a way that the sanitizer refuses, unless told so."""


class Driver:
    """A program that answers each line of JSON with one."""

    def __init__(self, name):
        self._process = subprocess.Popen(
            [BUILD / name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | SANITIZERS
        )

    def ask(self, do, **asked):
        """Return what the program answers: a dict, which has `error` and `message` where it refuses."""
        self._process.stdin.write(json.dumps({"do": do} | asked, default=os.fspath) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the program ended with {self._process.wait()}"
        return json.loads(line)

    def end(self):
        self._process.stdin.close()
        return self._process.wait()


@pytest.fixture(scope="session")
def programs():
    """Build the programs; the tests are skipped where they cannot be built."""
    if reason := build():
        pytest.skip(reason)


@pytest.fixture(scope="session", params=["driver", "checked"])
def driver(request, programs):
    """The program as it is, and once more with sanitizers, which end it where memory is misused."""
    driver = Driver(request.param)
    yield driver
    assert driver.end() == 0


@pytest.fixture
def no_policy():
    """See that no policy of a test before is left."""
    path = BUILD / "trust.json"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def copied(tmp_path):
    """Copy a bundle, so that a test may change it."""
    return lambda path: Path(shutil.copytree(path, tmp_path / f"{len([*tmp_path.iterdir()])}.offramp"))
