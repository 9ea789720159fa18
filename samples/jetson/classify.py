"""A program for a product: load a bundle once, classify every input, log statistics once a minute, stop cleanly.

    python classify.py net.offramp samples.npz > answers.jsonl

Replace `read_inputs` by your camera or microphone. The program writes one line of JSON per input to stdout. The log goes to stderr,
which systemd keeps in its journal. On SIGTERM, which systemd sends to stop a service, it finishes the current input and ends.
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
    """Yield inputs one by one, here from the array `x` of an .npz file."""
    with np.load(path) as samples:
        yield from samples["x"]


def main() -> None:
    arguments = argparse.ArgumentParser(description="Classify inputs as they come.")
    arguments.add_argument("bundle")
    arguments.add_argument("inputs")
    arguments.add_argument("--device", help="the device to run on; the calibration's by default")
    arguments.add_argument("--point", help="the operating point; its only or first one by default")
    given = arguments.parse_args()
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))

    def log(entry: Any) -> None:
        print(entry, file=sys.stderr, flush=True)

    with load(given.bundle, given.device, point=given.point, meter="auto") as net:
        log([stage.runs_on for stage in net.provenance.stages])
        logged = time.monotonic()
        for x in read_inputs(given.inputs):
            try:
                answer = net(x)
            except DataError as error:  # one bad input must not end the service
                log(error)
                continue
            row = {"label": int(answer.label), "score": float(answer.score), "exit": answer.exit}
            print(json.dumps(row | {"latency_s": answer.latency_s}), flush=True)
            if time.monotonic() - logged > LOG_EVERY_S:
                log(net.stats())
                logged = time.monotonic()
            if stopping:
                break
        log(net.stats())


if __name__ == "__main__":
    main()
