"""`add_pruned`: prune a network, fine-tune it, and add it to the bundle of the whole network."""

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...bundle import Bundle, Origin, Preprocess, Variant
from ...bundle.golden import read_golden
from ...bundle.variant_names import make_room
from ...bundle.writing import open_unless_new
from ...errors import DataError, UsageError, require, unknown_name
from ...runtime.golden_check import compare_parts
from ..capture.answers import group_outputs
from ..capture.outputs import flatten_outputs
from ..capture.preprocess import normalise_images
from ..graph.axes import axes_of, first_line
from ..networks.history import Epoch
from ..networks.pruning import check_goal, prune
from ..networks.training import WHOLE_NETWORK_RECIPES, Criterion, train
from ..pipeline import export

if TYPE_CHECKING:
    import torch

__all__ = ["add_pruned"]

SAME = 1e-3
"""Answers are those of the same network if no value differs by more than this share of the largest."""


def add_pruned(
    network: "torch.nn.Module",
    batches: Iterable[tuple[Any, Any]],
    path: str | os.PathLike[str],
    *,
    macs: float | None = None,
    parameters: float | None = None,
    spread: str = "uniform",
    round_to: int = 8,
    keep: Sequence[str] = (),
    recipe: str = "joint",
    loss: Criterion | None = None,
    epochs: int = 10,
    lr: float = 0.02,
    device: str = "cpu",
    checkpoint: str | Path | None = None,
    variant: str | None = None,
    name: str | None = None,
    replace: bool = False,
    progress: Callable[[Epoch], None] | None = None,
) -> Bundle:
    """Prune a network, fine-tune it, and add it to the whole network's bundle.

    The teacher is the whole network, unless there is a `loss`. All parameters are fine-tuned, also frozen ones. The whole network
    is left in eval mode.

    Args:
        network: the trained network.
        batches: samples and labels, or other targets, as for `train`. If the bundle prepares images, they may be what it takes:
            uint8 (batch, height, width, channel).
        path: the network's bundle. If nothing is there, the network is exported first, if it classifies.
        macs, parameters, spread, round_to, keep: as for `prune`.
        recipe: `joint`, `distill` or `gated`, as for `train`.
        loss: as for `train`, with the recipe `joint`: a function (what an exit returns, targets) -> float (batch,), for a network
            that does not classify.
        epochs: as for `train`; 0 adds the network as pruning leaves it.
        lr, device, checkpoint, progress: as for `train`.
        variant: the variant that the network was exported as; the first by default.
        name: name of the new variant; by default `pruned40` if 40 % were to go.
        replace: take the place of the variant that has this name, instead of refusing it.

    Returns:
        The bundle with the new variant in it.

    Raises:
        UsageError: an argument cannot be used, the name is taken, the bundle is of another network, its scores are made by gates,
            or the network does not classify and there is no loss.
        DataError: there are no batches.
        ModelError, CheckError, BundleError, MissingError: as for `prune`, `train` and `export`.

    Example:
        >>> from net import data, network
        >>> from offramp.export import add_pruned
        >>> x, y = data()
        >>> bundle = add_pruned(network(), [(x, y)], "pruned.offramp", parameters=0.7, round_to=1, epochs=1)
        >>> [variant.name for variant in bundle.manifest.variants]
        ['fp32', 'pruned30']
    """
    _, share = check_goal(macs, parameters)
    name = name or f"pruned{round(100 * (1 - share))}"
    if recipe not in WHOLE_NETWORK_RECIPES:
        raise unknown_name("recipe", recipe, WHOLE_NETWORK_RECIPES)
    if loss is not None and recipe != "joint":
        raise UsageError("A loss of your own goes with the recipe joint.")
    # Everything that can be refused is refused before the hours of training.
    bundle = open_unless_new(path)
    if bundle is not None and bundle.manifest.preprocess is not None and hasattr(batches, "__len__"):
        batches = _Normalised(batches, bundle.manifest.preprocess)
    x, _ = next(iter(batches), (None, None))
    if x is None:
        raise DataError("There are no batches to fine-tune with.")
    if bundle is not None:
        make_room(bundle, name, parent=bundle.variant(variant).name, replace=replace)
        if not bundle.manifest.classes and loss is None and epochs:
            raise UsageError(
                "The network does not classify: fine-tune it by a loss of your own, a function of an exit's answer and the "
                "targets (loss=, --loss), or not at all (epochs=0, --epochs 0)."
            )
        _check_same_network(bundle, bundle.variant(variant), network)
    answer = [] if bundle is None else list(bundle.variant(variant).exits[0].answer)
    goals = {"macs": macs, "parameters": parameters}
    smaller = prune(network, x, **goals, spread=spread, round_to=round_to, keep=keep, answer=answer)
    if bundle is None:
        bundle = export(network, x[:3], path)
        make_room(bundle, name, parent=bundle.variant(variant).name)
        bundle.variant(variant)
    settings: dict[str, str | int | float | None] = {
        "macs": macs,
        "parameters": parameters,
        "spread": spread,
        "round_to": round_to,
        "keep": ", ".join(keep) or None,
        "epochs": epochs,
    }
    if epochs:
        _free_parameters(smaller)
        history = train(
            smaller,
            batches,
            epochs=epochs,
            recipe=recipe,
            teacher=network if loss is None else None,
            loss=loss,
            lr=lr,
            device=device,
            checkpoint=checkpoint,
            progress=progress,
        )
        settings |= {"recipe": recipe, "lr": lr}
        last = history.epochs[-1]
        what, figures = ("accuracy", last.accuracy) if loss is None else ("loss", last.loss)
        settings |= {f"{what}_in_training_{k}": figure for k, figure in enumerate(figures)}
    return _export_beside(bundle, bundle.variant(variant), smaller, name, settings, replace=replace)


