"""One network of a cascade: where it comes from, what it takes and what its labels mean."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_ir as ir
from msgspec import Struct
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ...bundle import Preprocess, open_bundle
from ...errors import ModelError, UsageError, require, unknown_name
from ..capture.forward import forward_names, forward_parameters
from ..capture.onnx_file import OnnxFile
from ..capture.torch_module import find_network, trace_torch
from ..cut.stage_files import read_graph
from ..graph.axes import BATCH
from ..graph.shapes import infer_shapes

if TYPE_CHECKING:
    import torch

__all__ = ["OWN_RULES", "Member", "MemberGraph", "find_bundle", "find_own_preprocess", "read_member"]

OWN_RULES = ("max_softmax", "entropy", "margin")
"""The rules that read one exit alone, so that each member may have its own."""


class Member(Struct, frozen=True):
    """A network of a cascade.

    Attributes:
        model: a torch network, the path of an ONNX file, or a bundle: its path, or `path:variant`.
        size: height and width of the images that it takes; a file that fixes them need not be told.
        preprocess: how it was trained to take images; give it for every member or for none, except where the cascade stands
            beside variants that take images. A bundle that takes images has its own.
        bgr: True if it takes the colours in the order blue, green, red.
        exits: the names of its outputs that are exits, in order; all by default.
        classes: for each of its labels the label of the bundle: `[0, 1, None]` keeps two of three labels, and an input that it
            takes for the third is passed on. By default its labels are the bundle's.
        rule: how the scores of its exits are made: `max_softmax`, `entropy` or `margin`; as the cascade's by default.

    Raises:
        UsageError: a value is of another kind.

    Example:
        >>> from offramp.export import Member, Preprocess
        >>> Member("person.onnx", preprocess=Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3), classes=[0, None]).bgr
        False
    """

    model: "torch.nn.Module | str | os.PathLike[str]"
    size: tuple[int, int] | None = None
    preprocess: Preprocess | None = None
    bgr: bool = False
    exits: Sequence[str] | None = None
    classes: "Sequence[int | None] | Mapping[int, int] | None" = None
    rule: Literal["max_softmax", "entropy", "margin"] | None = None

    def __post_init__(self) -> None:
        size, exits, classes = self.size, self.exits, self.classes
        if size is not None and not (
            isinstance(size, (list, tuple)) and len(size) == 2 and all(isinstance(a, Integral) and a > 0 for a in size)
        ):
            raise UsageError(f"size is height and width, such as (96, 96), not {size!r:.60}.")
        if self.preprocess is not None and not isinstance(self.preprocess, Preprocess):
            raise UsageError(f"preprocess is a Preprocess(mean=..., std=...), not {self.preprocess!r:.60}.")
        if exits is not None and (isinstance(exits, str) or not exits or len(set(exits)) < len(exits)):
            raise UsageError(f"exits is a list of names of outputs, each once, not {exits!r:.60}.")
        if classes is not None:
            labels = [*classes, *classes.values()] if isinstance(classes, Mapping) else classes
            if isinstance(classes, Mapping) and None in classes:
                raise UsageError("classes is for the labels of the network, each a whole number, and None is none.")
            if not isinstance(labels, (list, tuple)) or not all(
                label is None or isinstance(label, Integral) for label in labels
            ):
                raise UsageError(
                    f"classes is a list of the bundle's label, or None, for each label, or a dict, not {classes!r:.60}."
                )
        if self.rule is not None and self.rule not in OWN_RULES:
            raise unknown_name("rule of a member", str(self.rule), OWN_RULES)


class MemberGraph(Struct, frozen=True):
    """A member that has been read: its name, and its graph, whose outputs are its exits."""

    name: str
    model: ir.Model

    @property
    def has_fixed_batch(self) -> bool:
        """True if an input gives its batch as a number."""
        return any(value.shape is not None and isinstance(value.shape[0], int) for value in self.model.graph.inputs)


def find_bundle(model: Any) -> tuple[Path, str | None] | None:
    """Return a member's bundle and its variant, None for the first; None if it is no bundle."""
    if not isinstance(model, (str, os.PathLike)):
        return None
    path, text = Path(model), os.fspath(model)
    before, colon, variant = text.rpartition(":")
    if path.is_dir():
        return path, None
    return (Path(before), variant) if colon and before.endswith(".offramp") and Path(before).is_dir() else None


