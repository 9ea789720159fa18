"""A product's program for a camera: frames come when they like, are answered in time, at the power that the board may draw.

    python samples/camera/camera.py [SOURCE] [--bundle BUNDLE] [--seconds 30]

SOURCE is a video file (pip install av), or an .npz file with frames `x`, which is played again and again. Without a bundle,
prepare.py makes one and a film of digits first, in a minute or two. Copy this file into your product, and put your camera in the
place of `read_frames`.

What each part does: the stream keeps what waits short, drops the oldest frame if the network is too slow, and smooths labels; the
deadline cuts a call that would end too late; the rule for reuse gives the last answer again while nothing changes (`offramp
reuse`); where an engine fails, the exit before it answers; the governor turns to a cheaper operating point while the board draws
more than it may; `--metrics` writes all counts, for `offramp top`. A board without a power sensor is simulated, so that you see
what the governor does.
"""

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from offramp.bundle import Manifest, open_bundle, read_calibration
from offramp.devices import SimulatedBoard, find_meters
from offramp.errors import DataError, OfframpError, UsageError
from offramp.runtime import Governor, Metrics, Net, Reply, Stream, load

FOLDER = Path("build/camera")
LOG_EVERY_S = 5.0

STAGE_S, WORK_W, IDLE_W = 0.008, 9.0, 4.0
"""The simulated board: each stage keeps it busy for so long at so many watts; then it rests."""


def read_frames(source: str, manifest: Manifest, fps: float) -> Iterator[np.ndarray]:
    """Yield frames as the network takes them, so many in a second."""
    frames = read_film(source) if source.endswith(".npz") else read_video(source, manifest)
    start = time.monotonic()
    for number, frame in enumerate(frames):
        time.sleep(max(0.0, start + number / fps - time.monotonic()))
        yield frame


def read_film(source: str) -> Iterator[np.ndarray]:
    """Yield the frames of an .npz file again and again."""
    with np.load(source) as film:
        frames = film["x"]
    while True:
        yield from frames


def read_video(source: str, manifest: Manifest) -> Iterator[np.ndarray]:
    """Yield the frames of a video file in the size, layout and dtype of the network's input; floats are from 0 to 1."""
    import av

    tensor = manifest.inputs[0]
    shape = [1 if isinstance(axis, str) or axis is None else axis for axis in tensor.shape][-3:]
    channels_last = shape[2] in (1, 3)
    channels, height, width = (shape[2], *shape[:2]) if channels_last else shape
    try:
        video = av.open(source)
    except av.FFmpegError as error:
        raise UsageError(f"PyAV cannot read {source} as a video: {error}.") from error
    with video as container:
        for frame in container.decode(video=0):
            pixels = frame.reformat(width, height, "gray" if channels == 1 else "rgb24").to_ndarray()
            image: np.ndarray = pixels.reshape(height, width, channels)
            if not channels_last:
                image = np.ascontiguousarray(image.transpose(2, 0, 1))
            yield image if tensor.dtype == "uint8" else (image / 255).astype(tensor.dtype)


class Board:
    """The board's meter: its own, or that of a simulated board that works as much as the network does."""

    def __init__(self, name: str, fps: float) -> None:
        is_there = name != "simulated" and (name != "auto" or bool(find_meters().meters))
        self._board = None if is_there else SimulatedBoard(idle_w=IDLE_W)
        self.meter: Any = name if self._board is None else self._board.meter()
        self._fps = fps

    def work(self, reply: Reply) -> None:
        """Let simulated time pass until the reply's frame is over."""
        if self._board is None:
            return
        stages = 1 if reply.result.reused else reply.result.exit + 1
        self._board.work(STAGE_S * stages, power_w=WORK_W)
        self._board.clock.advance((reply.number + 1) / self._fps - self._board.clock.now_s())


def choose_points(bundle: Path) -> list[str]:
    """Return the names of the operating points that leave early and run on the same engines, the first one's."""
    early: dict[str, list[str]] = {}
    for path in open_bundle(bundle).calibrations()[:1]:
        for name, point in read_calibration(path).points.items():
            if point.exits_early:
                early.setdefault(point.engines, []).append(name)
    return next(iter(early.values()), [])


