import math
import threading
import time

import numpy as np
import pytest
from msgspec.structs import replace
from scipy import stats

from offramp.devices import Fault, Meter, Probe, Rail, Sensor, SimulatedBoard, modelled
from offramp.devices.integration import integrate, student95
from offramp.devices.recording import Recording
from offramp.errors import MeasurementError, OfframpError, UsageError


def infer(board, seconds):
    """Inferences of 8 ms, of which 6 at full power."""
    for _ in range(round(seconds / 0.008)):
        board.work(0.006, power_w=9.0)
        board.work(0.002, power_w=6.0)


def measure(board, seconds, *, idle_s=0.0, meter=None):
    with (meter or board.meter()).window(idle_s=idle_s) as window:
        before = board.spent_j
        infer(board, seconds)
        truth = board.spent_j - before
    return window, truth


POWER = Rail(name="P", role="total", covers="a supply", period_s=0.01)
COUNTER = Rail(name="E", role="total", covers="a package", counts="energy", wrap_j=100.0, period_s=0.001, most_w=500.0)


def rail_energy(rail, times, values, start, end, poll_s=0.01):
    return integrate(times, values, rail, start, end, poll_s=poll_s)


@pytest.mark.parametrize("period_s, seconds", [(0.0066, 5), (0.1, 20)])
@pytest.mark.parametrize("seed", range(5))
def test_a_window_is_within_two_percent_of_the_truth_and_its_interval_holds_it(period_s, seconds, seed):
    window, truth = measure(SimulatedBoard(sensor=Sensor(period_s=period_s), seed=seed), seconds)
    energy = window.energy
    assert energy.energy_j == pytest.approx(truth, rel=0.02)
    assert energy.interval_j[0] <= truth <= energy.interval_j[1]
    assert energy.duration_s == pytest.approx(seconds) and energy.mean_w == pytest.approx(energy.energy_j / seconds)


