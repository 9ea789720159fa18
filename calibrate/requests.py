"""What a calibration is asked for, checked before anything is measured: samples, targets, variants, devices, the output."""

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct

from ..bundle import Bundle, Target, Variant, opened
from ..bundle.calibration import EARLY_SUFFIX
from ..bundle.manifest import PLAIN_NAME
from ..bundle.target import Goal
from ..bundle.writing import check_replaceable
from ..devices.meter import Meter
from ..errors import DataError, UsageError
from ..files import check_writable
from ..progress import Progress
from ..runtime.placement import AUTO, one_device_per_stage
from .fitting_samples import check_fitting_samples
from .judging import Judging, read_judging
from .labels import LEAST_SAMPLES, SampleSet, check_classes, check_data, check_known, settle_labels
from .losses import Loss
from .pace import Pace
from .parts import Parts, name_classes, read_groups
from .truth import Truth

__all__ = ["LEAST_SELECTING", "SELECTING_SHARE", "Devices", "Keep", "PlacedVariant", "Request", "read_request"]

STANDARD_LOSSES = {"balanced": 0.01, "accurate": 0.005, "eco": 0.02}
"""The points made without a target, and their largest accuracy drops; without labels, their largest disagreements."""

SELECTING_SHARE, LEAST_SELECTING = 0.2, 200
"""Without samples from outside, this share of the samples selects, and at least so many, but no more than half."""

LEAST_GROUPS = 3
"""One of so few groups selects, and two show how far groups differ."""

Devices = str | Sequence[str]
"""One device for all stages, or one for each."""

Keep = Callable[..., Bundle]
"""Adds a variant with fewer exits to a bundle: `export.keep(bundle, exits, variant=parent)`."""


class PlacedVariant(Struct, frozen=True):
    """A variant and the device it was asked to run on: one for all stages, or one for each."""

    variant: Variant
    device: Devices

    def __str__(self) -> str:
        device = self.device if isinstance(self.device, str) else ", ".join(self.device)
        return f"{self.variant.name} on {device}"