def govern(net: Net, points: list[str], max_power_w: float) -> Governor | None:
    """Return what keeps the board's power; None where there is nothing to move between."""
    try:
        return Governor(net, points=points, max_power_w=max_power_w, horizon_s=5.0)
    except UsageError as error:
        log(f"no governor: {error}")
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "source", nargs="?", help="a video file, its address (rtsp://...), or an .npz file with frames x"
    )
    parser.add_argument("--bundle", type=Path, help="by default the one that prepare.py makes")
    parser.add_argument("--seconds", type=float, default=30.0, help="stop after so many seconds")
    parser.add_argument("--frames", type=int, help="stop after so many answers")
    parser.add_argument("--fps", type=float, default=30.0, help="frames a second")
    parser.add_argument(
        "--deadline-ms", type=float, default=100.0, help="milliseconds from a frame's coming to its answer"
    )
    parser.add_argument("--window", type=int, default=5, help="how many answers a label is smoothed over")
    parser.add_argument("--max-power-w", type=float, default=6.0, help="the board's mean power, in watts")
    parser.add_argument("--meter", default="auto", help="auto, simulated, or a name that offramp doctor lists")
    parser.add_argument("--metrics", type=Path, help="write a snapshot of all counts there, for offramp top")
    parser.add_argument("--json", type=Path, help="write the summary into this file, too")
    given = parser.parse_args()
    if given.fps <= 0:
        parser.error("--fps is a number above 0")
    if given.bundle is None:
        given.bundle = prepared()
    summary = run(given, given.source or str(FOLDER / "film.npz"))
    for name, value in summary.items():
        print(f"{name:16} {value}")
    if given.json:
        given.json.write_text(json.dumps(summary, indent=1))


def run(given: argparse.Namespace, source: str) -> dict[str, Any]:
    """Answer frames until the time is over, the source ends, or SIGTERM comes; return what became of them."""
    points, board = choose_points(given.bundle), Board(given.meter, given.fps)
    changes, last, until_s = 0, None, time.monotonic() + given.seconds
    seen: Counter[str] = Counter()
    with ExitStack() as stack:
        point = points[0] if points else None
        net = stack.enter_context(load(given.bundle, point=point, meter=board.meter, on_fault="last_exit"))
        frames = read_frames(source, open_bundle(given.bundle).manifest, given.fps)
        options: dict[str, Any] = {"deadline_s": given.deadline_ms / 1e3, "window": given.window, "most_waiting": 4}
        has_rule = any(point.reuse and point.reuse.pays for point in net.points.values())
        log(f"answers are {'given again where nothing changes' if has_rule else 'not given again: no rule pays'}")
        stream = stack.enter_context(Stream(net, frames, reuse=has_rule, **options))
        governor = govern(net, points, given.max_power_w)
        if governor is not None:
            stack.enter_context(governor)
        stack.enter_context(Metrics(net, stream=stream, governor=governor, file=given.metrics))
        stopping: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, frame: stopping.append(number))
        logged_s = time.monotonic()
        for reply in answers(stream):
            board.work(reply)
            seen.update(name for name in ("cut", "late", "reused", "fault") if getattr(reply.result, name))
            changes += last is not None and reply.label != last
            last = reply.label  # your product acts on it here
            if time.monotonic() - logged_s > LOG_EVERY_S:
                log(f"{stream.stats()}, label {last}, point {net.point.name if net.point else 'none'}")
                logged_s = time.monotonic()
            is_enough = given.frames and stream.stats().answered >= given.frames
            if is_enough or stopping or time.monotonic() > until_s:
                break
        return summarise(net, stream, governor, seen) | {"label changes": changes}


def answers(stream: Stream) -> Iterator[Reply]:
    """Yield replies; a frame that the network refuses is logged, and is no reason to stop."""
    while True:
        try:
            yield next(stream)
        except StopIteration:
            return
        except DataError as error:
            log(error)


def summarise(net: Net, stream: Stream, governor: Governor | None, seen: Counter[str]) -> dict[str, Any]:
    """Return what became of the frames, and of the board."""
    frames, stats = stream.stats(), net.stats()
    power = stats.power.mean_w if stats.power else None
    return {
        "frames": frames.came,
        "answered": frames.answered,
        "dropped": frames.dropped,
        "refused": frames.refused,
        "waiting": frames.waiting,
        "reused": seen["reused"],
        "cut": seen["cut"],
        "late": seen["late"],
        "faults": seen["fault"],
        "exit shares": [round(share, 4) for share in stats.exit_shares],
        "latency p99 ms": round(1e3 * stats.latency_s.get("p99", 0.0), 3),
        "mean power W": None if power is None else round(power, 3),
        "moves": [f"{move.at_s:.0f} s: {move.before} to {move.after}, {move.why}" for move in governor.moves]
        if governor
        else [],
        "point": net.point.name if net.point else None,
    }


def prepared() -> Path:
    """Return the bundle that prepare.py makes; it is made if it is not there."""
    bundle = FOLDER / "network.offramp"
    if not (bundle / "manifest.json").exists() or not (FOLDER / "film.npz").exists():
        sys.path.insert(0, str(Path(__file__).parent))
        import prepare

        prepare.make(FOLDER)
    return bundle


def log(line: Any) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        main()
    except OfframpError as error:
        sys.exit(str(error))
