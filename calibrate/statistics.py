"""Intervals for what was measured on finitely many samples."""

import math

import numpy as np

Z95 = 1.959964


def paired_drop(right: np.ndarray, right_full: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Return the accuracy drop and its 95 % interval from paired answers.

    The adjusted Wald interval of Bonett and Price (Journal of Educational and Behavioral Statistics 37, 2012): one sample is
    added to each kind of disagreement, so that it stays honest where none or few were seen.

    Args:
        right: bool (N,), with early exit.
        right_full: bool (N,), of the same samples at the last exit.
    """
    n = len(right)
    lost, won = int((right_full & ~right).sum()), int((right & ~right_full).sum())
    p, q = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    half = Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return (lost - won) / n, (p - q - half, p - q + half)
