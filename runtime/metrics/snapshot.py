"""What a product has counted at one moment, as one record that can be written, read and subtracted."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from ...errors import BundleError, UsageError
from ...files import os_errors_explained, read_file
from ...units import show_time
from ..replies import StreamStats

SCHEMA = 1

MOST_BYTES = 4 << 20
"""A longer file or page is no snapshot."""

UnixTime = Annotated[float, Meta(ge=0, le=253402300799)]
"""Seconds since 1970, up to the last year that a date can show."""

Count = Annotated[int, Meta(ge=0, le=2**62)]


class Histogram(Struct, frozen=True):
    """How values are spread.

    Attributes:
        edges: the upper ends of the bins; a value that is one of them lies in the bin that ends there.
        counts: how many values lie in each bin, and at last those above all edges.
        sum: of the values.

    Example:
        >>> from offramp.runtime import Histogram
        >>> Histogram(edges=(0.1, 0.2), counts=(1, 2, 0), sum=0.4).quantile(0.5)
        0.125
    """

    edges: tuple[float, ...]
    counts: tuple[Count, ...]
    sum: float

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Return the value below which a share of the values lies, as if they were spread evenly within a bin.

        It is None if there are no values, and the last edge if it lies above that.
        """
        left = share * self.count
        for low, high, count in zip((0.0, *self.edges), self.edges, self.counts, strict=False):
            if count and count >= left:
                return low + (high - low) * left / count
            left -= count
        return self.edges[-1] if self.count and self.edges else None


class ExitCounts(Struct, frozen=True, kw_only=True):
    """What was counted at one exit.

    Attributes:
        exit: its number, as in `Result.exit`.
        name: its name.
        answers: how many inputs left there, those of batches and of `anytime` too.
        calibrated_share: the share of inputs that left there in the calibration of the point in use; None if it is unknown.
        latency_s: of calls with one input.
        score: of all answers.

    Example:
        >>> from offramp.runtime import Metrics, load_uncalibrated
        >>> with load_uncalibrated("digits.offramp") as net, Metrics(net) as metrics:
        ...     [exit_.answers for exit_ in metrics.snapshot().exits]
        [0, 0, 0]
    """

    exit: int
    name: str
    answers: Count
    calibrated_share: float | None
    latency_s: Histogram
    score: Histogram


class Snapshot(Struct, frozen=True, kw_only=True):
    """What a product has counted since its `Metrics` began.

    Attributes:
        at_s, started_s: Unix times of the snapshot, and of the start.
        every_s: the time between two snapshots that are written, about; 0 if none are.
        name, runs: the network's name in metrics, and what runs, in words.
        devices: of its stages.
        point, points: the operating point in use, and all; None and empty without a calibration.
        exits: the exits that can be taken, first to last.
        cut, late: calls that left early because of their deadline, and calls that missed it.
        errors: calls that raised an error, by its class.
        faults: what failed, as `stats().faults` counts it.
        away: what failed and has not run since; empty if nothing has, None without `on_fault`.
        last_answer_s, last_error_s: Unix times; None if there was none.
        last_error: the last error in words.
        stream: what became of the inputs of the stream.
        audited, disagreeing, alarms: of the audit; None if there is none.
        energy_j: what the board has taken; None without a meter.
        meter_problem: why the meter reads nothing; empty if it does, None without a meter.
        temperature_c: of the board's hottest zone.
        moves, governor_problem: how often the governor has moved, and its `problem`; None without one.

    Example:
        >>> import numpy as np
        >>> from offramp.runtime import Metrics, load_uncalibrated
        >>> with load_uncalibrated("digits.offramp") as net, Metrics(net) as metrics:
        ...     result = net(np.load("test.npz")["x"][0])
        ...     metrics.snapshot().answers
        1
    """

    schema: int = SCHEMA
    at_s: UnixTime
    started_s: UnixTime
    every_s: float = 0.0
    name: str = "net"
    runs: str = ""
    devices: tuple[str, ...] = ()
    point: str | None = None
    points: tuple[str, ...] = ()
    exits: tuple[ExitCounts, ...] = ()
    cut: Count = 0
    late: Count = 0
    errors: dict[str, Count] = {}
    faults: dict[str, Count] = {}
    away: str | None = None
    last_answer_s: UnixTime | None = None
    last_error_s: UnixTime | None = None
    last_error: str = ""
    stream: StreamStats | None = None
    audited: int | None = None
    disagreeing: float | None = None
    alarms: tuple[str, ...] | None = None
    energy_j: float | None = None
    meter_problem: str | None = None
    temperature_c: float | None = None
    moves: int | None = None
    governor_problem: str | None = None

    @property
    def answers(self) -> int:
        """How many inputs were answered."""
        return sum(exit_.answers for exit_ in self.exits)

    @property
    def latency_s(self) -> Histogram:
        """The latencies of calls with one input, of all exits together."""
        rows = [exit_.latency_s for exit_ in self.exits]
        counts = tuple(map(sum, zip(*(row.counts for row in rows), strict=True)))
        return Histogram(rows[0].edges if rows else (), counts, sum(row.sum for row in rows))

    @property
    def health(self) -> str:
        """Whether the network answers, in words that begin with `ok`, `failing`, `silent` or `waiting`.

        It is failing if the last call raised an error, silent if no call ended since the snapshot before this, and waiting
        before the first.
        """
        last_s = max(self.last_answer_s or 0.0, self.last_error_s or 0.0)
        if self.last_error_s is not None and self.last_error_s > (self.last_answer_s or 0.0):
            return f"failing: the last call raised {self.last_error}"
        if not last_s:
            return "waiting: no call has ended yet"
        if self.every_s and self.at_s - last_s > 2 * self.every_s:  # two looks are at most half as far apart again
            return f"silent: no call has ended for {show_time(self.at_s - last_s)}"
        last = datetime.fromtimestamp(last_s, timezone.utc).isoformat(timespec="seconds")
        return f"ok: {self.answers} answers, the last at {last}"

    def since(self, before: "Snapshot") -> "Snapshot":
        """Return what was counted since an earlier snapshot; of another process, or an earlier start, all that this one has."""
        if (before.started_s, before.name, len(before.exits)) != (self.started_s, self.name, len(self.exits)):
            return self
        return replace(
            self,
            started_s=before.at_s,
            exits=tuple(_exit_since(now, then) for now, then in zip(self.exits, before.exits, strict=True)),
            cut=self.cut - before.cut,
            late=self.late - before.late,
            errors=_kinds_since(self.errors, before.errors),
            faults=_kinds_since(self.faults, before.faults),
            energy_j=None if self.energy_j is None else self.energy_j - (before.energy_j or 0.0),
        )


