"""Requests that were checked, and what can answer them. Nothing is allocated for a tensor whose size was not found to fit."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct

from ..bundle import Tensor
from ..errors import DataError, UsageError, quoted, unknown_name
from ..runtime.chain.samples import Samples
from ..runtime.protocol import DATATYPES, InferRequest

if TYPE_CHECKING:
    from asyncio import Future

__all__ = ["Answered", "Limits", "Parameter", "ServedTensors", "Task", "Values"]

Values = dict[str, np.ndarray]
Parameter = str | int | float | bool
Answered = tuple[Values, dict[str, Parameter]]
"""Outputs by name, and the parameters of the response."""

OURS = ("deadline_s", "exit", "score")
"""The parameters that a request may have."""

NEAR = 0.75
"""A name that is so like one of them, of 1, is a slip of the pen."""

MOST_DEADLINE_S = 1e9
"""A later deadline is never reached; JSON has whole numbers that no float holds."""


class Limits(Struct, frozen=True, kw_only=True):
    """What a server takes on. What is beyond is refused at once.

    Attributes:
        body_bytes: the longest body of a request. All bodies together may be 16 times as long.
        samples: the most samples in one request.
        waiting: the most requests under way, those included whose bodies are still coming.
        timeout_s: time for a request's body to come, and once more for its answer.

    Raises:
        UsageError: one is no number above 0.

    Example:
        >>> from offramp.serve import Limits
        >>> Limits(samples=16).timeout_s
        30.0
    """

    body_bytes: float = 16 * 2**20
    samples: int = 256
    waiting: int = 512
    timeout_s: float = 30.0

    def __post_init__(self) -> None:
        for name in ("body_bytes", "samples", "waiting", "timeout_s"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 2**40:
                raise UsageError(f"{name} is a number from above 0 to 2**40, not {value!r:.30}.")


class Task:
    """A request that was checked.

    Attributes:
        samples: its samples in the network's dtypes, one array for each input.
        count: how many.
        wanted: the names of the outputs that it gets.
        joins: True if it may be answered together with others.
        exit: the last exit that may answer; None if all may.
        score: leave at the first exit that is so sure; None if the operating point decides.
        end_s: its deadline, by `perf_counter`; None if it has none.
        future: gets the answer.
    """

    def __init__(self, samples: Samples, request: InferRequest) -> None:
        self.samples, self.count = samples, len(samples)
        self.wanted: tuple[str, ...] = ()
        _check_parameters(request)
        self.exit: int | None = _number(request, "exit", int)
        self.score: float | None = _number(request, "score", float)
        deadline_s = _number(request, "deadline_s", float)
        self.end_s = None if deadline_s is None else perf_counter() + min(deadline_s, MOST_DEADLINE_S)
        self.joins = self.exit is None and self.score is None and self.end_s is None
        self.future: Future[Answered]

    def fits(self, other: "Task") -> bool:
        """Return True if its samples have the shapes of another task's, so that both can be one batch."""
        pairs = zip(self.samples.arrays, other.samples.arrays, strict=True)
        return all(a.shape[1:] == b.shape[1:] for a, b in pairs)


def _check_parameters(request: InferRequest) -> None:
    """Refuse a parameter whose name is nearly one of ours; others are a client's own, and are passed over.

    Raises:
        DataError: there is one, such as `deadline`: the answer would come as if it had not been asked for.
    """
    for name in request.parameters.keys() - set(OURS):
        if near := get_close_matches(name, OURS, n=1, cutoff=NEAR):
            raise DataError(f"Unknown parameter '{quoted(name)}'. Did you mean '{near[0]}'?")


def _number(request: InferRequest, name: str, kind: type) -> Any:
    """Return a parameter of a request; None if it has none of that name."""
    value: Any = request.parameters.get(name)
    if value is None:
        return None
    if type(value) not in (int, kind) or not (value > 0 if name == "deadline_s" else value >= 0):
        words = {"exit": "the number of an exit", "score": "a number from 0 on", "deadline_s": "seconds above 0"}
        raise DataError(f"The parameter {name} is {words[name]}, not {quoted(value)}.")
    return value


