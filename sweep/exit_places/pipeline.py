"""`place_exits`: train exits at every place, record them once, choose the best set, tune it and write its bundle."""

import copy
import hashlib
import inspect
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ...bundle import Bundle, Target, open_bundle
from ...calibrate.labels import check_labelled
from ...errors import DataError, UsageError, require, unknown_name
from ...export import Epoch, export, train
from ...files import os_errors_explained, write_atomically
from ...progress import Progress, no_progress
from .decision import decide
from .recording import Halves, Workbench, record_table
from .result import PlacedExits
from .search import Exits
from .timing import keep_exits

if TYPE_CHECKING:
    import torch

    from ...export.networks.attached import Attached

__all__ = ["hash_weights", "place_exits", "tune_exits"]

MOST_PLACES = 12
"""Places of which every set is tried: 2,509 sets."""

LEAST_SAMPLES = 100
"""With fewer samples all sets look alike."""

EXAMPLES = 4
"""Samples that a network is exported with."""

KNOWN_LIMITS = {"min_accuracy", "max_loss", "max_drop", "max_disagreement", "max_latency_s"}

OWN_ARGUMENTS = ("network", "loader", "checkpoint", "progress")
"""Arguments of `train` that `place_exits` gives itself."""


def place_exits(
    network: "torch.nn.Module",
    loader: Iterable[tuple[Any, Any]],
    data: tuple[Any, Any],
    folder: str | os.PathLike[str],
    *,
    training: Mapping[str, Any] | None = None,
    tuning: Mapping[str, Any] | None = None,
    target: Target | None = None,
    device: str = "cpu",
    threads: int = 1,
    seconds: float = 20.0,
    progress: Progress = no_progress,
) -> PlacedExits:
    """Find the places where exits pay, and write a bundle of the network with exits there.

    Exits at all places are trained together, on one trunk. Their answers to `data` are recorded once, and what stages and heads
    take is measured here. Then every set of up to six early exits is tried on these records. The best few are made and measured,
    and the best of them is tuned.

    Args:
        network: with an exit at each place, as `attach(network, example, at="all")` returns it; at most twelve places. It
            classifies. It is trained in place.
        loader: batches for `train`. They share no sample with `data`.
        data: samples that were held back, and their labels: (N, ...) and (N,). Half of them choose, the other half gives the
            figures.
        folder: everything is kept there. If the process is killed, the same call goes on where it was.
        training: arguments of `train` for all exits together, such as `{"epochs": 10, "recipe": "distill"}`. None if they are
            trained already.
        tuning: arguments of `train` for the exits that were chosen. None leaves them as they are.
        target: what sets are compared by: the goal and limits of latency and accuracy. None compares the area under accuracy over
            latency.
        device, threads: where the network shall run, as for `load`.
        seconds: how long latencies are measured, twice.
        progress: is told as it goes on.

    Returns:
        The set that was chosen, beside others, with its bundle.

    Raises:
        UsageError: the network has no exits of `attach`, one place alone or too many, or an argument cannot be used.
        DataError: there are too few samples, or they or their labels do not fit.
        ModelError, CheckError: the network cannot be trained or exported, as for `train` and `export`.
        TargetError: no set meets the target.
        MissingError: a package or device is missing, or the folder cannot be written.

    Example:
        >>> import torch
        >>> from net import data, plain
        >>> from offramp.export import attach
        >>> from offramp.sweep import place_exits
        >>> x, y = data()
        >>> network = attach(plain(), torch.zeros(2, 1, 8, 8), at=["1", "3"])
        >>> batches = [(torch.from_numpy(x[:400]), torch.from_numpy(y[:400]))]
        >>> training = {"epochs": 2, "recipe": "heads"}
        >>> placed = place_exits(network, batches, (x[400:], y[400:]), "placing", training=training, seconds=0.1)
        >>> placed.sets, set(placed.chosen.places) <= {"1", "3"}
        (3, True)
    """
    require("torch", extra="export")
    attached = _check_network(network)
    _check(data, training=training, tuning=tuning, target=target)
    root = Path(folder)
    with os_errors_explained(root, "write"):
        root.mkdir(parents=True, exist_ok=True)
    bench = Workbench(root, device, threads, seconds, progress)
    if training is not None:
        _train(attached, loader, training, root / "training.pt", "training all exits", progress)
    bundle = _export_once(attached, data, root / f"places-{hash_weights(attached)}.offramp")
    x, y = check_labelled(data, bundle.manifest)
    rows = np.random.default_rng(0).permutation(len(y))

    def halve(bundle: Bundle) -> Halves:
        table = record_table(bundle, x, y, bench)
        return Halves(table.rows(rows[::2]), table.rows(rows[1::2]))

    places = [(place.name, place.share) for place in attached.attached]
    decision = decide(bundle, x, halve(bundle), places, target, bench)
    tuned: Halves | None = None
    if tuning is None:
        bundle, variant = keep_exits(bundle, decision.exits)
    else:
        network = tune_exits(attached, decision.exits, loader, tuning, root, progress=progress)
        bundle = export(network, _first_rows(data), root / "placed.offramp", replace=True)
        variant, tuned = bundle.variant().name, halve(bundle)
    result = decision.describe(str(bundle.path), variant, tuned)
    write_atomically(root / "placed.json", msgspec.json.format(msgspec.json.encode(result), indent=1))
    return result


