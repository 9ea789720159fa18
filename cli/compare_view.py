"""Two bundles beside each other, as `offramp compare` prints them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..units import show_mj, show_share, show_thresholds, show_time, show_us, show_value
from .output import table

if TYPE_CHECKING:
    from ..bundle import Certificate
    from ..calibrate import BundleComparison, BundleSide, Compared

MOST_PROMISE = 60
"""A promise is cut after so many characters; `offramp inspect` shows all of it."""


def describe_comparison(found: "BundleComparison") -> str:
    """Describe what two bundles hold, what was measured of them, and what is surely different."""
    facts = [("", "A", "B"), *map(_mark, _list_facts(found.first, found.second))]
    facts += [_mark((f"  {field}", *values)) for field, values in found.board.items()]
    parts = [table(facts)]
    parts += [table([(each.name, "A", "B"), *map(_mark, _list_figures(each))]) for each in found.compared]
    words = [each.verdict for each in found.compared] or [found.verdict]
    return "\n\n".join([*parts, "\n".join([*words, *(f"note: {note}" for note in found.notes)])])


def _mark(row: tuple[str, str, str]) -> tuple[str, str, str]:
    """Write what both sides have in common once."""
    name, first, second = row
    return name, first, "same" if first == second and first != "-" else second


def _list_facts(first: "BundleSide", second: "BundleSide") -> Iterator[tuple[str, str, str]]:
    sides = first, second

    def row(name: str, *texts: str) -> tuple[str, str, str]:
        return (name, texts[0], texts[1])

    yield row("bundle", *(side.path for side in sides))
    yield row("network", *(f"{side.network}, {side.task}" for side in sides))
    yield row("input", *(side.inputs for side in sides))
    yield row("files", *(f"{side.bytes / 1e6:.2f} MB" for side in sides))
    for name in dict.fromkeys([*first.variants, *second.variants]):
        works = [side.variants.get(name) for side in sides]
        yield row(
            f"variant {name}",
            *(
                "-"
                if work is None
                else f"{work.precision}, {work.rule}, {len(work.exits)} exits, {work.bytes / 1e6:.2f} MB"
                for work in works
            ),
        )
        macs = ["-" if work is None else " ".join(f"{each / 1e6:.3g}" for each in work.stage_macs) for work in works]
        yield row("  Mmac of stages", *macs)
    for name in dict.fromkeys([*first.calibrations, *second.calibrations]):
        yield row(f"calibration {name}", *(side.calibrations.get(name, "-") for side in sides))
    yield row("compared", *(f"{side.calibration or 'no calibration'}, variant {side.variant}" for side in sides))
    if first.samples is not None or second.samples is not None:
        yield row(
            "samples",
            *("-" if side.samples is None else "{} choose, {} report".format(*side.samples) for side in sides),
        )
        yield row(
            "calls", *("back to back" if side.every_s is None else f"every {show_time(side.every_s)}" for side in sides)
        )
        yield row("meter", *(side.meter or "-" for side in sides))


def _list_figures(compared: "Compared") -> Iterator[tuple[str, str, str]]:
    def row(name: str, values: Sequence[object]) -> tuple[str, str, str]:
        return (name, str(values[0]), str(values[1]))

    yield row("  runs", compared.runs)
    if compared.targets is not None:
        yield row("  target", compared.targets)
    if any(compared.thresholds):
        yield row("  thresholds", [show_thresholds(each) or "-" for each in compared.thresholds])
    if any(compared.exit_shares):
        yield row(
            "  exit shares", [", ".join(f"{share:.1%}" for share in shares) or "-" for shares in compared.exit_shares]
        )
    is_loss = compared.counts == "losses"
    rights = [None if each is None else abs(is_loss - each) for each in compared.accuracy]
    yield row("  loss" if is_loss else "  accuracy", [_share(each) for each in rights])
    yield row("  drop", [_share(each) for each in compared.drop])
    yield row("  disagreement", [_share(each) for each in compared.disagreement])
    yield row("  mean latency", [show_us(each, 1) for each in compared.latency_s])
    if any(each is not None for each in compared.energy_j):
        yield row("  mean energy", ["-" if each is None else show_mj(each) for each in compared.energy_j])
    if compared.promises is not None:
        promised = zip(compared.certificates, compared.promises, strict=True)
        yield row("  promise", [_show_promise(*each) for each in promised])


def _share(share: float | None) -> str:
    return "-" if share is None else show_share(share)


def _show_promise(certificate: "Certificate | None", promise: str) -> str:
    """Write the limits that are promised, or the beginning of why none is."""
    if certificate is None:
        return promise if len(promise) <= MOST_PROMISE else f"{promise[:MOST_PROMISE].rstrip()} ..."
    limits = ", ".join(f"{name} {show_value(name, value)}" for name, value in certificate.limits.items())
    drawn = f"{certificate.samples} samples" if certificate.groups is None else f"{certificate.groups} groups"
    return f"{limits}: {100 * certificate.confidence:.3g}% confidence, {drawn}"
