"""Compile a variant's stages for their devices, with what was built ahead where an engine takes long."""

import contextlib
import functools
import os
import platform
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from .. import __version__, cache
from ..bundle import Bundle, Exit, Stage, Variant, opened
from ..errors import BundleError, EngineWarning, MissingError, UnsupportedError, UsageError
from ..files import check_writable
from ..progress import Progress
from .chain.results import StageProvenance
from .engines import Builder, Compiled, CrossBuilder, Device, StageFile, find_device
from .placement import AUTO, one_device_per_stage


class Built(Struct, frozen=True):
    """A stage that was built ahead, where it lies, and its size."""

    stage: str
    device: str
    path: str
    bytes: int
    was_there: bool


class Job(Struct, frozen=True):
    """A stage's file to be compiled for a device; `key` is empty where the engine builds nothing ahead.

    `numbers` are those of the stages that the file serves; none for a network of one stage.
    """

    source: StageFile
    device: Device
    threads: int
    file: str
    label: str
    key: dict[str, str]
    inside: Path
    numbers: tuple[int, ...]

    @property
    def record(self) -> Path:
        """Where the bundle keeps what is known of a build inside it."""
        return self.inside.with_name(f"{self.inside.name}.json")


def compile_stages(
    bundle: Bundle,
    variant: Variant,
    stages: Sequence[Stage],
    exits: Sequence[Exit],
    devices: Sequence[str],
    *,
    threads: int = 1,
    logits: bool = False,
    fallback: str | None = None,
    progress: Progress | None = None,
) -> tuple[list[Compiled], tuple[StageProvenance, ...]]:
    """Compile stages, each file once for each of its devices.

    Args:
        bundle, variant: whose they are.
        stages, exits: the stages and their exits.
        devices: a device name for each stage.
        threads: threads that an engine may use within a stage.
        logits: whether the exits' logits will be read.
        fallback: the device to take where another is missing or cannot run a stage.
        progress: called with what is being done, how much is done, and how much there is.

    Raises:
        UsageError: `threads` is below 1.
        BundleError: a file is damaged, or an engine cannot read it.
        MissingError: a device or its engine's package is not here, or cannot run a stage.
    """
    if threads < 1:
        raise UsageError(f"threads is at least 1, not {threads}.")
    for name in {*devices, *([fallback] if fallback is not None else [])}:
        find_device(name)  # a name that no engine has is no device that is missing here
    prepare = _preparer(bundle, variant, stages, exits, threads=threads, logits=logits)
    made: dict[tuple[str, str], tuple[Compiled, StageProvenance]] = {}
    for k, (stage, name) in enumerate(zip(stages, devices, strict=True)):
        if (stage.file, name) in made:
            continue
        if progress is not None:
            progress("compiling", k, len(stages))
        try:
            made[stage.file, name] = _compile(prepare(stage.file, name))
        except (BundleError, MissingError) as error:
            if fallback is None or fallback == name:
                raise
            warnings.warn(f"{stage.file} runs on {fallback}, not on {name}: {error}", EngineWarning, stacklevel=5)
            made[stage.file, name] = _compile(prepare(stage.file, fallback), str(error))
    if progress is not None:
        progress("compiling", len(stages), len(stages))
    found = [made[stage.file, name] for stage, name in zip(stages, devices, strict=True)]
    return [compiled for compiled, _ in found], tuple(provenance for _, provenance in found)


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
    """Compile a variant's stages ahead, so that loading it need not.

    Args:
        bundle: the bundle or its folder.
        device: a device, or one for each stage; not `auto`, which measures when it loads.
        variant: name of the variant; the first by default.
        threads, logits: as it will be loaded with, since other builds do not fit; `verify` reads logits.
        into_bundle: keep them in the bundle's `engines/` instead of the cache; they then travel with it. What is built for
            another machine always goes there, and with it the static networks that calibrating compares with.
        progress: called with what is being done, how much is done, and how much there is.

    Returns:
        One for each file that its engine builds ahead; empty where none does, as ONNX Runtime on the CPU.

    Raises:
        UsageError, BundleError, MissingError: as for `compile_stages`; MissingError too where a build cannot be kept.
    """
    bundle = opened(bundle)
    chosen = bundle.variant(variant)
    if threads < 1:
        raise UsageError(f"threads is at least 1, not {threads}.")
    if device == AUTO:
        raise UsageError("auto chooses when it loads: name the device that is to be built for.")
    devices = one_device_per_stage(device, len(chosen.stages))
    prepare_from = functools.partial(_preparer, bundle, chosen, threads=threads, logits=logits)
    prepare = prepare_from(chosen.stages, chosen.exits)
    pairs = dict.fromkeys((stage.file, name) for stage, name in zip(chosen.stages, devices, strict=True))
    jobs = [prepare(file, name) for file, name in pairs]
    for k, name in enumerate(devices):
        if isinstance(find_device(name).engine, CrossBuilder):
            stages, exits = cut_static(bundle, chosen, k)
            jobs.append(prepare_from(stages, exits)(stages[0].file, name))
    found = []
    for k, job in enumerate(jobs):
        if progress is not None:
            progress("building", k, len(jobs))
        engine = job.device.engine
        if isinstance(engine, Builder):
            with _proposing(job):
                inside = into_bundle or isinstance(engine, CrossBuilder)
                found.append(_build_inside(job) if inside else _build_in_cache(job))
        else:
            engine.compile_stage(job.source, job.device.place, threads=threads)  # what is missing says so
    if progress is not None:
        progress("building", len(jobs), len(jobs))
    return tuple(found)


