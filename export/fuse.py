"""One ONNX file that exits early by itself: the chain as nested `If` nodes, for any language that has ONNX Runtime.

    stage 0 -> score >= threshold ? its answer
                                  : stage 1 -> score >= threshold ? its answer
                                                                  : stage 2 -> its answer

Every weight lies inside the branch that reads it, biases too: ONNX Runtime optimises a convolution's layout only then, and with
the weights outside the file takes 1.3 to 1.7 times as long.
"""

import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx_ir as ir

from ..bundle import Bundle, open_bundle
from ..errors import ModelError
from ..files import NEW, check_writable, explained, sync
from ..runtime import UncalibratedWarning
from ..runtime.loading import choose_thresholds
from ..schema import NEVER, Variant
from .cut import subgraphs
from .decide import Head

THRESHOLDS = "thresholds"
OUTPUTS = ("label", "score", "exit", "logits")

INLINE = 1 << 30
"""Bytes of weights up to which the file holds them itself; protobuf ends at 2 GiB. Above, they lie beside it in `<file>.data`."""


class Fused(msgspec.Struct, frozen=True):
    """What was fused: the file, what it takes and gives, and the thresholds it exits by unless it is given others."""

    path: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    thresholds: tuple[float, ...]
    bytes: int

    def __str__(self) -> str:
        shown = ", ".join("never" if t > 1 else f"{t:.6g}" for t in self.thresholds)
        return (
            f"{self.path}  {self.bytes / 1e6:.2f} MB, inputs {', '.join(self.inputs)}, outputs {', '.join(self.outputs)}\n"
            f"thresholds {shown}; ONNX Runtime takes others as the optional input {THRESHOLDS}, OpenVINO keeps these"
        )


def fuse(
    path: str | os.PathLike[str] | Bundle,
    output: str | os.PathLike[str],
    *,
    variant: str | None = None,
    point: str | None = None,
    calibration: str | os.PathLike[str] | None = None,
    thresholds: Sequence[float] | None = None,
) -> Fused:
    """Write a bundle as one ONNX file for one sample at a time.

    The file takes the bundle's inputs with a batch of one, and `thresholds`, float32 (exits - 1,), which may be left out. It
    gives `label` int64 (1,), `score` float32 (1,), `exit` int64 (1,) and `logits` float32 (1, classes).

    Args:
        path: the bundle's folder, or a bundle already opened.
        output: the file to write; one that is there is replaced.
        variant, point, calibration: which thresholds it exits by, as for `runtime.load`.
        thresholds: these instead of a calibration's.

    Raises:
        UsageError: the thresholds do not fit, or a name is unknown.
        BundleError, MissingError: as for `runtime.load`; MissingError too where the file cannot be written.
        ModelError: the graph's opset is below 11.
    """
    bundle = path if isinstance(path, Bundle) else open_bundle(path)
    chosen, found = choose_thresholds(bundle, calibration, variant=variant, point=point, given=thresholds)
    if found is None:
        warnings.warn(
            f"{bundle.path} has no calibration: the fused file runs to the last exit unless it is given thresholds.",
            UncalibratedWarning,
            stacklevel=2,
        )
        found = (NEVER,) * (len(chosen.exits) - 1)
    output = Path(output)
    check_writable(output)
    bundle.file(chosen, chosen.weights)
    stages = [_load_stage(bundle.file(chosen, stage.file)) for stage in chosen.stages]
    opset = stages[0].graph.opset_imports.get("", 0)
    if opset < 11:
        raise ModelError(f"The bundle's graphs have opset {opset}; fusing takes 11 or newer. Export the network anew.")
    weights = sum(tensor.nbytes for model in stages for tensor in _weights_of(model.graph))
    model = _nest(stages, chosen, found, opset)
    manifest = bundle.manifest
    model.metadata_props["offramp.network"] = manifest.network
    if manifest.class_names:
        model.metadata_props["offramp.class_names"] = "\n".join(manifest.class_names)
    written = _write(model, output, weights)
    return Fused(
        path=str(output),
        inputs=tuple(tensor.name for tensor in manifest.inputs),
        outputs=OUTPUTS,
        thresholds=found,
        bytes=written,
    )


