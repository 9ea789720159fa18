"""Which images a folder or a table names, and the class of each."""

import csv
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from ..bundle import Manifest
from ..errors import DataError, unknown_name
from .images import IMAGE_SUFFIXES

__all__ = ["ImageSet", "list_folder", "list_grouped_folder", "list_table", "number_classes", "read_rows"]

LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "target", "y")
"""Headings of a table's column of labels."""

WHOLE = r"[0-9]{1,9}(\.0+)?"
"""How a table writes the number of a class; programs that miss some labels write whole numbers with a point."""


class ImageSet(Struct, frozen=True):
    """Images, and the class of each or None; and its group, if groups were asked for."""

    files: list[Path]
    labels: list[int] | None
    groups: list[str] | None = None


class _Entries(Struct):
    """What lies in a folder.

    Attributes:
        images, folders: the images, and the folders that are not hidden, in the order of their names.
        others: how much else lies there, by kind.
    """

    images: list[Path]
    folders: list[Path]
    others: Counter[str]


def list_folder(path: Path, manifest: Manifest) -> ImageSet:
    """Return the images of a folder, or those of its folders, each a class. A warning counts what is left out.

    Raises:
        DataError: there are no images, or a folder bears the name of no class or of several.
        OSError: a folder may not be read.
    """
    top = _read_entries(path)
    inside = {folder: _read_entries(folder) for folder in top.folders}
    classes = {folder: entries for folder, entries in inside.items() if entries.images}
    others = top.others.copy()
    if classes:
        others.update({"beside the class folders": len(top.images)})
        for entries in inside.values():
            others.update(entries.others)
            others.update({"folders inside class folders": len(entries.folders)})
    else:
        others.update({"folders": len(top.folders)})
    empty = [folder.name for folder in top.folders if folder not in classes] if classes else []
    left_out = [f"{kind} {count}" for kind, count in others.items() if count]
    left_out += [f"folders without images {', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}"] if empty else []
    if not classes and not top.images:
        seen = f" ({'; '.join(left_out)})" if left_out else ""
        raise DataError(f"The data set is empty: there are no images in {path}{seen}.{_find_deeper(inside)}", path=path)
    if left_out:
        warnings.warn(f"{path}: left out: {'; '.join(left_out)}.", stacklevel=1)
    if not classes:
        return ImageSet(top.images, None)
    numbers = number_classes([folder.name for folder in classes], manifest, path)
    files = [file for entries in classes.values() for file in entries.images]
    counts = [len(entries.images) for entries in classes.values()]
    return ImageSet(files, [n for n, count in zip(numbers, counts, strict=True) for _ in range(count)])


def list_grouped_folder(path: Path, manifest: Manifest, level: int) -> ImageSet:
    """Return the images that lie one or two folders deep, grouped by the folders of a level; those of the other are classes.

    Args:
        path: the folder.
        manifest: of the bundle.
        level: 1 for the folders in it, 2 for those inside these.

    Raises:
        DataError: images lie both one and two folders deep, or less deep than the level, or there are none; or as for
            `list_folder`.
        OSError: a folder may not be read.
    """
    found: dict[Path, list[Path]] = {}
    for folder in _read_entries(path).folders:
        entries = _read_entries(folder)
        for inner in (folder, *entries.folders):
            if images := (entries if inner is folder else _read_entries(inner)).images:
                found[inner.relative_to(path)] = images
    depths = {len(folder.parts) for folder in found}
    if len(depths) != 1 or level > max(depths):
        seen = (
            "both one and two folders"
            if len(depths) > 1
            else f"{max(depths)} folder"
            if depths
            else "neither one nor two folders"
        )
        raise DataError(
            f"--groups {level}: images lie {seen} deep in {path}. They lie in a folder for each group, or two folders deep, "
            "those of groups inside those of classes (--groups 2) or the other way round (--groups 1).",
            path=path,
        )
    files = [file for images in found.values() for file in images]
    places = [folder.parts for folder, images in found.items() for _ in images]
    groups = [place[level - 1] for place in places]
    if depths == {1}:
        return ImageSet(files, None, groups)
    names = sorted({place[2 - level] for place in places})
    numbers = dict(zip(names, number_classes(names, manifest, path), strict=True))
    return ImageSet(files, [numbers[place[2 - level]] for place in places], groups)


def list_table(path: Path, manifest: Manifest, groups: str | None = None) -> ImageSet:
    """Return the images that a table of comma-separated values names, and their classes if it has a column of labels.

    Args:
        path: the table.
        manifest: of the bundle.
        groups: the heading of a column with the group of each image; None if there is none.

    Raises:
        DataError: it is no table of image files, a file is not there, or a label is none of the classes.
        OSError: the file may not be read.
    """
    rows = read_rows(path)
    has_header = not any(_is_image_name(cell) for cell in rows[0][1])
    header = [cell.strip().lower() for cell in rows[0][1]] if has_header else []
    body = rows[has_header:]
    if not body or not any(_is_image_name(cell) for cell in body[0][1]):
        raise DataError(
            f"{path} names no images in its first rows: a table has a column of image files and one of labels. Give numbers as "
            "arrays (.npz).",
            path=path,
        )
    width = len(body[0][1])
    files_at = next(i for i, cell in enumerate(body[0][1]) if _is_image_name(cell))
    named = [i for i, name in enumerate(header[:width]) if name in LABEL_NAMES and i != files_at]
    groups_at = None if groups is None else _find_column(header, groups, path)
    others = named[:1] or [i for i in range(width) if i not in (files_at, groups_at)]
    if len(others) > 1:
        raise DataError(f"{path} has {width} columns: head the one with the labels `label`.", path=path)
    files, texts, group_names = [], [], []
    for line, cells in body:
        if len(cells) != width:
            raise DataError(f"{path}, line {line}: {len(cells)} columns, and {width} before.", path=path)
        files.append(_find_file(path, line, cells[files_at].strip()))
        texts += [cells[i].strip() for i in others]
        group_names += [] if groups_at is None else [cells[groups_at].strip()]
    if not others:
        return ImageSet(files, None, group_names or None)
    if manifest.class_names is None or "" in texts:
        _check_labels(texts, [line for line, _ in body], path)
    return ImageSet(files, _number_labels(texts, manifest, path), group_names or None)


