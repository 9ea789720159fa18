"""`cascade()`: networks that nobody trained together become one bundle; the next is asked when the one before is unsure."""

import os
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ...bundle import Bundle, Preprocess
from ...errors import UsageError
from ...progress import Progress, no_progress
from ..capture.example import read_example
from ..graph.shapes import infer_shapes
from ..pipeline import export
from .joining import join
from .member import Member, MemberGraph, read_member

if TYPE_CHECKING:
    import torch

__all__ = ["cascade"]

OWN_RULES = ("max_softmax", "entropy", "margin")
"""The rules that read one exit alone, so that each member may have its own."""


def cascade(
    members: "Sequence[Member | torch.nn.Module | str | os.PathLike[str]]",
    example: Any,
    path: "str | os.PathLike[str]",
    *,
    answer: Sequence[str] = (),
    rule: str = "max_softmax",
    class_names: Sequence[str] | None = None,
    beside: str | None = None,
    progress: Progress = no_progress,
) -> Bundle:
    """Join networks that nobody trained together in one bundle: the next is asked where the one before is unsure.

    Each member's exits become exits of the chain, called after it. All members read the same input: each one's first stage makes
    its own of it, in the graph. With `Member.preprocess` that input is a uint8 image; without, the floats that all members take,
    of which images (batch, channel, height, width) are resized where sizes differ. Resizing is Pillow's, with antialiasing, to
    within half a step of a pixel, since nothing is rounded to whole steps.

    Args:
        members: at least two, the cheapest first: networks, paths, or a `Member` that says more.
        example: as for `export`: samples of what the bundle takes.
        path: the bundle to write.
        answer: as for `export`, the same parts of every member.
        rule: how the exits' scores are made. Of a member that has labels that the bundle has not it is `max_softmax`.
        class_names: one for each of the bundle's classes.
        beside: as for `export`: the cascade is added to an existing bundle, as a variant of this name. Its members then take what
            the bundle's networks take, without a `preprocess` of their own.
        progress: called as the export goes on.

    Returns:
        The bundle.

    Raises:
        UsageError: there is one member only, one twice, or labels or inputs that do not fit.
        ModelError, DataError, BundleError, CheckError, MissingError: as for `export`.

    Example:
        >>> from offramp.export import cascade
        >>> bundle = cascade(["small.onnx", "large.onnx"], x, "both.offramp")  # doctest: +SKIP
        >>> [exit.name for exit in bundle.variant().exits]  # doctest: +SKIP
        ['small', 'large']
    """
    listed = [member if isinstance(member, Member) else Member(member) for member in members]
    _check_members(listed)
    shape, images = _read_shape(example, listed)
    with tempfile.TemporaryDirectory() as folder:
        graphs = _name_apart([_read(member, Path(folder), k, shape) for k, member in enumerate(listed)])
        classes = 0 if answer else _count_classes(listed, graphs, class_names)
        has_gates = any(_drops_labels(member) or member.rule is not None for member in listed)
        if has_gates and rule not in OWN_RULES:
            raise UsageError(
                "Members that have a rule of their own, or labels that are no classes of the bundle, do not go with the rule "
                f"{rule}: take one of {', '.join(OWN_RULES)}."
            )
        joined = join(
            list(zip(listed, graphs, strict=True)),
            shape=shape,
            classes=classes,
            rule=rule if has_gates else None,
            answer=answer,
        )
        exits = [str(value.name) for value in joined.graph.outputs if not str(value.name).endswith(".gate")]
        file = Path(folder) / f"{'+'.join(graph.name for graph in graphs)}.onnx"
        ir.save(joined, file, external_data=f"{file.name}.data")
        return export(
            file,
            example,
            path,
            exits=None if answer else exits,
            sort=None,
            answer=answer,
            rule="gate" if has_gates else rule,
            gates=[f"{name}.gate" for name in exits] if has_gates else (),
            preprocess=Preprocess(mean=(0.0,) * shape[0], std=(1.0,) * shape[0]) if images else None,
            class_names=class_names,
            beside=beside,
            progress=progress,
        )


def _check_members(members: Sequence[Member]) -> None:
    """See that there are several, and none twice.

    Raises:
        UsageError: that is not so, or some have `preprocess` and others not.
    """
    if len(members) < 2:
        raise UsageError(f"A cascade has at least two members, not {len(members)}.")
    for k, member in enumerate(members):
        for other in members[:k]:
            same = member.model is other.model or (
                isinstance(member.model, (str, os.PathLike))
                and isinstance(other.model, (str, os.PathLike))
                and os.path.realpath(member.model) == os.path.realpath(other.model)
            )
            if same and member.exits == other.exits:
                raise UsageError(f"{member.model!s:.80} is a member twice.")
    if len({member.preprocess is None for member in members}) > 1:
        raise UsageError(
            "Some members have a preprocess and some have not: the bundle takes images for all or for none."
        )


def _read_shape(example: Any, members: Sequence[Member]) -> tuple[tuple[int, ...], bool]:
    """Return the shape of one sample in the joined graph, and whether the bundle takes uint8 images.

    Raises:
        UsageError: the example is no image where members have a `preprocess`.
    """
    first = np.asarray(read_example(example)[1][0])
    if members[0].preprocess is None:
        return tuple(first.shape[1:]), False
    if first.dtype != np.uint8 or first.ndim != 4:
        raise UsageError(
            f"With preprocess, samples are uint8 images (N, height, width, channel), not {first.dtype} {first.shape}."
        )
    height, width, channels = first.shape[1:]
    return (channels, height, width), True


def _read(member: Member, folder: Path, k: int, shape: tuple[int, ...]) -> MemberGraph:
    own = folder / str(k)  # weights of two bundles may have the same name
    own.mkdir()
    graph = read_member(member, own, shape=(*shape[:-2], *member.size) if member.size else shape)
    infer_shapes(graph.model)
    return graph


def _name_apart(graphs: Sequence[MemberGraph]) -> list[MemberGraph]:
    """Give members of the same name different ones, of letters, digits, - and _."""
    names = [re.sub(r"[^A-Za-z0-9_-]+", "-", graph.name).strip("-_") or "member" for graph in graphs]
    counts = Counter(names)
    named = [name if counts[name] == 1 else f"{name}-{names[:k].count(name)}" for k, name in enumerate(names)]
    return [MemberGraph(name, graph.model) for name, graph in zip(named, graphs, strict=True)]


def _drops_labels(member: Member) -> bool:
    """Tell whether a member has labels that the bundle has not; of a mapping that is not known before its graph is read."""
    classes = member.classes
    return classes is not None and (not isinstance(classes, Sequence) or None in classes)


def _count_classes(members: Sequence[Member], graphs: Sequence[MemberGraph], class_names: Sequence[str] | None) -> int:
    """Return how many classes the bundle has: those that are named, else those of a member whose labels are the bundle's."""
    if class_names is not None:
        return len(class_names)
    counts = {}
    for member, graph in zip(members, graphs, strict=True):
        value = graph.model.graph.outputs[0]
        if member.classes is None and value.shape is not None and isinstance(value.shape[-1], int):
            counts[graph.name] = value.shape[-1]
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise UsageError(
            f"The members differ in their number of labels: {each}. Give classes= for those that have others."
        )
    if counts:
        return next(iter(counts.values()))
    labels = [label for member in members for label in _labels_of(member) if label is not None]
    return max(labels, default=0) + 1


def _labels_of(member: Member) -> list[int | None]:
    classes = member.classes or ()
    return list(classes) if isinstance(classes, Sequence) else list(classes.values())
