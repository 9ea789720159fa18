"""Two networks beside each other by what was measured of each, with intervals, and in words that claim no noise."""

import math
from typing import Literal

from msgspec import Struct

from ..bundle import Calibration, Certificate, OperatingPoint
from ..bundle.calibration import StaticPoint
from ..units import show_mj, show_us
from .intervals import Z95, share_interval
from .sides import Side

__all__ = ["Compared", "Grounds", "compare_networks", "find_noise"]

MOST_OFF = 100.0
"""More noise than this, as a logarithm, makes no difference: nothing is claimed."""

Network = OperatingPoint | StaticPoint


class Grounds(Struct, frozen=True, kw_only=True):
    """What figures of two sides can be compared, and how far the machine itself may have changed between them.

    Attributes:
        latency, right, energy: whether latencies, accuracies and joules can be compared at all.
        drift: by what share the machine was slower or faster in one measurement, as far as the reference shows it.
        same_reference: whether both lose against the same network.
        same_board: whether both were measured on the same device.
    """

    latency: bool
    right: bool
    energy: bool
    drift: float
    same_reference: bool
    same_board: bool


class Compared(Struct, frozen=True, kw_only=True):
    """Two operating points, or whole static networks, beside each other. Pairs are of A, then B; None is not known.

    Attributes:
        name: the operating point, or `whole static network`.
        runs: what runs, in words.
        targets: what the points were chosen for, in words; None for static networks.
        thresholds, exit_shares: as in `OperatingPoint`; empty for static networks.
        accuracy, drop, disagreement, latency_s, energy_j: as in `OperatingPoint`.
        counts: `losses` if both accuracies are 1 less a mean loss.
        certificates, promises: as in `OperatingPoint`: the promise, and in words, or why there is none. None for static networks.
        speedup: how many times as fast B is.
        speedup_interval: its 95 % interval: of the noise of both measurements, and of the machine's drift as far as the reference
            shows it. None if a noise is not known, or latencies cannot be compared.
        measure: what `gain` is of; None if nothing can be compared.
        gain: by how much B is better: its accuracy minus A's, or its smaller drop or disagreement. Of networks that lose against
            the same network it is the difference of their drops, where that is known more exactly than that of their accuracies.
        gain_interval: its 95 % interval, of the samples.
        verdict: what is surely different, in words.

    Example:
        >>> from offramp.calibrate import compare_bundles
        >>> (whole,) = compare_bundles("digits.offramp", variant=("fp32", "int8")).compared[-1:]
        >>> whole.name, whole.speedup == whole.latency_s[0] / whole.latency_s[1]
        ('whole static network', True)
    """

    name: str
    runs: tuple[str, str]
    targets: tuple[str, str] | None
    thresholds: tuple[tuple[float, ...], tuple[float, ...]]
    exit_shares: tuple[tuple[float, ...], tuple[float, ...]]
    accuracy: tuple[float | None, float | None]
    drop: tuple[float | None, float | None]
    disagreement: tuple[float, float]
    latency_s: tuple[float, float]
    energy_j: tuple[float | None, float | None]
    counts: Literal["labels", "losses"]
    certificates: tuple[Certificate | None, Certificate | None]
    promises: tuple[str, str] | None
    speedup: float
    speedup_interval: tuple[float, float] | None
    measure: Literal["accuracy", "loss", "drop", "disagreement"] | None
    gain: float | None
    gain_interval: tuple[float, float] | None
    verdict: str


