"""A variant cut from its whole graph: stages, static networks and golden samples, compared with the original."""

import logging

import onnx_ir as ir
from msgspec import Struct

from ...bundle import Exit, Origin, Variant
from ...bundle.golden import Golden, write_golden
from ...bundle.manifest import reads_earlier_exits
from ...bundle.writing import list_files
from ...progress import Progress, no_progress
from ..graph.axes import sizes_of
from ..graph.macs import count_macs
from .boundaries import Prober, describe_boundaries, measure_shapes
from .equivalence import Original, check_scales, verify_chain
from .partition import assign_nodes
from .stage_files import read_heads, write_stages, write_static

__all__ = ["WEIGHTS_FILE", "WHOLE_FILE", "Draft", "cut_variant"]

WEIGHTS_FILE, WHOLE_FILE, GOLDEN_FILE = "weights.bin", "whole.onnx", "golden.npz"
"""The names of a variant's files: all weights, the whole graph, the golden samples."""

log = logging.getLogger(__name__)


class Draft(Struct, frozen=True, kw_only=True):
    """A variant before it is cut: what its manifest entry says that the graph does not.

    Attributes:
        name: of the variant.
        rule: how its scores are made.
        exits: the names of its exits.
        answer: the parts of an answer; `logits` if the network classifies.
        temperatures: one for each exit; None for 1 everywhere.
        origin: what the variant was made from; None if it was exported.
        statics: its static networks, if their files lie in the folder already; None to write them.
        prefix: put before the names of all files that are written: the graph is read from `<prefix>whole.onnx`.
    """

    name: str
    rule: str
    exits: tuple[str, ...]
    answer: tuple[str, ...] = ("logits",)
    temperatures: tuple[float, ...] | None = None
    origin: Origin | None = None
    statics: tuple[Exit, ...] | None = None
    prefix: str = ""


def cut_variant(
    whole: ir.Model, prober: Prober, original: Original, draft: Draft, *, progress: Progress = no_progress
) -> Variant:
    """Write a variant's stages, static networks and golden samples beside its whole graph, and compare them with the original.

    Args:
        whole: the graph, with the exits' outputs named as `stage_files.read_heads` reads them.
        prober: the golden samples, and the folder in which the graph and its weights lie.
        original: the network to compare with.
        draft: the variant's name, exits and origin.
        progress: called as stages and static networks are written and compared.

    Returns:
        The variant, with all files of the folder, in `variants/<name>`.

    Raises:
        CheckError: the chain or a static network differs from the original.
        ModelError: the graph cannot be cut here.
    """
    progress("cutting it into stages", 0, 1)
    folder, prefix = prober.folder, draft.prefix
    check_scales(whole.graph)
    heads = read_heads(whole, draft.exits, draft.answer)
    parts = assign_nodes(whole.graph, heads)
    crossing = list(dict.fromkeys(v for part in parts for v in part.reads if v not in whole.graph.inputs))
    log.debug("%s: %d stages, crossed by %s", draft.name, len(parts), ", ".join(str(v.name) for v in crossing))
    answers = [value for head in heads for value in head.parts.values()]
    tensors, described = describe_boundaries(whole, crossing, answers, original.inputs, prober)
    sizes = sizes_of(prober.inputs, prober.axes)
    macs = count_macs(whole, sizes, lambda names: measure_shapes(whole, names, prober))
    stages = write_stages(whole, parts, heads, tensors, macs, folder, prefix=prefix)
    exits = draft.statics or tuple(
        write_static(
            whole,
            k,
            name,
            head,
            {part: described[str(v.name)] for part, v in head.parts.items()} if "logits" not in head.parts else {},
            macs,
            folder,
            temperature=draft.temperatures[k] if draft.temperatures else 1.0,
            scored=not reads_earlier_exits(draft.rule),
            prefix=prefix,
        )
        for k, (name, head) in enumerate(zip(draft.exits, heads, strict=True))
    )
    progress("cutting it into stages", 1, 1)
    replies, error, own_error = verify_chain(stages, exits, original, prober, progress)
    given = tuple(replies.parts(k) for k in range(len(exits)))
    golden = Golden(tuple(prober.inputs), replies.label, replies.score, given)
    write_golden(folder / f"{prefix}{GOLDEN_FILE}", golden)
    return Variant(
        name=draft.name,
        folder=f"variants/{draft.name}",
        precision=original.precision,
        rule=draft.rule,
        weights=WEIGHTS_FILE,
        whole=f"{prefix}{WHOLE_FILE}",
        golden=f"{prefix}{GOLDEN_FILE}",
        stages=stages,
        exits=exits,
        files=list_files(folder),
        origin=draft.origin,
        error=error,
        own_error=own_error,
    )
