"""The picture of a benchmark."""

import numpy as np
import pytest

from offramp.calibrate import bench
from offramp.calibrate.benchmark import MeasuredLimit
from offramp.calibrate.benchmark_picture import LOOKS, MeasuredNetwork, draw_benchmark
from offramp.errors import MissingError, UsageError
from offramp.tests.calibrate.test_benchmark import make_benchmark


@pytest.fixture
def words(monkeypatch):
    """Texts stay texts in a picture, so that a test can read them."""
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")


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