class ServedTensors(ABC):
    """Something with named inputs and outputs that answers requests.

    Attributes:
        name: the last part of its address.
        inputs: what it takes; None is the axis of the samples.
        outputs: what it gives.
        usual: the names of the outputs that a request gets which names none.
        about: what its metadata says beside that.
        joins: True if requests are answered together where several wait.
    """

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    usual: tuple[str, ...]
    about: dict[str, Any]
    joins = False

    def describe(self) -> dict[str, Any]:
        """Return its metadata, as the protocol wants them."""
        return {
            "name": self.name,
            "versions": ["1"],
            "platform": "offramp",
            "inputs": [_describe(tensor) for tensor in self.inputs],
            "outputs": [_describe(tensor) for tensor in self.outputs],
            "parameters": self.about,
        }

    def read(self, request: InferRequest, most_samples: int) -> Task:
        """Check a request. Its tensors are read only after their datatypes and shapes were found to fit.

        Raises:
            DataError: it cannot be answered.
        """
        given, arrays, lengths, counts = request.inputs, Values(), dict[str, int](), set[int]()
        for name in given:
            if name not in {tensor.name for tensor in self.inputs}:
                raise DataError(str(unknown_name("input", name, [tensor.name for tensor in self.inputs])))
        for asked in request.outputs:
            if asked.name not in {tensor.name for tensor in self.outputs}:
                raise DataError(str(unknown_name("output", asked.name, [tensor.name for tensor in self.outputs])))
            if strange := asked.parameters.keys() & {"classification", "shared_memory_region"}:
                raise DataError(f"This server has no {' and no '.join(sorted(strange))}.")
        for tensor in self.inputs:
            if tensor.name not in given:
                raise DataError(f"The input {tensor.name} is missing.")
            sent, wanted = given[tensor.name], _describe(tensor)
            if sent.datatype not in self.takes(tensor):
                raise DataError(f"{tensor.name} is {wanted['datatype']}, not {quoted(sent.datatype)}.")
            count = sent.shape[axis] if (axis := tensor.batch_axis or 0) < len(sent.shape) else 0
            if not tensor.fits(sent.shape, lengths) or count == 0:
                raise DataError(f"{tensor.name} has the shape {wanted['shape']}, not {quoted(list(sent.shape))}.")
            if tensor.batch_axis is not None and count > most_samples:
                raise DataError(f"A request may have {most_samples} samples, not {count}.")
            counts |= set() if tensor.batch_axis is None else {count}
            if len(counts) > 1:
                raise DataError(f"{tensor.name} has {count} samples, and another input has more or fewer.")
            arrays[tensor.name] = sent.read()
        task = self.make_task(arrays, request)
        task.wanted = tuple(dict.fromkeys(asked.name for asked in request.outputs)) or self.usual
        return task

    def takes(self, tensor: Tensor) -> tuple[str, ...]:
        """Return the datatypes in which an input may come."""
        return (DATATYPES[tensor.dtype],)

    @abstractmethod
    def make_task(self, arrays: Values, request: InferRequest) -> Task:
        """Return the task of a request with these inputs."""

    @abstractmethod
    def start(self, *, is_first: bool) -> "Callable[[Sequence[Task]], list[Answered]]":
        """Return what answers tasks in one thread; the first thread may use what is loaded, others take a copy.

        Raises:
            UsageError: the engine does not allow a second one.
        """


def _describe(tensor: Tensor) -> dict[str, Any]:
    shape = [axis if isinstance(axis, int) else -1 for axis in tensor.shape]
    return {"name": tensor.name, "datatype": DATATYPES[tensor.dtype], "shape": shape}
