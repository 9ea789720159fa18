"""Measure a bundle on the device and find the thresholds that meet a target."""

from ..schema import Calibration, OperatingPoint, Target
from .bench import Benchmark, Row, StageCost, bench
from .calibration import calibrate

__all__ = ["Benchmark", "Calibration", "OperatingPoint", "Row", "StageCost", "Target", "bench", "calibrate"]
