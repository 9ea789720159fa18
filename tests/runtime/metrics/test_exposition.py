"""The same counts for Prometheus and OpenTelemetry, read by their own readers."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
from msgspec.structs import replace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from offramp.errors import BundleError, DataError, MissingError, UsageError
from offramp.runtime import Metrics, StreamStats, load_uncalibrated
from offramp.runtime.metrics.families import FAMILIES
from offramp.runtime.metrics.prometheus import make_collector, read_page

SAMPLES = Path(__file__).parents[3] / "samples"


@pytest.fixture(scope="module")
def snapshot(shared_dense, labelled):
    """A snapshot that has something of everything."""
    with load_uncalibrated(shared_dense) as net, Metrics(net, name='door "a"') as metrics:
        net.thresholds = (0.4, 0.6)
        for one in labelled[0][:60]:
            net(one)
        with pytest.raises(DataError):
            net(labelled[0][0] * np.nan)
        taken = metrics.snapshot()
    return replace(
        taken, point="eco", points=("eco", "accurate"), cut=3, late=2, faults={"hangs": 1}, away="a stage that failed",
        audited=40, disagreeing=1.5,
        stream=StreamStats(came=9, answered=4, hurried=1, reused=2, dropped=3, refused=1, waiting=1), alarms=("shares",),
        energy_j=12.5, meter_problem="", temperature_c=51.0, moves=4, governor_problem="hot",
        exits=tuple(replace(each, calibrated_share=0.25 * (1 + (each.exit == 2))) for each in taken.exits),
    )  # fmt: skip


def registry_of(*snapshots):
    registry = CollectorRegistry()
    registry.register(make_collector([lambda one=one: one for one in snapshots]))
    return registry


@pytest.fixture(scope="module")
def page(snapshot):
    return generate_latest(registry_of(snapshot)).decode()


def test_prometheus_own_parser_reads_every_metric_with_its_type_and_help(page, snapshot):
    read = {family.name: family for family in text_string_to_metric_families(page)}
    assert set(read) == {family.full_name.removesuffix("_total") for family in FAMILIES}
    for family in FAMILIES:
        seen = read[family.full_name.removesuffix("_total")]
        assert (seen.type, seen.documentation) == (family.kind, family.help)
        assert {sample.labels["net"] for sample in seen.samples} == {'door "a"'}
    answers = {sample.labels["exit"]: sample.value for sample in read["offramp_answers"].samples}
    assert answers == {str(each.exit): each.answers for each in snapshot.exits}
    below = [
        s.value
        for s in read["offramp_call_latency_seconds"].samples
        if s.labels.get("exit") == "0" and "le" in s.labels
    ]
    assert below == np.cumsum(snapshot.exits[0].latency_s.counts).tolist()


def test_openmetrics_strict_parser_takes_the_same_page(snapshot):
    read = {family.name: family for family in read_openmetrics(generate_openmetrics(registry_of(snapshot)).decode())}
    assert read["offramp_energy_joules"].unit == "joules" and read["offramp_call_latency_seconds"].unit == "seconds"


def test_names_are_as_prometheus_asks():
    for family in FAMILIES:
        assert re.fullmatch(r"offramp_[a-z]+(_[a-z]+)*", family.full_name)
        assert (family.full_name.endswith("_total")) == (family.kind == "counter")
        assert family.help.endswith(".")


def test_a_page_is_read_back_as_the_snapshot_that_it_shows(page, snapshot):
    back = read_page(page, "page")
    unknown = {"at_s": back.at_s, "every_s": 0.0, "last_error": "", "last_error_s": None}
    assert back == replace(snapshot, **unknown, governor_problem=back.governor_problem)
    assert back.governor_problem


def test_several_networks_share_a_page(snapshot):
    other = replace(snapshot, name="gate", cut=8)
    text = generate_latest(registry_of(snapshot, other)).decode()
    assert text.count("# HELP offramp_calls_cut_total") == 1
    assert read_page(text, "page").cut == 3 and read_page(text, "page", "gate").cut == 8
    server = 'offramp_serve_requests_total{code="200",model="digits"} 4\n'
    assert read_page(server + text, "page").cut == 3
    for wrong, net, words in (
        (text, "roof", f"the network roof, as Metrics.serve does. There are those of {snapshot.name}, gate."),
        ("", None, "a network, as Metrics.serve does"),
        (server, None, "a network, as Metrics.serve does.$"),
        ('offramp_answers_total{net="a"} 3\n', None, "a network, .* There are those of a"),
        ("<html>", None, "a network"),
    ):
        with pytest.raises(BundleError, match=f"page shows no metrics of {words}"):
            read_page(wrong, "page", net)
    torn = re.sub(r'.*le="2e-05".*\n', "", text, count=1)
    with pytest.raises(BundleError, match="do not fit together"):
        read_page(torn, "page")


def test_a_server_shows_them_until_the_metrics_are_closed(shared_dense, labelled):
    with load_uncalibrated(shared_dense) as net:
        with Metrics(net) as metrics:
            port = metrics.serve(0)
            net(labelled[0][0])
            text = urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20).read().decode()
            with pytest.raises(MissingError, match="Take another port"):
                metrics.serve(port)
            with pytest.raises(UsageError, match="different names"):
                metrics.collector(metrics)
        assert read_page(text, "page").answers == 1
        with pytest.raises(OSError):
            urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20)


def test_opentelemetry_reads_the_same_counts(shared_dense, labelled):
    reader = InMemoryMetricReader()
    with load_uncalibrated(shared_dense) as net, Metrics(net) as metrics:
        net.thresholds = (0.4, 0.6)
        metrics.observe(MeterProvider([reader]).get_meter("offramp"))
        [net(one) for one in labelled[0][:30]]
        data = reader.get_metrics_data()
        snapshot = metrics.snapshot()
    (scope,) = data.resource_metrics[0].scope_metrics
    read = {metric.name: metric for metric in scope.metrics}
    points = {point.attributes["exit"]: point.value for point in read["offramp.answers"].data.data_points}
    assert points == {str(each.exit): each.answers for each in snapshot.exits}
    buckets = read["offramp.call_latency_bucket"].data.data_points
    assert sum(p.value for p in buckets if p.attributes["le"] == "+Inf") == 30
    assert read["offramp.call_latency_sum"].unit == "s" and read["offramp.score_sum"].unit == "1"
    assert read["offramp.answers"].data.is_monotonic and read["offramp.start_time"].unit == "s"


@pytest.mark.parametrize("package", ["prometheus_client", "opentelemetry"])
def test_a_missing_extra_is_named_with_its_install_line(shared_dense, package, monkeypatch):
    homes = {str(Path(folder).parent) for folder in importlib.util.find_spec(package).submodule_search_locations}
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in homes])
    with load_uncalibrated(shared_dense) as net, Metrics(net) as metrics:
        with pytest.raises(MissingError, match=r"pip install 'offramp\[metrics\]'"):
            metrics.collector() if package == "prometheus_client" else metrics.observe(None)
        assert metrics.snapshot().answers == 0


def test_the_dashboard_asks_for_metrics_that_there_are():
    dashboard = json.loads((SAMPLES / "grafana/dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    queries.append(dashboard["templating"]["list"][-1]["query"])
    known = {family.full_name for family in FAMILIES}
    known |= {
        f"{f.full_name}_{ending}" for f in FAMILIES if f.kind == "histogram" for ending in ("bucket", "sum", "count")
    }
    asked = {name for query in queries for name in re.findall(r"\bofframp_\w+", query)}
    assert len(queries) > 12 and asked <= known
    labels = {label for family in FAMILIES for label in family.labels} | {"net", "le", "job", "instance"}
    for query in queries:
        assert query.count("(") == query.count(")")
        used = re.findall(r"(\w+)(?:=~?|!=)\"", query) + re.findall(
            r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", query))
        )
        assert set(used) <= labels, query
        assert all(
            re.search(rf"rate\({name}\b|increase\({name}\b", query) for name in re.findall(r"\w+_total", query)
        ), query
