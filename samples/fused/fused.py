"""Fuse a bundle into one ONNX file and run that without offramp, with ONNX Runtime alone, in JavaScript and in C++.

    npm install --ignore-scripts --prefix samples/fused
    python samples/fused/fused.py

--ignore-scripts skips a download of CUDA libraries; those for the processor are in the package. C++ needs ONNX Runtime's headers
and library: unpack a release and name its folder with --onnxruntime, or install Debian's libonnxruntime-dev (Debian 13 or later). If
a language is not installed, the script leaves it out and prints why. The bundle is the quickstart's, which runs first if it has not
run yet; any bundle with one float input works. Copy run.js or run.cpp into your program: they read a sample from a file of float32
values. The script writes build/fused/model.onnx.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from offramp.cli.inputs import load_samples
from offramp.export import fuse
from offramp.runtime import load

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE.parent / "quickstart"


def find_node() -> list[str] | str:
    """Return the command that starts run.js, or the reason why it cannot start."""
    if shutil.which("node") is None:
        return "node is not installed"
    command = ["node", str(HERE / "run.js")]
    package = subprocess.run(["node", "-e", "require.resolve('onnxruntime-node')"], cwd=HERE, capture_output=True)
    return command if package.returncode == 0 else f"run npm install --ignore-scripts --prefix {HERE}"


def build_cpp(root: Path, output: Path) -> list[str] | str:
    """Compile run.cpp and return the command that starts it, or the reason why it cannot be compiled."""
    header = "onnxruntime_cxx_api.h"
    folders = [folder for folder in (root / "include", root / "include/onnxruntime") if (folder / header).exists()]
    if not folders:
        return f"there is no include/{header} in {root}"
    if shutil.which("g++") is None:
        return "g++ is not installed"
    flags = ["-std=c++17", "-O2", f"-I{folders[0]}", f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}"]
    subprocess.run(["g++", str(HERE / "run.cpp"), *flags, "-lonnxruntime", "-o", str(output)], check=True)
    return [str(output.resolve())]


def run(command: Sequence[str], model: Path, sample: Path) -> str:
    done = subprocess.run([*command, str(model), str(sample)], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bundle", type=Path, default=Path("build/quickstart/network.offramp"), help="the bundle to fuse"
    )
    parser.add_argument("--data", default=f"{QUICKSTART / 'digits.py'}:test", help="samples, as offramp run takes them")
    parser.add_argument("--onnxruntime", type=Path, default=Path("/usr"), help="folder with include/ and lib/")
    parser.add_argument("--output", type=Path, default=Path("build/fused"), help="folder for what is written")
    options = parser.parse_args()
    if not options.bundle.exists():
        subprocess.run([sys.executable, str(QUICKSTART / "quickstart.py")], check=True)
    options.output.mkdir(parents=True, exist_ok=True)
    model, (samples, _) = options.output / "model.onnx", load_samples(options.data)

    with load(options.bundle) as net:  # the recommended point may be a static network; fuse one that exits early
        point = next(name for name, point in net.points.items() if point.exits_early)
    print(fuse(options.bundle, model, point=point))
    with load(options.bundle, point=point) as net:
        results = [net(sample) for sample in samples]
    # The first sample that leaves at each exit.
    picked = {result.exit: row for row, result in reversed(list(enumerate(results)))}

    programs = {
        "javascript": find_node(),
        "c++": build_cpp(options.onnxruntime, options.output / "run"),
    }
    differ = 0
    for exit_, row in sorted(picked.items()):
        sample = options.output / f"exit{exit_}.f32"
        np.ascontiguousarray(samples[row], "<f4").tofile(sample)
        wanted = f"label {results[row].label} score {results[row].score:.4f} exit {exit_}"
        print(f"\nsample {row}, {sample}\n  {'offramp':10} {wanted}")
        for name, command in programs.items():
            if not isinstance(command, str):
                answer = run(command, model, sample)
                same = agree(answer, wanted)
                differ += not same
                print(f"  {name:10} {answer}{'' if same else '   DIFFERS'}")
    print()
    for name, command in programs.items():
        print(
            f"{name}: left out, {command}" if isinstance(command, str) else f"{name}: {' '.join(command)} MODEL SAMPLE"
        )
    if differ:
        sys.exit(f"{differ} answers differ from offramp's.")


def agree(answer: str, wanted: str) -> bool:
    """Return True if two answers have the same label and exit, and scores that differ by rounding at most."""
    (_, label, _, score, _, exit_), (_, label2, _, score2, _, exit2) = answer.split(), wanted.split()
    return (label, exit_) == (label2, exit2) and abs(float(score) - float(score2)) < 2e-4


if __name__ == "__main__":
    main()