class Request(Struct, frozen=True, kw_only=True):
    """A calibration as it was asked for, checked.

    Attributes:
        bundle: the bundle.
        samples: the samples that were given.
        outside: other samples that select, none of which is in `samples`; None if a part of `samples` does.
        order: all rows of `samples` in a random order; the first ones select, and the others report.
        selecting: how many of them select. With `outside` none does.
        targets: by the names of their points.
        confidence: of all promises together.
        least_gain: the share of the mean cost that a less simple network must surely save to be recommended.
        placed: each variant on each device that fits it.
        devices: the devices that were named, the first one first.
        is_variant_named: True if single variants were asked for, so that none may be left out.
        threads, fallback: as for `runtime.load`.
        meter: measures energy; None leaves it out.
        keep: adds a variant with fewer exits to the bundle; None only proposes one.
        path: where the calibration is stored.
        is_path_named: True if the path was given.
        replace: True if a better calibration may be replaced.
        seed, rng: the seed, and the generator made from it, which has drawn the order of the samples.
        measure_s: seconds spent on the latencies of each configuration.
        pace: of the calls that are measured.
        save_s: seconds between two saves of unfinished work.
        progress: is told what is being done.
        notes: things worth knowing about the samples, in words.
        judging: how wrong answers are; None if the network classifies.
        groups: which group each sample belongs to, numbered at random; None if each is one of its own.
    """

    bundle: Bundle
    samples: SampleSet
    outside: SampleSet | None
    order: np.ndarray
    selecting: int
    targets: dict[str, Target]
    confidence: float
    least_gain: float
    placed: tuple[PlacedVariant, ...]
    devices: tuple[Devices, ...]
    is_variant_named: bool
    threads: int
    fallback: str | None
    meter: Meter | None
    keep: Keep | None
    path: Path
    is_path_named: bool
    replace: bool
    seed: int
    rng: np.random.Generator
    measure_s: float
    pace: Pace
    save_s: float
    progress: Progress
    notes: tuple[str, ...]
    judging: Judging | None
    groups: Parts | None = None

    @property
    def promises_over_groups(self) -> bool:
        """True if groups are drawn as samples are else; false without groups, and if something is promised of each."""
        return self.groups is not None and all(target.by != "group" for target in self.targets.values())

    def find_parts(self, answers: np.ndarray, samples: SampleSet | None = None) -> dict[str, Parts]:
        """Return the parts in which limits of the targets must hold, by the names in `Target.by`.

        Args:
            answers: the reference's labels, which are the classes of samples without labels, (N,).
            samples: other ones than the request's: those from outside, which have no groups.
        """
        wanted, given = {target.by for target in self.targets.values()}, samples or self.samples
        parts: dict[str, Parts] = {}
        if "class" in wanted:
            labels = settle_labels(given.y, answers) if isinstance(given.y, np.ndarray) else answers
            parts["class"] = name_classes(labels, self.bundle.manifest.class_names)
        if "group" in wanted and samples is None and self.groups is not None:
            parts["group"] = self.groups
        return parts

    @property
    def reference_variant(self) -> Variant:
        """The bundle's first variant, whose whole network is the reference."""
        return self.bundle.manifest.variants[0]

    @property
    def meter_name(self) -> str | None:
        """The meter and its scope, as fingerprints name them; None without a meter."""
        return None if self.meter is None else f"{self.meter.name}: {self.meter.scope}"

    @property
    def other_devices(self) -> list[str]:
        """The names of all devices but the first, `auto` left out."""
        others = [[device] if isinstance(device, str) else device for device in self.devices[1:]]
        return [name for names in others for name in names if name != AUTO]

    def resume_key(self, fingerprint: Mapping[str, str]) -> dict[str, str]:
        """Return what decides whether stored work of an unfinished calibration fits this one."""
        devices = [device if isinstance(device, str) else ",".join(device) for device in self.devices]
        given = {
            "device": "; ".join(devices),
            "outputs": "calibration",
            "data": self.samples.sha256,
            "outside": "" if self.outside is None else self.outside.sha256,
        }
        if self.judging is not None:
            given_truths = [each.y for each in (self.samples, self.outside) if each is not None]
            truths = [y.sha256 if isinstance(y, Truth) else "" for y in given_truths]
            given["judging"] = " ".join([self.judging.key, *truths])
        if self.pace.every_s is not None:
            given["every"] = f"{self.pace.every_s:g} s"
        return given | {name: text for name, text in fingerprint.items() if name != "temperature"}


def read_request(
    bundle: str | os.PathLike[str] | Bundle,
    data: Any,
    target: Target | Mapping[str, Target] | None,
    *,
    device: Devices,
    also: Sequence[Devices],
    threads: int,
    fallback: str | None,
    variant: str | Sequence[str] | None,
    output: str | os.PathLike[str] | None,
    replace: bool,
    confidence: float,
    least_gain: float,
    outside: Any,
    meter: Meter | None,
    keep: Keep | None,
    seed: int,
    measure_s: float,
    every_s: float | None,
    save_s: float,
    loss: "str | Loss | None",
    disagreement: "str | Loss | None",
    groups: Any,
    progress: Progress,
) -> Request:
    """Check the arguments of `calibrate` and make them ready; all that can be refused before measuring is refused here."""
    bundle = opened(bundle)
    samples = check_data(data, bundle.manifest)
    others = None if outside is None else check_data(outside, bundle.manifest, name="outside")
    judging = read_judging(bundle.manifest, loss, disagreement, has_truth=samples.y is not None)
    targets = name_targets(target, has_labels=samples.y is not None, meter=meter, has_losses=judging is not None)
    check_known(samples, targets)
    limits_disagreement = any("max_disagreement" in each.limits for each in targets.values())
    if judging is not None and judging.disagreement is None and limits_disagreement:
        raise UsageError(
            "max_disagreement limits how far answers are from the whole network's: say how far apart they are, such as "
            "disagreement='absolute:90' (--disagreement)."
        )
    others, notes = _check_outside(samples, others, targets, bundle.manifest.classes)
    if not 0.5 <= confidence < 1:
        raise UsageError(f"confidence is a probability from 0.5 to below 1, such as 0.9, not {confidence}.")
    if not 0 <= least_gain < 1:
        raise UsageError(f"least_gain is a share from 0 to below 1, such as 0.05 for 5 %, not {least_gain}.")
    if not 0 <= save_s < math.inf:
        raise UsageError(f"save_s is a time in seconds, 0 or more, not {save_s}.")
    if not 0 < measure_s < math.inf:
        raise UsageError(f"measure_s is a time in seconds above 0, not {measure_s}.")
    variants = choose_variants(bundle, variant)
    notes += check_fitting_samples(samples, bundle.manifest, variants)
    rng = np.random.default_rng(seed)
    request = Request(
        bundle=bundle,
        samples=samples,
        outside=others,
        order=rng.permutation(len(samples)),
        selecting=_count_selecting(len(samples), others is not None),
        targets=targets,
        confidence=confidence,
        least_gain=least_gain,
        placed=place_variants(variants, (device, *also)),
        devices=(device, *also),
        is_variant_named=variant is not None,
        threads=threads,
        fallback=fallback,
        meter=meter,
        keep=keep,
        path=_choose_path(bundle, variants, output),
        is_path_named=output is not None,
        replace=replace,
        seed=seed,
        rng=rng,
        measure_s=measure_s,
        pace=Pace(every_s),
        save_s=save_s,
        progress=progress,
        notes=notes,
        judging=judging,
        groups=_read_parts(groups, data[0], samples, targets, bundle, seed),
    )
    if isinstance(samples.y, np.ndarray) and not samples.has_unknown:
        check_classes(samples.y)
    return request


