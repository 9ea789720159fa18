"""How much longer a call takes behind a pause than back to back, as a short trial finds it.

    | pause | call | call | call |  | pause | call | call | call |
               ^             ^ back to back
               behind the pause

Measurements are made back to back unless a pace is given. A product that pauses between its calls finds caches and clocks that
have cooled down: the trial tells whether that matters here.
"""

import time
from collections.abc import Callable

import numpy as np

from ...runtime import Net
from ...runtime.chain.samples import Samples
from ...units import show_us

__all__ = ["describe_pauses"]

PAUSE_S = 0.05
LEAST_ROUNDS, MOST_ROUNDS = 6, 12
MUCH_LONGER = 1.25
"""What is less cannot be told from noise by so few calls."""


def describe_pauses(net: Net, x: Samples, *, seconds: float, sleep: Callable[[float], None] = time.sleep) -> list[str]:
    """Say in a note how much longer the calls of a network take behind a pause; no note if they hardly do.

    Args:
        net: the network.
        x: samples.
        seconds: the time it may take; nothing is measured if that is too short for six rounds.
        sleep: makes the pause.
    """
    rounds = min(MOST_ROUNDS, int(seconds / (PAUSE_S + 3 * net(x[0]).latency_s)))
    if rounds < LEAST_ROUNDS:
        return []
    paused_s, steady_s = [], []
    for i in range(rounds):
        sample = x[i % len(x)]
        sleep(PAUSE_S)
        paused_s.append(net(sample).latency_s)
        net(sample)
        steady_s.append(net(sample).latency_s)
    paused, steady = float(np.median(paused_s)), float(np.median(steady_s))
    if paused < MUCH_LONGER * steady:
        return []
    pause = f"{PAUSE_S * 1e3:.0f}"
    return [
        f"Behind a pause of {pause} ms a call takes {paused / steady:.1f} times as long as back to back: the whole network "
        f"{show_us(paused)} against {show_us(steady)} (medians of {rounds} calls). All other latencies are of calls back to "
        f"back. If the product pauses between its calls, give its pace, such as --every {pause}ms."
    ]
