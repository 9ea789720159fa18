"""The sample is built and run as the page says, by the headers where an installed package has them."""

import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from offramp.runtime import load
from offramp.tests.helpers.bundles import ARCHIVE
from offramp.tests.helpers.pages import ROOT, blocks, environment

pytestmark = pytest.mark.cpp


@pytest.mark.filterwarnings("ignore")
def test_the_sample_prints_label_score_and_exit_as_python_gives_them(programs):
    (block,) = [each for each in blocks(ROOT / "docs/how-to/cpp.md", "bash") if each.title]
    configure, compile_ = block.commands[:2]
    done = subprocess.run(
        ["bash", "-c", f"{configure} && {compile_}"], cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    x = np.random.default_rng(0).standard_normal((20, 16)).astype(np.float32)
    x.tofile(ROOT / "build/samples.bin")
    done = subprocess.run(
        [ROOT / "build/early_exit/early_exit", ARCHIVE, ROOT / "build/samples.bin"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "note: The stages run on openvino:CPU" in done.stderr
    with load(ARCHIVE, "openvino:CPU") as net:
        for line, sample in zip(done.stdout.splitlines(), x, strict=True):
            label, score, exit_ = line.split()
            result = net(sample)
            assert (int(label), int(exit_)) == (result.label, result.exit)
            assert float(score) == pytest.approx(result.score, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([ROOT, ROOT / "README.md"], 1, "is not an offramp bundle"),
        ([ARCHIVE, "none"], 1, "cannot read none"),
        ([ARCHIVE, ROOT / "LICENSE"], 1, "ends within a sample: each has 16 values of float32"),
        ([ARCHIVE], 2, "usage: early_exit BUNDLE SAMPLES"),
    ],
)
def test_the_sample_says_what_is_wrong(programs, arguments, code, words):
    done = subprocess.run([ROOT / "build/early_exit/early_exit", *arguments], capture_output=True, text=True)
    assert done.returncode == code and words in done.stderr


def test_an_installed_package_has_the_headers():
    folder = Path(str(files("offramp.runtime") / "cpp"))
    assert (folder / "offramp/offramp.hpp").is_file() and (folder / "CMakeLists.txt").is_file()