def _find_column(header: Sequence[str], name: str, path: Path) -> int:
    if name.strip().lower() not in header:
        raise unknown_name("column", name, header)
    return header.index(name.strip().lower())


def number_classes(names: Sequence[str], manifest: Manifest, source: Path) -> list[int]:
    """Return the classes that names mean, by the bundle's names. Without them names that are numbers count, or else their order.

    Accents count as the same however they are composed. A warning says so if the order counts, or if the numbers are in another
    order than the names.

    Raises:
        DataError: the bundle has no such class, or several.
    """
    if manifest.class_names is not None:
        known = [_compose(name) for name in manifest.class_names]
        for name in names:
            if known.count(_compose(name)) > 1:
                same = ", ".join(str(i) for i, other in enumerate(known) if other == _compose(name))
                raise DataError(f"{source}: the classes {same} are all called {name!r}: export with a name for each.")
            if _compose(name) not in known:
                raise DataError(f"{source}: {unknown_name('class', name, manifest.class_names)}", path=source)
        return [known.index(_compose(name)) for name in names]
    if all(re.fullmatch("[0-9]{1,9}", name) for name in names):
        numbers = [int(name) for name in names]
        if numbers != sorted(set(numbers)):
            warnings.warn(
                f"{source}: the folders' names are taken as the numbers of their classes; torchvision's ImageFolder "
                "counts folders in the order of their names. If the network was trained that way, name its classes when you "
                "export: --classes FILE, which has one name per line.",
                stacklevel=1,
            )
        return numbers
    shown = ", ".join(f"{name} {number}" for number, name in enumerate(names[:10]))
    warnings.warn(
        f"{source}: nothing names the classes yet, so they are numbered in the order of their names: {shown}"
        f"{', ...' if len(names) > 10 else ''}. To name them, export with --classes FILE, which has one name per line.",
        stacklevel=1,
    )
    return list(range(len(names)))


def _read_entries(folder: Path) -> _Entries:
    entries = _Entries([], [], Counter())
    for file in sorted(folder.iterdir()):
        if file.name.startswith("."):
            entries.others["hidden"] += 1
        elif file.is_dir():
            entries.folders.append(file)
        elif not _is_image_name(file.name):
            entries.others[file.suffix.lower() or "without a suffix"] += 1
        elif file.is_file():
            entries.images.append(file)
        else:
            entries.others["no regular files" if file.exists() else "links to nothing"] += 1
    return entries


def _find_deeper(inside: dict[Path, _Entries]) -> str:
    """Name a folder whose folders hold images, if there is one: it may be what was meant."""
    for folder, entries in inside.items():
        if any(_read_entries(deeper).images for deeper in entries.folders):
            return f" {folder} has folders with images: is that the one? If folders are groups, say so (--groups)."
    return ""


def _is_image_name(name: str) -> bool:
    return name.strip().lower().endswith(IMAGE_SUFFIXES)


def _compose(name: str) -> str:
    """Write accents in one way: file systems and keyboards differ in it."""
    return unicodedata.normalize("NFC", name)


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the rows of a table that are not empty, with their lines. Commas, semicolons or tabs part its cells."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count), strict=True)
            rows = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except (UnicodeDecodeError, csv.Error) as error:
        remedy = " In a spreadsheet save it as CSV UTF-8." if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(f"{path} is not a table of text in UTF-8: {error}.{remedy}", path=path) from error
    if not rows:
        raise DataError(f"The data set is empty: there are no rows in {path}.", path=path)
    return rows


def _find_file(table: Path, line: int, name: str) -> Path:
    """Return the image that a row names; names count from the table's own folder."""
    for spelt in (name, name.replace("\\", "/")):
        if (file := table.parent / spelt).is_file():
            return file
    file = table.parent / name
    fault = f"{file} is no regular file" if file.exists() else f"there is no file {file}"
    raise DataError(f"{table}, line {line}: {fault}.", path=table)


def _check_labels(texts: Sequence[str], lines: Sequence[int], table: Path) -> None:
    """See that every row has a label, and that all are whole numbers if one is a number: their order would be another numbering.

    Raises:
        DataError: a label is missing, or is none beside numbers.
    """
    are_numbers = any(map(_is_number, texts))
    for text, line in zip(texts, lines, strict=True):
        if not text:
            raise DataError(f"{table}, line {line} has no label.", path=table)
        if are_numbers and not re.fullmatch(WHOLE, text):
            raise DataError(
                f"{table}, line {line}: the label {text!r:.40} is no class's number, a whole one from 0 on, as other labels are.",
                path=table,
            )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _number_labels(texts: Sequence[str], manifest: Manifest, source: Path) -> list[int]:
    """Return the classes of a table's labels: names of the bundle's classes, or numbers."""
    names = sorted(set(texts))
    known = {_compose(name) for name in manifest.class_names or ()}
    if all(re.fullmatch(WHOLE, name) for name in names) and not any(_compose(n) in known for n in names):
        return [int(float(text)) for text in texts]
    numbers = dict(zip(names, number_classes(names, manifest, source), strict=True))
    return [numbers[text] for text in texts]
