"""The chain tied to memory: which tensor has which name in a stage's file, and a binding for each batch size."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ...bundle import Exit, Stage, Tensor
from ...bundle.across import Source
from ...bundle.manifest import NO_LABEL
from ...errors import UsageError
from ..engines import Compiled, Run
from .buffers import Buffers
from .checks import Where, errors_located, raise_explained
from .values import FloatMarks, make_marks

CHUNK_SAMPLES = 16
"""The most samples that go through a stage at once. More would need more memory."""


Place = tuple[dict[tuple[int, ...], np.ndarray], Any]
"""An input's memory as arrays of different shapes, by shape, and its dtype."""


Span = tuple[int, int]
"""The first and the last of the stages that are joined to one."""


Step = tuple[Run, Any, Any, dict[str, np.ndarray] | None]
"""What runs a stage, and the score, the label and the parts of the answer of the exit at its end; the parts by name, or None."""


class Link(Struct, frozen=True):
    """A stage in the chain.

    Attributes:
        compiled: what runs the stage.
        reads, writes: the chain's tensors by the names that the stage's file has for them: {"x": "exit0.features"}.
        exit: the exit at which the stage ends.
        parts: the tensors of the exit's answer that are read, by name, such as {"logits": ...}.
        where: the stage's device and file, for errors.
    """

    compiled: Compiled
    reads: dict[str, str]
    writes: dict[str, str]
    exit: Exit
    parts: dict[str, Tensor]
    where: Where


def link_stages(
    compiled: Sequence[Compiled],
    stages: Sequence[Stage],
    exits: Sequence[Exit],
    classes: int,
    logits: bool,
    devices: Sequence[str | None],
    sources: Sequence[Source] | None = None,
) -> list[Link]:
    """Join stages to the chain's tensors. Stages that share a file share its names, which are those of the first of them.

    Answers are read, logits only if `logits` is True. `sources` has the stages of a chain across two variants under the names of
    their files.
    """
    links = []
    first: dict[str, int] = {}
    for k, (stage, exit_) in enumerate(zip(stages, exits, strict=True)):
        owner = first.setdefault(stage.file, k)
        source = None if sources is None else sources[k]
        in_file, exit_in_file = (source.stage, source.exit) if source else (stages[owner], exits[owner])
        reads = {a.name: b.name for a, b in zip(in_file.inputs, stage.inputs, strict=True)}
        # The last pass of a loop has no later stage, so the file's other outputs are not bound.
        writes = {a.name: b.name for a, b in zip(in_file.outputs, stage.outputs, strict=False)}
        writes[exit_in_file.score] = exit_.score
        if classes:
            writes[exit_in_file.label] = exit_.label
        parts = exit_.parts(classes) if logits or not classes else {}
        if parts:
            writes |= {tensor.name: parts[name].name for name, tensor in exit_in_file.parts(classes).items()}
        links.append(Link(compiled[k], reads, writes, exit_, parts, (devices[k], stage.file)))
    return links


def link_joined(links: Sequence[Link], joined: Mapping[Span, Compiled]) -> dict[Span, Link]:
    """Put stages that are joined to one into the chain. Their files have the chain's names."""
    made = {}
    for (first, last), compiled in joined.items():
        inside, end = links[first : last + 1], links[last]
        own = {name for link in inside for name in link.writes.values()}
        later = {name for link in links[last + 1 :] for name in link.reads.values()}
        reads = {name: name for link in inside for name in link.reads.values() if name not in own}
        writes = {name: name for name in own if name in later or name in end.writes.values()}
        made[first, last] = Link(compiled, reads, writes, end.exit, end.parts, end.where)
    return made


def share_stages(links: Sequence[Link], *, threads: bool) -> list[Link]:
    """Return the chain for another memory; with `threads`, its stages run while those of the first chain do.

    Raises:
        UsageError: an engine does not allow it.
        MissingError: memory is too small for it.
    """
    shared, taken = [], {}
    for k, link in enumerate(links):
        compiled = link.compiled
        if id(compiled) not in taken:  # stages may share a file
            with errors_located(link.where):
                taken[id(compiled)] = compiled.clone() if threads else compiled if compiled.clones else None
        if (other := taken[id(compiled)]) is None:
            raise UsageError(
                f"Chains cannot share stage {k} on {compiled.runs_on}: load the bundle once for each thread or signal handler.",
                device=link.where[0],
                stage=link.where[1],
            )
        shared.append(replace(link, compiled=other))
    return shared