def name_targets(
    target: Target | Mapping[str, Target] | None, *, has_labels: bool, meter: Meter | None, has_losses: bool = False
) -> dict[str, Target]:
    """Return the targets by the names of their points; the standard ones if none is given."""
    if target is None:
        goal: Goal = "latency" if meter is None else "energy"
        limit = "max_drop" if has_labels else "max_disagreement"
        targets = {
            name: Target(goal=goal, counts="labels", by=None, **{limit: most}) for name, most in STANDARD_LOSSES.items()
        }
    else:
        targets = {"default": target} if isinstance(target, Target) else dict(target)
    if not targets:
        raise UsageError("There is no target: name at least one, or leave target out.")
    if has_losses:
        targets = {name: each.of_losses() for name, each in targets.items()}
    for name, each in targets.items():
        if not re.fullmatch(PLAIN_NAME, name) or name.endswith(EARLY_SUFFIX):
            raise UsageError(
                f"A point's name has letters, digits, '.', '_' and '-' and does not end in {EARLY_SUFFIX}: not {name!r}."
            )
        if each.needs_labels and not has_labels:
            raise UsageError(
                f"The samples {'come without the truth' if has_losses else 'have no labels'}, so nothing tells whether "
                f"{each.describe_limits()} holds: limit max_disagreement."
            )
        if each.needs_energy and meter is None:
            raise UsageError(f"The target asks for energy: give a meter ({each}).")
    return targets


def _read_parts(
    given: Any, x: Any, samples: SampleSet, targets: Mapping[str, Target], bundle: Bundle, seed: int
) -> Parts | None:
    """Return the groups of samples, numbered at random; None without groups, or if each sample is one and no target names them.

    Raises:
        UsageError: a target asks for classes or groups where there are none.
        DataError: the groups are too few to choose by some and test by others.
    """
    groups = read_groups(given, x, len(samples))
    by = {target.by for target in targets.values()}
    if "class" in by and not bundle.manifest.classes:
        raise UsageError("A target asks for every class (by='class'), but the network does not classify.")
    if "group" in by and groups is None:
        raise UsageError(
            "A target asks for every group (by='group'): say which samples belong together (groups=, --groups)."
        )
    if "group" in by and by != {"group"}:
        raise UsageError(
            "Either something is promised in every group that was given (by='group'), or of others like these: calibrate once "
            "with targets by group, and once with the others."
        )
    if groups is not None and "group" not in by and groups.count < LEAST_GROUPS:
        raise DataError(
            f"The samples are of {groups.count} group{'s' * (groups.count > 1)}: at least {LEAST_GROUPS} are needed, one to "
            "choose thresholds and two to test them, and some hundreds to promise something of others like them. To promise "
            "something in every one of these, give a target by group (by='group', --by group)."
        )
    if "class" in by and isinstance(samples.y, np.ndarray) and samples.y.min() < 0:
        raise UsageError(
            "by='class' needs the label of every sample, since that is its class: some labels are unknown."
        )
    is_each_one = groups is not None and groups.count == len(samples) and "group" not in by
    return None if groups is None or is_each_one else groups.shuffled(np.random.default_rng(seed))


