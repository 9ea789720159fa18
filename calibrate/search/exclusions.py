"""Exclusions: compressed variants barred from the search, because they are slower here than their parents, or much worse."""

import logging
import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from ...bundle import Variant
from ...bundle.calibration import Exclusion
from ...units import show_share, show_us
from ..measure.configurations import Configuration, Reference
from .contenders import Contender, ContenderKey

__all__ = ["find_exclusions"]

MOST_LOST = {"quantize": 0.01, "prune": 0.05}
"""The most accuracy that compression may cost at any exit. Quantised networks that lose more do so because sums overflow."""

LOSS_ERRORS = 1.64
"""Standard errors by which the loss must exceed that: few samples prove no loss."""

_log = logging.getLogger(__name__)

_Shares = tuple[float | None, float | None]


class _ExitFigures(Struct, frozen=True):
    """Figures of a configuration that its parent's are compared with.

    Attributes:
        latency_s: median latency to the last exit.
        last: the name of the last exit.
        right: by exit, which samples are right, bool (N,); empty without labels.
        is_known: False if some labels are unknown, so that only differences of accuracies are true.
    """

    latency_s: float
    last: str
    right: dict[str, np.ndarray]
    is_known: bool


def find_exclusions(
    contenders: Sequence[Contender], reference: Reference, variants: Sequence[Variant]
) -> dict[Configuration, Exclusion]:
    """Return which configurations are barred from the search, by the selecting samples.

    A compressed variant is compared with its parent, if the parent was measured on the same devices and takes part itself; else
    with the parent's parent, and so on up to the reference. A variant made by `keep` or `gate` is excluded if its parent is.

    Args:
        contenders: of all configurations, with latencies that can be compared.
        reference: the reference, with its latency on the same scale.
        variants: of the bundle, parents before the variants made from them.
    """
    ranks = {variant.name: i for i, variant in enumerate(variants)}
    configurations = list(dict.fromkeys(contender.configuration for contender in contenders))
    comparisons = _Comparisons(contenders, configurations, reference, {variant.name: variant for variant in variants})
    for configuration in sorted(configurations, key=lambda each: ranks.get(each.variant.name, len(ranks))):
        comparisons.compare_with_ancestors(configuration)
    return comparisons.exclusions


