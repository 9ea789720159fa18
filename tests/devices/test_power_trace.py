"""The kept readings of a meter, and their picture."""

import math

import numpy as np
import pytest

from offramp import pictures
from offramp.devices import Fault, PowerTrace, Sensor, SimulatedBoard, draw_power
from offramp.devices.power_trace import MOST_POINTS
from offramp.errors import UsageError

WRAP_J = 40.0


@pytest.mark.parametrize(
    "sensor", [Sensor(noise_w=0.05), Sensor(counts="energy", period_s=0.001, wrap_j=WRAP_J)], ids=["power", "counter"]
)
def test_a_trace_shows_when_each_rail_drew_which_power(sensor):
    board = SimulatedBoard(idle_w=4.0, parts={"GPU": 0.5}, sensor=sensor)
    trace = PowerTrace(board.meter())
    with trace.meter.window(idle_s=3) as window, trace.phase("infer"):
        board.work(6.0, power_w=12.0)
    (phase,) = trace.phases
    at, power_w = trace.power_w()["VDD_IN"]
    inside = (at > phase.start_s + 0.2) & (at < phase.end_s - 0.2)
    outside = (at < phase.start_s - 0.2) | (at > phase.end_s + 0.2)
    assert inside.sum() > 50 and np.allclose(power_w[inside], 12, atol=0.6)
    assert outside.sum() > 50 and np.allclose(power_w[outside], 4, atol=0.6)
    gpu_at, gpu_w = trace.power_w()["GPU"]
    assert np.median(gpu_w[(gpu_at > phase.start_s + 1) & (gpu_at < phase.end_s - 1)]) == pytest.approx(6, abs=0.2)
    assert window.energy.energy_j == pytest.approx(72, rel=0.02)
    assert trace.describe_phase(phase).startswith("infer: 7")


def test_a_gap_in_the_readings_is_no_line():
    board = SimulatedBoard(faults=[Fault(rail="VDD_IN", start_s=2.0, end_s=3.0)])
    trace = PowerTrace(board.meter())
    with trace.meter.window():
        board.work(5.0, power_w=9.0)
    at, power_w = trace.power_w()["VDD_IN"]
    assert [at_s for at_s, watts in zip(at, power_w, strict=True) if math.isnan(watts)] == [
        pytest.approx(2.0, abs=0.05)
    ]


def test_a_gap_is_no_line_either_where_there_are_more_readings_than_points(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    lines, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda *given, **look: lines.append(given[1:3]) or plot(*given, **look))
    board = SimulatedBoard(sensor=Sensor(period_s=0.001), faults=[Fault(rail="VDD_IN", start_s=8.0, end_s=10.0)])
    trace = PowerTrace(board.meter())
    with trace.meter.window():
        board.work(20.0, power_w=9.0)
    draw_power(trace, tmp_path / "power.svg")
    at, watts = lines[0]
    assert len(at) == MOST_POINTS < len(trace.power_w()["VDD_IN"][0])
    assert [at_s for at_s, each in zip(at, watts, strict=True) if math.isnan(each)] == [pytest.approx(9, abs=2)]


def test_a_phase_too_short_for_its_sensor_gets_no_joules():
    board = SimulatedBoard()
    trace = PowerTrace(board.meter())
    with trace.meter.window():
        with trace.phase("load"):
            board.work(0.2, power_w=9.0)
        with trace.phase("infer"):
            board.work(5.0, power_w=9.0)
    load, infer = map(trace.describe_phase, trace.phases)
    assert load == "load: 0.20 s, too short to measure by itself" and infer.startswith("infer: 45")


def test_the_picture_names_rails_phases_and_joules_whatever_they_are_called(tmp_path, monkeypatch):
    monkeypatch.setitem(pictures.STYLE, "svg.fonttype", "none")
    board = SimulatedBoard(idle_w=4.0, parts={"CPU $x_$": 0.5}, sensor=Sensor(period_s=0.001))
    trace = PowerTrace(board.meter())
    with trace.meter.window(idle_s=3) as window:
        with trace.phase("load"):
            board.work(3.0, power_w=6.0)
        with trace.phase("infer"):
            board.work(20.0, power_w=9.0)
        with trace.phase(f"/{'a' * 200}/bin/late\x1b"):
            board.work(1.0, power_w=9.0)
    draw_power(trace, tmp_path / "power.svg", energy=window.energy)
    text = (tmp_path / "power.svg").read_text()
    assert ">late\\u001b<" in text
    for word in ("CPU $x_$ (part)", "load", "infer: 1", "rest", "in all: ", "beyond idle", "simulated"):
        assert word in text, word
    draw_power(trace, tmp_path / "again.svg", energy=window.energy)
    assert (tmp_path / "again.svg").read_text() == text  # the same picture is the same bytes


def test_the_users_settings_of_matplotlib_change_no_picture(tmp_path):
    import matplotlib

    trace = PowerTrace(SimulatedBoard().meter())
    draw_power(trace, tmp_path / "plain.svg")
    with matplotlib.rc_context(
        {"axes.facecolor": "black", "text.color": "red", "lines.linewidth": 9, "figure.dpi": 30}
    ):
        draw_power(trace, tmp_path / "styled.svg")
    assert (tmp_path / "styled.svg").read_bytes() == (tmp_path / "plain.svg").read_bytes()


def test_without_readings_the_picture_says_so(tmp_path):
    draw_power(PowerTrace(SimulatedBoard().meter()), tmp_path / "power.PNG")
    assert (tmp_path / "power.PNG").read_bytes().startswith(b"\x89PNG")


def test_an_ending_that_is_no_format_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"\.svg, \.png, \.pdf"):
        draw_power(PowerTrace(SimulatedBoard().meter()), tmp_path / "power.gif")
    assert list(tmp_path.iterdir()) == []
