"""The bundle: the folder that holds an exported network, and the calibrations made for it.

    kws.offramp/
      manifest.json                     what this file's Manifest says; its replacement is the only commit point
      variants/<folder>/weights.bin     the weights, external data of every graph beside it
      variants/<folder>/whole.onnx      the whole graph with all exits
      variants/<folder>/stage<k>.onnx   what runs between exit k-1 and exit k
      variants/<folder>/static<k>.onnx  the plain network that ends at exit k, without the earlier heads: the baseline
      variants/<folder>/golden.npz      a few inputs and what every exit says of them
      calibrations/<name>.json          operating points; may also lie outside the bundle

A bundle comes from strangers: everything is validated while it is decoded, and every file is checked against its size and
sha256 before an engine sees it.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from . import __version__
from .errors import BundleError, MissingError, UsageError, unknown
from .files import check_writable, explained, hash_file, sync, write_atomically

SCHEMA = 1
NEVER = 2.0
"""The threshold that no score reaches: the exit is never taken."""

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0)]
Threshold = Annotated[float, Meta(ge=0, le=NEVER)]


class _Record(Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen part of an artefact that refuses fields it does not know."""


class Tensor(_Record, frozen=True):
    """A named tensor; `None` in its shape is the batch axis, and a shape without one does not depend on the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


class Stage(_Record, frozen=True):
    """What runs between two exits: its graph, the boundary tensors it reads, and those it makes for later stages."""

    file: str
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1)]
    outputs: tuple[Tensor, ...]
    macs: Count


class Exit(_Record, frozen=True):
    """One exit: the names of its outputs, the static network that ends at it, and all multiply-accumulates up to it."""

    name: str
    logits: str
    score: str
    label: str
    static: str
    macs: Count


class File(_Record, frozen=True):
    """A file's size in bytes and the sha256 of its content."""

    bytes: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Variant(_Record, frozen=True):
    """One compressed form of the network. File names are relative to its folder."""

    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    folder: str
    rule: str
    weights: str
    whole: str
    golden: str
    stages: Annotated[tuple[Stage, ...], Meta(min_length=2)]
    exits: Annotated[tuple[Exit, ...], Meta(min_length=2)]
    files: dict[str, File]

    def __post_init__(self) -> None:
        if len(self.stages) != len(self.exits):
            raise ValueError(f"variant {self.name} has {len(self.stages)} stages for {len(self.exits)} exits")
        named = [self.weights, self.whole, self.golden]
        named += [stage.file for stage in self.stages] + [point.static for point in self.exits]
        for name in named:
            if name not in self.files:
                raise ValueError(f"variant {self.name} names {name}, which its list of files lacks")
        for name in self.files:
            if not _is_inside(f"{self.folder}/{name}"):
                raise ValueError(f"the path {self.folder}/{name} leads outside the bundle")

    @property
    def digest(self) -> str:
        """The sha256 of everything that decides what this variant computes; calibrations name it."""
        return hashlib.sha256(
            msgspec.json.encode(msgspec.structs.replace(self, folder="."), order="sorted")
        ).hexdigest()


class Manifest(_Record, frozen=True):
    """What a bundle holds."""

    schema: int
    offramp: str
    network: str
    classes: Annotated[int, Meta(ge=2)]
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1)]
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1)]


class Target(_Record, frozen=True):
    """What to optimise: the least mean latency under `max_drop`, or the best accuracy under `max_latency_s`.

    Attributes:
        max_drop: the largest accuracy drop against the last exit, as a fraction (0.01 is one percent).
        max_latency_s: the largest mean latency in seconds.

    Raises:
        UsageError: not exactly one of the two is given, or it is out of range.
    """

    max_drop: float | None = None
    max_latency_s: float | None = None

    def __post_init__(self) -> None:
        if (self.max_drop is None) == (self.max_latency_s is None):
            raise UsageError("A target is either max_drop or max_latency_s: give exactly one.")
        if self.max_drop is not None and not 0 <= self.max_drop < 1:
            raise UsageError(f"max_drop is a fraction from 0 to 1 (0.01 is one percent), not {self.max_drop}.")
        if self.max_latency_s is not None and not 0 < self.max_latency_s < float("inf"):
            raise UsageError(f"max_latency_s is a time in seconds above 0, not {self.max_latency_s}.")

    def __str__(self) -> str:
        if self.max_drop is not None:
            return f"the least mean latency at an accuracy drop of at most {self.max_drop:.2%}"
        assert self.max_latency_s is not None
        return f"the best accuracy at a mean latency of at most {self.max_latency_s * 1e6:.0f} us"


