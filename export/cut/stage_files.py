"""The ONNX files of a variant: read its whole graph, write its stages and static networks."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
from msgspec.structs import replace

from ...bundle import Bundle, Exit, Stage, Tensor, Variant
from ...errors import BundleError
from ..graph.axes import BATCH
from ..graph.edits import extract_graph
from ..graph.walk import ancestors
from .answer_rules import fill_score
from .guards import write_guarded
from .partition import StageNodes, extract_stage
from .repeated_stages import same_computation
from .rules import Head

__all__ = ["read_graph", "read_heads", "write_stages", "write_static"]

log = logging.getLogger(__name__)


def read_graph(bundle: Bundle, variant: Variant, name: str, folder: Path) -> ir.Model:
    """Read a graph of a bundle. Its weights stay in a file, of which the caller puts a checked copy into `folder`.

    Raises:
        BundleError: it is damaged, or not an ONNX file.
    """
    content, path = bundle.read(variant, name), bundle.path / variant.folder / name
    try:
        model = ir.serde.deserialize_model(onnx.ModelProto.FromString(content))
    except Exception as error:  # protobuf's and onnx-ir's exception types vary
        raise BundleError(f"{path} is not an ONNX graph: {error} Export the network anew.", path=path) from error
    ir.external_data.set_base_dir(model.graph, folder)
    return model


def read_heads(whole: ir.Model, names: Sequence[str], answer: Sequence[str]) -> list[Head]:
    """Return the outputs of each exit of a whole graph, in which they are called `<exit>.logits` and so on.

    Args:
        whole: the graph.
        names: the exits.
        answer: the parts of an answer; `logits` if the network classifies.

    Raises:
        BundleError: one is missing.
    """
    outputs = {value.name: value for value in whole.graph.outputs}
    ends = [*answer, "score", *(["label"] if "logits" in answer else [])]
    for name in names:
        if missing := [part for part in ends if f"{name}.{part}" not in outputs]:
            raise BundleError(f"The whole graph has no output {name}.{missing[0]}. Export the network anew.")
    return [
        Head(
            {part: outputs[f"{name}.{part}"] for part in answer}, outputs[f"{name}.score"], outputs.get(f"{name}.label")
        )
        for name in names
    ]


def write_stages(
    whole: ir.Model,
    parts: Sequence[StageNodes],
    heads: Sequence[Head],
    tensors: dict[str, Tensor],
    macs: Mapping[str, int],
    folder: Path,
    *,
    prefix: str = "",
) -> tuple[Stage, ...]:
    """Write every stage, and the guarded form of those that are faster with guards.

    A stage that computes the same as an earlier one, on the same weights, uses the earlier one's file.

    Args:
        whole: the graph; its weights lie in `folder`.
        parts, heads: the nodes and the exit of each stage.
        tensors: the shape and dtype of every input and boundary tensor by name.
        macs: multiply-accumulates by node name.
        folder: where to write.
        prefix: put before the files' names.
    """
    written: list[tuple[Stage, ir.Model]] = []
    stages: list[Stage] = []
    for k, (part, head) in enumerate(zip(parts, heads, strict=True)):
        model = extract_stage(whole, part, head, tensors)
        stage = Stage(
            file=f"{prefix}stage{k}.onnx",
            inputs=tuple(tensors[str(value.name)] for value in part.reads),
            outputs=tuple(tensors[str(value.name)] for value in part.makes),
            macs=sum(macs[str(node.name)] for node in part.nodes),
        )
        twin = _find_twin(stage, model, written)
        if twin is not None:
            log.debug("%s is the same computation as %s", stage.file, twin.file)
            stage = replace(stage, file=twin.file, guarded=twin.guarded)
        else:
            ir.save(model, folder / stage.file)
            stage = replace(stage, guarded=write_guarded(folder, stage, head))
            written.append((stage, model))
        stages.append(stage)
    return tuple(stages)


def _find_twin(stage: Stage, model: ir.Model, written: Sequence[tuple[Stage, ir.Model]]) -> Stage | None:
    """Return the first written stage whose file computes this stage too."""
    for earlier, earlier_model in written:
        makes = (len(earlier.outputs), len(stage.outputs))
        if earlier.serves(stage) and same_computation(earlier_model, model, makes):
            return earlier
    return None


def write_static(
    whole: ir.Model,
    k: int,
    name: str,
    head: Head,
    answer: Mapping[str, Tensor],
    macs: Mapping[str, int],
    folder: Path,
    *,
    temperature: float,
    scored: bool,
    prefix: str = "",
) -> Exit:
    """Write the static network that ends at exit k, and describe the exit.

    Args:
        whole: the graph; its weights lie in `folder`.
        k, name, head: the exit.
        answer: the parts of its answer, as the manifest describes them; none if the network classifies.
        macs: multiply-accumulates by node name.
        folder: where to write.
        temperature: of the exit.
        scored: False if the exit's score is made of earlier exits, which a static network has not; its score is 1.
        prefix: put before the file's name.
    """
    ends = [value for part, value in head.by_name.items() if scored or part != "score"]
    needed = set().union(*(ancestors(value) for value in ends))
    graph = extract_graph(whole.graph, list(whole.graph.inputs), ends)
    if not scored:
        _add_full_score(graph, str(head.score.name))
    file = f"{prefix}static{k}.onnx"
    ir.save(ir.Model(graph, ir_version=whole.ir_version), folder / file)
    return Exit(
        name=name,
        logits="" if answer else f"{name}.logits",
        score=str(head.score.name),
        label="" if answer else f"{name}.label",
        static=file,
        macs=sum(macs[str(node.name)] for node in needed),
        temperature=float(temperature),
        answer=dict(answer),
    )


def _add_full_score(graph: ir.Graph, name: str) -> None:
    """Add an output of ones (batch,) to a graph."""
    tape = ir.tape.Tape()
    score = fill_score(tape, graph.outputs[0], 1.0)
    score.name, score.dtype, score.shape = name, ir.DataType.FLOAT, ir.Shape([BATCH])
    for node in tape.nodes:
        graph.append(node)
    graph.outputs.append(score)
