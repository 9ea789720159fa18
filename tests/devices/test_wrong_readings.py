import math

import numpy as np
import pytest

from offramp.devices import Meter, Probe, Rail, SimulatedBoard
from offramp.devices.board import identify
from offramp.devices.meters import choose_meter, find_meters
from offramp.devices.state import BoardState
from offramp.devices.watch import Watch
from offramp.devices.wrong_readings import find_contradictions, find_spikes
from offramp.errors import MeasurementError, UsageError
from offramp.tests.fakes.boards import HWMON, POWERCAP, rapl_zone

RAPL_J = 262143.328850
SECONDS = 30.0
IDS = ("zero", "negative", "80 digits", "400 digits", "a word")


def sensor(board, wrong, share, *, counts="energy", start_j=50.0, wrap_j=None):
    """A meter of a true 10 W, of whose reads a share shows something else: a number, or what it makes of the right one."""
    rng, rail = np.random.default_rng(0), Rail(name="E", role="total", covers="all", counts=counts, wrap_j=wrap_j)

    def read():
        now_s = board.clock.now_s()
        right = start_j + 10 * now_s if counts == "energy" else 10 + 0.01 * math.sin(1e4 * now_s)
        right = right % wrap_j if wrap_j else right
        return ((wrong(right) if callable(wrong) else wrong) if rng.random() < share else right,)

    return Meter("m", [Probe((rail,), read)], scope="all", clock=board.clock, poll_s=0.02)


def watched(*arguments, **options):
    board = SimulatedBoard()
    watch = Watch(sensor(board, *arguments, **options))
    watch.acquire()
    board.clock.advance(SECONDS)
    return watch.power()


def measured(*arguments, **options):
    board = SimulatedBoard()
    with sensor(board, *arguments, **options).window() as window:
        board.clock.advance(SECONDS)
    return window.energy


@pytest.mark.parametrize("wrap_j", [None, RAPL_J])
@pytest.mark.parametrize(
    ("wrong", "share"),
    [
        *((wrong, share) for wrong in (0.0, -5.0, lambda right: -right) for share in (0.001, 0.1, 0.5)),
        *((wrong, share) for wrong in (lambda right: right / 2, lambda right: right + 150) for share in (0.001, 0.1)),
    ],
)
def test_a_counter_misses_nothing_by_reads_that_are_wrong(wrong, share, wrap_j):
    for start_j in (0.0, 5e4):
        power = watched(wrong, share, start_j=start_j, wrap_j=wrap_j)
        assert power.mean_w == pytest.approx(10.0, rel=0.01) or abs(power.energy_j - 10 * power.seen_s) <= power.half_j
        try:
            energy = measured(wrong, share, start_j=start_j, wrap_j=wrap_j)
        except MeasurementError as refused:
            assert share > 0.01 and "could not read E" in str(refused)
        else:
            assert energy.mean_w == pytest.approx(10.0, rel=0.01)


@pytest.mark.parametrize("wrong", [0.0, -5.0])
def test_zeros_and_negative_numbers_of_a_counter_change_nothing(wrong):
    for share in (0.1, 0.5):
        power = watched(wrong, share, wrap_j=RAPL_J)
        assert power.mean_w == pytest.approx(10.0, rel=0.001) and power.rails["E"].max_w < 15


def test_a_wrap_between_wrong_reads_is_a_wrap():
    assert watched(0.0, 0.1, wrap_j=1000.0, start_j=900.0).mean_w == pytest.approx(10.0, rel=0.01)
    assert measured(0.0, 0.01, wrap_j=1000.0, start_j=900.0).mean_w == pytest.approx(10.0, rel=0.01)


def test_a_counter_that_begins_anew_climbs_and_is_followed():
    t, rail = np.arange(0, 60, 0.1), Rail(name="E", role="total", covers="", counts="energy")
    assert not find_contradictions(t, 5.0 * (t % 20), rail).any()
    glitch = 100 + 5.0 * t
    glitch[[0, 1, 200, 201, 202]] = 0.0
    assert np.flatnonzero(find_contradictions(t, glitch, rail)).tolist() == [0, 1, 200, 201, 202]
    glitch = 100 + 5.0 * t
    glitch[[300, 301]] += 90
    assert np.flatnonzero(find_contradictions(t, glitch, rail)).tolist() == [300, 301]


def test_a_power_below_zero_is_a_problem_and_no_energy():
    for watts, said in ((-10.0, "it shows -10 W, which is not possible"), (-0.3, "its mean power is below 0")):
        power = watched(watts, 1.0, counts="power")
        assert power.mean_w is None and power.energy_j == 0 and said in power.problem
    with pytest.raises(MeasurementError, match=r"could not read E for 30\.0\d s of 30\.00 s"):
        measured(-10.0, 1.0, counts="power")
    with pytest.raises(MeasurementError, match="E of m: its mean power is below 0"):
        measured(lambda right: -right / 40, 1.0, counts="power")
    board = SimulatedBoard()
    assert "not possible" in sensor(board, -10.0, 1.0, counts="power").read()["E"]


