"""ONNX Runtime as graphs are checked with it: on one thread of the CPU, printing nothing."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import require
from ...runtime.chain.parts import Parts
from ...runtime.golden_check import MOST_DIFFERING, compare_parts, find_worst_part


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
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)


def failed_nodes(error: BaseException) -> tuple[str, ...]:
    """Return the names of the nodes that an error of ONNX Runtime's blames."""
    return tuple(dict.fromkeys(re.findall(r"[Nn]ame:? ?'([^']+)'", str(error))))


def relative_error(ours: Parts, theirs: Parts) -> float:
    """Return the largest difference between answers, relative to the largest value of theirs, of the part that differs most.

    Of logits only those near their sample's largest count: a class masked by -1e9 would hide every other difference.
    """
    absolute, largest = compare_parts(ours, theirs)
    return absolute / largest


TIES = (
    "Whole numbers agree or they do not: where each is the likeliest of several, rounding decides between equals. Break ties by "
    "a little, or answer with the scores."
)


def describe_difference(ours: Parts, theirs: Parts, error: float, allowed: float) -> str:
    """Say in which part answers differ from theirs, by how much, and what is allowed.

    Args:
        ours, theirs: the answers, (N, ...).
        error: the difference, relative to the largest value of that part; infinite where none can be given.
        allowed: the largest relative error that is allowed.
    """
    name, absolute, _ = find_worst_part(ours, theirs)
    mine, values = ours[name], theirs[name]
    if math.isfinite(absolute):
        largest = "its largest logit" if name == "logits" else f"the largest value of its {name}"
        return f"by {error:.2g} of {largest}; {allowed:.2g} is allowed."
    if mine.shape != values.shape:
        return f"in the shape of its {name}: {mine.shape} in place of {values.shape}."
    if values.dtype.kind != "f":
        counts = f"{(mine != values).sum()} of the {values.size}"
        return f"in {counts} whole numbers of its {name}; {MOST_DIFFERING:.0%} may differ. {TIES}"
    masked = ", or one that decides nothing in one of them does in the other" if name == "logits" else ""
    return f"in its {name}: a value is infinite or no number{masked}."


def largest_error(ours: Sequence[Parts], theirs: Sequence[Parts]) -> float | None:
    """Return the largest `relative_error` of several exits; None if it is not finite."""
    error = max(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))
    return error if math.isfinite(error) else None