def find_own_preprocess(model: Any) -> Preprocess | None:
    """Return how a member prepares uint8 images itself; None if it is no bundle that takes such."""
    found = find_bundle(model)
    return None if found is None else open_bundle(found[0]).manifest.preprocess


def read_member(member: Member, folder: Path, example: Sequence[np.ndarray]) -> MemberGraph:
    """Read a member's graph.

    Args:
        member: the member.
        folder: takes the weights of a bundle.
        example: samples of each input, as a torch network takes them.

    Raises:
        UsageError, ModelError, BundleError, MissingError: as for `export`; it has no exit of a name, or does not read an input.
    """
    if not isinstance(member.model, (str, os.PathLike)):
        graph = _read_module(member.model, example)
    elif (found := find_bundle(member.model)) is not None:
        graph = _read_bundle(*found, folder)
    else:
        file = OnnxFile(member.model)
        if any(axes.index(BATCH) != 0 for axes in file.axes):
            raise ModelError(f"The batch is not the first axis of {file.path}: export it with the batch first.")
        graph = MemberGraph(file.path.stem, file.model)
    inner = graph.model.graph
    outputs = {str(value.name): value for value in inner.outputs}
    for name in member.exits or ():
        if name not in outputs:
            raise unknown_name("output", name, outputs)
    inner.outputs[:] = [outputs[name] for name in member.exits or outputs]
    RemoveUnusedNodesPass()(graph.model)
    if unread := [value.name for value in inner.inputs if not value.uses()]:
        raise ModelError(f"No exit of {graph.name} reads its input {unread[0]}: export it without.")
    shapes = {name: value.shape for name, value in outputs.items()}
    infer_shapes(graph.model)
    # What follows an operator that ONNX does not know has the shape that the file gives.
    for name, value in outputs.items():
        value.shape = value.shape or shapes[name]
    return graph


def _read_module(module: "torch.nn.Module", example: Sequence[np.ndarray]) -> MemberGraph:
    torch = require("torch", extra="export")
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"A member is a torch.nn.Module, the path of an .onnx file or of a bundle, not a {type(module).__name__}."
        )
    network = find_network(module)
    kind = next((weight.numpy().dtype for weight in _first_floats(network)), None)
    needed = [p for p in forward_parameters(network).values() if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
    arrays = [x.astype(kind) if kind is not None and x.dtype.kind == "f" else x for x in example[: max(1, len(needed))]]
    names = forward_names(network, len(arrays))
    return MemberGraph(network._get_name(), trace_torch(network, arrays, names=names))


def _first_floats(network: "torch.nn.Module") -> "Iterator[torch.Tensor]":
    return (weight.detach()[:0].cpu() for weight in network.parameters() if weight.is_floating_point() and weight.ndim)


def _read_bundle(path: Path, variant: str | None, folder: Path) -> MemberGraph:
    """Read the whole graph of a bundle's variant; of its outputs only the answers are taken, without scores and labels."""
    bundle = open_bundle(path)
    chosen = bundle.variant(variant)
    bundle.copy(chosen, chosen.weights, folder / chosen.weights)
    model = read_graph(bundle, chosen, chosen.whole, folder)
    answers = [value for value in model.graph.outputs if not re.search(r"\.(score|label)$", str(value.name))]
    for value in answers:
        if bundle.manifest.answer == ("logits",):
            value.name = str(value.name).removesuffix(".logits")
    model.graph.outputs[:] = answers
    return MemberGraph(f"{path.stem}-{chosen.name}", model)
