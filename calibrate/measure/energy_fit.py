"""How joules split up: idle power, and what each stage takes whenever it runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct

from ...devices.recording import Energy


class Window(Struct, frozen=True):
    """One window: which exits its samples took, and its joules."""

    exit: int | None
    counts: tuple[int, ...]
    energy: Energy


def fit_stages(windows: Sequence[Window], rests: Sequence[tuple[float, float]]) -> Any:
    """Fit joules = idle power x time + sum of stage energies x how often they ran; return stages and idle, (stages + 1,).

    Each equation is divided by its window's length, so that all weigh the same.
    """
    rows = [[*(stage_runs(w) / w.energy.duration_s), 1.0] for w in windows]
    powers = [w.energy.mean_w for w in windows]
    for rest in rests:
        rows += [[0.0] * len(windows[0].counts) + [1.0]] * 2
        powers += rest
    return np.linalg.lstsq(np.array(rows), np.array(powers), rcond=None)[0]


def stage_runs(window: Window) -> Any:
    """Return how often each stage ran: stage i runs for every exit from i on."""
    return np.cumsum(window.counts[::-1])[::-1].astype(float)


def predict(fit: Any, window: Window) -> float:
    """Return the joules of a window that a fit expects."""
    return float(stage_runs(window) @ fit[:-1] + fit[-1] * window.energy.duration_s)
