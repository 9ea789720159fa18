"""What a server answers with: a network, or one of its stages. Each answers in the threads of its workers."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from ..bundle import Bundle, Tensor, opened
from ..bundle.golden import read_golden
from ..bundle.manifest import NEVER, PLAIN_NAME
from ..errors import DataError, UsageError, quoted
from ..runtime.chain.memory import CHUNK_SAMPLES
from ..runtime.chain.net import Net
from ..runtime.chain.results import BatchResult, Result
from ..runtime.chain.samples import Samples, check_samples, convert_samples
from ..runtime.loading import load
from ..runtime.protocol import InferRequest
from .stages import ServedStage, open_stages
from .tasks import Answered, Parameter, ServedTensors, Task, Values

__all__ = ["ServedModel", "open_model"]

LEAST_LEFT_S = 1e-9
"""What a request has left that has waited beyond its deadline: the first exit answers, and is late."""


class ServedModel(ServedTensors):
    """A network under a name.

    Args:
        name: the last part of its address.
        net: the network. It answers with logits if it was loaded with `logits=True`.
        class_names: one for each class, for its metadata.
        joins: True if requests that wait are answered together.

    Attributes:
        stages: the stages of its chain, if each is a model, too.

    Example:
        >>> from offramp.runtime import load
        >>> from offramp.serve import ServedModel
        >>> [tensor.name for tensor in ServedModel("digits", load("digits.offramp")).outputs]
        ['label', 'score', 'exit', 'cut', 'late']
    """

    def __init__(self, name: str, net: Net, *, class_names: Sequence[str] | None = None, joins: bool = False) -> None:
        self.name, self.net, self.joins = name, net, joins
        self.stages: tuple[ServedStage, ...] = ()
        self.inputs = net._inputs
        parts = {part: [link.parts[part] for link in net._links] for part in net._links[-1].parts}
        own = [Tensor(name="label", dtype="int64", shape=(None,))] if net._classes else []
        own += [Tensor(name="score", dtype="float32", shape=(None,)), Tensor(name="exit", dtype="int64", shape=(None,))]
        answer = tuple(_join_forms(part, tensors) for part, tensors in parts.items())
        marks = [Tensor(name=mark, dtype="bool", shape=(None,)) for mark in ("cut", "late")]
        self.outputs = (*own, *answer, *marks)
        self.usual = tuple(tensor.name for tensor in (own if net._classes else (*own, *answer)))
        self.about = {"exits": list(net.exits), "network": net.provenance.network}
        self.about |= {"point": net.point.name} if net.point else {}
        self.about |= {"class_names": list(class_names)} if class_names else {}

    def make_task(self, arrays: Values, request: InferRequest) -> Task:
        """Return the task of a request with these inputs; values that are not finite are refused."""
        return Task(convert_samples(arrays, self.inputs), request)

    def start(self, *, is_first: bool) -> Callable[[Sequence[Task]], list[Answered]]:
        """Return what answers tasks in one thread."""
        net = self.net if is_first else self.net.clone()
        return lambda tasks: _answer_together(net, tasks) if len(tasks) > 1 else [_answer_alone(net, tasks[0])]


def _answer_together(net: Net, tasks: Sequence[Task]) -> list[Answered]:
    columns = zip(*(task.samples.arrays for task in tasks), strict=True)
    values = _take_batch(net.batch(Samples(tuple(map(np.concatenate, columns)))))
    answers, first = [], 0
    for task in tasks:
        own = {name: array[first : first + task.count] for name, array in values.items()}
        answers.append(_finish(own, task))
        first += task.count
    return answers


def _answer_alone(net: Net, task: Task) -> Answered:
    if task.exit is None and task.score is None:
        return _finish(_run(net, task), task)
    before = net.thresholds
    last = len(before) if task.exit is None else task.exit
    own = [threshold if task.score is None else min(task.score, NEVER) for threshold in before]
    net.thresholds = [0.0 if k >= last else own[k] for k in range(len(before))]
    try:
        return _finish(_run(net, task), task)
    finally:
        net.thresholds = before


def _run(net: Net, task: Task) -> Values:
    if task.end_s is not None:
        end_s = task.end_s
        return _take_results([net(x, max(LEAST_LEFT_S, end_s - perf_counter())) for x in task.samples])
    return _take_results([net(task.samples[0])]) if task.count == 1 else _take_batch(net.batch(task.samples))


def _take_results(results: Sequence[Result]) -> Values:
    """Return single answers as arrays."""
    values: Values = {
        "label": np.array([result.label for result in results], np.int64),
        "score": np.array([result.score for result in results], np.float32),
        "exit": np.array([result.exit for result in results], np.int64),
        "cut": np.array([result.cut for result in results]),
        "late": np.array([result.late for result in results]),
    }
    of_each = [result.answer or ({} if result.logits is None else {"logits": result.logits}) for result in results]
    for name in of_each[0]:
        values[name] = np.empty(len(results), object)
        for row, parts in enumerate(of_each):
            values[name][row] = parts[name]
    return values


def _take_batch(result: BatchResult) -> Values:
    never = np.zeros(len(result.label), bool)
    values = {"label": result.label, "score": result.score, "exit": result.exit, "cut": never, "late": never}
    return values | (result.answer or ({} if result.logits is None else {"logits": result.logits}))


def _finish(values: Values, task: Task) -> Answered:
    """Return the outputs that a task gets, and the parameters of the response. Parts of answers that came one by one are stacked.

    Raises:
        DataError: they differ in their shapes, as exits may.
    """
    wanted = {name: values[name] for name in task.wanted}
    for name, array in wanted.items():
        if array.dtype == object:
            if len({part.shape for part in array}) > 1:
                raise DataError(f"The exits answer with {name} of different shapes: send one sample in each request.")
            wanted[name] = np.stack(list(array))
    notes: dict[str, Parameter] = {}
    if task.count == 1:
        notes |= {"exit": int(values["exit"][0]), "score": float(values["score"][0])}
    if task.end_s is not None:
        notes |= {"cut": bool(values["cut"].any()), "late": bool(values["late"].any())}
    return wanted, notes


def _join_forms(name: str, tensors: Sequence[Tensor]) -> Tensor:
    """Return the form of a part of answers; an axis that differs from exit to exit has a name, as one of any length."""
    last = tensors[-1]
    alike = [tensor.shape for tensor in tensors if len(tensor.shape) == len(last.shape)]
    axes = [axes[0] if len(set(axes)) == 1 else "any" for axes in zip(*alike, strict=True)]
    return Tensor(name=name, dtype=last.dtype, shape=tuple(axes))


def open_model(
    path: str | os.PathLike[str] | Bundle,
    name: str | None = None,
    *,
    joins: bool | None = None,
    stages: bool = False,
    **loading: Any,
) -> ServedModel:
    """Load a bundle to serve it.

    Args:
        path: the bundle's folder, or a bundle already opened.
        name: the last part of its address; by default the name of the folder or file without its ending.
        joins: True if requests that wait are answered together. By default that is tried on the golden samples, and done if
            it takes no longer than one after the other.
        stages: True if each stage of the chain is a model, too, for chains elsewhere: `digits:stage1`; and each static network.
        loading: further arguments of `load`: device, point, threads, ...

    Raises:
        UsageError, BundleError, MissingError: as for `load`; or the name is none for an address.

    Example:
        >>> from offramp.serve import open_model
        >>> open_model("digits.offramp").name
        'digits'
    """
    bundle = opened(path)
    if name is None:  # a link keeps its name when it is turned to another bundle
        name = Path(os.path.abspath(bundle.path)).name.removesuffix(".zip").removesuffix(".offramp")  # noqa: PTH100
    if not re.fullmatch(PLAIN_NAME, name):
        raise UsageError(f"{quoted(name)!r} is no name for an address: give one of letters, digits, points and dashes.")
    net = load(bundle, logits=True, **loading)
    if joins is None:
        golden = check_samples(read_golden(bundle, bundle.variant()).inputs, bundle.manifest.inputs)
        net.batch(golden[np.arange(3 * CHUNK_SAMPLES) % len(golden)])
        joins = net.runs_together
        net.stats(reset=True)
    model = ServedModel(name, net, class_names=bundle.manifest.class_names, joins=joins)
    if stages:
        variant = bundle.chain(net.point.variant if net.point else loading.get("variant"))
        model.stages = open_stages(bundle, name, net, variant, threads=loading.get("threads", 1))
    return model
