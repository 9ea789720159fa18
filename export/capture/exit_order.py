"""The order of the exits, found from the work below each."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import onnx_ir as ir
from msgspec.structs import replace

from ...errors import ModelError, UsageError
from ..graph.macs import MULTIPLIES, count_macs
from ..graph.walk import ancestors, name_producers
from .captured import Captured

__all__ = ["find_order", "reorder_exits"]


def find_order(captured: Captured, sizes: dict[str, int], *, sort: bool | None) -> list[int]:
    """Return the order of the exits by the work below each; if `sort` is False it must be the order in which they are listed, and
    if it is None it is that order, whatever the work.

    The work that an exit shares with another one is compared first, so that a heavy head does not count, then all its work. The
    unit is the multiply-accumulate, or the node if the network multiplies in operators that are not counted.

    Raises:
        ModelError: the work does not rise from exit to exit and `sort` is False, or two exits are the same.
    """
    names, values = list(captured.exits), [list(parts.values()) for parts in captured.exits.values()]
    for k, parts in enumerate(values):
        if parts in values[:k]:
            raise ModelError(
                f"The exits {names[values.index(parts)]} and {names[k]} are the same: list each once.",
                nodes=name_producers(*parts),
            )
    if sort is None:
        return list(range(len(names)))
    before = [set().union(*(ancestors(value) for value in parts)) for parts in values]
    depths, unit = _measure_depths(captured.model, before, sizes)
    if all(a[1] < b[1] for a, b in pairwise(depths)):
        return list(range(len(names)))
    order = sorted(range(len(names)), key=lambda k: depths[k])
    for earlier, later in pairwise(order):
        if depths[earlier] == depths[later]:
            raise ModelError(
                f"The exits {names[earlier]} and {names[later]} take the same work ({depths[later][1]} {unit}): "
                "is one exit listed twice, or are they not exits of one chain?",
                nodes=name_producers(*values[earlier], *values[later]),
            )
    if order != list(range(len(names))) and not sort:
        listed = ", ".join(f"{name} {depths[k][1]}" for k, name in enumerate(names))
        raise ModelError(
            f"The exits are not in order: {listed} {unit}. List them from the shallowest to the deepest, here "
            f"{', '.join(names[k] for k in order)}, or ask for that with sort=True (--sort).",
            nodes=name_producers(*(value for parts in values for value in parts)),
        )
    return order


def reorder_exits(captured: Captured, order: Sequence[int]) -> Captured:
    """Return the network with its exits in another order.

    Raises:
        UsageError: an exit without a gate is then not the last one.
    """
    names, reference = list(captured.exits), captured.reference
    gates = tuple(captured.gates[k] for k in order) if captured.gates else ()
    if None in gates[:-1]:
        raise UsageError(f"The exit {names[order[gates.index(None)]]} has no gate: only the last one may go without.")
    return replace(
        captured,
        exits={names[k]: captured.exits[names[k]] for k in order},
        gates=gates,
        probabilities=tuple(captured.probabilities[k] for k in order),
        order=tuple(captured.order[k] for k in order),
        reference=lambda inputs: [answers[k] for answers in [reference(inputs)] for k in order],
    )


def _measure_depths(
    model: ir.Model, before: list[set[ir.Node]], sizes: dict[str, int]
) -> tuple[list[tuple[int, int]], str]:
    """Return each exit's work, shared and whole, from the nodes before it; and the unit of both."""
    macs = count_macs(model, sizes)
    counted = all(macs[str(node.name)] for node in set().union(*before) if node.op_type in MULTIPLIES)
    counted = counted and all(any(macs[str(node.name)] for node in nodes) for nodes in before)
    uses = Counter(node for nodes in before for node in nodes)

    def add_work(nodes: Iterable[ir.Node]) -> int:
        return sum(macs[str(node.name)] if counted else 1 for node in nodes)

    depths = [(add_work(node for node in nodes if uses[node] > 1), add_work(nodes)) for nodes in before]
    return depths, "multiply-accumulates" if counted else "nodes"
