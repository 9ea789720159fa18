"""Ask people for the labels that can change a promise, and for no others."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct

from ..bundle import Bundle, Manifest, opened
from ..errors import UsageError, require
from ..files import check_writable, os_errors_explained, write_atomically
from ..progress import Progress, no_progress
from ..runtime import EveryExit
from .ask_files import AskedSample, encode_coco, encode_table, name_hash, spell_classes
from .disputes import find_disputed, rank_disputed
from .html_report.input_pictures import Painter, has_images
from .labels import UNKNOWN, SampleSet
from .measure.configurations import Answers, record_all
from .measure.session import LoadedConfiguration, Session
from .requests import Devices, read_request
from .search.gains import LEAST_GAIN

__all__ = ["Asked", "ask_labels"]

Recorded = Sequence[tuple[LoadedConfiguration, Answers]]


class Asked(Struct, frozen=True):
    """The labels that are asked for.

    Attributes:
        samples: how many samples there are.
        asked: of how many the label can change a promise.
        table: the file to fill in; None if no label can change anything.
        coco: the same as COCO's JSON; None if none was written.
        images: the folder of their pictures; None if the network takes no images.

    Example:
        >>> from offramp.calibrate import Asked
        >>> asked = Asked(samples=5000, asked=412, table="ask.csv")
        >>> f"{asked.asked / asked.samples:.1%}"
        '8.2%'
    """

    samples: int
    asked: int
    table: str | None = None
    coco: str | None = None
    images: str | None = None

    def __str__(self) -> str:
        if self.table is None:
            return (
                f"No label is needed: every exit of every variant gives all {self.samples} samples the whole network's label. "
                "Limit max_disagreement."
            )
        written = "" if self.images is None else f" Their images are in {self.images}."
        return (
            f"The labels of {self.asked} of the {self.samples} samples ({self.asked / self.samples:.1%}) can change a promise: "
            f"{self.table}, the most useful first.{written} Fill in its column `label`, and calibrate with --labels {self.table}."
        )


class _Files(NamedTuple):
    """Where everything is written: no `coco` beside a single table, and neither that nor `images` if there are no pictures."""

    table: Path
    coco: Path | None
    images: Path | None


def ask_labels(
    bundle: str | os.PathLike[str] | Bundle,
    data: tuple[Any, Any],
    path: str | os.PathLike[str],
    *,
    device: Devices = "cpu",
    also: Sequence[Devices] = (),
    threads: int = 1,
    fallback: str | None = None,
    variant: str | Sequence[str] | None = None,
    save_s: float = 10.0,
    progress: Progress = no_progress,
) -> Asked:
    """Find the samples whose labels can change a promise, and write what people need to label them.

    These are the samples to which some exit or static network of some variant gives another label than the whole network of the
    first one: on all others nothing is lost, whatever is true. With their labels `calibrate` finds the same points as with all
    labels. The most useful ones come first: those that a point gets wrong that disagrees with the whole network least.

    The answers are kept in the cache: `calibrate` with the same samples, variants, devices and threads records none again.

    Args:
        bundle: the bundle or its folder.
        data: samples as `Net.batch` takes them and None, or labels int (N,), -1 where they are unknown.
        path: the table to write (`ask.csv`, its images in `ask-images`); or a folder for a labelling tool, in which `ask.csv`,
            `ask.json` in COCO's form and `images` are written.
        device, also, threads, fallback, variant, save_s, progress: as for `calibrate`.

    Raises:
        UsageError: the network does not classify, all labels are known, the file is there already and may hold labels, or it
            would lie in the bundle.
        DataError, BundleError, MissingError: as for `calibrate`.

    Example:
        >>> from offramp.calibrate import ask_labels, load_samples
        >>> x, _ = load_samples("test.npz")
        >>> asked = ask_labels("digits.offramp", (x, None), "pool.csv")
        >>> asked.samples, 0 < asked.asked < 100
        (200, True)
    """
    bundle = opened(bundle)
    if not bundle.manifest.classes:
        raise UsageError(
            f"The network answers with {', '.join(bundle.manifest.answer)}: labels are asked for where networks classify. Of "
            "other answers calibrate needs the truth of every sample, or a disagreement."
        )
    files = _name_files(Path(path), bundle)
    request = read_request(
        bundle,
        data,
        None,
        device=device,
        also=also,
        threads=threads,
        fallback=fallback,
        variant=variant,
        output=files.table,  # nothing is stored in the bundle, which may be read-only
        replace=False,
        confidence=0.9,
        least_gain=LEAST_GAIN,
        outside=None,
        groups=None,
        meter=None,
        keep=None,
        seed=0,
        measure_s=6.0,
        every_s=None,
        save_s=save_s,
        loss=None,
        disagreement=None,
        progress=progress,
    )
    samples = request.samples
    if samples.y is not None and not samples.has_unknown:
        raise UsageError("All labels of these samples are known: calibrate with them.")
    if files.images is not None:
        require("PIL.Image", extra="calibrate")
    with Session(request) as session:
        recorded, reference = record_all(session)
    rows = _choose_rows([answers for _, answers in recorded], reference, samples)
    if not len(rows):
        return Asked(len(samples), 0)
    asked = [_describe(i, recorded, reference, samples, files.images) for i in rows.tolist()]
    classes = spell_classes(bundle.manifest)
    if files.images is not None:
        size = _write_images(asked, samples, bundle.manifest, files.images, progress)
        if files.coco is not None:
            write_atomically(files.coco, encode_coco(asked, classes, size))
    write_atomically(files.table, encode_table(asked, classes))
    return Asked(len(samples), len(asked), *(None if file is None else str(file) for file in files))


def _name_files(path: Path, bundle: Bundle) -> _Files:
    """Name the files to write, none of which is there yet."""
    if bundle.path.resolve() in (path.resolve(), *path.resolve().parents):
        raise UsageError(f"{path} lies in the bundle, which holds nothing else: name a place outside it.", path=path)
    if path.suffix.lower() == ".csv":
        files = _Files(path, None, path.with_name(f"{path.stem}-images"))
    elif path.suffix and not path.is_dir():
        raise UsageError(
            f"Labels are asked for in a table or a folder: name a file .csv or a folder, not {path}.", path=path
        )
    else:
        files = _Files(path / "ask.csv", path / "ask.json", path / "images")
    if not has_images(bundle.manifest):
        files = _Files(files.table, None, None)
    for file in (files.table, files.coco):
        if file is not None:
            if file.exists():
                raise UsageError(
                    f"{file} is there already and may hold labels: name another file, or remove it.", path=file
                )
            check_writable(file)
    return files


def _choose_rows(answers: Sequence[Answers], reference: EveryExit, samples: SampleSet) -> np.ndarray:
    """Return the samples to ask about, each once however many copies there are, the most useful first."""
    least, rows = rank_disputed(answers, reference), np.flatnonzero(find_disputed(answers, reference))
    rows = rows[np.argsort(least[rows], kind="stable")]
    _, first = np.unique(samples.hashes[rows], return_index=True)
    return np.asarray(rows[np.sort(first)])


def _describe(i: int, recorded: Recorded, reference: EveryExit, samples: SampleSet, images: Path | None) -> AskedSample:
    said, scores = {"whole": int(reference.label[i, 0])}, {}
    names = [loaded.variant.name for loaded, _ in recorded]
    for loaded, answers in recorded:
        name = loaded.variant.name
        if names.count(name) > 1:
            name += f" on {' '.join(dict.fromkeys(loaded.placement))}"
        for k, (label, score) in enumerate(zip(answers.chain.label[i], answers.chain.score[i], strict=True)):
            said[f"{name} exit {k}"], scores[f"{name} score {k}"] = int(label), float(score)
    hash_ = name_hash(int(samples.hashes[i]))
    image = "" if images is None else f"{images.name}/{i:06d}-{hash_}.png"
    label = int(samples.y[i]) if isinstance(samples.y, np.ndarray) else UNKNOWN
    return AskedSample(i, hash_, image, label, said, scores)


def _write_images(
    asked: Sequence[AskedSample], samples: SampleSet, manifest: Manifest, folder: Path, progress: Progress
) -> tuple[int, int]:
    """Write the pictures of samples, and return their width and height."""
    painter = Painter(samples.x.arrays[0], manifest)
    with os_errors_explained(folder, "write"):
        folder.mkdir(exist_ok=True)
        for count, each in enumerate(asked):
            painter.image(each.sample).save(folder.parent / each.image, "PNG")
            progress("writing images", count + 1, len(asked))
    return painter.size
