"""A product's program: load the bundle once, classify inputs, log statistics every minute, stop cleanly.

    python classify.py net.offramp samples.npz > answers.jsonl

Replace `read_inputs` by your camera or microphone. One line of JSON for each input goes to stdout; the log goes to stderr, which
systemd keeps in its journal. SIGTERM, which systemd sends, ends the program after the current input. systemd's watchdog is told
once a second that the network answers. With --metrics `offramp top FILE` shows live what it does.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from offramp.errors import DataError
from offramp.runtime import Metrics, load

LOG_EVERY_S, NOTIFY_EVERY_S = 60.0, 1.0


def notify(state: str) -> None:
    """Tell systemd `READY=1` or `WATCHDOG=1`, as sd_notify(3) does; without systemd do nothing."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.connect("\0" + address[1:] if address[0] == "@" else address)
        systemd.send(state.encode())


def read_inputs(path: str) -> Iterator[np.ndarray]:
    """Yield the inputs one by one, here those in the array `x` of an .npz file."""
    with np.load(path) as samples:
        yield from samples["x"]


def main() -> None:
    arguments = argparse.ArgumentParser(description="Classify inputs as they come.")
    arguments.add_argument("bundle")
    arguments.add_argument("inputs")
    arguments.add_argument("--device", help="by default the device of the calibration")
    arguments.add_argument("--point", help="the operating point; by default the first one")
    arguments.add_argument("--metrics", help="a file that shows what the network does, written every five seconds")
    given = arguments.parse_args()
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))

    def log(line: Any) -> None:
        print(line, file=sys.stderr, flush=True)

    with load(given.bundle, given.device, point=given.point, meter="auto") as net, contextlib.ExitStack() as stack:
        log([stage.runs_on for stage in net.provenance.stages])
        if given.metrics:
            stack.enter_context(Metrics(net, file=given.metrics))
        notify("READY=1")
        logged_s = notified_s = time.monotonic()
        for x in read_inputs(given.inputs):
            try:
                answer = net(x)
            except DataError as error:  # one bad input is no reason to stop
                log(error)
                continue
            row = {"label": int(answer.label), "score": float(answer.score), "exit": answer.exit}
            print(json.dumps(row | {"latency_s": answer.latency_s}), flush=True)
            if time.monotonic() - notified_s > NOTIFY_EVERY_S:
                notify("WATCHDOG=1")
                notified_s = time.monotonic()
            if time.monotonic() - logged_s > LOG_EVERY_S:
                log(net.stats())
                logged_s = time.monotonic()
            if stopping:
                break
        log(net.stats())


if __name__ == "__main__":
    main()
