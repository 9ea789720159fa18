"""`gate`: add a variant whose scores are fitted to samples."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ...bundle import Bundle, Manifest, Origin, Variant, open_bundle
from ...bundle.golden import read_golden
from ...bundle.variant_names import free_prefix, make_room
from ...bundle.writing import commit, new_variant
from ...errors import DataError, UsageError
from ...progress import Progress, no_progress
from ...runtime import EveryExit
from ...runtime.chain.parts import Parts
from ...runtime.chain.samples import Samples, convert_samples, hash_each, to_array
from ...runtime.loading import load_uncalibrated
from ..capture.outputs import are_probabilities
from ..cut.boundaries import Prober
from ..cut.equivalence import Original
from ..cut.fitted_rule import ExitWeights, add_fitted_scores, read_features
from ..cut.stage_files import read_graph, read_heads
from ..cut.variant import WHOLE_FILE, Draft, cut_variant
from ..graph.axes import axes_of, count_samples, other_lengths

__all__ = ["fit_exit", "gate"]

LEAST_OF_EITHER = 3
"""Leaving at an exit must lose something on so many samples, and nothing on as many; an exit with fewer keeps its score."""

PENALTY = 1.0
"""Of the squared weights, once each feature has a standard deviation of 1: one sample's worth, which keeps them finite."""

MOST_STEPS, SMALL_STEP = 100, 1e-8
"""Newton's method takes at most so many steps, and ends at a step as small."""

LEAST_SPREAD = 1e-2
"""A feature with a smaller standard deviation gets no weight: it would be so large that rounding moves the score."""

MOST_HASHES = 500
"""So many samples are remembered, those with the smallest hashes: one in ten of 5,000."""


def gate(
    path: str | os.PathLike[str] | Bundle,
    data: tuple[Any, Any],
    *,
    variant: str | None = None,
    name: str | None = None,
    replace: bool = False,
    progress: Progress = no_progress,
) -> Bundle:
    """Add a variant whose scores are fitted: at each exit a logistic function of what the exit says.

    It reads the likeliest class's probability, the lead of the largest logit, the entropy, and the share of the exits before that
    give the same label. A score is the estimated probability that leaving loses nothing: that the exit is right, or the whole
    network wrong too; fitted without labels, that the exit gives the whole network's label. The last exit keeps its score, as
    does, with a warning, an exit where leaving loses something on fewer than three samples, or nothing. The
    new variant shares the weights of its parent, and `calibrate` chooses it where it wins.

    Args:
        path: the bundle's folder, or a bundle already opened.
        data: samples as `Net.batch` takes them, and labels int (N,), or None. Some thousands that the network was not trained on,
            and that no calibration will get: the bundle remembers some of them, and `calibrate` refuses them.
        variant: the parent, in any precision; the first variant by default.
        name: name of the new variant; by default the parent's name and `-gate`, such as `fp32-gate`.
        replace: take the place of the variant that has this name, instead of refusing it.
        progress: called with a description, the number of steps done, and of all steps.

    Returns:
        The bundle with the new variant in it.

    Raises:
        UsageError: the network does not classify, there is no such variant, or the name is taken or cannot be used.
        DataError: the samples or labels do not fit the network, or no exit has enough of them to fit a score.
        CheckError: the new stages give other answers than the parent.
        BundleError, MissingError: as for `open_bundle`; MissingError too if the bundle cannot be written.

    Example:
        >>> import numpy as np
        >>> from offramp.export import gate
        >>> bundle = gate("digits.offramp", (np.load("train.npz")["x"], None), variant="fp32")
        >>> bundle.manifest.variants[-1].name, bundle.manifest.variants[-1].rule
        ('fp32-gate', 'fitted')
    """
    bundle = open_bundle(path.path if isinstance(path, Bundle) else path)
    x, y = _check_data(data, bundle.manifest)
    parent = bundle.variant(variant)
    make_room(bundle, name or f"{parent.name}-gate", parent=parent.name, replace=replace)
    with load_uncalibrated(bundle, variant=parent.name, logits=True) as net:
        progress("recording what every exit says", 0, 1)
        answers = net.every_exit(x)
        progress("recording what every exit says", 1, 1)
    fitted = [_fit(answers, y, k) for k in range(len(parent.exits) - 1)]
    kept = [exit_.name for exit_, weights in zip(parent.exits, fitted, strict=False) if weights is None]
    if kept:
        few = f"leaving loses something, or nothing, on fewer than {LEAST_OF_EITHER} of the {len(x)} samples"
        if len(kept) == len(fitted):
            raise DataError(
                f"No score can be fitted: at each exit {few}. Give more, none that the network was trained on."
            )
        warnings.warn(f"The scores of {', '.join(kept)} stay as they are: {few}. Give more.", stacklevel=2)
    origin = Origin(
        parent.name,
        "gate",
        {"samples": len(x), "fitted_to": "the whole network" if y is None else "labels"},
        fitted_on=tuple(f"{value:016x}" for value in np.unique(hash_each(x))[:MOST_HASHES].tolist()),
    )
    with new_variant(bundle.path) as folder:  # it holds the bundle's lock: nobody else writes the bundle meanwhile
        bundle = open_bundle(bundle.path)
        if bundle.variant(parent.name).digest != parent.digest:
            raise UsageError(f"Variant {parent.name} was replaced while its answers were recorded: try again.")
        name = name or f"{parent.name}-gate"
        others = make_room(bundle, name, parent=parent.name, replace=replace)
        bundle.copy(parent, parent.weights, folder / parent.weights)  # engines read weights only beside the graph
        new = _cut(bundle, parent, folder, name, fitted, origin)
        (folder / parent.weights).unlink()
        files = new.files | {parent.weights: parent.files[parent.weights]}
        exits = tuple(msgspec.structs.replace(a, place=b.place) for a, b in zip(new.exits, parent.exits, strict=True))
        shared = {"folder": parent.folder, "files": files, "exits": exits, "own_error": parent.own_error}
        new = msgspec.structs.replace(new, **shared)
        return commit(
            bundle.path, folder, msgspec.structs.replace(bundle.manifest, variants=(*others, new)), shares=True
        )