def _exit_since(now: ExitCounts, then: ExitCounts) -> ExitCounts:
    return replace(
        now,
        answers=now.answers - then.answers,
        latency_s=_histogram_since(now.latency_s, then.latency_s),
        score=_histogram_since(now.score, then.score),
    )


def _histogram_since(now: Histogram, then: Histogram) -> Histogram:
    counts = tuple(a - b for a, b in zip(now.counts, then.counts, strict=False))
    return Histogram(now.edges, counts, now.sum - then.sum)


def _kinds_since(now: Mapping[str, int], then: Mapping[str, int]) -> dict[str, int]:
    return {kind: n for kind, count in now.items() if (n := count - then.get(kind, 0))}


def read_snapshot(path: str | os.PathLike[str]) -> Snapshot:
    """Read a snapshot that a product writes: `Metrics(net, file=...)`.

    Raises:
        UsageError: nothing is at `path`.
        MissingError: it cannot be read.
        BundleError: it is no snapshot.

    Example:
        >>> from offramp.runtime import Metrics, load_uncalibrated, read_snapshot
        >>> with load_uncalibrated("digits.offramp") as net, Metrics(net, file="metrics.json"):
        ...     read_snapshot("metrics.json").runs
        'the chain of fp32'
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(
            f"There is no file {path}. A product writes it with Metrics(net, file=...); addresses begin with http://.",
            path=path,
        )
    with os_errors_explained(path, "read"):
        content = read_file(path, most=MOST_BYTES)
    try:
        snapshot = msgspec.json.decode(content, type=Snapshot)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{path} is no snapshot of metrics: {error}", path=path) from error
    if snapshot.schema != SCHEMA:
        raise BundleError(
            f"{path} has schema {snapshot.schema} of metrics, and this version reads {SCHEMA}.", path=path
        )
    check_counts(snapshot.exits, str(path))
    return snapshot


def check_counts(exits: Sequence[ExitCounts], name: str) -> None:
    """Check that histograms have edges, and the counts that these ask for, and all exits the same edges.

    Raises:
        BundleError: they do not.
    """
    for kind in ("latency_s", "score"):
        histograms: list[Histogram] = [getattr(exit_, kind) for exit_ in exits]
        if any(not h.edges or len(h.counts) != len(h.edges) + 1 or h.edges != histograms[0].edges for h in histograms):
            raise BundleError(f"{name} is no snapshot of metrics: bins and counts do not fit together.")
