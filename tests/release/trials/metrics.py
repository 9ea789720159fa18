"""What a product with the extra `metrics` shows to Prometheus and to OpenTelemetry."""

import numpy as np
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

from offramp.runtime import Metrics, load

x = np.load("samples.npz")["x"]
with load("calibrated.offramp") as net, Metrics(net) as metrics:
    for sample in x[:10]:
        net(sample)
    registry = CollectorRegistry()
    registry.register(metrics.collector())
    assert b"offramp_answers_total" in generate_latest(registry)
    metrics.observe(MeterProvider().get_meter("offramp"))