class Bound(Struct):
    """The whole chain tied to memory for one batch size.

    Attributes:
        views: the tensors in the host's memory, by name.
        steps: those of each stage.
        inputs: the arrays of the network's inputs, in order.
        marks: for each of `inputs` where NaN and infinity are marked.
    """

    views: dict[str, np.ndarray]
    steps: list[Step]
    inputs: list[np.ndarray]
    marks: list[FloatMarks]

    def runs_zeros(self, last: int) -> bool:
        """Return whether the stages up to the one of that index run a sample of zeros."""
        for array in self.inputs:
            array[...] = 0
        try:
            for run, *_ in self.steps[: last + 1]:
                run()
        except Exception:
            return False
        return True


class Memory:
    """The memory of a chain for one size of its named axes.

    Args:
        links: the chain.
        inputs: the network's inputs.
        others: the tensors at the boundaries, and the outputs of the exits.
        joined: stages of the chain that are joined to one.

    Attributes:
        single: the chain at batch 1.
        heads: its steps with score and label as memory views, which are read in half the time that an array takes.
        joined: those of the stages that are joined to one.
        places: for each input its memory in the shapes in which a sample may come, without its batch axis and with it, and its
            dtype.
    """

    def __init__(
        self, links: Sequence[Link], inputs: Sequence[Tensor], others: Sequence[Tensor], joined: Mapping[Span, Link]
    ) -> None:
        self._links = links
        self._inputs = [tensor.name for tensor in inputs]
        self._tensors = tensors = [*inputs, *others]
        self._sides: list[Buffers] = []
        self._bound: dict[tuple[int, int], Bound] = {}
        allocators = _device_allocators(links)
        views = Buffers([tensor for tensor in tensors if tensor.name not in allocators], batch=1).views(1)
        on_device = {t.name: allocators[t.name](t.at(1), t.dtype) for t in tensors if t.name in allocators}
        self.single = self._bind(views, on_device)
        self.heads = [_view_head(step) for step in self.single.steps]
        steps = self._tie(list(joined.values()), views, views | on_device)
        self.joined = dict(zip(joined, map(_view_head, steps), strict=True))
        self.places: list[Place] = []
        for tensor, place in zip(inputs, self.single.inputs, strict=True):
            by_shape: dict[tuple[int, ...], np.ndarray] = {place.shape: place}
            axis = tensor.batch_axis or 0
            if place.shape[axis : axis + 1] == (1,):
                by_shape[place.squeeze(axis).shape] = place.squeeze(axis)
            self.places.append((by_shape, place.dtype))

    def at(self, batch: int, side: int) -> Bound:
        """Return the chain tied to one of two memories, so that a batch can be compacted from one into the other."""
        if not self._sides:
            self._sides = [Buffers(self._tensors, batch=CHUNK_SAMPLES) for _ in range(2)]
        if (batch, side) not in self._bound:
            self._bound[batch, side] = self._bind(self._sides[side].views(batch), {})
        return self._bound[batch, side]

    def _bind(self, views: dict[str, np.ndarray], on_device: dict[str, Any]) -> Bound:
        """Tie the chain to arrays, and to memory of the engines' devices."""
        steps = self._tie(self._links, views, views | on_device)
        arrays = [views[name] for name in self._inputs]
        return Bound(views, steps, arrays, [make_marks(array) for array in arrays])

    def _tie(self, links: Sequence[Link], views: dict[str, np.ndarray], places: dict[str, Any]) -> list[Step]:
        """Tie links to memory; `views` is the host's part of `places`."""
        steps: list[Step] = []
        for link in links:
            inputs = {in_file: places[name] for in_file, name in link.reads.items()}
            with errors_located(link.where):
                run = link.compiled.bind(inputs, {in_file: places[name] for in_file, name in link.writes.items()})
            score = views[link.exit.score]
            label = views[link.exit.label] if link.exit.label else np.full(len(score), NO_LABEL, np.int64)
            answer = {name: views[tensor.name] for name, tensor in link.parts.items()}
            steps.append((run, score, label, answer or None))
        return steps


