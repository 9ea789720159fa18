"""`cascade()`: networks that nobody trained together become one bundle; the next is asked when the one before is unsure."""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from msgspec.structs import replace

from ...bundle import Bundle, Preprocess, open_bundle
from ...bundle.golden import read_golden
from ...errors import ModelError, OfframpError, UsageError, quoted
from ...progress import Progress, no_progress
from ..capture.example import read_example
from ..graph.axes import EXPORT_DYNAMIC
from ..pipeline import export
from .checks import check_copies, check_members, check_rules, check_votes, drops_labels
from .joining import is_channels_last, join
from .member import Member, MemberGraph, find_bundle, find_own_preprocess, read_member

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch

    Network: TypeAlias = Member | torch.nn.Module | str | os.PathLike[str]

__all__ = ["cascade"]

OTHER_SIZE = "it does not run on images of the bundle's size. If it takes those of another, say it: size= (--size)."


def cascade(
    members: "Sequence[Network | Sequence[Network]]",
    example: Any,
    path: "str | os.PathLike[str]",
    *,
    answer: Sequence[str] = (),
    rule: str = "max_softmax",
    class_names: Sequence[str] | None = None,
    beside: str | None = None,
    replace: bool = False,
    progress: Progress = no_progress,
) -> Bundle:
    """Join networks that nobody trained together in one bundle: the next is asked where the one before is unsure.

    Each member's exits become exits of the chain, called after it. All members read the same input: each one's first stage makes
    its own of it, in the graph. With `Member.preprocess` that input is a uint8 image; without, the floats that all members take,
    of which images (batch, channel, height, width) or (batch, height, width, channel) are resized where sizes differ. Resizing is
    Pillow's, with antialiasing, to within one step of a pixel, since nothing is rounded to whole steps. An axis of any other size
    has the example's.

    Args:
        members: at least two, the cheapest first: networks, paths, or a `Member` that says more. A list among them votes: its
            networks run together and are one exit, `vote`. Its label is the commonest of theirs, of several the most probable in
            the mean; what the rule scores is (votes + mean probability) / (networks + 1) of each label.
        example: samples of what the bundle takes; with several inputs the one that all members read first. With `beside` the
            bundle's by default.
        path: the bundle to write.
        answer: as for `export`, the same parts of every member.
        rule: how the exits' scores are made. Of a member that has labels that the bundle has not it is `max_softmax`.
        class_names: one for each of the bundle's classes; by default those of members that are bundles.
        beside: as for `export`: the cascade is added to an existing bundle, as a variant of this name. Its members then take what
            the bundle's networks take; where that are images, those with a `preprocess` make their own of them.
        replace: as for `export`: variants and calibrations of the network that is there may go.
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
        >>> bundle = cascade([["a.onnx", "b.onnx", "c.onnx"], "large.onnx"], x, "voted.offramp")  # doctest: +SKIP
        >>> [exit.name for exit in bundle.variant().exits]  # doctest: +SKIP
        ['vote', 'large']
    """
    if isinstance(members, (str, os.PathLike)) or not isinstance(members, Iterable):
        raise UsageError(f"members is a list of networks, paths or Member, not {members!r:.60}.")
    groups = [_list_voters(entry) for entry in members]
    listed = [member for voters in groups for member in voters]
    base = None if beside is None else open_bundle(path)
    check_members(groups, base)
    check_rules(listed, rule, answer)
    check_votes(groups, answer)
    has_images, is_classifier = any(member.preprocess is not None for member in listed), not answer
    if example is None:
        if base is None:
            raise UsageError("Give samples of what the bundle takes, which say its size, as the example.")
        example = tuple(read_golden(base, base.variant()).inputs)
    normalised = None if base is None else base.manifest.preprocess
    arrays = _read_arrays(example, has_images=has_images or normalised is not None)
    shape = arrays[0].shape[1:]
    with tempfile.TemporaryDirectory() as folder:
        graphs = _name_apart([_read(member, Path(folder), k, arrays) for k, member in enumerate(listed)])
        check_copies(listed, graphs)
        fixed = [graph.name for graph in graphs if graph.has_fixed_batch]
        unsized = [graph.name for member, graph in zip(listed, graphs, strict=True) if _has_open_size(member, graph)]
        names = _find_names(listed, graphs, class_names, base) if is_classifier else class_names
        classes = _count_classes(listed, graphs, names) if is_classifier else 0
        has_gates = any(drops_labels(member) or member.rule is not None for member in listed)
        read = iter(zip(listed, graphs, strict=True))
        joined, exits = join(
            [[next(read) for _ in voters] for voters in groups],
            shape=shape,
            classes=classes,
            rule=rule if has_gates else None,
            answer=answer,
            takes=None if base is None else base.manifest.inputs[0].name,
            normalised=normalised,
        )
        if arrays[0].dtype == np.uint8 and joined.graph.inputs[0].dtype != ir.DataType.UINT8:
            raise UsageError(
                "The example is uint8 images, but members take floats: say how each was trained to take images "
                "(Member(preprocess=...), --mean and --std)."
            )
        file = Path(folder) / f"{'+'.join(graph.name for graph in graphs)[:100]}.onnx"
        ir.save(joined, file, external_data=f"{file.name}.data")
        pixels = None
        if has_images and base is None:
            pixels = Preprocess(mean=(0.0,) * shape[0], std=(1.0,) * shape[0])
        with _refusals_named(file, fixed, unsized):
            return export(
                file,
                example,
                path,
                exits=exits if is_classifier else None,
                sort=None,
                answer=answer,
                rule="gate" if has_gates else rule,
                gates=[f"{name}.gate" for name in exits] if has_gates else (),
                preprocess=pixels,
                class_names=names if base is None else class_names,
                beside=beside,
                replace=replace,
                progress=progress,
            )


