"""Boards of a fleet, simulated by Dask workers: their fingerprints, clocks and latencies are what a test says."""

from contextlib import contextmanager
from unittest.mock import patch

import distributed
from msgspec import Struct
from msgspec.structs import replace

from offramp.devices import fingerprint, identify
from offramp.devices.state import State
from offramp.runtime import Net

MOST_HZ = 1.8e9


class FakeBoard(Struct):
    """How many times as long a call takes as at 1.8 GHz, the highest clock, the clock now, and fields of the fingerprint."""

    slower: float = 1.0
    most_hz: float = MOST_HZ
    clock_hz: float = MOST_HZ
    fields: dict[str, str] = {}


BOARDS = {
    "board1": FakeBoard(),
    "board2": FakeBoard(0.75, 2.4e9, 2.4e9, {"max_clocks": "cpu0 2400 MHz"}),
    "board3": FakeBoard(1.5, MOST_HZ, 1.2e9, {"memory": "2.0 GiB"}),
}
"""Three boards of one kind and of three fingerprints. The last is throttled: it takes half as long again at 1.2 of 1.8 GHz."""


def here(boards):
    """Return the board that this work runs on; a usual one outside of any."""
    try:
        return boards.get(str(distributed.get_worker().name), FakeBoard())
    except ValueError:
        return FakeBoard()


@contextmanager
def simulated(boards):
    """Let work on Dask workers of this process, or of one that calls `simulate`, run on boards of these names."""
    call = Net.__call__

    def timed(net, x):
        result = call(net, x)
        static = " static " in f" {net.provenance.network} "
        return replace(result, latency_s=here(boards).slower * (1e-3 * (result.exit + 1) + (0 if static else 1e-5)))

    def pose(**asked):
        board = here(boards)
        return fingerprint(**asked) | {"max_clocks": f"cpu0 {board.most_hz / 1e6:.0f} MHz"} | board.fields

    def know():
        return replace(identify(), max_clock_hz={"cpu0": here(boards).most_hz})

    with (
        patch.object(Net, "__call__", timed),
        patch("offramp.fleet.board.fingerprint", pose),
        patch("offramp.fleet.board.identify", know),
        patch("offramp.calibrate.measure.session.BoardState", lambda: lambda: State(clock_hz=here(boards).clock_hz)),
    ):
        yield


def simulate(boards):
    """Pose as boards in this process from now on: for worker processes, which end with the test."""
    simulated(boards).__enter__()
