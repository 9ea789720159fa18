"""Drop exits of a bundle, since every exit costs."""

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from msgspec.structs import replace
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ...bundle import Bundle, Origin, Variant, open_bundle
from ...bundle.golden import read_golden
from ...bundle.writing import check_variant_name, commit, new_variant
from ...errors import UsageError, unknown_name
from ...files import os_errors_explained
from ...runtime.loading import load_uncalibrated
from ..cut.boundaries import Prober
from ..cut.equivalence import Original
from ..cut.stage_files import read_graph, read_heads
from ..cut.variant import WHOLE, Draft, cut_variant
from ..graph.axes import axes_of, count_samples, other_lengths


def keep(
    path: str | os.PathLike[str] | Bundle,
    exits: Sequence[int | str],
    *,
    variant: str | None = None,
    name: str | None = None,
) -> Bundle:
    """Add a variant that has only some of the exits; it shares the weights and the static networks of the one it comes from.

    Args:
        path: the bundle's folder, or a bundle already opened.
        exits: the exits to keep, by name or number, at least two. The last of them always accepts, be it the network's last
            or not.
        variant: the variant to take them from; the first by default.
        name: of the new variant; the old one's name and the exits' numbers by default, such as `fp32-exits0-2`.

    Returns:
        The bundle with the new variant in it.

    Raises:
        UsageError: there is no such exit or variant, the name is taken or no plain name, or the scores are an ensemble's.
        CheckError: the new chain does not say what the old one says.
        BundleError, MissingError: as for `open_bundle`; MissingError too where the bundle cannot be written.
    """
    root = path.path if isinstance(path, Bundle) else Path(path)
    open_bundle(root)  # what is no bundle is refused before a folder is made for it
    with new_variant(root) as folder:  # it holds the lock: from here on nobody else changes what is read
        bundle = open_bundle(root)
        parent = bundle.variant(variant)
        numbers = _number(exits, parent)
        name = check_variant_name(name or f"{parent.name}-exits{'-'.join(map(str, numbers))}", bundle)
        if parent.rule == "ensemble":
            raise UsageError(
                "The scores of an ensemble are made of all heads so far, so no exit can be dropped afterwards: export the "
                "network again with exits=[...]."
            )
        inputs = read_golden(bundle, parent).inputs
        ends = tuple(parent.exits[k] for k in numbers)
        shared = [parent.weights, *(end.static for end in ends)]
        for file in shared:
            with os_errors_explained(
                folder / file, "write"
            ):  # engines read weights only from beside the graph, and follow no links
                shutil.copyfile(bundle.file(parent, file), folder / file)
        whole = _restrict(read_graph(bundle.file(parent, parent.whole)), [end.name for end in ends])
        ir.save(whole, folder / f"{name}.{WHOLE}")
        axes = [axes_of(tensor) for tensor in bundle.manifest.inputs]
        with load_uncalibrated(bundle, variant=parent.name, logits=True) as net:

            def reference(x: Sequence[np.ndarray]) -> list[np.ndarray]:
                logits = net.every_exit(tuple(x), size=count_samples(x, axes)).logits
                assert logits is not None
                return [logits[:, k] for k in numbers]

            new = cut_variant(
                whole,
                Prober(inputs, axes, other_lengths(inputs, axes, reference), folder),
                Original(
                    inputs=bundle.manifest.inputs,
                    classes=bundle.manifest.classes,
                    precision=parent.precision,
                    run=reference,
                ),
                Draft(
                    name=name,
                    rule=parent.rule,
                    exits=tuple(end.name for end in ends),
                    statics=ends,
                    prefix=f"{name}.",
                    origin=Origin(parent.name, "keep", {"exits": ", ".join(map(str, numbers))}),
                ),
            )
        for file in shared:
            (folder / file).unlink()
        files = new.files | {file: parent.files[file] for file in shared}
        new = replace(new, folder=parent.folder, files=files)
        manifest = replace(bundle.manifest, variants=(*bundle.manifest.variants, new))
        return commit(root, folder, manifest, shares=True)


def _number(exits: Sequence[int | str], parent: Variant) -> tuple[int, ...]:
    names = [exit_.name for exit_ in parent.exits]
    numbers = []
    by_name = all(wanted in names for wanted in exits)  # else what is written in digits is a number
    for wanted in exits:
        if by_name or not re.fullmatch(r"-?[0-9]+", str(wanted)):
            if wanted not in names:
                raise unknown_name("exit", str(wanted), names)
            number = names.index(str(wanted))
        else:
            number = int(wanted)
        if not -len(names) <= number < len(names):
            raise UsageError(f"There is no exit {number}: variant {parent.name} has exits 0 to {len(names) - 1}.")
        numbers.append(number % len(names))
    chosen = tuple(sorted(set(numbers)))
    if len(chosen) < len(numbers):
        raise UsageError(f"An exit is named twice among {list(exits)}.")
    if len(chosen) < 2:
        raise UsageError("Keep at least two exits. The plain network that ends at one is there as a static network.")
    return chosen


def _restrict(whole: ir.Model, names: Sequence[str]) -> ir.Model:
    heads = read_heads(whole, names)
    whole.graph.outputs[:] = [value for head in heads for value in head]
    RemoveUnusedNodesPass()(whole)
    return whole
