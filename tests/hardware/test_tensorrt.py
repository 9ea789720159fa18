"""TensorRT on the GPU, and the DLA, that this machine has:

OFFRAMP_HARDWARE=1 python -m pytest -s tests/hardware/test_tensorrt.py

It builds small networks in three precisions, runs them beside the CPU, and prints the latency of leaving at each exit.
"""

import os

import numpy as np
import pytest

from offramp.errors import MissingError
from offramp.export import export, quantize
from offramp.runtime import build
from offramp.runtime.engines import name_device, tensorrt
from offramp.runtime.loading import load_uncalibrated

import networks
from dense import labels_of_clones


def find_places():
    if not os.environ.get("OFFRAMP_HARDWARE"):
        return []
    try:
        return [name_device("tensorrt", tensorrt, place) for place in tensorrt.list_places()]
    except MissingError as error:
        print(error)
        return []


def leave_at_each(net, samples):
    """Return the median latency of leaving at each exit, in microseconds."""
    medians, exits = [], len(net.exits)
    for k in range(exits):
        net.thresholds = [2.0] * k + [0.0] * (exits - 1 - k)
        medians.append(round(float(np.median([net(sample).latency_s for sample in [*samples, *samples]])) * 1e6, 1))
    return medians


PLACES = find_places()
SCORE_ERROR = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.1}
"""How far a score may be from the same variant's on the CPU."""

pytestmark = pytest.mark.skipif(not PLACES, reason="needs TensorRT and a GPU: OFFRAMP_HARDWARE=1 python -m pytest -s")


@pytest.fixture(scope="module", params=["plain", "multi-scale-dense", "depthwise-separable"])
def compressed(request, tmp_path_factory):
    entry = networks.ZOO[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    bundle = export(networks.build(entry), entry.draw(3, 0), folder / "net.offramp", **entry.options)
    return entry, quantize(quantize(bundle, entry.draw(64, 1), to="fp16"), entry.draw(64, 1), symmetric=True)


@pytest.mark.parametrize("place", PLACES)
def test_every_precision_says_what_the_cpu_says(compressed, place):
    entry, bundle = compressed
    x = entry.draw(200, 2)
    for variant in bundle.manifest.variants:
        if "dla" in place and variant.precision == "int8":
            continue  # a DLA takes no Q/DQ
        with (
            load_uncalibrated(bundle, place, variant=variant.name) as net,
            load_uncalibrated(bundle, "cpu", variant=variant.name) as cpu,
        ):
            ours, theirs = net.every_exit(x), cpu.every_exit(x)
            error = float(np.abs(ours.score - theirs.score).max())
            agreement = (ours.label == theirs.label).mean(0)
            print(
                f"\n{place} {variant.name}: {net.provenance.stages[0].runs_on}; score error {error:.1e}, labels {agreement}"
            )
            assert error <= (SCORE_ERROR["fp16"] if "dla" in place else SCORE_ERROR[variant.precision])
            assert (agreement >= 0.95).all()


@pytest.mark.parametrize("place", PLACES)
def test_what_was_built_is_loaded_again_and_clones_run_at_once(compressed, place):
    entry, bundle = compressed
    build(bundle, place)
    x = entry.draw(50, 3)[0]
    with load_uncalibrated(bundle, place) as net:
        assert {stage.built for stage in net.provenance.stages} == {"cache"}
        right = [net(sample).label for sample in x]
        assert labels_of_clones(net, x) == [right] * 3


@pytest.mark.parametrize("place", PLACES)
def test_latencies_beside_the_cpu(compressed, place):
    entry, bundle = compressed
    for variant in bundle.manifest.variants:
        if "dla" in place and variant.precision == "int8":
            continue
        for device in (place, "cpu"):
            with load_uncalibrated(bundle, device, variant=variant.name) as net:
                print(f"\n{device} {variant.name}: us per exit {leave_at_each(net, entry.draw(50, 4)[0])}")
