import numpy as np
import pytest

from offramp.calibrate.measure.energy import measure_energy, measure_runs, model_energy
from offramp.calibrate.measure.energy_rounds import MOST_RETRIES
from offramp.devices import Fault, Sensor, SimulatedBoard, modelled
from offramp.errors import MeasurementError, UsageError
from offramp.runtime import load
from offramp.runtime.chain.samples import check_samples


def stages(board, *spans):
    """For each exit a function that runs its stages, each (seconds, watts), on a simulated board."""

    def run_to(k):
        def run():
            for seconds, watts in spans[: k + 1]:
                board.work(seconds, power_w=watts)

        return run

    return [run_to(k) for k in range(len(spans))]


SPANS = ((0.004, 9.0), (0.003, 7.0), (0.006, 11.0))
TRUTH = np.cumsum([seconds * watts for seconds, watts in SPANS])
BEYOND = [seconds * (watts - 4.0) for seconds, watts in SPANS]


@pytest.mark.parametrize("period_s, window_s", [(0.0066, 5.0), (0.1, 20.0)])
def test_the_energy_of_each_exit_is_within_two_percent_of_the_truth(period_s, window_s):
    board = SimulatedBoard(sensor=Sensor(period_s=period_s))
    found = measure_runs(stages(board, *SPANS), board.meter())
    assert found.window_s == pytest.approx(window_s, rel=0.5) and found.trials == 10
    for one, truth in zip(found.exits, TRUTH, strict=True):
        assert one.energy_j == pytest.approx(truth, rel=0.02)
        low, high = one.interval_j
        assert low < one.energy_j < high and high - low < 0.02 * truth
    assert found.grade == "simulated" and found.discarded == 0


def test_what_stages_take_beyond_rest_is_fitted_and_the_mixed_windows_agree():
    board = SimulatedBoard()
    found = measure_runs(stages(board, *SPANS), board.meter())
    assert found.stage_j == pytest.approx(BEYOND, rel=0.03)
    assert all(low <= joules <= high for joules, (low, high) in zip(found.stage_j, found.stage_interval_j, strict=True))
    assert found.idle_w == pytest.approx(4.0, rel=0.005)
    assert found.residual < 0.01 and abs(found.mixed_error) < 0.01
    assert [one.net_j for one in found.exits] == pytest.approx(np.cumsum(BEYOND), rel=0.02)


def test_stages_that_do_not_add_up_show_in_the_mixed_windows():
    board = SimulatedBoard()
    last = [None]

    def run(k):
        board.work(0.004, power_w=9.0)
        if k == 1:
            board.work(0.004 if last[0] == 1 else 0.008, power_w=9.0)  # a cold stage takes twice as long
        last[0] = k

    found = measure_runs([lambda: run(0), lambda: run(1)], board.meter())
    assert found.mixed_error < -0.02


def test_throttled_windows_are_discarded_and_repeated():
    board = SimulatedBoard(throttled_s=[(20.0, 40.0)])
    found = measure_runs(stages(board, *SPANS), board.meter())
    assert found.discarded > 0 and all(one.throttled == 0 for one in found.exits)
    assert [one.energy_j for one in found.exits] == pytest.approx(TRUTH, rel=0.02)


def test_a_board_that_always_throttles_still_has_energies_that_say_so():
    board = SimulatedBoard(throttled_s=[(0.0, 1e9)])
    found = measure_runs(stages(board, *SPANS[:2]), board.meter(), window_s=2.5)
    assert [one.throttled for one in found.exits] == [10, 10]
    assert found.discarded == MOST_RETRIES  # and no more time is spent on it
    assert found.exits[0].energy_j == pytest.approx(0.008 * (4 + 5 * 2 / 3), rel=0.02)


def test_a_sensor_that_fails_for_a_while_costs_a_repetition():
    board = SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=12.0, end_s=14.0)])
    found = measure_runs(stages(board, *SPANS), board.meter())
    assert found.discarded >= 1
    assert [one.energy_j for one in found.exits] == pytest.approx(TRUTH, rel=0.02)


def test_a_long_outage_costs_a_round_and_not_those_that_are_done():
    board = SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=120.0, end_s=200.0)])
    found = measure_runs(stages(board, *SPANS), board.meter())
    assert found.trials == 10 and board.clock.now_s() > 330  # ten rounds take 260 s
    assert [one.energy_j for one in found.exits] == pytest.approx(TRUTH, rel=0.02)


def test_a_sensor_that_is_gone_is_an_error_with_its_reason():
    board = SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=12.0)])
    with pytest.raises(MeasurementError, match="could not read VDD_IN.*simulated fault"):
        measure_runs(stages(board, *SPANS), board.meter())


def test_too_short_a_window_is_refused_at_once():
    board = SimulatedBoard(sensor=Sensor(period_s=0.1))
    with pytest.raises(MeasurementError, match="too short"):
        measure_runs(stages(board, *SPANS), board.meter(), window_s=1.0)
    assert board.clock.now_s() < 60


def test_fewer_than_ten_trials_and_modelled_meters_are_refused():
    board = SimulatedBoard()
    with pytest.raises(UsageError, match="at least 10 trials"):
        measure_runs(stages(board, *SPANS), board.meter(), trials=9)
    with pytest.raises(UsageError, match="model_energy"):
        measure_runs(stages(board, *SPANS), modelled(5.0))


def test_modelled_energies_are_time_by_power_and_never_look_measured():
    found = model_energy([0.001, 0.002], 5.0)
    assert [one.energy_j for one in found.exits] == [0.005, 0.010]
    assert found.grade == "modelled" and "nothing was measured" in found.scope
    assert all(one.interval_j is None and one.net_j is None for one in found.exits)
    assert found.residual is None and found.trials == 0
    with pytest.raises(UsageError):
        model_energy([0.001], 0.0)


def test_a_network_leaves_at_each_exit_in_its_windows(calibrated, labelled):
    board = SimulatedBoard()
    with load(calibrated) as net:
        spent = [0.0]
        original = type(net).__call__

        def call(chain, x):
            result = original(chain, x)
            board.work(0.1 * (result.exit + 1), power_w=9.0)
            return result

        patched = pytest.MonkeyPatch()
        patched.setattr(type(net), "__call__", call)
        samples = check_samples(labelled[0][:50], calibrated.manifest.inputs)
        found = measure_energy(net, samples, board.meter())
        patched.undo()
    assert spent and [one.energy_j for one in found.exits] == pytest.approx([0.9, 1.8, 2.7], rel=0.02)
    assert found.fingerprint == {}


def test_a_window_that_is_too_short_is_refused_at_once():
    board = SimulatedBoard()
    with pytest.raises(MeasurementError, match="too short"):
        measure_runs(stages(board, *SPANS[:2]), board.meter(), window_s=0.5)
    assert board.clock.now_s() < 8
