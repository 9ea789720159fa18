"""Progress bars, seen while the work under way may print nothing."""

import contextlib
import io
import sys

from offramp.cli.output import progress_bars


class Terminal(io.StringIO):
    """What stands in for a terminal."""

    def isatty(self):
        return True


def test_bars_go_on_while_stderr_is_redirected(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    terminal, hidden = sys.stderr, io.StringIO()
    with progress_bars() as progress, contextlib.redirect_stderr(hidden):
        progress("capturing the network", 0, 1)
        assert "capturing the network" in terminal.getvalue()
    assert hidden.getvalue() == ""
