"""How far a mean latency may be off because the machine's speed changes, as the parts of a measurement show it.

    calls    | | | | | | | | | | | | | | | |      in the order of measurement
    parts    [  0  ] [  1  ] [  2  ] [  3  ]      means of 1.00, 1.02, 0.98, 1.01 ms: an error of 0.9 % of their mean

Calls that follow each other share clocks, caches and what else the machine does, so they are not independent: their own standard
error is too small. Parts are long enough to be. Networks that run in turns slow down together, so the error of one beside the
reference network is found from the ratio of their parts.
"""

from collections.abc import Sequence

import numpy as np

from ...bundle.manifest import NEVER

__all__ = ["PARTS", "comparison_noise", "describe_drift", "machine_noise", "part_medians", "pool_falling"]

PARTS = 8
"""Parts of a measurement; each holds at least one block."""

MUCH_DRIFT = 1.2
"""Two parts disagree strongly if the reference takes this many times as long in one as in the other."""


def comparison_noise(times_s: Sequence[np.ndarray], reference_s: np.ndarray) -> float:
    """Return the relative standard error of a network's mean latency, drift that it shares with the reference left out.

    Args:
        times_s: its latencies by exit in the order of measurement, one float64 array per exit.
        reference_s: the reference's latencies, measured in turns with it.
    """
    parts = _part_means(times_s)
    return min(_relative_error(parts), _relative_error(parts / part_medians(reference_s)))


def machine_noise(times_s: Sequence[np.ndarray], sessions: Sequence[np.ndarray]) -> float:
    """Return the relative standard error of a mean latency as a forecast for other times on this machine.

    It holds what parts of its own measurement differ by, and what the reference's latency differed by from one measurement of
    this calibration to the next.

    Args:
        times_s: as for `comparison_noise`.
        sessions: `part_medians` of the reference for each measurement of the calibration.
    """
    within = _relative_error(_part_means(times_s))
    means = np.array([parts.mean() for parts in sessions])
    between = float(means.std(ddof=1) / means.mean()) if len(means) > 1 else 0.0
    return float(np.hypot(within, between))


def part_medians(times_s: np.ndarray) -> np.ndarray:
    """Return the median latency in each part, float64 (parts,)."""
    return np.array([np.median(part) for part in np.array_split(times_s, _count_parts(times_s))])


def pool_falling(times_s: Sequence[np.ndarray], thresholds: Sequence[float] = ()) -> tuple[np.ndarray, ...]:
    """Return the latencies of a chain's exits with means that never fall from one exit to the next.

    Who leaves at an exit has run all that those before it run, so a mean that is smaller than an earlier exit's is noise. Such
    exits get the mean of all their calls (isotonic regression by pooling adjacent violators; Barlow et al., Statistical Inference
    under Order Restrictions, 1972). Else the search would let samples leave where the measurement was lucky.

    Args:
        times_s: latencies by exit, one float64 array per exit.
        thresholds: of a chain whose stages run as one where an exit is never taken. To leave there they run one by one, which may
            take longer than to go on: such exits stay as they are.
    """
    pools: list[list[int]] = []  # exits that share their mean
    means: list[float] = []
    for k in range(len(times_s)):
        if k < len(thresholds) and thresholds[k] >= NEVER:
            continue
        pools.append([k])
        means.append(float(times_s[k].mean()))
        while len(means) > 1 and means[-2] > means[-1]:
            last = pools.pop()
            pools[-1] += last
            means[-2:] = [float(np.concatenate([times_s[i] for i in pools[-1]]).mean())]
    raised = list(times_s)
    for pool, mean in zip(pools, means, strict=True):
        if len(pool) > 1:
            for k in pool:
                raised[k] = times_s[k] * (mean / times_s[k].mean())
    return tuple(raised)


def describe_drift(sessions: Sequence[np.ndarray], fixing: str = "") -> list[str]:
    """Say in a note how far the machine's speed changed while it was measured; no note if it changed little.

    Args:
        sessions: as for `machine_noise`.
        fixing: the command that fixes the clocks here; see `devices.Board`.
    """
    parts = np.concatenate(sessions)
    ratio = float(parts.max() / parts.min())
    if ratio < MUCH_DRIFT:
        return []
    clocks = f", with fixed clocks ({fixing})" if fixing else ""
    return [
        f"The machine's speed changed while it was measured: the same network took {ratio:.2f} times as long in one part as in "
        f"another. Small differences between networks say little. Measure again when nothing else runs{clocks}, on a core of its "
        "own (taskset -c 1 offramp ...), or for longer (--measure-s)."
    ]


def _part_means(times_s: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean latency in each part, float64 (parts,), each exit weighed by how often it was taken in all."""
    count = min(map(_count_parts, times_s))
    shares = np.array([len(times) for times in times_s]) / sum(map(len, times_s))
    means = [[part.mean() for part in np.array_split(times, count)] for times in times_s]
    return np.asarray(shares @ np.array(means))


def _count_parts(times_s: np.ndarray) -> int:
    return max(1, min(PARTS, len(times_s)))


def _relative_error(parts: np.ndarray) -> float:
    """Return the standard error of the mean of some parts, relative to the mean; 0 for a single part."""
    if len(parts) < 2:
        return 0.0
    return float(parts.std(ddof=1) / len(parts) ** 0.5 / parts.mean())
