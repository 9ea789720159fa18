import threading
import time
import weakref

import numpy as np
import pytest

from offramp.devices import Fault, Meter, Probe, Rail, SimulatedBoard, meters
from offramp.errors import MeterWarning, UsageError
from offramp.runtime import load, load_uncalibrated


def steady(watts=7.0):
    rail = Rail(name="supply", role="total", covers="the supply")
    values = iter(range(10**9))
    return Meter(
        "bench", [Probe((rail,), lambda: (watts + next(values) % 3 * 0.01,))], scope="the supply", grade="external"
    )


def test_exits_and_latencies_are_counted(calibrated, labelled):
    x = labelled[0]
    with load(calibrated) as net:
        assert net.stats().inferences == 0 and net.stats().latency_s == {}
        taken = [net(sample).exit for sample in x[:100]]
        stats = net.stats()
        assert stats.exit_counts == tuple(np.bincount(taken, minlength=len(net.exits)).tolist())
        assert stats.exit_shares == pytest.approx(np.bincount(taken, minlength=len(net.exits)) / 100)
        low, *percentiles, most = (stats.latency_s[k] for k in ("p50", "p90", "p99", "p99.9", "most"))
        assert 0 < low <= percentiles[0] <= percentiles[1] <= percentiles[2] <= most
        both = np.bincount(taken, minlength=len(net.exits)) + np.bincount(net.batch(x).exit, minlength=len(net.exits))
        assert net.stats().exit_counts == tuple(both.tolist()) and net.stats().inferences == 900
        assert net.stats().power is None and net.stats().energy_per_inference_j is None
        assert (
            list(net._tally.recent_exits) == taken
        )  # by these, not by the batch's, calls are compared with the calibration


def test_a_call_that_fails_is_not_counted(calibrated):
    with load(calibrated) as net:
        with pytest.raises(Exception, match="holds NaN"):
            net(np.full(16, np.nan, np.float32))
        assert net.stats().inferences == 0


def test_joules_per_inference_come_from_the_meter_with_its_grade(calibrated, labelled):
    with load(calibrated, meter=steady()) as net:
        for sample in labelled[0][:20]:
            net(sample)
            time.sleep(0.05)
        stats = net.stats()
    assert stats.power.grade == "external" and stats.power.scope == "the supply"
    assert stats.power.mean_w == pytest.approx(7.01, abs=0.02)
    time_s = stats.power.seen_s + stats.power.unseen_s
    assert stats.energy_per_inference_j == pytest.approx(7.01 * time_s / stats.inferences, rel=0.01)


def test_clones_share_the_board_and_so_its_joules(calibrated, labelled):
    with load(calibrated, meter=steady()) as net:
        other = net.clone()
        for sample in labelled[0][:50]:
            net(sample)
            other(sample)
        time.sleep(0.8)
        first, second = net.stats(), other.stats()
        assert first.inferences == second.inferences == 50
        assert first.energy_per_inference_j == pytest.approx(7.01 * first.power.seen_s / 100, rel=0.01)
        net.close()
        assert any(thread.name == "offramp-meter" for thread in threading.enumerate())
        other(labelled[0][0])
        other.close()
    assert all(thread.name != "offramp-meter" for thread in threading.enumerate())


def test_clones_that_are_forgotten_leave_their_part_of_the_joules_and_no_memory(calibrated, labelled):
    with load(calibrated, meter=steady()) as net:
        forgotten = []
        for sample in labelled[0][:50]:
            clone = net.clone()
            clone(sample)
            forgotten.append(weakref.ref(clone._tally))
            del clone
        net(labelled[0][0])
        time.sleep(0.8)
        stats = net.stats()
        assert stats.energy_per_inference_j == pytest.approx(7.01 * stats.power.seen_s / 51, rel=0.01)
        assert not any(reference() for reference in forgotten)
        net.stats(reset=True)
        net(labelled[0][0])
        time.sleep(0.8)
        stats = net.stats()
        assert stats.energy_per_inference_j == pytest.approx(7.01 * stats.power.seen_s, rel=0.01)


