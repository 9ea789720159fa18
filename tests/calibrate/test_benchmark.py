"""The table of a benchmark."""

from offramp.calibrate import Benchmark
from offramp.calibrate.benchmark import Row


def make_benchmark(exits, predicted=True):
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
