"""Progress bars, seen while the work under way may print nothing."""

import contextlib
import io
import os
import pty
import subprocess
import sys

import pytest
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


def test_what_remains_of_long_steps_is_told_from_the_first_on(monkeypatch):
    """Each variant of a calibration takes minutes."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    now, remains = [0.0], []

    class Bars(Progress):
        def __init__(self, **how):
            super().__init__(get_time=lambda: now[0], auto_refresh=False, **how)

        def update(self, task_id, **fields):
            super().update(task_id, **fields)
            remains.append(self.tasks[task_id].time_remaining)

    monkeypatch.setattr("rich.progress.Progress", Bars)
    with progress_bars() as progress:
        for now[0], done in ((0.0, 1), (240.0, 101), (480.0, 201)):
            progress("calibrating", done, 401)
    assert remains == [None, 720, 480]


@pytest.mark.parametrize("drawn", ["spinner('fusing')", "progress_bars()"])
def test_a_note_stands_on_a_line_of_its_own_while_work_is_drawn(drawn):
    script = f"""
from time import sleep
from offramp.cli.output import note, progress_bars, spinner
with {drawn} as progress:
    if progress:
        progress('fusing', 1, 2)
    sleep(0.3)
    note('Note: grey.')
"""
    ours, theirs = pty.openpty()
    terminal = {**os.environ, "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", script], stderr=theirs, env=terminal, check=True)
    os.close(theirs)
    shown = os.read(ours, 1 << 16)
    os.close(ours)
    before = shown[: shown.index(b"Note: grey.")]
    assert before.endswith((b"\n", b"\x1b[2K"))  # a new line, or one that was cleared
