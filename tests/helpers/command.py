"""The command line in a process of its own, for tests."""

import subprocess
import sys

from offramp.tests.helpers.briefly import brief_arguments


def offramp(*arguments):
    """Run the command line in a process of its own; what calibrates measures briefly."""
    code = "from offramp.cli.app import main; main()"
    return subprocess.run([sys.executable, "-c", code, *brief_arguments(arguments)], capture_output=True, text=True)


def clear_message(done, code, *words):
    """One message on stderr, nothing on stdout, the right exit code and no traceback."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""
    messages = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(messages) == 1, done.stderr
    for word in words:
        assert word in messages[0], messages[0]
