"""What runs in a product: load once, classify what comes, tell now and then how it goes, stop cleanly.

    python classify.py net.offramp samples.npz > answers.jsonl

Replace `read_inputs` by your camera or microphone. One line of JSON for each input goes to stdout; the log goes to stderr, which
systemd keeps in its journal. SIGTERM, as systemd sends it, ends it after the input at hand.
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

TELL_S = 60.0


def read_inputs(path: str) -> Iterator[np.ndarray]:
    """Give the inputs one by one, here the `x` of an .npz file."""
    with np.load(path) as samples:
        yield from samples["x"]


def main() -> None:
    arguments = argparse.ArgumentParser(description="Classify inputs as they come.")
    arguments.add_argument("bundle")
    arguments.add_argument("inputs")
    arguments.add_argument("--device", help="where the calibration was made, by default")
    arguments.add_argument("--point", help="the operating point; its only or first one by default")
    given = arguments.parse_args()
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))

    def log(what: Any) -> None:
        print(what, file=sys.stderr, flush=True)

    with load(given.bundle, given.device, point=given.point, meter="auto") as net:
        log([stage.runs_on for stage in net.provenance.stages])
        told = time.monotonic()
        for x in read_inputs(given.inputs):
            try:
                answer = net(x)
            except DataError as error:  # one bad input ends nothing
                log(error)
                continue
            row = {"label": int(answer.label), "score": float(answer.score), "exit": answer.exit}
            print(json.dumps(row | {"latency_s": answer.latency_s}), flush=True)
            if time.monotonic() - told > TELL_S:
                log(net.stats())
                told = time.monotonic()
            if stopping:
                break
        log(net.stats())


if __name__ == "__main__":
    main()
