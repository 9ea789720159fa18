"""rknn-toolkit2 on the workstation: the environment that has it, and the converter that runs in it as a process of its own."""

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from ....errors import MissingError
from ....files import data_home

__all__ = ["convert", "find_python", "how_to_make"]

CONVERT_S = 3600.0
"""After this time rknn-toolkit2 is taken to hang."""

TOOLKIT = "rknn-toolkit2==2.5.0"
FOLDER = Path(__file__).parent


def find_python() -> Path:
    """Return the Python of the environment that has rknn-toolkit2.

    Raises:
        MissingError: there is none; says how to make it.
    """
    named = os.environ.get("OFFRAMP_RKNN_PYTHON")
    # Links are not followed: an environment is known by the path of its Python.
    path = Path(named).absolute() if named else data_home() / "offramp/rknn/bin/python"
    if not path.is_file():
        raise MissingError(
            f"Stages for Rockchip's NPUs are built by rknn-toolkit2, in an environment of its own, and there is none at {path}. "
            f"{how_to_make(path)}",
            package="rknn-toolkit2",
            path=path,
        )
    return path


def how_to_make(python: Path) -> str:
    """Say how to make the environment of a Python."""
    pip = python.with_name("pip")
    return (
        f"Make it (x86-64, Python 3.10 to 3.12, 2 GB):\n  python3.11 -m venv {python.parents[1]}\n"
        f"  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu {pip} install -r {FOLDER / 'requirements.txt'}\n"
        f"  {pip} install --no-deps {TOOLKIT}\n"
        "or let OFFRAMP_RKNN_PYTHON name the Python of another one."
    )


def convert(python: Path, job: dict[str, Any], folder: Path) -> tuple[dict[str, Any], bytes, str]:
    """Run the converter.

    Args:
        python: the Python to run it with.
        job: what `converter.py` reads from stdin.
        folder: an empty folder for its files.

    Returns:
        The converter's reply, the `.rknn` file (empty if the reply is an error), and what rknn-toolkit2 printed.

    Raises:
        MissingError: the Python cannot be run.
    """
    log = folder / "log"
    # -I keeps offramp's modules from being found under names such as `cache`.
    command = [str(python), "-I", str(FOLDER / "converter.py")]
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
            raise MissingError(
                f"{python} cannot be run: {error.strerror}. {how_to_make(python)}", package="rknn-toolkit2", path=python
            ) from error
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
    """Say how a converter ended that left no reply, with the last error in its log."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("E RKNN")] or lines
    reason = f": {errors[-1]}" if errors else ""
    if code < 0:
        memory = ", as when memory runs out" if code == -signal.SIGKILL else ""
        return f"it was ended by signal {-code}{memory}{reason}"
    return f"it ended with code {code}{reason}"
