"""The tensors that cross an exit: their dtypes, and which of their axes change. Found by running the graph at several sizes."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast, get_args

import numpy as np
import onnx_ir as ir

from ...bundle import Tensor
from ...bundle.tensor import Dtype
from ...errors import ModelError, require
from ..graph.axes import Axes, first_line, sizes_of, take_samples
from ..graph.edits import extract_graph
from ..graph.running import failed_nodes, open_session
from ..graph.walk import name_producers

__all__ = ["FIXED_BATCH_HINT", "ProbedValue", "Prober", "describe_boundaries", "measure_shapes", "probe_values"]

FIXED_BATCH_HINT = (
    "Most likely its batch size was fixed when it was exported: export it with a dynamic batch axis. In a torch network x.data "
    "hides the batch from the exporter; x.detach() does not."
)


class ProbedValue(NamedTuple):
    """A value at batch 2, at batch 3, and at batch 2 with other lengths of the named axes."""

    two: np.ndarray
    three: np.ndarray
    others: tuple[np.ndarray, ...]


class Prober(NamedTuple):
    """Samples to run a graph with, and a folder to write it to.

    Attributes:
        inputs: at least three samples: one array for each input.
        axes: the names of the axes of every input.
        others: the samples with their named axes at other lengths, as `axes.other_lengths` returns them.
        folder: holds the graph's weights; the graph is written here while it is loaded.
    """

    inputs: Sequence[np.ndarray]
    axes: Sequence[Axes]
    others: Sequence[Sequence[np.ndarray]]
    folder: Path


def probe_values(whole: ir.Model, values: Sequence[ir.Value], prober: Prober) -> list[ProbedValue]:
    """Run a graph at several sizes and return some of its values.

    Raises:
        ModelError: the graph does not run at another batch size or length.
    """
    require("onnxruntime", extra="onnx")
    if not values:
        return []
    inputs, axes, others, folder = prober
    graph = extract_graph(whole.graph, list(whole.graph.inputs), list(values))
    for value in graph.outputs:
        value.shape = None
    file = folder / "probe.onnx"
    ir.save(ir.Model(graph, ir_version=whole.ir_version), file)
    names = [str(value.name) for value in whole.graph.inputs]
    try:
        session = open_session(file)
    except Exception as error:
        raise ModelError(
            f"ONNX Runtime cannot load the captured graph: {first_line(error)}", nodes=failed_nodes(error)
        ) from error
    finally:
        file.unlink(missing_ok=True)

    def run(arrays: Sequence[np.ndarray], rows: Sequence[int]) -> list[np.ndarray]:
        return list(session.run(None, dict(zip(names, take_samples(arrays, axes, rows), strict=True))))

    try:
        two, three = run(inputs, [0, 1]), run(inputs, [0, 1, 2])
    except Exception as error:
        raise ModelError(
            f"The graph does not run at batch sizes 2 and 3. {FIXED_BATCH_HINT} ONNX Runtime says: {first_line(error)}",
            nodes=failed_nodes(error),
        ) from error
    try:
        longer = [run(other, [0, 1]) for other in others]
    except Exception as error:
        raise ModelError(
            f"The graph does not run when its named axes have other lengths: {first_line(error)} Leave that axis fixed.",
            nodes=failed_nodes(error),
        ) from error
    return [
        ProbedValue(a, b, tuple(part[i] for part in longer)) for i, (a, b) in enumerate(zip(two, three, strict=True))
    ]


def measure_shapes(whole: ir.Model, names: Sequence[str], prober: Prober) -> dict[str, tuple[int, ...]]:
    """Return the shapes that values of a graph have at batch 1, by name. Values that are no tensors are left out."""
    values = ir.convenience.create_value_mapping(whole.graph, include_subgraphs=False)
    wanted = [values[name] for name in dict.fromkeys(names)]
    shapes = {}
    for value, probed in zip(wanted, probe_values(whole, wanted, prober), strict=True):
        if isinstance(probed.two, np.ndarray):
            # An axis that holds the batch, alone or with others, grows by its length at batch 1.
            pairs = zip(probed.two.shape, probed.three.shape, strict=True)
            shapes[str(value.name)] = tuple(b - a if b != a else a for a, b in pairs)
    return shapes


def describe_boundaries(
    whole: ir.Model, values: Sequence[ir.Value], answers: Sequence[ir.Value], inputs: Sequence[Tensor], prober: Prober
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Describe the inputs and every tensor that crosses an exit, by name; and the parts of the exits' answers.

    Axes that are always equally long share a name.

    Args:
        whole: the graph.
        values: what crosses an exit.
        answers: the parts of every exit's answer.
        inputs: the network's inputs.
        prober: the samples.

    Raises:
        ModelError: a tensor mixes the batch with another axis, or no stage can take it in; the batch is fixed to some size.
    """
    probed_values = probe_values(whole, [*values, *answers], prober)
    probed_answers = probed_values[len(values) :]
    for value, probed in zip(answers, probed_answers, strict=True):
        if (len(probed.two), len(probed.three)) != (2, 3):
            raise ModelError(
                f"{value.name} has the shapes {probed.two.shape} and {probed.three.shape} at batch sizes 2 and 3. "
                f"{FIXED_BATCH_HINT}",
                nodes=name_producers(value),
            )
    lengths = [sizes_of(arrays, prober.axes) for arrays in (prober.inputs, *prober.others)]
    # An axis is told by its lengths in all runs. Two named axes with the same lengths cannot be told apart: a tensor's axis of
    # these lengths is then called after the tensor.
    patterns = {name: tuple(sizes[name] for sizes in lengths) for name in lengths[0]}
    uses = Counter(patterns.values())
    names = {pattern: name for name, pattern in patterns.items() if uses[pattern] == 1}
    tensors = {tensor.name: tensor for tensor in inputs}
    for value, probed in zip(values, probed_values, strict=False):
        tensors[str(value.name)] = _describe(value, probed, names)
    described = {
        str(value.name): _describe(value, probed, names) for value, probed in zip(answers, probed_answers, strict=True)
    }
    return tensors, described


