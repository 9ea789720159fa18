import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share two cores, and torch's threads wait by spinning

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Target, open_bundle, write_calibration
from offramp.export import export
from offramp.tests.helpers.briefly import brief_arguments, calibrate
from offramp.tests.zoo.dense import CLASSES, write_onnx

BRIEF = (
    "import runpy, sys, offramp.calibrate, offramp.tests.helpers.briefly as b; offramp.calibrate.calibrate = b.calibrate; "
    "sys.argv = sys.argv[1:]; "
)


def pytest_collection_modifyitems(items):
    """Put the files that take longest first, so that no worker ends alone with one of them."""
    items.sort(key=lambda item: item.path.name not in ("test_readme.py", "test_contributing.py"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing that a test builds goes into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def brief():
    """How to start Python code that measures latencies only briefly: [*brief(code), arguments...]."""
    return lambda code: [sys.executable, "-c", BRIEF + code, "offramp"]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """Exports a network of the zoo once: name -> (torch module, bundle, the ONNX file that torch's dynamo exporter made)."""
    import torch

    from offramp.tests.zoo import networks

    folder, made = tmp_path_factory.mktemp("zoo"), {}

    def get(name):
        if name not in made:
            entry, original = networks.ZOO[name], torch.onnx.export
            net = networks.build(entry)

            def save_too(*arguments, **options):  # the capture takes seconds: once is enough
                program = original(*arguments, **options)
                program.save(folder / f"{name}.onnx")
                return program

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.onnx, "export", save_too)
                bundle = export(net, entry.draw(3, 0), folder / f"{name}.offramp", **entry.options)
            made[name] = net, bundle, folder / f"{name}.onnx"
        return made[name]

    return get


@pytest.fixture
def own_zoo(zoo, tmp_path):
    """A network's bundle of the zoo as a copy that a test may add variants to."""
    return lambda name: open_bundle(shutil.copytree(zoo(name)[1].path, tmp_path / f"{name}.offramp"))


@pytest.fixture(scope="session")
def dense_onnx(tmp_path_factory):
    return write_onnx(tmp_path_factory.mktemp("onnx", numbered=True) / "dense.onnx")


@pytest.fixture
def dense(dense_onnx, tmp_path):
    """A small bundle of its own for every test, cut from an ONNX file."""
    return export(dense_onnx, None, tmp_path / "dense.offramp")


@pytest.fixture(scope="session")
def labelled(dense_onnx, tmp_path_factory):
    """Samples of the dense network, labelled by its last exit except for one in ten."""
    from offramp.runtime import load_uncalibrated

    rng = np.random.default_rng(1)
    x = rng.standard_normal((800, 16)).astype(np.float32)
    bundle = export(dense_onnx, None, tmp_path_factory.mktemp("labels") / "dense.offramp")
    y = load_uncalibrated(bundle).every_exit(x).label[:, -1].copy()
    wrong = rng.random(len(y)) < 0.1
    y[wrong] = rng.integers(0, CLASSES, wrong.sum())
    return x, y


@pytest.fixture
def calibrated(dense, labelled):
    """The dense bundle with a calibration at a five percent drop, measured briefly.

    A network that small is faster whole, which is what would be recommended: the point with early exit is put in its place.
    """
    found = calibrate(dense, labelled, Target(max_drop=0.05))
    write_calibration(dense.calibrations()[0], replace(found, points={"default": found.early}))
    return dense


@pytest.fixture
def python():
    """Run Python code in a fresh process that must succeed; returns what it printed."""

    def run(code, *arguments):
        done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def call(files, capfd, monkeypatch):
    """Run a command line, {f} in it being the module's folder of files; returns exit code, stdout, and stderr without notes."""
    from offramp.cli.app import exit_code_of

    def run(line):
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line replaces
        code = exit_code_of(brief_arguments(part.format(f=files) for part in line.split()))
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        notes = "Note: ", "\x1b"
        return code, out, "".join(row for row in err.splitlines(keepends=True) if not row.startswith(notes))

    return run


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A folder laid out like a checkout, for what must run from one."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "samples").symlink_to(Path(__file__).parents[1] / "samples")
    return folder
