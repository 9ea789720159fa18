"""What tests do with pages of text: find their blocks, and run their commands as a reader would."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Block(NamedTuple):
    """A fenced block: its language, its title if it has one, and what it holds."""

    language: str
    title: str | None
    text: str

    @property
    def commands(self):
        lines = self.text.replace("\\\n    ", "").splitlines()
        return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def blocks(page, *languages):
    """Return the blocks of a page in some languages, or all, in order."""
    found = re.findall(r'^```(\w*)(?: title="(.*?)")?\n(.*?)^```', page.read_text(), re.S | re.M)
    return [Block(one, title or None, text) for one, title, text in found if not languages or one in languages]


def row_names(text):
    """Return what the lines of a text begin with, up to the first figure, colon or column."""
    return {re.split(r"\s{2,}|:| ?-?\d", line.strip())[0] for line in text.splitlines()}


def environment():
    """Return the environment in which commands find the programs of this Python."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def run(command, folder):
    """Run a command line in a folder."""
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, env=environment())
    assert "Traceback" not in done.stderr, done.stderr
    return done


def check_make(command):
    """See that a `make` command names a rule, without following it; return what it would run."""
    done = run(f"{command} --dry-run", ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_install(command):
    """See that a `pip install` command of this package names extras that exist."""
    extras = re.search(r"\[(.*)\]", command)
    assert extras is not None
    for extra in extras[1].split(","):
        assert re.search(rf"^{extra} = ", (ROOT / "pyproject.toml").read_text(), re.M)
    arguments = shlex.join([*shlex.split(command)[1:], "--dry-run", "--no-build-isolation", "--no-deps", "-q"])
    done = run(f"python -m pip {arguments}", ROOT)
    assert done.returncode == 0, done.stderr
