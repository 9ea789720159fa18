"""How joules split up: power at rest, and the energy of each stage whenever it runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .energy_rounds import ExitWindow, Round

__all__ = ["fit_stages", "predict_joules"]


def fit_stages(rounds: Sequence[Round]) -> Any:
    """Fit joules = power at rest x time + sum of stage energies x how often they ran; return stages and rest, (stages + 1,).

    Each equation is divided by its window's length, so that all weigh the same.
    """
    windows = [window for each in rounds for window in each.windows]
    rows = [[*(stage_runs(window) / window.energy.duration_s), 1.0] for window in windows]
    powers = [window.energy.mean_w for window in windows]
    for each in rounds:
        rows += [[0.0] * len(windows[0].counts) + [1.0]] * 2
        powers += each.rest_w
    return np.linalg.lstsq(np.array(rows), np.array(powers), rcond=None)[0]


def stage_runs(window: ExitWindow) -> Any:
    """Return how often each stage ran: stage i runs for every exit from i on."""
    return np.cumsum(window.counts[::-1])[::-1].astype(float)


def predict_joules(fit: Any, window: ExitWindow) -> float:
    """Return the joules of a window that a fit predicts."""
    return float(stage_runs(window) @ fit[:-1] + fit[-1] * window.energy.duration_s)