def compare_networks(
    name: str, sides: tuple[Side, Side], networks: tuple[Network, Network], grounds: Grounds
) -> Compared:
    """Compare an operating point, or a static network, of each side."""
    first, second = networks
    calibrations = sides[0].calibration, sides[1].calibration
    assert calibrations[0] is not None and calibrations[1] is not None
    speedup = first.latency_s / second.latency_s if second.latency_s else math.inf
    speeds = _find_speedup_interval(speedup, (calibrations[0], calibrations[1]), networks, grounds)
    measure, gain, gains = _find_gain((calibrations[0], calibrations[1]), networks, grounds)
    targets, promises = None, None
    certificates: tuple[Certificate | None, Certificate | None] = None, None
    if isinstance(first, OperatingPoint) and isinstance(second, OperatingPoint):
        targets, promises = (str(first.target), str(second.target)), (first.promise, second.promise)
        certificates = first.certificate, second.certificate
    parts = ["the same of both"]
    if first != second:
        parts = [
            _say_speed(networks, speedup, speeds, grounds),
            _say_gain(measure, gain, gains, grounds),
            _say_energy(first.energy_j, second.energy_j, grounds),
            _say_promise(first, second),
        ]
    return Compared(
        name=name,
        runs=(_name(first), _name(second)),
        targets=targets,
        thresholds=(getattr(first, "thresholds", ()), getattr(second, "thresholds", ())),
        exit_shares=(getattr(first, "exit_shares", ()), getattr(second, "exit_shares", ())),
        accuracy=(first.accuracy, second.accuracy),
        drop=(first.drop, second.drop),
        disagreement=(first.disagreement, second.disagreement),
        latency_s=(first.latency_s, second.latency_s),
        energy_j=(first.energy_j, second.energy_j),
        counts="losses" if {each.point.target.counts for each in calibrations if each} == {"losses"} else "labels",
        certificates=certificates,
        promises=promises,
        speedup=speedup,
        speedup_interval=speeds,
        measure=measure,
        gain=gain,
        gain_interval=gains,
        verdict=f"{name}: {', '.join(part for part in parts if part)}.",
    )


def find_noise(calibration: Calibration, network: Network) -> float | None:
    """Return the relative standard error of a network's mean latency; None if it is not known."""
    if isinstance(network, StaticPoint):
        return network.noise or None
    if network.exits_early:
        same = [each for each in calibration.chains if each.variant == network.variant]
        exact = [each.noise for each in same if each.placement == network.placement]
        return next(iter(exact), 0.0) or None
    ends = (each for each in calibration.statics if (each.variant, each.exit) == (network.variant, network.static))
    return next((each.noise for each in ends if each.device in network.placement), 0.0) or None


def _name(network: Network) -> str:
    if isinstance(network, OperatingPoint):
        return network.engines
    return f"the static network to exit {network.exit} of {network.variant} on {network.device}"


def _find_speedup_interval(
    speedup: float, calibrations: tuple[Calibration, Calibration], networks: tuple[Network, Network], grounds: Grounds
) -> tuple[float, float] | None:
    noises = [find_noise(*pair) for pair in zip(calibrations, networks, strict=True)]
    if not grounds.latency or None in noises or not 0 < speedup < math.inf:
        return None
    off = math.exp(min(MOST_OFF, Z95 * math.hypot(*(noise or 0.0 for noise in noises)) + grounds.drift))
    return speedup / off, speedup * off


def _find_gain(
    calibrations: tuple[Calibration, Calibration], networks: tuple[Network, Network], grounds: Grounds
) -> tuple[Literal["accuracy", "loss", "drop", "disagreement"] | None, float | None, tuple[float, float] | None]:
    """Return what is compared, by how much B is better, and the 95 % interval of that."""
    first, second = networks
    if not grounds.right:
        return None, None, None
    counts = [_count_samples(*each) for each in zip(calibrations, networks, strict=True)]
    paired = _pair_drops(first, second) if grounds.same_reference else None
    if first.accuracy is not None and second.accuracy is not None:
        apart = second.accuracy - first.accuracy, _difference(first.accuracy, second.accuracy, *counts)
        gain, interval = min(filter(None, (apart, paired)), key=lambda each: each[1][1] - each[1][0])
        return "loss" if calibrations[0].point.target.counts == "losses" else "accuracy", gain, interval
    if paired is not None:
        return "drop", *paired
    if not grounds.same_reference:
        return None, None, None
    agreements = 1 - first.disagreement, 1 - second.disagreement
    return "disagreement", agreements[1] - agreements[0], _difference(*agreements, *counts)


