"""Guards: a pooling of 1x1, which changes nothing, on the maps that enter a stage.

ONNX Runtime computes convolutions on blocked tensors (NCHWc) and adds a shortcut within the convolution, but not where the
shortcut comes in as an input of the graph, which is not blocked. Behind a pooling it is. Whether the pass over the map costs more
than it saves depends on the network, so both are measured here; the guarded graph lies beside the other, which all other engines
run.
"""

from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnx_ir as ir

from ...bundle import Stage, Tensor
from ...devices.board import is_x86_64
from ...runtime.chain.buffers import Buffers
from ...runtime.engines import Run, Source
from ...runtime.engines.onnxruntime import compile_stage
from .rules import Head

LEAST_MACS = 1_000_000
"""Below, a stage takes tens of microseconds, most of them the call."""

GAIN = 0.99
"""A guarded stage must take at most this much of the plain one's time."""

ROUNDS, TURN_S = 40, 2e-3


def write_guarded(folder: Path, stage: Stage, head: Head) -> str | None:
    """Write a stage with guards where it is measured to be faster on ONNX Runtime here.

    Args:
        folder: where the stage's file and its weights lie.
        stage: the stage.
        head: its exit's values.

    Returns:
        The name of the file; None where guards do not pay, or cannot be measured since this is no x86-64.
    """
    fixed = all(tensor.is_sized for tensor in (*stage.inputs, *stage.outputs))
    if not is_x86_64() or stage.macs < LEAST_MACS or not fixed:
        return None
    maps = [t.name for t in stage.inputs if len(t.shape) == 4 and t.shape[0] is None and t.dtype == "float32"]
    name = f"{Path(stage.file).stem}.guarded.onnx"
    if not _guard(folder / stage.file, maps, folder / name):
        return None
    if _is_faster(folder / name, folder / stage.file, stage, head):
        return name
    (folder / name).unlink()
    return None


def _guard(path: Path, names: list[str], output: Path) -> bool:
    """Write a graph with guards on those of its inputs that an addition reads; False where none does."""
    model = ir.load(path)
    guarded = False
    for value in model.graph.inputs:
        if value.name in names and any(user.op_type in ("Add", "Sum") for user in value.consumers()):
            tape = ir.tape.Tape()
            pooled = tape.op("MaxPool", [value], {"kernel_shape": [1, 1]})
            pooled.name = f"{value.name}.guarded"
            pooled.type, pooled.shape = value.type, value.shape
            readers = [use for use in value.uses() if use.node is not pooled.producer()]
            for node, index in readers:
                node.replace_input_with(index, pooled)
            model.graph.insert_before(next(iter(model.graph)), tape.nodes)
            guarded = True
    if guarded:
        ir.save(model, output)
    return guarded


def _is_faster(guarded: Path, plain: Path, stage: Stage, head: Head) -> bool:
    """Run both in turn on the same random input."""
    score, label = str(head.score.name), str(head.label.name)
    answers = [Tensor(name=score, dtype="float32", shape=(None,)), Tensor(name=label, dtype="int64", shape=(None,))]
    views = Buffers([*stage.inputs, *stage.outputs, *answers], batch=1).views(1)
    rng = np.random.default_rng(0)
    for tensor in stage.inputs:
        if tensor.dtype == "float32":
            views[tensor.name][...] = rng.standard_normal(views[tensor.name].shape)
    inputs = {tensor.name: views[tensor.name] for tensor in stage.inputs}
    outputs = {tensor.name: views[tensor.name] for tensor in (*stage.outputs, *answers)}
    runs = [
        compile_stage(Source(path, stage.inputs, tuple(outputs)), "cpu", threads=1).bind(inputs, outputs)
        for path in (guarded, plain)
    ]
    count = max(1, round(TURN_S / _time(runs[1], 3)))
    ratios = [_time(runs[0], count) / _time(runs[1], count) for _ in range(ROUNDS)]
    return median(ratios) <= GAIN


def _time(run: Run, count: int) -> float:
    run()
    start = perf_counter()
    for _ in range(count):
        run()
    return (perf_counter() - start) / count