@pytest.mark.parametrize("seed", range(5))
def test_net_of_idle_is_what_the_work_took_beyond_rest(seed):
    board = SimulatedBoard(idle_w=4.0, seed=seed)
    window, truth = measure(board, 5, idle_s=3)
    energy = window.energy
    assert energy.net_j == pytest.approx(truth - 4.0 * energy.duration_s, rel=0.02)
    assert energy.net_interval_j[0] <= truth - 4.0 * energy.duration_s <= energy.net_interval_j[1]
    assert energy.idle_w == pytest.approx((4.0, 4.0), rel=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_a_counter_that_moves_less_often_than_it_is_read_is_no_jump_and_its_steps_are_smoothed(seed):
    board = SimulatedBoard(idle_w=140.0, sensor=Sensor(counts="energy", period_s=0.1), seed=seed)  # as an H100's
    with board.meter().window() as window:
        board.work(10.0, power_w=690.0)
    energy = window.energy
    assert energy.interval_j[0] <= 6900 <= energy.interval_j[1] and energy.gaps == 0
    assert energy.interval_j[1] - energy.energy_j < 6900 * 0.004


def test_one_wrong_reading_of_a_counter_is_left_out():
    times, values = np.arange(0, 10, 0.05), 5.0 * np.arange(0, 10, 0.05) + 50
    values[100] = 0.0
    found = rail_energy(replace(COUNTER, wrap_j=None), times, values, 0.0, 9.95, poll_s=0.05)
    assert found.energy_j == pytest.approx(49.75, rel=1e-6) and found.max_w < 6 and found.gaps == 0


def test_the_extremes_of_several_rails_are_those_of_their_sum():
    board = SimulatedBoard()
    rails = [Rail(name=name, role="total", covers="", period_s=0.01) for name in "AB"]

    def read():
        noise = 0.01 * math.sin(1e4 * board.clock.now_s())
        return (10.0, noise) if board.clock.now_s() // 1 % 2 else (noise, 10.0)

    with Meter("two", [Probe(tuple(rails), read)], scope="", clock=board.clock).window() as window:
        board.clock.advance(20.0)
    assert window.energy.energy_j == pytest.approx(200, rel=0.01)
    assert window.energy.min_w > 9.5 and window.energy.max_w < 10.5


def test_a_counter_that_keeps_beginning_anew_is_refused():
    board, left = SimulatedBoard(), iter(range(10**6, 0, -7))
    rail = Rail(name="E", role="total", covers="a package", counts="energy", period_s=0.001)
    with Meter("worn", [Probe((rail,), lambda: (float(next(left)),))], scope="", clock=board.clock).window() as window:
        board.work(5.0, power_w=9.0)
    with pytest.raises(MeasurementError, match="could not read E for 5.00 s of 5.00 s: .*not possible"):
        window.energy  # noqa: B018


def test_a_sensor_that_shows_one_value_only_is_refused_however_well_it_is_documented():
    board = SimulatedBoard()
    meter = Meter("stuck", [Probe((POWER,), lambda: (5.0,))], scope="", clock=board.clock)
    with pytest.raises(MeasurementError, match="one value only"):
        measure(board, 5, meter=meter)[0].energy  # noqa: B018


def test_rest_that_is_too_short_names_itself_and_keeps_the_blocks_joules():
    window, _ = measure(SimulatedBoard(), 5, idle_s=1)
    with pytest.raises(MeasurementError, match=r"idle_s.*at least 2 s.*The block: 41\.\d+ J"):
        window.energy  # noqa: B018


def test_a_window_measures_one_block():
    window, _ = measure(SimulatedBoard(), 5)
    with pytest.raises(UsageError, match="make another"), window:
        pass


def test_a_state_that_cannot_be_read_is_no_reason_to_fail():
    def fail():
        raise RuntimeError("no state")

    board = SimulatedBoard()
    meter = Meter("m", board.meter().probes, scope="", clock=board.clock, state=fail)
    assert measure(board, 5, meter=meter)[0].energy.before.temperature_c is None


def test_a_total_is_not_added_to_its_parts():
    meter = SimulatedBoard(parts={"GPU": 0.5}).meter()
    with pytest.raises(UsageError, match="GPU of simulated lies inside the total"):
        meter.window(rails=["VDD_IN", "GPU"])
    assert meter.choose_rails("GPU") == ("GPU",)


def test_sensors_that_take_their_time_can_be_simulated():
    window, truth = measure(SimulatedBoard(sensor=Sensor(read_s=0.02)), 5)
    assert window.energy.energy_j == pytest.approx(truth, rel=0.01)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Rail(name="P", role="totall", covers=""), "role of rail P is one of total, part, other"),
        (lambda: Rail(name="P", role="total", covers="", counts="watts"), "counts of rail P"),
        (lambda: Rail(name="P", role="total", covers="", wrap_j=-1.0), "wrap_j of rail P"),
        (lambda: Meter("m", [], scope=""), "m has none"),
        (lambda: Meter("m", [Probe((POWER, POWER), lambda: (1.0, 1.0))], scope=""), "different names"),
        (lambda: Meter("m", [Probe((POWER,), lambda: (1.0,))], scope="", poll_s=math.nan), "poll_s of m"),
        (lambda: Meter("m", [Probe((POWER,), lambda: (1.0,))], scope="", grade="magic"), "grade of m"),
        (lambda: SimulatedBoard(faults=[Fault(rail="VDDIN", start_s=0.0)]), "Did you mean 'VDD_IN'"),
        (lambda: SimulatedBoard(sensor=Sensor(counts="joules")), "counts of a sensor"),
        (lambda: SimulatedBoard().meter().window(idle_s=math.nan), "idle_s"),
    ],
)
def test_meters_and_boards_that_cannot_be_are_refused(make, said):
    with pytest.raises(UsageError, match=said):
        make()


def test_a_slow_sensor_still_gives_what_happened_at_the_end_of_the_window():
    # Within 20 s a sensor that lags by 0.1 s shows work and rest at the wrong time: the rest behind the end makes up for it.
    board = SimulatedBoard(idle_w=2.0, sensor=Sensor(period_s=0.1, noise_w=0.001))
    with board.meter().window(idle_s=6) as window:
        board.work(20.0, power_w=20.0)
    assert window.energy.net_j == pytest.approx(18.0 * 20, rel=0.002)


@pytest.mark.parametrize("period_s", [0.005, 0.02, 0.1, 0.3])
def test_the_sensors_period_is_found_from_what_it_shows(period_s):
    window, _ = measure(SimulatedBoard(sensor=Sensor(period_s=period_s)), 40)
    # A sensor that is faster than it is read shows something new at every read.
    assert window.energy.period_s == pytest.approx(max(0.01, period_s), rel=0.5)
    assert window.energy.rate_hz == pytest.approx(1 / max(0.01, period_s), rel=0.3)


