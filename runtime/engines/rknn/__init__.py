"""Stages on Rockchip's NPUs: `rknn:rk3588` and the other chips of `RKNN_SOCS`.

A stage is built on a workstation by rknn-toolkit2, which wants old versions of much else and so has an environment of its own. On
the board rknn-toolkit-lite2 (RKNNLite) runs it. What is built is a line of JSON, `RknnHeader`, and the `.rknn` file.
"""

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from ....devices.sysfs import read_text
from ....errors import BundleError, MissingError, UnsupportedError
from ....files import os_errors_explained
from .. import HOST, Run, StageFile, pin_shapes
from .._stdout import printing_to_stderr

if TYPE_CHECKING:
    import numpy as np

PACKAGE = "rknn-toolkit-lite2"
ALIASES = ()
RKNN_SOCS = ("rk3588", "rk3576", "rk3568", "rk3566", "rk3562", "rv1126b")
"""The chips that RKNNLite runs on."""

BOARD_ROOT = Path("/")
CONVERT_S = 3600.0
"""After that long rknn-toolkit2 is taken to hang."""

BUILD_FORM = 1
"""Of what is built; counted up when `RknnHeader` or the converter changes so that older builds do not fit."""

TOOLKIT = "rknn-toolkit2==2.5.0"
FOLDER = Path(__file__).parent


class Edge(Struct, frozen=True):
    """An input or output of a stage, and what the NPU has in its place.

    Attributes:
        name: in the stage.
        tensor: what the NPU has; None for an output that is an input of the stage in 8 bits, which the NPU need not see.
        input: the name of that input.
        scale, zero_point: where the stage has 8 bits and the NPU float32: real = (quantised - zero_point) * scale, as in ONNX.
    """

    name: str
    tensor: str | None = None
    input: str | None = None
    scale: float | None = None
    zero_point: int = 0


class RknnHeader(Struct, frozen=True):
    """What is known of a build: the toolkit's version, the borders, the NPU's layers by dtype, and the operators of the CPU."""

    toolkit: str
    inputs: tuple[Edge, ...]
    outputs: tuple[Edge, ...]
    npu: dict[str, int]
    cpu: tuple[str, ...]


def list_places() -> dict[str, str]:
    """Return the chip of this board.

    Raises:
        MissingError: this is no board of Rockchip's, or RKNNLite is not installed.
    """
    soc = _find_soc()
    if soc is None:
        raise MissingError(
            "This is no board with an NPU of Rockchip's. Stages are built here with: offramp build BUNDLE --device rknn:rk3588."
        )
    _lite()
    return {soc: f"NPU of {soc}"}


def check_place(place: str) -> None:
    """See that the NPU of a chip is here.

    Raises:
        MissingError: it is not, or RKNNLite is not installed.
    """
    _check_name(place)
    soc = _find_soc()
    if soc is None:
        raise MissingError(
            f"rknn:{place} runs on a board with that chip, and this is none. Here its stages can be built: "
            f"offramp build BUNDLE --device rknn:{place}."
        )
    if soc != place:
        raise MissingError(f"This board has {soc}, not {place}: ask for rknn:{soc}.")
    _lite()


def describe_build(place: str) -> dict[str, str]:
    """Return what decides whether a build fits; the workstation that makes it and the threads, which an NPU has none of, do not.

    The toolkit's version is left to the board's runtime, which refuses what is newer than itself.
    """
    _check_name(place)
    return {"engine": "rknn", "architecture": place, "threads": "any", "offramp": f"form {BUILD_FORM}"}


def _check_name(place: str) -> None:
    if place not in RKNN_SOCS:
        raise MissingError(f"RKNN has no place {place!r}. It has {', '.join(RKNN_SOCS)}.")


def _find_soc() -> str | None:
    """Read the chip from the device tree: `rockchip,rk3588s` is a variant of rk3588."""
    for name in (read_text(BOARD_ROOT / "proc/device-tree/compatible") or "").split("\0"):
        maker, _, chip = name.partition(",")
        for soc in RKNN_SOCS:
            if maker == "rockchip" and chip.startswith(soc):
                return soc
    return None


def _lite() -> Any:
    """Return the class RKNNLite."""
    try:
        from rknnlite.api import RKNNLite
    except ImportError as error:
        raise MissingError(
            f"RKNNLite does not import: {error}. Install it on the board: pip install rknn-toolkit-lite2, or the wheel "
            "in rknn-toolkit-lite2/packages of github.com/airockchip/rknn-toolkit2, with librknnrt.so of that version from there."
        ) from error
    return RKNNLite


