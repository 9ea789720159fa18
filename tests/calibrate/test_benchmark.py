"""The table of a benchmark."""

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.calibrate import Benchmark, OtherNetwork, Row, bench
from offramp.errors import UsageError
from offramp.runtime import load, load_static


def make_benchmark(exits, predicted=True, **fields):
    row = Row("early", 0.98, 1e-3, 1e-3, 2e-3, 3e-3)
    shares = (1 / exits,) * exits
    return Benchmark(
        early=row,
        whole=row,
        single=None,
        single_name=None,
        speedup=1.0,
        drop=0.0,
        drop_interval=(0.0, 0.0),
        exit_shares=shares,
        predicted_shares=shares if predicted else None,
        exit_latency_s=tuple(k * 1e-4 for k in range(exits)),
        predicted_s=1e-3,
        prediction_error=0.0,
        share_error_s=None,
        samples=100,
        fingerprint={},
        stages=(),
        verdict="",
        best_speedup=1.0,
        **fields,
    )


def test_the_table_of_many_exits_goes_on_in_further_lines():
    for exits, lines in ((3, 1), (8, 1), (16, 2), (17, 3)):
        table = str(make_benchmark(exits)).splitlines()
        assert sum(line.startswith("exit ") for line in table) == lines
        numbers = [word for line in table if line.startswith("exit ") for word in line.split()[1:]]
        assert numbers == [str(k) for k in range(exits)]
        latencies = [word for line in table if line.startswith("latency if forced") for word in line.split()[4:]]
        assert latencies == [f"{k * 100:.1f}" for k in range(exits)]
        assert max(len(line) for line in table if line.startswith(("exit", "share", "latency"))) <= 100
    assert "share predicted" not in str(make_benchmark(16, predicted=False))


def other(name, mean_s, low, high, noise=0.0):
    row = Row(name, 0.9, mean_s, mean_s, mean_s, mean_s)
    return OtherNetwork(row=row, drop=(low + high) / 2, drop_interval=(low, high), ratio_noise=noise)


def test_a_table_says_which_networks_surely_lose_little_the_slowest_first():
    others = [other("a", 3e-3, 0.0, 0.004), other("b", 4e-3, 0.008, 0.012), other("c", 5e-4, 0.02, 0.03)]
    lines = make_benchmark(3, others=tuple(others), max_drop=0.01).table().splitlines()
    rows = {line.split("  ")[0]: line.split()[-1] for line in lines[1:-1]}
    assert rows == {"b": "unsure", "a": "yes", "whole static network": "yes", "early exit": "yes", "c": "no"}
    assert [*rows] == ["b", "a", "whole static network", "early exit", "c"]
    assert lines[0].endswith("<= 1.00%") and max(map(len, lines[:-1])) <= 80


BETWEEN = "95 % interval 1.92 to 2.08"


def where_it_takes_half(**fields):
    """Return figures by which early exit takes half as long as the whole static network, with a noise of 1 %."""
    slow = Row("whole", 0.98, 2e-3, 2e-3, 3e-3, 4e-3)
    return replace(make_benchmark(3, max_drop=0.01, ratio_noise=0.02), whole=slow, speedup=2.0, **fields)


@pytest.mark.parametrize(
    ("mean_s", "noise", "said"),
    [
        (5e-4, 0.01, "b is the fastest: 2.00 times as fast as early exit."),
        (5e-4, 3.0, "early exit is not surely faster than: b."),
        (2e-3, 0.01, f"early exit is the fastest: 2.00 times as fast as the whole static network, {BETWEEN}."),
    ],
)
def test_the_fastest_is_named_though_it_is_not_early_exit_and_only_where_noise_allows(mean_s, noise, said):
    table = where_it_takes_half(others=(other("b", mean_s, 0.0, 0.005, noise),)).table()
    assert table.splitlines()[-1] == f"Of those that surely lose at most 1.00%, {said}"


def test_early_exit_is_the_fastest_only_if_it_surely_loses_little():
    told = "Of those that surely lose at most 1.00%, whole static network is the fastest; "
    for interval, more in (
        ((0.007, 0.011), "that early exit is one of them is not sure."),
        ((0.02, 0.03), "early exit loses more."),
    ):
        lost = where_it_takes_half(drop_interval=interval)
        assert lost.table().endswith(told + more)
    assert "1.00%" not in replace(lost, max_drop=None).table()


def test_other_networks_are_measured_on_the_same_samples(calibrated):
    x = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
    with load(calibrated) as chain, load_static(calibrated, exit=2) as whole, load_static(calibrated, exit=0) as first:
        beside = {"the same chain": chain, "the whole one": whole, "the first": first}
        data = x, whole.batch(x).label
        found = bench(calibrated, data, beside=beside)
        with pytest.raises(UsageError, match="'whole' is a network of every comparison"):
            bench(calibrated, data, beside={"whole": whole})
    same, again, worse = found.others
    assert [each.row.name for each in found.others] == list(beside)
    assert (same.row.accuracy, same.drop, same.drop_interval) == (found.early.accuracy, found.drop, found.drop_interval)
    assert again.row.accuracy == found.whole.accuracy == 1 and again.drop == 0
    assert worse.drop == pytest.approx(1 - worse.row.accuracy) and worse.drop > 0
    assert "the first" in str(found)
