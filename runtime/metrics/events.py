"""What happened between two snapshots, and the log that it is written to: one JSON object a line."""

import logging
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from .snapshot import Snapshot

__all__ = ["EventLog", "find_events"]


def find_events(before: Snapshot, now: Snapshot) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of each event between two snapshots, and what there is to say of it."""
    if before.point != now.point:
        yield "point", {"before": before.point, "after": now.point}
    for kind in ("errors", "faults"):
        for name, count in getattr(now, kind).items():
            if count > (seen := getattr(before, kind).get(name, 0)):
                last = {"last": now.last_error} if kind == "errors" else {}
                yield kind, {"kind": name, "count": count - seen, **last}
    for name in now.alarms or ():
        if name not in (before.alarms or ()):
            yield "alarm", {"alarm": name, "audited": now.audited, "disagreeing": now.disagreeing}
    if (before.away or "") != (now.away or ""):
        yield "away" if now.away else "back", {"what": now.away or before.away}
    if before.meter_problem != now.meter_problem:
        yield "meter_lost" if now.meter_problem else "meter_back", {"problem": now.meter_problem}
    if now.governor_problem and not before.governor_problem:
        yield "limit_exceeded", {"problem": now.governor_problem}


class EventLog:
    """Appends events to a file, or gives them to a logger.

    Args:
        target: the file, whose folder is there; or the logger, which gets them at the level info.
    """

    def __init__(self, target: Path | logging.Logger) -> None:
        self._target = target

    def write(self, at_s: float, name: str, event: str, fields: Mapping[str, Any]) -> None:
        """Write what happened at a Unix time to the network of that name."""
        at = datetime.fromtimestamp(at_s, timezone.utc).isoformat(timespec="milliseconds")
        line = msgspec.json.encode({"at": at, "net": name, "event": event, **fields})
        if isinstance(self._target, logging.Logger):
            self._target.info("%s", line.decode())
            return
        with self._target.open("ab", buffering=0) as file:  # opened for each event, so that the file may be rotated
            file.write(line + b"\n")
