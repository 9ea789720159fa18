import json

import numpy as np
import pytest

from offramp.bundle import read_calibration
from offramp.bundle.manifest import NEVER
from offramp.calibrate.measure.noise import comparison_noise, describe_drift, machine_noise, part_medians, pool_falling


def drifting(rng, calls, *, drift=0.05, spread=0.1):
    """Relative speeds of a machine that drifts slowly, and latencies of two networks that run in turns on it."""
    slow = np.repeat(np.exp(drift * rng.standard_normal(16)), calls // 16)
    first, second = (slow * np.exp(spread * rng.standard_normal(calls)) for _ in range(2))
    return first, second


def test_a_machine_that_drifts_is_told_from_single_calls_that_scatter():
    rng = np.random.default_rng(0)
    draws = [drifting(rng, 1600) for _ in range(200)]
    true_spread = np.std([first.mean() for first, _ in draws]) / np.mean([first.mean() for first, _ in draws])
    naive = np.mean([first.std() / first.mean() / len(first) ** 0.5 for first, _ in draws])
    shown = np.mean([machine_noise([first], []) for first, _ in draws])
    assert shown == pytest.approx(true_spread, rel=0.2) and naive < true_spread / 3


def test_what_networks_in_turns_share_is_no_noise_of_their_comparison():
    rng = np.random.default_rng(1)
    draws = [drifting(rng, 1600) for _ in range(200)]
    true_spread = np.std([first.mean() / second.mean() for first, second in draws])
    shown = np.mean([comparison_noise([first], second) for first, second in draws])
    assert shown == pytest.approx(true_spread, rel=0.2)
    assert shown < np.mean([machine_noise([first], []) for first, _ in draws]) / 2


def test_a_drift_of_another_device_does_not_count_as_noise():
    rng = np.random.default_rng(2)
    steady = 1 + 0.01 * rng.standard_normal(1600)
    assert comparison_noise([steady], np.linspace(1, 2, 1600)) < 0.002


def test_a_later_exit_is_never_taken_to_be_faster_than_an_earlier_one():
    times = [np.full(n, us * 1e-6) for n, us in ((10, 100), (10, 300), (30, 200), (10, 400), (10, 390), (10, 500))]
    pooled = pool_falling(times)
    assert [len(each) for each in pooled] == [len(each) for each in times]
    assert [each.mean() * 1e6 for each in pooled] == pytest.approx([100, 225, 225, 395, 395, 500])
    fallen = pool_falling([np.array([3e-6, 5e-6]), np.array([3e-6]), np.array([1e-6])])
    assert [each.mean() * 1e6 for each in fallen] == pytest.approx([3, 3, 3])
    assert fallen[0] == pytest.approx([2.25e-6, 3.75e-6])  # they still differ as they did
    rising = [np.array([1e-6, 2e-6]), np.array([2e-6])]
    assert all(ours is theirs for ours, theirs in zip(pool_falling(rising), rising, strict=True))


def test_exits_that_joined_stages_never_take_make_no_other_slower():
    times = [np.full(10, us * 1e-6) for us in (30, 18, 24, 20, 11)]
    pooled = pool_falling(times, [0.9, NEVER, NEVER, 0.5])
    assert [each.mean() * 1e6 for each in pooled] == pytest.approx([61 / 3, 18, 24, 61 / 3, 61 / 3])


def test_exits_that_are_taken_more_often_count_more():
    steady, noisy = np.full(1600, 1e-3), 1e-3 * np.repeat([1.0, 2.0], 8)
    assert 0 < machine_noise([steady, noisy], []) < machine_noise([noisy], []) / 20


def test_measurements_that_disagree_are_noise_of_the_machine_and_noted():
    steady = np.full(160, 1e-3)
    sessions = [part_medians(factor * steady) for factor in (1.0, 1.1, 1.3)]
    assert machine_noise([steady], sessions) == pytest.approx(
        np.std([1.0, 1.1, 1.3], ddof=1) / np.mean([1.0, 1.1, 1.3])
    )
    (note,) = describe_drift(sessions)
    assert "took 1.30 times as long in one part as in another" in note
    assert "nothing else runs, on a core" in note
    assert "with fixed clocks (sudo jetson_clocks)" in describe_drift(sessions, "sudo jetson_clocks")[0]
    assert describe_drift(sessions[:2]) == []
    jump = part_medians(np.repeat([1e-3, 1.5e-3], 80))
    assert "1.50 times" in describe_drift([jump])[0]


def test_few_calls_have_a_noise_too():
    assert machine_noise([np.array([1.0, 1.2])], []) > 0
    assert machine_noise([np.array([1.0])], []) == 0.0


def test_a_calibration_knows_the_noise_of_its_latencies(calibrated):
    path = calibrated.calibrations()[0]
    found = read_calibration(path)
    assert all(0 < network.noise < 100 for network in (*found.chains, *found.statics))
    content = json.loads(path.read_text())
    for network in (*content["chains"], *content["statics"]):
        del network["noise"]
    path.write_text(json.dumps(content))
    assert {network.noise for network in (*read_calibration(path).chains, *read_calibration(path).statics)} == {0.0}