@pytest.mark.parametrize("period_s, seconds, needs", [(0.0066, 1.0, "2 s"), (0.1, 3.0, "5"), (0.1, 0.5, "5")])
def test_a_window_too_short_for_its_sensor_is_refused_with_the_length_it_needs(period_s, seconds, needs):
    window, _ = measure(SimulatedBoard(sensor=Sensor(period_s=period_s)), seconds)
    with pytest.raises(MeasurementError, match=f"too short for VDD_IN.*at least {needs}"):
        _ = window.energy


def test_the_length_that_a_refusal_names_is_enough():
    board = SimulatedBoard(sensor=Sensor(period_s=0.1))
    window, _ = measure(board, 1.0)
    with pytest.raises(MeasurementError) as refused:
        _ = window.energy
    needs = float(str(refused.value).rpartition("at least ")[2].split()[0])
    window, truth = measure(board, 1.2 * needs)
    assert window.energy.energy_j == pytest.approx(truth, rel=0.05)


def test_a_sensor_that_shows_one_value_for_ever_is_not_believed():
    board = SimulatedBoard(sensor=Sensor(noise_w=0.0, step_w=100.0))
    window, _ = measure(board, 5)
    with pytest.raises(MeasurementError, match="one value only"):
        _ = window.energy


def test_reads_that_fail_are_gaps_and_the_rest_is_measured():
    board = SimulatedBoard(
        faults=[Fault(rail="VDD_IN", start_s=2.0, end_s=2.2), Fault(rail="VDD_IN", start_s=3.0, end_s=3.1)]
    )
    window, truth = measure(board, 5)
    energy = window.energy
    assert energy.gaps == 2 and energy.gap_s == pytest.approx(0.3, abs=0.05)
    assert energy.interval_j[0] <= truth <= energy.interval_j[1]


def test_a_window_of_which_too_much_was_not_seen_is_refused_with_the_reason():
    board = SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=2.0, end_s=4.0, code=19)])
    window, _ = measure(board, 5)
    with pytest.raises(MeasurementError, match=r"could not read VDD_IN for 2\.0\d s of 5\.00 s: simulated fault"):
        _ = window.energy


def test_a_sensor_that_never_answers_is_refused_with_the_reason():
    window, _ = measure(SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=0.0)]), 5)
    with pytest.raises(MeasurementError, match="could not read VDD_IN for 5.00 s.*simulated fault"):
        _ = window.energy


def test_parts_are_reported_beside_the_total_and_never_added():
    board = SimulatedBoard(parts={"GPU": 0.5})
    window, truth = measure(board, 60)
    assert window.energy.rails_j["GPU"] == pytest.approx(truth / 2, rel=0.05)
    assert window.energy.energy_j == pytest.approx(truth, rel=0.02)


def test_chosen_rails_are_measured_alone():
    board = SimulatedBoard(parts={"GPU": 0.5})
    with board.meter().window(rails=["GPU"]) as window:
        before = board.spent_j
        infer(board, 5)
    assert window.energy.energy_j == pytest.approx((board.spent_j - before) / 2, rel=0.02)
    assert window.energy.scope == "GPU"
    with pytest.raises(UsageError, match="Did you mean 'GPU'"):
        board.meter().window(rails=["GPUU"])


def test_an_energy_counter_that_wraps_is_followed():
    board = SimulatedBoard(sensor=Sensor(counts="energy", period_s=0.001, wrap_j=10.0))
    window, truth = measure(board, 5)
    assert truth > 30 and window.energy.energy_j == pytest.approx(truth, rel=0.005)
    assert window.energy.interval_j[0] <= truth <= window.energy.interval_j[1]


def test_an_error_of_the_block_passes_through_and_is_not_measured():
    board = SimulatedBoard()
    with pytest.raises(ZeroDivisionError), board.meter().window() as window:
        infer(board, 3)
        _ = 1 / 0
    with pytest.raises(MeasurementError, match="ZeroDivisionError"):
        _ = window.energy


def test_the_energy_is_not_known_before_the_block_has_ended():
    with SimulatedBoard().meter().window() as window, pytest.raises(UsageError, match="when the block has ended"):
        _ = window.energy


