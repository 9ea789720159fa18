"""The sensors that this machine has, of which no other test sees one:

python -m pytest -s -m hardware tests/hardware/test_sensors.py

The machine should be at rest; the test loads its cores, and its graphics card if torch is there. It takes six minutes a meter.
"""

import time

import numpy as np
import pytest

from offramp.calibrate.measure.energy import measure_runs
from offramp.devices import differences, find_meters, fingerprint, identify
from offramp.devices.watch import Watch
from offramp.tests.helpers.selection import asks_for_hardware

pytestmark = pytest.mark.hardware


def pytest_generate_tests(metafunc):
    if "meter" in metafunc.fixturenames:
        meters = [meter for meter in find_meters().meters if meter.total] if asks_for_hardware(metafunc.config) else []
        metafunc.parametrize("meter", meters, ids=lambda meter: meter.name)


@pytest.fixture(autouse=True)
def no_nvml():
    """Here the tests see what is installed."""


def work_of(meter):
    """Return a function that loads what a meter measures with so many equal pieces of work, and waits for them."""
    if meter.name.startswith("nvml"):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("torch sees no graphics card to load")
        a = torch.randn(4096, 4096, device="cuda")

        def work(pieces):
            for _ in range(pieces):
                torch.mm(a, a)
            torch.cuda.synchronize()

        return work
    matrix = np.random.default_rng(0).standard_normal((600, 600))
    return lambda pieces: [matrix @ matrix for _ in range(pieces)]


def test_the_board_is_known_and_is_the_same_twice():
    board = identify()
    print(f"\n{board}")
    assert board.soc and board.memory_bytes > 0
    assert not differences(fingerprint(), fingerprint())


def test_load_shows_and_a_watch_agrees_with_a_window(meter):
    work = work_of(meter)
    work(20)
    time.sleep(5)
    with meter.window() as rest:
        time.sleep(10)
    watch = Watch(meter)
    watch.acquire()
    with meter.window(idle_s=6) as window:
        watch.reset()
        start = time.perf_counter()
        while time.perf_counter() - start < 10:
            work(20)
        power = watch.power()
    watch.release()
    print(f"\nat rest: {rest.energy}\nat work: {window.energy}\nwatched: {power.mean_w:.4g} W")
    assert 0 < rest.energy.mean_w < window.energy.mean_w
    assert window.energy.net_interval_j[0] > 0
    assert window.energy.gaps == 0
    assert power.problem is None
    assert abs(power.mean_w / window.energy.mean_w - 1) < 0.1


def test_twice_the_work_takes_twice_the_energy_beyond_rest(meter):
    work = work_of(meter)
    start = time.perf_counter()
    work(20)
    pieces = max(1, int(20 * 0.005 / (time.perf_counter() - start)))
    found = measure_runs([lambda: work(pieces), lambda: work(2 * pieces)], meter, window_s=6.0)
    once, twice = found.exits
    print(f"\n{found}")
    assert once.net_j > 0
    assert abs(twice.net_j / once.net_j / 2 - 1) < 0.1
    assert found.residual < 0.1
