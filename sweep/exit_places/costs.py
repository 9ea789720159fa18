"""What leaving at each exit costs in a network that has only some of the exits.

    static_s    [ body to exit k and its head, in one graph ]
    passing_s   [ head, call, and what the engine cannot fuse across the cut ]    of each exit that is passed on the way

A network with the exits 1 and 4 of six answers at exit 4 after `static_s[4] + passing_s[1]`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct

from ...calibrate.measure.tables import Costs
from ...errors import require

__all__ = ["ExitCosts", "fit_costs"]


class ExitCosts(Struct, frozen=True):
    """Latencies of which those of every set of exits are made, in seconds.

    Attributes:
        static_s: of the static network that ends at each exit, float64 (exits,).
        passing_s: what each exit but the last takes from samples that do not leave there, float64 (exits - 1,).
        handing_s: what a stage takes besides since it keeps its features for the next one, also where samples leave.
    """

    static_s: np.ndarray
    passing_s: np.ndarray
    handing_s: float = 0.0

    def latency_s(self, exits: Sequence[int]) -> np.ndarray:
        """Return the latency of leaving at each of some exits, the last among them: float64 (len(exits),)."""
        early, kept = list(exits[:-1]), list(exits)
        passed_s = np.concatenate([[0.0], np.cumsum(self.passing_s[early])])
        handing_s = np.full(len(kept), self.handing_s)
        handing_s[-1] = 0.0
        return np.asarray(self.static_s[kept] + passed_s + handing_s)


def as_costs(latency_s: Sequence[float] | np.ndarray) -> Costs:
    """Return latencies as costs of a table, whose spread is not known."""
    return Costs(tuple(np.array([each]) for each in latency_s))


def fit_costs(static_s: Sequence[float], chains: Mapping[tuple[int, ...], Sequence[float]]) -> ExitCosts:
    """Fit costs to what was measured, none of them below 0 (least squares).

    Args:
        static_s: the latency of the static network that ends at each exit.
        chains: for some sets of exits, each with the last, the latency of leaving at each of them. Every exit but the last is in
            one of them.

    Raises:
        MissingError: scipy is not installed.
    """
    nnls = require("scipy.optimize", extra="calibrate").nnls
    count, rows, extra_s = len(static_s) - 1, [], []
    for exits, latency_s in chains.items():
        for at, exit_ in enumerate(exits):
            row = np.zeros(count + 1)
            row[list(exits[:at])] = 1
            row[count] = at < len(exits) - 1
            rows.append(row)
            extra_s.append(latency_s[at] - static_s[exit_])
    *passing_s, handing_s = nnls(np.array(rows), np.array(extra_s))[0]
    return ExitCosts(np.array(static_s), np.array(passing_s), float(handing_s))
