"""Chains across two variants: found by what both were recorded and measured with, and the best one measured as the others are.

    int8 up to exit 0        then the whole network of fp32, or its chain, from the input

Both variants said of every sample what their exits answer, so that nothing is recorded again, unless a static network's answers
were taken from its chain and promises may be made of them. Leaving at an exit of the second is predicted to cost what leaving at
the first's last exit before it costs, and what the second costs by itself.
"""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence

import numpy as np
from msgspec.structs import replace

from ...bundle import Target
from ...bundle.across import Across, count_loaded, join_variants
from ...errors import OfframpError
from ...runtime import EveryExit
from ..measure.configurations import Answers, Configuration, Measurements, measure_configuration
from ..measure.resume import Part
from ..measure.session import Session
from ..measure.tables import Costs
from ..requests import PlacedVariant, Request
from .choice import Choice, choose
from .contenders import Contender, tabulate
from .independence import Independence
from .objective import goal_values
from .picks import Pick, find_cautiously, goal_and_latency, make_picks
from .thresholds import MARGIN

__all__ = ["join_configurations", "try_across"]

MOST_EXITS = 6
"""Chains with more exits are predicted with two of them: the first variant's last one, and the whole network."""

MOST_SEARCHED = 2
"""Pairs whose thresholds are searched for each target: those that cost least with the first variant's last exit alone."""

LOST = "was predicted to be best, and gains too little for sure as it was measured"

_log = logging.getLogger(__name__)


def try_across(
    session: Session,
    measured: Measurements,
    contenders: Sequence[Contender],
    choice: Choice,
    independence: Independence,
) -> tuple[Choice, Sequence[Contender], Measurements]:
    """Measure the chain across two variants that is predicted to be best, if it surely saves the least gain, and choose again.

    Looked at are all pairs of configurations that take part where the first one's first exit costs less than what was chosen, by
    at least the least gain. Each exit of the first that is faster than the second's whole network is tried, with that network
    behind it, at coarse thresholds of the exits up to that one. Of the best `MOST_SEARCHED` for each target the best thresholds
    are searched: with none of the second's exits, and with all of them.

    Returns:
        The choice, all contenders, and all measurements.
    """
    request, before = session.request, (choice, contenders, measured)
    best = _choose_chain(list(_predict_best(choice, measured, request, independence)), choice, request)
    if best is None:
        return before
    across = best.configuration.variant
    assert isinstance(across, Across)
    try:
        measured = _measure(session, measured, best.configuration)
        contenders = tabulate(measured, request, independence)
        choice = choose(contenders, measured, request)
    except OfframpError as error:
        session.notes.append(f"{across.name} ({across.words}) seemed best, and could not be measured: {error}")
        return before
    is_best = choice.chain.configuration is measured.configurations[-1]
    session.notes.append(f"{across.name} ({across.words}) {_describe(across) if is_best else LOST}.")
    return choice, contenders, measured


def _describe(across: Across) -> str:
    """Say what the best chain takes, as the end of a sentence."""
    both = sum(count_loaded(across).values()) / 1e6
    alone = sum(count_loaded(across.second, across.end).values()) / 1e6
    return (
        f"is the best chain. It loads {both:.3g} MB of files; {across.second.name} alone, {alone:.3g} MB. To calibrate without "
        "chains across variants, name one variant"
    )


def _choose_chain(predicted: Sequence[Contender], choice: Choice, request: Request) -> Contender | None:
    """Return the chain across two variants that would be picked, and recommended for some target; None if there is none."""
    if not predicted:
        return None
    statics = {pick.best_static: None for pick in choice.picks.values() if pick.best_static is not None}
    picks = make_picks([choice.chain, *predicted, *statics], request.targets, least_gain=request.least_gain)
    chain = next(iter(picks.values())).chain
    is_any_recommended = any(not pick.prefers_static(request.targets[name]) for name, pick in picks.items())
    return chain if chain is not choice.chain and is_any_recommended else None


def _predict_best(
    choice: Choice, measured: Measurements, request: Request, independence: Independence
) -> Iterator[Contender]:
    """Yield the chains across two variants whose thresholds are worth a search; see `try_across`."""

    def predict(first: Contender, exit_: int, second: Contender) -> Contender:
        joined = join_configurations(first, exit_, second, measured, request)
        (chain,) = tabulate(Measurements((joined,), measured.reference), request, independence)
        return chain if chain.selecting.exits <= MOST_EXITS else _columns(chain, [exit_, chain.selecting.exits - 1])

    whole_networks = {each.configuration: each for each in choice.allowed if each.static is not None}  # each one's last
    costs: dict[tuple[Contender, int, Contender], list[float]] = {}
    for first, second in _pairs(choice, request):
        whole = whole_networks[second.configuration]
        for exit_ in np.flatnonzero(first.selecting.costs.latency_s < whole.selecting.costs.latency_s[0]).tolist():
            chain = predict(first, exit_, whole)
            costs[first, exit_, second] = [_coarse_cost(chain, target) for target in request.targets.values()]
    best: dict[tuple[Contender, int, Contender], None] = {}
    for i in range(len(request.targets)):
        meeting = [key for key in costs if math.isfinite(costs[key][i])]
        best |= dict.fromkeys(sorted(meeting, key=lambda key: costs[key][i])[:MOST_SEARCHED])
    for first, exit_, second in best:
        yield predict(first, exit_, whole_networks[second.configuration])
        if exit_ + 1 + second.selecting.exits <= MOST_EXITS:
            yield predict(first, exit_, second)


