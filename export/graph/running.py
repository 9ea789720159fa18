"""ONNX Runtime as graphs are checked with it: on one thread of the CPU, printing nothing."""

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import require
from ...runtime.verification import compare_logits


def open_session(
    path: Path, *, optimise: str = "ORT_ENABLE_ALL", optimised: Path | None = None, prepack: bool = True
) -> Any:
    """Load a graph.

    Args:
        path: the graph.
        optimise: a level of ONNX Runtime's optimisations.
        optimised: where to write the optimised graph; None to write nothing.
        prepack: copy the weights of products into the order in which kernels read them fastest.
    """
    ort = require("onnxruntime", extra="onnx")
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, optimise)
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference between logits, relative to the largest of theirs.

    Only classes near their sample's largest logit count: a class masked by -1e9 would hide every other difference.
    """
    absolute, largest = compare_logits(ours, theirs)
    return absolute / largest
