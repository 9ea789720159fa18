import json
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Certificate, Target, read_calibration
from offramp.calibrate import bench
from offramp.calibrate.certify.points import describe_promise
from offramp.calibrate.measure.energy import measure_runs, model_energy
from offramp.calibrate.measure.latency import force_exits, measure, run_alone
from offramp.calibrate.measure.tables import Costs
from offramp.calibrate.pace import Pace
from offramp.devices import SimulatedBoard
from offramp.devices.simulated import SimulatedClock
from offramp.errors import UsageError
from offramp.runtime import load
from offramp.runtime.chain.stats import Family, Tally, make_stats
from offramp.tests.helpers.briefly import calibrate
from offramp.tests.helpers.command import clear_message, offramp


def caller(clock, starts, busy_s=0.03):
    """A network whose calls take some simulated time; their starts are noted."""

    def call(sample):
        starts.append(clock.now_s())
        clock.advance(busy_s)
        return SimpleNamespace(latency_s=busy_s, answer=None)

    return call


def test_calls_begin_a_pace_apart_however_long_they_take():
    clock, starts = SimulatedClock(), list[float]()
    turn = run_alone(caller(clock, starts), pace=Pace(0.1, clock=clock))
    turn(np.zeros((10, 1)))
    assert np.diff(starts) == pytest.approx(np.full(9, 0.1))


def test_a_call_that_takes_longer_than_the_pace_is_followed_at_once_and_not_caught_up_with():
    clock, starts = SimulatedClock(), list[float]()
    pace = Pace(0.1, clock=clock)
    run_alone(caller(clock, starts, busy_s=0.25), pace=pace)(np.zeros((3, 1)))
    run_alone(caller(clock, starts), pace=pace)(np.zeros((3, 1)))
    assert np.diff(starts) == pytest.approx([0.25, 0.25, 0.25, 0.1, 0.1])


def test_networks_in_turns_share_one_pace():
    clock, starts = SimulatedClock(), list[float]()
    pace = Pace(0.1, clock=clock)
    turns = {name: run_alone(caller(clock, starts), pace=pace) for name in "ab"}
    measure(turns, np.zeros((8, 1)), rng=np.random.default_rng(0), progress=lambda *_: None, block=pace.block)
    assert pace.block == 4 and np.diff(starts) == pytest.approx(np.full(len(starts) - 1, 0.1))


def test_forced_exits_are_called_at_the_pace(calibrated):
    clock = SimulatedClock()
    with load(calibrated) as net:
        turn = force_exits(net, (0.2, 0.3, 0.5), rng=np.random.default_rng(0), pace=Pace(0.1, clock=clock))
        results = turn(np.zeros((4, 16), np.float32))
    calls = sum(map(len, results))
    assert calls == 3 + 2 * 4 and clock.now_s() == pytest.approx(0.1 * (calls - 1), rel=0.01)


@pytest.mark.parametrize("every_s", [0.0, -1.0, float("nan"), 1e9])
def test_a_pace_that_is_none_is_refused(dense, labelled, every_s):
    with pytest.raises(UsageError, match="every_s is a time in seconds above 0"):
        calibrate(dense, labelled, Target(max_drop=0.05), every_s=every_s)


def test_the_pace_stands_in_the_calibration_and_in_the_promise(dense, labelled):
    found = calibrate(dense, labelled, Target(max_latency_s=1.0), every_s=0.002)
    assert found.every_s == 0.002
    certificate = found.point.certificate
    assert certificate is not None and certificate.every_s == 0.002 and "called every 2000 us" in found.point.promise
    path = dense.calibrations()[0]
    content = json.loads(path.read_text())
    del content["every_s"]
    path.write_text(json.dumps(content))
    assert read_calibration(path).every_s is None


def test_words_of_a_promise_at_a_pace():
    target = Target(max_latency_s=1e-3)
    words = describe_promise(Certificate(target.limits, 0.9, 1, 500, 0, 1, machine_noise=0.016, every_s=0.1), target)
    assert words.endswith(
        "at most 1000 us, by 500 samples taken as independent, called every 100 ms, on a machine up to 3.2% slower than it "
        "was measured."
    )