def build(source: StageFile, place: str, *, threads: int) -> bytes:
    """Convert a stage at batch 1 with rknn-toolkit2, in float16 or, where it is quantised, in int8 with its own ranges.

    Raises:
        MissingError: there is no environment with rknn-toolkit2; says how to make it.
        UnsupportedError: rknn-toolkit2 refuses the stage, with its reason.
    """
    _check_name(place)
    shapes = pin_shapes(source, f"rknn:{place}")
    python = _find_python()
    source.check()
    job = {
        "onnx": str(source.path.resolve()),
        "soc": place,
        "inputs": [{"name": tensor.name, "shape": shapes[tensor.name]} for tensor in source.inputs],
        "outputs": source.outputs,
    }
    with tempfile.TemporaryDirectory(prefix="offramp.") as folder:
        reply, model, log = _convert(python, job, Path(folder))
    where = f"{source.path} for rknn:{place}"
    if "error" in reply:
        if reply.get("kind") == "missing":
            raise MissingError(f"The environment of {python} is incomplete: {reply['error']}. {_how_to_make(python)}")
        raise UnsupportedError(f"rknn-toolkit2 cannot build {where}: {reply['error']}.")
    layers = re.findall(r"^D RKNN: \[[\d:.]+\] \d+ +(\w+) +(\w+) +(CPU|NPU|GPU) ", log, re.MULTILINE)
    left = {name for name, _, target in layers if target != "NPU"} - {"InputOperator", "OutputOperator"}
    count = Counter(dtype.lower() for _, dtype, target in layers if target == "NPU")
    header = msgspec.convert(reply | {"npu": dict(count), "cpu": sorted(left)}, RknnHeader)
    return msgspec.json.encode(header) + b"\n" + model


def _find_python() -> Path:
    """Return the Python of the environment that has rknn-toolkit2."""
    given = os.environ.get("OFFRAMP_RKNN_PYTHON")
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    data = base if base.is_absolute() else Path.home() / ".local/share"
    path = (
        Path(given).absolute() if given else data / "offramp/rknn/bin/python"
    )  # a link is left one: it is the environment
    if not path.is_file():
        raise MissingError(
            f"Stages for Rockchip's NPUs are built by rknn-toolkit2, in an environment of its own, and there is none at {path}. "
            f"{_how_to_make(path)}"
        )
    return path


def _how_to_make(python: Path) -> str:
    pip = python.with_name("pip")
    return (
        f"Make it (x86-64, Python 3.10 to 3.12, 2 GB):\n  python3.11 -m venv {python.parents[1]}\n"
        f"  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu {pip} install -r {FOLDER / 'requirements.txt'}\n"
        f"  {pip} install --no-deps {TOOLKIT}\n"
        "or let OFFRAMP_RKNN_PYTHON name the Python of another one."
    )


def _convert(python: Path, job: dict[str, Any], folder: Path) -> tuple[dict[str, Any], bytes, str]:
    """Run the converter in a folder; return its reply, the `.rknn` file, and what rknn-toolkit2 printed."""
    log = folder / "log"
    command = [
        str(python),
        "-I",
        str(FOLDER / "converter.py"),
    ]  # -I: our modules are not to be found as `cache` or `stats`
    with log.open("wb") as out:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=os.environ | {"TMPDIR": str(folder)},
                start_new_session=True,
            )
        except OSError as error:
            raise MissingError(f"{python} cannot be run: {error.strerror}. {_how_to_make(python)}") from error
        with process:
            try:
                process.communicate(json.dumps(job).encode(), timeout=CONVERT_S)
            except subprocess.TimeoutExpired:
                return {"error": f"it was stopped after {CONVERT_S / 60:.0f} minutes"}, b"", ""
            finally:
                if process.returncode is None:  # interrupted, or out of time; it may have children
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
    text = log.read_text(errors="replace")
    try:
        reply: dict[str, Any] = msgspec.json.decode((folder / "reply.json").read_bytes(), type=dict[str, Any])
        return reply, b"" if "error" in reply else (folder / "stage.rknn").read_bytes(), text
    except (OSError, msgspec.DecodeError):
        return {"error": _explain_end(process.returncode, text)}, b"", text


