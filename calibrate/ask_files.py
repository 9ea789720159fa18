"""Files that ask people for labels and bring them back: a table, and COCO's form of JSON that labelling tools read."""

import csv
import io
import os
import re
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct

from ..bundle import Bundle, Manifest, opened
from ..errors import DataError, UsageError, printable, quoted, unknown_name
from ..files import os_errors_explained, read_file
from ..runtime.chain.samples import convert_samples, hash_each
from .image_sets import WHOLE, read_rows
from .labels import UNKNOWN, check_labelled

__all__ = ["AskedSample", "encode_coco", "encode_table", "name_hash", "read_labels", "spell_classes"]

MOST_BYTES = 1 << 26
"""The largest file of labels that is read."""

HASH = "s[0-9a-f]{16}"
"""How a sample's hash is written. It begins with a letter, since spreadsheets turn 12e4 into a number."""

FORMULA = "=+-@"
"""What a spreadsheet takes for the beginning of a formula."""

NOT_WRITTEN_BY_US = (
    "it was not written by --ask (ask_labels), or was changed: leave all columns but `label` as they are"
)


class AskedSample(Struct, frozen=True):
    """A sample whose label is asked for.

    Attributes:
        sample: its number from 0.
        hash: of its values, as `name_hash` writes it.
        image: its picture, from the file's own folder; empty if there is none.
        label: its label, `UNKNOWN` if that is not known yet.
        said: labels by the titles of their columns: the whole network's and those of all exits.
        scores: scores by the titles of their columns.
    """

    sample: int
    hash: str
    image: str
    label: int
    said: dict[str, int]
    scores: dict[str, float]


class _Found(NamedTuple):
    """A label that a file holds: where it stands, the sample's hash, and how it is written; empty if it is not filled in."""

    where: str
    hash: str
    label: str


class _Image(Struct):
    id: int
    file_name: str


class _Category(Struct):
    id: int
    name: str


class _Annotation(Struct):
    image_id: int
    category_id: int | None = None


class _Coco(Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation] = []


def name_hash(value: int) -> str:
    """Write a sample's hash."""
    return f"s{value:016x}"


def spell_classes(manifest: Manifest) -> list[str]:
    """Return how classes are written in files: their names, or numbers where a name is none that a table can hold.

    Such a name is not written twice in the same way, and a spreadsheet takes it for text.
    """
    names = [unicodedata.normalize("NFC", name) for name in manifest.class_names or ()]
    is_plain = all(name and name == name.strip() == quoted(name) and name[0] not in FORMULA for name in names)
    return names if names and is_plain and len(set(names)) == len(names) else list(map(str, range(manifest.classes)))


