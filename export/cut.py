"""Cut a graph with several exits into stages.

Stage k is the nodes that exit k needs and no earlier stage has run. Its boundary is every value made before and read in it.
Nodes that depend on weights or shapes alone are repeated in each stage that needs them rather than passed.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import onnx_ir as ir

from ..errors import ModelError
from ..schema import Tensor
from .capture import BATCH
from .decide import Head
from .shapes import BATCH_SIZE, read_batch_size


class Plan(NamedTuple):
    """One stage: the values it reads, those it makes that later stages read, and its nodes that no other stage has."""

    reads: list[ir.Value]
    makes: list[ir.Value]
    nodes: set[ir.Node]


def plan_stages(graph: ir.Graph, heads: list[Head]) -> list[Plan]:
    """Assign every node to the first exit that needs it.

    Raises:
        ModelError: an exit's logits are computed on the way to an earlier exit.
    """
    repeated = _repeatable(graph)
    order = {node: index for index, node in enumerate(graph)}
    owner: dict[ir.Node, int] = {}
    reads: list[list[ir.Value]] = []
    for k, head in enumerate(heads):
        new, crossing = _collect(head, owner, repeated)
        if head.logits in crossing:
            name = str(head.logits.name).removesuffix(".logits")
            raise ModelError(f"Exit {name} is already computed by an earlier exit: is it listed twice?")
        owner.update(dict.fromkeys(new, k))
        reads.append(sorted(crossing, key=lambda value: (order.get(value.producer(), -1), value.index() or 0)))  # type: ignore[arg-type]
    plans = []
    for k, inputs in enumerate(reads):
        later = {value: None for values in reads[k + 1 :] for value in values}
        makes = [value for value in later if owner.get(value.producer()) == k]  # type: ignore[arg-type]
        plans.append(Plan(inputs, makes, {node for node, stage in owner.items() if stage == k}))
    return plans


def ancestors(graph: ir.Graph, value: ir.Value) -> set[ir.Node]:
    """Return every node that a value depends on."""
    found: set[ir.Node] = set()
    stack = [value]
    while stack:
        node = stack.pop().producer()
        if node is not None and node not in found:
            found.add(node)
            stack += _values_read(node)
    return found


def extract_stage(model: ir.Model, plan: Plan, head: Head, tensors: dict[str, Tensor]) -> ir.Model:
    """Make a stage a model of its own: inputs the boundary, outputs what later stages read and the head.

    Args:
        model: the whole, whose weights are external; the stage refers to the same file.
        plan: the stage.
        head: its exit.
        tensors: the signature of each boundary tensor by name.

    Raises:
        ModelError: the stage needs the batch size, and none of its inputs has a batch axis.
    """
    graph = model.graph
    reads = list(plan.reads)
    size = next((o for node in graph for o in node.outputs if o.name == BATCH_SIZE), None)
    if size is not None and graph.inputs[0] not in reads:
        reads.append(size)
    outputs = list(dict.fromkeys([*plan.makes, *head]))
    stage = ir.convenience.extract(graph, reads, outputs)
    values = {value.name: value for value in [*stage.inputs, *stage.outputs]}
    for name, tensor in tensors.items():
        if name in values:
            values[name].dtype = ir.DataType[_onnx_name(tensor.dtype)]
            values[name].shape = ir.Shape([BATCH if axis is None else axis for axis in tensor.shape])
    if size is not None and size in reads:
        _read_own_batch_size(stage, tensors)
    return ir.Model(stage, ir_version=model.ir_version)


def _read_own_batch_size(stage: ir.Graph, tensors: dict[str, Tensor]) -> None:
    """Replace the stage's input that holds the batch size by a reading of one of its own tensors."""
    passed = next(value for value in stage.inputs if value.name == BATCH_SIZE)
    stage.inputs.remove(passed)
    if not passed.uses():
        return
    for value in stage.inputs:
        if None in tensors[str(value.name)].shape:
            tape = ir.tape.Tape()
            passed.name = f"{BATCH_SIZE}.passed"
            size = read_batch_size(tape, value, tensors[str(value.name)].shape.index(None))
            passed.replace_all_uses_with(size)
            stage.insert_before(next(iter(stage)), tape.nodes)
            for initializer in tape.initializers:
                stage.register_initializer(initializer)
            return
    raise ModelError("A stage needs the batch size, but none of the tensors that enter it has a batch axis.")


def _collect(head: Head, owner: dict[ir.Node, int], repeated: set[ir.Node]) -> tuple[set[ir.Node], set[ir.Value]]:
    """Walk back from a head to what earlier stages made: the new nodes, and the values that cross."""
    new: set[ir.Node] = set()
    crossing: set[ir.Value] = set()
    seen: set[ir.Value] = set()
    stack: list[ir.Value] = list(head)
    while stack:
        value = stack.pop()
        if value in seen or value.is_initializer() or value.name == BATCH_SIZE:
            continue
        seen.add(value)
        node = value.producer()
        if node is None or node in owner:
            crossing.add(value)
            continue
        if node not in repeated:
            new.add(node)
        stack += _values_read(node)
    return new, crossing


def _repeatable(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that depend on weights or shapes alone."""
    found: set[ir.Node] = set()
    for node in graph:
        random = node.op_type.startswith(("Random", "Bernoulli", "Multinomial"))
        sources = [value for value in _values_read(node) if not value.is_initializer() and value.name != BATCH_SIZE]
        if node.op_type in ("Shape", "Size") or (not random and all(value.producer() in found for value in sources)):
            found.add(node)
    return found


def _values_read(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the values of the same graph that a node reads, also from within its branches and loops."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        for inner in _graphs(attribute):
            for deep in inner.all_nodes():
                yield from (v for v in deep.inputs if v is not None and v.graph is node.graph)
            yield from (v for v in inner.outputs if v.graph is node.graph)


def _graphs(attribute: ir.Attr) -> Iterable[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return [attribute.as_graph()]
    return attribute.as_graphs() if attribute.type == ir.AttributeType.GRAPHS else []


def _onnx_name(dtype: str) -> str:
    return {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper())
