"""The order of the exits, told by the work below each."""

from itertools import pairwise

import onnx_ir as ir

from ..errors import ModelError
from .capture import Captured
from .cut import ancestors
from .macs import MULTIPLIES, count_macs


def order_exits(captured: Captured, sizes: dict[str, int], *, sort: bool) -> Captured:
    """See that every exit takes more work than the one before it, or put them in that order.

    The multiply-accumulates below the exits rise in every real network. Where an exit multiplies in operators that are not
    counted, the number of its nodes tells.

    Raises:
        ModelError: they do not rise and `sort` was not asked for, or two exits are the same.
    """
    logits, gates = list(captured.logits.items()), captured.gates
    before = [ancestors(value) for _, value in logits]
    for k, (name, value) in enumerate(logits):
        for other, same in logits[:k]:
            if value is same:
                raise ModelError(f"The exits {other} and {name} are the same: list each once.")
    depth, unit = _depths(captured.model, before, sizes)
    order = sorted(range(len(logits)), key=lambda k: depth[k])
    for earlier, later in pairwise(order):
        if depth[earlier] == depth[later]:
            raise ModelError(
                f"The exits {logits[earlier][0]} and {logits[later][0]} take the same work ({depth[later]} {unit}): "
                "is one exit listed twice, or are they no exits of one chain?"
            )
    if order == list(range(len(logits))):
        return captured
    listed = ", ".join(f"{name} {depth[k]}" for k, (name, _) in enumerate(logits))
    if not sort:
        raise ModelError(
            f"The exits are not in order: {listed} {unit}. List them from the shallowest to the deepest, or ask for that with "
            "sort=True (--sort)."
        )
    reference = captured.reference
    return captured._replace(
        logits=dict(logits[k] for k in order),
        gates=[gates[k] for k in order if k < len(gates)],
        reference=lambda inputs: [values[k] for values in [reference(inputs)] for k in order],
    )


def _depths(model: ir.Model, before: list[set[ir.Node]], sizes: dict[str, int]) -> tuple[list[int], str]:
    macs = count_macs(model, sizes)
    counted = all(macs[str(node.name)] for node in set.union(*before) - before[0] if node.op_type in MULTIPLIES)
    up_to = [sum(macs[str(node.name)] for node in nodes) for nodes in before]
    if counted and min(up_to) > 0:
        return up_to, "multiply-accumulates"
    return [len(nodes) for nodes in before], "nodes"
