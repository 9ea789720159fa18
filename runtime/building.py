"""A network's stages compiled for their devices. Engines that take long have builds, in the bundle or the cache."""

import contextlib
import functools
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter

from msgspec import Struct

from .. import __version__
from ..bundle import Bundle, Stage, Variant
from ..bundle.across import Across, Source
from ..errors import BundleError, EngineWarning, MissingError, TrustError, UnsupportedError
from ..files import private_folder
from ..progress import debug
from .chain.results import StageProvenance
from .engines import Compiled, Device, StageFile, find_device, is_builder, is_cross_builder, runs_uncut
from .notices import warn_caller
from .request import LoadOptions, NetworkParts

__all__ = ["Job", "Jobs", "build_anew", "compile_job", "compile_stages", "errors_attributed", "may_run_uncut"]


class Job(Struct, frozen=True):
    """One file of a network, to be compiled for one device.

    Attributes:
        stage: the file, as engines take it.
        device: the device.
        threads: threads that the engine may use.
        file: the file's name, such as `stage1.onnx`.
        label: bundle, variant and file, for people.
        key: what decides whether a build fits, by name; empty if the engine builds nothing ahead.
        path_in_bundle: where the bundle has a build of it, or would have.
        numbers: the numbers of the stages that share the file; empty for a network of one stage.
        most_bytes: a build in the bundle is no larger.
        bundle: reads files of the bundle; a record is signed where a policy demands that, and its hash covers the build, too.
    """

    stage: StageFile
    device: Device
    threads: int
    file: str
    label: str
    key: dict[str, str]
    path_in_bundle: Path
    numbers: tuple[int, ...]
    most_bytes: int
    bundle: Bundle

    @property
    def record(self) -> Path:
        """Where the bundle describes the build that lies at `path_in_bundle`."""
        return self.path_in_bundle.with_name(f"{self.path_in_bundle.name}.json")

    def read_build(self) -> tuple[bytes | None, str | None]:
        """Return the build that the bundle has, or the reason why it cannot be used; see `cache.read_build`."""
        from .. import cache  # most engines build nothing ahead

        def read(path: Path, *, most: int) -> bytes:
            content = self.bundle.read_file(path, most=most)
            if path == self.record and self.bundle.signed is not None:  # the record covers the build by its hash
                self.bundle.signed.check(path, content)
            return content

        return cache.read_build(self.record, self.path_in_bundle, self.key, most=self.most_bytes, read=read)


class Jobs(ExitStack):
    """Makes the jobs of a network, to be done until it is closed. It reads and copies each file at most once, when needed."""

    def __init__(self, parts: NetworkParts, options: LoadOptions) -> None:
        super().__init__()
        self._parts, self._threads = parts, options.threads
        self._logits = options.logits or not parts.bundle.manifest.classes  # other answers are always given
        self._read = functools.cache(parts.read)
        self.callback(self._read.cache_clear)  # else weights stay until the garbage collector comes by
        folder = functools.cache(lambda _: self.enter_context(private_folder()))  # for each that files come from
        self._copy = functools.cache(lambda path: parts.copy(path, folder(path.parent)))
        self._made: dict[tuple[str, str], Job] = {}

    def job(self, file: str, device_name: str) -> Job:
        """Return the job of compiling one file for one device, always the same."""
        key = file, device_name
        if key not in self._made:
            self._made[key] = self._make(file, device_name)
        return self._made[key]

    def _make(self, file: str, device_name: str) -> Job:
        parts = self._parts
        numbers = tuple(k for k, stage in enumerate(parts.stages) if stage.file == file)
        source = parts.source(numbers[0])
        variant, stage = source.variant, source.stage
        device = find_device(device_name)
        # A board cannot rebuild, so what is built elsewhere always outputs logits: one build serves `load` and `verify`.
        is_cross_built = is_cross_builder(device.engine) or runs_uncut(device.engine)
        stage_file = self._stage_file(source, outputs_logits=self._logits or is_cross_built)
        key: dict[str, str] = {}
        if is_builder(device.engine):
            with errors_attributed(device.name, file):
                parts.check_builds(device.name)
                key = self._key(source, stage_file, device, device.engine.describe_build(device.place))
        ending = ".logits.built" if self._logits and not is_cross_built else ".built"
        folder = parts.bundle.path / "engines" / key.get("device", device.name).replace(":", "-") / variant.name
        return Job(
            stage=stage_file,
            device=device,
            threads=self._threads,
            file=file,
            label=f"{os.path.realpath(parts.bundle.path)} {variant.name} {stage.file}",
            key=key,
            path_in_bundle=folder / f"{Path(stage.file).stem}{ending}",
            numbers=numbers if len(parts.stages) > 1 else (),
            most_bytes=64_000_000 + 16 * sum(variant.files[name].bytes for name in (stage.file, variant.weights)),
            bundle=parts.bundle,
        )

    def _stage_file(self, source: Source, *, outputs_logits: bool) -> StageFile:
        parts, variant, stage = self._parts, source.variant, source.stage
        folder, classes = parts.bundle.path / variant.folder, parts.bundle.manifest.classes
        exits = [parts.source(k).exit for k in range(len(parts.exits))]
        own = exits if parts.uncut else [source.exit]
        given = [name for each in own for name in each.outputs if outputs_logits or name != each.logits]
        outputs = [*(tensor.name for tensor in stage.outputs), *given]
        public = {tensor.name for tensor in parts.bundle.manifest.inputs}.union(*(each.outputs for each in exits))
        return StageFile(
            path=folder / stage.file,
            inputs=stage.inputs,
            outputs=tuple(dict.fromkeys(outputs)),
            guarded=None if stage.guarded is None else folder / stage.guarded,
            weights=folder / variant.weights,
            weights_bytes=variant.files[variant.weights].bytes,
            read=self._read,
            copy=self._copy,
            boundaries=frozenset(tensor.name for tensor in (*stage.inputs, *stage.outputs)) - public,
            digest=_stage_digest(variant, stage),
            exits=tuple(own),
            made=(*stage.outputs, *(tensor for each in own for tensor in each.parts(classes).values())),
        )

    def _key(self, source: Source, stage_file: StageFile, device: Device, engine: dict[str, str]) -> dict[str, str]:
        """Return what decides whether a build fits. `engine` is the engine's part: its values replace others."""
        variant, stage = source.variant, source.stage
        return {
            "device": device.name,
            "graph": variant.files[stage.file].sha256,
            "weights": variant.files[variant.weights].sha256,
            "inputs": ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in stage.inputs),
            "outputs": ", ".join(stage_file.outputs),
            "threads": str(self._threads),
            "offramp": __version__,
            "architecture": platform.machine(),
            **engine,
        }


