"""The power chip (PMIC) of Raspberry Pi 5, asked through its firmware (`vcgencmd pmic_read_adc`).

Sensor: the chip that makes the board's supplies, with an analog-to-digital converter for their voltages and currents.
Sees: the regulated rails of the board: processor cores, memory, 3.3 V and 1.8 V.
Cannot see: conversion losses, USB devices and HATs, so the sum is less than the plug delivers; short peaks, at 21 reads a second.
Here: a rail counts if the firmware gives both its current and its voltage.
"""

import re
from collections.abc import Callable
from pathlib import Path

from ..board import Board
from ..meter import Meter
from ..rail import Probe, Rail, Unavailable
from ..state import StateReader

LOOKS_FOR = "Raspberry Pi 5's power chip through /usr/bin/vcgencmd pmic_read_adc"

POLL_S = 0.1
"""Every read starts a process: 21 reads a second are possible at most."""

LINE = re.compile(r"(\w+)_([AV])\s+(?:current|volt)\(\d+\)=(-?\d+(?:\.\d+)?)[AV]")

SCOPE = "the board's regulated rails, without conversion losses, USB and HATs: not what the plug delivers"


def find(root: Path, board: Board, state: StateReader) -> list[Meter | Unavailable]:
    """Find the rails that have both a current and a voltage. They are paired by name, since their indices differ."""
    command = root / "usr/bin/vcgencmd"
    if board.kind != "raspberry-pi":
        return [Unavailable("pmic", "this is no Raspberry Pi", "")]
    if "bcm2712" not in board.soc:
        return [Unavailable("pmic", f"{board.name} has no power sensor: Raspberry Pi 5 has", "Use an external meter.")]
    if not command.exists():
        return [Unavailable("pmic", "no /usr/bin/vcgencmd is there", "Install it: sudo apt install raspi-utils")]
    try:
        names = sorted(ask(command))
    except OSError as error:
        remedy = "Let your user ask the firmware: sudo usermod -aG video $USER, then log in again."
        return [Unavailable("pmic", f"vcgencmd pmic_read_adc: {error.strerror or error}", remedy)]
    if not names:
        return [
            Unavailable("pmic", "vcgencmd pmic_read_adc gives no rail with current and voltage", "Update the firmware.")
        ]
    rails = tuple(Rail(name=name, role="total", covers="a regulated rail", most_w=board.most_w) for name in names)
    probe = Probe(rails, _reader(command, names))
    return [Meter("pmic", [probe], scope=SCOPE, poll_s=POLL_S, state=state)]


def _reader(command: Path, names: list[str]) -> Callable[[], list[float]]:
    def read() -> list[float]:
        powers = ask(command)
        return [powers.get(name, float("nan")) for name in names]

    return read


def ask(command: Path) -> dict[str, float]:
    """Return the power of each rail in W.

    Raises:
        OSError: the firmware does not answer.
    """
    import subprocess  # it takes long to import

    try:
        done = subprocess.run([command, "pmic_read_adc"], capture_output=True, text=True, errors="replace", timeout=2)
    except subprocess.SubprocessError as error:
        raise OSError(0, str(error)) from error
    if done.returncode:
        raise OSError(0, (done.stderr or done.stdout).strip() or f"it ended with {done.returncode}")
    values = {(name, unit): float(value) for name, unit, value in LINE.findall(done.stdout)}
    return {
        name: values[name, "A"] * values[name, "V"] for name, unit in values if unit == "A" and (name, "V") in values
    }
