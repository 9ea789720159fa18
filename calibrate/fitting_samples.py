"""The samples that a variant's scores were fitted to: a promise about them would be one about samples learnt by heart."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..bundle import Bundle, Manifest, Variant
from ..bundle.across import Across
from ..errors import UsageError
from ..runtime.chain.samples import Samples
from ..units import show_share
from .intervals import share_interval
from .labels import SampleSet, hash_set

__all__ = ["check_fitting_samples", "check_unhashed"]

MOST_SHARE = 0.01
"""Samples are refused if surely this share of them, or more, served to fit; fewer are copies that any large set has."""


def check_fitting_samples(samples: SampleSet, manifest: Manifest, variants: Iterable[Variant]) -> tuple[str, ...]:
    """Refuse samples that the scores of a variant were fitted to; return a note on each variant fitted to very few of them.

    A variant remembers those with the smallest hashes, by which the share is estimated.

    Raises:
        UsageError: surely at least 1 % of the samples served to fit.
    """
    notes = []
    for variant in variants:
        for maker in _with_ancestors(variant, manifest.variants):
            if maker.origin is None or not maker.origin.fitted_on:
                continue
            kept = np.array([int(text, 16) for text in maker.origin.fitted_on], np.uint64)
            # All hashes up to the largest that is remembered are known, of the samples as of those that served to fit.
            among = samples.hashes[samples.hashes <= kept.max()]
            found = int(np.isin(among, kept).sum())
            if not found:
                continue
            about = f"{show_share(found / len(among))} of the samples in data served to fit the scores of {maker.name}"
            if share_interval(found, len(among))[0] >= MOST_SHARE:
                raise UsageError(
                    f"About {about}, so what {variant.name} gives on them is no promise for others. Give other samples, or name "
                    f"others than {variant.name} (variant=, --variant)."
                )
            notes.append(f"About {about}: figures of {variant.name} may be a little too good.")
    return tuple(notes)


def check_unhashed(x: Samples, bundle: Bundle, variant: Variant) -> tuple[str, ...]:
    """Do so for what runs alone, which may be a chain across two variants, and for samples that were not hashed.

    Raises:
        UsageError: as for `check_fitting_samples`.
    """
    variants = [variant.first, variant.second] if isinstance(variant, Across) else [variant]
    makers = (maker for each in variants for maker in _with_ancestors(each, bundle.manifest.variants))
    if not any(maker.origin is not None and maker.origin.fitted_on for maker in makers):
        return ()
    return check_fitting_samples(hash_set(x, None), bundle.manifest, variants)


def _with_ancestors(variant: Variant, variants: Sequence[Variant]) -> list[Variant]:
    """Return a variant and those that it was made from, whose scores it may have."""
    found, by_name = [variant], {each.name: each for each in variants}
    while (origin := found[-1].origin) is not None:
        found.append(by_name[origin.parent])
    return found
