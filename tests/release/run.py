"""Build the sdist and the wheel, install the wheel into an empty environment with each extra alone, and use it there.

    python tests/release/run.py [--folder .release] [--python python3.11 ...] [EXTRA ...]    (make test-release)

The wheel is built from the sdist, so that both are tried. Each environment is made anew in FOLDER and removed after its trial,
which runs commands of that extra (`TRIALS`) in a folder and a home of its own, without this checkout. `base` is no extra at all;
there a command that needs one must end with 4 and name it. An extra that pip cannot install for a Python is told and passed over:
`missing` in the table. Ends with 1 if a trial fails.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession

from offramp.tests.zoo.dense import write_onnx

CHECKOUT = Path(__file__).parents[2]
SAMPLES = 400
NETWORK = """\
import torch
from torch import nn


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 32)
        self.heads = nn.ModuleList([nn.Linear(32, 5), nn.Linear(32, 5)])

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.heads[0](x), self.heads[1](torch.relu(self.second(x)))


def network():
    torch.manual_seed(0)
    return Network()
"""

TRIALS: dict[str, list[tuple[int, str]]] = {
    "base": [
        (0, "-h"),
        (4, "doctor"),
        (0, "inspect dense.offramp"),
        (0, "pack dense.offramp -o packed.zip"),
        (4, "run dense.offramp samples.npz"),
        (4, "calibrate dense.offramp samples.npz --max-disagreement 50%"),
        (4, "export network.py:network --data samples.npz -o new.offramp"),
        (4, "report dense.offramp -o report.html"),
        (4, "serve dense.offramp"),
        (4, "sign dense.offramp --key key.pem"),
    ],
    "onnxruntime": [(0, "verify dense.offramp"), (0, "run dense.offramp samples.npz")],
    "openvino": [
        (0, "verify dense.offramp --device openvino:CPU"),
        (0, "run dense.offramp samples.npz --device openvino:CPU"),
    ],
    "mnn": [(0, "verify dense.offramp --device mnn:cpu"), (0, "run dense.offramp samples.npz --device mnn:cpu")],
    "litert": [
        (0, "verify built.offramp --device litert:cpu"),
        (0, "run built.offramp samples.npz --device litert:cpu"),
    ],
    "ncnn": [(0, "verify built.offramp --device ncnn:cpu"), (0, "run built.offramp samples.npz --device ncnn:cpu")],
    "qnn": [(0, "run dense.offramp samples.npz --device qnn:simulator")],
    "nvml": [(0, "doctor")],
    "onnx": [
        (0, "export dense.onnx --data samples.npz -o new.offramp"),
        (0, "verify new.offramp"),
        (0, "fuse new.offramp -o fused.onnx"),
    ],
    "export": [
        (0, "export network.py:network --data samples.npz -o new.offramp"),
        (0, "quantize new.offramp --data samples.npz"),
        (0, "run new.offramp samples.npz --variant int8"),
    ],
    "calibrate": [
        (0, "calibrate dense.offramp samples.npz --max-disagreement 50%"),
        (0, "bench dense.offramp samples.npz"),
        (0, "run dense.offramp samples.npz"),
    ],
    "compress": [
        (0, "prune network.py:network --data samples.npz --macs 0.6 --epochs 1 -o new.offramp"),
        (0, "verify new.offramp"),
    ],
    "report": [(0, "report calibrated.offramp samples.npz -o report.html")],
    "metrics": [(0, "metrics.py")],
    "trust": [(0, "inspect signed.offramp --trust key.pub"), (5, "inspect dense.offramp --trust key.pub")],
    "sign": [(0, "sign dense.offramp --key key.pem --release 1"), (0, "inspect dense.offramp --trust key.pub")],
    "serve": [(0, "serve.py")],
    "fleet": [(0, "fleet.py"), (0, "inspect dense.offramp")],
    "all": [(0, "doctor")],
}
"""The commands of `offramp`, or programs in `trials/`, that an environment with one extra runs, and how each ends."""

BESIDE = {"metrics": ("onnxruntime",), "serve": ("onnxruntime",), "nvml": ("onnxruntime",)}
"""Extras that need an engine beside them."""

OUTSIDE = ("offramp/tests/", "offramp/samples/", "offramp/docs/", "offramp/.ci/")
"""What a wheel holds nothing of."""


def run(*command, cwd=None, env=None, check=True):
    return subprocess.run(
        [str(word) for word in command], cwd=cwd, env=env, check=check, capture_output=True, text=True
    )


def build_wheel(folder):
    """Return the wheel, made of the sdist, which is made of this checkout."""
    maker = folder / "maker"
    run(sys.executable, "-m", "venv", maker)
    run(maker / "bin/pip", "install", "-q", "build", "setuptools>=77")
    run(maker / "bin/python", "-m", "build", "--no-isolation", "--outdir", folder / "dist", CHECKOUT)
    (wheel,) = folder.joinpath("dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        strangers = [name for name in archive.namelist() if name.startswith(OUTSIDE)]
        paths = [name for name in archive.namelist() if str(CHECKOUT).encode() in archive.read(name)]
    if strangers or paths:
        raise SystemExit(f"{wheel.name} holds {strangers[:5]}, and this checkout's path in {paths[:5]}")
    return wheel


def prepare(folder):
    """Make the files of the trials in a folder: samples, networks, keys, and bundles with builds, calibrated and signed."""

    def offramp(words):
        run(sys.executable, "-m", "offramp", *words.split(), cwd=folder)

    x = np.random.default_rng(0).standard_normal((SAMPLES, 16)).astype(np.float32)
    session = InferenceSession(write_onnx(folder / "dense.onnx"))
    np.savez(folder / "samples.npz", x=x, y=session.run(None, {"x": x})[-1].argmax(1))
    (folder / "network.py").write_text(NETWORK)
    offramp("export dense.onnx --data samples.npz -o dense.offramp")
    for name in ("built", "calibrated", "signed"):
        shutil.copytree(folder / "dense.offramp", folder / f"{name}.offramp")
    offramp("build built.offramp --device litert:cpu --into-bundle")
    offramp("build built.offramp --device ncnn:cpu --into-bundle")
    offramp("build built.offramp --device litert:cpu --into-bundle --logits")
    offramp("calibrate calibrated.offramp samples.npz --max-disagreement 50%")
    run(*["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "key.pem"], cwd=folder)
    run(*["openssl", "pkey", "-in", "key.pem", "-pubout", "-out", "key.pub"], cwd=folder)
    offramp("sign signed.offramp --key key.pem --release 1")


def try_extra(python, extra, wheel, files, folder):
    """Return how a trial ended: "ok", "missing" or what failed."""
    here, environment = folder / "here", folder / "environment"
    shutil.copytree(files, here)
    shutil.copytree(Path(__file__).parent / "trials", here, dirs_exist_ok=True)
    extras = ",".join(BESIDE.get(extra, ()) + (extra,) * (extra != "base"))
    wanted = f"offramp[{extras}] @ {wheel.as_uri()}" if extras else str(wheel)
    run(python, "-m", "venv", environment)
    installed = run(environment / "bin/pip", "install", "-q", wanted, check=False)
    if installed.returncode:
        return f"missing: {installed.stderr.strip().splitlines()[-1][:120]}"
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "LANG", "SSL_"))}
    env = {**kept, "HOME": str(folder / "home"), "PATH": f"{environment / 'bin'}:/usr/bin:/bin"}
    for code, words in TRIALS[extra]:
        program = (environment / "bin/python",) if words.endswith(".py") else (environment / "bin/offramp",)
        done = run(*program, *words.split(), cwd=here, env=env, check=False)
        if done.returncode != code:
            return f"{words!r} ended with {done.returncode}, not {code}: {done.stderr.strip()[-600:]}"
    return "ok"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, default=CHECKOUT / ".release", help="where wheel and environments are made"
    )
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="the Pythons to try")
    parser.add_argument("extras", nargs="*", metavar="EXTRA", help=f"of {', '.join(TRIALS)}; default: all")
    options = parser.parse_args()
    if options.folder.exists() and any(options.folder.iterdir()) and not (options.folder / "files").is_dir():
        raise SystemExit(f"{options.folder} holds something else, which would be removed: name another folder.")
    shutil.rmtree(options.folder, ignore_errors=True)
    files = options.folder.absolute() / "files"
    files.mkdir(parents=True)
    wheel = build_wheel(options.folder.absolute())
    print(wheel.name, flush=True)
    prepare(files)
    failed = False
    for python in options.python:
        for extra in options.extras or TRIALS:
            start = time.monotonic()
            with tempfile.TemporaryDirectory(dir=options.folder.absolute()) as folder:
                ended = try_extra(python, extra, wheel, files, Path(folder))
            failed |= not ended.startswith(("ok", "missing"))
            print(f"{Path(python).name:12} {extra:12} {time.monotonic() - start:5.0f} s  {ended}", flush=True)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