def tune_exits(
    network: "Attached",
    exits: Exits,
    loader: Iterable[tuple[Any, Any]],
    tuning: Mapping[str, Any],
    folder: Path,
    *,
    progress: Progress = no_progress,
) -> "Attached":
    """Return a copy of a network with some of its exits, trained further.

    Args:
        network: with all exits.
        exits: numbers of those that stay, and the last.
        loader, tuning: for `train`.
        folder: for the checkpoint.
        progress: is told after each epoch.
    """
    from ...export.networks.attached import Attached

    copied, frozen = copy.deepcopy(network), tuning.get("recipe") == "heads"
    if not frozen:
        copied.requires_grad_(True)
    fewer = Attached(
        copied.network,
        [copied.attached[k] for k in exits[:-1]],
        [copied.heads[k] for k in exits[:-1]],
        frozen=frozen,
        answer=copied._answer,
        mask=copied._mask,
    )
    name = f"tuning-{hash_weights(network)}-exits{'-'.join(map(str, exits))}.pt"
    _train(fewer, loader, tuning, folder / name, "tuning the chosen exits", progress)
    return fewer


def _train(
    network: "Attached",
    loader: Iterable[tuple[Any, Any]],
    arguments: Mapping[str, Any],
    checkpoint: Path,
    what: str,
    progress: Progress,
) -> None:
    """Train, or go on from a checkpoint."""

    def tell(epoch: Epoch) -> None:
        progress(what, epoch.epoch, arguments["epochs"])

    train(network, loader, checkpoint=checkpoint, progress=tell, **arguments)


def hash_weights(network: "torch.nn.Module") -> str:
    """Return digits that change with a network's weights."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name}{tuple(value.shape)}".encode() + value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def _export_once(network: "Attached", data: tuple[Any, Any], path: Path) -> Bundle:
    """Export a network, or open the bundle that an earlier call made of the same weights."""
    return open_bundle(path) if path.exists() else export(network, _first_rows(data), path)


def _first_rows(data: tuple[Any, Any]) -> Any:
    """Return a few samples, to export with."""
    x = data[0]
    if isinstance(x, Mapping):
        return {name: part[:EXAMPLES] for name, part in x.items()}
    return tuple(part[:EXAMPLES] for part in x) if isinstance(x, (tuple, list)) else x[:EXAMPLES]


def _check_network(network: Any) -> "Attached":
    """Return the network, if it has exits of `attach` at places that can be compared.

    Raises:
        UsageError: it has not.
    """
    from ...export.networks.attached import Attached

    if not isinstance(network, Attached):
        raise UsageError(
            f"place_exits takes a network with exits at all places, not a {type(network).__name__}: give "
            'attach(network, example, at="all").'
        )
    names = network.places
    if not 2 <= len(names) <= MOST_PLACES:
        spread = np.linspace(0, len(names) - 1, MOST_PLACES).round().astype(int)
        few = len(names) < 2
        raise UsageError(
            f"The network has {len(names)} exits besides its own: place_exits compares 2 to {MOST_PLACES} places. "
            + (
                'Attach more, with at="all" or names.'
                if few
                else f"Attach fewer, such as at={[names[i] for i in spread]}."
            )
        )
    return network


def _check(
    data: Any, *, training: Mapping[str, Any] | None, tuning: Mapping[str, Any] | None, target: Target | None
) -> None:
    """Refuse arguments that cannot be used, before anything takes time.

    Raises:
        UsageError: an argument cannot be used.
        DataError: there are too few samples.
    """
    for name, arguments in (("training", training), ("tuning", tuning)):
        if arguments is None:
            continue
        known = [each for each in inspect.signature(train).parameters if each not in OWN_ARGUMENTS]
        if unknown := [each for each in arguments if each not in known]:
            raise unknown_name(f"argument in {name}", str(unknown[0]), known)
        if "epochs" not in arguments or arguments.get("loss") is not None:
            raise UsageError(f"{name} says how many epochs there are, and has no loss: exits are compared by labels.")
    if target is not None and not isinstance(target, Target):
        raise UsageError(f"target is a Target, such as Target(max_drop=0.01), not {target!r:.60}.")
    if target is not None and (target.by or not set(target.limits) <= KNOWN_LIMITS or target.goal == "energy"):
        raise UsageError(f"Sets of exits are compared by mean latency and accuracy over all samples, not by {target}.")
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise UsageError("The samples are given with their labels, as a pair: (samples, labels).")
    if len(data[1]) < LEAST_SAMPLES:
        raise DataError(f"There are {len(data[1])} samples; sets of exits are compared on at least {LEAST_SAMPLES}.")
