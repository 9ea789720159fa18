"""The order of the exits, told by the work below each."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import onnx_ir as ir

from ...errors import ModelError, UsageError
from ..graph.macs import MULTIPLIES, count_macs
from ..graph.walk import ancestors
from .captured import Captured


def find_order(captured: Captured, sizes: dict[str, int], *, sort: bool) -> list[int]:
    """Return the order of the exits by the work below each, which must be the one they are listed in unless `sort` is given.

    What an exit shares with another one is compared first, so that a heavy head does not count, then all that it needs: the
    multiply-accumulates, or the number of nodes where the network multiplies in operators that are not counted.

    Raises:
        ModelError: they do not rise and `sort` was not asked for, or two exits are the same.
    """
    names, values = list(captured.logits), list(captured.logits.values())
    for k, value in enumerate(values):
        if value in values[:k]:
            raise ModelError(f"The exits {names[values.index(value)]} and {names[k]} are the same: list each once.")
    depth, unit = _depths(captured.model, [ancestors(value) for value in values], sizes)
    if all(a[1] < b[1] for a, b in pairwise(depth)):
        return list(range(len(names)))
    order = sorted(range(len(names)), key=lambda k: depth[k])
    for earlier, later in pairwise(order):
        if depth[earlier] == depth[later]:
            raise ModelError(
                f"The exits {names[earlier]} and {names[later]} take the same work ({depth[later][1]} {unit}): "
                "is one exit listed twice, or are they no exits of one chain?"
            )
    if order != list(range(len(names))) and not sort:
        listed = ", ".join(f"{name} {depth[k][1]}" for k, name in enumerate(names))
        raise ModelError(
            f"The exits are not in order: {listed} {unit}. List them from the shallowest to the deepest, here "
            f"{', '.join(names[k] for k in order)}, or ask for that with sort=True (--sort)."
        )
    return order


def reorder(captured: Captured, order: Sequence[int]) -> Captured:
    """Return the network with its exits in another order.

    Raises:
        UsageError: an exit without a gate is then not the last one.
    """
    names, reference = list(captured.logits), captured.reference
    gates = [captured.gates[k] for k in order] if captured.gates else []
    if None in gates[:-1]:
        raise UsageError(f"The exit {names[order[gates.index(None)]]} has no gate: only the last one may go without.")
    return captured._replace(
        logits={names[k]: captured.logits[names[k]] for k in order},
        gates=gates,
        reference=lambda inputs: [values[k] for values in [reference(inputs)] for k in order],
    )


def _depths(model: ir.Model, before: list[set[ir.Node]], sizes: dict[str, int]) -> tuple[list[tuple[int, int]], str]:
    macs = count_macs(model, sizes)
    counted = all(macs[str(node.name)] for node in set().union(*before) if node.op_type in MULTIPLIES)
    counted = counted and all(any(macs[str(node.name)] for node in nodes) for nodes in before)
    uses = Counter(node for nodes in before for node in nodes)

    def work(nodes: Iterable[ir.Node]) -> int:
        return sum(macs[str(node.name)] if counted else 1 for node in nodes)

    depths = [(work(node for node in nodes if uses[node] > 1), work(nodes)) for nodes in before]
    return depths, "multiply-accumulates" if counted else "nodes"
