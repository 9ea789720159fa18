"""The metrics of a product: counts what its network, stream and governor do, and shows it to whoever asks."""

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import msgspec

from ... import __version__
from ...devices.clock import Clock
from ...errors import UsageError, printable
from ...files import check_writable, write_atomically
from ..chain.forks import LIVING, members
from ..chain.net import Net
from ..governor import MOST_MOVES, Governor, Move
from ..streams import Stream
from .counting import ENERGY, LATENCY_EDGES_S, SCORE_EDGES, CountedNet, Counters, count_net, read_sums, uncount_net
from .events import EventLog, find_events
from .snapshot import ExitCounts, Histogram, Snapshot

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter as OtelMeter
    from prometheus_client.registry import Collector

__all__ = ["Metrics"]

KEPT: "WeakSet[Metrics]" = WeakSet()
"""The metrics of this process that are not closed."""


class Metrics:
    """Counts what a network does in a product, and shows it: as a snapshot, to Prometheus, to OpenTelemetry, in files.

    Its clones count with it, those that are made later too. Each call with one sample takes one to two microseconds more until
    `close`. A thread looks every `every_s` seconds if a file is to be written. Nothing that fails there stops the product:
    `problem` says what failed.

    A forked child counts nothing: give it metrics of its own.

    Args:
        net: the network.
        stream: the stream whose inputs are counted.
        governor: the governor whose moves are counted.
        name: the network's name, where a product runs several.
        file: where the snapshot is written as JSON, each time in the place of the one before. In `/run` it wears out no card.
        health: where it is written in a line whether the network answers (`Snapshot.health`). The file's time of change is the
            time of the last answer, so that a watchdog need only see how old it is.
        log: a file to which what happens is appended, one JSON object a line, or a logger that gets these lines. Events are
            loaded, point, errors, faults, away, back, alarm, drops_begin, drops_end, meter_lost, meter_back, limit_exceeded and
            closed.
        every_s: the time between two looks, about.

    Attributes:
        name: the network's name.
        problem: what failed at the last look, in words; empty if nothing did.

    Raises:
        UsageError: the network is counted already, or an argument does not make sense.
        MissingError: a file cannot be written.

    Example:
        >>> import numpy as np
        >>> from offramp.runtime import Metrics, load_uncalibrated
        >>> with load_uncalibrated("digits.offramp") as net, Metrics(net, file="metrics.json") as metrics:
        ...     results = [net(x) for x in np.load("test.npz")["x"][:20]]
        ...     [exit_.answers for exit_ in metrics.snapshot().exits]
        [0, 0, 20]
    """

    _counters: Counters

    def __init__(
        self,
        net: Net,
        *,
        stream: Stream | None = None,
        governor: Governor | None = None,
        name: str = "net",
        file: str | os.PathLike[str] | None = None,
        health: str | os.PathLike[str] | None = None,
        log: str | os.PathLike[str] | logging.Logger | None = None,
        every_s: float = 5.0,
    ) -> None:
        if isinstance(net, CountedNet) and any(each._counters is net._counters for each in members(KEPT)):
            raise UsageError("This network has metrics already. Close those first.")
        seconds: Any = every_s
        if not isinstance(seconds, Real) or not 0 < every_s < threading.TIMEOUT_MAX:
            raise UsageError(f"every_s is a number of seconds above 0, not {every_s!r:.30}.")
        self._net, self._stream, self._governor, self.name, self.problem = net, stream, governor, name, ""
        self._file, self._health = (None if path is None else Path(path) for path in (file, health))
        target = log if log is None or isinstance(log, logging.Logger) else Path(log)
        for path in (self._file, self._health, target):
            if isinstance(path, Path):
                check_writable(path)
        self._log = None if target is None else EventLog(target)
        self._every_s = 0.0 if file is health is log is None else float(every_s)
        self._counters = Counters(net._first_exit + len(net.exits))
        self._busy = threading.RLock()
        self._started_s = time.time()
        self._first_sums = read_sums(net.stats())
        self._moves, self._untold = 0, deque[Move](maxlen=MOST_MOVES)
        self._last_move = governor.moves[-1] if governor and governor.moves else None
        self._dropped, self._is_dropping = 0 if stream is None else stream.stats().dropped, False
        self._ends: list[Callable[[], object]] = []
        self._before = self.snapshot()
        self._tell("loaded", runs=self._before.runs, devices=self._before.devices, offramp=__version__)
        for each in members(LIVING):
            if each._tally.family is net._tally.family:
                count_net(each, self._counters)
        KEPT.add(self)
        self.look()
        if self._every_s:
            self._ends.append(Clock().every(self._every_s, self.look))

    def snapshot(self) -> Snapshot:
        """Return what was counted until now."""
        net, counters, governor = self._net, self._counters, self._governor
        stats, point = net.stats(), net.point
        audit, power, faults = stats.audit, stats.power, getattr(stats, "faults", None)
        sums = read_sums(stats)
        with self._busy:
            self._count_moves()
        with counters.lock:  # for which calls may wait
            for name in sums:
                sums[name] += counters.reset_sums.get(name, 0) - self._first_sums.get(name, 0)
            counted: dict[str, Any] = {
                "exits": tuple(self._count_exits()),
                "cut": counters.cut,
                "late": counters.late,
                "errors": dict(counters.errors),
                "last_answer_s": counters.last_answer_s or None,
                "last_error_s": counters.last_error_s or None,
                "last_error": counters.last_error,
            }
        return Snapshot(
            at_s=time.time(),
            started_s=self._started_s,
            every_s=self._every_s,
            name=self.name,
            runs=net.provenance.network,
            devices=net.provenance.devices,
            point=None if point is None else point.name,
            points=tuple(net.points),
            faults={name: int(count) for name, count in sums.items() if name != ENERGY},
            away=None if faults is None else faults.away,
            stream=None if self._stream is None else self._stream.stats(),
            audited=None if audit is None else audit.audited,
            disagreeing=None if audit is None else audit.disagreeing,
            alarms=None if audit is None else audit.alarms,
            energy_j=None if power is None or not power.meter else sums[ENERGY],
            meter_problem=None if power is None else printable(power.problem or "", 500),
            temperature_c=stats.state.temperature_c,
            moves=None if governor is None else self._moves,
            governor_problem=None if governor is None else governor.problem,
            **counted,
        )

    def look(self) -> None:
        """Write what is to be written: the snapshot, the health, and what has happened since the last look."""
        with self._busy:
            try:
                before, now = self._before, self.snapshot()
                self._before = now
                for event, fields in find_events(before, now):
                    if event != "point" or self._governor is None:  # whose moves say why, too
                        self._tell(event, **fields)
                while self._untold:
                    move = self._untold.popleft()
                    self._tell("point", before=move.before, after=move.after, why=move.why)
                self._tell_drops(now)
                self._write(now, now.health)
                self.problem = ""
            except Exception as error:  # a full disk must not end what looks
                self.problem = printable(f"{type(error).__name__}: {error}")

    def collector(self, *others: "Metrics") -> "Collector":
        """Return what shows the metrics to Prometheus: give it to the `register` of a `prometheus_client` registry.

        Args:
            others: those of the product's other networks.

        Raises:
            MissingError: prometheus-client is not installed.
            UsageError: two of them have one name.

        Example:
            >>> from prometheus_client import CollectorRegistry, generate_latest
            >>> from offramp.runtime import Metrics, load_uncalibrated
            >>> with load_uncalibrated("digits.offramp") as net, Metrics(net) as metrics:
            ...     registry = CollectorRegistry()
            ...     registry.register(metrics.collector())
            ...     "offramp_answers_total" in generate_latest(registry).decode()
            True
        """
        from .prometheus import make_collector

        if len({each.name for each in (self, *others)}) <= len(others):
            raise UsageError("Metrics on one page need different names: Metrics(net, name=...).")
        return make_collector([each.snapshot for each in (self, *others)])

    def serve(self, port: int, address: str = "127.0.0.1", *, others: "Sequence[Metrics]" = ()) -> int:
        """Show the metrics to Prometheus by HTTP, in a thread that ends with `close`.

        Args:
            port: 0 takes any that is free.
            address: by default this machine alone can read them; "0.0.0.0" shows them to all.
            others: as for `collector`.

        Returns:
            The port.

        Raises:
            MissingError: prometheus-client is not installed, or the port cannot be taken.

        Example:
            >>> from offramp.runtime import Metrics, load_uncalibrated
            >>> with load_uncalibrated("digits.offramp") as net, Metrics(net) as metrics:
            ...     metrics.serve(0) > 0
            True
        """
        from .prometheus import start_server

        taken, end = start_server(self.collector(*others), port, address)
        self._ends.append(end)
        return taken

    def observe(self, meter: "OtelMeter") -> None:
        """Show the metrics to OpenTelemetry, by instruments that read them when the product's exporter asks.

        Args:
            meter: of the product's `MeterProvider`: `provider.get_meter("offramp")`.

        Raises:
            MissingError: OpenTelemetry is not installed.

        Example:
            >>> from opentelemetry.sdk.metrics import MeterProvider
            >>> from offramp.runtime import Metrics, load_uncalibrated
            >>> with load_uncalibrated("digits.offramp") as net, Metrics(net) as metrics:
            ...     metrics.observe(MeterProvider().get_meter("offramp"))
        """
        from .otel import make_instruments

        make_instruments(meter, self.snapshot)

    def close(self) -> None:
        """Look once more, and count no longer. The network stays open."""
        if self not in KEPT:
            return
        KEPT.discard(self)
        while self._ends:
            self._ends.pop()()
        self.look()
        with contextlib.suppress(Exception):
            self._tell("closed")
            self._write(self._before, f"closed: {self._before.health}")
        self._let_go()

    def __enter__(self) -> "Metrics":
        """Return the metrics themselves."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the metrics."""
        self.close()

    def _let_go(self) -> None:
        """Make the networks what they were."""
        for net in members(LIVING):
            if isinstance(net, CountedNet) and net._counters is self._counters:
                uncount_net(net)

    def follow_fork(self) -> None:
        """Count nothing in a child: a thread that is not here may hold the locks."""
        KEPT.discard(self)
        self._counters.lock, self._busy = threading.RLock(), threading.RLock()
        self._ends.clear()
        self._let_go()

    def _count_exits(self) -> Iterator[ExitCounts]:
        net, counters = self._net, self._counters
        shares = net.point.exit_shares if net.point is not None else ()
        for place, name in enumerate(net.exits):
            k = net._first_exit + place
            latency = Histogram(LATENCY_EDGES_S, tuple(counters.latencies[k]), counters.latency_sums[k])
            yield ExitCounts(
                exit=k,
                name=name,
                answers=latency.count + counters.untimed[k],
                calibrated_share=shares[place] if len(shares) == len(net.exits) else None,
                latency_s=latency,
                score=Histogram(SCORE_EDGES, tuple(counters.scores[k]), counters.score_sums[k]),
            )

    def _count_moves(self) -> None:
        if self._governor is None:
            return
        new: list[Move] = []
        for move in reversed(self._governor.moves):
            if move is self._last_move:
                break
            new.append(move)
        if new:
            self._last_move = new[0]
        self._moves += len(new)
        self._untold.extend(reversed(new))

    def _tell_drops(self, now: Snapshot) -> None:
        """Tell when inputs begin to be dropped, and when that has ended."""
        if now.stream is None:
            return
        drops = now.stream.dropped > self._dropped
        if drops != self._is_dropping:
            self._tell("drops_begin" if drops else "drops_end", dropped=now.stream.dropped, came=now.stream.came)
        self._dropped, self._is_dropping = now.stream.dropped, drops

    def _tell(self, event: str, **fields: Any) -> None:
        if self._log is not None:
            self._log.write(time.time(), self.name, event, fields)

    def _write(self, now: Snapshot, health: str) -> None:
        if self._file is not None:
            write_atomically(self._file, msgspec.json.encode(now))
        if self._health is not None:
            write_atomically(self._health, f"{health}\n".encode())
            last_s = now.last_answer_s or now.started_s
            os.utime(self._health, (last_s, last_s))


def _follow_fork() -> None:
    for metrics in list(KEPT):
        metrics.follow_fork()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_follow_fork)
