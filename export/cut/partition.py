"""The nodes of each stage of a graph with several exits.

Stage k runs the nodes that exit k needs and that no earlier stage has run. Its boundary is every value that it reads and an
earlier stage makes. A node that depends on weights or shapes alone is repeated in each stage that needs it, so it never crosses.
Quantised values cross as integers: QuantizeLinear runs in the stage before, DequantizeLinear in every stage that reads the value.
"""

from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from ...bundle import Tensor
from ...errors import ModelError
from ..graph.axes import BATCH
from ..graph.edits import extract_graph, insert_tape
from ..graph.walk import ancestors, name_producers, values_read
from .rules import Head
from .shape_arithmetic import BATCH_SIZE, is_length, read_batch_size

__all__ = ["StageNodes", "assign_nodes", "extract_stage"]


class StageNodes(NamedTuple):
    """One stage of a graph.

    Attributes:
        reads: the values that it takes from earlier stages and from the network's inputs.
        makes: the values that it computes and later stages read.
        nodes: the nodes that it runs and no other stage does.
    """

    reads: list[ir.Value]
    makes: list[ir.Value]
    nodes: set[ir.Node]


def assign_nodes(graph: ir.Graph, heads: list[Head]) -> list[StageNodes]:
    """Assign every node to the first exit that needs it.

    Raises:
        ModelError: an exit's answer is computed on the way to an earlier exit.
    """
    # Nodes that belong to no stage, since every stage that needs them computes them itself.
    constant_nodes = _find_constant_nodes(graph)
    repeated = constant_nodes | {node for node in graph if node.op_type == "DequantizeLinear"}
    needed = set().union(*(ancestors(value) for head in heads for value in head.outputs))
    # From the first exit to the last: what the exit needs beyond the stages before it is its stage.
    stage_of: dict[ir.Node, int] = {}
    reads: list[list[ir.Value]] = []
    # What a stage reads stands in the order of the graph: its inputs first, then what its nodes make.
    made = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    position = {value: index for index, value in enumerate(made)}
    for k, head in enumerate(heads):
        own_nodes, crossing = _collect_nodes(head, stage_of, repeated)
        if done := [value for value in head.parts.values() if value in crossing]:
            raise ModelError(
                f"Exit {str(done[0].name).rpartition('.')[0]} is already computed by an earlier exit: is it listed twice?",
                nodes=name_producers(*done),
            )
        stage_of.update(dict.fromkeys(own_nodes, k))
        stage_of.update(dict.fromkeys(_produced_ahead(graph, stage_of, needed, constant_nodes), k))
        reads.append(sorted(crossing, key=position.__getitem__))
    # A stage makes what a later one reads and its own nodes compute.
    stages = []
    for k, crossing_in in enumerate(reads):
        read_later = dict.fromkeys(value for values in reads[k + 1 :] for value in values)
        makes = [value for value in read_later if stage_of.get(value.producer()) == k]  # type: ignore[arg-type]
        stages.append(StageNodes(crossing_in, makes, {node for node, stage in stage_of.items() if stage == k}))
    return stages


def extract_stage(model: ir.Model, part: StageNodes, head: Head, tensors: dict[str, Tensor]) -> ir.Model:
    """Make a stage a model of its own. Its inputs are the boundary; its outputs are what later stages read, and the head.

    Args:
        model: the whole graph, whose weights are external; the stage refers to the same file.
        part: the stage.
        head: its exit.
        tensors: the shape and dtype of each boundary tensor by name.

    Raises:
        ModelError: the stage needs the batch size, and none of its inputs has a batch axis.
    """
    graph = model.graph
    reads = list(part.reads)
    # A stage without the network's first input gets the batch size as an input for now.
    batch_size = next((o for node in graph for o in node.outputs if o.name == BATCH_SIZE), None)
    if batch_size is not None and graph.inputs[0] not in reads:
        reads.append(batch_size)
    outputs = list(dict.fromkeys([*part.makes, *head.outputs]))
    stage = extract_graph(graph, reads, outputs)
    values = {value.name: value for value in [*stage.inputs, *stage.outputs]}
    for name, tensor in tensors.items():
        if name in values:
            values[name].dtype = ir.DataType.from_numpy(np.dtype(tensor.dtype))
            values[name].shape = ir.Shape([BATCH if axis is None else axis for axis in tensor.shape])
    if batch_size is not None and batch_size in reads:
        _read_own_batch_size(stage, tensors)
    return ir.Model(stage, ir_version=model.ir_version)


