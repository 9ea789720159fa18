"""What a graph's tensors look like at other sizes, found by running it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast, get_args

import numpy as np
import onnx_ir as ir

from ..errors import ModelError, require
from ..schema import Dtype, Tensor
from .axes import Axes, shorten, sizes_of, take


class Probed(NamedTuple):
    """A value at batch 2, at batch 3, and at batch 2 with shorter named axes (None where there are none)."""

    two: np.ndarray
    three: np.ndarray
    shorter: np.ndarray | None


def probe(
    whole: ir.Model, values: Sequence[ir.Value], inputs: Sequence[np.ndarray], axes: Sequence[Axes], folder: Path
) -> list[Probed]:
    """Run the graph up to some values at several sizes.

    Args:
        whole: its weights lie in `folder`.
        values: what to look at.
        inputs: at least three samples.
        axes: of the inputs.
        folder: where the graph may be written for a moment.

    Raises:
        ModelError: the graph does not run at another batch size or length.
    """
    ort = require("onnxruntime", extra="onnx")
    if not values:
        return []
    graph = ir.convenience.extract(whole.graph, list(whole.graph.inputs), list(values))
    for value in graph.outputs:
        value.shape = None
    ir.save(ir.Model(graph, ir_version=whole.ir_version), folder / "probe.onnx")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    names = [str(value.name) for value in whole.graph.inputs]

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(session.run(None, dict(zip(names, arrays, strict=True))))

    what = "at batch sizes 2 and 3"
    try:
        session = ort.InferenceSession(str(folder / "probe.onnx"), options, providers=["CPUExecutionProvider"])
        two, three = run(take(inputs, axes, [0, 1])), run(take(inputs, axes, [0, 1, 2]))
        what = "when its named axes are shorter"
        named = sizes_of(inputs, axes)
        shorter = run(shorten(take(inputs, axes, [0, 1]), axes)) if named else [None] * len(two)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"The graph does not run {what}: {str(error).splitlines()[0]} "
            f"Export it with a dynamic batch axis{'' if 'batch' in what else ', or leave the axis fixed'}."
        ) from error
    finally:
        (folder / "probe.onnx").unlink(missing_ok=True)
    return [Probed(*parts) for parts in zip(two, three, shorter, strict=True)]


def signature(name: str, seen: Probed) -> Tensor:
    """Describe a tensor that crosses an exit.

    Raises:
        ModelError: it mixes the batch with another axis, or no stage can take in its dtype.
    """
    two, three = seen.two, seen.three
    batch = [i for i, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)) if a != b]
    if len(batch) > 1 or any((two.shape[i], three.shape[i]) != (2, 3) for i in batch):
        raise ModelError(
            f"The tensor {name} crosses an exit with the shapes {two.shape} and {three.shape} at batch sizes 2 and 3: "
            "it needs the batch on an axis of its own."
        )
    if two.dtype.name not in get_args(Dtype):
        raise ModelError(f"The tensor {name} is {two.dtype.name}, which no stage can take in.")
    shape: list[int | str | None] = [None if i in batch else size for i, size in enumerate(two.shape)]
    if seen.shorter is not None:
        for i, (a, b) in enumerate(zip(two.shape, seen.shorter.shape, strict=True)):
            if a != b:
                shape[i] = f"{name}.{i}"
    return Tensor(name=name, dtype=cast(Dtype, two.dtype.name), shape=tuple(shape))
