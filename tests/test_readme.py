"""Every command and code block of the README is run, in order, from a folder laid out like a checkout after `make demo`."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

FEW = """
import sys; sys.path.insert(0, "samples/quickstart")
import digits
def training(): return tuple(part[:200] for part in digits.training())
"""


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def commands():
    return [line.partition("  #")[0].strip() for block in blocks("bash") for line in block.splitlines() if line.strip()]


def run(command, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, env=os.environ | {"PATH": path}
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_quickstart_prints_the_comparison_and_where_the_picture_lies(checkout, quickstart_output):
    for words in ("early exit", "whole static network", "share measured", "share predicted", "paired 95 % interval"):
        assert words in quickstart_output
    picture = checkout / quickstart_output.split("picture: ")[1].strip()
    with Image.open(picture) as image:
        assert image.width > 800


def test_the_command_line_blocks_run(checkout, quickstart_output, brief):
    (checkout / "few.py").write_text(FEW)
    for command in [command for command in commands() if command.startswith("offramp")]:
        if "prune" in command:
            command = command.replace("samples/quickstart/digits.py:training", "few.py:training")
        if "calibrate" in command:
            command = command.replace("offramp", shlex.join(brief("from offramp.cli import main; main()")), 1)
        done = run(command, checkout)
        # A network trained this briefly may miss the target on the reporting samples: that is exit code 3.
        missing = (
            (4,) if "offramp power" in command and "Looked for:" in done.stderr else ()
        )  # this machine has no sensor
        assert done.returncode in ((0, 3) if "calibrate" in command else (0, *missing)), (command, done.stderr)
    assert (checkout / "results.json").stat().st_size > 1000


def test_the_python_block_runs(checkout, quickstart_output, brief):
    (block,) = blocks("python")
    done = run(shlex.join(brief(block)), checkout)
    assert done.returncode == 0, done.stderr
    assert "Result(label=" in done.stdout and "accuracy drop" in done.stdout


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("make")])
def test_the_make_commands_are_rules(command):
    done = run(f"{command} --dry-run", ROOT)
    assert done.returncode == 0 and ("quickstart.py" in done.stdout or "pytest" in done.stdout)


@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("pip")])
def test_the_install_commands_name_extras_that_exist(command):
    extras = re.search(r"\[(.*)\]", command)
    assert extras is not None
    for extra in extras[1].split(","):
        assert re.search(rf"^{extra} = ", (ROOT / "pyproject.toml").read_text(), re.M)
    arguments = shlex.join([*shlex.split(command)[1:], "--dry-run", "--no-build-isolation", "--no-deps", "-q"])
    done = run(f"python -m pip {arguments}", ROOT)
    assert done.returncode == 0, done.stderr


def test_no_command_is_left_out():
    assert all(command.split()[0] in ("make", "offramp", "pip") for command in commands())
