"""Samples in files and folders."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Manifest
from ..errors import DataError, unknown
from .images import SUFFIXES, load_images


def labelled(samples: tuple[Any, np.ndarray | None], source: str) -> tuple[Any, np.ndarray]:
    """Insist on labels.

    Raises:
        DataError: there are none.
    """
    x, y = samples
    if y is None:
        raise DataError(f"{source} has no labels: give `y` beside `x`, or a folder of images per class.")
    return x, y


def _as_samples(value: Any, source: str) -> tuple[Any, np.ndarray | None]:
    x, y = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, None)
    try:
        return _as_arrays(x), None if y is None else _as_array(y)
    except ValueError as error:
        raise DataError(f"{source} does not return arrays x or (x, y): {error}") from error


def _as_arrays(x: Any) -> Any:
    if isinstance(x, dict):
        return {name: _as_array(part) for name, part in x.items()}
    return tuple(_as_array(part) for part in x) if isinstance(x, tuple) else _as_array(x)


def _as_array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def _load_numpy(path: Path, manifest: Manifest | None) -> tuple[Any, np.ndarray | None]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except PermissionError:
        raise
    except Exception as error:  # a damaged archive raises one of a dozen types
        raise DataError(f"{path} is not a readable NumPy file of numbers: {error}") from error
    y = arrays.pop("y", None)
    names = list(arrays) if manifest is None else [tensor.name for tensor in manifest.inputs]
    if "x" in arrays and (len(names) == 1 or "x" not in names):
        return arrays["x"], y
    if manifest is not None and len(names) == 1 and names[0] in arrays:
        return arrays[names[0]], y
    if len(names) < 2 or (missing := [name for name in names if name not in arrays]):
        wanted = f"`{missing[0]}`" if len(names) > 1 else "`x`"
        raise DataError(f"{path} has no array {wanted}; it has {', '.join(arrays) or 'none'}.")
    return {name: arrays[name] for name in names}, y


def _load_folder(path: Path, manifest: Manifest) -> tuple[np.ndarray, np.ndarray | None]:
    classes = sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))
    groups = [_images_in(folder) for folder in classes] if classes else [_images_in(path)]
    files = [file for group in groups for file in group]
    if not files:
        raise DataError(f"The data set is empty: there are no images in {path}.")
    labels = np.repeat(_number_classes(classes, manifest), [len(group) for group in groups]) if classes else None
    return load_images(files, manifest), labels


def _number_classes(folders: Sequence[Path], manifest: Manifest) -> list[int]:
    """Return each folder's class: by the bundle's names; else a name that is a number counts, or the order, which is said.

    Raises:
        DataError: the bundle has no such class.
    """
    names = [folder.name for folder in folders]
    known = manifest.class_names
    if known is not None:
        for folder in folders:
            if folder.name not in known:
                raise DataError(f"{folder}: {unknown('class', folder.name, known)}")
        return [known.index(name) for name in names]
    if all(re.fullmatch("[0-9]{1,9}", name) for name in names):
        numbers = [int(name) for name in names]
        if numbers != sorted(set(numbers)):
            warnings.warn(
                f"{folders[0].parent}: folders count by the numbers that they are named; torchvision's ImageFolder counts them "
                "in the order of their names. Where the network learnt that, name its classes when you export: --classes.",
                stacklevel=1,
            )
        return numbers
    shown = ", ".join(f"{name} {number}" for number, name in enumerate(names[:10]))
    warnings.warn(
        f"{folders[0].parent}: the bundle names no classes, so folders count in the order of their names: {shown}"
        f"{', ...' if len(names) > 10 else ''}. Name them when you export: --classes.",
        stacklevel=1,
    )
    return list(range(len(names)))


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
