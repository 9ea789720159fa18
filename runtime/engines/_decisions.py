"""Scores and labels made beside an engine that lacks their operators: in NumPy, from the logits or answers that it gives.

    the graph   x ---> trunk ---> head ---> logits ---> Softmax ---> ReduceMax ---> score
                                               +------> ArgMax ---> label
                |------- engine --------------|  |------------- beside it -------------|

What is beside the engine follows from what the bundle says: the exits' logits and answers, by name. What is made of nothing but
them, of constants and of inputs, is made here, operator by operator as in the graph, so every rule gives what it gives there. An
operator that is not in `OPERATORS` stays in the engine's graph, and so does a gate, which is made of features.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import reduce
from typing import Any

import msgspec
import numpy as np

from ..graph_bytes import Graph
from ..graph_values import DTYPES, Operator, read_array, read_operator

__all__ = ["OPERATORS", "Decisions", "Making", "split_decisions"]

Made = Callable[..., np.ndarray]
Settings = Mapping[str, Any]

largest, total = np.maximum.reduce, np.add.reduce
"""As an array's `max` and `sum`, in half the time."""


class Constant(msgspec.Struct, frozen=True, array_like=True):
    """An array, as bytes."""

    dtype: str
    shape: tuple[int, ...]
    content: bytes

    @property
    def array(self) -> np.ndarray:
        """The array."""
        return np.frombuffer(self.content, self.dtype).reshape(self.shape)


class Making(msgspec.Struct, frozen=True, array_like=True):
    """An operator: what it reads and makes, by name, and its settings."""

    kind: str
    reads: tuple[str, ...]
    makes: str
    settings: dict[str, int | float | str | list[int | float] | None]

    def compiled(self, constants: Mapping[str, np.ndarray]) -> Made:
        """Return the function that makes it of all that it reads."""
        fixed = [constants[name] for name in self.reads[1:] if name in constants]
        return OPERATORS[self.kind](self.settings, fixed)


class Decisions(msgspec.Struct, frozen=True):
    """What is made beside the engine.

    Attributes:
        makings: in the order in which they can be made.
        constants: that they read, by name.
        engine: the names of what the engine must give.
    """

    makings: tuple[Making, ...]
    constants: dict[str, Constant]
    engine: tuple[str, ...]

    def needed_for(self, names: Collection[str]) -> tuple[list[str], list[Making]]:
        """Return which values of the engine are needed for some outputs, and what must be made of them, in order."""
        needed, makings = set(names), list[Making]()
        for making in reversed(self.makings):
            if making.makes in needed:
                makings.append(making)
                needed.update(making.reads)
        return [name for name in self.engine if name in needed], makings[::-1]


def split_decisions(
    graph: Graph, answers: Collection[str], given: Collection[str], wanted: Sequence[str], weights: bytes = b""
) -> Decisions:
    """Split a graph into what an engine makes and what is made beside it.

    Args:
        graph: the graph of a stage or of a whole network.
        answers: the names of the logits of its exits, or of the parts of their answers.
        given: the names of its inputs.
        wanted: the names of the outputs that are needed.
        weights: the file with its external data.

    Raises:
        ValueError: the bytes of a node or weight are none.
    """
    constants: dict[str, np.ndarray | None] = {name.decode(): None for name in graph.weights}
    known, beside = {*answers, *given, *constants}, {*answers}
    makings: dict[str, Making] = {}
    for node in graph.nodes:
        operator = read_operator(node)
        reads = [name for name in operator.reads if name]
        if operator.kind == "Constant" and isinstance(array := operator.settings.get("value"), np.ndarray):
            constants[operator.makes[0]] = array
            known.add(operator.makes[0])
        elif (
            operator.kind in OPERATORS
            and known.issuperset(reads)
            and (operator.kind == "Shape" or not beside.isdisjoint(reads))  # shapes say how many samples there are
        ):
            making = _read_making(operator, constants)
            if making is not None and making.makes not in answers:
                makings[making.makes] = making
                beside.add(making.makes)
                known.add(making.makes)
    needed = {name for name in wanted if name in makings}
    used: list[Making] = []
    for making in reversed(makings.values()):
        if making.makes in needed:
            used.append(making)
            needed.update(making.reads)
    kept = dict[str, Constant]()
    for name in sorted(needed & constants.keys()):
        found = constants[name]
        array = read_array(graph.weights[name.encode()], weights) if found is None else found
        kept[name] = Constant(array.dtype.str, array.shape, array.tobytes())
    engine = [*answers, *(name for name in wanted if name not in makings)]
    return Decisions(tuple(used[::-1]), kept, tuple(dict.fromkeys(engine)))


def _read_making(operator: Operator, constants: Collection[str]) -> Making | None:
    """Return an operator as it is made here; None if it takes what is not known before it runs. Of TopK the values are made."""
    kind, reads, makes, settings = operator
    while reads and not reads[-1]:  # left out at the end
        reads = reads[:-1]
    if "" in reads or (kind in FIXED and not set(reads[1:]) <= {*constants}):
        return None
    if any(settings.get(name, usual) != usual for name, usual in USUAL.items()):
        return None
    value = settings.get("value")
    if isinstance(value, np.ndarray):
        if value.dtype != np.float32:
            return None
        settings = settings | {"value": value.ravel().tolist()}
    return Making(kind, reads, makes[0], settings)


