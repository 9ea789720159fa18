"""The golden samples of a variant: a few inputs, and what every exit said of them when it was exported."""

import numpy as np

from ..bundle import Bundle
from ..errors import BundleError, DataError
from ..schema import Variant
from .results import EveryExit
from .samples import check_samples


def read_golden(bundle: Bundle, variant: Variant) -> tuple[tuple[np.ndarray, ...], EveryExit]:
    """Return a variant's golden inputs, each as the network takes it, and what every exit said of them when it was exported.

    Raises:
        BundleError: the file is damaged, or does not belong to the variant.
    """
    path = bundle.file(variant, variant.golden)
    try:
        with np.load(path, allow_pickle=False) as loaded:
            inputs = tuple(loaded[f"input{i}"] for i in range(len(bundle.manifest.inputs)))
            answers = EveryExit(loaded["label"], loaded["score"], loaded["logits"])
    except Exception as error:  # a damaged archive raises one of a dozen types
        raise BundleError(f"{path} does not hold golden samples: {error} Export the network anew.") from error
    try:
        rows, exits = len(check_samples(inputs, bundle.manifest.inputs)), len(variant.exits)
    except DataError as error:
        raise BundleError(f"{path} does not hold samples of this network: {error} Export the network anew.") from error
    assert answers.logits is not None
    shapes = (answers.label.shape, answers.score.shape, answers.logits.shape)
    if shapes != ((rows, exits), (rows, exits), (rows, exits, bundle.manifest.classes)):
        raise BundleError(
            f"{path} does not fit variant {variant.name}, which has {exits} exits. Export the network anew."
        )
    return inputs, answers
