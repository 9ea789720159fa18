"""What the limits of a target limit, as a comparison measured it: over all samples, where most is lost, by other networks."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ..bundle import Target
from ..bundle.findings import WorstPart
from ..bundle.target import LOSS_LIMITS
from ..runtime import Result
from .benchmark import MeasuredLimit
from .correctness import Correctness
from .intervals import Z95, mean_error, ratio_error
from .measure.latency import latencies
from .network_table import OtherNetwork, make_row
from .parts import Parts, name_classes
from .truth import Truth

__all__ = ["measure_limits", "measure_others", "measure_worst"]


def measure_limits(
    early: Sequence[Result], correctness: Correctness, target: Target, block: int
) -> dict[str, MeasuredLimit]:
    """Return what each limit of a target limits, as measured, by the limits' names; energy is not measured here.

    `block` is how many samples were measured in a turn.
    """
    seconds, right = latencies(early), correctness.right["early"]
    mean_s, error_s = float(seconds.mean()), mean_error(seconds, block)
    values = {
        "min_accuracy": correctness.measure_mean(right),
        "max_loss": correctness.measure_mean(~right if right.dtype == bool else 1 - right),
        "max_drop": correctness.drop(),
        "max_disagreement": correctness.measure_mean(correctness.differs),
        "max_latency_s": MeasuredLimit(mean_s, mean_s - Z95 * error_s, mean_s + Z95 * error_s),
        "max_late": correctness.measure_mean(seconds > (target.deadline_s or math.inf)),
    }
    return {name: values[name] for name in target.limits if name in values}


def measure_others(
    names: Iterable[str], results: Mapping[str, Sequence[Sequence[Result]]], correctness: Correctness, block: int
) -> tuple[OtherNetwork, ...]:
    """Return what the networks that were measured beside early exit lose, and how far their latencies can be compared.

    Args:
        names: of these networks.
        results: of all networks by name, those of each exit.
        correctness: of all networks.
        block: how many samples were measured in a turn.
    """
    others, early_s = [], latencies(results["early"][0])
    for name in names:
        seconds, lost = latencies(results[name][0]), correctness.drop(name)
        row = make_row(name, seconds, correctness.per_draw(correctness.right[name]), correctness.metrics.get(name))
        noise = ratio_error(early_s, seconds, block)
        others.append(OtherNetwork(row=row, drop=lost.value, drop_interval=(lost.low, lost.high), ratio_noise=noise))
    return tuple(others)


def measure_worst(
    correctness: Correctness,
    target: Target | None,
    y: "np.ndarray | Truth",
    groups: Parts | None,
    class_names: Sequence[str] | None,
) -> tuple[WorstPart, ...]:
    """Return the classes or groups that lose most, where the target limits what each may lose.

    Args:
        correctness: of the networks.
        target: of the point; None without a calibration.
        y, groups: the samples' labels, and their groups if they were given.
        class_names: the bundle's.
    """
    name = next((name for name in target.limits if name in LOSS_LIMITS), None) if target else None
    parts = groups
    if target is not None and target.by == "class":
        parts = name_classes(y, class_names) if isinstance(y, np.ndarray) else None
    if target is None or target.by is None or name is None or parts is None:
        return ()
    values = {"max_drop": correctness.lost, "max_disagreement": correctness.differs}
    return correctness.find_worst(parts, name, values.get(name, 1 - correctness.right["early"]))
