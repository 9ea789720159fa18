"""The picture of a benchmark."""

import numpy as np
import pytest
from msgspec.structs import replace

from offramp import pictures
from offramp.calibrate import bench
from offramp.calibrate.benchmark import MeasuredLimit
from offramp.calibrate.benchmark_picture import LOOKS, MeasuredNetwork, draw_benchmark
from offramp.errors import MissingError, UsageError
from offramp.tests.calibrate.test_benchmark import make_benchmark


@pytest.fixture
def words(monkeypatch):
    """Texts stay texts in a picture, so that a test can read them."""
    monkeypatch.setitem(pictures.STYLE, "svg.fonttype", "none")


def test_bench_draws_what_it_measured(calibrated, labelled, tmp_path, words):
    x, y = labelled
    found = bench(calibrated, (x[:200], y[:200]), plot=tmp_path / "new" / "bench.svg")
    text = (tmp_path / "new" / "bench.svg").read_text()
    for word in ("dense.offramp: 200 samples", "early exit", "whole static network", "accuracy, %", "predicted"):
        assert word in text, word
    assert found.verdict.split()[0] in text


@pytest.mark.parametrize("exits", [2, 17])
def test_any_number_of_exits_and_any_spread_of_latencies_is_drawn(exits, tmp_path, words):
    calls = np.random.default_rng(0).exponential(0.02, 5000)
    network = MeasuredNetwork(calls, 0.001, MeasuredLimit(0.5, 0.4, 0.6))
    alike = MeasuredNetwork(np.full(5000, 0.01), 0.0, MeasuredLimit(1.0, 1.0, 1.0))
    output = tmp_path / "bench.svg"
    draw_benchmark(make_benchmark(exits, predicted=False), {"early": network, "whole": alike}, output, title="a $ b_c")
    text = output.read_text()
    assert "a $ b_c: 100 samples" in text and "mean latency, ms" in text and "predicted" not in text
    assert len(text) < 300_000


def test_the_legend_names_each_network_by_its_own_line(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    legends, draw = [], Axes.legend
    monkeypatch.setattr(Axes, "legend", lambda axes, **how: legends.append(draw(axes, **how)) or legends[-1])
    network = MeasuredNetwork(np.linspace(0.001, 0.002, 100), 0.0, MeasuredLimit(0.5, 0.4, 0.6))
    networks = dict.fromkeys(("early", "whole", "single"), network)
    draw_benchmark(replace(make_benchmark(2), single_name="static to exit 1"), networks, tmp_path / "a.svg", title="a")
    lines = {text.get_text(): line for text, line in zip(legends[0].get_texts(), legends[0].get_lines(), strict=True)}
    for shown, name in (("early exit", "early"), ("whole static network", "whole"), ("static to exit 1", "single")):
        colour, _, line = LOOKS[name]
        assert (lines[shown].get_color(), lines[shown].get_linestyle()) == (colour, line), shown


def test_a_few_slow_calls_do_not_take_the_room_of_all_others(tmp_path, words):
    for slowest_s, is_log in ((0.0003, False), (0.02, True)):
        calls = np.append(np.full(900, 0.0001), np.full(100, slowest_s))
        network = MeasuredNetwork(calls, 0.0, MeasuredLimit(0.5, 0.4, 0.6))
        draw_benchmark(make_benchmark(2), {"early": network, "whole": network}, tmp_path / "bench.svg", title="a")
        assert ("logarithmic" in (tmp_path / "bench.svg").read_text()) is is_log


def test_the_legend_shows_each_network_as_it_is_drawn(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    shown, legend = [], Axes.legend
    monkeypatch.setattr(Axes, "legend", lambda axes, **look: shown.append(axes) or legend(axes, **look))
    one = {name: MeasuredNetwork(np.array([0.01]), 0.0, MeasuredLimit(0.5, 0.4, 0.6)) for name in ("early", "whole")}
    draw_benchmark(make_benchmark(2), one, tmp_path / "bench.svg", title="d")  # one sample
    handles, names = shown[0].get_legend_handles_labels()
    assert names == ["early exit", "whole static network"]
    assert [line.get_color() for line in handles] == [LOOKS[name][0] for name in one]
    assert [list(line.get_ydata()) for line in handles] == [[0, 100]] * 2


def test_what_cannot_be_drawn_is_refused_before_anything_is_measured(calibrated, labelled, tmp_path):
    def fail(*_):
        raise AssertionError("it measures")

    for output, error in ((tmp_path / "bench.jpg", UsageError), ("/proc/none/bench.svg", MissingError)):
        with pytest.raises(error, match="picture|Cannot write"):
            bench(calibrated, labelled, plot=output, progress=fail)