def test_a_network_that_is_forgotten_stops_reading(calibrated):
    net = load(calibrated, meter=steady())
    assert any(thread.name == "offramp-meter" for thread in threading.enumerate())
    del net
    assert all(thread.name != "offramp-meter" for thread in threading.enumerate())


def test_reset_counts_anew(calibrated, labelled):
    with load(calibrated, meter=steady()) as net:
        for sample in labelled[0][:20]:
            net(sample)
        time.sleep(0.8)
        assert net.stats(reset=True).inferences == 20
        assert net.stats().inferences == 0 and net.stats().power.seen_s < 0.2


def test_a_meter_that_dies_changes_nothing_but_the_statistic(calibrated, labelled):
    board = SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=10.0)])
    x = labelled[0][:200]
    with load(calibrated) as net:
        expected = [(r.label, r.score, r.exit) for r in map(net, x)]
    with load(calibrated, meter=board.meter()) as net:
        statistics = []
        for sample in x:
            r = net(sample)
            statistics.append((r.label, r.score, r.exit))
            board.work(0.1, power_w=9.0)
        stats = net.stats()
    assert statistics == expected
    assert stats.power.problem == "VDD_IN of simulated: simulated fault"
    assert stats.energy_per_inference_j is None and stats.inferences == 200
    assert stats.state.temperature_c is not None


def test_power_aware_products_are_tested_in_simulated_time(calibrated, labelled):
    board = SimulatedBoard()
    with load(calibrated, meter=board.meter()) as net:
        for sample in labelled[0][:500]:
            net(sample)
            board.work(0.02, power_w=9.0)
            board.clock.sleep(0.08)
        stats = net.stats()
    assert stats.energy_per_inference_j == pytest.approx(0.02 * 9 + 0.08 * 4, rel=0.02)
    assert stats.power.grade == "simulated"


def test_auto_without_a_sensor_warns_and_runs(calibrated, labelled, monkeypatch, tmp_path):

    original = meters.find_meters
    monkeypatch.setattr(meters, "find_meters", lambda root="/": original(tmp_path))
    with pytest.warns(MeterWarning, match="offramp doctor"):
        net = load(calibrated, meter="auto")
    net(labelled[0][0])
    stats = net.stats()
    assert stats.inferences == 1 and stats.power.problem.startswith("No meter here covers")
    assert stats.power.mean_w is None and stats.energy_per_inference_j is None


def test_the_meter_is_that_of_what_runs_and_not_of_what_was_asked_for(calibrated, monkeypatch):
    import onnxruntime as ort

    # The CUDA provider is claimed to be part of this build; the stages fall back to the CPU.
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    rail = Rail(name="P", role="total", covers="a card")
    both = [Meter(name, [Probe((rail,), lambda: (1.0,))], scope="") for name in ("rapl", "nvml:0")]
    monkeypatch.setattr(meters, "find_meters", lambda root="/": meters.FoundMeters(both, [], {}))
    with pytest.warns(Warning, match="on"), load(calibrated, "cuda:0", fallback="cpu", meter="auto") as net:
        assert list(net.provenance.devices) == ["cpu"] * len(net.exits)
        assert net.stats().power.meter == "rapl"


def test_a_network_without_a_calibration_is_watched_too(dense):
    with load_uncalibrated(dense, meter=steady()) as net:
        assert net.stats().power.meter == "bench"


def test_what_is_no_meter_is_refused(calibrated):
    with pytest.raises(UsageError, match="not function: call it"):
        load(calibrated, meter=steady)
    with pytest.raises(UsageError, match="not int"):
        load(calibrated, meter=5)
    with pytest.raises(UsageError, match="import the function"):
        load(calibrated, meter="bench.py:supply")


def test_a_meter_of_no_such_name_is_refused(calibrated):
    with pytest.raises(UsageError, match="Did you mean 'rapl'"):
        load(calibrated, meter="rappl")


def test_whatever_a_sensor_does_when_it_is_looked_for_the_network_loads(calibrated, labelled, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("a driver that nobody foresaw")

    monkeypatch.setattr(meters, "find_meters", broken)
    with pytest.warns(MeterWarning, match="nobody foresaw"), load(calibrated, meter="auto") as net:
        assert net(labelled[0][0]).label >= 0
