"""Time as measurements see it: a clock that never goes back, waiting, and doing something again and again."""

import threading
import time
from collections.abc import Callable

HANG_S = 2.0
"""A read that takes longer does not return."""

HANGS = "its read does not return"

SHORT_S = 0.05
"""So long may the end of a background task wait for its next turn."""


def jitter(period_s: float, draw: Callable[[], float]) -> float:
    """Draw a distance between half and three halves of a period."""
    return period_s * (0.5 + draw())


def wait_for(call: Callable[[], object], *, seconds: float = HANG_S) -> bool:
    """Call something, but wait for some seconds only; tell whether it has returned. A driver may hang for ever."""
    thread = threading.Thread(target=call, name="offramp-read", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no more threads may be had, or the process ends
        return False
    thread.join(seconds)
    return not thread.is_alive()


class Clock:
    """The machine's monotonic clock. `simulated.SimulatedClock` has the same methods and needs no waiting."""

    now_s: Callable[[], float] = staticmethod(time.perf_counter)
    """Returns seconds since some start."""

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(max(0.0, seconds))

    def every(self, period_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call something again and again from a thread of its own.

        The distances are drawn between half and three halves of the period: reads at a fixed beat would see a load of the same
        beat always at the same moment.

        Returns:
            A function that ends it. It waits for a call under way, but not longer than a second: a read that hangs in a driver
            must not hold up a product.
        """
        from random import random  # which takes long to import

        stop = threading.Event()

        def loop() -> None:
            # To sleep takes half of what waiting for an event does; where that would hold an end up, wait.
            wait = stop.wait if period_s > SHORT_S else time.sleep
            while True:
                wait(jitter(period_s, random))
                if stop.is_set():
                    return
                call()

        thread = threading.Thread(target=loop, name="offramp-meter", daemon=True)
        thread.start()

        def end() -> None:
            stop.set()
            if thread is not threading.current_thread():
                thread.join(1.0)

        return end
