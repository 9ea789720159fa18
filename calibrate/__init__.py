"""Measure a bundle on the device and find the best way to run it that can be promised to meet a target."""

from ..bundle import Calibration, OperatingPoint, Target
from .bench import Benchmark, Row, StageCost, bench
from .calibration import calibrate
from .report import Report, report
from .target_file import read_targets

__all__ = [
    "Benchmark",
    "Calibration",
    "OperatingPoint",
    "Report",
    "Row",
    "StageCost",
    "Target",
    "bench",
    "calibrate",
    "read_targets",
    "report",
]