class OperatingPoint(_Record, frozen=True):
    """Thresholds and what they are predicted to give, all from samples that the search did not see.

    Attributes:
        thresholds: one for each exit but the last, exact float32 values; 2.0 means never.
        accuracy: share of right labels with these thresholds; `full_accuracy`: of the last exit.
        drop: `full_accuracy - accuracy`, with its 95 % interval.
        latency_s: mean latency predicted from the exit shares and the measured cost of each exit.
        met: whether `drop` or `latency_s` keeps the target's limit on these samples.
    """

    variant: str
    target: Target
    thresholds: tuple[Threshold, ...]
    accuracy: Share
    full_accuracy: Share
    drop: float
    drop_interval: tuple[float, float]
    latency_s: Seconds
    exit_shares: tuple[Share, ...]
    met: bool


class StaticPoint(_Record, frozen=True):
    """The static network that ends at one exit: its accuracy on the reporting samples and its measured mean latency."""

    exit: Count
    accuracy: Share
    latency_s: Seconds


class Calibration(_Record, frozen=True):
    """What calibration measured and found on one device for one variant.

    Attributes:
        variant_digest: which variant, exactly: `Variant.digest`.
        fingerprint: the device and software it was measured on; see `devices.fingerprint`.
        select_samples, report_samples: how many samples chose the thresholds, and how many gave the figures.
        exit_latency_s: measured mean latency of leaving at each exit, end to end.
        statics: the static networks that end at each exit.
        best_single: the exit whose static network alone is the best that keeps the target; None where none does.
        pays: whether the operating point is predicted to beat the best static network; `verdict` says it in words.
    """

    schema: int
    offramp: str
    variant: str
    variant_digest: str
    fingerprint: dict[str, str]
    seed: int
    select_samples: Positive
    report_samples: Positive
    exit_latency_s: tuple[Seconds, ...]
    statics: tuple[StaticPoint, ...]
    best_single: int | None
    pays: bool
    verdict: str
    points: Annotated[dict[str, OperatingPoint], Meta(min_length=1)]


class Bundle(Struct, frozen=True):
    """A bundle on disk whose manifest has been read and whose files are there in full."""

    path: Path
    manifest: Manifest

    def variant(self, name: str | None = None) -> Variant:
        """Return a variant by name, or the first.

        Raises:
            UsageError: there is none of that name.
        """
        for variant in self.manifest.variants:
            if name in (None, variant.name):
                return variant
        raise unknown("variant", str(name), [variant.name for variant in self.manifest.variants])

    def file(self, variant: Variant, name: str) -> Path:
        """Return the path of a variant's file after checking its content against the manifest.

        Raises:
            BundleError: its sha256 differs.
        """
        path = _locate(self.path, variant, name)
        if hash_file(path) != variant.files[name].sha256:
            raise BundleError(
                f"{path} is damaged: its sha256 is not the one in manifest.json. Copy the bundle again or export it anew."
            )
        return path

    def calibrations(self) -> list[Path]:
        """Return the calibration files inside the bundle, sorted by name."""
        return sorted((self.path / "calibrations").glob("*.json"))


def open_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read a bundle's manifest and see that every file it names is there in full.

    Contents are hashed when they are used (`Bundle.file`), since weights may be large.

    Raises:
        UsageError: there is nothing at this path.
        BundleError: it is no bundle, or one that is damaged, newer than this version, or names files outside itself.
    """
    root = Path(path)
    if not root.exists():
        raise UsageError(f"There is no bundle at {root}.")
    if not root.is_dir() or not (root / "manifest.json").is_file():
        raise BundleError(f"{root} is not an offramp bundle: a bundle is a folder with a manifest.json.")
    manifest = _decode(root / "manifest.json", Manifest)
    for variant in manifest.variants:
        for name in variant.files:
            _locate(root, variant, name)
    return Bundle(root, manifest)


def check_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Open a bundle and compare every file's content with the manifest.

    Raises:
        UsageError, BundleError: as for `open_bundle`.
    """
    bundle = open_bundle(path)
    for variant in bundle.manifest.variants:
        for name in variant.files:
            bundle.file(variant, name)
    return bundle


def read_calibration(path: str | os.PathLike[str]) -> Calibration:
    """Read a calibration from inside a bundle or elsewhere.

    Raises:
        UsageError: there is nothing at this path.
        BundleError: it is no calibration, damaged, or newer than this version.
    """
    if not Path(path).exists():
        raise UsageError(f"There is no calibration at {path}.")
    return _decode(Path(path), Calibration)


def write_calibration(path: str | os.PathLike[str], calibration: Calibration) -> None:
    """Write a calibration atomically, making its folder where that is missing.

    Raises:
        MissingError: the place cannot be written.
    """
    path = Path(path)
    check_writable(path)
    write_atomically(path, _encode(calibration))