def _describe(value: ir.Value, probed: ProbedValue, names: dict[tuple[int, ...], str]) -> Tensor:
    """Describe a tensor that crosses an exit. `names` maps an axis's lengths to its name; new ones are added.

    Raises:
        ModelError: the tensor mixes the batch with another axis, or no stage can take in its dtype.
    """
    name, two, three = str(value.name), probed.two, probed.three
    if not isinstance(two, np.ndarray):
        raise ModelError(
            f"{name} crosses an exit, but it is a sequence or an optional, and only tensors can. Take its elements out before.",
            nodes=name_producers(value),
        )
    batch = [i for i, (a, b) in enumerate(zip(two.shape, three.shape, strict=True)) if a != b]
    if len(batch) > 1 or any((two.shape[i], three.shape[i]) != (2, 3) for i in batch):
        raise ModelError(
            f"The tensor {name} crosses an exit with the shapes {two.shape} and {three.shape} at batch sizes 2 and 3: "
            "it needs the batch on an axis of its own.",
            nodes=name_producers(value),
        )
    if two.dtype.name not in get_args(Dtype):
        raise ModelError(
            f"The tensor {name} is {two.dtype.name}, which no stage can take in.", nodes=name_producers(value)
        )
    shape: list[int | str | None] = [None if i in batch else size for i, size in enumerate(two.shape)]
    for i in range(two.ndim):
        sizes = (two.shape[i], *(other.shape[i] for other in probed.others))
        if len(set(sizes)) > 1:
            shape[i] = names.setdefault(sizes, f"{name}.{i}")
    return Tensor(name=name, dtype=cast(Dtype, two.dtype.name), shape=tuple(shape))
