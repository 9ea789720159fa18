"""Do two workers record many samples in about half the time of one, with the same answers, and also if one is killed?

    python tests/benchmarks/fleet.py [--samples 200000] [--rounds 3] [--json result.json]

Worker processes stand for boards of one core: each is tied to a core of its own. A small network with three exits, and the static
networks that end at them, record random samples, as `calibrate_fleet` lets boards do. In each round one worker records, then two,
then two of which one is killed after a third of the samples. Told are the seconds, the processors' seconds of the busiest worker
(which do not depend on what else the machine does), the most memory that a worker took, and whether all answers are, bit for bit,
those of one process without Dask.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import distributed
import numpy as np

from offramp.bundle import Bundle, Target, open_bundle
from offramp.calibrate.measure.configurations import record_all
from offramp.calibrate.measure.session import Session
from offramp.calibrate.requests import Request
from offramp.cli.output import table
from offramp.fleet.board import BoardTask, _make_request
from offramp.fleet.boards import Boards
from offramp.fleet.calibration import _pack
from offramp.fleet.kept import Kept
from offramp.fleet.recording import KindAnswers, Work, record_kind

ARCHIVE = Path(__file__).parents[1] / "bundle/archive/v0.1-dense.offramp"
FEATURES = 16
MODES = ("one", "two", "two, one killed")


class Nothing(Kept):
    """Keeps nothing, so that each round records anew."""

    def load(self, key: Any) -> None:
        return None

    def save(self, key: Any, content: bytes) -> None:
        return None


def tie(core: int) -> int:
    """Tie a worker to a core, and return its process."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    return os.getpid()


def look() -> tuple[float, int]:
    """Return the processor's seconds of a process so far, and the most memory it took, in bytes."""
    import resource

    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def run(mode: str, bundle: Bundle, request: Request, task: BoardTask) -> tuple[dict[str, float], KindAnswers]:
    """Record once; return what it took, and the answers."""
    count = 1 if mode == "one" else 2
    with (
        distributed.LocalCluster(
            n_workers=count, threads_per_worker=1, dashboard_address=None, memory_limit=0
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0, 1]
        names = sorted(client.scheduler_info()["workers"])
        processes = [client.run(tie, cores[i % len(cores)], workers=[name])[name] for i, name in enumerate(names)]
        boards, killed = Boards(client), list[int]()

        def tell(step: str, done: int, total: int) -> None:
            if mode.endswith("killed") and done > total // 3 and not killed:
                killed.append(processes[-1])
                os.kill(killed[0], signal.SIGKILL)

        found, _ = boards.find(task)
        work = Work(boards, task, boards.send(_pack(bundle)), boards.send(()), request, Nothing({}), {}, tell)
        before = client.run(look)
        start = time.perf_counter()
        recording = record_kind(work, found, request.samples)
        seconds = time.perf_counter() - start
        after = client.run(look)
    busy = [after[name][0] - before[name][0] for name in after if name in before]
    return {
        "seconds": seconds,
        "busiest_s": max(busy, default=float("nan")),
        "most_bytes": max(bytes_ for _, bytes_ in after.values()),
    }, recording


def are_equal(one: KindAnswers, other: KindAnswers) -> bool:
    """Return True if two recordings are equal, bit for bit."""
    pairs = [(one.reference, other.reference)]
    for ours, theirs in zip(one.answers, other.answers, strict=True):
        pairs += [(ours.chain, theirs.chain), *zip(ours.statics, theirs.statics, strict=True)]
    return all(np.array_equal(a.label, b.label) and np.array_equal(a.score, b.score) for a, b in pairs)


def main() -> None:
    """Run the rounds, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = open_bundle(shutil.copytree(ARCHIVE, Path(folder) / "dense.offramp"))
        x = np.random.default_rng(0).standard_normal((arguments.samples, FEATURES)).astype(np.float32)
        task = BoardTask(
            devices=("cpu",),
            variants=("fp32",),
            threads=1,
            fallback=None,
            seed=0,
            measure_s=1.0,
            every_s=None,
            targets={"default": Target(max_drop=0.01)},
        )
        request = _make_request(task, _pack(bundle), (x,))
        with Session(request) as session:
            recorded, reference = record_all(session)
            session.resume.clear()
        places = tuple((loaded.variant.name, loaded.placement) for loaded, _ in recorded)
        alone = KindAnswers(places, tuple(answers for _, answers in recorded), reference, session.reference_device, ())
        results: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
        for _ in range(arguments.rounds):
            for mode in MODES:
                took, recording = run(mode, bundle, request, task)
                took["equal"] = are_equal(recording, alone)
                results[mode].append(took)
    rows = [("workers", "seconds", "of one", "busiest CPU s", "of one", "MB at most", "equal")]
    summary: dict[str, Any] = {"samples": arguments.samples, "rounds": results}
    for mode in MODES:
        ratios = [
            [took[name] / one[name] for took, one in zip(results[mode], results["one"], strict=True)]
            for name in ("seconds", "busiest_s")
        ]
        medians = {name: statistics.median(took[name] for took in results[mode]) for name in results[mode][0]}
        summary[mode] = medians | {
            "seconds_of_one": statistics.median(ratios[0]),
            "cpu_of_one": statistics.median(ratios[1]),
        }
        shown = summary[mode]
        rows.append(
            (
                mode,
                f"{shown['seconds']:.1f}",
                f"{shown['seconds_of_one']:.2f}",
                f"{shown['busiest_s']:.1f}",
                f"{shown['cpu_of_one']:.2f}",
                f"{shown['most_bytes'] / 1e6:.0f}",
                "yes" if all(took["equal"] for took in results[mode]) else "NO",
            )
        )
    print(table(rows))
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
