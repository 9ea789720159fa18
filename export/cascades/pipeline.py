"""`cascade()`: networks that nobody trained together become one bundle; the next is asked when the one before is unsure."""

import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from msgspec.structs import replace

from ...bundle import Bundle, Preprocess, open_bundle
from ...bundle.golden import read_golden
from ...errors import UsageError
from ...progress import Progress, no_progress
from ..capture.example import read_example
from ..pipeline import export
from .joining import join
from .member import OWN_RULES, Member, MemberGraph, find_bundle, find_own_preprocess, read_member

if TYPE_CHECKING:
    import torch

__all__ = ["cascade"]


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
    within one step of a pixel, since nothing is rounded to whole steps. An axis of any other size has the example's.

    Args:
        members: at least two, the cheapest first: networks, paths, or a `Member` that says more.
        example: samples of what the bundle takes; with several inputs the one that all members read first. With `beside` the
            bundle's by default.
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
    if isinstance(members, (str, os.PathLike)) or not isinstance(members, Iterable):
        raise UsageError(f"members is a list of networks, paths or Member, not {members!r:.60}.")
    listed = [member if isinstance(member, Member) else Member(member) for member in members]
    listed = [_take_pixels(member) for member in listed]
    _check_members(listed)
    _check_rules(listed, rule, answer)
    has_images, is_classifier = listed[0].preprocess is not None, not answer
    base = None if beside is None else open_bundle(path)
    if base is not None and has_images:
        raise UsageError(
            "Beside other variants preprocess is the bundle's: take members without, which read what those read."
        )
    if example is None:
        if base is None:
            raise UsageError("Give samples of what the bundle takes, which say its size, as the example.")
        example = tuple(read_golden(base, base.variant()).inputs)
    arrays = _read_arrays(example, has_images=has_images or (base is not None and base.manifest.preprocess is not None))
    shape = arrays[0].shape[1:]
    with tempfile.TemporaryDirectory() as folder:
        graphs = _name_apart([_read(member, Path(folder), k, arrays) for k, member in enumerate(listed)])
        classes = _count_classes(listed, graphs, class_names) if is_classifier else 0
        has_gates = any(_drops_labels(member) or member.rule is not None for member in listed)
        joined, exits = join(
            list(zip(listed, graphs, strict=True)),
            shape=shape,
            classes=classes,
            rule=rule if has_gates else None,
            answer=answer,
            takes=None if base is None else base.manifest.inputs[0].name,
        )
        file = Path(folder) / f"{'+'.join(graph.name for graph in graphs)[:100]}.onnx"
        ir.save(joined, file, external_data=f"{file.name}.data")
        return export(
            file,
            example,
            path,
            exits=exits if is_classifier else None,
            sort=None,
            answer=answer,
            rule="gate" if has_gates else rule,
            gates=[f"{name}.gate" for name in exits] if has_gates else (),
            preprocess=Preprocess(mean=(0.0,) * shape[0], std=(1.0,) * shape[0]) if has_images else None,
            class_names=class_names,
            beside=beside,
            progress=progress,
        )


def _take_pixels(member: Member) -> Member:
    """Return a member that is a bundle which takes uint8 images with a `preprocess` that gives it such."""
    how = find_own_preprocess(member.model)
    if how is None or member.preprocess is not None:
        return member
    return replace(member, preprocess=replace(how, mean=(0.0,) * len(how.mean), std=(1.0,) * len(how.std)))


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
                and _identify(member.model) == _identify(other.model)
            )
            if same and member.exits == other.exits:
                raise UsageError(f"{member.model!s:.300} is a member twice.")
    if len({member.preprocess is None for member in members}) > 1:
        raise UsageError(
            "Some members have a preprocess and some have not: the bundle takes images for all or for none."
        )


def _identify(path: "str | os.PathLike[str]") -> tuple[str, str]:
    """Return a file's path without links, or a bundle's and the name of its variant."""
    found = find_bundle(path)
    if found is None:
        return os.path.realpath(path), ""
    return os.path.realpath(found[0]), open_bundle(found[0]).variant(found[1]).name


def _check_rules(members: Sequence[Member], rule: str, answer: Sequence[str]) -> None:
    """See that the rule goes with the members.

    Raises:
        UsageError: it needs gates, or members have rules or labels of their own that do not go with it.
    """
    if rule.startswith("gate"):
        raise UsageError(f"A cascade has no gates of its own: take another rule than {rule}, such as {OWN_RULES[0]}.")
    if answer and any(member.classes is not None or member.rule is not None for member in members):
        raise UsageError("Members that do not classify have no classes and no rule of their own: leave them out.")
    has_own = any(_drops_labels(member) or member.rule is not None for member in members)
    if has_own and rule not in OWN_RULES:
        raise UsageError(
            "Members that have a rule of their own, or labels that are no classes of the bundle, do not go with the rule "
            f"{rule}: take one of {', '.join(OWN_RULES)}."
        )


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
        shape = (*first.shape[:2], *member.size)
        first = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return read_member(member, own, [first, *arrays[1:]])


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


def _drops_labels(member: Member) -> bool:
    """Tell whether a member has labels that the bundle has not; of a mapping that is not known before its graph is read."""
    classes = member.classes
    return classes is not None and (isinstance(classes, Mapping) or None in classes)


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
            f"The members differ in their number of labels: {each}. Give classes= for those that have others, or exits= where "
            "an output is no exit."
        )
    if counts:
        return next(iter(counts.values()))
    labels = [label for member in members for label in _labels_of(member) if label is not None]
    return max(labels, default=0) + 1


def _labels_of(member: Member) -> list[int | None]:
    classes = member.classes or ()
    return list(classes.values() if isinstance(classes, Mapping) else classes)
