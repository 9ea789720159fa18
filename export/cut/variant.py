"""Cut a whole graph into a variant, and see that it says what it should."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from ...bundle import Exit, Origin, Tensor, Variant
from ...bundle.golden import Golden, write_golden
from ...bundle.manifest import Precision
from ...bundle.writing import list_files
from ..graph.axes import sizes_of
from ..graph.macs import count_macs
from .boundaries import Prober, describe_boundaries
from .equivalence import verify_chain
from .partition import assign_nodes
from .stage_files import read_heads, write_stages, write_static

WEIGHTS, WHOLE, GOLDEN = "weights.bin", "whole.onnx", "golden.npz"


def cut_variant(
    whole: ir.Model,
    prober: Prober,
    *,
    name: str,
    precision: Precision,
    rule: str,
    inputs: Sequence[Tensor],
    classes: int,
    exits: Sequence[str],
    temperatures: Sequence[float] | None,
    reference: Callable[[Sequence[np.ndarray]], list[np.ndarray]],
    noise: float = 0.0,
    statics: Sequence[Exit] | None = None,
    prefix: str = "",
    origin: Origin | None = None,
) -> Variant:
    """Write a variant's stages, static networks and golden samples beside its whole graph, and compare them with a reference.

    Args:
        whole: the graph, whose decisions are called as `stages.read_heads` reads them.
        prober: golden samples, and the folder in which the graph lies with its weights.
        name, precision, rule, origin: of the variant.
        inputs, classes: of the bundle.
        exits: their names.
        temperatures: of the exits.
        reference: from golden samples, or as many at other lengths, to the logits of every exit.
        noise: how far the reference may be from itself; see `verify_chain`.
        statics: the static networks, where they are there already.
        prefix: of the names of all files; that of the graph is `<prefix>whole.onnx`.

    Returns:
        The variant, with all files of the folder, in `variants/<name>`.

    Raises:
        CheckError: the chain or a static network differs from the reference.
        ModelError: the graph cannot be cut here.
    """
    golden, axes, others, folder = prober
    heads = read_heads(whole, exits)
    plans = assign_nodes(whole.graph, heads)
    values = list(dict.fromkeys(v for plan in plans for v in plan.reads if v not in whole.graph.inputs))
    tensors = describe_boundaries(whole, values, inputs, prober)
    macs = count_macs(whole, sizes_of(golden, axes))
    stages = write_stages(whole, plans, heads, tensors, macs, folder, prefix=prefix)
    ends = statics or [
        write_static(whole, k, exit_, head, macs, folder, temperature=temperatures[k] if temperatures else 1.0)
        for k, (exit_, head) in enumerate(zip(exits, heads, strict=True))
    ]
    answers = verify_chain(
        folder,
        stages,
        ends,
        inputs=inputs,
        axes=axes,
        classes=classes,
        golden=golden,
        others=others,
        precision=precision,
        noise=noise,
        reference=reference,
    )
    assert answers.logits is not None
    write_golden(folder / f"{prefix}{GOLDEN}", Golden(tuple(golden), answers.label, answers.score, answers.logits))
    return Variant(
        name=name,
        folder=f"variants/{name}",
        precision=precision,
        rule=rule,
        weights=WEIGHTS,
        whole=f"{prefix}{WHOLE}",
        golden=f"{prefix}{GOLDEN}",
        stages=stages,
        exits=tuple(ends),
        files=list_files(folder),
        origin=origin,
    )