def test_throttling_and_temperature_are_told():
    board = SimulatedBoard(throttled_s=[(2.0, 3.0)])
    window, _ = measure(board, 5)
    assert "simulated heat" in window.energy.throttled[0]
    assert window.energy.before.temperature_c == 49.0


def test_a_modelled_meter_says_so_everywhere():
    board = SimulatedBoard()
    window, _ = measure(board, 5, meter=modelled(6.0, clock=board.clock))
    energy = window.energy
    assert energy.energy_j == pytest.approx(30.0) and energy.grade == "modelled"
    assert "nothing was measured" in energy.scope and "modelled" in str(energy)
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError):
            modelled(wrong)


def test_a_counter_wraps_only_between_two_reads_that_succeeded():
    times = [0.0, 0.1, 0.2, 0.3, 0.4]
    assert rail_energy(COUNTER, times, [97.0, 98.0, 99.0, 0.5, 1.5], 0, 0.4).energy_j == pytest.approx(4.5)
    broken = rail_energy(COUNTER, times, [97.0, 98.0, math.nan, 0.5, 1.5], 0, 0.4)
    assert broken.gaps == 1 and broken.energy_j == pytest.approx(2.0 * 2)  # what was not seen is taken for the mean


def test_the_wrap_of_the_kernels_range_is_exact():
    rail = Rail(name="E", role="total", covers="", counts="energy", wrap_j=262143.328850, period_s=0.001)
    times = np.arange(0, 1.0001, 0.1)
    values = np.where(np.arange(11) < 5, 262143.328000, 0.001150)
    assert rail_energy(rail, times, values, 0.0, 1.0, 0.1).energy_j == pytest.approx(0.002000, abs=1e-9)


def test_a_jump_beyond_the_most_power_is_no_energy():
    times = np.arange(0, 1.0001, 0.1)
    values = np.arange(11) * 1.0
    values[5:] += 90.0  # 910 W for one tenth of a second
    found = rail_energy(COUNTER, times, values, 0.0, 1.0, 0.1)
    assert found.energy_j == pytest.approx(10.0)
    glitch = np.full(101, 5.0) + np.arange(101) % 2 * 0.1
    glitch[50] = 6e5
    assert rail_energy(POWER, np.arange(101) * 0.01, glitch, 0.0, 1.0).max_w == 5.1


def test_edges_between_reads_are_interpolated():
    times = np.arange(0, 3.0001, 0.01)
    values = times * 2.0  # a power that rises by 2 W a second
    assert rail_energy(POWER, times, values, 1.003, 2.006).energy_j == pytest.approx(2.006**2 - 1.003**2, rel=1e-6)


def test_a_clock_that_goes_back_makes_a_gap_and_no_negative_energy():
    times = np.r_[np.arange(0, 1, 0.01), np.arange(0.5, 3, 0.01)]
    values = 5.0 + np.arange(len(times)) % 3 * 0.01
    found = rail_energy(POWER, times, values, 0.0, 2.9)
    assert found.energy_j == pytest.approx(5.01 * 2.9, rel=0.01) and found.min_w >= 5.0


def test_students_points_agree_with_scipys():
    for freedom in (2, 3, 4, 5, 9, 12.7, 19, 60, 1e4):
        assert student95(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-3)


def test_real_time_is_measured_too():
    draw = np.random.default_rng(0)
    meter = Meter(
        "bench", [Probe((Rail(name="S", role="total", covers=""),), lambda: (7 + draw.normal(0, 0.1),))], scope="s"
    )
    with meter.window() as window:
        time.sleep(2.2)
    assert window.energy.energy_j == pytest.approx(7 * window.energy.duration_s, rel=0.02)
    assert window.energy.rate_hz > 20 and "meter" not in {thread.name for thread in threading.enumerate()}


def test_a_read_that_hangs_holds_nothing_up():
    hang = threading.Event()
    meter = Meter(
        "bench", [Probe((Rail(name="S", role="total", covers=""),), lambda: (hang.wait(30), (1.0,))[1])], scope="s"
    )
    recording = Recording(meter, ["S"])
    thread = threading.Thread(target=recording.poll, daemon=True)
    thread.start()
    start = time.perf_counter()
    with pytest.raises(OfframpError):
        recording.mean_w(0.0, 5.0)
    assert time.perf_counter() - start < 1
    hang.set()
