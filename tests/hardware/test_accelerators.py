"""Every GPU, DLA and NPU of this machine; all other tests run without one:

python -m pytest -s -m hardware tests/hardware/test_accelerators.py

Small networks in three precisions run on each device and on the CPU. The tests print what runs them, how far their scores are
apart, and the latency of leaving at each exit. A network that a device cannot run is skipped with the reason.
"""

import numpy as np
import pytest

from offramp.errors import MissingError, UsageError
from offramp.export import export, quantize
from offramp.runtime import build, load_uncalibrated
from offramp.runtime.engines import SIMULATOR, engines, name_device
from offramp.tests.helpers.selection import asks_for_hardware
from offramp.tests.zoo import networks
from offramp.tests.zoo.dense import labels_of_clones


def find_devices():
    """Return the devices of this machine that are no CPU."""
    devices = []
    for module, engine in engines().items():
        try:
            devices += [name_device(module, place) for place in engine.list_places()]
        except MissingError as error:
            print(error)
    return [name for name in devices if name.rpartition(":")[2].lower() != "cpu" and SIMULATOR not in name]


def load_or_skip(bundle, device, variant):
    try:
        return load_uncalibrated(bundle, device, variant=variant)
    except MissingError as error:  # the device cannot run the stage, or its builds come from another machine
        pytest.skip(str(error))


def leave_at_each(net, samples):
    """Return the median latency of leaving at each exit, in microseconds."""
    medians, exits = [], len(net.exits)
    for k in range(exits):
        net.thresholds = [2.0] * k + [0.0] * (exits - 1 - k)
        medians.append(round(float(np.median([net(sample).latency_s for sample in [*samples, *samples]])) * 1e6, 1))
    return medians


SCORE_ERROR = {"fp32": 1e-3, "fp16": 0.02, "int8": 0.1}
"""How far a score may be from the score of the same variant on the CPU."""

pytestmark = pytest.mark.hardware


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", find_devices() if asks_for_hardware(metafunc.config) else ())


@pytest.fixture(scope="module", params=["plain", "multi-scale-dense", "depthwise-separable"])
def compressed(request, tmp_path_factory):
    entry = networks.ZOO[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    bundle = export(networks.build(entry), entry.draw(3, 0), folder / "net.offramp", **entry.options)
    return entry, quantize(quantize(bundle, entry.draw(64, 1), to="fp16"), entry.draw(64, 1), symmetric=True)


@pytest.mark.parametrize("precision", SCORE_ERROR)
def test_every_precision_says_what_the_cpu_says(compressed, device, precision):
    entry, bundle = compressed
    x = entry.draw(200, 2)
    variant = next(variant.name for variant in bundle.manifest.variants if variant.precision == precision)
    with load_or_skip(bundle, device, variant) as net, load_uncalibrated(bundle, "cpu", variant=variant) as cpu:
        ours, theirs = net.every_exit(x), cpu.every_exit(x)
        error = float(np.abs(ours.score - theirs.score).max())
        agreement = (ours.label == theirs.label).mean(0)
        print(f"\n{device} {variant}: {net.provenance.stages[0].runs_on}; score error {error:.1e}, labels {agreement}")
        print(f"us per exit {leave_at_each(net, x[0][:50])}, on the CPU {leave_at_each(cpu, x[0][:50])}")
        half = any(stage.half for stage in net.provenance.stages)
    assert error <= max(SCORE_ERROR[precision], SCORE_ERROR["fp16"] * half)
    assert (agreement >= 0.95).all()


def test_what_was_built_is_loaded_again_and_clones_run_at_once(compressed, device):
    entry, bundle = compressed
    x = entry.draw(50, 3)[0]
    load_or_skip(bundle, device, "fp32").close()
    built = build(bundle, device)
    with load_uncalibrated(bundle, device) as net:
        assert not built or {stage.built for stage in net.provenance.stages} == {"cache"}
        right = [net(sample).label for sample in x]
        try:
            assert labels_of_clones(net, x) == [right] * 3
        except UsageError as error:
            pytest.skip(str(error))
