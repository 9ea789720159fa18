import functools
import importlib
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share two cores, and torch's threads wait by spinning

import numpy as np
import pytest

from offramp.bundle import Target, open_bundle, write_calibration
from offramp.calibrate.measure.latency import forced_latencies
from offramp.export import export
from offramp.tests.helpers.briefly import MEASURE_S, brief_arguments, calibrate
from offramp.tests.helpers.points import where_early_exit_wins
from offramp.tests.zoo.dense import CLASSES, write_onnx


def pytest_addoption(parser):
    parser.addoption(
        "--cifar10", type=Path, metavar="FOLDER", help="CIFAR-10 as samples/cifar10 reads it, for some tests"
    )


@pytest.fixture
def cifar10_folder(pytestconfig):
    """The folder of CIFAR-10 that `--cifar10` names, or None."""
    return pytestconfig.getoption("--cifar10")


LONG = (
    *("readme", "samples", "zoo", "docs", "power", "cli", "engines", "answers", "serving", "torch_module", "pruning"),
    *("objective", "quantization", "contributing", "lengths", "calibrate", "qnn", "report", "examples", "attachment"),
    *("training", "export", "compress", "answer_heads"),
)
"""Files test_*.py that train, export many networks or measure, the longest first; all others together take 90 s."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Mark what takes long, and put it first, so that no worker ends alone with it."""
    order = {f"test_{name}.py": position for position, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONG)))
    for item in items:
        if item.path.name in order:
            item.add_marker("long")


def pytest_runtest_setup():
    """Let torch read its operators and their decompositions once, not anew for each export, where that is half of the time."""
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    read = registration and registration.ONNXRegistry.from_torchlib
    if not read or hasattr(read, "cache_info"):
        return
    registration.ONNXRegistry.from_torchlib = staticmethod(functools.cache(read))
    operators = importlib.import_module("torch._export.utils")
    decompositions = importlib.import_module("torch.onnx._internal.exporter._decomp")
    operators._materialize_cpp_cia_ops = functools.cache(operators._materialize_cpp_cia_ops)
    find = functools.cache(decompositions.create_onnx_friendly_decomposition_table)
    decompositions.create_onnx_friendly_decomposition_table = lambda known: dict(find(frozenset(known)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing that a test builds goes into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_variant_by_the_clock():
    """The command makes no variant with fewer exits: whether it would is the clock's affair. Tests of `keep=` make one."""
    command = importlib.import_module("offramp.cli.commands.calibrate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "_find_keep", lambda: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def no_chain_across_variants_by_the_clock():
    """A calibration makes no chain across two variants, for the same reason. Tests of such chains say how long calls take."""
    pipeline = importlib.import_module("offramp.calibrate.pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            pipeline, "try_across", lambda session, measured, contenders, choice, _: (choice, contenders, measured)
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def brief_latencies():
    """Joules by a stated power come from latencies that are measured for a fifth of a second instead of three."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(forced_latencies.__kwdefaults__, "seconds", MEASURE_S)
        yield


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """Exports a network of the zoo once: name -> (torch module, bundle, the ONNX file that torch's dynamo exporter made).

    Workers share what they export. Nobody writes into it: `own_zoo` gives a copy.
    """
    import torch
    from filelock import FileLock

    from offramp.tests.zoo import networks

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "zoo"
    folder.mkdir(exist_ok=True)

    def write(net, entry, name):
        original = torch.onnx.export

        def save_too(*arguments, **options):  # the capture takes seconds: once is enough
            program = original(*arguments, **options)
            program.save(folder / f"{name}.onnx")
            return program

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.onnx, "export", save_too)
            export(net, entry.draw(3, 0), folder / f"{name}.offramp", **entry.options)

    @functools.cache
    def get(name):
        entry = networks.ZOO[name]
        net, path = networks.build(entry), folder / f"{name}.offramp"
        with FileLock(folder / f"{name}.lock"):
            if not path.exists():
                write(net, entry, name)
        return net, open_bundle(path), folder / f"{name}.onnx"

    return get


@pytest.fixture
def own_zoo(zoo, tmp_path):
    """A network's bundle of the zoo as a copy that a test may add variants to."""
    return lambda name: open_bundle(shutil.copytree(zoo(name)[1].path, tmp_path / f"{name}.offramp"))


@pytest.fixture(scope="session")
def dense_onnx(tmp_path_factory):
    return write_onnx(tmp_path_factory.mktemp("onnx", numbered=True) / "dense.onnx")


@pytest.fixture(scope="session")
def shared_dense(dense_onnx, tmp_path_factory):
    """A small bundle, cut from an ONNX file. Nobody writes into it: `dense` gives a copy."""
    return export(dense_onnx, None, tmp_path_factory.mktemp("shared") / "dense.offramp")


@pytest.fixture
def dense(shared_dense, tmp_path):
    """A small bundle of its own for every test."""
    return open_bundle(shutil.copytree(shared_dense.path, tmp_path / "dense.offramp"))


@pytest.fixture(scope="session")
def labelled(shared_dense):
    """Samples of the dense network, labelled by its last exit except for one in ten."""
    from offramp.runtime import load_uncalibrated

    rng = np.random.default_rng(1)
    x = rng.standard_normal((800, 16)).astype(np.float32)
    y = load_uncalibrated(shared_dense).every_exit(x).label[:, -1].copy()
    wrong = rng.random(len(y)) < 0.1
    y[wrong] = rng.integers(0, CLASSES, wrong.sum())
    return x, y


@pytest.fixture(scope="session")
def shared_calibrations(shared_dense, labelled, tmp_path_factory):
    """The folder of a calibration of the dense bundle at a five percent drop, measured briefly.

    A network that small is faster whole, which is what would be recommended: the point with early exit is put in its place.
    """
    bundle = open_bundle(shutil.copytree(shared_dense.path, tmp_path_factory.mktemp("shared") / "dense.offramp"))
    found = calibrate(bundle, labelled, Target(max_drop=0.05))
    write_calibration(bundle.calibrations()[0], where_early_exit_wins(found))
    return bundle.path / "calibrations"


@pytest.fixture
def calibrated(dense, shared_calibrations):
    """The dense bundle with a calibration."""
    shutil.copytree(shared_calibrations, dense.path / "calibrations")
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
    from offramp.tests.helpers.documents import check_documents

    def run(line):
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which the command line replaces
        words = brief_arguments(part.format(f=files) for part in line.split())
        code = exit_code_of(words)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        if "--json" in words and out:
            check_documents(words, out)
        notes = "Note: ", "Took ", "\x1b"
        return code, out, "".join(row for row in err.splitlines(keepends=True) if not row.startswith(notes))

    return run


@pytest.fixture(scope="session")
def checkout(tmp_path_factory):
    """A folder laid out like a checkout, for what must run from one."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "samples").symlink_to(Path(__file__).parents[1] / "samples")
    return folder
