"""Programs of C++ that tests and benchmarks run: built by CMake against the OpenVINO of this Python."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build/cpp"
SOURCE = ROOT / "tests/cpp"


def build() -> str | None:
    """Build the programs into `BUILD`; return why they cannot be built, or None.

    Where `ONNXRUNTIME_ROOT` names a release of ONNX Runtime, with include/ and lib/, they have that engine too.
    """
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        return "needs cmake and a C++ compiler: apt-get install cmake g++"
    spec = importlib.util.find_spec("openvino")
    if spec is None or spec.origin is None:
        return "needs OpenVINO: pip install openvino"
    options = [f"-DOpenVINO_DIR={Path(spec.origin).parent / 'cmake'}"]
    options.append(f"-DONNXRUNTIME_ROOT={os.environ.get('ONNXRUNTIME_ROOT', '')}")
    done = subprocess.run(["cmake", "-S", SOURCE, "-B", BUILD, *options], capture_output=True, text=True)
    if done.returncode:
        if "nlohmann" in done.stderr:
            return "needs nlohmann/json: apt-get install nlohmann-json3-dev"
        raise RuntimeError(done.stderr)
    done = subprocess.run(["cmake", "--build", BUILD, "--parallel", "2"], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return None