def test_a_zero_that_is_off_by_a_little_is_no_problem():
    assert watched(-0.02, 0.01, counts="power").problem is None


def test_one_reading_that_towers_over_all_others_is_left_out_and_marked():
    power = watched(1999.0, 0.001, counts="power")
    assert power.mean_w == pytest.approx(10.0, rel=0.01) and power.rails["E"].max_w < 11 and power.half_j > 50
    energy = measured(1999.0, 0.001, counts="power")
    assert energy.mean_w == pytest.approx(10.0, rel=0.01) and energy.max_w < 11 and energy.gaps > 0
    assert energy.interval_j[1] > 1.1 * energy.energy_j  # as if it had been true


def test_loads_that_rise_and_pulses_are_no_spikes():
    board = SimulatedBoard(idle_w=1.0)
    meter = board.meter()
    watch = Watch(meter)
    watch.acquire()
    with meter.window() as window:
        for _ in range(20):
            board.work(1.0, power_w=1.0)
            board.work(0.5, power_w=50.0)
    truth = board.spent_j
    assert window.energy.energy_j == pytest.approx(truth, rel=0.02) and window.energy.gaps == 0
    assert watch.power().energy_j == pytest.approx(truth, rel=0.05)
    assert not find_spikes(np.r_[np.full(95, 1.0), np.full(5, 20.0)]).any()
    assert not find_spikes(np.r_[np.zeros(99), 5.0]).any()  # a part that rests at zero
    assert find_spikes(np.r_[np.full(99, 1.0), 20.0]).sum() == 1


@pytest.mark.parametrize("limit", [0, -5, 10**80, 10**400, "none"], ids=IDS)
def test_a_counters_range_that_cannot_be_is_not_believed(board, limit):
    root = board("intel-n100", **{f"{POWERCAP}/intel-rapl:0/max_energy_range_uj": f"{limit}\n"})
    (rail, *_) = choose_meter("rapl", root=root).rails
    assert rail.wrap_j is None


@pytest.mark.parametrize("interval", [0, -1, 10**80, 10**400], ids=IDS[:4])
def test_an_average_that_cannot_be_is_not_believed(board, interval):
    files = {f"{HWMON}/hwmon0/power1_average_interval": f"{interval}\n"}
    meter = choose_meter("hwmon:power_meter", root=board("arm-server", **files))
    assert meter.rails[0].period_s is None and meter.rails[0].lag_s == 0


def test_no_nonsense_in_a_file_is_called_a_fault_of_ours(board):
    root = board("intel-n100", **rapl_zone("intel-rapl:1", "package-1", 5, limit=0))
    assert not any("report" in problem.remedy for problem in find_meters(root).unavailable)


@pytest.mark.parametrize(
    ("millidegrees", "degrees"), [(-200_000, None), (900_000, None), (10**80, None), (45_000, 45.0)]
)
def test_a_temperature_that_cannot_be_is_none(board, millidegrees, degrees):
    root = board("vm", **{"sys/class/thermal/thermal_zone0/temp": f"{millidegrees}\n"})
    assert BoardState(root)().temperature_c == degrees


@pytest.mark.parametrize("khz", [0, -1, 10**80, 10**400], ids=IDS[:4])
def test_a_clock_that_cannot_be_is_none(board, khz):
    policy = "sys/devices/system/cpu/cpufreq/policy0"
    root = board("vm", **{f"{policy}/scaling_cur_freq": f"{khz}\n", f"{policy}/scaling_max_freq": f"{khz}\n"})
    assert BoardState(root)().clock_hz is None and identify(root).max_clock_hz == {}


def test_the_most_power_depends_on_the_board(board):
    assert {name: identify(board(name)).most_w for name in ("raspberry-pi-5", "orin-nx", "intel-n100")} == {
        "raspberry-pi-5": 60.0,
        "orin-nx": 300.0,
        "intel-n100": 2000.0,
    }
    assert {rail.most_w for rail in choose_meter("ina3221", root=board("orin-nx")).rails} == {300.0}


def test_a_board_that_runs_draws_more_than_nothing(board):
    rails = {rail.name: rail for rail in choose_meter("ina3221", root=board("orin-nx")).rails}
    assert "not possible" in rails["VDD_IN"].find_problem(0.0) and rails["VDD_SOC"].find_problem(0.0) is None
    with pytest.raises(UsageError, match="least_w of rail P"):
        Rail(name="P", role="total", covers="", least_w=5.0, most_w=1.0)
