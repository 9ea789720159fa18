"""The pace of calls: the time from the start of one call to the start of the next.

    back to back   | call | call | call | call |
    every 100 ms   | call |  sleep  | call |  sleep  | call |  sleep  |

A product that calls ten times a second finds cold caches and low clocks each time: its calls take up to some times as long as
calls back to back.
"""

import math

from ..devices.clock import Clock
from ..errors import UsageError

__all__ = ["BACK_TO_BACK", "Pace"]

MOST_EVERY_S = 3600.0

BLOCK, PACED_BLOCK = 16, 4
"""Samples per turn. Behind a pause a call is cold whoever ran before it, so that short turns do no harm."""


class Pace:
    """Waits between calls.

    Args:
        every_s: the time from the start of one call to the start of the next; None makes calls back to back.
        clock: the time; the machine's by default.

    Raises:
        UsageError: `every_s` is no time above 0 and up to an hour.
    """

    def __init__(self, every_s: float | None = None, *, clock: Clock | None = None) -> None:
        if every_s is not None and not 0 < every_s <= MOST_EVERY_S:
            raise UsageError(f"every_s is a time in seconds above 0, at most {MOST_EVERY_S:.0f}, not {every_s}.")
        self.every_s, self._clock = every_s, clock or Clock()
        self._due_s = -math.inf

    @property
    def block(self) -> int:
        """Samples per turn."""
        return BLOCK if self.every_s is None else PACED_BLOCK

    def wait(self) -> None:
        """Sleep until the next call is due. A call that took longer than the pace is followed at once."""
        if self.every_s is None:
            return
        now_s = self._clock.now_s()
        if now_s < self._due_s:
            self._clock.sleep(self._due_s - now_s)
        self._due_s = max(self._due_s, now_s) + self.every_s


BACK_TO_BACK = Pace()
"""No pause between calls."""
