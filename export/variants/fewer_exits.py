"""`keep`: add a variant with fewer exits to a bundle, since every exit costs time."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ...bundle import Bundle, Origin, Variant, open_bundle
from ...bundle.golden import read_golden
from ...bundle.manifest import can_drop_exits
from ...bundle.variant_names import free_prefix, make_room
from ...bundle.writing import commit, new_variant
from ...errors import UsageError, unknown_name
from ...runtime.chain.parts import Parts
from ...runtime.loading import load_uncalibrated
from ..cut.boundaries import Prober
from ..cut.equivalence import Original
from ..cut.stage_files import read_graph, read_heads
from ..cut.variant import WHOLE_FILE, Draft, cut_variant
from ..graph.axes import axes_of, count_samples, other_lengths

__all__ = ["keep"]


def keep(
    path: str | os.PathLike[str] | Bundle,
    exits: Sequence[int | str],
    *,
    variant: str | None = None,
    name: str | None = None,
    replace: bool = False,
) -> Bundle:
    """Add a variant that has only some of the exits. It shares the weights and the static networks of its parent.

    Args:
        path: the bundle's folder, or a bundle already opened.
        exits: the exits to keep, at least two, by their names or their numbers in the parent; -1 is its last. Every sample that
            reaches the last of them leaves there, also if the parent has later exits. In the new variant they are counted from 0
            again and have the names that they had.
        variant: the parent; the first variant by default.
        name: name of the new variant; by default the parent's name and the exits' numbers, such as `fp32-exits0-2`.
        replace: take the place of the variant that has this name, instead of refusing it.

    Returns:
        The bundle with the new variant in it.

    Raises:
        UsageError: there is no such exit or variant, the name is taken or cannot be used, or the scores are made of
            several exits.
        CheckError: the new stages give other answers than the parent.
        BundleError, MissingError: as for `open_bundle`; MissingError too if the bundle cannot be written.

    Example:
        >>> from offramp.export import keep
        >>> bundle = keep("digits.offramp", [0, 2], variant="fp32")
        >>> bundle.manifest.variants[-1].name
        'fp32-exits0-2'
    """
    root = path.path if isinstance(path, Bundle) else Path(path)
    if isinstance(exits, str) or not isinstance(exits, Sequence):
        raise UsageError(f"exits is a list of names or numbers: [{exits!r}, ...].")
    open_bundle(root)  # refuse a path that is not a bundle before a folder is made in it
    with new_variant(root) as folder:  # it holds the bundle's lock: nobody else writes the bundle meanwhile
        bundle = open_bundle(root)
        parent = bundle.variant(variant)
        numbers = _number_exits(exits, parent)
        name = name or f"{parent.name}-exits{'-'.join(map(str, numbers))}"
        others = make_room(bundle, name, parent=parent.name, replace=replace)
        if not can_drop_exits(parent.rule):
            again = "keep exits of the variant that it was made from, and fit scores to that (offramp gate)"
            raise UsageError(
                f"The scores of the rule {parent.rule} are made of several heads, so no exit can be dropped afterwards: "
                f"{again if parent.rule == 'fitted' else 'export the network again with exits=[...]'}."
            )
        shared = [parent.weights, *(parent.exits[k].static for k in numbers)]
        for file in shared:  # copied for now: engines read weights only beside the graph, and follow no links
            bundle.copy(parent, file, folder / file)
        new = _cut(bundle, parent, folder, name, numbers)
        for file in shared:
            (folder / file).unlink()
        files = new.files | {file: parent.files[file] for file in shared}
        new = msgspec.structs.replace(new, folder=parent.folder, files=files, own_error=parent.own_error)
        manifest = msgspec.structs.replace(bundle.manifest, variants=(*others, new))
        return commit(root, folder, manifest, shares=True)


def _number_exits(exits: Sequence[int | str], parent: Variant) -> tuple[int, ...]:
    """Return the numbers of exits that are given by name or number, in rising order.

    Text is a name if all of `exits` are names of exits; else text of digits is a number.

    Raises:
        UsageError: an exit does not exist or is named twice, or there are fewer than two.
    """
    names = [exit_.name for exit_ in parent.exits]
    all_named = all(wanted in names for wanted in exits)
    numbers = []
    for wanted in exits:
        if all_named or not re.fullmatch(r"-?[0-9]{1,9}", str(wanted)):
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


def _cut(bundle: Bundle, parent: Variant, folder: Path, name: str, numbers: Sequence[int]) -> Variant:
    """Write the parent's whole graph with fewer exits into a folder, and cut it into stages that are compared with the parent."""
    inputs = read_golden(bundle, parent).inputs
    axes = [axes_of(tensor) for tensor in bundle.manifest.inputs]
    exits = tuple(parent.exits[k] for k in numbers)
    names = [exit_.name for exit_ in exits]
    whole = _drop_heads(read_graph(bundle, parent, parent.whole, folder), names, bundle.manifest.answer)
    prefix = free_prefix(bundle, parent.folder, name)
    ir.save(whole, folder / f"{prefix}{WHOLE_FILE}")
    with load_uncalibrated(bundle, variant=parent.name, logits=True) as net:

        def reference(x: Sequence[np.ndarray]) -> list[Parts]:
            """Return the answers that the parent gives at the exits that stay."""
            answers = net.every_exit(tuple(x), size=count_samples(x, axes))
            return [answers.parts(k) for k in numbers]

        return cut_variant(
            whole,
            Prober(inputs, axes, other_lengths(inputs, axes, reference), folder),
            Original(
                inputs=bundle.manifest.inputs,
                classes=bundle.manifest.classes,
                precision=parent.precision,
                run=reference,
                measure_own_error=lambda: parent.own_error,
            ),
            Draft(
                name=name,
                rule=parent.rule,
                exits=tuple(names),
                answer=bundle.manifest.answer,
                statics=exits,
                prefix=prefix,
                origin=Origin(parent.name, "keep", {"exits": ", ".join(map(str, numbers))}),
            ),
        )


def _drop_heads(whole: ir.Model, names: Sequence[str], answer: Sequence[str]) -> ir.Model:
    """Remove the heads of all exits but these from a whole graph, in place."""
    heads = read_heads(whole, names, answer)
    whole.graph.outputs[:] = [value for head in heads for value in head.outputs]
    RemoveUnusedNodesPass()(whole)
    return whole
