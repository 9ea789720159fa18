"""Write what a variant consists of beside its weights: stages, static networks, golden samples."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import onnx_ir as ir

from ...bundle import Exit, Stage, Tensor
from ...errors import BundleError
from ..graph.walk import ancestors
from .guards import write_guarded
from .partition import StageNodes, extract_stage
from .repeated_stages import same_computation
from .rules import Head


def read_graph(path: Path) -> ir.Model:
    """Read a graph of a bundle.

    Raises:
        BundleError: it is no ONNX file.
    """
    try:
        return ir.load(path)
    except Exception as error:  # protobuf's and onnx-ir's exception types vary
        raise BundleError(f"{path} is not an ONNX graph: {error} Export the network anew.") from error


def read_heads(whole: ir.Model, names: Sequence[str]) -> list[Head]:
    """Return the outputs of each exit of a whole graph, in which they are called `<exit>.logits` and so on.

    Raises:
        BundleError: one is missing.
    """
    outputs = {value.name: value for value in whole.graph.outputs}
    for name in names:
        if missing := [part for part in Head._fields if f"{name}.{part}" not in outputs]:
            raise BundleError(f"The whole graph has no output {name}.{missing[0]}. Export the network anew.")
    return [Head(*(outputs[f"{name}.{part}"] for part in Head._fields)) for name in names]


def write_stages(
    whole: ir.Model,
    plans: Sequence[StageNodes],
    heads: Sequence[Head],
    tensors: dict[str, Tensor],
    macs: dict[str, int],
    folder: Path,
    *,
    prefix: str = "",
) -> tuple[Stage, ...]:
    """Write every stage once, and again with guards where they pay.

    A stage that computes what an earlier one does, on the same weights, is served by its file.

    Args:
        whole: the graph; its weights lie in `folder`.
        plans, heads: the stages and their exits.
        tensors: the signature of every input and boundary tensor by name.
        macs: multiply-accumulates by node name.
        folder: where to write.
        prefix: of the files' names.
    """
    written: list[tuple[Stage, ir.Model]] = []
    stages: list[Stage] = []
    for k, (plan, head) in enumerate(zip(plans, heads, strict=True)):
        model = extract_stage(whole, plan, head, tensors)
        stage = Stage(
            file=f"{prefix}stage{k}.onnx",
            inputs=tuple(tensors[str(value.name)] for value in plan.reads),
            outputs=tuple(tensors[str(value.name)] for value in plan.makes),
            macs=sum(macs[str(node.name)] for node in plan.nodes),
        )
        for other, known in written:
            makes = (len(other.outputs), len(stage.outputs))
            if other.serves(stage) and same_computation(known, model, makes):
                stage = msgspec.structs.replace(stage, file=other.file, guarded=other.guarded)
                break
        else:
            ir.save(model, folder / stage.file)
            stage = msgspec.structs.replace(stage, guarded=write_guarded(folder, stage, head))
            written.append((stage, model))
        stages.append(stage)
    return tuple(stages)


def write_static(
    whole: ir.Model, k: int, name: str, head: Head, macs: dict[str, int], folder: Path, *, temperature: float
) -> Exit:
    """Write the plain network that ends at an exit."""
    needed = set().union(*(ancestors(value) for value in head))
    graph = ir.convenience.extract(whole.graph, list(whole.graph.inputs), list(head))
    ir.save(ir.Model(graph, ir_version=whole.ir_version), folder / f"static{k}.onnx")
    logits, score, label = (str(value.name) for value in head)
    return Exit(
        name=name,
        logits=logits,
        score=score,
        label=label,
        static=f"static{k}.onnx",
        macs=sum(macs[str(node.name)] for node in needed),
        temperature=float(temperature),
    )