@contextmanager
def _refusals_named(file: Path, fixed: Sequence[str], unsized: Sequence[str]) -> Iterator[None]:
    """Speak of the cascade where an error speaks of the joined file, which nobody has written, and of members that explain it.

    Args:
        file: the joined file.
        fixed: the members that fix their batch.
        unsized: the members that take images of any size, and were not said to take those of one.
    """
    try:
        yield
    except OfframpError as error:
        text, name = str(error), str(file)
        if fixed and "fixed to a batch of one" in text:
            raise ModelError(f"The batch of {', '.join(fixed)} is fixed to one. {EXPORT_DYNAMIC}") from error
        if unsized and "that ONNX Runtime loads" in text:
            raise ModelError(
                f"{', '.join(unsized)}: {OTHER_SIZE} {text.partition(': ')[2].replace(name, 'the cascade')}"
            ) from error
        text = f"The cascade{text.removeprefix(name)}" if text.startswith(name) else text
        error.args = (text.replace(name, "the cascade"),)
        error.path = None if error.path == file else error.path
        raise


def _list_voters(entry: Any) -> list[Member]:
    """Return the members of an exit: those of a list, or one alone.

    Raises:
        UsageError: the list is empty, or holds a list.
    """
    networks = entry if isinstance(entry, (list, tuple)) else [entry]
    if not networks or any(isinstance(each, (list, tuple)) for each in networks):
        wrong = "holds a list itself" if networks else "is empty"
        raise UsageError(f"A list among the members holds the networks that vote, and one {wrong}.")
    return [_take_pixels(each if isinstance(each, Member) else Member(each)) for each in networks]


def _take_pixels(member: Member) -> Member:
    """Return a member that is a bundle which takes uint8 images with a `preprocess` that gives it such."""
    how = find_own_preprocess(member.model)
    if how is None or member.preprocess is not None:
        return member
    return replace(member, preprocess=replace(how, mean=(0.0,) * len(how.mean), std=(1.0,) * len(how.std)))


