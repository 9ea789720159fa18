"""Metrics as Prometheus reads them, and read back from a product's page."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from time import time
from typing import TYPE_CHECKING, Any

import msgspec

from ...errors import BundleError, MissingError, quoted, require
from .families import FAMILIES, PREFIX, MetricFamily
from .snapshot import Histogram, Snapshot, check_counts

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.registry import Collector

__all__ = ["make_collector", "read_page", "start_server"]

Labels = tuple[tuple[str, str], ...]

Page = dict[str, dict[Labels, float]]
"""The values of a page by name and labels."""


def make_collector(takes: Sequence[Callable[[], Snapshot]]) -> "Collector":
    """Return a collector that takes and shows snapshots, one of each network, whenever it is asked.

    Raises:
        MissingError: prometheus-client is not installed.
    """
    require("prometheus_client", extra="metrics")
    from prometheus_client.registry import Collector

    class SnapshotCollector(Collector):
        def collect(self) -> "Iterator[Metric]":
            snapshots = [take() for take in takes]
            return (_show(family, snapshots) for family in FAMILIES)

    return SnapshotCollector()


def _show(family: MetricFamily, snapshots: Sequence[Snapshot]) -> "Metric":
    from prometheus_client import core

    maker = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }[family.kind]
    shown: Any = maker(family.full_name, family.help, labels=("net", *family.labels), unit=family.unit)
    for name, labels, value in ((s.name, *pair) for s in snapshots for pair in family.read(s)):
        if isinstance(value, Histogram):
            buckets = list(zip((*map(str, value.edges), "+Inf"), accumulate(value.counts), strict=True))
            shown.add_metric((name, *labels), buckets, value.sum)
        else:
            shown.add_metric((name, *labels), float(value))
    return shown  # type: ignore[no-any-return]


def start_server(collector: "Collector", port: int, address: str) -> tuple[int, Callable[[], None]]:
    """Show a collector by HTTP. Return the port, and what ends it.

    Raises:
        MissingError: the port cannot be taken.
    """
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, address, registry)
    except (OSError, OverflowError) as error:
        raise MissingError(f"Cannot serve metrics at {address}:{port}: {error}. Take another port.") from error

    def end() -> None:
        server.shutdown()
        server.server_close()
        thread.join(1.0)

    return int(server.server_port), end


def read_page(text: str, name: str, net: str | None = None) -> Snapshot:
    """Read a snapshot back from a page. What a page has not stays unknown: errors in words, when the product wrote it.

    Args:
        text: the page.
        name: of the page, for errors.
        net: the network's name in metrics; None takes the first.

    Raises:
        MissingError: prometheus-client is not installed.
        BundleError: the page has no metrics of offramp, or they do not fit together.
    """
    parser = require("prometheus_client.parser", extra="metrics")
    pages: dict[str, Page] = {}
    try:
        for family in parser.text_string_to_metric_families(text):
            for sample in family.samples:
                labels = dict(sample.labels)
                if sample.name.startswith(PREFIX) and "net" in labels:  # else it is of the server that shows them
                    page = pages.setdefault(labels.pop("net"), defaultdict(dict))
                    page[sample.name[len(PREFIX) :]][tuple(sorted(labels.items()))] = float(sample.value)
        page = next(iter(pages.values())) if net is None else pages[net]
        snapshot = msgspec.convert(_collect(page, net or next(iter(pages))), Snapshot)
    except (ValueError, KeyError, StopIteration, OverflowError, msgspec.MsgspecError) as error:
        which = f"the network {quoted(net)}" if net else "a network"
        others = f" There are those of {quoted(', '.join(pages))}." if pages else ""
        raise BundleError(f"{name} shows no metrics of {which}, as Metrics.serve does.{others}") from error
    check_counts(snapshot.exits, name)
    return snapshot


def _collect(page: Page, name: str) -> dict[str, Any]:
    """Return the fields of a snapshot."""

    def one(metric: str) -> float | None:
        return page[metric].get(())

    def by(label: str, metric: str) -> dict[str, float]:
        return {dict(labels)[label]: value for labels, value in page[metric].items()}

    ((info, _),) = page["network_info"].items()
    outcomes, waiting = by("outcome", "stream_inputs_total"), one("stream_waiting")
    points, alarms, up = by("point", "operating_point"), by("alarm", "audit_alarm"), one("meter_up")
    beyond, away = one("governor_beyond_limit"), one("stage_away")
    return {
        "at_s": time(),
        "started_s": page["start_time_seconds"][()],
        "name": name,
        "runs": dict(info)["runs"],
        "devices": dict(info)["devices"].split(","),
        "point": next((point for point, used in points.items() if used), None),
        "points": list(points),
        "exits": _exits(page),
        "cut": int(page["calls_cut_total"][()]),
        "late": int(page["calls_late_total"][()]),
        "errors": {kind: int(count) for kind, count in by("kind", "errors_total").items()},
        "faults": {kind: int(count) for kind, count in by("kind", "faults_total").items()},
        "away": None if away is None else "a stage that failed" if away else "",
        "last_answer_s": one("last_answer_timestamp_seconds"),
        "stream": None if waiting is None else _stream(page, outcomes, waiting),
        "audited": _whole(one("audited_total")),
        "disagreeing": one("disagreeing_total"),
        "alarms": [alarm for alarm, raised in alarms.items() if raised] if alarms else None,
        "energy_j": one("energy_joules_total"),
        "meter_problem": None if up is None else "" if up else "it reads nothing",
        "temperature_c": one("temperature_celsius"),
        "moves": _whole(one("governor_moves_total")),
        "governor_problem": None if beyond is None else "a limit is exceeded" if beyond else "",
    }


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _stream(page: Page, outcomes: dict[str, float], waiting: float) -> dict[str, int]:
    counts = {name: int(outcomes[name]) for name in ("answered", "dropped", "refused")}
    came = sum(counts.values()) + int(waiting)
    other = {name: int(page[f"stream_{name}_total"].get((), 0)) for name in ("hurried", "reused")}
    return counts | other | {"came": came, "waiting": int(waiting)}


def _exits(page: Page) -> list[dict[str, Any]]:
    titles = {dict(labels)["exit"]: dict(labels)["title"] for labels in page["exit_info"]}
    exits = []
    for k, title in titles.items():
        key = (("exit", k),)
        exits.append(
            {
                "exit": int(k),
                "name": title,
                "answers": int(page["answers_total"][key]),
                "calibrated_share": page["calibrated_share_ratio"].get(key),
                "latency_s": _histogram(page, "call_latency_seconds", k),
                "score": _histogram(page, "score", k),
            }
        )
    return exits


def _histogram(page: Page, metric: str, k: str) -> dict[str, Any]:
    places = [(dict(labels), value) for labels, value in page[f"{metric}_bucket"].items()]
    ends = sorted((float(labels["le"]), int(value)) for labels, value in places if labels["exit"] == k)
    below = [0, *(count for _, count in ends)]
    return {
        "edges": [edge for edge, _ in ends[:-1]],
        "counts": [b - a for a, b in pairwise(below)],
        "sum": page[f"{metric}_sum"][("exit", k),],
    }