def cut_static(bundle: Bundle, variant: Variant, exit_: int) -> tuple[tuple[Stage, ...], tuple[Exit, ...]]:
    """Return the one stage and the one exit of the static network that ends at an exit."""
    end = variant.exits[exit_]
    return (Stage(file=end.static, inputs=bundle.manifest.inputs, outputs=(), macs=end.macs),), (end,)


def _preparer(
    bundle: Bundle, variant: Variant, stages: Sequence[Stage], exits: Sequence[Exit], *, threads: int, logits: bool
) -> Callable[[str, str], Job]:
    """Return what makes the job of compiling a stage's file for a device; every file is hashed once, if it is read at all."""
    folder = bundle.path / variant.folder
    check = functools.cache(lambda name: bundle.file(variant, name))

    def prepare(file: str, device_name: str) -> Job:
        # Stages that share a file have the names of the first of them in it.
        numbers = tuple(k for k, stage in enumerate(stages) if stage.file == file)
        stage, exit_ = stages[numbers[0]], exits[numbers[0]]
        guarded = stage.guarded
        device = find_device(device_name)
        travels = isinstance(device.engine, CrossBuilder)  # what runs it cannot build again, so one build serves both
        tells = logits or travels
        outputs = [tensor.name for tensor in stage.outputs] + [exit_.score, exit_.label] + [exit_.logits] * tells
        source = StageFile(
            path=folder / file,
            inputs=stage.inputs,
            outputs=tuple(dict.fromkeys(outputs)),
            guarded=None if guarded is None else folder / guarded,
            check=lambda: [check(name) for name in (variant.weights, file, guarded) if name is not None],
        )
        key: dict[str, str] = {}
        if isinstance(device.engine, Builder):
            key = {
                "device": device.name,
                "graph": variant.files[file].sha256,
                "weights": variant.files[variant.weights].sha256,
                "inputs": ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in stage.inputs),
                "outputs": ", ".join(source.outputs),
                "threads": str(threads),
                "offramp": __version__,
                "architecture": platform.machine(),
                **device.engine.describe_build(device.place),
            }
        ending = ".logits.built" if logits and not travels else ".built"
        inside = bundle.path / "engines" / device.name.replace(":", "-") / variant.name / f"{Path(file).stem}{ending}"
        label = f"{bundle.path.resolve()} {variant.name} {file}"
        return Job(source, device, threads, file, label, key, inside, numbers if len(stages) > 1 else ())

    return prepare


