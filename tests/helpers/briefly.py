"""Calibrating in tests: latencies are measured for a fifth of a second instead of six seconds."""

import functools
from itertools import pairwise

from offramp.calibrate import calibrate as calibrate_for_seconds

MEASURE_S = 0.2

calibrate = functools.partial(calibrate_for_seconds, measure_s=MEASURE_S)
"""`offramp.calibrate.calibrate`, but brief."""


def brief_arguments(arguments):
    """Return a command line that measures briefly if it calibrates; a pace becomes a fast one."""
    arguments = list(map(str, arguments))
    if arguments[:1] != ["calibrate"]:
        return arguments
    paced = ["1ms" if before == "--every" else word for before, word in pairwise(["", *arguments])]
    return [*paced, "--measure-s", str(MEASURE_S)]
