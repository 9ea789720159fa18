"""Ctrl-C in commands that take long: the exit code, one sentence that says how to go on, and nothing half written."""

import hashlib
import shutil
import signal
import subprocess
import threading

import numpy as np
import pytest

from offramp.tests.helpers.command import PROCESS

SLOW = """
import sys, time
import numpy as np

def wait():
    print("WAITING", file=sys.__stderr__, flush=True)
    time.sleep(600)

def samples():
    yield from zip(np.zeros((3, 16), np.float32), (0, 1, 2))
    wait()

def metric(answers, truth):
    wait()
"""

NETWORK = """
import torch
from slow import wait

class Waiting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Linear(16, 4), torch.nn.Linear(16, 4)

    def forward(self, x):
        wait()
        return self.first(x), self.last(x)

def network():
    return Waiting()
"""

AGAIN = "Nothing is half written: the same command starts again."
MEASURES = "Nothing was kept: the same command measures again."

QUICK = {
    "bench d.offramp data.npz --metric slow.py:metric": MEASURES,
    "run d.offramp slow.py:samples": "No answer was printed: the same command starts again.",
    "go": "Steps that are done are kept: the same command goes on with the next.",
}

SLOWER = {
    "quantize d.offramp --data slow.py:samples": AGAIN,
    "calibrate d.offramp slow.py:samples": "What was measured and stored is kept: the same command goes on from there.",
    "energy d.offramp slow.py:samples --power-w 5": MEASURES,
    "reuse d.offramp slow.py:samples --groups clips.txt --max-disagreement 0.1": MEASURES,
    "gate d.offramp --data slow.py:samples": AGAIN,
    "report d.offramp slow.py:samples -o report.html": AGAIN,
    "export net.py:network --data data.npz -o new.offramp": AGAIN,
    "train net.py:network data.npz -o t.pt": "Epochs stored in t.pt.checkpoint are kept: the same command goes on from there.",
}


@pytest.fixture
def folder(tmp_path, calibrated, labelled):
    np.savez(tmp_path / "data.npz", x=labelled[0][:60], y=labelled[1][:60] % 4)
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "clips.txt").write_text("0\n0\n1\n")
    (tmp_path / "offramp.yaml").write_text("bundle: d.offramp\nsteps:\n  - quantize:\n      data: slow.py:samples\n")
    shutil.move(calibrated.path, tmp_path / "d.offramp")
    return tmp_path


def contents(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest() for path in files}


def interrupt(folder, line):
    """Start a command, press Ctrl-C when it waits for ever, and return its exit code, stdout, and the lines of stderr behind."""
    before = contents(folder)
    process = subprocess.Popen(
        [*PROCESS, *line.split()], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    guard = threading.Timer(300, process.kill)  # it hangs if it does not end by itself
    guard.start()
    try:
        said = []
        for text in process.stderr:
            said.append(text)
            if text == "WAITING\n":
                break
        assert said and said[-1] == "WAITING\n", said
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    finally:
        guard.cancel()
        process.kill()
    assert contents(folder) == before
    return process.returncode, out, err.splitlines()


@pytest.mark.parametrize("line", [*QUICK, *(pytest.param(line, marks=pytest.mark.slow) for line in SLOWER)])
def test_an_interrupt_ends_with_130_and_says_how_to_go_on(folder, line):
    code, out, err = interrupt(folder, line)
    advice = (QUICK | SLOWER)[line]
    assert code == 130, err
    if line == "go":  # which says what of its steps is done, too
        assert f"Interrupted. {AGAIN}" in err and "quantize  failed" in out
    else:
        assert (out, err[-1]) == ("", f"Interrupted. {advice}")
    assert "Traceback" not in "".join(err)


def test_an_interrupt_while_the_command_line_is_read_is_one_line(python):
    code = (
        "import sys, builtins\n"
        "from offramp.cli import main\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'offramp.cli.app': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        "try: main(['-h'])\n"
        "except SystemExit as end: print(end.code)\n"
    )
    assert python(code) == "130\n"
