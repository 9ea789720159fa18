"""What ships in the product: load a bundle, run it, leave early. Needs numpy, msgspec and the engine; never torch or onnx."""

from typing import TYPE_CHECKING, Any

from ..errors import EngineWarning, MeterWarning, UncalibratedWarning  # isort: skip

# numpy comes last, with the chain: its BLAS threads spin for a while, and whatever is imported meanwhile costs twice.
from .building import Built, build  # isort: skip
from .loading import load, load_static  # isort: skip
from .chain import Net  # isort: skip
from .results import BatchResult, EveryExit, Provenance, Result, StageProvenance  # isort: skip
from .verify import ExitCheck, Verification, verify  # isort: skip

if TYPE_CHECKING:
    from .doctor import Diagnosis, Engine, diagnose

__all__ = [
    "BatchResult",
    "Built",
    "Diagnosis",
    "Engine",
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
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import the doctor when it is asked for: a product that runs needs none."""
    if name in ("Diagnosis", "Engine", "diagnose"):
        from . import doctor

        return getattr(doctor, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
