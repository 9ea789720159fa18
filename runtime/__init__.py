"""What ships in the product: load a bundle, run it, leave early. Needs numpy, msgspec and the engine; never torch or onnx."""

from .chain import BatchResult, EveryExit, Net, Result
from .doctor import Diagnosis, Engine, diagnose
from .loading import UncalibratedWarning, load, load_static

__all__ = [
    "BatchResult",
    "Diagnosis",
    "Engine",
    "EveryExit",
    "Net",
    "Result",
    "UncalibratedWarning",
    "diagnose",
    "load",
    "load_static",
]
