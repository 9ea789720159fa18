"""Choose a chain, thresholds and static networks for some targets, and choose again once they were measured side by side."""

import logging
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ...bundle import Target
from ...bundle.calibration import Exclusion
from ...bundle.manifest import NEVER
from ...bundle.target import LOSS_LIMITS
from ...errors import TargetError
from ..measure.configurations import Configuration, Measurements
from ..measure.session import Run, Session
from ..measure.tables import Costs
from ..requests import Request
from .contenders import Contender
from .exclusions import find_exclusions
from .failures import explain_failure
from .picks import Pick, best_thresholds, make_picks, pick_static, rivals

__all__ = ["Choice", "choose", "measure_again", "stays_never"]

_log = logging.getLogger(__name__)

Measured = Mapping[Hashable, Costs]
"""Costs without power by what was measured: a pick for its chain, a contender for a static network."""


class Choice(Struct, frozen=True, kw_only=True):
    """What was chosen.

    Attributes:
        contenders: all of them, with latencies that can be compared: the last ones that were measured.
        exclusions: the configurations that were barred.
        picks: by the names of the targets' points.
        reference_s: mean latency of the reference while the picks were measured side by side; None before.
    """

    contenders: tuple[Contender, ...]
    exclusions: dict[Configuration, Exclusion]
    picks: dict[str, Pick]
    reference_s: float | None = None

    @property
    def chain(self) -> Contender:
        """The chain that all points share."""
        return next(iter(self.picks.values())).chain

    @property
    def allowed(self) -> list[Contender]:
        """The contenders that were not barred."""
        return [contender for contender in self.contenders if contender.configuration not in self.exclusions]

    @property
    def statics(self) -> list[Contender]:
        """All static networks."""
        return [each for each in self.contenders if each.static is not None]


def choose(contenders: Sequence[Contender], measured: Measurements, request: Request) -> Choice:
    """Choose among all contenders, by latencies on the scale of the configuration that was measured last.

    Raises:
        TargetError: every configuration is excluded, or nothing meets a target.
    """
    reference = measured.reference
    scaled = tuple(contender.scaled(reference.latency_s) for contender in contenders)
    exclusions = find_exclusions(scaled, reference, request.bundle.manifest.variants)
    reasons = " ".join(exclusion.reason for exclusion in exclusions.values())
    allowed = [contender for contender in scaled if contender.configuration not in exclusions]
    if not allowed:
        raise TargetError(f"{reasons} Calibrate with other variants too: leave out --variant.")
    picks = make_picks(allowed, request.targets, least_gain=request.least_gain)
    for name, pick in picks.items():
        if pick.thresholds is None and pick.best_static is None:
            raise TargetError(f"{explain_failure(name, request.targets[name], allowed)} {reasons}".strip())
    return Choice(contenders=scaled, exclusions=exclusions, picks=picks)


def measure_again(session: Session, choice: Choice, contenders: Sequence[Contender]) -> Choice:
    """Measure what was picked side by side, each target's chain in the mix in which its samples leave, and choose again.

    The cost of an exit depends on how often the other exits are taken, and that on the thresholds. Static networks that may cost
    less than the best one are measured beside it: one that was held up when all were measured gets its place back. If costs are
    limited, they are measured once more for the promise, since the first measurement chooses.

    Args:
        session: the session.
        choice: what was chosen.
        contenders: all of them, with the latencies measured beside each.

    Raises:
        TargetError: nothing meets a target any more.
    """
    request, picks = session.request, choice.picks
    runs = _list_runs(choice, request)
    seconds = request.measure_s / 2 * max(len(picks), len(runs) / 2)
    costs, reference_s = session.measure_runs(runs, seconds=seconds)
    proof: Measured | None = None
    if any(name not in LOSS_LIMITS for target in request.targets.values() for name in target.limits):
        proof, _ = session.measure_runs(runs, seconds=seconds)
    measured = {name: _choose_again(name, pick, request.targets[name], costs, proof) for name, pick in picks.items()}
    again = {each.key: _with_costs(each, each, costs, proof) for each in runs if isinstance(each, Contender)}
    latest = tuple(again.get(each.key) or each.scaled(float(np.median(reference_s))) for each in contenders)
    return Choice(
        contenders=latest, exclusions=choice.exclusions, picks=measured, reference_s=float(reference_s.mean())
    )


def _list_runs(choice: Choice, request: Request) -> dict[Hashable, Run]:
    """Return the run of each pick's chain, by the pick, and of each static network that is or may be best, by its contender."""
    chain, runs = choice.chain.configuration, dict[Hashable, Run]()
    for name, pick in choice.picks.items():
        thresholds = pick.thresholds if pick.thresholds and stays_never(request.targets[name]) else ()
        runs[pick] = Run(chain.variant, chain.placement, tuple(pick.exit_shares().tolist()), thresholds=thresholds)
    for name, pick in choice.picks.items():
        for static in _best_statics(pick, request.targets[name]):
            runs[static] = Run(static.configuration.variant, static.placement, (), static.static or 0)
    return runs


def _choose_again(name: str, pick: Pick, target: Target, costs: Measured, proof: Measured | None) -> Pick:
    """Return a pick with the costs that were measured last, and the thresholds that are best at them."""
    chain, tried = _with_costs(pick.chain, pick, costs, proof), _best_statics(pick, target)
    statics = [_with_costs(static, static, costs, proof) for static in tried]
    thresholds, *found = best_thresholds([chain, *statics], target)
    if chain.selecting.costs.joined and thresholds and pick.thresholds and _takes_more(thresholds, pick.thresholds):
        thresholds = pick.thresholds  # at which alone the stages run that were measured
    statics = [static for static, met in zip(statics, found, strict=True) if met is not None]
    if thresholds is None and not statics:
        raise TargetError(explain_failure(name, target, [chain]))
    others = [other for other in pick.other_statics if other not in tried]
    others = [other for other in others if best_thresholds([other], target)[0] is not None]
    pick = pick_static(replace(pick, chain=chain, thresholds=thresholds), statics, target)
    _log.debug("%s: %s at %s, against %s", name, chain, thresholds, pick.best_static or "no static network")
    return replace(pick, other_statics=(*pick.other_statics, *others))


def stays_never(target: Target) -> bool:
    """Return True if the candidates for a target never take an exit that its best thresholds never take; see `lay_candidates`."""
    return target.goal != "accuracy" and all(name in LOSS_LIMITS for name in target.limits)


def _takes_more(thresholds: Sequence[float], others: Sequence[float]) -> bool:
    """Return True if an exit may be taken that is never taken at other thresholds."""
    return any(one < NEVER <= other for one, other in zip(thresholds, others, strict=True))


def _best_statics(pick: Pick, target: Target) -> list[Contender]:
    return [] if pick.best_static is None else [pick.best_static, *rivals(pick, target)]


def _with_costs(contender: Contender, key: Hashable, costs: Measured, proof: Measured | None) -> Contender:
    """Return a contender with the costs that were measured last, and the power that it drew before."""
    power = contender.selecting.costs
    proven = None if proof is None else proof[key].with_power_of(power)
    return contender.with_costs(costs[key].with_power_of(power), proven)
