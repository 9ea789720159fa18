"""Operating points: what they give for samples that did not choose them, what is promised, and what is recommended."""

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ...bundle import Certificate, OperatingPoint, Target
from ...bundle.calibration import EARLY_SUFFIX, WHOLE_NETWORK_PROMISE
from ...bundle.target import describe_limit
from ...progress import Progress, no_progress
from ..advice import judge
from ..measure.tables import exits_taken
from ..search.contenders import Contender
from ..search.objective import keeps
from ..search.picks import Pick
from ..search.predictions import Named, predict
from .paths import lay_candidates
from .promises import certify


def make_points(
    picks: Mapping[str, Pick],
    targets: Mapping[str, Target],
    names: Sequence[Named],
    statics: Sequence[Contender],
    *,
    confidence: float,
    progress: Progress = no_progress,
) -> dict[str, OperatingPoint]:
    """Certify what was picked, and recommend the chain or the static network for each target.

    All promises together hold with the given confidence: each is tested at an equal part of what may go wrong (Bonferroni). What
    was chosen by other samples is tested; what wins only by the samples that test is not promised.

    Args:
        picks, targets: by the points' names.
        names: of each way.
        statics: the calibration's static networks, which points name by their index.
        confidence: of all promises together.
        progress: is told after each target.
    """
    static_wins = {name: pick.prefers_static(targets[name]) for name, pick in picks.items()}
    tested = [
        pick.rival for name, pick in picks.items() if static_wins[name] and not _is_free(pick.rival, targets[name])
    ]
    promises = sum(pick.thresholds is not None for pick in picks.values()) + len(tested)
    keys = [(one.way, one.static) for one in statics]
    points: dict[str, OperatingPoint] = {}
    beside: dict[str, OperatingPoint] = {}
    for i, (name, pick) in enumerate(picks.items()):
        progress("certifying", i, len(picks))
        target = targets[name]
        how = _Test(target, max(1, promises), confidence)
        early = static = None
        if pick.thresholds is not None:
            early = how.test_chain(pick.chain, pick.thresholds, names[pick.chain.way])
        rival = pick.rival
        if rival is not None:
            static = how.test_static(rival, names[rival.way], chosen=static_wins[name])
            if not static.met and (rival := _next_that_keeps(pick.others, target)) is not None:
                static = how.test_static(rival, names[rival.way], chosen=False)
        index = None if rival is None else keys.index((rival.way, rival.static))
        points |= _recommend(name, early, static, beside, index)
    progress("certifying", len(picks), len(picks))
    return points | beside


def _next_that_keeps(others: Sequence[Contender], target: Target) -> Contender | None:
    """Return the first static network that keeps a target on the samples that did not choose either."""
    return next((one for one in others if keeps(one.table, target, exits_taken(one.table.score, ()))), None)


def _is_free(rival: Contender | None, target: Target) -> bool:
    """Tell whether a static network keeps its target whatever the samples: the yardstick under limits of what it loses."""
    return rival is None or (rival.table.is_whole and set(target.limits) <= {"max_drop", "max_disagreement"})


def _recommend(
    name: str,
    early: OperatingPoint | None,
    static: OperatingPoint | None,
    beside: dict[str, OperatingPoint],
    rival: int | None,
) -> dict[str, OperatingPoint]:
    """Return the point that wins, by its name; where that is a static network the chain goes `beside`."""
    pays, verdict = judge(early, static)
    if early is not None:
        early = replace(early, pays=pays, verdict=verdict, rival=rival)
    if static is not None and not pays:
        if early is not None:
            beside[name + EARLY_SUFFIX] = early
        return {name: replace(static, verdict=verdict, rival=rival)}
    assert early is not None  # a target that neither keeps was refused
    return {name: early}


class _Test(Struct, frozen=True):
    """Tests one target's candidates.

    Attributes:
        target: the target.
        promises: how many promises share what may go wrong.
        confidence: of all of them.
    """

    target: Target
    promises: int
    confidence: float

    @property
    def delta(self) -> float:
        return (1 - self.confidence) / self.promises

    def test_chain(self, chain: Contender, thresholds: tuple[float, ...], named: Named) -> OperatingPoint:
        """Return the last candidate along a path through the thresholds that is certified; themselves where none is."""
        path = lay_candidates(chain.known, thresholds, self.target, tested=len(chain.table))
        step, why = certify(chain.table, self.target, path, delta=self.delta)
        if step is not None:
            thresholds = tuple(path[step].tolist())
        point = predict(chain.table, thresholds, self.target, named)
        return self._promise(point, step, len(path), why, len(chain.table))

    def test_static(self, rival: Contender, named: Named, *, chosen: bool) -> OperatingPoint:
        """Return a static network, certified where it was chosen before these samples were looked at."""
        named = Named(named.variant, named.placement[rival.static : (rival.static or 0) + 1])
        point = replace(predict(rival.table, (), self.target, named), static=rival.static)
        if _is_free(rival, self.target):
            return replace(point, promise=WHOLE_NETWORK_PROMISE)
        if not chosen:
            return replace(
                point,
                promise="Nothing is promised: another way seemed better before these samples were looked at. Other samples can.",
            )
        step, why = certify(rival.table, self.target, np.zeros((1, 0), np.float32), delta=self.delta)
        return self._promise(point, step, 1, why, len(rival.table))

    def _promise(self, point: OperatingPoint, step: int | None, steps: int, why: str, n: int) -> OperatingPoint:
        if step is None:
            return replace(point, promise=why)
        certificate = Certificate(
            limits=self.target.limits,
            confidence=self.confidence,
            promises=self.promises,
            samples=n,
            step=step,
            steps=steps,
        )
        return replace(point, certificate=certificate, promise=describe_promise(certificate, self.target))


def describe_promise(certificate: Certificate, target: Target) -> str:
    """Say in words what a certificate promises."""
    together = (
        f" (all {certificate.promises} promises of this calibration together)" if certificate.promises > 1 else ""
    )
    said = []
    for name, most in certificate.limits.items():
        if name == "max_drop":
            said.append(f"the accuracy drop on inputs like these is at most {most:.2%}")
        elif name == "max_disagreement":
            said.append(f"at most {most:.2%} of inputs like these get another label than the whole network gives them")
        elif name == "max_late":
            said.append(
                f"at most {most:.2%} of inputs like these take longer than {(target.deadline_s or 0) * 1e6:.0f} us"
            )
        else:
            what, _, bound = describe_limit(name, most, target).partition(" of ")
            said.append(f"the {what.partition(' ')[2]} on inputs like these is {bound}")
    listed = " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)
    return f"With {certificate.confidence:.0%} confidence{together} {listed}, by {certificate.samples} samples."
