import errno
import os
import threading
import time
import tracemalloc

import pytest

from offramp.devices import Fault, Meter, Probe, Rail, Sensor, SimulatedBoard, State
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


def test_a_watch_takes_no_more_memory_the_longer_it_runs():
    board = SimulatedBoard(parts={"GPU": 0.5}, sensor=Sensor(period_s=0.05))
    watch = watched(board)
    board.work(100.0, power_w=9.0)
    tracemalloc.start()
    board.work(2000.0, power_w=9.0)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert watch.power().seen_s > 2000 and kept < 20_000


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
    assert power.seen_s == pytest.approx(20.0, abs=0.3) and power.seen_s + power.unseen_s == pytest.approx(
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


def test_a_counter_that_does_not_move_is_no_zero():
    board = SimulatedBoard()
    rail = Rail(name="E", role="total", covers="a package", counts="energy")
    watch = Watch(Meter("stuck", [Probe((rail,), lambda: (5.0,))], scope="", clock=board.clock))
    watch.acquire()
    board.clock.advance(20.0)
    power = watch.power()
    assert power.mean_w is None and power.seen_s == 0 and power.unseen_s == pytest.approx(20.0, abs=1)
    assert power.problem == "E of stuck: its counter does not move"


def test_a_slow_counter_is_followed_without_bias():
    board = SimulatedBoard(sensor=Sensor(counts="energy", period_s=3.0))
    watch = watched(board)
    board.work(300.0, power_w=9.0)
    power = watch.power()
    assert power.mean_w == pytest.approx(9.0, rel=0.02)
    assert abs(power.energy_j - 9.0 * power.seen_s) <= power.half_j


@pytest.mark.parametrize("period_s", [2.0, 8.0])
@pytest.mark.parametrize("every_s", [1.0, 1.3])
def test_a_slow_counter_is_right_however_often_it_is_asked_for(period_s, every_s):
    board = SimulatedBoard(idle_w=4.0, sensor=Sensor(counts="energy", period_s=period_s))
    watch = watched(board)
    for _ in range(200):
        board.clock.advance(every_s)
        power = watch.power()
    assert power.mean_w == pytest.approx(4.0, rel=0.01) and power.problem is None
    assert power.unseen_s < 1.1 * period_s


def test_parts_that_are_counters_are_followed_as_the_total_is():
    sensor = Sensor(counts="energy", period_s=0.001)
    board = SimulatedBoard(idle_w=4.0, parts={"core": 0.25, "uncore": 0.25}, sensor=sensor)
    watch = watched(board)
    for _ in range(300):
        board.clock.advance(1.0)
        power = watch.power()
    assert power.rails["core"].mean_w == pytest.approx(1.0, rel=0.01) and power.rails["core"].seen_s > 295


def test_a_pause_is_not_made_up_and_a_failed_read_costs_little():
    board = SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=30.0 * i, end_s=30.0 * i + 0.3) for i in range(1, 10)])
    watch = watched(board)
    board.work(300.0, power_w=9.0)
    assert watch.power().unseen_s < 15 and watch.power().mean_w == pytest.approx(9.0, rel=0.01)
    watch.release()
    board.work(3600.0, power_w=1.0)
    watch.acquire()
    board.work(100.0, power_w=9.0)
    power = watch.power()
    assert power.mean_w == pytest.approx(9.0, rel=0.01) and power.seen_s == pytest.approx(385, abs=15)
    assert power.seen_s + power.unseen_s == pytest.approx(400, abs=2)


def test_a_counter_loses_nothing_while_its_reads_fail():
    faults = [Fault(rail="VDD_IN", start_s=40.0 * i, end_s=40.0 * i + 0.3) for i in range(1, 8)]
    board = SimulatedBoard(idle_w=4.0, sensor=Sensor(counts="energy", period_s=0.001), faults=faults)
    watch = watched(board)
    board.clock.advance(300.0)
    assert watch.power().mean_w == pytest.approx(4.0, rel=0.002)


def test_one_wrong_reading_of_a_counter_is_left_out():
    board, turn = SimulatedBoard(), iter(range(10**6))
    rail = Rail(name="E", role="total", covers="a package", counts="energy")
    read = lambda: (0.0 if next(turn) == 50 else 50 + 5.0 * board.clock.now_s(),)  # noqa: E731
    watch = Watch(Meter("m", [Probe((rail,), read)], scope="", clock=board.clock))
    watch.acquire()
    board.clock.advance(60.0)
    power = watch.power()
    assert power.mean_w == pytest.approx(5.0, rel=0.001) and power.rails["E"].max_w < 5.1