def _check_data(data: Any, manifest: Manifest) -> tuple[Samples, np.ndarray | None]:
    """Return samples in the network's dtypes, and labels int64 (N,) or None."""
    if not manifest.classes:
        raise UsageError(
            f"The network answers with {', '.join(manifest.answer)}, not with labels: scores are fitted to labels only."
        )
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise UsageError("data is a pair: (samples, labels), or (samples, None) without labels.")
    x = convert_samples(data[0], manifest.inputs)
    if data[1] is None:
        return x, None
    y = to_array(data[1])
    if y.shape != (len(x),) or y.dtype.kind not in "iu" or not ((y >= 0) & (y < manifest.classes)).all():
        raise DataError(
            f"The labels are whole numbers from 0 to {manifest.classes - 1}, one for each of the {len(x)} samples; these are "
            f"{y.dtype} of shape {y.shape}{f', {y.min()} to {y.max()}' if y.size and y.dtype.kind in 'iuf' else ''}."
        )
    return x, y.astype(np.int64)


def _fit(answers: EveryExit, y: np.ndarray | None, k: int) -> ExitWeights | None:
    """Return the weights of an exit's score, fitted to whether leaving there loses nothing; None if too few samples tell."""
    assert answers.logits is not None
    label, whole = answers.label[:, k], answers.label[:, -1]
    keeps = label == whole if y is None else (label == y) | (whole != y)
    if min(keeps.sum(), (~keeps).sum()) < LEAST_OF_EITHER:
        return None
    logits = answers.logits[:, k]
    is_probability = are_probabilities(logits)
    features = read_features(logits, answers.label, k, most_lead=np.inf, is_probability=is_probability)
    bias, weights = fit_exit(features, keeps)
    return ExitWeights(bias, weights, most_lead=float(features[:, 1].max()), is_probability=is_probability)


def fit_exit(features: np.ndarray, goal: np.ndarray) -> tuple[float, tuple[float, ...]]:
    """Fit a logistic function by Newton's method, with a penalty on the squared weights of the scaled features.

    Args:
        features: float (N, features).
        goal: bool (N,), with both values among them.

    Returns:
        The bias and a weight for each feature.
    """
    mean, spread = features.mean(0), features.std(0)
    scale = np.where(spread < LEAST_SPREAD, np.inf, spread)
    x = np.column_stack([np.ones(len(features)), (features - mean) / scale])
    weights, penalty = np.zeros(x.shape[1]), np.diag([0.0] + [PENALTY] * features.shape[1])

    def loss(weights: np.ndarray) -> float:
        z = x @ weights
        return float((np.logaddexp(0, z) - goal * z).sum() + weights @ penalty @ weights / 2)

    for _ in range(MOST_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (goal - p) - penalty @ weights
        step = np.linalg.solve((x.T * (p * (1 - p))) @ x + penalty, slope)
        while np.abs(step).max() >= SMALL_STEP and loss(weights + step) > loss(weights):
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < SMALL_STEP:
            break
    plain = weights[1:] / scale
    return float(weights[0] - plain @ mean), tuple(plain.tolist())


def _cut(
    bundle: Bundle, parent: Variant, folder: Path, name: str, fitted: list[ExitWeights | None], origin: Origin
) -> Variant:
    """Write the parent's whole graph with fitted scores into a folder, and cut it into stages, compared with the parent."""
    manifest, inputs = bundle.manifest, read_golden(bundle, parent).inputs
    axes = [axes_of(tensor) for tensor in manifest.inputs]
    names = tuple(exit_.name for exit_ in parent.exits)
    whole = read_graph(bundle, parent, parent.whole, folder)
    add_fitted_scores(whole.graph, read_heads(whole, names, manifest.answer), fitted)
    RemoveUnusedNodesPass()(whole)
    prefix = free_prefix(bundle, parent.folder, name)
    ir.save(whole, folder / f"{prefix}{WHOLE_FILE}")
    with load_uncalibrated(bundle, variant=parent.name, logits=True) as net:

        def reference(x: Sequence[np.ndarray]) -> list[Parts]:
            """Return the answers that the parent gives."""
            answers = net.every_exit(tuple(x), size=count_samples(x, axes))
            return [answers.parts(k) for k in range(len(names))]

        return cut_variant(
            whole,
            Prober(inputs, axes, other_lengths(inputs, axes, reference), folder),
            Original(
                inputs=manifest.inputs,
                classes=manifest.classes,
                precision=parent.precision,
                run=reference,
                measure_own_error=lambda: parent.own_error,
            ),
            Draft(name=name, rule="fitted", exits=names, prefix=prefix, origin=origin),
        )
