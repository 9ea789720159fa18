import errno
import threading
import time

import pytest

from offramp.devices import Fault, Meter, Probe, Rail, Sensor, SimulatedBoard
from offramp.devices.watch import Watch


def watched(board):
    watch = Watch(board.meter())
    watch.acquire()
    return watch


def test_a_watch_follows_the_truth_over_hours_in_memory_that_does_not_grow():
    board = SimulatedBoard(parts={"GPU": 0.5}, sensor=Sensor(period_s=0.05))
    watch = watched(board)
    for _ in range(40):
        board.work(10.0, power_w=9.0)
        board.clock.sleep(10.0)
    power = watch.power()
    assert power.energy_j == pytest.approx(board.spent_j, rel=0.002) and power.seen_s == pytest.approx(800.0, abs=0.5)
    assert power.mean_w == pytest.approx(6.5, rel=0.01)
    assert power.rails["GPU"].mean_w == pytest.approx(3.25, rel=0.05)
    assert power.rails["VDD_IN"].min_w < 4.1 and power.rails["VDD_IN"].max_w > 8.9
    kept = sum(len(series.readings) for series in watch._recording._series)
    assert kept < 2000  # out of 80,000


def test_a_counter_is_followed_over_many_wraps():
    board = SimulatedBoard(sensor=Sensor(counts="energy", period_s=0.001, wrap_j=50.0))
    watch = watched(board)
    for _ in range(100):
        board.work(1.0, power_w=9.0)
    power = watch.power()
    assert power.energy_j == pytest.approx(9.0 * power.seen_s, rel=1e-3) and power.seen_s > 99


def test_a_sensor_that_dies_stops_the_count_and_says_why():
    board = SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=20.0, code=errno.ENODEV)])
    watch = watched(board)
    board.work(60.0, power_w=9.0)
    power = watch.power()
    assert power.problem == "VDD_IN of simulated: simulated fault"
    assert power.seen_s == pytest.approx(20.0, abs=0.2) and power.seen_s + power.unseen_s == pytest.approx(
        60.0, abs=0.5
    )
    assert power.mean_w == pytest.approx(9.0, rel=0.01)


def test_what_passed_unseen_is_not_made_up():
    board = SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=2.8)])
    watch = watched(board)
    board.work(2.8, power_w=20.0)
    board.work(60.0, power_w=1.0)
    power = watch.power()
    assert power.energy_j == pytest.approx(20.0 * power.seen_s, rel=0.01) and power.seen_s == pytest.approx(
        2.8, abs=0.2
    )


def test_a_read_that_does_not_return_is_a_problem_and_not_silence():
    rail = Rail(name="P", role="total", covers="a supply")
    release = threading.Event()
    watch = Watch(Meter("stuck", [Probe((rail,), lambda: (float(release.wait(60)),))], scope=""))
    watch.acquire()
    time.sleep(1.5)
    assert watch.power().problem == "P of stuck: its read does not return"
    release.set()
    watch.release()


def test_a_sensor_that_comes_back_is_read_again():
    board = SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=20.0, end_s=40.0)])
    watch = watched(board)
    board.work(100.0, power_w=9.0)
    power = watch.power()
    assert power.problem is None and power.seen_s > 70 and 15 < power.unseen_s < 30


def test_reset_begins_anew():
    board = SimulatedBoard()
    watch = watched(board)
    board.work(30.0, power_w=9.0)
    watch.reset()
    board.clock.sleep(10.0)
    power = watch.power()
    assert power.energy_j == pytest.approx(40.0, rel=0.01) and power.seen_s == pytest.approx(10.0, abs=0.1)


def test_throttling_since_the_beginning_is_told():
    board = SimulatedBoard(throttled_s=[(1.0, 2.0)])
    watch = watched(board)
    for _ in range(500):
        board.work(0.01, power_w=9.0)
    assert "simulated heat" in watch.power().throttled[0]


def test_the_last_user_ends_the_reading():
    def names():
        return [thread.name for thread in threading.enumerate()]

    meter = Meter("bench", [Probe((Rail(name="S", role="total", covers=""),), lambda: (1.0,))], scope="s")
    watch = Watch(meter)
    watch.acquire()
    watch.acquire()
    watch.release()
    assert "offramp-meter" in names()
    watch.release()
    assert "offramp-meter" not in names()


def test_a_watch_without_a_meter_says_why():
    power = Watch(None, problem="no sensor here").power()
    assert power.mean_w is None and power.grade is None and power.problem == "no sensor here"


def test_the_state_that_cannot_be_read_is_no_failure():
    def state():
        raise RuntimeError("firmware is gone")

    meter = Meter("bench", [Probe((Rail(name="S", role="total", covers=""),), lambda: (1.0,))], scope="s", state=state)
    assert Watch(meter).power().state.temperature_c is None
