"""Samples in files and folders."""

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Bundle, Manifest, opened
from ..errors import DataError, MissingError, UsageError, unknown_name
from .images import SUFFIXES, load_images


def load_samples(
    path: "str | os.PathLike[str]", bundle: "str | os.PathLike[str] | Bundle | Manifest | None" = None
) -> tuple[Any, np.ndarray | None]:
    """Load samples from a file or a folder, and labels where there are some.

    Args:
        path: an `.npz` file with `x`, or with an array for each of several inputs by its name, and perhaps `y`; an `.npy` file of
            samples; an image; a folder of images, or of one folder of images per class. Folders are named as the bundle's classes
            are; where the bundle names none, they count by their numbers, or else in the order of their names.
        bundle: the bundle that the samples are for, its folder or its manifest. Images are resized as it says; for a network that
            takes floats their pixels are scaled to 0..1 and nothing else, so one that was trained on normalised pixels needs
            `preprocess`.

    Returns:
        Samples as the network takes them, and labels (N,) or None.

    Raises:
        UsageError: nothing is there, or its kind is not known.
        DataError: the file is not what its name says, or holds no samples.
        MissingError: it may not be read, or images need a package that is not installed.

    Example: `x, y = load_samples("test.npz", "digits.offramp")`.
    """
    manifest = bundle if bundle is None or isinstance(bundle, Manifest) else opened(bundle).manifest
    path = Path(path)
    if not path.exists():
        raise UsageError(f"There is no file or folder {path}.")
    try:
        if path.suffix in (".npz", ".npy") and path.is_file():
            return _load_numpy(path, manifest)
        if path.is_dir() or path.suffix.lower() in SUFFIXES:
            if manifest is None:
                raise UsageError("Images need a network whose input says their size; give arrays (.npz) here.")
            if path.is_dir():
                return _load_folder(path, manifest)
            return load_images([path], manifest), None
    except OSError as error:
        raise MissingError(f"Cannot read {error.filename or path}: {error.strerror or error}.") from error
    raise UsageError(f"Samples come from .npz, .npy, an image, a folder of images or file.py:function, not {path}.")


def labelled(samples: tuple[Any, np.ndarray | None], source: str) -> tuple[Any, np.ndarray]:
    """Insist on labels.

    Raises:
        DataError: there are none.
    """
    x, y = samples
    if y is None:
        raise DataError(f"{source} has no labels: give `y` beside `x`, or a folder of images per class.")
    return x, y


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
                raise DataError(f"{folder}: {unknown_name('class', folder.name, known)}")
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