def _pair_drops(first: Network, second: Network) -> tuple[float, tuple[float, float]] | None:
    """Return a gain by what each side loses against the same network, and its interval: at most both errors together.

    Where the two were measured on different samples, some of which are harder, accuracies differ by that too, drops do not.
    """
    lengths = []
    for network in (first, second):
        interval = network.drop_interval if isinstance(network, OperatingPoint) else None
        if interval is None or network.drop is None:
            return None
        lengths.append((network.drop - interval[0], interval[1] - network.drop, network.drop))
    (below, above, drop), (other_below, other_above, other) = lengths
    gain = drop - other
    return gain, (gain - below - other_above, gain + above + other_below)


def _count_samples(calibration: Calibration, network: Network) -> float:
    """Return for how many independent samples, or groups, those that gave the figures count."""
    certificate = network.certificate if isinstance(network, OperatingPoint) else None
    counted = next((each.certificate for each in calibration.points.values() if each.certificate is not None), None)
    independent = (certificate or counted).independent if certificate or counted else None  # type: ignore[union-attr]
    return independent or calibration.groups or calibration.report_samples


def _difference(first: float, second: float, first_count: float, second_count: float) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two shares (Newcombe, Statistics in Medicine 17, 1998).

    If both are of the same samples, on which networks mostly err alike, it is too long rather than too short. So it is for
    means of losses, which vary less than shares.
    """
    low, high = share_interval(first * first_count, first_count)
    other_low, other_high = share_interval(second * second_count, second_count)
    gain = second - first
    return (
        gain - math.hypot(max(0.0, second - other_low), max(0.0, high - first)),
        gain + math.hypot(max(0.0, other_high - second), max(0.0, first - low)),
    )


def _say_speed(
    networks: tuple[Network, Network], speedup: float, interval: tuple[float, float] | None, grounds: Grounds
) -> str:
    where = "" if grounds.same_board else " on its device"
    times = f"A takes {show_us(networks[0].latency_s)}, B {show_us(networks[1].latency_s)}"
    if not grounds.latency:
        return f"{times}, which cannot be compared"
    if interval is None:
        return f"{times}, and how noisy that is is not known"
    low, high = interval
    if low <= 1 <= high:
        return (
            f"the noise does not tell which is faster (B is {_times(speedup)} times as fast, 95 % interval {_times(low)} to "
            f"{_times(high)})"
        )
    if speedup > 1:
        return (
            f"B{where} is {_times(speedup)} times as fast as A{where} (95 % interval {_times(low)} to {_times(high)})"
        )
    interval_words = f"95 % interval {_times(1 / high)} to {_times(1 / low)}"
    return f"B{where} takes {_times(1 / speedup)} times as long as A{where} ({interval_words})"


def _say_gain(measure: str | None, gain: float | None, interval: tuple[float, float] | None, grounds: Grounds) -> str:
    if measure is None or gain is None or interval is None:
        return "" if grounds.right else "accuracies cannot be compared"
    if gain == 0:
        return f"of the same {measure} on these samples"
    low, high = (100 * end for end in interval)
    if low <= 0 <= high:
        return (
            f"the samples do not tell which has the better {measure} (B is better by {100 * gain:+.2f} points, 95 % interval "
            f"{low:+.2f} to {high:+.2f})"
        )
    word = "more" if (gain > 0) == (measure == "accuracy") else "less"
    least, most = sorted((abs(low), abs(high)))
    return f"at {abs(100 * gain):.2f} points {word} {measure} (95 % interval {least:.2f} to {most:.2f})"


def _say_energy(first_j: float | None, second_j: float | None, grounds: Grounds) -> str:
    if first_j is None or second_j is None:
        return ""
    shown = f"{show_mj(first_j)} and {show_mj(second_j)} an inference"
    return f"{shown}, of which no interval is stored" if grounds.energy else f"{shown}, which cannot be compared"


def _say_promise(first: Network, second: Network) -> str:
    """Say which side alone is promised."""
    if not (isinstance(first, OperatingPoint) and isinstance(second, OperatingPoint)):
        return ""
    if first.is_promised == second.is_promised:
        return ""
    return f"only {'A' if first.is_promised else 'B'} is promised to keep its target"


def _times(ratio: float) -> str:
    return f"{ratio:.3g}"
