"""Time as measurements see it: a clock that never goes back, waiting, and doing something again and again."""

import random
import threading
import time
from collections.abc import Callable


def jitter(period_s: float, draw: Callable[[], float] = random.random) -> float:
    """Draw a distance between half and three halves of a period."""
    return period_s * (0.5 + draw())


class Clock:
    """The machine's monotonic clock. `simulated.SimulatedClock` has the same methods and needs no waiting."""

    def now_s(self) -> float:
        """Return seconds since some start."""
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(max(0.0, seconds))

    def every(self, period_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Call something again and again from a thread of its own; what was missed is left out.

        The distances are drawn between half and three halves of the period: reads at a fixed beat would see a load of the same
        beat always at the same moment.

        Returns:
            A function that ends it. It waits for a call under way, but not longer than a second: a read that hangs in a driver
            must not hold up a product.
        """
        stop = threading.Event()

        def loop() -> None:
            due = self.now_s() + jitter(period_s)
            while not stop.wait(max(0.0, due - self.now_s())):
                call()
                due = max(due + jitter(period_s), self.now_s())

        thread = threading.Thread(target=loop, name="offramp-meter", daemon=True)
        thread.start()

        def end() -> None:
            stop.set()
            if thread is not threading.current_thread():
                thread.join(1.0)

        return end
