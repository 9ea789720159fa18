"""What CONTRIBUTING.md says is run: its rule on a network, and its commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from offramp.export import decide, export
from offramp.runtime.loading import load_uncalibrated

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()


def test_the_rule_of_the_page_can_be_exported_with(dense_onnx, tmp_path, monkeypatch):
    monkeypatch.setattr(decide, "RULES", dict(decide.RULES))
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(block, {})
    bundle = export(dense_onnx, None, tmp_path / "b.offramp", rule="gini")
    x = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    found = load_uncalibrated(bundle, logits=True).every_exit(x)
    p = np.exp(found.logits - found.logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    assert np.allclose(found.score, ((p**2).sum(-1) - 1 / 5) / (1 - 1 / 5), atol=1e-6)


def test_the_commands_of_the_page_run():
    (block,) = re.findall(r"```bash\n(.*?)```", PAGE, re.S)
    commands = [line.partition("  #")[0].strip() for line in block.splitlines()]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in commands:
        command = f"{command} --collect-only -q" if "OFFRAMP_LARGE" in command else command
        done = subprocess.run(
            command, shell=True, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PATH": path}
        )
        assert done.returncode == 0, done.stderr
        assert any(word in done.stdout for word in ("plain", "two_gigabytes", "tiny"))
