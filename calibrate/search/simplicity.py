"""The simpler of two contenders, which is taken unless the other is surely better."""

from collections.abc import Callable, Iterable, Sequence

from ...bundle.across import Across
from .contenders import Contender
from .gains import Gain

__all__ = ["take_simplest"]


def take_simplest(
    best: Contender, others: Sequence[Contender], gains_over: Callable[[Contender], Iterable[Gain]]
) -> Contender:
    """Return the simplest of the best contender and those that it is not surely better than.

    A chain of one variant is simpler than one across two. Else a contender is simpler if it has fewer exits; or, with as many,
    if the other's variant was made from its variant.

    Args:
        best: the contender that costs least.
        others: those that may take its place.
        gains_over: returns how much better the best is than another, for each target.
    """
    ancestors = _find_ancestors([best, *others])

    def size(contender: Contender) -> tuple[bool, int]:
        return isinstance(contender.configuration.variant, Across), contender.selecting.exits

    def rank(contender: Contender) -> tuple[bool, int, int]:
        return *size(contender), len(ancestors[contender.configuration.variant.name])

    draws = [
        other
        for other in others
        if (
            size(other) < size(best)
            or (
                size(other) == size(best)
                and other.configuration.variant.name in ancestors[best.configuration.variant.name]
            )
        )
        and not any(gain.is_sure for gain in gains_over(other))
    ]
    return min([best, *draws], key=rank)


def _find_ancestors(contenders: Iterable[Contender]) -> dict[str, set[str]]:
    """Return for each variant, by name, those that it was made from, as far as they take part."""
    variants = {each.configuration.variant.name: each.configuration.variant for each in contenders}
    ancestors: dict[str, set[str]] = {}
    for name, variant in variants.items():
        ancestors[name], origin = set(), variant.origin
        while origin is not None:  # a variant stands after its parent in the manifest, so that this ends
            ancestors[name].add(origin.parent)
            parent = variants.get(origin.parent)
            origin = None if parent is None else parent.origin
    return ancestors