@contextlib.contextmanager
def new_variant(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty folder inside the bundle to fill with a variant's files; `commit` makes them count.

    One process at a time may write a bundle. What is not committed is removed on leaving; what a killed process left is
    removed by the next. A bundle that was there stays readable throughout.

    Raises:
        UsageError: something that is not a bundle lies at `path`, or another process is writing it.
        MissingError: the place cannot be written.
    """
    root = Path(path)
    known = {"manifest.json", "variants", "calibrations", "engines"}
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file. Name a new folder or a bundle to replace.")
    if root.is_dir() and (strange := [p.name for p in root.iterdir() if p.name not in known and p.name[:5] != ".new-"]):
        raise UsageError(f"{root} is a folder that holds other things ({strange[0]}). Name a new folder.")
    with explained(root):
        (root / "variants").mkdir(parents=True, exist_ok=True)
    try:
        with _locked(root):
            with explained(root):
                _remove_leftovers(root)
                folder = Path(tempfile.mkdtemp(dir=root / "variants", prefix=".new-"))
                folder.chmod(0o755)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        with contextlib.suppress(OSError):
            (root / "variants").rmdir()
            root.rmdir()


def commit(path: str | os.PathLike[str], folder: Path, manifest: Manifest) -> Bundle:
    """Make a filled folder the bundle's only variant: list its files, put all on disk, replace the manifest.

    Args:
        path: the bundle.
        folder: what `new_variant` gave, with the files in it.
        manifest: with one variant, whose `folder` and `files` are filled in here.

    Raises:
        MissingError: the place cannot be written.
    """
    root = Path(path)
    with explained(root):
        contents = sorted(p for p in folder.iterdir() if p.is_file())
        files = {p.name: File(bytes=p.stat().st_size, sha256=hash_file(p)) for p in contents}
        for p in [*contents, folder]:
            sync(p)
        variant = manifest.variants[0]
        final = _free_name(root / "variants" / variant.name)
        folder.rename(final)
        sync(root / "variants")
        variant = msgspec.structs.replace(variant, folder=f"variants/{final.name}", files=files)
        manifest = msgspec.structs.replace(manifest, variants=(variant,))
        write_atomically(root / "manifest.json", _encode(manifest))
        _remove_leftovers(root)
    return open_bundle(root)


def new_manifest(*, network: str, classes: int, inputs: tuple[Tensor, ...], variant: Variant) -> Manifest:
    """Make a manifest of this version with one variant."""
    return Manifest(
        schema=SCHEMA, offramp=__version__, network=network, classes=classes, inputs=inputs, variants=(variant,)
    )


_Artefact = TypeVar("_Artefact", Manifest, Calibration)


class _Header(Struct):
    schema: int
    offramp: str = "unknown"


def _decode(path: Path, kind: type[_Artefact]) -> _Artefact:
    try:
        content = path.read_bytes()
        header = msgspec.json.decode(content, type=_Header)
        if header.schema > SCHEMA:
            raise BundleError(
                f"{path} has schema {header.schema}, written by offramp {header.offramp}; this is offramp {__version__}, "
                f"which reads up to schema {SCHEMA}. Update offramp here."
            )
        if header.schema < 1:
            raise BundleError(f"{path} has schema {header.schema}, which no offramp ever wrote.")
        return msgspec.json.decode(content, type=kind)
    except OSError as error:
        raise MissingError(f"Cannot read {path}: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, UsageError) as error:
        what = "manifest" if kind is Manifest else "calibration"
        raise BundleError(f"{path} is not a valid {what}: {error}. Copy it again or make it anew.") from error


def _encode(artefact: Manifest | Calibration) -> bytes:
    return msgspec.json.format(msgspec.json.encode(artefact), indent=1) + b"\n"


def _is_inside(path: str) -> bool:
    pure = PurePosixPath(path)
    return not pure.is_absolute() and ".." not in pure.parts and "\\" not in path and ":" not in path


def _locate(root: Path, variant: Variant, name: str) -> Path:
    path = root / variant.folder / name
    if not path.is_file():
        raise BundleError(f"{path} is missing. Copy the bundle again or export it anew.")
    if not path.resolve().is_relative_to(root.resolve()):
        raise BundleError(f"{path} leads outside the bundle through a link. Replace the link by the file.")
    if (size := path.stat().st_size) != variant.files[name].bytes:
        raise BundleError(
            f"{path} has {size} bytes where manifest.json says {variant.files[name].bytes}. "
            "Copy the bundle again or export it anew."
        )
    return path


def _free_name(path: Path) -> Path:
    number = 2
    candidate = path
    while candidate.exists():
        candidate, number = path.with_name(f"{path.name}-{number}"), number + 1
    return candidate


def _remove_leftovers(root: Path) -> None:
    """Remove the variant folders that no manifest names, and files that were never moved to their place."""
    keep = set()
    if (root / "manifest.json").is_file():
        try:
            keep = {variant.folder for variant in _decode(root / "manifest.json", Manifest).variants}
        except BundleError:  # whoever exports over a damaged bundle loses nothing until the new manifest is there
            return
    for folder in (root / "variants").iterdir():
        if f"variants/{folder.name}" not in keep:
            shutil.rmtree(folder, ignore_errors=True)
    for file in root.glob(".new-*"):
        file.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows has no fcntl; there two writers at once are not detected
        yield
        return
    descriptor = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"Another process is writing {root}. Wait until it has finished.") from None
        yield
    finally:
        os.close(descriptor)