def _load_stage(path: Path) -> ir.Model:
    model = ir.load(path)
    ir.external_data.load_to_model(model)
    return model


def _weights_of(graph: ir.Graph) -> list[ir.TensorProtocol]:
    return [value.const_value for value in graph.initializers.values() if value.const_value is not None]


class _Part(NamedTuple):
    """A stage taken out of its file: its nodes, its weights and its exit's answer."""

    nodes: list[ir.Node]
    weights: list[ir.Value]
    head: Head


def _nest(stages: Sequence[ir.Model], variant: Variant, thresholds: Sequence[float], opset: int) -> ir.Model:
    """Put every stage into the branch that is taken where the one before was not sure enough."""
    inputs: list[ir.Value] = []
    parts = _take_apart(stages, variant, inputs)
    limits = ir.Value(name=THRESHOLDS, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([len(thresholds)]))
    limits.const_value = ir.tensor(np.array(thresholds, np.float32), name=THRESHOLDS)
    body, answer = _last_body(parts[-1], len(parts) - 1)
    for k in range(len(parts) - 2, -1, -1):
        body, answer = _branching_body(parts[k], k, body, limits, opset)
    for value, name in zip(answer, OUTPUTS, strict=True):
        value.name = name
    body.inputs[:] = [*inputs, limits]
    body.register_initializer(limits)
    for model in stages:
        body.opset_imports.update(model.graph.opset_imports)
    return ir.Model(body, ir_version=max(model.ir_version for model in stages), producer_name="offramp")


def _take_apart(stages: Sequence[ir.Model], variant: Variant, inputs: list[ir.Value]) -> list[_Part]:
    """Empty every stage's graph and wire its inputs to what earlier stages made; `inputs` receives the network's own."""
    known: dict[str, ir.Value] = {}
    parts = []
    first: dict[str, int] = {}
    for k, (model, stage) in enumerate(zip(stages, variant.stages, strict=True)):
        graph, owner = model.graph, first.setdefault(stage.file, k)
        outputs = {value.name: value for value in graph.outputs}
        own, exit_ = variant.stages[owner], variant.exits[owner]
        made = {mine.name: tensor.name for mine, tensor in zip(own.outputs, stage.outputs, strict=False)}
        head = Head(outputs[exit_.logits], outputs[exit_.score], outputs[exit_.label])
        _prefix(graph, f"stage{k}.")
        for mine, tensor in zip(list(graph.inputs), stage.inputs, strict=True):
            if tensor.name in known:
                mine.replace_all_uses_with(known[tensor.name])
            else:
                mine.name = tensor.name
                mine.shape = ir.Shape([1 if axis is None else axis for axis in tensor.shape])
                known[tensor.name] = mine
                inputs.append(mine)
        known |= {name: outputs[mine] for mine, name in made.items()}
        nodes, weights = list(graph), list(graph.initializers.values())
        graph.inputs[:], graph.outputs[:] = [], []
        graph.initializers.clear()
        graph.remove(nodes)
        parts.append(_Part(nodes, weights, head))
    return parts


def _last_body(part: _Part, k: int) -> tuple[ir.Graph, list[ir.Value]]:
    tape = ir.tape.Tape()
    answer = [*_answer(part.head, k, tape)]
    return ir.Graph([], answer, nodes=[*part.nodes, *tape.nodes], initializers=part.weights, name=f"stage{k}"), answer