def _explain_end(code: int, log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E RKNN")] or lines
    said = f": {errors[-1]}" if errors else ""
    if code < 0:
        memory = ", as when memory runs out" if code == -signal.SIGKILL else ""
        return f"it was ended by signal {-code}{memory}{said}"
    return f"it ended with code {code}{said}"


def compile_stage(source: StageFile, place: str, *, threads: int, built: bytes | None = None) -> "RknnStage":
    """Load what was built ahead into RKNNLite.

    Raises:
        MissingError: this is not the board, RKNNLite is not installed, nothing was built, or the board's runtime is too old.
        BundleError: what was built cannot be read.
    """
    check_place(place)
    if built is None:
        raise MissingError(
            f"{source.path} is not built for rknn:{place}. Build it on a workstation: "
            f"offramp build BUNDLE --device rknn:{place}"
        )
    line, _, model = built.partition(b"\n")
    try:
        header = msgspec.json.decode(line, type=RknnHeader)
    except msgspec.DecodeError as error:
        raise BundleError(f"What was built of {source.path} for rknn:{place} cannot be read: {error}") from error
    lite = _lite()(verbose=False)
    with (
        printing_to_stderr(),
        os_errors_explained(Path(tempfile.gettempdir()), "write"),
        tempfile.NamedTemporaryFile(suffix=".rknn") as file,
    ):
        file.write(model)
        file.flush()
        loaded = _succeeds(lambda: lite.load_rknn(file.name))
        started = loaded and _succeeds(lite.init_runtime)
    if not started:
        lite.release()
        if not loaded:
            raise BundleError(f"RKNNLite cannot read what was built of {source.path} for rknn:{place}.")
        raise MissingError(
            f"RKNNLite cannot start {source.path} on {place}. Most often librknnrt.so here is older than rknn-toolkit2 "
            f"{header.toolkit}, which built it: update it from github.com/airockchip/rknn-toolkit2. Or remove engines/"
            f"rknn-{place} in the bundle and build again with the older toolkit."
        )
    return RknnStage(lite, header, _describe(lite, header, place))


def _succeeds(call: Any) -> bool:
    """Tell whether a call of RKNNLite's, which returns 0 or says on the terminal why not, went well."""
    try:
        return bool(call() == 0)
    except Exception as error:
        print(error, file=sys.stderr)
        return False


def _describe(lite: Any, header: RknnHeader, place: str) -> str:
    """Say what runs: the runtime's and the driver's version, as RKNNLite tells, and which layers the build left to the CPU."""
    said = lite.get_sdk_version() or ""
    names = {"API": "runtime", "DRV": "driver"}
    versions = [f"{names[key]} {number}" for key, number in re.findall(r"(API|DRV):\s*v?([\d.]+)", said)]
    layers = ", ".join(f"{count} {dtype}" for dtype, count in header.npu.items())
    npu = f"NPU of {place} (layers: {layers})" if layers else f"NPU of {place}"
    return ", ".join(
        [f"RKNN {header.toolkit}", *versions, npu, *([f"CPU ({', '.join(header.cpu)})"] if header.cpu else [])]
    )


class RknnStage:
    """A stage in RKNNLite, one sample at a time; its bindings share one context."""

    memory = HOST
    allocate = None
    batches = False
    clones = False
    half = True

    def __init__(self, lite: Any, header: RknnHeader, runs_on: str) -> None:
        self.runs_on = runs_on
        self._lite, self._header = lite, header
        weakref.finalize(self, lite.release)

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Run:
        """Tie arrays to the stage; each run copies what the NPU gives into the outputs.

        Raises:
            BundleError: the stage has no input or output of a name.
        """
        feeds = {edge.name: edge for edge in self._header.inputs}
        gives = {edge.name: edge for edge in self._header.outputs}
        if strange := {*inputs} ^ {*feeds} | {*outputs} - {*gives}:
            raise BundleError(
                f"A stage and its manifest do not fit together: {', '.join(sorted(strange))}. Export the network anew."
            )
        made = [edge.name for edge in self._header.outputs if edge.tensor is not None]
        copies = [
            (
                outputs[name],
                gives[name],
                inputs[source] if (source := gives[name].input) is not None else made.index(name),
            )
            for name in outputs
        ]
        return functools.partial(self._run, [(inputs[name], edge) for name, edge in feeds.items()], copies)

    def _run(self, feeds: list[tuple[Any, Edge]], copies: list[tuple[Any, Edge, Any]]) -> None:
        given = self._infer([_dequantise(array, edge) for array, edge in feeds])
        for place, edge, source in copies:
            _put(given[source] if isinstance(source, int) else source, place, edge)

    def _infer(self, arrays: list["np.ndarray"]) -> list["np.ndarray"]:
        import numpy as np

        # Four axes are NHWC to every version of RKNNLite; how to tell it otherwise differs between them.
        last = [np.ascontiguousarray(np.moveaxis(one, 1, 3)) if one.ndim == 4 else one for one in arrays]
        given = self._lite.inference(inputs=last)
        expected = sum(edge.tensor is not None for edge in self._header.outputs)
        if given is None or len(given) != expected:
            raise MissingError(
                f"The NPU failed: RKNNLite gave {len(given or ())} outputs of {expected}, and says why on stderr. Does the stage "
                "read a type that it does not know? It takes int8, uint8, int16, float16 and float32."
            )
        return list(given)

    def infer(self, inputs: Mapping[str, "np.ndarray"], outputs: Sequence[str]) -> dict[str, "np.ndarray"]:
        """Refuse: a chain asks for it where shapes are not known beforehand, and an NPU's are fixed."""
        raise UnsupportedError("NPUs take fixed shapes only.")


def _dequantise(array: "np.ndarray", edge: Edge) -> "np.ndarray":
    if edge.scale is None:
        return array
    import numpy as np

    return (array.astype(np.float32) - np.float32(edge.zero_point)) * np.float32(edge.scale)


def _put(given: "np.ndarray", place: "np.ndarray", edge: Edge) -> None:
    """Write what the NPU gives where the chain wants it: quantised as ONNX's QuantizeLinear does, labels as integers."""
    import numpy as np

    values = given.reshape(place.shape)
    if edge.scale is not None:
        info = np.iinfo(place.dtype)
        values = np.clip(np.rint(values / np.float32(edge.scale)) + edge.zero_point, info.min, info.max)
    elif place.dtype.kind in "iu" and values.dtype.kind == "f":
        values = np.rint(values)
    np.copyto(place, values, casting="unsafe")
