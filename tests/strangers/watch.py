"""A process with a limit of time for each of its steps and a limit of memory."""

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

STEPS = ("attach", "export", "chain", "fuse", "quantize")
FOLLOWS = ("attach", "export")
"""Steps without whose result no later step can run."""

LOOK_S = 0.2
START_S = 600.0
"""Seconds that a process may take before its first step begins: it imports torch."""


class Limits(NamedTuple):
    """What a network may take: seconds for each step, and megabytes of memory."""

    timeout_s: float
    memory_mb: float


def watch_process(command: Sequence[str], file: Path, log: Path, limits: Limits) -> list[dict[str, Any]]:
    """Run a process to its end or to a limit.

    Args:
        command: writes a line of JSON to `file` as each of its steps begins and as it ends.
        file: where it writes.
        log: gets all that it prints.
        limits: what it may take.

    Returns:
        The records of the steps that ended; the last one says how the process ended if that was within a step.
    """
    with log.open("wb") as printed:
        process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
    outcome, words, peak_mb, start = None, "", 0.0, time.monotonic()
    try:
        records: list[dict[str, Any]] = []
        since = start
        while process.poll() is None:
            time.sleep(LOOK_S)
            if len(found := read_records(file)) != len(records):
                records, since = found, time.monotonic()
            peak_mb = max(peak_mb, _resident_mb(process.pid))
            waited_s = time.monotonic() - since
            if peak_mb > limits.memory_mb:
                outcome, words = "memory", f"takes more than {limits.memory_mb:.0f} MB"
            elif waited_s > (limits.timeout_s if records else max(START_S, limits.timeout_s)):
                outcome, words = "time", f"takes more than {waited_s:.0f} s"
            if outcome:
                break
    finally:
        _kill(process)
    records = read_records(file)
    ended = [record for record in records if "outcome" in record]
    if not records or "begins" in records[-1]:
        step = records[-1]["step"] if records else "build"
        words = words or f"the process ended with {_show_code(process.returncode)}: {_last_line(log)}"
        seconds = round(time.monotonic() - since, 1)
        ended.append(
            {
                "step": step,
                "outcome": outcome or "crash",
                "seconds": seconds,
                "peak_mb": round(peak_mb),
                "words": words,
            }
        )
    return ended


def read_records(file: Path) -> list[dict[str, Any]]:
    """Return the records in a file of JSON lines; lines that a killed process left unfinished are left out."""
    records = []
    for line in file.read_text().splitlines() if file.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def _resident_mb(pid: int) -> float:
    """Return the resident memory of a process and its children; 0 if it has ended."""
    try:
        process = psutil.Process(pid)
        return float(sum(part.memory_info().rss for part in [process, *process.children(recursive=True)])) / 1e6
    except psutil.Error:
        return 0.0


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children, if it still runs."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
    process.kill()
    process.wait()


def _show_code(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing printed")[:300]
