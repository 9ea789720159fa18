"""Does anything grow or slow down? Many calls of one network with every feature on, on a simulated board.

    python tests/benchmarks/soak.py [--calls 1000000] [--json FILE]

The network is the small one of tests/bundle/archive, with two operating points made by hand. Its late stages are lazy, a share
of its inputs is audited and kept, a stream with smoothing feeds it from a thread, deadlines cut some calls, batches and `anytime`
come in between, a governor moves it between its points by the watts of the simulated board, faults would be answered for, and
metrics are counted and written every second. Every 5000 calls nothing calls for a moment, so that lazy stages are let go. After
ten thousand calls and after each tenth: resident memory, threads and descriptors. The p99 is that of calls without a deadline,
in the first and the last tenth.
"""

import argparse
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from msgspec.structs import replace

from offramp.bundle import open_bundle, read_calibration
from offramp.devices import SimulatedBoard
from offramp.runtime import Audit, Governor, Metrics, Net, Stream, load
from offramp.tests.helpers.bundles import ARCHIVE

SEED = 0
SETTLED = 10_000
RELEASE_S, REST_S = 0.02, 0.1
WORK_S, WORK_W, IDLE_W, MOST_W = 1.0, 9.0, 4.0, 7.0


def load_all(folder: Path, board: SimulatedBoard) -> Net:
    """Return the network with all that a network itself can do."""
    bundle = open_bundle(shutil.copytree(ARCHIVE, folder / "dense.offramp"))
    calibration = read_calibration(bundle.calibrations()[0])
    early = replace(calibration.points["default-early"], name="early", thresholds=(0.6, 0.7), latency_s=1.0)
    late = replace(early, name="late", thresholds=(0.9, 0.9), latency_s=2.0)
    return load(
        bundle,
        "cpu",
        calibration=replace(calibration, points={"late": late, "early": early}),
        lazy=True,
        release_after_s=RELEASE_S,
        meter=board.meter(),
        on_fault="last_exit",
        audit=Audit(share=0.01, state=folder / "audit", collect=folder / "field", collect_mb=0.1),
    )


def take_turns(
    net: Net, stream: Stream, board: SimulatedBoard, x: np.ndarray
) -> list[tuple[int, Callable[[int], Any]]]:
    """Return what is done beside plain calls, and every how many calls. What else a network learns to do has its line here."""

    def rest(_: int) -> None:
        time.sleep(REST_S)

    def work(_: int) -> None:
        board.work(WORK_S, power_w=WORK_W if net.point is not None and net.point.name == "late" else IDLE_W)

    return [
        (7, lambda i: net(x[i % len(x)], deadline_s=(1e-9, 1e-4, 1.0)[i % 3])),
        (11, lambda _: next(stream)),
        (97, work),
        (101, lambda i: next(net.anytime(x[i % len(x)]))),
        (499, lambda _: net.stats()),
        (199, lambda i: net.batch(x[: 1 + i % 40])),
        (5003, rest),
    ]


def look(process: psutil.Process) -> dict[str, int]:
    """Return what must not grow."""
    return {"rss": process.memory_info().rss, "threads": process.num_threads(), "files": process.num_fds()}


def soak(calls: int, folder: Path) -> dict[str, Any]:
    """Make the calls; return what was seen."""
    x = np.random.default_rng(SEED).standard_normal((256, 16)).astype(np.float32)
    board, process, camera = SimulatedBoard(idle_w=IDLE_W), psutil.Process(), itertools.cycle(x)
    spent = np.full(calls, np.nan, np.float32)  # so that its memory is there from the start
    rows: list[dict[str, int]] = []
    points: dict[str, int] = {}
    tenth = calls // 10
    with (
        load_all(folder, board) as net,
        Stream(net, camera, when_full="block", window=5, deadline_s=1.0) as stream,
        Governor(net, max_power_w=MOST_W, horizon_s=10.0) as governor,
        Metrics(net, stream=stream, governor=governor, file=folder / "counts.json", log=folder / "events", every_s=1.0),
    ):
        turns = take_turns(net, stream, board, x)
        for i in range(calls):
            spent[i] = net(x[i % 256]).latency_s
            for every, do in turns:
                if i % every == 0:
                    do(i)
            if i + 1 == SETTLED or (i + 1) % tenth == 0:
                time.sleep(REST_S)  # lazy stages go, so that each look sees the same
                rows.append({"calls": i + 1, **look(process)})
                point = net.point.name if net.point else ""
                points[point] = points.get(point, 0) + 1
                print(f"{i + 1:9} {rows[-1]['rss'] / 1e6:8.2f} MB", *list(rows[-1].values())[2:], point, flush=True)
        stats, moves = net.stats(), len(governor.moves)
    settled = next((row for row in rows if row["calls"] >= SETTLED), rows[0])
    audit, lazy = stats.audit, stats.lazy
    assert audit is not None and lazy is not None
    return {
        "seed": SEED,
        "calls": calls,
        "load": os.getloadavg()[0],
        "grown_mb": (rows[-1]["rss"] - settled["rss"]) / 1e6,
        "p50_s": [float(np.percentile(part, 50)) for part in (spent[:tenth], spent[-tenth:])],
        "p99_s": [float(np.percentile(part, 99)) for part in (spent[:tenth], spent[-tenth:])],
        "threads": sorted({row["threads"] for row in rows}),
        "files": sorted({row["files"] for row in rows}),
        "seen": {
            "inferences": stats.inferences,
            "cut": stats.cut,
            "late": stats.late,
            "loads": lazy.loads,
            "releases": lazy.releases,
            "audited": audit.audited,
            "moves": moves,
            "streamed": stream.stats().answered,
        },
        "notice": audit.notice,
        "rows": rows,
    }


def main() -> None:
    """Make the calls and tell what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = soak(arguments.calls, Path(folder))
    print(
        f"{found['calls']} calls: resident memory {found['grown_mb']:+.2f} MB since {SETTLED} calls, threads {found['threads']}, "
        f"descriptors {found['files']}, load {found['load']:.1f}"
    )
    for name in ("p50_s", "p99_s"):
        print(
            f"{name[:-2]} of the first tenth {found[name][0] * 1e6:.0f} us, of the last {found[name][1] * 1e6:.0f} us"
        )
    print(", ".join(f"{name} {count}" for name, count in found["seen"].items()), found["notice"])
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
