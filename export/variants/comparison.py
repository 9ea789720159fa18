"""How far a compressed variant is from the one that it was made of."""

import numpy as np
from msgspec import Struct

from ...bundle import Bundle
from ...runtime.chain.samples import Samples
from ...runtime.loading import load_uncalibrated


class Shift(Struct, frozen=True, kw_only=True):
    """What compression changed at one exit, on the samples that were given.

    Attributes:
        accuracy, parent_accuracy: the share of right labels; None without labels.
        alike: the share of samples that get the same label.
        score_shift: the mean of the scores less that of the parent's. Thresholds that were found for the parent do not fit where
            it is far from 0.
    """

    exit: int
    accuracy: float | None
    parent_accuracy: float | None
    alike: float
    score_shift: float


def compare_variants(
    bundle: Bundle, name: str, parent: str, samples: Samples, labels: np.ndarray | None = None
) -> tuple[Shift, ...]:
    """Run samples through all exits of two variants, on ONNX Runtime here, and compare what they say.

    Args:
        bundle: the bundle.
        name, parent: the variants; both have the same exits.
        samples: as the network takes them.
        labels: int (N,), or None.
    """
    found = []
    for variant in (name, parent):
        with load_uncalibrated(bundle, variant=variant) as net:
            found.append(net.every_exit(samples))
    ours, theirs = found
    shifts = []
    for k in range(ours.label.shape[1]):
        right = [None if labels is None else float((part.label[:, k] == labels).mean()) for part in (ours, theirs)]
        shifts.append(
            Shift(
                exit=k,
                accuracy=right[0],
                parent_accuracy=right[1],
                alike=float((ours.label[:, k] == theirs.label[:, k]).mean()),
                score_shift=float(ours.score[:, k].mean(dtype=np.float64) - theirs.score[:, k].mean(dtype=np.float64)),
            )
        )
    return tuple(shifts)