def _stage_digest(variant: Variant, stage: Stage) -> str:
    """Return what the manifest says of a stage's files: equal for stages that compute the same."""
    return f"{variant.files[stage.file].sha256}-{variant.files[variant.weights].sha256}"


def may_run_uncut(parts: NetworkParts, devices: Sequence[str], options: LoadOptions) -> bool:
    """Return True if all stages of a chain are placed on one device whose engine stops at each exit of the whole network."""
    if len(parts.stages) < 2 or len(set(devices)) > 1 or options.lazy or not options.uncut:
        return False
    return not isinstance(parts.variant, Across) and runs_uncut(find_device(devices[0]).engine)


def compile_stages(
    jobs: Jobs, parts: NetworkParts, devices: Sequence[str], options: LoadOptions, deferred: Mapping[str, Compiled]
) -> tuple[list[Compiled], tuple[StageProvenance, ...]]:
    """Compile stages, each file once for each of its devices.

    Args:
        jobs: those of the network.
        parts: the stages and their exits.
        devices: a device name for each stage.
        options: how they are loaded.
        deferred: stages on the CPU that are compiled when they are needed, by their files.

    Returns:
        For each stage the compiled stage and its provenance.

    Raises:
        BundleError: a file is damaged, or an engine cannot read it.
        MissingError: a device or its engine's package is missing, or the device cannot run a stage.
    """
    fallback, progress = options.fallback, options.progress
    for name in {*devices, *([fallback] if fallback is not None else [])}:
        find_device(name)  # a name that no engine has is a mistake, which the fallback does not mend
    results = {
        (file, "cpu"): (
            stage,
            StageProvenance("cpu", stage.runs_on, "now", half=stage.half, digest=jobs.job(file, "cpu").stage.digest),
        )
        for file, stage in deferred.items()
    }
    missed: dict[tuple[str, str], list[str]] = {}
    pairs = [(stage.file, name) for stage, name in zip(parts.stages, devices, strict=True)]
    for k, (file, name) in enumerate(pairs):
        if (file, name) in results:
            continue
        if progress is not None:
            progress("compiling", k, len(pairs))
        try:
            results[file, name] = compile_job(jobs.job(file, name))
        except (BundleError, MissingError) as error:
            if fallback is None or fallback == name or isinstance(error, TrustError):
                raise
            missed.setdefault((name, str(error)), []).append(file)
            results[file, name] = compile_job(jobs.job(file, fallback), str(error))
    for (name, why), files in missed.items():
        runs = "runs" if len(files) == 1 else "run"
        warn_caller(f"{', '.join(files)} {runs} on {fallback}, not on {name}: {why}", EngineWarning)
    if progress is not None:
        progress("compiling", len(pairs), len(pairs))
    return [results[pair][0] for pair in pairs], tuple(results[pair][1] for pair in pairs)