def encode_table(asked: Sequence[AskedSample], classes: Sequence[str]) -> bytes:
    """Return the table: a row for each sample, with an empty column `label` to be filled in."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["sample", "image", "label", *asked[0].said, *asked[0].scores, "hash"])
    for each in asked:
        label = "" if each.label == UNKNOWN else classes[each.label]
        said = [classes[number] for number in each.said.values()]
        writer.writerow(
            [each.sample, each.image, label, *said, *(f"{score:.4f}" for score in each.scores.values()), each.hash]
        )
    return file.getvalue().encode("utf-8-sig")  # without its mark spreadsheets read another encoding


def encode_coco(asked: Sequence[AskedSample], classes: Sequence[str], size: tuple[int, int]) -> bytes:
    """Return the same as COCO's JSON: images, categories, and an annotation of each image whose label is known.

    Args:
        asked: the samples.
        classes: how classes are written.
        size: width and height of each image.
    """
    known = [(i, each.label) for i, each in enumerate(asked) if each.label != UNKNOWN]
    document: dict[str, Any] = {
        "images": [
            {"id": i, "file_name": each.image, "width": size[0], "height": size[1]} for i, each in enumerate(asked)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(classes)],
        "annotations": [{"id": k, "image_id": i, "category_id": label} for k, (i, label) in enumerate(known)],
    }
    return msgspec.json.encode(document)


def read_labels(
    path: str | os.PathLike[str], data: tuple[Any, Any], bundle: str | os.PathLike[str] | Bundle | Manifest
) -> tuple[Any, np.ndarray]:
    """Read the labels that people gave where `ask_labels` asked for them.

    Args:
        path: the table (.csv), with commas, semicolons or tabs, or COCO's JSON. Samples that have no label there stay unknown.
        data: the samples that were asked about, (samples, None), or with the labels that are known, -1 for the others.
        bundle: the bundle, its folder or its manifest.

    Returns:
        The samples and their labels, int64 (N,), -1 where they are unknown: what `calibrate` takes.

    Raises:
        UsageError: there is no such file, or the network does not classify.
        DataError: the file is of other samples, names a sample twice, was changed elsewhere than in its labels, holds none, or
            one that is no class.
        MissingError: it cannot be read.

    Example:
        >>> from offramp.calibrate import ask_labels, load_samples, read_labels
        >>> x, y = load_samples("test.npz")
        >>> asked = ask_labels("digits.offramp", (x, None), "asked.csv")
        >>> rows = open("asked.csv", encoding="utf-8-sig").read().splitlines()
        >>> named = [row.split(",") for row in rows[1:]]
        >>> filled = [",".join([row[0], row[1], str(y[int(row[0])]), *row[3:]]) for row in named]
        >>> _ = open("asked.csv", "w").write("\\n".join([rows[0], *filled]))
        >>> x, labels = read_labels("asked.csv", (x, None), "digits.offramp")
        >>> int((labels >= 0).sum()) == asked.asked
        True
    """
    path, manifest = Path(path), bundle if isinstance(bundle, Manifest) else opened(bundle).manifest
    if not manifest.classes:
        raise UsageError("Labels are for networks that classify: give what is true of every sample of this one.")
    x, given = data
    if given is None:
        samples = convert_samples(x, manifest.inputs)
        y = np.full(len(samples), UNKNOWN, np.int64)
    else:
        samples, y = check_labelled((x, given), manifest, may_lack=True)
        y = y.copy()
    hashes = hash_each(samples)
    rows: dict[str, list[int]] = {}
    for i, value in enumerate(hashes.tolist()):
        rows.setdefault(name_hash(value), []).append(i)
    numbers, count = _number_classes(manifest), 0
    for where, hash_, label in _read(path):
        if hash_ not in rows:
            raise DataError(
                f"{path}, {where}: this sample is not among those that were given. Give the samples that were asked about, "
                "prepared in the same way.",
                path=path,
            )
        if label:
            y[rows[hash_]] = _read_label(label, numbers, manifest, f"{path}, {where}")
            count += 1
    if not count:
        raise DataError(f"{path} holds no label: fill in the column `label`, from the top.", path=path)
    return x, y


def _number_classes(manifest: Manifest) -> dict[str, int]:
    """Return the number of each class by how it may be written."""
    spelled = {name: number for number, name in enumerate(spell_classes(manifest))}
    is_numbered = any(re.fullmatch(WHOLE, name) for name in spelled)
    return spelled if is_numbered else spelled | {str(number): number for number in range(manifest.classes)}


def _read_label(text: str, numbers: dict[str, int], manifest: Manifest, where: str) -> int:
    """Return the class that a label means."""
    text = unicodedata.normalize("NFC", text)
    if text not in numbers and re.fullmatch(WHOLE, text):
        text = str(int(float(text)))  # a spreadsheet may write 3 as 3.0
    if text not in numbers:
        raise DataError(
            f"{where}: {unknown_name('class', text, spell_classes(manifest))} Where nobody knows the label, give none."
        )
    return numbers[text]


def _read(path: Path) -> Iterator[_Found]:
    """Yield what a file holds, each sample once."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name the file with the labels, such as {path / 'ask.csv'}.", path=path)
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", path=path)
    with os_errors_explained(path, "read"):
        if path.stat().st_size > MOST_BYTES:
            raise DataError(f"{path} is larger than {MOST_BYTES >> 20} MB: it holds more than labels.", path=path)
        found = list(_read_coco(path) if path.suffix.lower() == ".json" else _read_table(path))
    first: dict[str, _Found] = {}
    for each in found:
        if (other := first.setdefault(each.hash, each)) is not each:
            raise DataError(
                f"{path}, {each.where}: this sample stands in {other.where} too. Remove one of them.",
                path=path,
            )
        yield each


def _read_table(path: Path) -> Iterator[_Found]:
    (_, head), *body = read_rows(path)
    titles = [title.strip().lower() for title in head]
    for title in ("hash", "label"):
        if titles.count(title) != 1:
            raise DataError(f"{path} has not one column `{title}`: {NOT_WRITTEN_BY_US}.", path=path)
    hash_at, label_at = titles.index("hash"), titles.index("label")
    for line, cells in body:
        hash_ = cells[hash_at].strip() if len(cells) == len(head) else ""
        if not re.fullmatch(HASH, hash_):
            raise DataError(
                f"{path}, line {line} names no sample in its column `hash`: {NOT_WRITTEN_BY_US}.", path=path
            )
        yield _Found(f"line {line}", hash_, cells[label_at].strip())


def _read_coco(path: Path) -> Iterator[_Found]:
    try:
        document = msgspec.json.decode(read_file(path, most=MOST_BYTES).removeprefix(BOM_UTF8), type=_Coco)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f"{path} is not COCO's JSON of images, categories and annotations: {printable(error)}.", path=path
        ) from None
    names = {category.id: category.name for category in document.categories}
    if len(names) < len(document.categories):
        raise DataError(f"{path} gives several categories one id, so that annotations may mean any of them.", path=path)
    labels: dict[int, str] = {}
    for annotation in document.annotations:
        if annotation.category_id is None:
            continue
        if annotation.category_id not in names:
            raise DataError(
                f"{path}: there is no category {annotation.category_id}, which an annotation names.", path=path
            )
        label = names[annotation.category_id]
        if labels.setdefault(annotation.image_id, label) != label:
            raise DataError(
                f"{path}: image {annotation.image_id} is of two classes, {quoted(labels[annotation.image_id])} and "
                f"{quoted(label)}: leave one.",
                path=path,
            )
    for image in document.images:
        hashes = re.findall(HASH, image.file_name)
        if len(hashes) != 1:
            raise DataError(
                f"{path}: the name of image {image.id}, {quoted(image.file_name)}, names no sample: {NOT_WRITTEN_BY_US}.",
                path=path,
            )
        yield _Found(f"image {image.id}", hashes[0], labels.pop(image.id, ""))
    if labels:
        raise DataError(f"{path}: there is no image {next(iter(labels))}, which an annotation names.", path=path)