def _pairs(choice: Choice, request: Request) -> Iterator[tuple[Contender, Contender]]:
    """Yield the chains of two variants, the first one's first exit cheaper than what was chosen: every sample pays for that."""
    chains = [each for each in choice.allowed if each.static is None]
    for first, second in itertools.permutations(chains, 2):
        if first.configuration.variant.name != second.configuration.variant.name and any(
            target.goal == "accuracy"
            or goal_values(first.selecting, target)[0] < (1 - request.least_gain) * _goal(choice.picks[name], target)
            for name, target in request.targets.items()
        ):
            yield first, second


def _coarse_cost(chain: Contender, target: Target) -> float:
    return goal_and_latency(chain, find_cautiously(chain, target, MARGIN, is_coarse=True), target)[0]


def _goal(pick: Pick, target: Target) -> float:
    """Return what a pick costs on the selecting samples: its chain or its best static network, whichever costs less."""
    costs = [goal_and_latency(pick.chain, pick.thresholds, target)[0]]
    if pick.best_static is not None:
        costs.append(goal_and_latency(pick.best_static, (), target)[0])
    return min(costs)


def join_configurations(
    first: Contender, exit_: int, second: Contender, measured: Measurements, request: Request
) -> Configuration:
    """Predict the configuration of a chain across two variants.

    Args:
        first: the chain of the first variant.
        exit_: the last exit of the first variant in the chain.
        second: the chain of the second variant, or a static network of it.
        measured, request: what they were tabulated with. Their latencies are on the scale of the reference's.
    """
    ours, theirs = first.configuration, second.configuration
    across = join_variants(request.bundle.manifest, ours.variant, exit_, theirs.variant, second.static)
    given = _join_answers(ours.answers, exit_, theirs.answers, second.static)
    outside = None
    if ours.outside_answers is not None and theirs.outside_answers is not None:
        outside = _join_answers(ours.outside_answers, exit_, theirs.outside_answers, second.static)
    return Configuration(
        variant=across,
        placement=(*ours.placement[: exit_ + 1], *second.placement),
        answers=given,
        outside_answers=outside,
        chain=_join_costs(first.selecting.costs, exit_, second.selecting.costs),
        statics=(),
        reference_s=measured.reference.latency_s,
        drifts_with_reference=True,
    )


def _join_answers(first: Answers, exit_: int, second: Answers, static: int | None) -> Answers:
    """Return what the exits of both answer; `static` is the exit of the second's static network, None for its chain."""
    return _append(first.chain, exit_, second.chain if static is None else second.statics[static])


def _append(first: EveryExit, exit_: int, second: EveryExit) -> Answers:
    """Return what a chain answers up to an exit, and then another network."""
    used = slice(exit_ + 1)
    answers = None if first.answers is None or second.answers is None else (*first.answers[used], *second.answers)
    label, score = (
        np.hstack([ours[:, used], theirs])
        for ours, theirs in ((first.label, second.label), (first.score, second.score))
    )
    return Answers(EveryExit(label, score, None, answers), ())


def _join_costs(first: Costs, exit_: int, second: Costs) -> Costs:
    """Predict what leaving at each exit costs: at those of the second what it costs to pass the first's last one, and its own."""
    used, passed_s = slice(exit_ + 1), first.latency_s[exit_]
    costs = replace(
        first,
        times_s=(*first.times_s[used], *(times + passed_s for times in second.times_s)),
        noise=max(first.noise, second.noise),
        machine_noise=max(first.machine_noise, second.machine_noise),
    )
    if first.power_w is None or second.power_w is None:
        return costs
    ours_j, theirs_j = first.power_w * first.latency_s, second.power_w * second.latency_s
    return replace(
        costs,
        power_w=np.hstack([ours_j[used], ours_j[exit_] + theirs_j]) / costs.latency_s,
        power_noise=float(max(np.max(first.power_noise), np.max(second.power_noise))),
        waiting_j=max(first.waiting_j, second.waiting_j),
    )


def _columns(contender: Contender, exits: Sequence[int]) -> Contender:
    """Return a chain as it is with only some of its exits, at what they cost in it."""
    costs = contender.selecting.costs
    costs = replace(costs, times_s=tuple(costs.times_s[k] for k in exits)).with_power_of(costs, list(exits))
    selecting, reporting = (table.columns(exits, costs) for table in (contender.selecting, contender.reporting))
    return replace(contender, selecting=selecting, reporting=reporting)


def _measure(session: Session, measured: Measurements, predicted: Configuration) -> Measurements:
    """Measure a predicted configuration.

    A static network whose answers were taken from the chain of its variant is recorded by itself, since promises may be made.
    """
    across, answers = predicted.variant, predicted.answers
    assert isinstance(across, Across)
    if across.end is not None:
        device = predicted.placement[-1]
        owner = next(
            each
            for each in measured.configurations
            if each.variant is across.second and each.placement[across.end] == device
        )
        part = Part(variant=owner.variant, placement=owner.placement, work="given", static=across.end)
        own = session.record(session.open_static(owner.variant, device, across.end), session.request.samples.x, part)
        answers = _append(answers.chain, across.exit, own)
    loaded = session.open(PlacedVariant(across, predicted.placement))
    configuration = measure_configuration(session, loaded, recorded=(answers, predicted.outside_answers))
    reference = replace(measured.reference, latency_s=configuration.reference_s)
    return Measurements((*measured.configurations, configuration), reference)
