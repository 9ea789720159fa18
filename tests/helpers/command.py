"""The command line for tests: in this process, which saves the seconds that imports take, or in a process of its own."""

import contextlib
import os
import pty
import subprocess
import sys
import tempfile
import warnings

import pytest

from offramp.cli.app import exit_code_of
from offramp.tests.helpers.briefly import brief_arguments
from offramp.tests.helpers.documents import check_documents

PROCESS = [
    *(sys.executable, "-c"),
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from offramp.cli.app import main; main()",
]
"""How to start the command line in a process of its own; Ctrl-C reaches it even where the tests run in the background."""


def offramp(*arguments):
    """Run a command in this process; what calibrates measures briefly. What --json prints is held against its schema.

    Returns what `subprocess.run` would.
    """
    words = brief_arguments(arguments)
    with captured(1) as out, captured(2) as err, as_in_a_process():
        code = exit_code_of(words)
    if "--json" in words and out[0]:
        check_documents(words, out[0])
    return subprocess.CompletedProcess(words, code, out[0], err[0])


@contextlib.contextmanager
def captured(number):
    """Catch what this process, its libraries and its children write to a file descriptor: a list that then holds the text."""
    text: list[str] = []
    redirect = contextlib.redirect_stdout if number == 1 else contextlib.redirect_stderr
    with tempfile.TemporaryFile("w+") as file:
        kept = os.dup(number)
        os.dup2(file.fileno(), number)
        try:
            with redirect(file):
                yield text
        finally:
            os.dup2(kept, number)
            os.close(kept)
            file.seek(0)
            text.append(file.read())


@contextlib.contextmanager
def as_in_a_process():
    """Warn as Python does where no test framework asks for more."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        patch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line replaces
        yield


def in_terminal(*arguments, **variables):
    """Run a command in a process of its own; return what it writes to stdout, a file, and to stderr, a terminal."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "100"} | variables
    process = subprocess.Popen([*PROCESS, *arguments], stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the terminal closed with the process
            break
        shown += part
    os.close(ours)
    out, _ = process.communicate()
    assert process.returncode == 0, shown
    return out, shown


def clear_message(done, code, *words):
    """One message on stderr, nothing on stdout, the right exit code and no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    messages = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(messages) == 1, done.stderr
    for word in words:
        assert word in messages[0], messages[0]
