"""What CONTRIBUTING.md and docs/development say is run: the rule on a network, the meter, and the commands."""

import shlex
import socketserver
import threading
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from offramp.devices.recording import Recording
from offramp.export import export
from offramp.export.cut import rules
from offramp.runtime import load_uncalibrated
from offramp.tests.helpers.pages import ROOT, blocks, run, run_script

LONG = "product.py", "certify.py", "predict.py", "chain.py"
"""Benchmarks that take long however little they measure."""

PAGE = ROOT / "CONTRIBUTING.md"
GUIDES = ROOT / "docs/development"


def test_the_rule_of_the_page_can_be_exported_with(dense_onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(rules, "RULES", dict(rules.RULES))
    (block,) = blocks(GUIDES / "add-a-rule.md", "python")
    exec(block.text, {})
    bundle = export(dense_onnx, None, tmp_path / "b.offramp", rule="gini")
    x = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    found = load_uncalibrated(bundle, logits=True).every_exit(x)
    p = np.exp(found.logits - found.logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    assert np.allclose(found.score, ((p**2).sum(-1) - 1 / 5) / (1 - 1 / 5), atol=1e-6)


class FakeSupply(socketserver.StreamRequestHandler):
    """A fake of a bench supply that gives 12.5 W."""

    def handle(self):
        assert self.rfile.readline() == b"MEAS:POW?\n"
        self.wfile.write(b"+1.25000E+01\n")


def test_the_meter_of_the_page_measures_a_window():
    (block,) = blocks(GUIDES / "add-a-meter.md", "python")
    names: dict[str, Any] = {}
    exec(block.text, names)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), FakeSupply) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        names["ADDRESS"] = server.server_address
        meter = names["supply"]()
        assert meter.read() == {"supply": 12.5}
        recording = Recording(meter, meter.total)
        recording.start()
        start_s = time.perf_counter()
        time.sleep(0.5)
        end_s = time.perf_counter()
        recording.stop()
        server.shutdown()
    found = recording.integrate_rail(meter.rails[0], start_s, end_s)
    assert abs(found.energy_j / (end_s - start_s) - 12.5) < 1e-6 and found.gaps == 0


def commands():
    (block,) = blocks(PAGE, "bash")
    return block.commands


def marks_of(command):
    return pytest.mark.slow if any(name in command for name in LONG) else ()


@pytest.mark.parametrize("command", [pytest.param(command, marks=marks_of(command)) for command in commands()])
def test_the_commands_of_the_page_run(command):
    program, *words = shlex.split(command, comments=True)
    assert program == "python"
    if words[0] == "-m":
        done = run(f"{command.partition('#')[0]} --collect-only -q", ROOT)
        assert done.returncode == 0, done.stderr
        printed = done.stdout
    else:
        printed = run_script(ROOT, *("1" if before == "--runs" else word for before, word in pairwise(["", *words])))
    assert any(
        word in printed for word in ("plain", "two_gigabytes", "tiny", "coverage", "zoom", "simulated", "predicted")
    )
