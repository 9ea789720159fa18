"""The modules that every path from a network's input to its answer passes through. Needs torch."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from .answers import answer_of
from .heads import all_features, hooked
from .inputs import ExampleInputs
from .tracing import blaming, count_runs

__all__ = ["find_bottlenecks"]

GradientEdge = tuple[Any, int]
"""A tensor in torch's graph of gradients: the function that made it, and which output of that function it is."""

Output = frozenset[GradientEdge]
"""The tensors of a module's output."""

Run = tuple[str, int]
"""A module's name and the number of its run, from 1."""

LOOK_UPS = (F.embedding, F.embedding_bag, torch.embedding, torch.Tensor.__getitem__, torch.index_select, torch.gather)
"""Functions that turn whole numbers into floats, by taking rows of a table."""

SAMPLES = (2, 3, 5, 7)
"""Numbers of samples to run with: the first that no axis of the inputs has, so that the batch is told from positions."""


def find_bottlenecks(
    network: nn.Module,
    inputs: ExampleInputs,
    mask: str | None,
    answer: Sequence[str] = (),
    *,
    of_one_reading: bool = False,
    together: bool = False,
) -> set[Run] | None:
    """Return the runs of modules without whose output the answer has no gradient to the input: gradients show the paths.

    An encoder and a decoder may each look the same tokens up. Then no layer of the encoder is on every path, but each is on all
    that begin where the encoder reads the tokens.

    Args:
        network: is run once or twice.
        inputs: the example.
        mask: the input that is a mask; paths from it do not count.
        answer: the names of the parts of the answer; none to find them.
        of_one_reading: also return what is on all paths from one of several look-ups of the only input.
        together: count all tensors that a module returns as its output, not only the first.

    Returns:
        Names of modules and the number of the run, from 1. None if the answer has no gradient to the input at all.
    """
    axes = {size for x in inputs.tensors for size in x.shape[1:]}
    inputs = inputs.of(next((count for count in SAMPLES if count not in axes), SAMPLES[0]))
    before = [(p, p.requires_grad) for p in network.parameters()]
    network.requires_grad_(False)
    try:
        for look_ups_only in (True, False):
            ends, edges, readings = _record_edges(network, inputs, mask, answer, look_ups_only, together)
            if ends:
                is_only_input = len([name for name in inputs.names if name != mask]) == 1
                starts = readings if of_one_reading and look_ups_only and is_only_input else []
                return _find_cuts(ends, edges).union(*(_find_cuts(ends, edges, start) for start in starts))
    finally:
        for p, requires in before:
            p.requires_grad_(requires)
    return None


