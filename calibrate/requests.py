"""What a calibration is asked for, made ready: targets by name, variants with devices, samples split in two."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from ..bundle import Bundle, Target, Variant
from ..bundle.calibration import EARLY_SUFFIX
from ..bundle.manifest import PLAIN_NAME
from ..bundle.target import Goal
from ..devices.meter import Meter
from ..errors import UsageError
from ..runtime.chain.samples import Samples
from ..runtime.placement import AUTO, one_device_per_stage
from .measure.resume import hash_samples

STANDARD = {"balanced": 0.01, "accurate": 0.005, "eco": 0.02}
"""Largest accuracy drops (without labels, disagreements) of the points that are made where no target is given."""

SPLIT, LEAST_SELECT = 0.2, 200
"""Where nothing comes from outside this share of the samples chooses, and at least so many, but no more than half."""


def name_targets(
    target: Target | Mapping[str, Target] | None, *, has_labels: bool, meter: Meter | None
) -> dict[str, Target]:
    """Return the targets by the names of their points."""
    if target is None:
        goal: Goal = "latency" if meter is None else "energy"
        limit = "max_drop" if has_labels else "max_disagreement"
        targets = {name: Target(goal=goal, **{limit: most}) for name, most in STANDARD.items()}
    else:
        targets = {"default": target} if isinstance(target, Target) else dict(target)
    if not targets:
        raise UsageError("There is no target: name one at least, or leave target out.")
    for name, one in targets.items():
        if not re.fullmatch(PLAIN_NAME, name) or name.endswith(EARLY_SUFFIX):
            raise UsageError(
                f"A point's name has letters, digits, '.', '_' and '-' and does not end in {EARLY_SUFFIX}: not {name!r}."
            )
        if one.needs_labels and not has_labels:
            raise UsageError(
                f"The samples have no labels, so nothing tells whether {one.describe_limits()} holds: limit max_disagreement."
            )
        if one.needs_energy and meter is None:
            raise UsageError(f"The target asks for energy: give a meter ({one}).")
    return targets


def choose_variants(bundle: Bundle, variant: str | Sequence[str] | None) -> list[Variant]:
    """Return the variants of some names, each once; all where none is named."""
    if variant is None:
        return list(bundle.manifest.variants)
    names = [variant] if isinstance(variant, str) else list(variant)
    if not names:
        raise UsageError("There is no variant to calibrate: name one at least, or leave variant out.")
    return [bundle.variant(name) for name in dict.fromkeys(names)]


def name_file(first: Variant, variants: Sequence[Variant]) -> str:
    """Return what the calibration of some variants is called where nobody says: after one other than the first, or `default`."""
    return variants[0].name if len(variants) == 1 and variants[0] is not first else "default"


def split_samples(n: int, has_outside: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples choose and which do not; those that choose are none where others do."""
    order = rng.permutation(n)
    aside = 0 if has_outside else min(n // 2, max(LEAST_SELECT, round(SPLIT * n)))
    return np.sort(order[:aside]), rng.permutation(order[aside:])


def pair_devices(
    variants: Sequence[Variant], devices: Sequence[str | Sequence[str]]
) -> list[tuple[Variant, str | Sequence[str]]]:
    """Return each variant with each device that fits it: one for all stages, or as many as it has stages."""
    devices = [one for i, one in enumerate(devices) if one not in devices[:i]]
    fit = [(v, d) for v in variants for d in devices if isinstance(d, str) or len(d) == len(v.stages)]
    for one in devices:
        if not any(d is one for _, d in fit):
            one_device_per_stage(one, len(variants[0].stages))  # says what does not fit
    return fit


def flatten(devices: Sequence[str | Sequence[str]]) -> list[str]:
    """Return every device that is named."""
    return [name for one in devices for name in ([one] if isinstance(one, str) else one) if name != AUTO]


def key_of(fields: Mapping[str, str], devices: str, x: Samples, outer: Samples | None) -> dict[str, str]:
    """Return what decides whether something that was kept belongs to this calibration."""
    given = {"device": devices, "outputs": "recording", "data": hash_samples(x)}
    given["outside"] = "" if outer is None else hash_samples(outer)
    return given | {name: text for name, text in fields.items() if name != "temperature"}