def _plain(function: Made) -> Callable[[Settings, list[np.ndarray]], Made]:
    """Return how an operator without settings is made."""
    return lambda settings, fixed: function


def _axis(settings: Settings) -> int:
    return int(settings.get("axis", -1))


def _softmax(settings: Settings, fixed: list[np.ndarray]) -> Made:
    axis = _axis(settings)

    def make(x: np.ndarray) -> np.ndarray:
        powers = np.exp(x - largest(x, axis=axis, keepdims=True))
        return powers / total(powers, axis=axis, keepdims=True)  # type: ignore[no-any-return]

    return make


def _log_softmax(settings: Settings, fixed: list[np.ndarray]) -> Made:
    axis = _axis(settings)

    def make(x: np.ndarray) -> np.ndarray:
        x = x - largest(x, axis=axis, keepdims=True)
        return x - np.log(total(np.exp(x), axis=axis, keepdims=True))

    return make


def _reduction(function: Callable[..., Any]) -> Callable[[Settings, list[np.ndarray]], Made]:
    def compile_reduction(settings: Settings, fixed: list[np.ndarray]) -> Made:
        axes = settings.get("axes") or [int(axis) for each in fixed for axis in each.ravel()]
        axis, keepdims = tuple(axes) or None, bool(settings.get("keepdims", 1))
        return lambda x, *_: function(x, axis=axis, keepdims=keepdims)

    return compile_reduction


def _arg_max(settings: Settings, fixed: list[np.ndarray]) -> Made:
    axis, keepdims = int(settings.get("axis", 0)), bool(settings.get("keepdims", 1))
    return lambda x: x.argmax(axis, keepdims=True) if keepdims else x.argmax(axis)


def _top_k(settings: Settings, fixed: list[np.ndarray]) -> Made:
    """The largest ones, the largest first."""
    axis, count = _axis(settings), int(fixed[0].ravel()[0])
    from_the_end = -1 - np.arange(count)
    return lambda x, _: np.sort(x, axis).take(from_the_end, axis)


def _gather(settings: Settings, fixed: list[np.ndarray]) -> Made:
    axis = int(settings.get("axis", 0))
    return lambda x, indices: x.take(indices, axis)


def _clip(settings: Settings, fixed: list[np.ndarray]) -> Made:
    least, most = settings.get("min"), settings.get("max")  # settings up to opset 10, then inputs

    def make(x: np.ndarray, low: Any = least, high: Any = most) -> np.ndarray:
        x = x if low is None else np.maximum(x, low)
        return x if high is None else np.minimum(x, high)

    return make


def _cast(settings: Settings, fixed: list[np.ndarray]) -> Made:
    dtype = np.dtype(DTYPES[settings["to"]])
    return lambda x: x.astype(dtype)


def _reshape(settings: Settings, fixed: list[np.ndarray]) -> Made:
    shape = fixed[0].tolist()
    return lambda x, _: x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape)])


def _flatten(settings: Settings, fixed: list[np.ndarray]) -> Made:
    axis = int(settings.get("axis", 1))
    return lambda x: x.reshape(int(np.prod(x.shape[:axis])), -1)


def _concat(settings: Settings, fixed: list[np.ndarray]) -> Made:
    axis = int(settings["axis"])
    return lambda *x: np.concatenate(x, axis)


def _shape(settings: Settings, fixed: list[np.ndarray]) -> Made:
    start, end = settings.get("start", 0), settings.get("end")
    return lambda x: np.array(x.shape[start:end])


def _fill(settings: Settings, fixed: list[np.ndarray]) -> Made:
    number = (settings.get("value") or [0.0])[0]
    return lambda shape: np.full(shape.tolist(), number, np.float32)


OPERATORS: dict[str, Callable[[Settings, list[np.ndarray]], Made]] = {
    "Abs": _plain(np.abs),
    "Add": _plain(np.add),
    "ArgMax": _arg_max,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _fill,
    "Div": _plain(lambda x, y: np.divide(x, y).astype(x.dtype, copy=False)),  # whole numbers give whole ones
    "Equal": _plain(np.equal),
    "Exp": _plain(np.exp),
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": _plain(lambda x: x),
    "Less": _plain(np.less),
    "Log": _plain(np.log),
    "LogSoftmax": _log_softmax,
    "Max": _plain(lambda *x: reduce(np.maximum, x)),
    "Min": _plain(lambda *x: reduce(np.minimum, x)),
    "Mul": _plain(np.multiply),
    "Reciprocal": _plain(np.reciprocal),
    "ReduceMax": _reduction(largest),
    "ReduceMean": _reduction(np.mean),
    "ReduceSum": _reduction(total),
    "Relu": _plain(lambda x: np.maximum(x, 0)),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _plain(lambda x: (np.tanh(x / 2) + 1) / 2),  # exp would overflow
    "Softmax": _softmax,
    "Sub": _plain(np.subtract),
    "Sum": _plain(lambda *x: reduce(np.add, x)),
    "TopK": _top_k,
}
"""How each operator of a decision is made, from its settings and the constants that it reads."""

FIXED = ("Gather", "ReduceMax", "ReduceMean", "ReduceSum", "Reshape", "TopK")
"""Operators of which all inputs but the first must be constants."""

USUAL = {"allowzero": 0, "largest": 1, "noop_with_empty_axes": 0, "select_last_index": 0}
"""The values of settings of which operators with other ones stay in the engine's graph."""
