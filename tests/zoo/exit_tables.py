"""Synthetic exit tables: what a multi-exit classifier says of every sample at every exit, with the truth known.

Scenario B, whose exits are miscalibrated differently, is `exit_table(n, temperatures=UNEVEN, seed=123)`; scenario A is the same
without temperatures; both have five exits that cost `exit_costs(5)`.
"""

import numpy as np

from offramp.calibrate.measure.tables import Costs, ExitTable, exits_taken, mean_at

UNEVEN = (1.7, 0.6, 1.2, 0.8, 1.0)


def exit_table(n, exits=5, classes=10, seed=0, rho=0.5, hard=1.0, shift=0.0, temperatures=None):
    """Draw n samples.

    Returns a dict: y (n,) int; label (n, exits) int; score (n, exits) float32, max-softmax; correct (n, exits) bool;
    agree (n, exits) float32, the last exit's probability of each exit's label (a label-free stand-in for correctness).
    `hard` scales and `shift` moves the samples' difficulty (drift); `rho` correlates the exits; a temperature above 1 makes a
    head over-confident.
    """
    r = np.random.default_rng(seed)
    y = r.integers(0, classes, n)
    rival = (y + r.integers(1, classes, n)) % classes
    difficulty = np.clip(r.beta(0.7, 2.2, n) * hard + shift, 0, 1.3)
    signal = np.linspace(1.7, 2.2, exits) * 3.0
    frailty = np.linspace(1.45, 0.95, exits)
    noise = r.standard_normal((n, classes), dtype=np.float32)
    rows = np.arange(n)
    score, label = np.empty((n, exits), np.float32), np.empty((n, exits), np.int16)
    for k in range(exits):
        if k:
            noise = rho * noise + np.sqrt(1 - rho**2) * r.standard_normal((n, classes), dtype=np.float32)
        z = 1.35 * noise
        z[rows, y] += signal[k] * (1 - 0.75 * frailty[k] * difficulty)
        z[rows, rival] += signal[k] * 0.55 * frailty[k] * difficulty
        z *= 1.6 * (1.0 if temperatures is None else temperatures[k])
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        score[:, k], label[:, k] = p.max(1), p.argmax(1)
    agree = p[rows[:, None], label].astype(np.float32)
    return {"y": y, "label": label, "score": score, "correct": label == y[:, None], "agree": agree}


def make_table(n, exits=5, **options):
    """Draw n samples as `exit_table` does, as the table that calibration reads; the last exit is the reference."""
    drawn = exit_table(n, exits=exits, **options)
    return ExitTable(
        score=drawn["score"],
        label=drawn["label"],
        right=drawn["correct"],
        reference_right=drawn["correct"][:, -1],
        differs=(drawn["label"] != drawn["label"][:, -1:]).astype(np.int8),
        costs=Costs(tuple(np.full(2, cost) for cost in exit_costs(exits))),
    )


def true_losses(table, thresholds):
    """Give the accuracy drop and the disagreement at some thresholds, of a table that is taken for the population."""
    taken = exits_taken(table.score, thresholds)
    return mean_at(table.lost, taken), mean_at(table.differs, taken)


def exit_costs(exits):
    """Cumulative cost of leaving at each exit, the last one 1."""
    c = np.cumsum(np.linspace(0.8, 1.2, exits))
    return c / c[-1]


def search_cases(exits):
    """Give the 36 tables and accuracy drops on which searches are compared: (seed, rho, uneven) and 0.5, 1 and 2 %."""
    for seed in range(4):
        for rho, uneven in ((0.5, False), (0.5, True), (0.85, True)):
            temperatures = np.exp(np.random.default_rng(seed).normal(0, 0.4, exits)) if uneven else None
            table = exit_table(20_000, exits=exits, seed=seed, rho=rho, temperatures=temperatures)
            for drop in (0.005, 0.01, 0.02):
                yield table, drop
