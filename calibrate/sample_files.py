"""Samples and labels, read from files and folders."""

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Bundle, Manifest, opened
from ..errors import DataError, MissingError, UsageError, unknown_name
from .images import IMAGE_SUFFIXES, load_images

__all__ = ["labelled", "load_samples"]


def load_samples(
    path: "str | os.PathLike[str]", bundle: "str | os.PathLike[str] | Bundle | Manifest | None" = None
) -> tuple[Any, np.ndarray | None]:
    """Load samples, and labels if there are any, from a file or a folder.

    Args:
        path: one of

            - an `.npz` file with `x`, or with one array for each of several inputs by its name, and `y` if there are labels;
            - an `.npy` file of samples;
            - an image, or a folder of images;
            - a folder with one folder of images per class. Folders bear the names of the bundle's classes. If the bundle names
              none, folders named by numbers are classes of these numbers; other folders count in the order of their names.
        bundle: the bundle that the samples are for, its folder or its manifest. Images are resized as it says. If the network
            takes floats, pixels are scaled to 0..1 and nothing else: a network trained on normalised pixels needs a bundle with
            `preprocess`.

    Returns:
        Samples as the network takes them, and labels (N,) or None.

    Raises:
        UsageError: nothing is there, or it is no kind of file that is listed above.
        DataError: the file is not what its name says, or holds no samples.
        MissingError: it may not be read, or images need a package that is not installed.

    Example:
        >>> from offramp.calibrate import load_samples
        >>> x, y = load_samples("test.npz", "digits.offramp")
        >>> x.shape, y.shape
        ((200, 1, 8, 8), (200,))
    """
    manifest = bundle if bundle is None or isinstance(bundle, Manifest) else opened(bundle).manifest
    path = Path(path)
    if not path.exists():
        raise UsageError(f"There is no file or folder {path}.", path=path)
    try:
        if path.suffix in (".npz", ".npy") and path.is_file():
            return _load_numpy(path, manifest)
        if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
            if manifest is None:
                raise UsageError("Images need a bundle that says their size; give arrays (.npz) here.", path=path)
            if path.is_dir():
                return _load_folder(path, manifest)
            return load_images([path], manifest), None
    except OSError as error:
        file = error.filename or path
        raise MissingError(f"Cannot read {file}: {error.strerror or error}.", path=file) from error
    raise UsageError(f"Samples come from .npz, .npy, an image or a folder of images, not {path}.", path=path)


def labelled(samples: tuple[Any, np.ndarray | None], source: str) -> tuple[Any, np.ndarray]:
    """Return samples that have labels.

    Args:
        samples: as `load_samples` returns them.
        source: where they come from, for the message.

    Raises:
        DataError: there are no labels.
    """
    x, y = samples
    if y is None:
        raise DataError(f"{source} has no labels: give `y` beside `x`, or one folder of images per class.")
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
        raise DataError(f"{path} is not a readable NumPy file of numbers: {error}", path=path) from error
    y = arrays.pop("y", None)
    names = list(arrays) if manifest is None else [tensor.name for tensor in manifest.inputs]
    if "x" in arrays and (len(names) == 1 or "x" not in names):
        return arrays["x"], y
    if manifest is not None and len(names) == 1 and names[0] in arrays:
        return arrays[names[0]], y
    if len(names) < 2 or (missing := [name for name in names if name not in arrays]):
        wanted = f"`{missing[0]}`" if len(names) > 1 else "`x`"
        raise DataError(f"{path} has no array {wanted}; it has {', '.join(arrays) or 'none'}.", path=path)
    return {name: arrays[name] for name in names}, y


def _load_folder(path: Path, manifest: Manifest) -> tuple[np.ndarray, np.ndarray | None]:
    classes = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    groups = [_images_in(folder) for folder in classes] if classes else [_images_in(path)]
    files = [file for group in groups for file in group]
    if not files:
        raise DataError(f"The data set is empty: there are no images in {path}.", path=path)
    labels = np.repeat(_number_classes(classes, manifest), [len(group) for group in groups]) if classes else None
    return load_images(files, manifest), labels


def _number_classes(folders: Sequence[Path], manifest: Manifest) -> list[int]:
    """Return each folder's class, by the bundle's names. Without them names that are numbers count, or else the folders' order.

    A warning says so if the order counts, or if the numbers are in another order than the names.

    Raises:
        DataError: the bundle has no such class.
    """
    names = [folder.name for folder in folders]
    class_names = manifest.class_names
    if class_names is not None:
        for folder in folders:
            if folder.name not in class_names:
                raise DataError(f"{folder}: {unknown_name('class', folder.name, class_names)}", path=folder)
        return [class_names.index(name) for name in names]
    if all(re.fullmatch("[0-9]{1,9}", name) for name in names):
        numbers = [int(name) for name in names]
        if numbers != sorted(set(numbers)):
            warnings.warn(
                f"{folders[0].parent}: the folders' names are taken as the numbers of their classes; torchvision's ImageFolder "
                "counts folders in the order of their names. If the network was trained that way, name its classes when you "
                "export: --classes.",
                stacklevel=1,
            )
        return numbers
    shown = ", ".join(f"{name} {number}" for number, name in enumerate(names[:10]))
    warnings.warn(
        f"{folders[0].parent}: the bundle names no classes, so the folders are classes in the order of their names: {shown}"
        f"{', ...' if len(names) > 10 else ''}. Name them when you export: --classes.",
        stacklevel=1,
    )
    return list(range(len(names)))


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