def _view_head(step: Step) -> tuple[Any, ...]:
    run, score, label, parts = step
    return run, memoryview(score), memoryview(label), parts and {name: part[0, ...] for name, part in parts.items()}


def _device_allocators(links: Sequence[Link]) -> dict[str, Callable[[tuple[int, ...], Any], Any]]:
    """Return by tensor how to make room on the device, for tensors whose writer and readers share a device's memory."""
    heads = {name for link in links for name in (link.exit.score, link.exit.label)}
    heads |= {tensor.name for link in links for tensor in link.parts.values()}
    allocators = {}
    for link in links:
        for name in set(link.writes.values()) - heads:
            readers = [other.compiled.memory for other in links if name in other.reads.values()]
            if link.compiled.allocate is not None and all(memory == link.compiled.memory for memory in readers):
                allocators[name] = link.compiled.allocate
    return allocators


def learn_shapes(links: Sequence[Link], stages: Sequence[Stage], inputs: dict[str, np.ndarray]) -> list[Tensor]:
    """Run the chain once, in memory that the engines allocate; return boundary tensors and answers with their named axes' sizes.

    Args:
        links, stages: the chain.
        inputs: one sample by the names of the inputs, with the batch axis.

    Raises:
        DataError: an engine cannot run the sample.
    """
    values, sized = dict(inputs), []
    for link, stage in zip(links, stages, strict=True):
        answers = link.parts.values()
        tensors = {t.name: t for t in (*stage.outputs, *(part for part in answers if not part.is_sized))}
        names = {in_file: name for in_file, name in link.writes.items() if name in tensors}
        if names:
            feeds = {in_file: values[name] for in_file, name in link.reads.items()}
            try:
                arrays = link.compiled.infer(feeds, list(names))
            except Exception as error:
                zeros = {in_file: np.zeros_like(array) for in_file, array in feeds.items()}
                raise_explained(
                    error,
                    link.where,
                    samples=1,
                    has_lengths=True,
                    try_zeros=partial(_infers, link.compiled, zeros, list(names)),
                )
            values |= {names[in_file]: array for in_file, array in arrays.items()}
        sized += [part for part in answers if part.is_sized]
        sized += [resize(tensor, values[tensor.name].shape) for tensor in tensors.values()]
    return sized


def _infers(compiled: Compiled, feeds: dict[str, np.ndarray], outputs: Sequence[str]) -> bool:
    try:
        compiled.infer(feeds, outputs)
    except Exception:
        return False
    return True


def resize(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a tensor whose named axes have the sizes of a shape: ("N", "time", 12) with (1, 7, 12) is ("N", 7, 12)."""
    axes = tuple(size if isinstance(axis, str) else axis for axis, size in zip(tensor.shape, shape, strict=True))
    return Tensor(name=tensor.name, dtype=tensor.dtype, shape=axes)


def live_after(stages: Sequence[Stage]) -> list[list[Tensor]]:
    """Return for each stage the tensors that exist after it and that later stages read."""
    live: list[list[Tensor]] = []
    for k in range(len(stages)):
        later = {tensor.name: tensor for stage in stages[k + 1 :] for tensor in stage.inputs}
        not_yet = {tensor.name for stage in stages[k + 1 :] for tensor in stage.outputs}
        live.append([tensor for name, tensor in later.items() if name not in not_yet])
    return live


def keep_rows(source: np.ndarray, place: np.ndarray, stay: np.ndarray, axis: int | None) -> None:
    """Copy the rows of the samples that stay. A tensor without a batch axis is copied whole."""
    if axis is None:
        place[...] = source
    else:
        # mode="clip" saves the check of bounds, a third of the time
        source.take(np.flatnonzero(stay), axis, place, "clip")
