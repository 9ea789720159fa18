"""Metrics as OpenTelemetry reads them: instruments that are read when the product's exporter asks.

It has no histogram that is read so. A histogram is shown as two counters: how many values are at most `le`, and their sum.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from time import monotonic
from typing import TYPE_CHECKING, Any

from ...errors import require
from .families import FAMILIES, MetricFamily
from .snapshot import Histogram, Snapshot

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter, Observation

__all__ = ["make_instruments"]

UNITS = {"seconds": "s", "joules": "J", "celsius": "Cel", "ratio": "1", "": "1"}

SAME_S = 0.01
"""The instruments are read one after the other, and share a snapshot that is younger than this."""

Read = Callable[[Snapshot], Iterable[tuple[dict[str, str], float]]]


def make_instruments(meter: "Meter", take: Callable[[], Snapshot]) -> None:
    """Make an instrument for each metric.

    Raises:
        MissingError: OpenTelemetry is not installed.
    """
    observation = require("opentelemetry.metrics", extra="metrics").Observation

    taken: list[tuple[float, Snapshot]] = []

    def observe(read: Read) -> "Callable[[Any], Iterator[Observation]]":
        def observations(_: Any) -> "Iterator[Observation]":
            if not taken or monotonic() - taken[0][0] > SAME_S:
                taken[:] = [(monotonic(), take())]
            snapshot = taken[0][1]
            for labels, value in read(snapshot):
                yield observation(value, {"net": snapshot.name, **labels})

        return observations

    for family in FAMILIES:
        make = meter.create_observable_gauge if family.kind == "gauge" else meter.create_observable_counter
        for ending, read, unit in _parts(family):
            make(f"offramp.{family.name}{ending}", [observe(read)], UNITS[unit], family.help)


def _parts(family: MetricFamily) -> list[tuple[str, Read, str]]:
    """Return the instruments of a family: the ending of the name, what reads the values, and the unit."""

    def plain(snapshot: Snapshot) -> Iterator[tuple[dict[str, str], float]]:
        for labels, value in family.read(snapshot):
            yield dict(zip(family.labels, labels, strict=True)), value.sum if isinstance(value, Histogram) else value

    def buckets(snapshot: Snapshot) -> Iterator[tuple[dict[str, str], float]]:
        for labels, value in family.read(snapshot):
            assert isinstance(value, Histogram)
            for edge, count in zip((*value.edges, "+Inf"), accumulate(value.counts), strict=True):
                yield {**dict(zip(family.labels, labels, strict=True)), "le": f"{edge}"}, count

    if family.kind != "histogram":
        return [("", plain, family.unit)]
    return [("_bucket", buckets, ""), ("_sum", plain, family.unit)]