@contextlib.contextmanager
def errors_attributed(device: str, stage: str, *, numbers: Sequence[int] = ()) -> Iterator[None]:
    """Let errors of engines and of files say which device and stage they are about; engines know neither by the caller's names.

    With `numbers`, those of the stages that share the file, an error of a device that cannot run them proposes a placement.
    """
    try:
        yield
    except (BundleError, MissingError) as error:
        error.device, error.stage = device, stage
        if not isinstance(error, UnsupportedError) or not numbers or device == "cpu":
            raise
        place = ",".join(f"{number}=cpu" for number in numbers)
        raise UnsupportedError(
            f"{error} To run this stage on the CPU: --place {place}.",
            device=device,
            stage=stage,
            nodes=error.nodes,
            package=error.package,
            extra=error.extra,
            path=error.path,
        ) from error


def compile_job(job: Job, fallback_reason: str | None = None) -> tuple[Compiled, StageProvenance]:
    """Compile a file, or load its build. `fallback_reason` says why it does not run on the device that was asked for."""
    start = perf_counter()
    with errors_attributed(job.device.name, job.file, numbers=job.numbers):
        engine = job.device.engine
        if is_cross_builder(engine):
            engine.check_place(job.device.place)
        content, origin = _fetch(job) if is_builder(engine) else (None, "now")
        while True:
            try:
                compiled = engine.compile_stage(job.stage, job.device.place, threads=job.threads, built=content)
            except BundleError as error:
                if origin == "now" or is_cross_builder(engine):
                    raise
                debug("%s for %s from the %s does not load: %s", job.label, job.device.name, origin, error)
                in_cache = _fetch_cached(job)[0] if origin == "bundle" else None
                content, origin = (_build_and_keep(job, str(error)), "now") if in_cache is None else (in_cache, "cache")
            else:
                debug("%s for %s: compiled form from %s", job.label, job.device.name, origin)
                made = job.device.name, compiled.runs_on, origin, fallback_reason, compiled.half
                return compiled, StageProvenance(*made, perf_counter() - start, job.stage.digest)


def _fetch(job: Job) -> tuple[bytes, str]:
    """Return a file's build and its origin: `bundle`, `cache`, or `now` if it had to be built."""
    content, damage = job.read_build()
    if content is not None:
        return content, "bundle"
    if damage is not None:
        debug("%s is not used: %s", job.path_in_bundle, damage)
    if is_cross_builder(job.device.engine):
        raise _not_built(job, damage)
    content, stale = _fetch_cached(job)
    if content is not None:
        if damage is not None:
            warn_caller(
                f"{job.path_in_bundle} is not used for {job.device.name}: {damage}. Build it again: offramp build --into-bundle.",
                EngineWarning,
            )
        return content, "cache"
    return _build_and_keep(job, damage or stale), "now"


def _fetch_cached(job: Job) -> tuple[bytes | None, str | None]:
    """Return what the cache has; see `cache.fetch`."""
    from .. import cache

    return cache.fetch(job.key, job.label)


def _not_built(job: Job, problem: str | None) -> MissingError:
    """Return the error for a stage whose build must come from another machine. It says how to get the build."""
    reason = f": {problem}" if problem else ""
    return MissingError(
        f"{job.stage.path} is not built for {job.device.name}{reason}. Build it into the bundle on "
        f"a workstation: offramp build BUNDLE --device {job.device.name} --variant {job.path_in_bundle.parent.name}",
        path=job.path_in_bundle,
    )


def _build_and_keep(job: Job, problem: str | None) -> bytes:
    """Build a stage and put the build into the cache, if the cache can be written."""
    from .. import cache

    content = build_anew(job, problem)
    try:
        cache.store(job.key, job.label, content)
    except MissingError as error:
        warn_caller(f"{job.label} is built for {job.device.name} at every load: {error}", EngineWarning)
    return content


def build_anew(job: Job, problem: str | None) -> bytes:
    """Build a stage; `problem` says why an earlier build of it cannot be used."""
    if problem is not None:
        warn_caller(f"{job.label} is built anew for {job.device.name}: {problem}.", EngineWarning)
    assert is_builder(job.device.engine)
    return job.device.engine.build(job.stage, job.device.place, threads=job.threads)
