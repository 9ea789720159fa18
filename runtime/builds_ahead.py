"""Stages built ahead of their first load, into the cache or the bundle."""

import contextlib
import os
from collections.abc import Sequence
from contextlib import ExitStack

from msgspec import Struct

from .. import cache
from ..bundle import Bundle, opened
from ..errors import UnsupportedError, UsageError
from ..files import check_writable
from ..progress import Progress
from .building import Job, Jobs, build_anew, errors_attributed, may_run_uncut
from .engines import find_device, is_builder, is_cross_builder, runs_uncut
from .placement import AUTO, one_device_per_stage
from .request import LoadOptions, NetworkParts, chain_parts, static_parts, uncut_parts

__all__ = ["Built", "build"]


class Built(Struct, frozen=True):
    """A stage that was built ahead.

    Attributes:
        stage: the stage's file, such as `stage1.onnx`.
        device: the device that it was built for.
        path: where the build lies.
        bytes: its size.
        was_there: True if it had been built before and nothing had to be done.

    Example:
        >>> from offramp.runtime import Built
        >>> Built("stage0.onnx", "tensorrt:0", "/home/me/.cache/offramp/engines/4fd1", 120_000, False).device
        'tensorrt:0'
    """

    stage: str
    device: str
    path: str
    bytes: int
    was_there: bool


def build(
    bundle: str | os.PathLike[str] | Bundle,
    device: str | Sequence[str],
    *,
    variant: str | None = None,
    threads: int = 1,
    logits: bool = False,
    into_bundle: bool = False,
    progress: Progress | None = None,
) -> tuple[Built, ...]:
    """Compile a variant's stages ahead, so that loading the variant need not.

    Args:
        bundle: the bundle or its folder.
        device: a device, or one for each stage. Not `auto`, which measures when it loads.
        variant: name of the variant; the first by default.
        threads, logits: as the variant will be loaded with, since other builds do not fit; `verify` reads logits.
        into_bundle: True keeps the builds in the bundle's `engines/`, with which they travel; False in the cache. Builds for
            another machine always go into the bundle, and with them the static networks that calibrating compares with; those
            for ncnn if they go there.
        progress: called with what is being done, how much is done, and how much there is.

    Returns:
        A record for each file that its engine builds ahead. Empty for engines that build nothing ahead, such as ONNX Runtime.

    Raises:
        UsageError: `threads` is below 1, or the device is `auto`.
        BundleError: a file is damaged, or an engine cannot read it.
        MissingError: a device or its package is missing, the device cannot run a stage, or a build cannot be written.

    Example:
        >>> from offramp.runtime import build
        >>> build("digits.offramp", "cpu")  # ONNX Runtime compiles in no time
        ()
        >>> build("digits.offramp", "tensorrt:0", into_bundle=True)  # doctest: +SKIP
        (Built(stage='stage0.onnx', device='tensorrt:0', ...), ...)
    """
    parts = chain_parts(bundle := opened(bundle), bundle.chain(variant))
    options = LoadOptions(threads=threads, logits=logits)
    if device == AUTO:
        raise UsageError("auto chooses when it loads: name the device that is to be built for.", device=AUTO)
    devices = one_device_per_stage(device, len(parts.stages))
    if may_run_uncut(parts, devices, options):
        with contextlib.suppress(UnsupportedError):  # building the stages then says which of them it is
            return _build_files(uncut_parts(parts), devices, options, into_bundle=into_bundle, progress=progress)
    return _build_files(parts, devices, options, into_bundle=into_bundle, progress=progress)


def _build_files(
    parts: NetworkParts,
    devices: Sequence[str],
    options: LoadOptions,
    *,
    into_bundle: bool,
    progress: Progress | None,
) -> tuple[Built, ...]:
    """Build the files of a chain."""
    with ExitStack() as stack:
        jobs = _jobs_to_build(parts, devices, options, stack, into_bundle=into_bundle)
        if into_bundle or any(is_cross_builder(job.device.engine) for job in jobs):
            parts.bundle.check_changeable("engines")
        builds = []
        for k, job in enumerate(jobs):
            if progress is not None:
                progress("building", k, len(jobs))
            engine = job.device.engine
            with errors_attributed(job.device.name, job.file, numbers=job.numbers):
                if is_cross_builder(engine) or (into_bundle and is_builder(engine)):
                    builds.append(_build_into_bundle(job))
                elif is_builder(engine):
                    builds.append(_build_in_cache(job))
                else:  # raises if something is missing
                    engine.compile_stage(job.stage, job.device.place, threads=options.threads)
    if progress is not None:
        progress("building", len(jobs), len(jobs))
    return tuple(builds)


def _jobs_to_build(
    parts: NetworkParts, devices: Sequence[str], options: LoadOptions, stack: ExitStack, *, into_bundle: bool
) -> list[Job]:
    """Return a job for each file and device of the chain, and for the static networks of devices that are built for elsewhere.

    A bundle with builds for ncnn goes to boards that lack the converter, so it has its static networks, too.

    They can be done until `stack` is closed.
    """
    chain = stack.enter_context(Jobs(parts, options))
    pairs = dict.fromkeys((stage.file, name) for stage, name in zip(parts.stages, devices, strict=True))
    jobs = [chain.job(file, name) for file, name in pairs]
    for k, name in enumerate(devices):
        engine = find_device(name).engine
        if is_cross_builder(engine) or (into_bundle and runs_uncut(engine)):
            static = static_parts(parts.bundle, parts.variant, k)
            jobs.append(stack.enter_context(Jobs(static, options)).job(static.stages[0].file, name))
    return jobs


def _build_into_bundle(job: Job) -> Built:
    """Build a stage into the bundle, unless the bundle has a build that fits."""
    check_writable(job.path_in_bundle)
    content, problem = job.read_build()
    was_there = content is not None
    if content is None:
        content = build_anew(job, problem)
        cache.write_build(job.record, job.path_in_bundle, job.key, job.label, content)
    return Built(job.file, job.device.name, str(job.path_in_bundle), len(content), was_there)


def _build_in_cache(job: Job) -> Built:
    """Build a stage into the cache, unless the cache has a build that fits."""
    content, problem = cache.fetch(job.key, job.label)
    was_there = content is not None
    if content is None:
        content = build_anew(job, problem)
        cache.store(job.key, job.label, content)
    path = cache.cache_folder() / cache.digest_key(job.key)
    return Built(job.file, job.device.name, str(path), len(content), was_there)
