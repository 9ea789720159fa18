"""The ONNX Runtime that graphs are checked with: one thread of the CPU, and nothing printed."""

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import require
from ...runtime.verification import compare_logits


def open_session(path: Path, *, optimise: str = "ORT_ENABLE_ALL", optimised: Path | None = None) -> Any:
    """Load a graph, optimised as far as ONNX Runtime's level says, and write what that makes of it where that is asked for."""
    ort = require("onnxruntime", extra="onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, optimise)
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference between logits that decide, relative to the largest of theirs."""
    absolute, largest = compare_logits(ours, theirs)
    return absolute / largest
