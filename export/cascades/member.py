"""One network of a cascade: where it comes from, what it takes and what its labels mean."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import onnx_ir as ir
from msgspec import Struct
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ...bundle import Preprocess, open_bundle
from ...errors import UsageError, require, unknown_name
from ..capture.forward import forward_names
from ..capture.onnx_file import OnnxFile
from ..capture.torch_module import find_network, trace_torch
from ..cut.stage_files import read_graph

if TYPE_CHECKING:
    import torch

__all__ = ["Member", "MemberGraph", "read_member"]


class Member(Struct, frozen=True):
    """A network of a cascade.

    Attributes:
        model: a torch network, the path of an ONNX file, or a bundle: its path, or `path:variant`.
        size: height and width of the images that it takes; a file that fixes them need not be told.
        preprocess: how it was trained to take images; give it for every member or for none.
        bgr: True if it takes the colours in the order blue, green, red.
        exits: the names of its outputs that are exits, in order; all by default.
        classes: for each of its labels the label of the bundle: `[0, 1, None]` keeps two of three labels, and an input that it
            takes for the third is passed on. By default its labels are the bundle's.
        rule: how the scores of its exits are made: `max_softmax`, `entropy` or `margin`; as the cascade's by default.

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


class MemberGraph(Struct, frozen=True):
    """A member that has been read: its name, and its graph, whose outputs are its exits."""

    name: str
    model: ir.Model


def read_member(member: Member, folder: Path, *, shape: tuple[int, ...]) -> MemberGraph:
    """Read a member's graph.

    Args:
        member: the member.
        folder: takes the weights of a bundle.
        shape: of one sample, as a torch network takes it.

    Raises:
        UsageError, ModelError, BundleError, MissingError: as for `export`, or it has no exit of a name.
    """
    if not isinstance(member.model, (str, os.PathLike)):
        graph = _read_module(member.model, shape)
    elif (path := Path(str(member.model).rpartition(".offramp:")[0] + ".offramp")).is_dir():
        graph = _read_bundle(path, str(member.model).rpartition(":")[2], folder)
    elif Path(member.model).is_dir():
        graph = _read_bundle(Path(member.model), None, folder)
    else:
        file = OnnxFile(member.model)
        graph = MemberGraph(file.path.stem, file.model)
    outputs = {str(value.name): value for value in graph.model.graph.outputs}
    for name in member.exits or ():
        if name not in outputs:
            raise unknown_name("output", name, outputs)
    graph.model.graph.outputs[:] = [outputs[name] for name in member.exits or outputs]
    RemoveUnusedNodesPass()(graph.model)
    return graph


def _read_module(module: "torch.nn.Module", shape: tuple[int, ...]) -> MemberGraph:
    torch = require("torch", extra="export")
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"A member is a torch.nn.Module, the path of an .onnx file or of a bundle, not a {type(module).__name__}."
        )
    network = find_network(module)
    example = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    return MemberGraph(network._get_name(), trace_torch(network, [example], names=forward_names(network, 1)))


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