def _branching_body(
    part: _Part, k: int, rest: ir.Graph, limits: ir.Value, opset: int
) -> tuple[ir.Graph, list[ir.Value]]:
    """Make the graph of a stage that ends in an `If` between its own answer and the rest of the chain."""
    tape, branch = ir.tape.Tape(), ir.tape.Tape()
    answer = _answer(part.head, k, tape)
    taken = [branch.op("Identity", [value]) for value in answer]  # a branch gives out values of its own only
    sure = _compare(tape, part.head.score, limits, k, opset)
    branches = {"then_branch": ir.Graph([], taken, nodes=branch.nodes, name=f"exit{k}"), "else_branch": rest}
    result = list(tape.op_multi_out("If", [sure], branches, num_outputs=len(OUTPUTS)))
    for i, (value, name) in enumerate(zip(answer, OUTPUTS, strict=True)):
        for new, where in ((taken[i], "taken"), (result[i], "answer")):
            new.name, new.type, new.shape = f"stage{k}.{where}.{name}", value.type, value.shape
    return ir.Graph([], result, nodes=[*part.nodes, *tape.nodes], initializers=part.weights, name=f"stage{k}"), result


def _answer(head: Head, k: int, tape: ir.tape.Tape) -> list[ir.Value]:
    """Return label, score, exit and logits of an exit, for one sample."""
    number = _constant(tape, [k], f"stage{k}.exit")
    for value in (head.label, head.score):
        value.shape = ir.Shape([1])
    assert head.logits.shape is not None
    head.logits.shape = ir.Shape([1, *head.logits.shape[1:]])
    return [head.label, head.score, number, head.logits]


def _compare(tape: ir.tape.Tape, score: ir.Value, limits: ir.Value, k: int, opset: int) -> ir.Value:
    """Return whether score >= thresholds[k], as the single bool that every engine takes for a condition."""
    limit = tape.op("Gather", [limits, _constant(tape, k, f"stage{k}.at")], {"axis": 0})
    single = tape.op("Gather", [score, _constant(tape, 0, f"stage{k}.first")], {"axis": 0})
    limit.name, single.name = f"stage{k}.limit", f"stage{k}.single"
    if opset >= 12:
        sure = tape.op("GreaterOrEqual", [single, limit])
    else:
        above, equal = tape.op("Greater", [single, limit]), tape.op("Equal", [single, limit])
        above.name, equal.name = f"stage{k}.above", f"stage{k}.equal"
        sure = tape.op("Or", [above, equal])
    sure.name = f"stage{k}.sure"
    return sure


def _constant(tape: ir.tape.Tape, value: "int | list[int]", name: str) -> ir.Value:
    array = np.array(value, np.int64)
    made = tape.op("Constant", [], {"value": ir.tensor(array)})
    made.name, made.dtype, made.shape = name, ir.DataType.INT64, ir.Shape(array.shape)
    return made


def _prefix(graph: ir.Graph, prefix: str) -> None:
    """Rename every value and node, within branches and loops too: no name of an outer graph may come again inside it."""
    weights = list(graph.initializers.values())
    graph.initializers.clear()
    for value in weights:
        value.name = f"{prefix}{value.name}"
        graph.register_initializer(value)
    for value in graph.inputs:
        if not value.is_initializer():
            value.name = f"{prefix}{value.name}"
    for node in graph:
        node.name = f"{prefix}{node.name}"
        for value in node.outputs:
            if value.name:
                value.name = f"{prefix}{value.name}"
        for attribute in node.attributes.values():
            for inner in subgraphs(attribute):
                _prefix(inner, prefix)


def _write(model: ir.Model, output: Path, weights: int) -> int:
    """Write the file, and beside it the weights where they are too many for it, then move both into place.

    Returns:
        The bytes written.
    """
    with explained(output, "write"), tempfile.TemporaryDirectory(prefix=NEW, dir=output.parent) as folder:
        new, data = Path(folder) / output.name, f"{output.name}.data"
        ir.save(model, new, external_data=data if weights > INLINE else None)
        written = [path for name in (data, output.name) if (path := Path(folder) / name).exists()]
        total = sum(path.stat().st_size for path in written)
        for path in written:  # the file that is opened comes last
            sync(path)
            path.replace(output.parent / path.name)
        sync(output.parent)
    return total
