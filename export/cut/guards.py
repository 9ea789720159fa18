"""Guards: poolings of 1x1 on the maps that enter a stage. They change no value and let ONNX Runtime fuse a shortcut's addition.

ONNX Runtime fuses conv + add only if both tensors are in its blocked layout (NCHWc). A graph input is not. A 1x1 MaxPool on the
input converts it, so the fusion happens again. The pass over the map may cost more than the fusion saves, so both graphs are
measured here. The guarded graph lies beside the plain one, which all other engines run.
"""

import logging
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import onnx_ir as ir

from ...bundle import Stage, Tensor
from ...devices.board import is_x86_64
from ...runtime.chain.buffers import Buffers
from ...runtime.engines import Run, StageFile
from ...runtime.engines.onnxruntime import compile_stage
from ..graph.edits import insert_tape
from .rules import Head

LEAST_GUARDED_MACS = 1_000_000
"""Smaller stages are not guarded: they take tens of microseconds, most of them the call."""

MOST_GUARDED_SHARE = 0.99
"""A guarded stage is kept if it takes at most this share of the plain one's time."""

GUARD_ROUNDS, GUARD_TURN_S = 40, 2e-3
"""How often both graphs are measured in turn, and for how long each time."""

log = logging.getLogger(__name__)


def write_guarded(folder: Path, stage: Stage, head: Head) -> str | None:
    """Write a stage with guards if it is measured to be faster on ONNX Runtime here.

    Args:
        folder: where the stage's file and its weights lie.
        stage: the stage.
        head: its exit's values.

    Returns:
        The name of the file. None if the stage is not faster with guards, or is not measured: it is small, has an axis of open
        length, or this machine is not x86-64.
    """
    is_sized = all(tensor.is_sized for tensor in (*stage.inputs, *stage.outputs))
    if not is_x86_64() or stage.macs < LEAST_GUARDED_MACS or not is_sized:
        return None
    maps = [t.name for t in stage.inputs if len(t.shape) == 4 and t.shape[0] is None and t.dtype == "float32"]
    name = f"{Path(stage.file).stem}.guarded.onnx"
    if not _add_guards(folder / stage.file, maps, folder / name):
        return None
    share = _compare_times(folder / name, folder / stage.file, stage, head)
    log.debug("%s with guards takes %.3f of its time, at most %.2f is kept", stage.file, share, MOST_GUARDED_SHARE)
    if share <= MOST_GUARDED_SHARE:
        return name
    (folder / name).unlink()
    return None


def _add_guards(path: Path, names: list[str], output: Path) -> bool:
    """Write a graph with a guard on each of the named inputs that an addition reads; False if no addition reads one."""
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
            insert_tape(model.graph, tape)
            guarded = True
    if guarded:
        ir.save(model, output)
    return guarded


def _compare_times(guarded: Path, plain: Path, stage: Stage, head: Head) -> float:
    """Run both graphs in turn on the same random input; return the median share of the plain one's time."""
    answers = [Tensor(name=str(head.score.name), dtype="float32", shape=(None,))]
    if head.label is not None:
        answers.append(Tensor(name=str(head.label.name), dtype="int64", shape=(None,)))
    views = Buffers([*stage.inputs, *stage.outputs, *answers], batch=1).views(1)
    rng = np.random.default_rng(0)
    for tensor in stage.inputs:
        if tensor.dtype == "float32":
            views[tensor.name][...] = rng.standard_normal(views[tensor.name].shape)
    inputs = {tensor.name: views[tensor.name] for tensor in stage.inputs}
    outputs = {tensor.name: views[tensor.name] for tensor in (*stage.outputs, *answers)}
    runs = [
        compile_stage(StageFile(path, stage.inputs, tuple(outputs)), "cpu", threads=1).bind(inputs, outputs)
        for path in (guarded, plain)
    ]
    count = max(1, round(GUARD_TURN_S / _time_run(runs[1], 3)))
    return median(_time_run(runs[0], count) / _time_run(runs[1], count) for _ in range(GUARD_ROUNDS))


def _time_run(run: Run, count: int) -> float:
    run()
    start_s = perf_counter()
    for _ in range(count):
        run()
    return (perf_counter() - start_s) / count
