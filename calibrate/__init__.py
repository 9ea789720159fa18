"""Measure a bundle on the device and find the thresholds that meet a target."""

from ..schema import Calibration, OperatingPoint, Target
from .bench import Benchmark, Row, bench
from .calibration import calibrate

__all__ = ["Benchmark", "Calibration", "OperatingPoint", "Row", "Target", "bench", "calibrate"]
