"""What ships in the product: load a bundle, run it, leave early. Needs numpy, msgspec and the engine; never torch or onnx."""

from typing import TYPE_CHECKING

from .. import late_names

from ..errors import EngineWarning, MeterWarning, UncalibratedWarning  # isort: skip

# numpy comes last, with the chain: its BLAS threads spin for a while, and whatever is imported meanwhile costs twice.
from .building import Built, build  # isort: skip
from .loading import load, load_static, load_uncalibrated  # isort: skip
from .chain.net import Net  # isort: skip
from .chain.results import BatchResult, EveryExit, Provenance, Result, StageProvenance  # isort: skip
from .verification import ExitCheck, Verification, verify  # isort: skip

if TYPE_CHECKING:
    from .diagnosis import Diagnosis, EngineSeen, diagnose

__all__ = [
    "BatchResult",
    "Built",
    "Diagnosis",
    "EngineSeen",
    "EngineWarning",
    "EveryExit",
    "ExitCheck",
    "MeterWarning",
    "Net",
    "Provenance",
    "Result",
    "StageProvenance",
    "UncalibratedWarning",
    "Verification",
    "build",
    "diagnose",
    "load",
    "load_static",
    "load_uncalibrated",
    "verify",
]


# A product that runs needs no doctor.
__getattr__ = late_names(__name__, dict.fromkeys(("Diagnosis", "EngineSeen", "diagnose"), "diagnosis"))
