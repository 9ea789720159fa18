"""Stages joined to one where an operating point never takes the exits between them: neither heads nor further calls cost time.

    thresholds  never     0.8             stages 0 and 1 run as one
                stage 0   stage 1   stage 2

The single stages stand beside them, for batches, `Net.every_exit` and other thresholds. Those that the loaded point does not run
are read when the network is loaded, and opened when they are first needed.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

from msgspec.structs import replace

from ..bundle.manifest import NEVER
from ..errors import BundleError, MissingError
from ..progress import debug
from .building import Jobs, compile_job
from .chain.lazy import DeferredStage, LazyStage
from .chain.memory import Span
from .engines import Compiled, StageFile, find_device
from .graph_bytes import join_graphs
from .request import LoadOptions, NetworkParts

__all__ = ["compile_joined", "defer_stages"]

DEVICE = "cpu"
"""Stages are joined there."""

MOST_JOINED_BYTES = 4 << 20
"""The files of all joined stages together, with the weights that each may read: those are in memory once more."""

MOST_JOINED = 16
"""Joined stages of all operating points together."""


def compile_joined(
    jobs: Jobs, parts: NetworkParts, devices: Sequence[str], options: LoadOptions, thresholds: Iterable[Sequence[float]]
) -> dict[Span, Compiled]:
    """Compile the joined stages that a chain can use.

    Args:
        jobs: those of the chain.
        parts: the chain.
        devices: the device of each stage.
        options: how the stages are loaded.
        thresholds: those of each operating point that it may run; of the first ones most is joined.

    Returns:
        The joined stages by the first and the last of them. Those that cannot be joined are left out.
    """
    files = parts.variant.files
    names = [stage.file for stage in parts.stages]
    spans = dict.fromkeys(span for each in thresholds for span in _find_spans(each))
    compiled: dict[Span, Compiled] = {}
    left_bytes = MOST_JOINED_BYTES
    for first, last in itertools.islice(spans, MOST_JOINED):
        used, variant = names[first : last + 1], parts.source(first).variant
        if variant.precision == "fp16":
            continue  # ONNX Runtime computes in float32 inside a graph: other answers than calibrated
        total_bytes = variant.files[variant.weights].bytes + sum(files[name].bytes for name in used)
        is_shared = any(names.count(name) > 1 for name in used)  # its tensors have other names in the file
        is_shared |= any(parts.source(k).exit.score != parts.exits[k].score for k in range(first, last + 1))
        is_split = first < options.lazy <= last  # half of it would have to wait
        if is_shared or is_split or {*devices[first : last + 1]} != {DEVICE} or total_bytes > left_bytes:
            continue
        left_bytes -= total_bytes
        start = perf_counter()
        try:
            stage = _compile(jobs, parts, options, used, last)
        except (BundleError, MissingError) as error:
            debug("stages %d to %d of %s are not joined: %s", first, last, parts, error)
            continue
        if 0 < options.lazy <= first:
            took_s = perf_counter() - start
            open_again = partial(_compile_again, parts, options, used, last)
            stage = LazyStage(stage, open_again, load_s=took_s, release_after_s=options.release_after_s)
        compiled[first, last] = stage
    return compiled


def defer_stages(
    jobs: Jobs, parts: NetworkParts, options: LoadOptions, joined: Mapping[Span, Compiled], thresholds: Sequence[float]
) -> dict[str, Compiled]:
    """Return the stages that are not needed as long as the network runs at these thresholds, by their files.

    Their files are read here, so that a damaged one is known and they can be opened whatever becomes of the bundle.

    Args:
        jobs: those of the chain.
        parts: the chain.
        options: how its stages are loaded.
        joined: the joined stages of `compile_joined`.
        thresholds: those of the point that is loaded.
    """
    if options.lazy or not all(tensor.is_sized for tensor in parts.bundle.manifest.inputs):
        return {}  # a network with named axes runs single stages, to learn shapes
    deferred: dict[str, Compiled] = {}
    for first, last in set(joined).intersection(_find_spans(thresholds)):
        for k in range(first, last + 1):
            name = parts.stages[k].file
            stage = jobs.job(name, DEVICE).stage
            files = [path for path in (stage.path, stage.guarded, stage.weights) if path is not None]
            kept = {path: stage.read(path) for path in files}
            deferred[name] = DeferredStage(joined[first, last], partial(_open_kept, parts, options, name, kept))
    return deferred


def _open_kept(parts: NetworkParts, options: LoadOptions, name: str, kept: Mapping[Path, bytes]) -> Compiled:
    """Compile the stage of a file from what was read before."""
    with Jobs(parts, options) as jobs:
        job = jobs.job(name, DEVICE)
        return compile_job(replace(job, stage=replace(job.stage, read=kept.__getitem__)))[0]


def _compile(jobs: Jobs, parts: NetworkParts, options: LoadOptions, names: Sequence[str], last: int) -> Compiled:
    """Compile the stages of those files, the last of which has that number, as one."""
    device = find_device(DEVICE)
    stage = _join(parts, [jobs.job(name, DEVICE).stage for name in names], last)
    return device.engine.compile_stage(stage, device.place, threads=options.threads)


def _compile_again(parts: NetworkParts, options: LoadOptions, names: Sequence[str], last: int) -> Compiled:
    with Jobs(parts, options) as jobs:
        return _compile(jobs, parts, options, names, last)


def _find_spans(thresholds: Sequence[float]) -> list[Span]:
    """Return the first and the last of the stages between which no exit is ever taken."""
    ends = [k for k, threshold in enumerate(thresholds) if threshold < NEVER] + [len(thresholds)]
    spans = itertools.pairwise([-1, *ends])
    return [(before + 1, last) for before, last in spans if last > before + 1]


def _join(parts: NetworkParts, stages: Sequence[StageFile], last: int) -> StageFile:
    """Return a file for stages that follow one another up to the one of that number."""
    start = stages[0]
    later = {tensor.name for stage in parts.stages[last + 1 :] for tensor in stage.inputs}
    outputs = {name: None for stage in stages for name in stage.outputs if name in later or stage is stages[-1]}
    sources = {path: [path, *(stage.path for stage in stages[1:])] for path in (start.path, start.guarded) if path}

    def read(path: Path) -> bytes:
        return (
            join_graphs([start.read(part) for part in sources[path]], outputs) if path in sources else start.read(path)
        )

    def copy(path: Path) -> Path:
        copied = start.copy(path)
        if path in sources:
            copied = copied.with_name(f"joined{last}.{path.name}")
            copied.write_bytes(read(path))
        return copied

    return replace(start, outputs=tuple(outputs), read=read, copy=copy)
