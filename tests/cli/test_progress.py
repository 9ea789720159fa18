"""Progress bars, seen while the work under way may print nothing."""

import contextlib
import io
import sys

from rich.progress import Progress

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


def test_a_step_that_begins_again_tells_what_remains_again(monkeypatch):
    """Each network is recorded by itself: a bar that was full once would say that nothing remains of the next one."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = []

    class Bars(Progress):
        def update(self, task_id, **fields):
            super().update(task_id, **fields)
            shown.append(self.tasks[task_id].finished)

    monkeypatch.setattr("rich.progress.Progress", Bars)
    with progress_bars() as progress:
        for done in (100, 200, 100, 200):
            progress("recording", done, 200)
    assert shown == [False, True, False, True]
