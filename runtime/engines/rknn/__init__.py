"""Stages on Rockchip's NPUs: `rknn:rk3588` and the other chips of `RKNN_SOCS`.

A stage is built on a workstation by rknn-toolkit2, which wants old versions of many packages and so has an environment of its
own. On the board rknn-toolkit-lite2 (RKNNLite) runs the stage. A build is a line of JSON, `RknnHeader`, and the `.rknn` file.
"""

import os
import re
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ....devices.sysfs import read_text
from ....errors import BundleError, MissingError, UnsupportedError
from ....files import os_errors_explained
from .. import StageFile, pin_shapes
from .._stdout import printing_to_stderr

if TYPE_CHECKING:
    from .stage import RknnHeader, RknnStage

PACKAGE = "rknn-toolkit-lite2"
RKNN_SOCS = ("rk3588", "rk3576", "rk3568", "rk3566", "rk3562", "rv1126b")
"""The chips that RKNNLite runs on."""

BOARD_ROOT = Path("/")

BUILD_FORM = 1
"""The version of a build's form. Counted up if `RknnHeader` or the converter changes so that older builds do not fit."""


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
    _import_lite()
    return {soc: f"NPU of {soc}"}


def check_place(place: str) -> None:
    """Check that this board has the NPU of a chip.

    Raises:
        MissingError: it has not, or RKNNLite is not installed.
    """
    _check_name(place)
    soc = _find_soc()
    if soc is None:
        raise MissingError(
            f"rknn:{place} runs on a board with that chip, and this is none. Here its stages can be built: "
            f"offramp build BUNDLE --device rknn:{place}.",
            device=f"rknn:{place}",
        )
    if soc != place:
        raise MissingError(f"This board has {soc}, not {place}: ask for rknn:{soc}.", device=f"rknn:{place}")
    _import_lite()


def describe_build(place: str) -> dict[str, str]:
    """Return the chip and the form of the build.

    Neither the workstation nor the number of threads decides anything: an NPU has no threads. The toolkit's version is left to
    the board's runtime, which refuses builds that are newer than itself.
    """
    _check_name(place)
    return {"engine": "rknn", "architecture": place, "threads": "any", "offramp": f"form {BUILD_FORM}"}


def build(stage: StageFile, place: str, *, threads: int) -> bytes:
    """Convert a stage at batch 1 with rknn-toolkit2: to float16, or if it is quantised to int8 with its own ranges.

    Raises:
        MissingError: there is no environment with rknn-toolkit2; says how to make it.
        UnsupportedError: rknn-toolkit2 refuses the stage, with its reason.
    """
    from .stage import RknnHeader
    from .toolkit import TOOLKIT

    _check_name(place)
    shapes = pin_shapes(stage, f"rknn:{place}")
    python = TOOLKIT.find_python()
    job = {
        "soc": place,
        "inputs": [{"name": tensor.name, "shape": shapes[tensor.name]} for tensor in stage.inputs],
        "outputs": stage.outputs,
    }
    job["onnx"] = os.path.realpath(stage.copied())
    with tempfile.TemporaryDirectory(prefix="offramp.") as folder:
        reply, model, log = TOOLKIT.convert(python, job, Path(folder))
    if "error" in reply:
        raise UnsupportedError(
            f"rknn-toolkit2 cannot build {stage.path} for rknn:{place}: {reply['error']}.", path=stage.path
        )
    layers = re.findall(r"^D RKNN: \[[\d:.]+\] \d+ +(\w+) +(\w+) +(CPU|NPU|GPU) ", log, re.MULTILINE)
    on_cpu = {name for name, _, target in layers if target != "NPU"} - {"InputOperator", "OutputOperator"}
    dtypes = Counter(dtype.lower() for _, dtype, target in layers if target == "NPU")
    header = msgspec.convert(reply | {"npu": dict(dtypes), "cpu": sorted(on_cpu)}, RknnHeader)
    return msgspec.json.encode(header) + b"\n" + model


def compile_stage(stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> "RknnStage":
    """Load a build into RKNNLite.

    Raises:
        MissingError: this is not the board, RKNNLite is not installed, there is no build, or the board's runtime is too old.
        BundleError: the build cannot be read.
    """
    from .stage import RknnHeader, RknnStage

    check_place(place)
    if built is None:
        raise MissingError(
            f"{stage.path} is not built for rknn:{place}. Build it on a workstation: "
            f"offramp build BUNDLE --device rknn:{place}",
            path=stage.path,
        )
    line, _, model = built.partition(b"\n")
    try:
        header = msgspec.json.decode(line, type=RknnHeader)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(
            f"The build of {stage.path} for rknn:{place} cannot be read: {error}", path=stage.path
        ) from error
    lite = _import_lite()(verbose=False)
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
            raise BundleError(f"RKNNLite cannot read the build of {stage.path} for rknn:{place}.", path=stage.path)
        raise MissingError(
            f"RKNNLite cannot start {stage.path} on {place}. Most often librknnrt.so here is older than rknn-toolkit2 "
            f"{header.toolkit}, which built it: update it from github.com/airockchip/rknn-toolkit2. Or remove engines/"
            f"rknn-{place} in the bundle and build again with the older toolkit.",
            path=stage.path,
        )
    return RknnStage(lite, header, _describe(lite, header, place))


def _check_name(place: str) -> None:
    if place not in RKNN_SOCS:
        raise MissingError(f"RKNN has no place {place!r}. It has {', '.join(RKNN_SOCS)}.", device=f"rknn:{place}")


def _find_soc() -> str | None:
    """Read the chip from the device tree. A variant counts as its chip: `rockchip,rk3588s` is rk3588."""
    for name in (read_text(BOARD_ROOT / "proc/device-tree/compatible") or "").split("\0"):
        maker, _, chip = name.partition(",")
        for soc in RKNN_SOCS:
            if maker == "rockchip" and chip.startswith(soc):
                return soc
    return None


def _import_lite() -> Any:
    """Return the class RKNNLite.

    Raises:
        MissingError: it is not installed.
    """
    try:
        from rknnlite.api import RKNNLite
    except ImportError as error:
        raise MissingError(
            f"RKNNLite does not import: {error}. Install it on the board: pip install rknn-toolkit-lite2, or the wheel "
            "in rknn-toolkit-lite2/packages of github.com/airockchip/rknn-toolkit2, with librknnrt.so of that version from "
            "there.",
            package="rknnlite",
        ) from error
    return RKNNLite


def _succeeds(call: Any) -> bool:
    """Return True if a call of RKNNLite's returns 0. Otherwise RKNNLite has printed the reason."""
    try:
        return bool(call() == 0)
    except Exception as error:
        print(error, file=sys.stderr)
        return False


def _describe(lite: Any, header: "RknnHeader", place: str) -> str:
    """Say what runs: the versions of runtime and driver that RKNNLite reports, and the layers that the build left to the CPU."""
    report = lite.get_sdk_version() or ""
    names = {"API": "runtime", "DRV": "driver"}
    versions = [f"{names[key]} {number}" for key, number in re.findall(r"(API|DRV):\s*v?([\d.]+)", report)]
    layers = ", ".join(f"{count} {dtype}" for dtype, count in header.npu.items())
    npu = f"NPU of {place} (layers: {layers})" if layers else f"NPU of {place}"
    cpu = [f"CPU ({', '.join(header.cpu)})"] if header.cpu else []
    return ", ".join([f"RKNN {header.toolkit}", *versions, npu, *cpu])