class _Comparisons:
    """Compares configurations with those of their parents, parents first."""

    def __init__(
        self,
        contenders: Sequence[Contender],
        configurations: Sequence[Configuration],
        reference: Reference,
        variants: dict[str, Variant],
    ) -> None:
        self.contenders = {contender.key: contender for contender in contenders}
        self.configurations, self.reference, self.variants = configurations, reference, variants
        self.exclusions: dict[Configuration, Exclusion] = {}

    def compare_with_ancestors(self, configuration: Configuration) -> None:
        """Exclude a configuration if it is worse than its nearest ancestor that takes part."""
        variant, most_lost = configuration.variant, 0.0
        while variant.origin is not None:
            most_lost = max(most_lost, MOST_LOST.get(variant.origin.how, 0.0))
            variant = self.variants[variant.origin.parent]
            ancestor = self._configuration_like(configuration, variant)
            if not most_lost and ancestor is not None and ancestor in self.exclusions:
                reason = f"it is made of {variant.name}, which is not either"
                ours, theirs = self._figures(configuration), self._figures(ancestor)
                self._exclude(configuration, ours, theirs, variant, reason, _accuracies(ours, theirs, ours.last))
            elif most_lost and (ancestor is not None or self._is_compared_with_reference(configuration, variant)):
                ours = self._figures(configuration)
                theirs = self._reference_figures(configuration) if ancestor is None else self._figures(ancestor)
                reason, shares = _compare(ours, theirs, variant.name, most_lost)
                if reason:
                    self._exclude(configuration, ours, theirs, variant, reason, shares)
            if configuration in self.exclusions or (ancestor is not None and ancestor not in self.exclusions):
                return

    def _configuration_like(self, configuration: Configuration, variant: Variant) -> Configuration | None:
        """Return the configuration of a variant on the same devices, if it was measured."""
        for other in self.configurations:
            if other.variant.name == variant.name and _are_on_same_devices(other, configuration):
                return other
        return None

    def _is_compared_with_reference(self, configuration: Configuration, variant: Variant) -> bool:
        is_first = variant is next(iter(self.variants.values()))
        return is_first and set(configuration.placement) == {self.reference.device}

    def _figures(self, configuration: Configuration) -> _ExitFigures:
        """Return a configuration's figures; on several devices the chain is timed, since no static network stands for it."""
        names = [end.name for end in configuration.variant.exits]
        statics = [self.contenders[ContenderKey(configuration, k)] for k in range(len(names))]
        last = statics[-1] if configuration.is_on_one_device else self.contenders[ContenderKey(configuration, None)]
        right = {
            name: static.selecting.right[:, 0]
            for name, static in zip(names, statics, strict=True)
            if static.selecting.right is not None
        }
        is_known = last.selecting.known is None
        return _ExitFigures(float(np.median(last.selecting.costs.times_s[-1])), names[-1], right, is_known)

    def _reference_figures(self, configuration: Configuration) -> _ExitFigures:
        """Return latency and correctness of the reference; only its last exit was measured."""
        table = self.contenders[ContenderKey(configuration, None)].selecting
        right, last = table.reference_right, next(iter(self.variants.values())).exits[-1].name
        return _ExitFigures(self.reference.latency_s, last, {} if right is None else {last: right}, table.known is None)

    def _exclude(
        self,
        configuration: Configuration,
        ours: _ExitFigures,
        theirs: _ExitFigures,
        parent: Variant,
        reason: str,
        shares: _Shares,
    ) -> None:
        self.exclusions[configuration] = Exclusion(
            variant=configuration.variant.name,
            placement=configuration.placement,
            parent=parent.name,
            latency_s=ours.latency_s,
            parent_latency_s=theirs.latency_s,
            accuracy=shares[0],
            parent_accuracy=shares[1],
            reason=f"{configuration} is never recommended: {reason}.",
        )
        _log.debug("%s", self.exclusions[configuration].reason)


def _are_on_same_devices(configuration: Configuration, other: Configuration) -> bool:
    """Return True if two configurations run on the same devices; with all stages on one device their number may differ."""
    if configuration.placement == other.placement:
        return True
    return set(configuration.placement) == set(other.placement) == {configuration.placement[0]}


def _compare(ours: _ExitFigures, theirs: _ExitFigures, parent: str, most_lost: float) -> tuple[str, _Shares]:
    """Return the reason why a variant is excluded, empty if it is not, and the accuracies of both."""
    worst, worst_exit = most_lost, ""
    for name in set(ours.right) & set(theirs.right):
        lost = theirs.right[name].astype(np.float64) - ours.right[name]
        at_least = lost.mean() - LOSS_ERRORS * lost.std() / math.sqrt(len(lost))
        if at_least > worst:
            worst, worst_exit = at_least, name
    shares = _accuracies(ours, theirs, worst_exit or ours.last)
    if worst_exit:
        right, parent_right = (share or 0.0 for share in shares)
        figures = f"{show_share(right)} right against {show_share(parent_right)}"
        if ours.right[worst_exit].dtype != bool:
            figures = f"a loss of {show_share(1 - right)} against {show_share(1 - parent_right)}"
        if not ours.is_known:
            lost = theirs.right[worst_exit].astype(np.float64) - ours.right[worst_exit]
            figures = f"right on {show_share(float(lost.mean()))} fewer samples"
        return f"it is worse at exit {worst_exit} than {parent}: {figures}", shares
    if ours.last == theirs.last and ours.latency_s >= theirs.latency_s:
        times = f"{show_us(ours.latency_s)} against {show_us(theirs.latency_s)} (medians)"
        return f"it is not faster to the last exit than {parent}: {times}", shares
    return "", shares


def _accuracies(ours: _ExitFigures, theirs: _ExitFigures, exit_name: str) -> _Shares:
    if not ours.is_known:
        return None, None
    first, second = (
        float(figures.right[exit_name].mean()) if exit_name in figures.right else None for figures in (ours, theirs)
    )
    return first, second
