"""Words for targets that nothing meets."""

from collections.abc import Iterator, Sequence

import numpy as np

from ...bundle import Target
from ...units import show_value
from ..measure.tables import mean_at
from .contenders import Contender
from .objective import limit_values

__all__ = ["explain_failure"]


def explain_failure(name: str, target: Target, contenders: Sequence[Contender]) -> str:
    """Say why nothing meets a target: the best value that any contender reaches of each limit alone.

    Args:
        name: of the target's point.
        target: the target.
        contenders: all that took part.
    """
    reasons = []
    for limit in target.limits:
        best, most = min(
            ((mean, most) for contender in contenders for mean, most in _exit_means(contender, target, limit)),
            key=lambda pair: pair[0],
        )
        if best > most:
            value = 1 - best if limit == "min_accuracy" else best
            reasons.append(_describe_best(limit, value, target))
    if not reasons:
        together = f"each limit alone can be met, but not {target.describe_limits()} together"
        reasons.append(f"over all samples it can be met, but not in every {target.by}" if target.by else together)
    point = "" if name == "default" else f" for {name}"
    return (
        f"Nothing on this device gives {target}{point}: {'; '.join(reasons)}. Widen the limit, add variants (pruned, int8), or "
        "export a network with an earlier exit."
    )


def _describe_best(limit: str, value: float, target: Target) -> str:
    """Say how far the best exit gets: `the smallest accuracy drop that any exit reaches is 0.50%`."""
    late = f"share of inputs later than {show_value('deadline_s', target.deadline_s or 0.0)}"
    is_labelled = target.counts == "labels"
    limited = {
        "min_accuracy": "highest accuracy" if is_labelled else "highest accuracy (1 less the mean loss)",
        "max_loss": "smallest mean loss",
        "max_drop": "smallest accuracy drop" if is_labelled else "smallest mean loss added",
        "max_disagreement": "smallest disagreement with the whole network",
        "max_latency_s": "smallest mean latency",
        "max_late": f"smallest {late}",
        "max_energy_j": "smallest mean energy",
    }
    return f"the {limited[limit]} that any exit reaches is {show_value(limit, value)}"


def _exit_means(contender: Contender, target: Target, limit: str) -> Iterator[tuple[float, float]]:
    """Yield the mean of a limit's values if all selecting samples leave at one exit, and the limit, for each exit."""
    values, most = limit_values(contender.selecting, target)[limit]
    for k in range(contender.selecting.exits):
        yield mean_at(values, np.full(len(contender.selecting), k)), most
