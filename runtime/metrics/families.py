"""The metrics by name: what each means, its unit and labels, and where its values stand in a snapshot."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

from ... import __version__
from .snapshot import Histogram, Snapshot

__all__ = ["FAMILIES", "PREFIX", "MetricFamily", "Value"]

PREFIX = "offramp_"

ALARMS = ("disagreement", "shares", "scores")

Value = tuple[tuple[str, ...], float | Histogram]
"""The values of a family's labels, and the value that they have."""


class MetricFamily(NamedTuple):
    """Metrics of one name.

    Attributes:
        name: without prefix, unit and `total`.
        kind: a counter only rises.
        help: what it is.
        read: returns the values; none where a product has no such thing.
        labels: their names.
        unit: `seconds`, `joules`, `celsius` or `ratio`, or empty.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    read: Callable[[Snapshot], Iterable[Value]]
    labels: tuple[str, ...] = ()
    unit: str = ""

    @property
    def full_name(self) -> str:
        """The name of Prometheus."""
        return f"{PREFIX}{self.name}{'_' if self.unit else ''}{self.unit}{'_total' if self.kind == 'counter' else ''}"


def _one(read: Callable[[Snapshot], Any]) -> Callable[[Snapshot], Iterable[Value]]:
    """Return what reads a single value, which may be None."""

    def values(snapshot: Snapshot) -> Iterable[Value]:
        value = read(snapshot)
        return () if value is None else (((), value),)

    return values


def _by_exit(read: Callable[[Any], Any]) -> Callable[[Snapshot], Iterable[Value]]:
    def values(snapshot: Snapshot) -> Iterable[Value]:
        pairs = ((str(exit_.exit), read(exit_)) for exit_ in snapshot.exits)
        return [((k,), value) for k, value in pairs if value is not None]

    return values


def _by_kind(read: Callable[[Snapshot], dict[str, int] | None]) -> Callable[[Snapshot], Iterable[Value]]:
    return lambda snapshot: [((kind,), count) for kind, count in (read(snapshot) or {}).items()]


def _stream(name: str) -> Callable[[Snapshot], Iterable[Value]]:
    return _one(lambda s: None if s.stream is None else getattr(s.stream, name))


def _outcomes(s: Snapshot) -> dict[str, int] | None:
    return None if s.stream is None else {name: getattr(s.stream, name) for name in ("answered", "dropped", "refused")}


FAMILIES = (
    MetricFamily(
        "network_info", "gauge", "What runs: 1, the words in the labels.",
        lambda s: [((s.runs, ",".join(s.devices), __version__), 1)], ("runs", "devices", "version"),
    ),
    MetricFamily("start_time", "gauge", "Unix time at which counting began.", _one(lambda s: s.started_s), unit="seconds"),
    MetricFamily(
        "exit_info", "gauge", "The names of the exits: 1, the name in the label.",
        lambda s: [((str(each.exit), each.name), 1) for each in s.exits], ("exit", "title"),
    ),
    MetricFamily(
        "answers", "counter", "Inputs answered, by the exit where they left; those of batches too.",
        _by_exit(lambda each: each.answers), ("exit",),
    ),
    MetricFamily(
        "calibrated_share", "gauge", "Share of inputs that left at the exit when the operating point was calibrated.",
        _by_exit(lambda each: each.calibrated_share), ("exit",), "ratio",
    ),
    MetricFamily(
        "call_latency", "histogram", "Time from call to answer of calls with one input, by the exit where it left.",
        _by_exit(lambda each: each.latency_s), ("exit",), "seconds",
    ),
    MetricFamily(
        "score", "histogram", "Score of the exit that answered, from 0 to 1.",
        _by_exit(lambda each: each.score), ("exit",),
    ),
    MetricFamily("calls_cut", "counter", "Calls that left early because of their deadline.", _one(lambda s: s.cut)),
    MetricFamily("calls_late", "counter", "Calls that answered after their deadline.", _one(lambda s: s.late)),
    MetricFamily(
        "errors", "counter", "Calls that raised an error, by its class.", _by_kind(lambda s: s.errors), ("kind",)
    ),
    MetricFamily(
        "faults", "counter", "What failed, by kind; `marked` counts answers, `returns` how often it ran again.",
        _by_kind(lambda s: s.faults), ("kind",),
    ),
    MetricFamily(
        "stage_away", "gauge", "1 while a stage that failed has not run again, else 0.",
        _one(lambda s: None if s.away is None else bool(s.away)),
    ),
    MetricFamily(
        "last_answer_timestamp", "gauge", "Unix time of the last answer.", _one(lambda s: s.last_answer_s), unit="seconds"
    ),
    MetricFamily(
        "stream_inputs", "counter", "Inputs of the stream that are done with, by what became of them.",
        _by_kind(_outcomes), ("outcome",),
    ),
    MetricFamily(
        "stream_hurried", "counter", "Inputs that left at the first exit because too many waited.", _stream("hurried")
    ),
    MetricFamily("stream_reused", "counter", "Inputs that got the last answer again.", _stream("reused")),
    MetricFamily("stream_waiting", "gauge", "Inputs that wait, or are being answered.", _stream("waiting")),
    MetricFamily("audited", "counter", "Inputs that the audit has compared with the last exit.", _one(lambda s: s.audited)),
    MetricFamily(
        "disagreeing", "counter", "Audited inputs that disagreed with the last exit.", _one(lambda s: s.disagreeing)
    ),
    MetricFamily(
        "audit_alarm", "gauge", "1 if the audit has raised the alarm, else 0.",
        lambda s: () if s.alarms is None else [((name,), name in s.alarms) for name in ALARMS], ("alarm",),
    ),
    MetricFamily("energy", "counter", "Energy that the whole board has taken.", _one(lambda s: s.energy_j), unit="joules"),
    MetricFamily(
        "meter_up", "gauge", "1 if the power meter reads, else 0.",
        _one(lambda s: None if s.meter_problem is None else not s.meter_problem),
    ),
    MetricFamily(
        "temperature", "gauge", "Temperature of the board's hottest zone.", _one(lambda s: s.temperature_c), unit="celsius"
    ),
    MetricFamily(
        "operating_point", "gauge", "1 for the operating point in use, 0 for the others.",
        lambda s: [((name,), name == s.point) for name in s.points], ("point",),
    ),
    MetricFamily("governor_moves", "counter", "Changes of the operating point by the governor.", _one(lambda s: s.moves)),
    MetricFamily(
        "governor_beyond_limit", "gauge", "1 if a limit is exceeded and there is no cheaper point to turn to, else 0.",
        _one(lambda s: None if s.governor_problem is None else bool(s.governor_problem)),
    ),
)  # fmt: skip
