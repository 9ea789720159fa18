"""Cut a graph with several exits into stages.

Stage k is the nodes that exit k needs and no earlier stage has run. Its boundary is every value made before and read in it.
Nodes that depend on weights or shapes alone are repeated in each stage that needs them rather than passed. What is quantised
crosses as it is: its QuantizeLinear runs in the stage before, its DequantizeLinear in every stage that reads it.
"""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ...bundle import Tensor
from ...errors import ModelError
from ..graph.axes import BATCH
from ..graph.walk import ancestors, values_read
from .rules import Head
from .shape_arithmetic import BATCH_SIZE, is_length, read_batch_size


class StageNodes(NamedTuple):
    """One stage: the values it reads, those it makes that later stages read, and its nodes that no other stage has."""

    reads: list[ir.Value]
    makes: list[ir.Value]
    nodes: set[ir.Node]


def assign_nodes(graph: ir.Graph, heads: list[Head]) -> list[StageNodes]:
    """Assign every node to the first exit that needs it.

    Raises:
        ModelError: an exit's logits are computed on the way to an earlier exit.
    """
    constant = _constant_nodes(graph)
    repeated = constant | {node for node in graph if node.op_type == "DequantizeLinear"}
    needed = set().union(*(ancestors(value) for head in heads for value in head))
    order = {node: index for index, node in enumerate(graph)}
    owner: dict[ir.Node, int] = {}
    reads: list[list[ir.Value]] = []
    for k, head in enumerate(heads):
        new, crossing = _collect(head, owner, repeated)
        if head.logits in crossing:
            name = str(head.logits.name).removesuffix(".logits")
            raise ModelError(f"Exit {name} is already computed by an earlier exit: is it listed twice?")
        owner.update(dict.fromkeys(new, k))
        owner.update(dict.fromkeys(_produced_ahead(graph, owner, needed, constant), k))
        reads.append(sorted(crossing, key=lambda value: (order.get(value.producer(), -1), value.index() or 0)))  # type: ignore[arg-type]
    plans = []
    for k, inputs in enumerate(reads):
        later = {value: None for values in reads[k + 1 :] for value in values}
        makes = [value for value in later if owner.get(value.producer()) == k]  # type: ignore[arg-type]
        plans.append(StageNodes(inputs, makes, {node for node, stage in owner.items() if stage == k}))
    return plans


def extract_stage(model: ir.Model, plan: StageNodes, head: Head, tensors: dict[str, Tensor]) -> ir.Model:
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
            values[name].dtype = ir.DataType.from_numpy(np.dtype(tensor.dtype))
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
                if initializer.name in stage.initializers:  # constants of one value may share one of this name
                    initializer.name = f"{initializer.name}.own"
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
        stack += values_read(node)
    return new, crossing


def _produced_ahead(
    graph: ir.Graph, owner: dict[ir.Node, int], needed: set[ir.Node], constant: set[ir.Node]
) -> set[ir.Node]:
    """Return what later stages need and this one should run, since it makes what crosses smaller.

    That is a QuantizeLinear that is all that later stages read of a value, and the length of a tensor that is known here.
    """
    early: set[ir.Node] = set()
    for node in graph:
        if node not in needed or node in owner or not node.inputs or node.inputs[0] is None:
            continue
        source = node.inputs[0]
        if node.op_type == "QuantizeLinear" and source.producer() in owner:
            waiting = {user for user in source.consumers() if user in needed and user not in owner}
            if all(user.op_type == "QuantizeLinear" for user in waiting):
                early.add(node)
        if is_length(node.outputs[0]):
            shape = source.producer()
            measured = shape.inputs[0] if shape is not None else None
            known = measured is not None and (measured.producer() in owner or measured in graph.inputs)
            if known or (measured is not None and measured.producer() in constant):
                early.add(node)
    return early


def _constant_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that depend on weights, the batch size or lengths alone."""
    found: set[ir.Node] = set()
    for node in graph:
        random = node.op_type.startswith(("Random", "Bernoulli", "Multinomial"))
        if random or any(is_length(value) for value in node.outputs):
            continue
        sources = [v for v in values_read(node) if not (v.is_initializer() or v.name == BATCH_SIZE or is_length(v))]
        if node.op_type in ("Shape", "Size") or all(value.producer() in found for value in sources):
            found.add(node)
    return found