class _FromWholeNumbers(TorchFunctionMode):
    """Makes floats that come of whole numbers begin the graph of gradients, for whole numbers have none.

    Only of those that come of the inputs and have an axis as long as there are samples: a table of positions is no input.

    Attributes:
        readings: where the graph begins at floats that come of the inputs themselves: moved, but not compared with anything.
    """

    def __init__(self, rows: int, look_ups_only: bool, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.rows, self.look_ups_only = rows, look_ups_only
        self.readings: list[GradientEdge] = []
        self._come = {id(x): x for x in inputs}  # the tensors too, or an id might be given out again
        self._moved = {id(x): x for x in inputs if _is_whole(x)}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        given = _list_tensors([*args, *(kwargs or {}).values()])
        numbers = [x for x in given if not x.is_floating_point()]
        name = getattr(function, "__name__", "")
        writes = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if not any(x.requires_grad or id(x) in self._come for x in given):
            return output
        written = _list_tensors(args[:writes])
        made = [*_list_tensors([output]), *written, *(x._base for x in written if x._base is not None)]
        # What has gradients tells by itself that it comes of the inputs.
        self._come.update({id(x): x for x in made if not x.requires_grad})
        is_moved = any(id(x) in self._moved for x in numbers)
        if is_moved:
            self._moved.update({id(x): x for x in made if _is_whole(x)})
        if self.look_ups_only and function not in LOOK_UPS:
            return output
        comes = any(id(x) in self._come and self.rows in x.shape for x in numbers)
        if not (comes and isinstance(output, Tensor) and output.is_floating_point()) or output.requires_grad:
            return output
        begun = output.detach().requires_grad_()
        if is_moved:
            self.readings.append(get_gradient_edge(begun)[:2])
        return begun.clone()


def _list_tensors(values: Iterable[Any]) -> list[Tensor]:
    """Return the tensors among values, and in lists and tuples among them."""
    parts = [part for value in values for part in (value if isinstance(value, (tuple, list)) else [value])]
    return [x for x in parts if isinstance(x, Tensor)]


def _is_whole(x: Any) -> bool:
    """Tell whether something is a tensor of whole numbers. A comparison's result, booleans, tells little of what was compared."""
    return isinstance(x, Tensor) and not x.is_floating_point() and x.dtype != torch.bool


def _begin(x: Tensor) -> Tensor:
    """Make a tensor a leaf of the graph of gradients; return a clone, which a layer may change in place."""
    return x.detach().requires_grad_().clone() if x.is_floating_point() else x.clone()


def _record_edges(
    network: nn.Module,
    inputs: ExampleInputs,
    mask: str | None,
    answer: Sequence[str],
    look_ups_only: bool,
    together: bool,
) -> tuple[list[GradientEdge], list[tuple[Run, Output]], list[GradientEdge]]:
    """Run the network with gradients to its inputs alone.

    Returns:
        The parts of its answer that have gradients, the edges of each module's output, and where the inputs are looked up.
    """
    names = {module: name for name, module in network.named_modules()}
    count = count_runs(names)
    edges: list[tuple[Run, Output]] = []

    def record(module: nn.Module, _: Any, output: Any) -> None:
        run = count(module)
        parts = all_features(output)[: None if together else 1]
        edge = frozenset(get_gradient_edge(x)[:2] for x in parts if x is not None and x.requires_grad)
        past = [old for _, old in edges]
        # An identity in a shortcut gives the output of an earlier module again, which is not the place to put an exit.
        if edge and (edge not in past or edge == past[-1]):
            edges.append((run, edge))

    with (
        blaming("The network does not run with gradients (name modules with at=[...] instead)"),
        torch.enable_grad(),
        hooked(dict.fromkeys(names, record)),
    ):
        parts = [x if name == mask else _begin(x) for name, x in zip(inputs.names, inputs.tensors, strict=True)]
        begun = inputs._replace(tensors=tuple(parts))
        read = [x for name, x in zip(inputs.names, parts, strict=True) if name != mask]
        with _FromWholeNumbers(inputs.rows, look_ups_only, read) as numbers:
            parts = list(answer_of(begun.run(network), answer).values())
            return [get_gradient_edge(x)[:2] for x in parts if x.requires_grad], edges, numbers.readings


def _find_cuts(
    ends: Sequence[GradientEdge], edges: Sequence[tuple[Run, Output]], start: GradientEdge | None = None
) -> set[Run]:
    """Return the runs of modules whose output lies on every path from the ends back to an input, or to one of the starts."""
    paths = [_find_path(ends, start) or set()]
    cuts = set()
    for run, output in edges:
        if all(output & path for path in reversed(paths)):
            bypass = _find_path(ends, start, avoided=output)
            if bypass is None:
                cuts.add(run)
            else:  # what lies not on this path is no cut either
                paths.append(bypass)
    return cuts


def _find_path(
    ends: Sequence[GradientEdge], start: GradientEdge | None, avoided: Output = frozenset()
) -> set[GradientEdge] | None:
    """Return the edges on a path from one of the ends back to a start that avoids an output; None if there is none.

    Only inputs are leaves of the graph: without a start any leaf is one.
    """
    came_from: dict[GradientEdge, GradientEdge | None] = dict.fromkeys(ends)
    todo = list(ends)
    while todo:
        current = todo.pop()
        if current in avoided:
            continue
        if current == start or (start is None and not current[0].next_functions):
            path: set[GradientEdge] = set()
            step: GradientEdge | None = current
            while step is not None:
                path.add(step)
                step = came_from[step]
            return path
        for edge in current[0].next_functions:
            if edge[0] is not None and edge not in came_from:
                came_from[edge] = current
                todo.append(edge)
    return None
