"""The chain tied to memory: which tensor is which name in a stage's file, and bindings kept per batch size."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct

from ...bundle import Exit, Stage, Tensor
from ..engines import Compiled, Run
from .buffers import Buffers

CHUNK_SAMPLES = 16
"""The most samples that go through a stage at once; bounds the memory."""


class Link(NamedTuple):
    """A stage in the chain: what runs it, and the chain's tensors by the names that the stage's file has for them."""

    compiled: Compiled
    reads: dict[str, str]
    writes: dict[str, str]
    exit: Exit
    logits: bool


def link_stages(
    compiled: Sequence[Compiled], stages: Sequence[Stage], exits: Sequence[Exit], logits: bool
) -> list[Link]:
    """Join stages to the chain's tensors. Stages that share a file have the names of the first of them in it."""
    links = []
    first: dict[str, int] = {}
    for k, (stage, exit_) in enumerate(zip(stages, exits, strict=True)):
        owner = first.setdefault(stage.file, k)
        own, own_exit = stages[owner], exits[owner]
        reads = {a.name: b.name for a, b in zip(own.inputs, stage.inputs, strict=True)}
        # The last pass of a loop makes nothing for later stages: it leaves the file's other outputs alone.
        writes = {a.name: b.name for a, b in zip(own.outputs, stage.outputs, strict=False)}
        writes |= {own_exit.score: exit_.score, own_exit.label: exit_.label}
        if logits:
            writes[own_exit.logits] = exit_.logits
        links.append(Link(compiled[k], reads, writes, exit_, logits))
    return links


class Bound(Struct):
    """The whole chain tied to memory for one batch size; `steps[k]` is (run, score, label, logits) of stage k.

    `views` are the tensors in the host's memory, by name.
    """

    views: dict[str, np.ndarray]
    steps: list[tuple[Run, Any, Any, Any]]


class Memory:
    """The memory of a chain for one size of its named axes.

    Attributes:
        single: the chain at batch 1.
        heads: its steps with score and label as memory views, which are read in half the time of an array.
    """

    def __init__(self, links: Sequence[Link], tensors: Sequence[Tensor]) -> None:
        self._links = links
        self._tensors = tensors
        self._sides: list[Buffers] = []
        self._bound: dict[tuple[int, int], Bound] = {}
        inside = _handed_over(links)
        views = Buffers([tensor for tensor in tensors if tensor.name not in inside], batch=1).views(1)
        own = {t.name: inside[t.name](t.at(1), t.dtype) for t in tensors if t.name in inside}
        self.single = self._bind(views, own)
        self.heads: list[Any] = [
            (run, memoryview(score), memoryview(label), values[0] if values is not None else None)
            for run, score, label, values in self.single.steps
        ]

    def at(self, batch: int, side: int) -> Bound:
        """Return the chain tied to one of two memories, so that a batch can be compacted from one into the other."""
        if not self._sides:
            self._sides = [Buffers(self._tensors, batch=CHUNK_SAMPLES) for _ in range(2)]
        if (batch, side) not in self._bound:
            self._bound[batch, side] = self._bind(self._sides[side].views(batch), {})
        return self._bound[batch, side]

    def _bind(self, views: dict[str, np.ndarray], own: dict[str, Any]) -> Bound:
        """Tie the chain to arrays, and to memory of the engines' own."""
        places, steps = views | own, []
        for compiled, reads, writes, exit_, logits in self._links:
            inputs = {its: places[name] for its, name in reads.items()}
            run = compiled.bind(inputs, {its: places[name] for its, name in writes.items()})
            steps.append((run, views[exit_.score], views[exit_.label], views[exit_.logits] if logits else None))
        return Bound(views, steps)


def _handed_over(links: Sequence[Link]) -> dict[str, Callable[[tuple[int, ...], Any], Any]]:
    """Return how to make room for each tensor that never leaves the memory of the engine that makes it."""
    heads = {name for link in links for name in (link.exit.score, link.exit.label, *([link.exit.logits] * link.logits))}
    found = {}
    for link in links:
        for name in set(link.writes.values()) - heads:
            readers = [other.compiled.memory for other in links if name in other.reads.values()]
            if link.compiled.allocate is not None and all(memory == link.compiled.memory for memory in readers):
                found[name] = link.compiled.allocate
    return found


def learn_shapes(links: Sequence[Link], stages: Sequence[Stage], inputs: dict[str, np.ndarray]) -> list[Tensor]:
    """Run the chain once in memory of the engine's own, and return every boundary tensor with its named axes sized.

    Args:
        links, stages: the chain.
        inputs: one sample by the names of the inputs, with the batch axis.
    """
    values, sized = dict(inputs), []
    for link, stage in zip(links, stages, strict=True):
        names = {own: name for own, name in link.writes.items() if any(t.name == name for t in stage.outputs)}
        if names:
            made = link.compiled.infer({own: values[name] for own, name in link.reads.items()}, list(names))
            values |= {names[own]: array for own, array in made.items()}
        sized += [resize(tensor, values[tensor.name].shape) for tensor in stage.outputs]
    return sized


def resize(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Give a tensor's named axes their sizes."""
    axes = tuple(size if isinstance(axis, str) else axis for axis, size in zip(tensor.shape, shape, strict=True))
    return Tensor(name=tensor.name, dtype=tensor.dtype, shape=axes)


def live_after(stages: Sequence[Stage]) -> list[list[Tensor]]:
    """For each stage, the tensors that later stages still read."""
    live: list[list[Tensor]] = []
    for k in range(len(stages)):
        later = {tensor.name: tensor for stage in stages[k + 1 :] for tensor in stage.inputs}
        made = {tensor.name for stage in stages[k + 1 :] for tensor in stage.outputs}
        live.append([tensor for name, tensor in later.items() if name not in made])
    return live


def keep_rows(source: np.ndarray, place: np.ndarray, stay: np.ndarray, axis: int | None) -> None:
    """Copy the samples that stay; a tensor without a batch axis is copied whole."""
    if axis is None:
        place[...] = source
    else:
        # mode='clip' spares the bounds check, a third of the time
        source.take(np.flatnonzero(stay), axis, place, "clip")