def choose_variants(bundle: Bundle, variant: str | Sequence[str] | None) -> list[Variant]:
    """Return the named variants, each once; all variants if none is named."""
    if variant is None:
        return list(bundle.manifest.variants)
    names = [variant] if isinstance(variant, str) else list(variant)
    if not names:
        raise UsageError("There is no variant to calibrate: name at least one, or leave variant out.")
    return [bundle.variant(name) for name in dict.fromkeys(names)]


def _count_selecting(count: int, has_outside: bool) -> int:
    """Return how many samples select: none with samples from outside."""
    return 0 if has_outside else min(count // 2, max(LEAST_SELECTING, round(SELECTING_SHARE * count)))


def place_variants(variants: Sequence[Variant], devices: Sequence[Devices]) -> tuple[PlacedVariant, ...]:
    """Return each variant on each device that fits it: one device for all stages, or as many as the variant has stages.

    Raises:
        UsageError: devices are named for more or fewer stages than any variant has.
    """
    devices = [device for i, device in enumerate(devices) if device not in devices[:i]]
    for device in devices:
        if not isinstance(device, str) and all(len(device) != len(variant.stages) for variant in variants):
            one_device_per_stage(device, len(variants[0].stages))  # raises the error
    return tuple(
        PlacedVariant(variant, device)
        for variant in variants
        for device in devices
        if isinstance(device, str) or len(device) == len(variant.stages)
    )


def _check_outside(
    samples: SampleSet, outside: SampleSet | None, targets: Mapping[str, Target], classes: int
) -> tuple[SampleSet | None, tuple[str, ...]]:
    """Return the samples from outside without those that are in `samples` too, and a note if there are any.

    Raises:
        UsageError: too few are left, or they have no labels and a target needs some.
    """
    if outside is None:
        return None, ()
    check_known(outside, targets, name="outside")
    if outside.y is None and any({"min_accuracy", "max_loss"} & set(target.limits) for target in targets.values()):
        raise UsageError(
            "outside has no labels, so it cannot choose thresholds for min_accuracy or max_loss: limit max_drop instead, or give "
            "labels."
        )
    is_shared = np.isin(outside.hashes, samples.hashes)
    shared, left = int(is_shared.sum()), int((~is_shared).sum())
    if not shared:
        return outside, ()
    if left < max(LEAST_SAMPLES, classes):
        raise UsageError(
            f"outside holds the same samples as data: {shared} of its {len(outside)} are in data too, and selecting "
            "samples must not be reporting samples too. Leave outside out, or give other samples."
        )
    note = (
        f"{shared} of the {len(outside)} samples in outside are in data too. They were left out of outside, since samples that "
        "choose must not report. If outside is what the network was trained on, data holds training samples: no "
        "figure here is true then."
    )
    return outside.rows(np.flatnonzero(~is_shared)), (note,)


def _choose_path(bundle: Bundle, variants: Sequence[Variant], output: str | os.PathLike[str] | None) -> Path:
    """Return where the calibration goes: `calibrations/default.json`, or `<variant>.json` for a single variant but the first."""
    if output is not None:
        return check_replaceable(output)
    is_other = len(variants) == 1 and variants[0] is not bundle.manifest.variants[0]
    bundle.check_changeable("calibrations", "Name another file (-o), which load takes as calibration=. ")
    path = bundle.path / "calibrations" / f"{variants[0].name if is_other else 'default'}.json"
    check_writable(path)
    return path
