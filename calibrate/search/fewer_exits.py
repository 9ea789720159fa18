"""A variant with fewer exits: proposed where it is predicted to cost less, and made and measured where that can be done.

Every exit costs time, also for samples that do not leave there: its head, its call, and operators that the engine cannot fuse
across the cut.
"""

import itertools
from collections.abc import Iterator, Sequence

from msgspec import Struct
from msgspec.structs import replace

from ...bundle import Target, Variant
from ...bundle.manifest import can_drop_exits
from ...bundle.writing import remove_variant
from ...errors import OfframpError
from ..measure.configurations import Measurements, measure_configuration
from ..measure.session import Session
from ..measure.tables import exits_taken, mean_at
from ..requests import PlacedVariant, place_variants
from .choice import Choice, choose
from .contenders import Contender, tabulate
from .independence import Independence
from .picks import Pick, best_thresholds

__all__ = ["Proposal", "propose_fewer_exits", "try_fewer_exits", "with_exits"]

MOST_EXITS = 5
"""For chains with more exits, only leaving out a single exit is tried."""


class Proposal(Struct, frozen=True):
    """A variant with fewer exits, which is predicted to cost less.

    Attributes:
        parent: the variant it is made from.
        exits: the numbers of the exits that stay.
        device: where its parent ran.
        saving: the share of the mean latency that it is predicted to save.
    """

    parent: str
    exits: tuple[int, ...]
    device: str
    saving: float

    @property
    def words(self) -> str:
        """What is predicted, without a full stop."""
        listed = ", ".join(map(str, self.exits))
        return f"With exits {listed} of {self.parent} alone early exit is predicted to take {self.saving:.0%} less mean time"

    @property
    def command(self) -> str:
        """The command that makes the variant."""
        return f"offramp keep BUNDLE --exits {','.join(map(str, self.exits))} --variant {self.parent}"


def propose_fewer_exits(pick: Pick, target: Target, contenders: Sequence[Contender]) -> Proposal | None:
    """Return the set of exits that is predicted to be fastest, by the selecting samples.

    None is proposed if it saves less than the least gain, against all exits or against the best static network, if a variant
    with fewer exits was measured already, or if the rule makes a score of several heads.

    Args:
        pick: the chain.
        target: its target; only the goal `latency` is looked at.
        contenders: all of them, among which are the chain's static networks.
    """
    configuration = pick.chain.configuration
    is_tried = any(_is_kept_from(each, configuration.variant.name) for each in contenders)
    if pick.thresholds is None or target.goal != "latency" or not configuration.passing_s or is_tried:
        return None
    if not can_drop_exits(configuration.variant.rule):
        return None
    least_s = [each.selecting.costs.latency_s[0] for each in contenders if _is_static_of(each, pick.chain)]
    full_s = _mean_latency_s(pick.chain, pick.thresholds)
    others_s = [full_s] if pick.best_static is None else [full_s, float(pick.best_static.selecting.costs.latency_s[0])]
    most_s = (1 - pick.least_gain) * min(others_s)
    best, best_s = None, full_s
    for exits in _subsets(pick.chain.selecting.exits):
        # All exits allow every choice that fewer allow, so at most the time of passing those that are left out is saved.
        saved_s = sum(max(0.0, time_s) for k, time_s in enumerate(configuration.passing_s) if k not in exits)
        if full_s - saved_s > most_s:
            continue
        shorter = with_exits(pick.chain, exits, configuration.passing_s, least_s)
        (thresholds,) = best_thresholds([shorter], target)
        if thresholds is not None and (shorter_s := _mean_latency_s(shorter, thresholds)) < best_s:
            best, best_s = exits, shorter_s
    if best is None or best_s > most_s:
        return None
    return Proposal(configuration.variant.name, best, configuration.placement[0], 1 - best_s / full_s)


def _subsets(exits: int) -> Iterator[tuple[int, ...]]:
    """Yield the sets of exits that are tried: two or more, the last among them."""
    for size in range(2, exits) if exits <= MOST_EXITS else (exits - 1,):
        for early in itertools.combinations(range(exits - 1), size - 1):
            yield (*early, exits - 1)