class _Normalised:
    """Batches whose uint8 images become what the network takes; others stay as they are."""

    def __init__(self, batches: Iterable[tuple[Any, Any]], preprocess: Preprocess) -> None:
        self.batches, self.preprocess = batches, preprocess
        self.generator = getattr(batches, "generator", None)

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for x, y in self.batches:
            is_image = str(getattr(x, "dtype", "")).endswith("uint8")
            yield normalise_images(np.asarray(x), self.preprocess, channels_first=True) if is_image else x, y


def _free_parameters(network: "torch.nn.Module") -> None:
    """Let all parameters take gradients: pruning changed the frozen ones as well."""
    for parameter in network.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def _export_beside(
    bundle: Bundle,
    parent: Variant,
    network: "torch.nn.Module",
    name: str,
    settings: dict[str, str | int | float | None],
    *,
    replace: bool,
) -> Bundle:
    """Export a pruned network beside its parent, with the parent's exits, axes, rule and temperatures."""
    manifest, temperatures = bundle.manifest, [end.temperature for end in parent.exits]
    return export(
        network,
        None,
        bundle.path,
        exits=[end.name for end in parent.exits],
        answer=list(parent.exits[0].answer),
        axes=None if manifest.preprocess else {tensor.name: axes_of(tensor) for tensor in manifest.inputs},
        rule=parent.rule,
        temperatures=None if set(temperatures) == {1.0} else temperatures,  # not every rule takes them
        beside=name,
        origin=Origin(parent.name, "prune", settings),
        replace=replace,
    )


def _check_same_network(bundle: Bundle, parent: Variant, network: "torch.nn.Module") -> None:
    """Check that a variant was exported from this network: its answers on the golden samples must be the same.

    Raises:
        UsageError: it is another network, or the variant's scores are made by gates, which this function cannot export again.
    """
    if parent.rule == "fitted":
        raise UsageError(
            f"The scores of {parent.name} are fitted to what its exits say: name the variant that it was made from, "
            "and fit scores to the pruned one (offramp gate)."
        )
    if parent.rule.startswith("gate"):
        raise UsageError(
            f"The scores of {parent.name} are made by gates: export the pruned network with its gates, by "
            "export(..., gates=[...], beside=NAME)."
        )
    torch = require("torch", extra="export")

    golden = read_golden(bundle, parent)
    preprocess = bundle.manifest.preprocess
    arrays = (
        [normalise_images(golden.inputs[0], preprocess, channels_first=True)] if preprocess else list(golden.inputs)
    )
    original = copy.deepcopy(network).cpu().eval()
    try:
        with torch.no_grad():
            answers = _read_answers(original(*[torch.as_tensor(array) for array in arrays]), parent)
    except Exception as error:
        raise UsageError(
            f"The network does not run on the samples of {bundle.path}: {first_line(error)}", path=bundle.path
        ) from error
    if parent.rule != "ensemble":  # an ensemble stores logits that combine several heads
        same = len(answers) == len(golden.answers) and all(map(_are_same, answers, golden.answers))
        if not same:
            what = "logits" if bundle.manifest.classes else "answers"
            raise UsageError(
                f"The network is not the one in {bundle.path}: its exits give other {what}. Name the bundle of this network, or "
                "a new one.",
                path=bundle.path,
            )


def _read_answers(output: Any, parent: Variant) -> list[dict[str, np.ndarray]]:
    """Return the parts of the answer of each exit of a variant, in what its network returns; without those that are not there."""
    from ..networks.losses import logits_of_exits

    if not (parts := list(parent.exits[0].answer)):
        return [{"logits": logits.numpy()} for logits in logits_of_exits(output)]
    outputs = flatten_outputs(output)
    exits = group_outputs(outputs, parts)
    return [{part: outputs[name].numpy() for part, name in exits.get(end.name, {}).items()} for end in parent.exits]


def _are_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    if {name: x.shape for name, x in ours.items()} != {name: x.shape for name, x in theirs.items()}:
        return False
    error, largest = compare_parts(ours, theirs)
    return error <= SAME * largest
