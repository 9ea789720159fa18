"""The governor on a simulated board, whose power follows the exits that are taken."""

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import read_calibration
from offramp.devices import Fault, SimulatedBoard
from offramp.errors import MissingError, UsageError
from offramp.runtime import Governor, load

CALL_S, WORK_S, WORK_W = 0.1, 0.02, 9.0
"""A call each tenth of a second keeps the board busy for 20 ms a stage."""


@pytest.fixture
def bundle(calibrated, labelled):
    """The dense bundle with three promised points: most inputs leave late, some early, all at the first exit."""
    path = calibrated.calibrations()[0]
    calibration = read_calibration(path)
    with load(calibrated) as net:
        score = net.every_exit(labelled[0]).score
    point = calibration.points["default"]
    made = {}
    for name, share in (("late", 0.0), ("middle", 0.5), ("eco", 1.0)):
        threshold = float(np.quantile(score[:, 0], 1 - share)) if 0 < share < 1 else 2.0 * (1 - share)
        shares = (share, 0.0, 1 - share)
        made[name] = replace(
            point, name=name, thresholds=(threshold, 2.0), exit_shares=shares, latency_s=3 - 2 * share, energy_j=None,
            promise="It is the whole network: against itself nothing is lost.",
        )  # fmt: skip
    return calibrated, replace(calibration, points=made)


def drive(net, board, x, seconds, hook=lambda: None):
    """Run the product's loop; return the mean power."""
    start_s, start_j = board.clock.now_s(), board.spent_j
    k = 0
    while board.clock.now_s() < start_s + seconds:
        result = net(x[k % len(x)])
        busy_s = WORK_S * (result.exit + 1)
        board.work(busy_s, power_w=WORK_W)
        board.clock.sleep(CALL_S - busy_s)
        k += 1
        hook()
    board.set_power(board.idle_w)
    return (board.spent_j - start_j) / (board.clock.now_s() - start_s)


def test_mean_power_is_the_limit_wherever_points_lie_on_both_sides(bundle, labelled):
    (path, calibration), board = bundle, SimulatedBoard()
    used = set()
    with load(path, "cpu", calibration=calibration, meter=board.meter()) as net:
        with Governor(net, max_power_w=5.7, horizon_s=5.0) as governor:
            mean_w = drive(net, board, labelled[0], 240, lambda: used.add(net.point.name))
        assert governor.points == ("late", "middle", "eco")
    assert mean_w == pytest.approx(5.7, rel=0.03)
    assert len(used) > 1 and {move.after for move in governor.moves} <= used
    assert "5.70 W" in governor.moves[0].why and not governor.problem


def test_a_limit_that_is_lowered_is_kept_from_then_on_and_none_that_cannot_be_is_hidden(bundle, labelled):
    (path, calibration), board = bundle, SimulatedBoard()
    with (
        load(path, "cpu", calibration=calibration, meter=board.meter()) as net,
        Governor(net, max_power_w=9.0, horizon_s=5.0) as governor,
    ):
        drive(net, board, labelled[0], 60)
        assert net.point.name == "late"
        governor.max_power_w = 3.0  # less than the board takes at rest
        drive(net, board, labelled[0], 60)
        assert net.point.name == "eco" and governor.problem.endswith("eco is the cheapest point")
        governor.max_power_w = 9.0
        drive(net, board, labelled[0], 60)
        assert net.point.name == "late" and not governor.problem


def test_a_sensor_that_fails_changes_nothing(bundle, labelled):
    (path, calibration), board = bundle, SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=0.0)])
    with load(path, "cpu", calibration=calibration, meter=board.meter()) as net:
        with Governor(net, max_power_w=4.5) as governor:
            drive(net, board, labelled[0], 60)
        assert not governor.moves


def test_a_battery_and_a_temperature_have_a_band(bundle, labelled):
    (path, calibration), board = bundle, SimulatedBoard()
    charge: list[float | None] = [0.5]
    with (
        load(path, "cpu", calibration=calibration, meter=board.meter()) as net,
        Governor(net, min_battery=0.2, battery=lambda: charge[0]) as governor,
    ):
        names = []
        for charge[0] in (0.5, 0.19, 0.21, 0.19, 0.23, None):
            drive(net, board, labelled[0][:5], 10)
            names.append(net.point.name)
    assert names == ["late", "eco", "eco", "eco", "late", "late"]
    assert "0.19 of the battery, the limit is 0.2" in governor.moves[0].why
    with (
        load(path, "cpu", calibration=calibration, meter=board.meter()) as net,
        Governor(net, max_temperature_c=53.5) as governor,
    ):
        board.set_power(9.0)  # 54 degrees; at rest 49
        board.clock.sleep(30)
        assert net.point.name == "eco"
        board.set_power(4.0)
        board.clock.sleep(30)
        assert net.point.name == "late"


def test_only_promised_points_are_used_unless_others_are_named(bundle, labelled):
    path, calibration = bundle
    points = {
        **calibration.points,
        "eco": replace(calibration.points["eco"], promise="Nothing is promised.", certificate=None),
    }
    with load(path, calibration=replace(calibration, points=points), point="late") as net:
        with Governor(net, max_latency_s=1.0) as governor:
            assert governor.points == ("late", "middle")
        with Governor(net, max_latency_s=1.0, points=["eco", "late"]) as governor:
            assert governor.points == ("late", "eco")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({}, "needs a limit"),
        ({"max_power_w": 5.0}, "needs a meter"),
        ({"max_latency_s": -1.0}, "above 0"),
        ({"max_latency_s": "1"}, "above 0"),
        ({"min_battery": 20}, "a share of the charge"),
        ({"max_latency_s": 1.0, "points": ["late"]}, "points= names one: late"),
        ({"max_latency_s": 1.0, "points": ["fast"]}, "fast"),
    ],
)
def test_what_cannot_be_governed_is_named(bundle, how, words):
    path, calibration = bundle
    with load(path, calibration=calibration) as net, pytest.raises(UsageError, match=words):
        Governor(net, **how)


def test_a_point_whose_stages_cannot_be_opened_ends_no_governor(bundle, labelled, monkeypatch):
    path, calibration = bundle
    with load(path, calibration=calibration, point="late") as net:
        governor = Governor(net, max_latency_s=1e-9, every_s=1e6, horizon_s=1e-6)

        def refuse(point):
            raise MissingError(f"Memory is too small for {point}")

        monkeypatch.setattr(net, "use", refuse)
        for moves, problem in ((0, "and middle cannot be used: Memory is too small for middle"), (1, "")):
            for x in labelled[0][:10]:
                net(x)
            governor.look()
            assert len(governor.moves) == moves and governor.problem.endswith(problem)
            monkeypatch.undo()
        assert net.point.name == "middle" and governor.problem == ""
        governor.close()


def test_slow_calls_lead_to_a_cheaper_point_and_fast_ones_back(bundle, labelled):
    path, calibration = bundle
    with load(path, calibration=calibration, point="late") as net:
        governor = Governor(net, max_latency_s=1e-9, every_s=1e6, horizon_s=1e-6)
        for x in labelled[0][:10]:
            net(x)
        governor.look()
        assert net.point.name == "middle"
        net.batch(labelled[0][:10])  # whose samples have no latency each
        next(net.anytime(labelled[0][0]))
        governor.look()
        assert net.point.name == "middle"
        governor.max_latency_s, governor._owed["latency"] = 1e3, -1e9  # what a long time of fast calls saves
        for x in labelled[0][:10]:
            net(x)
        governor.look()
        assert net.point.name == "late"
        governor.close()
