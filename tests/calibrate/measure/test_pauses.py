"""A short trial tells what pauses between calls would change."""

from types import SimpleNamespace

import numpy as np
import pytest

from offramp.calibrate.measure.pauses import describe_pauses


class Cooling:
    """A network that takes `cold_s` behind a pause, and `warm_s` from the second call after it."""

    def __init__(self, cold_s: float, warm_s: float) -> None:
        self.cold_s, self.warm_s, self.calls, self.pauses = cold_s, warm_s, 0, 0

    def sleep(self, seconds: float) -> None:
        self.calls, self.pauses = 0, self.pauses + 1

    def __call__(self, sample: np.ndarray) -> SimpleNamespace:
        self.calls += 1
        return SimpleNamespace(latency_s=self.cold_s if self.calls <= 2 else self.warm_s)


@pytest.mark.parametrize(
    ("cold_s", "words"),
    [(900e-6, "2.0 times as long as back to back: the whole network 900 us against 450 us"), (500e-6, None)],
)
def test_a_note_tells_what_a_pause_costs_where_it_is_more_than_noise(cold_s, words):
    net = Cooling(cold_s, 450e-6)
    notes = describe_pauses(net, np.zeros((5, 1)), seconds=0.5, sleep=net.sleep)
    assert net.pauses == 9
    assert notes == [] if words is None else words in notes[0] and "--every 50ms" in notes[0]


@pytest.mark.parametrize(("cold_s", "seconds"), [(900e-6, 0.2), (0.1, 0.5)])
def test_too_short_a_time_tries_nothing(cold_s, seconds):
    net = Cooling(cold_s, cold_s / 2)
    assert describe_pauses(net, np.zeros((5, 1)), seconds=seconds, sleep=net.sleep) == [] and net.pauses == 0
