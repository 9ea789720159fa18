"""Time for measurements: a clock that never goes back, waiting, and periodic calls."""

import threading
import time
from collections.abc import Callable

HANG_S = 2.0
"""A read that takes longer is taken to hang."""

HANGS = "its read does not return"

SHORT_S = 0.05
"""Below this period a periodic call sleeps; its end then waits for up to so long."""


def jitter(period_s: float, draw: Callable[[], float]) -> float:
    """Draw a distance between half a period and one and a half; `draw` gives numbers from 0 to 1."""
    return period_s * (0.5 + draw())


def wait_for(call: Callable[[], object], *, seconds: float = HANG_S) -> bool:
    """Call a function, but wait for some seconds only, since a driver may hang for ever. Return True if it has returned."""
    thread = threading.Thread(target=call, name="offramp-read", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # no thread can be started any more, or the process ends
        return False
    thread.join(seconds)
    return not thread.is_alive()


class Clock:
    """The machine's monotonic clock. `simulated.SimulatedClock` has the same methods and needs no waiting."""

    now_s: Callable[[], float] = staticmethod(time.perf_counter)
    """Return seconds since some start."""

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(max(0.0, seconds))

    def every(self, period_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call a function again and again from a thread of its own.

        The distances between calls are drawn from half a period to one and a half. Reads at a fixed beat would see a load of the
        same beat always at the same moment.

        Returns:
            A function that ends the calls. It waits for a call under way, but for a second at most: a read that hangs in a
            driver must not hold up a product.
        """
        from random import random  # it takes long to import

        stop = threading.Event()

        def loop() -> None:
            # Sleeping costs half of waiting for an event, but would delay the end of a long period.
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