@contextlib.contextmanager
def _proposing(job: Job) -> Iterator[None]:
    """Propose another placement where the device cannot run the stage."""
    try:
        yield
    except UnsupportedError as error:
        if not job.numbers or job.device.name == "cpu":
            raise
        place = ",".join(f"{number}=cpu" for number in job.numbers)
        raise UnsupportedError(f"{error} To run this stage on the CPU: --place {place}.") from error


def _compile(job: Job, why: str | None = None) -> tuple[Compiled, StageProvenance]:
    with _proposing(job):
        return _compile_or_build(job, why)


def _compile_or_build(job: Job, why: str | None) -> tuple[Compiled, StageProvenance]:
    engine = job.device.engine
    if isinstance(engine, CrossBuilder):
        engine.check_place(job.device.place)
    content, where = _fetch(job) if isinstance(engine, Builder) else (None, "now")
    compile_stage = functools.partial(engine.compile_stage, job.source, job.device.place, threads=job.threads)
    while True:
        try:
            compiled = compile_stage(built=content)
            return compiled, StageProvenance(job.device.name, compiled.runs_on, where, why, compiled.half)
        except BundleError as error:
            if where == "now" or isinstance(engine, CrossBuilder):
                raise
            kept = cache.fetch(job.key, job.label)[0] if where == "bundle" else None
            content, where = (_build_and_keep(job, str(error)), "now") if kept is None else (kept, "cache")


def _not_built(job: Job, problem: str | None) -> MissingError:
    """Say how to get a stage that is built on another machine."""
    return MissingError(
        f"{job.source.path} is not built for {job.device.name}{f': {problem}' if problem else ''}. Build it into the bundle on "
        f"a workstation: offramp build BUNDLE --device {job.device.name} --variant {job.inside.parent.name}"
    )


def _fetch(job: Job) -> tuple[bytes, str]:
    """Return what was built ahead, or build and keep it; and where it was."""
    content, damage = cache.read_build(job.record, job.inside, job.key)
    if content is not None:
        return content, "bundle"
    if isinstance(job.device.engine, CrossBuilder):
        raise _not_built(job, damage)
    content, stale = cache.fetch(job.key, job.label)
    if content is not None:
        if damage is not None:
            _warn(
                f"{job.inside} is not used for {job.device.name}: {damage}. Build it again: offramp build --into-bundle."
            )
        return content, "cache"
    return _build_and_keep(job, damage or stale), "now"


def _build_and_keep(job: Job, problem: str | None) -> bytes:
    content = _build_anew(job, problem)
    try:
        cache.store(job.key, job.label, content)
    except MissingError as error:
        _warn(f"{job.label} is built for {job.device.name} at every load: {error}")
    return content


def _build_inside(job: Job) -> Built:
    check_writable(job.inside)
    content, problem = cache.read_build(job.record, job.inside, job.key)
    was_there = content is not None
    if content is None:
        content = _build_anew(job, problem)
        cache.write_build(job.record, job.inside, job.key, job.label, content)
    return Built(job.file, job.device.name, str(job.inside), len(content), was_there)


def _build_in_cache(job: Job) -> Built:
    content, problem = cache.fetch(job.key, job.label)
    was_there = content is not None
    if content is None:
        content = _build_anew(job, problem)
        cache.store(job.key, job.label, content)
    path = cache.cache_folder() / cache.digest_key(job.key)
    return Built(job.file, job.device.name, str(path), len(content), was_there)


def _build_anew(job: Job, problem: str | None) -> bytes:
    """Build a stage; say why, where something was there that does not fit."""
    if problem is not None:
        _warn(f"{job.label} is built anew for {job.device.name}: {problem}.")
    assert isinstance(job.device.engine, Builder)
    return job.device.engine.build(job.source, job.device.place, threads=job.threads)


def _warn(words: str) -> None:
    warnings.warn(words, EngineWarning, stacklevel=2)