def test_a_counter_that_begins_anew_goes_on():
    board = SimulatedBoard()
    rail = Rail(name="E", role="total", covers="a package", counts="energy")
    read = lambda: (5.0 * (board.clock.now_s() % 20),)  # noqa: E731
    watch = Watch(Meter("m", [Probe((rail,), read)], scope="", clock=board.clock))
    watch.acquire()
    board.clock.advance(100.0)
    power = watch.power()
    assert power.mean_w == pytest.approx(5.0, rel=0.01) and power.seen_s > 95


def test_what_passed_before_it_began_and_after_it_ended_is_not_counted():
    board = SimulatedBoard()
    watch = Watch(board.meter())
    board.work(3.0, power_w=50.0)
    watch.acquire()
    board.work(10.0, power_w=9.0)
    watch.release()
    board.clock.sleep(30.0)
    power = watch.power()
    assert power.mean_w == pytest.approx(9.0, rel=0.01) and power.problem is None
    assert power.seen_s == pytest.approx(10.0, abs=0.3) and power.unseen_s < 0.1


def test_a_part_that_gives_no_number_is_no_obstacle():
    board = SimulatedBoard()
    rails = Rail(name="P", role="total", covers="all"), Rail(name="Q", role="part", covers="a part that is off")
    probe = Probe(rails, lambda: (9.0, float("nan")))
    watch = Watch(Meter("m", [probe], scope="", clock=board.clock))
    watch.acquire()
    board.clock.advance(600.0)
    assert watch.power().rails["P"].mean_w == pytest.approx(9.0)


def test_throttling_between_two_looks_is_told():
    board = SimulatedBoard(throttled_s=[(10.0, 60.0)])
    watch = watched(board)
    board.clock.advance(100.0)
    assert watch.power().throttled == ("simulated heat",)


def test_what_is_counted_is_added_up_and_not_listed_look_by_look():
    counts = iter(range(0, 10**9, 3))
    board = SimulatedBoard()
    meter = Meter(
        "m",
        board.meter().probes,
        scope="",
        clock=board.clock,
        state=lambda: State(throttling=("hot",), events={"cpu0 core_throttle": next(counts)}),
    )
    watch = Watch(meter)
    watch.acquire()
    board.clock.advance(1000.0)
    (first, second) = watch.power().throttled
    moved = int(second.removeprefix("cpu0 core_throttle (+").removesuffix(")"))
    assert first == "hot" and moved % 3 == 0 and 500 < moved < 700
    watch.reset()
    assert watch.power().throttled == ()


def test_a_state_that_does_not_return_costs_one_thread_however_often_it_begins_anew():
    release = threading.Event()
    asked: list[float] = []
    rail = Rail(name="P", role="total", covers="a supply")
    board = SimulatedBoard()

    def state():
        asked.append(board.clock.now_s())
        release.wait(60)
        return State()

    watch = Watch(Meter("m", [Probe((rail,), lambda: (1.0,))], scope="", state=state, clock=board.clock))
    watch.acquire()
    board.clock.advance(20.0)
    for _ in range(3):
        watch.reset()
        board.clock.advance(20.0)
    assert len(asked) == 1 and watch.power().state == State()
    release.set()
    time.sleep(0.2)
    board.clock.advance(20.0)
    assert len(asked) > 1  # it is asked again when it has returned


def test_a_sensor_that_is_gone_for_years_costs_no_more_than_one_that_is_gone_for_an_hour():
    rail = Rail(name="P", role="total", covers="a supply")

    def gone():
        raise OSError("no such device")

    watch = Watch(Meter("m", [Probe((rail,), gone)], scope=""))
    for _ in range(5000):
        watch._tick()
        watch._turn = watch._next_turn
    assert watch._failures.bit_length() < 10


def test_power_waits_for_no_sensor_and_no_state():
    release = threading.Event()
    rail = Rail(name="P", role="total", covers="a supply")
    meter = Meter(
        "m", [Probe((rail,), lambda: (1.0,))], scope="", state=lambda: State(temperature_c=float(release.wait(60)))
    )
    watch = Watch(meter)
    watch.acquire()
    time.sleep(0.5)
    start = time.perf_counter()
    watch.power()
    watch.reset()
    assert time.perf_counter() - start < 0.2
    release.set()
    watch.release()


def test_what_is_collected_while_it_adds_up_may_let_go_of_it():
    watch = watched(SimulatedBoard())
    with watch._lock:
        watch.release()  # as a finalizer does, in the thread that happens to collect


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_is_told_so_and_does_not_hang():
    watch = watched(SimulatedBoard())
    with watch._lock:
        child = os.fork()
        if not child:
            power = watch.power()
            watch.reset()
            watch.release()
            os._exit(0 if "forked" in power.problem else 1)
    assert os.waitpid(child, 0)[1] == 0
