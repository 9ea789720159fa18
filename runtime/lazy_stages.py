"""Which stages of a network are loaded at their first use, and how they are opened again."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from ..cache import MOST_RECORD_BYTES
from ..errors import BundleError, UsageError
from ..files import os_errors_explained
from .building import Jobs, compile_job
from .chain.lazy import LazyStage
from .chain.results import StageProvenance
from .engines import Compiled
from .request import LoadOptions, NetworkParts

__all__ = ["make_lazy", "prepare_lazy"]


def prepare_lazy(parts: NetworkParts, lazy: int) -> NetworkParts:
    """Return parts that can be opened again later, wherever the program has gone meanwhile.

    Args:
        parts: the stages and exits. A static network has one stage, which is never lazy.
        lazy: the number of the first lazy stage, or True.

    Raises:
        UsageError: there is no such stage.
    """
    last = len(parts.variant.stages) - 1
    if lazy is not True and lazy > last:
        raise UsageError(
            f"lazy={lazy} is no stage of {parts.variant.name}, which has stages 0 to {last}: give the number of the first "
            "stage that is to be loaded when it is used, or True for all but stage 0."
        )
    return replace(parts, bundle=replace(parts.bundle, path=parts.bundle.path.absolute()))


def make_lazy(
    parts: NetworkParts, compiled: Sequence[Compiled], provenance: Sequence[StageProvenance], options: LoadOptions
) -> list[Compiled]:
    """Return the stages of a network, with lazy ones for those that are to be loaded when they are used.

    All have been compiled before, so that what cannot run here is known when the network is loaded. A file that an earlier stage
    uses too stays in memory.

    Args:
        parts: the stages and exits, prepared.
        compiled, provenance: of each stage.
        options: how they were loaded.
    """
    stay = {id(stage) for stage in compiled[: options.lazy]}
    lazy: dict[int, LazyStage] = {}
    stages: list[Compiled] = []
    for stage, made, part in zip(compiled, provenance, parts.stages, strict=True):
        if id(stage) not in stay and id(stage) not in lazy:
            open_again = _make_opener(parts, part.file, made, options)
            lazy[id(stage)] = LazyStage(stage, open_again, load_s=made.load_s, release_after_s=options.release_after_s)
        stages.append(lazy.get(id(stage), stage))
    return stages


def _make_opener(parts: NetworkParts, file: str, made: StageProvenance, options: LoadOptions) -> Callable[[], Compiled]:
    """Return what opens a file again on the device that runs it."""
    if made.built != "bundle":  # hashes that were read before cover the graph, and the cache's key the build
        return partial(_open, parts, file, made.device, options)
    with Jobs(parts, options) as jobs:
        record = jobs.job(file, made.device).record
    with os_errors_explained(record, "read"):
        content = parts.bundle.read_file(record, most=MOST_RECORD_BYTES)
    return partial(_open, parts, file, made.device, options, record, content)


def _open(
    parts: NetworkParts,
    file: str,
    device: str,
    options: LoadOptions,
    record: Path | None = None,
    content: bytes = b"",
) -> Compiled:
    """Compile a file again. `record` describes its build in the bundle, and must hold what it held.

    Raises:
        BundleError: the file or its build is another one than when the network was loaded.
        MissingError: the file is gone, or memory is too small.
    """
    with Jobs(parts, options) as jobs:
        compiled, _ = compile_job(jobs.job(file, device))
    if record is not None and _read_again(parts, record) != content:
        raise BundleError(
            f"The build of {file} that {record} describes was replaced since the network was loaded: nobody has compared its "
            "answers. Load the network again.",
            path=record,
            device=device,
            stage=file,
        )
    return compiled


def _read_again(parts: NetworkParts, record: Path) -> bytes | None:
    try:
        return parts.bundle.read_file(record, most=MOST_RECORD_BYTES)
    except OSError:
        return None
