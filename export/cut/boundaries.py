"""What a graph's tensors look like at other sizes, found by running it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast, get_args

import numpy as np
import onnx_ir as ir

from ...bundle import Tensor
from ...bundle.manifest import Dtype
from ...errors import ModelError, require
from ..graph.axes import Axes, first_line, sizes_of, take_samples
from ..graph.running import open_session


class ProbedValue(NamedTuple):
    """A value at batch 2, at batch 3, and at batch 2 with other lengths of the named axes."""

    two: np.ndarray
    three: np.ndarray
    others: tuple[np.ndarray, ...]


class Prober(NamedTuple):
    """What it takes to look at a graph's values: samples, the same ones at other lengths, and a folder.

    Attributes:
        inputs: at least three samples.
        axes: of the inputs.
        others: as `axes.other_lengths` gives them.
        folder: where the weights lie, and a graph may be written for a moment.
    """

    inputs: Sequence[np.ndarray]
    axes: Sequence[Axes]
    others: Sequence[Sequence[np.ndarray]]
    folder: Path


def probe_values(whole: ir.Model, values: Sequence[ir.Value], prober: Prober) -> list[ProbedValue]:
    """Run the graph up to some values at several sizes.

    Args:
        whole: the graph.
        values: what to look at.
        prober: with what.

    Raises:
        ModelError: the graph does not run at another batch size or length.
    """
    require("onnxruntime", extra="onnx")
    if not values:
        return []
    inputs, axes, others, folder = prober
    graph = ir.convenience.extract(whole.graph, list(whole.graph.inputs), list(values))
    for value in graph.outputs:
        value.shape = None
    ir.save(ir.Model(graph, ir_version=whole.ir_version), folder / "probe.onnx")
    names = [str(value.name) for value in whole.graph.inputs]

    def run(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return list(session.run(None, dict(zip(names, arrays, strict=True))))

    what = ""
    try:
        session = open_session(folder / "probe.onnx")
        what = "at batch sizes 2 and 3"
        two, three = run(take_samples(inputs, axes, [0, 1])), run(take_samples(inputs, axes, [0, 1, 2]))
        what = "when its named axes have other lengths"
        longer = [run(take_samples(other, axes, [0, 1])) for other in others]
    except Exception as error:
        reason = first_line(error)
        if not what:
            raise ModelError(f"ONNX Runtime cannot load the captured graph: {reason}") from error
        remedy = "Export it with a dynamic batch axis." if "batch" in what else "Leave that axis fixed."
        raise ModelError(f"The graph does not run {what}: {reason} {remedy}") from error
    finally:
        (folder / "probe.onnx").unlink(missing_ok=True)
    return [
        ProbedValue(a, b, tuple(part[i] for part in longer)) for i, (a, b) in enumerate(zip(two, three, strict=True))
    ]


def describe_boundaries(
    whole: ir.Model, values: Sequence[ir.Value], inputs: Sequence[Tensor], prober: Prober
) -> dict[str, Tensor]:
    """Describe the inputs and every tensor that crosses an exit, by name; axes that are equally long have the same name.

    Raises:
        ModelError: a tensor mixes the batch with another axis, or no stage can take in its dtype.
    """
    lengths = [sizes_of(arrays, prober.axes) for arrays in (prober.inputs, *prober.others)]
    patterns = Counter(tuple(sizes[name] for sizes in lengths) for name in lengths[0])
    # Axes that no length told apart stay apart: a tensor's axis is then called after the tensor.
    known = {tuple(sizes[name] for sizes in lengths): name for name in lengths[0]}
    names = {sizes: name for sizes, name in known.items() if patterns[sizes] == 1}
    tensors = {tensor.name: tensor for tensor in inputs}
    for value, seen in zip(values, probe_values(whole, values, prober), strict=True):
        tensors[str(value.name)] = _describe(str(value.name), seen, names)
    return tensors


def _describe(name: str, seen: ProbedValue, names: dict[tuple[int, ...], str]) -> Tensor:
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
    for i in range(two.ndim):
        sizes = (two.shape[i], *(other.shape[i] for other in seen.others))
        if len(set(sizes)) > 1:
            shape[i] = names.setdefault(sizes, f"{name}.{i}")
    return Tensor(name=name, dtype=cast(Dtype, two.dtype.name), shape=tuple(shape))
