"""Samples with the group of each, from the sources that `load_samples` takes."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Bundle, Manifest, opened
from ..errors import DataError, UsageError, unknown_name
from ..progress import Progress, no_progress
from .datasets import name_arrays, read_samples
from .image_sets import list_grouped_folder, list_table
from .sample_files import TABLES, load_image_set, load_samples, path_errors_explained, read_numpy
from .user_code import executing, read_callable

__all__ = ["load_grouped"]


def load_grouped(
    source: Any,
    groups: str,
    bundle: "str | os.PathLike[str] | Bundle | Manifest | None" = None,
    *,
    progress: Progress = no_progress,
) -> tuple[Any, np.ndarray | None, np.ndarray]:
    """Load samples as `load_samples` does, and which group each belongs to: the clip, person or machine that it comes from.

    Args:
        source: as for `load_samples`.
        groups: what tells the group of each sample:

            - the heading of a column of a table of images; the name of an array in an `.npz` file, or of an `.npy` file in a
              folder; the key of a dict, or of the items of a dataset;
            - `1` or `2` for a folder of images: the folders in it are groups, or those inside these; the other level is classes;
            - an `.npy` file with the group of each sample, or a `.txt` file with one in each line, for any source;
            - `file.py:function`, which gets the samples and returns the group of each, for any source.
        bundle, progress: as for `load_samples`.

    Returns:
        Samples, labels (N,) or None, and groups (N,), numbers or texts, which `calibrate(..., groups=...)` takes.

    Raises:
        UsageError, DataError, MissingError: as for `load_samples`, or the source has no such groups.
        ModelError: the function fails.

    Example:
        >>> import numpy as np
        >>> from offramp.calibrate import load_grouped
        >>> x, y, person = load_grouped({"x": np.zeros((4, 2)), "y": [0, 1, 0, 1], "person": ["a", "a", "b", "b"]}, "person")
        >>> person.tolist()
        ['a', 'a', 'b', 'b']
    """
    manifest = bundle if bundle is None or isinstance(bundle, Manifest) else opened(bundle).manifest
    if not isinstance(groups, str):
        raise UsageError(
            f"groups is a name: of a column, an array, a level of folders ('1' or '2'), a file or file.py:function, not "
            f"{groups!r:.60}."
        )
    if ".py:" in groups:
        x, y = load_samples(source, manifest, progress=progress)
        function = read_callable(groups, "function of the groups")
        with executing(groups):
            return x, y, np.asarray(function(x))
    if groups.endswith((".npy", ".txt")):
        return *load_samples(source, manifest, progress=progress), _read_list(Path(groups))
    if not isinstance(source, (str, os.PathLike)):
        return _load_items(source, groups, manifest, progress)
    path = Path(source)
    with path_errors_explained(path):
        if path.is_dir() and groups in ("1", "2"):
            images = list_grouped_folder(path, _need(manifest, path), int(groups))
        elif path.is_file() and path.suffix.lower() in TABLES:
            images = list_table(path, _need(manifest, path), groups)
        elif path.is_file() and path.suffix.lower() == ".npz":
            arrays = read_numpy(path)
            if not isinstance(arrays, dict) or groups not in arrays:
                raise unknown_name(f"array in {path}", groups, arrays if isinstance(arrays, dict) else ())
            rest = {name: array for name, array in arrays.items() if name != groups}
            return *name_arrays(rest, manifest, source=path), np.asarray(arrays[groups])
        elif (path / f"{groups}.npy").is_file():
            return *load_samples(path, manifest, progress=progress), np.asarray(read_numpy(path / f"{groups}.npy"))
        else:
            raise UsageError(
                f"{path} has no groups {groups!r}: name a column of a table, an array in an .npz file or a folder of arrays, the "
                f"folders' level (1 or 2), or a file (.npy, .txt) or file.py:function that gives the group of each sample.",
                path=path,
            )
        x, y = load_image_set(images, path, manifest, progress)
        return x, y, np.array(images.groups)


def _need(manifest: Manifest | None, path: Path) -> Manifest:
    if manifest is None:
        raise UsageError("Images need a bundle that says their size; give arrays (.npz) here.", path=path)
    return manifest


def _read_list(path: Path) -> np.ndarray:
    """Return the groups in an .npy file, or in the lines of a text."""
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", path=path)
    with path_errors_explained(path):
        if path.suffix == ".npy":
            return np.asarray(read_numpy(path))
        try:
            return np.array([line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()])
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not text in UTF-8: {error.reason}.", path=path) from error


def _load_items(source: Any, groups: str, manifest: Manifest | None, progress: Progress) -> tuple[Any, Any, np.ndarray]:
    """Take a key out of what a program holds: out of a dict of arrays, or of each item of a dataset."""
    name = f"the {type(source).__name__}"
    if isinstance(source, Mapping):
        if groups not in source:
            raise unknown_name(f"key of {name}", groups, list(map(str, source)))
        rest = {key: part for key, part in source.items() if key != groups}
        return *read_samples(rest, manifest, name=name, progress=progress), np.asarray(source[groups])
    taken: list[np.ndarray] = []

    def items() -> Iterator[Any]:
        for item in source:
            if not isinstance(item, Mapping) or groups not in item:
                keys = list(map(str, item)) if isinstance(item, Mapping) else []
                raise unknown_name(f"key of the items of {name}", groups, keys)
            taken.append(np.ravel(np.asarray(item[groups])))
            yield {key: part for key, part in item.items() if key != groups}

    x, y = read_samples(items(), manifest, name=name, progress=progress)
    return x, y, np.concatenate(taken)