def _read_own_batch_size(stage: ir.Graph, tensors: dict[str, Tensor]) -> None:
    """Replace the stage's input that holds the batch size: read it off one of the stage's own tensors instead."""
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
            for initializer in tape.initializers:
                if initializer.name in stage.initializers:  # equal constants were merged under this name
                    initializer.name = f"{initializer.name}.own"
            insert_tape(stage, tape)
            return
    raise ModelError(
        "A stage needs the batch size, but none of the tensors that enter it has a batch axis.",
        nodes=[str(use.node.name) for use in passed.uses()],
    )


def _collect_nodes(
    head: Head, stage_of: dict[ir.Node, int], repeated: set[ir.Node]
) -> tuple[set[ir.Node], set[ir.Value]]:
    """Walk back from a head to what earlier stages made.

    Returns:
        The nodes that this stage runs alone, and the values that cross into it.
    """
    own_nodes: set[ir.Node] = set()
    crossing: set[ir.Value] = set()
    seen: set[ir.Value] = set()
    stack: list[ir.Value] = head.outputs
    while stack:
        value = stack.pop()
        if value in seen or value.is_initializer() or value.name == BATCH_SIZE:
            continue
        seen.add(value)
        node = value.producer()
        # A network's input, or a value of an earlier stage: the walk ends here.
        if node is None or node in stage_of:
            crossing.add(value)
            continue
        if node not in repeated:
            own_nodes.add(node)
        stack += values_read(node)
    return own_nodes, crossing


def _produced_ahead(
    graph: ir.Graph, stage_of: dict[ir.Node, int], needed: set[ir.Node], constant_nodes: set[ir.Node]
) -> set[ir.Node]:
    """Return nodes needed only by later stages that this stage runs anyway, because their output is smaller than their input.

    They are QuantizeLinear nodes if they are a value's only later readers, and the length of a tensor of this stage.
    """
    ahead: set[ir.Node] = set()
    for node in graph:
        if node not in needed or node in stage_of or not node.inputs or node.inputs[0] is None:
            continue
        source = node.inputs[0]
        if node.op_type == "QuantizeLinear" and source.producer() in stage_of:
            waiting = {user for user in source.consumers() if user in needed and user not in stage_of}
            if all(user.op_type == "QuantizeLinear" for user in waiting):
                ahead.add(node)
        if is_length(node.outputs[0]):
            shape = source.producer()
            measured = shape.inputs[0] if shape is not None else None
            is_at_hand = measured is not None and (measured.producer() in stage_of or measured in graph.inputs)
            if is_at_hand or (measured is not None and measured.producer() in constant_nodes):
                ahead.add(node)
    return ahead


def _find_constant_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Return the nodes that depend on weights, the batch size or lengths alone."""
    constant_nodes: set[ir.Node] = set()
    for node in graph:
        random = node.op_type.startswith(("Random", "Bernoulli", "Multinomial"))
        if random or any(is_length(value) for value in node.outputs):
            continue
        sources = [v for v in values_read(node) if not (v.is_initializer() or v.name == BATCH_SIZE or is_length(v))]
        if node.op_type in ("Shape", "Size") or all(value.producer() in constant_nodes for value in sources):
            constant_nodes.add(node)
    return constant_nodes
