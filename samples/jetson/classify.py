"""A product's program: load the bundle once, classify inputs, log statistics every minute, stop cleanly.

    python classify.py net.offramp samples.npz > answers.jsonl

Replace `read_inputs` by your camera or microphone. One line of JSON for each input goes to stdout; the log goes to stderr, which
systemd keeps in its journal. SIGTERM, which systemd sends, ends the program after the current input.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from offramp.errors import DataError
from offramp.runtime import load

LOG_EVERY_S = 60.0


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
    given = arguments.parse_args()
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))

    def log(line: Any) -> None:
        print(line, file=sys.stderr, flush=True)

    with load(given.bundle, given.device, point=given.point, meter="auto") as net:
        log([stage.runs_on for stage in net.provenance.stages])
        logged_s = time.monotonic()
        for x in read_inputs(given.inputs):
            try:
                answer = net(x)
            except DataError as error:  # one bad input is no reason to stop
                log(error)
                continue
            row = {"label": int(answer.label), "score": float(answer.score), "exit": answer.exit}
            print(json.dumps(row | {"latency_s": answer.latency_s}), flush=True)
            if time.monotonic() - logged_s > LOG_EVERY_S:
                log(net.stats())
                logged_s = time.monotonic()
            if stopping:
                break
        log(net.stats())


if __name__ == "__main__":
    main()
