"""The verdict of a target in words: whether early exit pays, does not pay, or whether that is not known."""

from msgspec import Struct

from ..bundle import OperatingPoint
from ..bundle.findings import show_worst
from ..bundle.target import LOSS_LIMITS
from ..units import show_mj, show_share, show_thresholds, show_us
from .search.gains import Gain

__all__ = ["Unproven", "judge"]


class Unproven(Struct, frozen=True):
    """Thresholds of a chain that meet the target on the reporting samples but are not proven by them.

    Attributes:
        point: the figures at these thresholds.
        gain: against the best static network; None if there is none.
        samples: for how many independent samples those that tested them count.
        needed: about how many could prove them.
        depend: True if samples depend on each other, so that they count for fewer.
        unit: what is counted: `samples` or `groups`.
    """

    point: OperatingPoint
    gain: Gain | None
    samples: int
    needed: int
    depend: bool = False
    unit: str = "samples"

    @property
    def lack(self) -> str:
        """What is missing, in words."""
        counted = f"{self.samples} independent" if self.depend else str(self.samples)
        return f"{counted} {self.unit} do not prove that they keep the target. About {self.needed} could."


def judge(
    early: OperatingPoint | None,
    static: OperatingPoint | None,
    gain: Gain | None = None,
    unproven: Unproven | None = None,
) -> tuple[bool, str]:
    """Say whether early exit meets its target and surely beats the best static network that meets it too, with the numbers.

    A static network of which nothing is promised takes the place of promised early exit only where it is surely better.

    Args:
        early: the chain's point.
        static: the point of the best static network.
        gain: how much better the chain is.
        unproven: thresholds that more samples could prove, if only more careful ones can be promised.
    """
    if early is None:
        assert static is not None
        return False, f"Do not use early exit here: no thresholds meet the target, {_show(static)} does."
    if not early.met and static is not None and static.met:
        return False, (
            f"Do not use early exit here: its best thresholds miss the target on the reporting samples, {_show(early)}; "
            f"{_show(static)} meets it."
        )
    if not early.met:
        missed = f"The target is missed on the reporting samples: {_show(early)}"
        if early.worst:
            return False, f"{missed}, {show_worst(early.worst)}."
        if early.drop is None or early.accuracy is None or early.drop <= 0:
            return False, f"{missed}."
        if early.target.counts == "losses":
            lost = show_share(1 - early.accuracy - early.drop)
            return False, f"{missed}, {show_share(early.drop)} above the whole network's {lost}."
        whole = show_share(early.accuracy + early.drop)
        return False, f"{missed}, {show_share(early.drop)} below the whole network's {whole}."
    if static is None or not static.met:
        where = "" if static is None else " on the reporting samples"
        return True, f"Use early exit: no static network meets the target{where}, {_show(early)}."
    assert gain is not None
    is_allowed = early.certificate is not None or not static.is_promised
    if gain.is_sure and is_allowed:
        return True, f"Use early exit: {_show(early)}, {_show(static)} ({_describe(gain, early, static)})."
    figures, (low, high) = _describe(gain, early, static), gain.interval
    interval = f"{_saving(gain, early)}, 95 % interval {low:.1%} to {high:.1%}, where {_least(gain)} is asked for"
    if early.certificate is not None and not static.is_promised and high > 0:
        compared = f"{_show(early)}, {_show(static)} ({figures}: {interval})"
        headline = "Use early exit" if gain.share > 0 else "Use early exit, which alone is promised"
        return True, f"{headline}: {compared}. The static network is not surely better, and nothing is promised of it."
    # What can be promised does not pay: a chain that is always run whole saves nothing, whatever its noisy times say.
    is_settled = not is_allowed or high < gain.least or early.exit_shares[-1] == 1
    if is_settled and unproven is not None and unproven.gain is not None and unproven.gain.share >= gain.least:
        return False, _describe_unproven(unproven, static)
    if not is_allowed:
        # It meets its limits on these samples: more could prove that, but for a limit of 0.
        is_provable = all(early.target.limits.get(name) != 0 for name in LOSS_LIMITS)
        headline = "Not known yet whether early exit pays here" if is_provable else "Do not use early exit here"
        return False, f"{headline}: {early.promise} Measured: {_show(early)}, {_show(static)}."
    if high <= 0:
        return False, f"Do not use early exit here: {_show(early)}, {_show(static)} ({figures})."
    headline = "Do not use early exit here" if high < gain.least else "Early exit is not surely worth it here"
    return False, f"{headline}: {_show(early)}, {_show(static)} ({figures}: {interval})."


def _describe_unproven(unproven: Unproven, static: OperatingPoint) -> str:
    assert unproven.gain is not None
    ratio = _describe(unproven.gain, unproven.point, static)
    thresholds = show_thresholds(unproven.point.thresholds)
    return (
        f"Not known yet whether early exit pays here: with its thresholds at {thresholds} {_show(unproven.point)}, "
        f"{_show(static)} ({ratio}), but {unproven.lack} Until then the static network is recommended."
    )


def _describe(gain: Gain, early: OperatingPoint, static: OperatingPoint) -> str:
    """Compare two points in words: `1.57 times the speed`."""
    match gain.of:
        case "accuracy":
            is_of_losses = early.target.counts == "losses"
            return f"{-gain.share:+.2%} loss" if is_of_losses else f"{gain.share:+.2%} accuracy"
        case "energy":
            ours, theirs = early.energy_j or 0.0, static.energy_j or 0.0
            return f"{theirs / ours:.2f} times as many inferences per joule" if ours else "no energy"
        case _:
            return f"{static.latency_s / early.latency_s:.2f} times the speed"


def _saving(gain: Gain, early: OperatingPoint) -> str:
    won = "loss avoided" if early.target.counts == "losses" else "accuracy won"
    what = {"latency": "time saved", "energy": "energy saved", "accuracy": won}[gain.of]
    return f"{what} {gain.share:.1%}"


def _least(gain: Gain) -> str:
    return f"at least {100 * gain.least:.3g}%" if gain.least else "more than 0"


def _show(point: OperatingPoint) -> str:
    name = "early exit" if point.exits_early else f"the static network to exit {point.static}"
    costs = [show_us(point.latency_s)]
    if point.energy_j is not None:
        costs.append(show_mj(point.energy_j))
    if point.accuracy is not None and point.target.counts == "losses":
        right = f"at a loss of {show_share(1 - point.accuracy)}"
    elif point.accuracy is not None:
        right = f"at {show_share(point.accuracy)}"
    elif point.drop is not None:
        right = f"at a drop of {show_share(point.drop)}"
    else:
        right = f"with {show_share(point.disagreement)} disagreement"
    return f"{name} of {point.variant} {' and '.join(costs)} {right}"
