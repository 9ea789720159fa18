"""A network that counts where its inputs leave, how sure the exits are, how long calls take, and what went wrong."""

from bisect import bisect_left
from collections.abc import Generator
from functools import cache
from threading import RLock
from time import time
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ...errors import printable
from ..chain.net import Net
from ..chain.results import BatchResult, Result
from ..chain.stats import Stats

LATENCY_EDGES_S = (
    *(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3),
    *(1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1.0, 2.0, 5.0, 10.0),
)
"""Upper ends of the bins of latencies. What took longer than the last one has a bin of its own."""

SCORE_EDGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Upper ends of the bins of scores: narrower where thresholds lie most often."""

MOST_KINDS, OTHERS = 16, "other"
"""So many kinds of errors are told apart; those that come later are counted as one."""

ENERGY = "energy_j"


class Counters:
    """What a network and its clones have counted since counting began; any thread may add.

    Attributes:
        lock: held while something is added or read, by a signal handler too.
        latencies, scores: by exit, how many calls lie in each bin.
        latency_sums, score_sums: by exit.
        untimed: answers by exit that are not among the latencies: those of batches and of `anytime`.
        cut, late: calls that left early because of their deadline, and calls that missed it.
        errors: how often calls raised an error, by its class.
        last_answer_s, last_error_s: Unix times; 0 if there was none.
        last_error: the last error in words.
        reset_sums: what `read_sums` gave whenever the network's statistics were reset, added.

    Args:
        exits: one more than the highest number of an exit.
    """

    def __init__(self, exits: int) -> None:
        self.lock = RLock()
        self.latencies = [[0] * (len(LATENCY_EDGES_S) + 1) for _ in range(exits)]
        self.scores = [[0] * (len(SCORE_EDGES) + 1) for _ in range(exits)]
        self.latency_sums, self.score_sums, self.untimed = [0.0] * exits, [0.0] * exits, [0] * exits
        self.cut = self.late = 0
        self.errors: dict[str, int] = {}
        self.reset_sums: dict[str, float] = {}
        self.last_answer_s = self.last_error_s = 0.0
        self.last_error = ""

    def add(self, result: Result) -> None:
        """Count the answer of a call with one sample."""
        k, latency_s, score = result.exit, result.latency_s, result.score
        latency_bin, score_bin = bisect_left(LATENCY_EDGES_S, latency_s), bisect_left(SCORE_EDGES, score)
        lock = self.lock
        try:  # the same as `with lock`, in a third of the time
            lock.acquire()
            if not result.reused:  # else score and exit are those of an earlier input, and a stream counts it
                self.latencies[k][latency_bin] += 1
                self.latency_sums[k] += latency_s
                self.scores[k][score_bin] += 1
                self.score_sums[k] += score
            self.last_answer_s = time()
            if result.cut:
                self.cut += 1
            if result.late:
                self.late += 1
        finally:
            try:  # noqa: SIM105
                lock.release()
            except RuntimeError:  # it was interrupted before it had the lock
                pass

    def add_untimed(self, result: Result) -> None:
        """Count the last answer of an `anytime`."""
        with self.lock:
            self.untimed[result.exit] += 1
            self.scores[result.exit][bisect_left(SCORE_EDGES, result.score)] += 1
            self.score_sums[result.exit] += result.score
            self.last_answer_s = time()

    def add_batch(self, result: BatchResult) -> None:
        """Count the answers of a batch."""
        bins, parts = np.searchsorted(SCORE_EDGES, result.score), []
        for k in range(len(self.untimed)):
            here = result.exit == k
            if count := int(here.sum()):
                scores = np.bincount(bins[here], minlength=len(self.scores[k])).tolist()
                parts.append((k, count, scores, float(result.score[here].sum(dtype=float))))
        with self.lock:  # a signal handler that comes in between adds to the same lists
            for k, count, scores, total in parts:
                self.untimed[k] += count
                self.score_sums[k] += total
                kept = self.scores[k]
                for place, more in enumerate(scores):
                    kept[place] += more
            self.last_answer_s = time()

    def fail(self, error: Exception) -> None:
        """Count a call that raised an error."""
        with self.lock:
            kind = type(error).__name__
            kind = kind if kind in self.errors or len(self.errors) < MOST_KINDS else OTHERS
            self.errors.setdefault(kind, 0)
            self.errors[kind] += 1
            self.last_error_s, self.last_error = time(), printable(f"{type(error).__name__}: {error}", 500)


def read_sums(stats: Stats) -> dict[str, float]:
    """Return what statistics have added up since their last reset: joules, and faults by kind."""
    faults: Any = getattr(stats, "faults", None)
    kinds = {} if faults is None else msgspec.structs.asdict(faults)
    sums: dict[str, float] = {kind: count for kind, count in kinds.items() if isinstance(count, int)}
    if stats.power is not None:
        sums[ENERGY] = stats.power.energy_j
    return sums


class CountedNet(Net):
    """A network that counts; `count_net` makes one of any other, and `uncount_net` undoes that."""

    _counters: Counters

    if TYPE_CHECKING:

        def _call(self, x: Any, deadline_s: float | None) -> Result:
            """Call the network beneath, in a fourth of the time that `super` takes."""

    # Of a call within a call it is the inner network, one of this class too, that counts.

    def __call__(self, x: Any, deadline_s: float | None = None) -> Result:
        """Run one sample, as without counting."""
        if self._lock._is_owned():
            return self._call(x, deadline_s)
        try:
            result = self._call(x, deadline_s)
        except Exception as error:
            self._counters.fail(error)
            raise
        self._counters.add(result)
        return result

    def batch(self, x: Any) -> BatchResult:
        """Run many samples, as without counting."""
        if self._lock._is_owned():
            return super().batch(x)
        plain: Net = object.__new__(type(self).__mro__[2])
        plain.__dict__ = self.__dict__  # the same network: if it runs samples one by one, they are not counted twice
        try:
            result = plain.batch(x)
        except Exception as error:
            self._counters.fail(error)
            raise
        self._counters.add_batch(result)
        return result

    def anytime(self, x: Any) -> Generator[Result, None, None]:
        """Run one sample through every exit, as without counting."""
        answers, result = super().anytime(x), None
        if self._lock._is_owned():
            yield from answers
            return
        try:
            for result in answers:
                yield result
        except Exception as error:
            self._counters.fail(error)
            raise
        finally:
            answers.close()
            if result is not None:
                self._counters.add_untimed(result)

    def stats(self, *, reset: bool = False) -> Stats:
        """Return the statistics, as without counting. Metrics count on after a reset."""
        stats = super().stats(reset=reset)
        if reset:
            with self._counters.lock:
                sums = self._counters.reset_sums
                sums |= {name: sums.get(name, 0) + value for name, value in read_sums(stats).items()}
        return stats


@cache
def _counted(base: type[Net]) -> type[CountedNet]:
    return type(f"Counted{base.__name__}", (CountedNet, base), {"_call": base.__call__})


def count_net(net: Net, counters: Counters) -> None:
    """Make a network count; clones that are made of it count too. What counted before with it counts no longer."""
    if isinstance(net, CountedNet):
        uncount_net(net)
    net._counters = counters  # type: ignore[attr-defined]
    net.__class__ = _counted(type(net))  # type: ignore[arg-type]


def uncount_net(net: CountedNet) -> None:
    """Make a network what it was before."""
    net.__class__ = type(net).__mro__[2]
