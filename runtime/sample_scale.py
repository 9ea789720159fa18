"""Samples beside a bundle's golden samples: whether their values are of the same size, or were scaled otherwise."""

import warnings

import numpy as np

from ..bundle import Bundle
from ..bundle.golden import read_golden
from ..errors import BundleError
from .chain.samples import Samples

__all__ = ["warn_of_scale"]

MOST_LOOKED_AT = 200
"""So many of the samples are looked at."""

LEAST_FACTOR = 20.0
"""Samples whose largest value is so many times larger or smaller are most likely scaled otherwise: pixels from 0 to 255 are 255
times as large as those from 0 to 1, and about 100 times as large as normalised ones."""


def warn_of_scale(bundle: Bundle, x: Samples, *, stacklevel: int = 3) -> None:
    """Warn of samples whose values are of another size than those of the golden samples, the examples of the export."""
    try:
        golden = read_golden(bundle, bundle.variant()).inputs
    except BundleError:  # whoever runs it will see
        return
    rows = np.linspace(0, len(x) - 1, min(len(x), MOST_LOOKED_AT)).astype(int)
    for part, expected, tensor in zip(x.arrays, golden, bundle.manifest.inputs, strict=True):
        if part.dtype.kind != "f" or not expected.size or not part.size:
            continue
        (low, high), (least, most) = ((float(v.min()), float(v.max())) for v in (part[rows], expected))
        size, wanted = max(abs(low), abs(high)), max(abs(least), abs(most))
        if size and wanted and not 1 / LEAST_FACTOR < size / wanted < LEAST_FACTOR:
            warnings.warn(
                f"The samples lie between {low:.4g} and {high:.4g} for {tensor.name}, the golden samples of {bundle.path} "
                f"between {least:.4g} and {most:.4g}. Are they scaled as in training, or was the bundle exported with random "
                "examples?",
                stacklevel=stacklevel,
            )
