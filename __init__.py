"""offramp deploys early-exit neural networks on constrained hardware: export, calibrate, run."""

import os
from collections.abc import Callable, Mapping
from typing import Any

__version__ = "0.2.0"

# ONNX Runtime 1.29 and newer writes an identifier into the user's cache when it is imported, and tells Microsoft what it runs.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def late_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a `__getattr__` for a package that imports each name from its module when it is asked for.

    Example: `__getattr__ = late_names(__name__, {"diagnose": "diagnosis"})`.
    """

    def get(name: str) -> Any:
        if name in homes:
            from importlib import import_module

            return getattr(import_module(f".{homes[name]}", package), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get