def _is_kept_from(contender: Contender, parent: str) -> bool:
    origin = contender.configuration.variant.origin
    return origin is not None and (origin.how, origin.parent) == ("keep", parent)


def _is_static_of(contender: Contender, chain: Contender) -> bool:
    return contender.static is not None and contender.configuration is chain.configuration


def try_fewer_exits(
    session: Session,
    measured: Measurements,
    contenders: Sequence[Contender],
    choice: Choice,
    independence: Independence,
) -> tuple[Choice, Sequence[Contender]]:
    """Make the variant with fewer exits that is proposed for the first target, measure it like the others, and choose again.

    If it is not chosen, it is removed again. The session notes what was done, or the proposal if no variant may be made.

    Returns:
        The choice, and all contenders.
    """
    name, pick = next(iter(choice.picks.items()))
    proposal = propose_fewer_exits(pick, session.request.targets[name], choice.contenders)
    if proposal is None:
        return choice, contenders
    if session.request.keep is None or session.request.is_variant_named:
        session.notes.append(f"{proposal.words}. Try: {proposal.command}, then calibrate again")
        return choice, contenders
    before, is_best = session.request, False
    try:
        variant, more = _measure(session, measured, proposal)
        tabulated = tabulate(more, session.request, independence)
        again = choose(tabulated, more, session.request)
        is_best = again.chain.configuration.variant is variant
    except OfframpError as error:
        session.notes.append(f"{proposal.words}. Such a variant could not be made and measured: {error}")
        return choice, contenders
    finally:  # of an interrupt too: the same command then finds the bundle that it found first
        if not is_best and session.request is not before:
            remove_variant(before.bundle.path, session.request.bundle.manifest.variants[-1].name)
            session.request = before
    if is_best:
        session.notes.append(
            f"{proposal.words}. The variant {variant.name} was made and measured: it is the best chain."
        )
        return again, tabulated
    session.notes.append(
        f"{proposal.words}. It was made and measured, gains too little for sure, and was removed again."
    )
    return choice, contenders


def _measure(session: Session, measured: Measurements, proposal: Proposal) -> tuple[Variant, Measurements]:
    """Make the proposed variant in the bundle, and measure it; return it, and all measurements."""
    keep = session.request.keep
    assert keep is not None
    bundle = keep(session.request.bundle, proposal.exits, variant=proposal.parent)
    variant = bundle.manifest.variants[-1]
    # So the same command places it the next time.
    placed = place_variants(bundle.manifest.variants, session.request.devices)
    session.request = replace(session.request, bundle=bundle, placed=placed)
    configuration = measure_configuration(session, session.open(PlacedVariant(variant, proposal.device)))
    reference = replace(measured.reference, latency_s=configuration.reference_s)
    return variant, Measurements((*measured.configurations, configuration), reference)


def with_exits(
    chain: Contender, exits: Sequence[int], passing_s: Sequence[float], least_s: Sequence[float]
) -> Contender:
    """Return a chain as it is predicted to be with only some of its exits.

    Args:
        chain: the chain.
        exits: those it keeps.
        passing_s: the time that each exit but the last takes from samples that do not leave there.
        least_s: the latency of the static network that ends at each exit. No chain is faster.
    """
    columns, times, costs = list(exits), [], chain.selecting.costs
    for k in columns:
        saved_s = sum(max(0.0, passing_s[j]) for j in range(k) if j not in columns)
        most_s = max(0.0, float(costs.latency_s[k]) - least_s[k])
        times.append(costs.times_s[k] - min(saved_s, most_s))
    costs = replace(costs, times_s=tuple(times)).with_power_of(costs, columns)
    selecting, reporting = (table.columns(columns, costs) for table in (chain.selecting, chain.reporting))
    return replace(chain, selecting=selecting, reporting=reporting)


def _mean_latency_s(contender: Contender, thresholds: tuple[float, ...]) -> float:
    table = contender.selecting
    return mean_at(table.costs.latency_s, exits_taken(table.score, thresholds))
