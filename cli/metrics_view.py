"""What a product has counted, as text of 80 columns, and drawn anew while it runs."""

import sys
import textwrap
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..errors import quoted
from ..units import show_time
from .output import draws_on, print_text
from .schemas import encode_document

if TYPE_CHECKING:
    from ..runtime import ExitCounts, Snapshot

__all__ = ["describe_snapshot", "watch_snapshots"]

COLUMNS, BAR, NAME, INDENT = 80, 24, 12, 11
"""Columns of the text, of the longest bar, of the longest name of an exit, and before what a line goes on with."""

MOST_WORDS = 300
"""The most characters of what failed, or of the devices."""

RECENT_S = 60.0
"""Shares and latencies are those of so long."""

STALE = 3
"""A snapshot is stale after so many times the time between two."""

LEAST_STALE_S = 3.0

QUANTILES = (0.5, 0.9, 0.99, 0.999)


def watch_snapshots(snapshots: "Iterator[Snapshot]", every_s: float, as_json: bool) -> None:
    """Show snapshots until an interrupt: drawn anew if a person watches, else one after the other."""
    recent: deque[Snapshot] = deque()
    try:
        if as_json or not draws_on(sys.stdout):
            for snapshot in snapshots:
                text = encode_document(snapshot) if as_json else f"{_show_next(recent, snapshot, every_s)}\n"
                if not print_text(text):
                    return
            return
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(console=Console(file=sys.stdout), auto_refresh=False) as live:
            for snapshot in snapshots:
                live.update(Text(_show_next(recent, snapshot, every_s)), refresh=True)
    except KeyboardInterrupt:
        pass


def _show_next(recent: "deque[Snapshot]", snapshot: "Snapshot", every_s: float) -> str:
    """Return the text of a snapshot that follows others, and remember it."""
    if recent and recent[-1].started_s != snapshot.started_s:  # the product was started anew
        recent.clear()
    if not recent or recent[-1].at_s != snapshot.at_s:
        recent.append(snapshot)
    while recent[-1].at_s - recent[0].at_s > RECENT_S:
        recent.popleft()
    before = recent[0] if len(recent) > 1 else None
    return describe_snapshot(snapshot, before, now_s=time.time(), every_s=every_s)


def describe_snapshot(
    snapshot: "Snapshot", before: "Snapshot | None" = None, *, now_s: float, every_s: float = 0.0
) -> str:
    """Describe a snapshot.

    Args:
        snapshot: what was counted.
        before: shares and latencies are those since this one; None for those since the start.
        now_s: the Unix time.
        every_s: how often snapshots are looked for.
    """
    part = snapshot if before is None else snapshot.since(before)
    part_s = max(snapshot.at_s - part.started_s, 1e-9)
    lines = [*_head(snapshot, now_s, every_s), "", *_answers(snapshot, part, part_s), ""]
    span = "since the start" if before is None else f"of the last {_show_span(part_s)}"
    most = max([each.answers for each in part.exits], default=0)
    lines.append(f"{'exit':<{NAME + 4}}{'answers':>11}  share  calibrated  {span}")
    lines += [_exit_row(each, part.answers, most) for each in part.exits]
    latency = part.latency_s
    if latency.count:
        shown = (
            (share, float(f"{latency.quantile(share) or 0.0:.2g}")) for share in QUANTILES
        )  # bins tell no more digits
        quantiles = [
            f"p{100 * share:g} {'over ' * (value >= latency.edges[-1])}{show_time(value)}" for share, value in shown
        ]
        lines += ["", f"latency    {'  '.join(quantiles)}"]
    lines += _rest(snapshot, part, part_s)
    return "\n".join(part.rstrip() for line in lines for part in _wrap(line))


def _wrap(line: str) -> list[str]:
    """Break a line that is too long between words, so that its end is read, too."""
    return textwrap.wrap(line, COLUMNS, subsequent_indent=" " * INDENT) if len(line) > COLUMNS else [line]


def _head(snapshot: "Snapshot", now_s: float, every_s: float) -> Iterator[str]:
    age_s = max(0.0, now_s - snapshot.at_s)
    runs = f"{quoted(snapshot.name, 30)}: {quoted(snapshot.runs, 60)}"
    yield f"{runs} on {quoted(', '.join(dict.fromkeys(snapshot.devices)), MOST_WORDS)}"
    point = "no operating point" if snapshot.point is None else f"point {quoted(snapshot.point, 40)}"
    yield f"{point} of {len(snapshot.points)}, up {_show_span(snapshot.at_s - snapshot.started_s)}"
    if age_s > max(STALE * max(snapshot.every_s, every_s), LEAST_STALE_S):
        yield f"STALE: this is {_show_span(age_s)} old. The product has ended, hangs or cannot be reached."
    else:
        yield quoted(snapshot.health, MOST_WORDS)


def _answers(snapshot: "Snapshot", part: "Snapshot", part_s: float) -> Iterator[str]:
    latency = part.latency_s
    mean = f", mean latency {show_time(latency.sum / latency.count)}" if latency.count else ""
    yield f"answers    {snapshot.answers:,}, {part.answers / part_s:.1f} a second{mean}"
    if snapshot.cut or snapshot.late:
        yield f"deadlines  {snapshot.late:,} late, {snapshot.cut:,} cut"
    for name, kinds in (("errors", snapshot.errors), ("faults", snapshot.faults)):
        if kinds:
            yield f"{name:<11}{', '.join(f'{quoted(kind, 30)} {count:,}' for kind, count in kinds.items())}"
    if snapshot.away:
        yield f"away       {quoted(snapshot.away, MOST_WORDS)}"


def _exit_row(each: "ExitCounts", answers: int, most: int) -> str:
    share = each.answers / answers if answers else 0.0
    calibrated = "-" if each.calibrated_share is None else f"{each.calibrated_share:.1%}"
    bar = "█" * round(BAR * each.answers / most) if most else ""
    return f"{each.exit:<4}{quoted(each.name)[:NAME]:<{NAME}}{each.answers:>11,} {share:>6.1%}  {calibrated:>10}  {bar}"


def _rest(snapshot: "Snapshot", part: "Snapshot", part_s: float) -> Iterator[str]:
    """Yield a line for each thing that not every product has."""
    if (stream := snapshot.stream) is not None:
        yield (
            f"stream     {stream.came:,} came, {stream.dropped:,} dropped, {stream.hurried:,} hurried, "
            f"{stream.refused:,} refused, {stream.waiting} wait" + f", {stream.reused:,} reused" * bool(stream.reused)
        )
    if part.energy_j is not None:
        each = f", {1e3 * part.energy_j / part.answers:.3g} mJ an answer" if part.answers else ""
        yield f"energy     {snapshot.energy_j or 0:,.1f} J, {part.energy_j / part_s:.3g} W{each}"
    if snapshot.meter_problem:
        yield f"meter      {quoted(snapshot.meter_problem)}"
    if snapshot.temperature_c is not None:
        yield f"board      {snapshot.temperature_c:.0f} C"
    if snapshot.moves is not None:
        problem = f": {quoted(snapshot.governor_problem)}" if snapshot.governor_problem else ""
        yield f"governor   {snapshot.moves:,} moves{problem}"
    if snapshot.alarms is not None:
        alarms = (
            f"ALARM of {' and '.join(quoted(name, 30) for name in snapshot.alarms)}" if snapshot.alarms else "no alarm"
        )
        yield f"audit      {snapshot.audited or 0:,} audited, {snapshot.disagreeing or 0:g} disagree, {alarms}"


def _show_span(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
