"""What tests do with pages of text: find their blocks, and run their commands as a reader would."""

import contextlib
import io
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import offramp.calibrate
from offramp.cli.app import exit_code_of
from offramp.tests.helpers.briefly import brief_arguments, calibrate

ROOT = Path(__file__).parents[2]


NEEDS = {
    "Needs a board": "copies to a board, and calibrates there over ssh",
    "Needs onnx2tf": "converts in an environment of its own, as tests/runtime/engines/test_litert.py does",
    "Needs the NPU's delegate": "loads a maker's library, for which a fake stands in in tests/runtime/engines/test_litert.py",
    "Needs a compiler": "builds samples/cpp, as tests/cpp/test_sample.py does",
    "Needs the server": "speaks to another machine, as tests/runtime/engines/test_remote.py does to a thread",
    "Runs until it is ended": "a server, which the page starts in Python instead",
    "Needs a power sensor": "measures for minutes, with a sensor that most machines do not have",
}
"""Titles of the blocks that do not run here, and why."""


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
    return done.stdout


def check_environment(command):
    """See that a command makes an environment and enters it; pip, which takes long to install, is left out."""
    done = run(
        f'cd "$(mktemp -d)" && {command.replace("venv ", "venv --without-pip ", 1)} && echo "$VIRTUAL_ENV"', ROOT
    )
    assert done.returncode == 0 and done.stdout.strip().endswith(".venv"), done.stderr
    return done.stdout


def check_completion(command):
    """See that a command makes bash complete offramp's commands."""
    done = run(f"{command} && complete -p offramp", ROOT)
    assert done.returncode == 0 and "-F" in done.stdout, done.stderr
    return done.stdout


def lay_out(folder):
    """Make a folder look like a checkout after `make demo`, with small networks in place of its own."""
    for source, place in (
        ("tests/zoo/few_digits.py", "samples/quickstart/digits.py"),
        ("tests/zoo/few_plain.py", "samples/attach/plain.py"),
        ("samples/update/slots.py", "samples/update/slots.py"),
    ):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, folder / place)


def follow(page):
    """Run the blocks of a page in order, as a reader would who has one Python open; return what the commands printed."""
    names: dict[str, Any] = {}
    printed = ""
    with warnings.catch_warnings():
        for block in blocks(page, "bash", "json", "python", "yaml"):
            if block.title in NEEDS:
                continue
            if block.title is not None:
                Path(block.title).write_text(block.text)
            elif block.language == "python":
                exec(compile(block.text, f"{page.name}: {block.text}", "exec"), names)
            else:
                printed += "".join(map(run_command, block.commands))
    return printed


def run_command(command):
    """Run a command of offramp in this process, and look at others; return what it printed."""
    if command.startswith("make "):
        return check_make(command)
    if command.startswith("pip "):
        return check_install(command)
    if command.startswith("python3 -m venv "):
        return check_environment(command)
    if command.startswith("eval "):
        return check_completion(command)
    if command.startswith(("openssl ", "python ")):
        done = run(command, Path.cwd())
        assert done.returncode == 0, done.stderr
        return done.stdout
    words, _, file = command.partition(" > ")
    program, *arguments = shlex.split(words)
    assert program == "offramp"
    if arguments[0] == "train":  # one pass over the data shows that the command runs
        arguments = ["1" if before == "--epochs" else word for before, word in pairwise(["", *arguments])]
    with Path(file or "stdout.txt").open("w+") as out, Path("stderr.txt").open("w+") as err:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = exit_code_of(brief_arguments(arguments))
        said, complaint = ((stream.seek(0), stream.read())[1] for stream in (out, err))
    # So few samples may miss a target, and this machine may have no sensor: the page says what happens then.
    allowed = {0, 3} if "calibrate" in command else {0, 4} if "Looked for:" in complaint else {0}
    assert code in allowed, (command, complaint)
    return said


SCRIPTS = {"spotter", "two", *(path.stem for path in (ROOT / "samples").rglob("*.py"))}
"""Modules that lie beside the one who imports them, so that each folder has its own."""


@contextlib.contextmanager
def reader_in(folder):
    """Be in a folder, in a Python that has imported nothing from it, and measure latencies only briefly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PATH", environment()["PATH"])
        patch.setattr(offramp.calibrate, "calibrate", calibrate)
        patch.setattr(sys, "path", [str(folder), *sys.path])
        patch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line replaces
        for name in SCRIPTS:
            patch.setitem(sys.modules, name, None)  # so that what was there is put back
            del sys.modules[name]
        yield


def run_script(folder, script, *options):
    """Run a program in this process as one would in a folder; return what it printed."""
    with reader_in(folder), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(sys, "argv", [script, *map(str, options)])
        patch.syspath_prepend(str((folder / script).parent))
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:  # a program may end with sys.exit(0)
            assert not end.code, end.code
    return out.getvalue()