def test_bench_says_how_it_called(calibrated, labelled):
    x, y = labelled
    result = bench(calibrated, (x[:100], y[:100]), every_s=0.001)
    assert result.every_s == 0.001 and "on 100 samples, called every 1000 us" in str(result)
    assert "called back to back" in str(replace(result, every_s=None))


def test_the_command_line_takes_a_pace(dense, labelled, tmp_path):
    data = tmp_path / "x.npz"
    np.savez(data, x=labelled[0], y=labelled[1])
    done = offramp("calibrate", dense.path, data, "--max-drop", "0.05", "--every", "1ms")
    assert done.returncode in (0, 3) and "Calls were measured every 1000 us." in done.stdout
    done = offramp("energy", dense.path, data, "--power-w", "5", "--every", "1ms", "--json")
    assert json.loads(done.stdout)["every_s"] == 0.001
    clear_message(offramp("bench", dense.path, data, "--every", "soon"), 2, "--every takes a time")


def test_energy_at_a_pace_holds_the_rest_until_the_next_call():
    board = SimulatedBoard(idle_w=4.0)
    run = lambda: board.work(0.02, power_w=9.0)  # noqa: E731
    found = measure_runs([run], board.meter(), every_s=0.1)
    (one,) = found.exits
    assert one.energy_j == pytest.approx(0.02 * 9 + 0.08 * 4, rel=0.02) and found.every_s == 0.1
    assert one.latency_s == pytest.approx(0.02, rel=0.05) and one.net_j == pytest.approx(0.02 * 5, rel=0.05)
    costs = Costs((np.full(10, 0.02),)).with_energies(found)
    assert costs.energy_j[0] == pytest.approx(one.energy_j, rel=0.01)
    half = replace(
        costs, times_s=(np.full(10, 0.01),)
    )  # a network in half the time saves half of the work, not of the rest
    assert half.energy_j[0] == pytest.approx(one.energy_j - 0.01 * 5, rel=0.02)


def test_energy_back_to_back_is_power_by_time():
    costs = Costs((np.full(10, 1e-3), np.full(10, 2e-3))).with_energies(model_energy([1e-3, 2e-3], 5.0))
    assert costs.energy_j == pytest.approx([5e-3, 1e-2]) and costs.waiting_j == 0


@pytest.mark.parametrize(("times", "is_told"), [(1.0, False), (1.4, False), (3.0, True), (0.3, True)])
def test_statistics_say_if_calls_take_other_than_was_calibrated(times, is_told):
    recent, exits = [int(times * 200_000)] * 150 + [int(times * 400_000)] * 50, [0] * 150 + [1] * 50
    counts = (10**6, 50)  # most of them answered in batches, or long ago
    tally = Tally(2, Family())
    stats = make_stats(counts, recent, exits, tally, None, (2e-4, 4e-4))
    assert bool(stats.notice) == is_told and stats.slowdown == pytest.approx(times)
    if is_told:
        assert f"calls take {times:.2g} times as long as was calibrated" in stats.notice and "--every" in stats.notice
    assert make_stats(counts, recent[:5], exits[:5], tally, None, (2e-5, 4e-5)).slowdown is None
    assert make_stats(counts, recent, exits, tally, None).slowdown is None
    waited = [*recent[:150], *[10**9] * 50]  # for stages to load
    assert make_stats(counts, waited, exits, tally, None, (2e-4,)).slowdown == pytest.approx(times)


def test_a_network_compares_itself_with_its_point(calibrated, labelled):
    found = read_calibration(calibrated.calibrations()[0])
    slow = {"default": replace(found.early, exit_latency_s=(10.0,) * 3)}
    with load(calibrated, calibration=replace(found, points=slow)) as net:
        for sample in labelled[0][:120]:
            net(sample)
        assert "times as long as was calibrated" in net.stats().notice
    one = {"placement": ("cpu",), "thresholds": (), "exit_shares": (1.0,), "exit_latency_s": (10.0,)}
    static = {"default": replace(found.early, static=1, **one)}
    with load(calibrated, calibration=replace(found, points=static)) as net:
        for sample in labelled[0][:120]:
            net(sample)
        assert "times as long as was calibrated" in net.stats().notice
