"""The guides for boards that are not here: their commands are ones that offramp takes, and what they install runs on this CPU."""

import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from offramp.cli.app import app
from offramp.runtime import read_snapshot

SAMPLES = Path(__file__).parents[2] / "samples"
GUIDES = sorted(path for path in SAMPLES.glob("*/README.md") if path.parent.name in ("jetson", "npu"))


def commands(text):
    """Every offramp command of a guide, in blocks and in the text."""
    blocks = [line for block in re.findall(r"```bash\n(.*?)```", text, re.S) for line in block.splitlines()]
    for line in [*blocks, *re.findall(r"`([^`\n]+)`", text)]:
        words = shlex.split(line, comments=True)
        if words and Path(words[0]).name == "offramp" and len(words) > 1:
            yield words[1:]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.parent.name)
def test_every_command_of_a_guide_is_one_that_offramp_takes(guide):
    found = list(commands(guide.read_text()))
    assert len(found) >= 3
    for words in found:
        command = app.get_command(click.Context(app), words[0])
        assert command is not None, words
        command.make_context(words[0], words[1:], parent=click.Context(app))  # raises on an option that is not there


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.parent.name)
def test_a_guide_names_files_that_are_beside_it_and_says_that_nobody_ran_it(guide):
    text = guide.read_text()
    named = set(re.findall(r"`?([\w-]+\.(?:service|py))`?", text)) - {"net.py"}
    assert all((guide.parent / name).exists() for name in named)
    assert "not yet run on" in text.lower()


def test_the_service_names_the_program_that_is_beside_it():
    unit = (SAMPLES / "jetson/offramp-classify.service").read_text()
    assert "/opt/offramp/classify.py /opt/offramp/net.offramp" in unit and "nvpmodel -m" in unit


def test_what_the_service_runs_answers_each_input_and_stops_when_it_is_told(calibrated, tmp_path):
    x = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
    x[1] = np.nan
    np.savez(tmp_path / "few.npz", x=x)
    np.savez(tmp_path / "many.npz", x=np.tile(x, (300, 1)))
    start = [sys.executable, str(SAMPLES / "jetson/classify.py"), str(calibrated.path)]
    done = subprocess.run([*start, tmp_path / "few.npz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 2999 and {row["exit"] for row in rows} <= {0, 1, 2} and rows[0]["latency_s"] > 0
    assert "holds NaN" in done.stderr and "exit_shares" in done.stderr

    running = subprocess.Popen([*start, tmp_path / "many.npz"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout.readline()
    running.send_signal(signal.SIGTERM)
    assert sum(1 for _ in running.stdout) < 890_000
    assert running.wait(20) == 0 and b"exit_shares" in running.stderr.read()


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_tells_systemd_that_it_is_ready_and_answers(abstract, calibrated, tmp_path, monkeypatch, capsys):
    np.savez(tmp_path / "few.npz", x=np.random.default_rng(0).standard_normal((50, 16)).astype(np.float32))
    address = f"\0offramp-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    spec = importlib.util.spec_from_file_location("classify", SAMPLES / "jetson/classify.py")
    classify = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(classify)
    files = [str(calibrated.path), str(tmp_path / "few.npz"), "--metrics", str(tmp_path / "metrics.json")]
    monkeypatch.setattr(sys, "argv", ["classify.py", *files])
    monkeypatch.setattr(classify, "NOTIFY_EVERY_S", 0.0)
    monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
    before = signal.getsignal(signal.SIGTERM)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(address)
        told, tell = [], classify.notify
        monkeypatch.setattr(classify, "notify", lambda state: [tell(state), told.append(systemd.recv(100))])
        try:
            classify.main()
        finally:
            signal.signal(signal.SIGTERM, before)
    assert told[0] == b"READY=1" and set(told[1:]) == {b"WATCHDOG=1"} and len(told) > 40
    assert read_snapshot(tmp_path / "metrics.json").answers == 50
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "missing"))
    tell("WATCHDOG=1")  # a systemd that is not there stops no product
