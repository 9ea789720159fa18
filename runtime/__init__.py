"""What ships in the product: load a bundle, run it, leave early. Needs numpy, msgspec and the engine; never torch or onnx."""

# numpy comes last, with the chain: its BLAS threads spin for a while, and whatever is imported meanwhile costs twice.
from .building import Built, EngineWarning, build  # isort: skip
from .doctor import Diagnosis, Engine, diagnose  # isort: skip
from .loading import UncalibratedWarning, load, load_static  # isort: skip
from .chain import Net  # isort: skip
from .results import BatchResult, EveryExit, Provenance, Result, StageProvenance  # isort: skip
from .verify import ExitCheck, Verification, verify  # isort: skip

__all__ = [
    "BatchResult",
    "Built",
    "Diagnosis",
    "Engine",
    "EngineWarning",
    "EveryExit",
    "ExitCheck",
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