def _find_names(
    members: Sequence[Member], graphs: Sequence[MemberGraph], given: Sequence[str] | None, base: Bundle | None
) -> Sequence[str] | None:
    """Return the names of the bundle's classes: those that are given, else those of members whose labels are the bundle's.

    Raises:
        UsageError: members call a class differently.
    """
    if given is not None:
        return given
    named = {} if base is None or base.manifest.class_names is None else {"the bundle": base.manifest.class_names}
    for member, graph in zip(members, graphs, strict=True):
        found = find_bundle(member.model)
        names = None if found is None or member.classes is not None else open_bundle(found[0]).manifest.class_names
        if names is not None:
            named[graph.name] = names
    if not named:
        return None
    (first, expected), *others = named.items()
    for name, names in others:
        differing = next((k for k, (a, b) in enumerate(zip(expected, names, strict=False)) if a != b), None)
        if differing is not None:
            raise UsageError(
                f"{first} calls class {differing} {quoted(expected[differing])}, {name} {quoted(names[differing])}: give "
                "classes= (--labels) for one of them, or class_names= (--classes) if they mean the same."
            )
    return expected


def _read_arrays(example: Any, *, has_images: bool) -> list[np.ndarray]:
    """Return two samples of each input of the joined graph; of images floats (N, channel, height, width).

    Raises:
        UsageError: the example is no uint8 image, where members have a `preprocess`.
    """
    first, *others = (array[:2] for array in read_example(example)[1])  # which may be all samples that there are
    if has_images:
        if first.dtype != np.uint8 or first.ndim != 4:
            raise UsageError(
                f"With preprocess, samples are uint8 images (N, height, width, channel), not {first.dtype} {first.shape}."
            )
        first = (first.transpose(0, 3, 1, 2) / 255).astype(np.float32)
    return [np.concatenate([array, array])[:2] for array in (first, *others)]


def _read(member: Member, folder: Path, k: int, arrays: Sequence[np.ndarray]) -> MemberGraph:
    own = folder / str(k)  # weights of two bundles may have the same name
    own.mkdir()
    first = arrays[0]
    if member.size is not None and first.ndim == 4:
        is_last = is_channels_last(first.shape[1:])
        shape = (len(first), *member.size, first.shape[3]) if is_last else (*first.shape[:2], *member.size)
        first = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    try:
        return read_member(member, own, [first, *arrays[1:]])
    except ModelError as error:
        if first.ndim != 4 or member.size is not None or isinstance(member.model, (str, os.PathLike)):
            raise
        raise ModelError(f"{type(member.model).__name__}: {OTHER_SIZE} {error}") from error


def _has_open_size(member: Member, graph: MemberGraph) -> bool:
    """Tell whether a member takes images of any size, and was not said to take those of one."""
    shape = graph.model.graph.inputs[0].shape
    return (
        member.size is None and shape is not None and len(shape) == 4 and not all(isinstance(a, int) for a in shape[2:])
    )


def _name_apart(graphs: Sequence[MemberGraph]) -> list[MemberGraph]:
    """Give members of the same name different ones, of letters, digits, - and _."""
    names = [re.sub(r"[^A-Za-z0-9_-]+", "-", graph.name).strip("-_") or "member" for graph in graphs]
    named: list[str] = []
    for name in names:
        k, free = 0, name if names.count(name) == 1 else f"{name}-0"
        while free in named or (free != name and free in names):
            k, free = k + 1, f"{name}-{k + 1}"
        named.append(free)
    return [replace(graph, name=name) for name, graph in zip(named, graphs, strict=True)]


def _count_classes(members: Sequence[Member], graphs: Sequence[MemberGraph], class_names: Sequence[str] | None) -> int:
    """Return how many classes the bundle has: those that are named, else those of a member whose labels are the bundle's."""
    if class_names is not None:
        return len(class_names)
    counts = {}
    for member, graph in zip(members, graphs, strict=True):
        value = graph.model.graph.outputs[0]
        shape = value.shape
        if member.classes is None and shape is not None and len(shape) > 1 and isinstance(shape[-1], int):
            counts[graph.name] = shape[-1]
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise UsageError(
            f"The members differ in their number of labels: {each}. Give classes= (--labels) for those that have others, or "
            "exits= (--exits) where an output is no exit."
        )
    if counts:
        return next(iter(counts.values()))
    labels = [label for member in members for label in _labels_of(member) if label is not None]
    return max(labels, default=0) + 1


def _labels_of(member: Member) -> list[int | None]:
    classes = member.classes or ()
    return list(classes.values() if isinstance(classes, Mapping) else classes)
