"""Samples and labels, from files, folders and tables, and from what a program holds."""

import contextlib
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..bundle import Bundle, Manifest, opened
from ..bundle.golden import claimed_bytes
from ..errors import DataError, MissingError, UsageError, explain_source
from ..progress import Progress, no_progress
from .datasets import name_arrays, read_samples
from .image_sets import ImageSet, list_folder, list_table
from .images import IMAGE_SUFFIXES, load_images

__all__ = ["labelled", "load_image_set", "load_samples", "path_errors_explained", "read_numpy"]

ARCHIVE, ARRAY = b"PK", b"\x93NUMPY"
"""What files of NumPy's begin with: an .npz, an .npy."""

TABLES = (".csv", ".tsv")

SAMPLE_WORD = re.compile(r"(?<![a-z])(x|images|samples|inputs|data|features)(?![a-z])", re.I)
"""The word in a file's name that says that it holds samples; its neighbour has `y` or `labels` there."""


def load_samples(
    source: Any, bundle: "str | os.PathLike[str] | Bundle | Manifest | None" = None, *, progress: Progress = no_progress
) -> tuple[Any, np.ndarray | None]:
    """Load samples, and labels if there are any, from a file or a folder, or from a dataset.

    Args:
        source: one of

            - an `.npz` file with `x`, or with one array for each of several inputs by its name, and `y` if there are labels;
            - an `.npy` file of samples, which is not read before it is used; labels come from the file beside it that has `y` or
              `labels` in its name where this one has `x` or `images`: `test_x.npy` and `test_y.npy`;
            - a folder with `x.npy`, or one file for each input, and `y.npy`;
            - an image, or a folder of images;
            - a folder with one folder of images per class. Folders bear the names of the bundle's classes. If the bundle names
              none, folders named by numbers are classes of these numbers; other folders count in the order of their names;
            - a `.csv` file with a column of images and one of labels: names of classes, or numbers;
            - a torch Dataset or DataLoader, a Hugging Face Dataset, a list or a generator that gives `x` or `(x, y)`, single
              samples or batches; or arrays and tensors, `x` or `(x, y)`.
        bundle: the bundle that the samples are for, its folder or its manifest. Images are resized as it says. If the network
            takes floats, pixels are scaled to 0..1 and nothing else: a network trained on normalised pixels needs a bundle with
            `preprocess`.
        progress: called with what is being done, how much is done, and how much there is.

    Returns:
        Samples as the network takes them, and labels (N,) or None. Images or a dataset of more than a gigabyte lie in an unnamed
        file, if the disk has room, so that they need not fit into memory.

    Raises:
        UsageError: nothing is there, or it is no kind that is listed above.
        DataError: the file is not what its name says, holds no samples, or samples differ in shape or dtype.
        MissingError: it may not be read, does not fit into memory, or images need a package that is not installed.

    Example:
        >>> from offramp.calibrate import load_samples
        >>> x, y = load_samples("test.npz", "digits.offramp")
        >>> x.shape, y.shape
        ((200, 1, 8, 8), (200,))
    """
    manifest = bundle if bundle is None or isinstance(bundle, Manifest) else opened(bundle).manifest
    if not isinstance(source, (str, os.PathLike)):
        return read_samples(source, manifest, name=f"the {type(source).__name__}", progress=progress)
    path = Path(source)
    if not os.path.lexists(path):
        raise UsageError(f"There is no file or folder {path}.", path=path)
    with path_errors_explained(path):
        return _load_path(path, manifest, progress)


@contextlib.contextmanager
def path_errors_explained(path: Path) -> Iterator[None]:
    """Say what a file or folder lacks that cannot be read, or does not fit into memory.

    Raises:
        MissingError: it is so.
    """
    try:
        yield
    except OSError as error:
        file = error.filename or path
        raise MissingError(f"Cannot read {file}: {error.strerror or error}.", path=file) from error
    except MemoryError as error:
        raise MissingError(f"The samples in {path} do not fit into memory: give fewer.", path=path) from error


def labelled(samples: tuple[Any, Any], source: str, *, classifies: bool = True) -> tuple[Any, Any]:
    """Return samples that have labels, or the truth.

    Args:
        samples: as `load_samples` returns them.
        source: where they come from, for the message.
        classifies: False if the truth is asked for.

    Raises:
        DataError: there are none.
    """
    x, y = samples
    if y is None and not classifies:
        raise DataError(f"{source} comes without the truth: give `y` beside `x`, or `y.boxes` and so on.")
    if y is None:
        raise DataError(f"{source} has no labels: give `y` beside `x`, or one folder of images per class.")
    return x, y


def _load_path(path: Path, manifest: Manifest | None, progress: Progress) -> tuple[Any, np.ndarray | None]:
    if path.is_dir():
        if (path / "manifest.json").is_file() and (path / "variants").is_dir():
            raise UsageError(f"{path} is a bundle, not samples.", path=path)
        if (names := _arrays_in(path, manifest)) is not None:
            return name_arrays({name: read_numpy(path / f"{name}.npy") for name in names}, manifest, source=path)
        return load_image_set(list_folder(path, _for_images(manifest, path)), path, manifest, progress)
    if not path.is_file():
        raise UsageError(f"{path} is no regular file: samples come from files and folders.", path=path)
    suffix = path.suffix.lower()
    if suffix in (".npz", ".npy"):
        arrays = read_numpy(path)
        if isinstance(arrays, np.ndarray):
            return arrays, _labels_beside(path)
        return name_arrays(arrays, manifest, source=path)
    if suffix in TABLES:
        return load_image_set(list_table(path, _for_images(manifest, path)), path, manifest, progress)
    if suffix in IMAGE_SUFFIXES:
        return load_image_set(ImageSet([path], None), path, manifest, progress)
    raise UsageError(
        f"Samples come from .npz, .npy, an image, a folder of images or a .csv file that lists images, not {path}."
        f"{explain_source(path)}",
        path=path,
    )


def _for_images(manifest: Manifest | None, path: Path) -> Manifest:
    if manifest is None:
        raise UsageError(
            "Images need a bundle that says their size, or --shape with --mean and --std; or give arrays (.npz).",
            path=path,
        )
    return manifest


def load_image_set(
    images: ImageSet, path: Path, manifest: Manifest | None, progress: Progress
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the images of a set as samples, and their labels."""
    x = load_images(images.files, _for_images(manifest, path), source=path, progress=progress)
    return x, None if images.labels is None else np.array(images.labels, np.int64)


def read_numpy(path: Path) -> Any:
    """Return the array of an .npy file, mapped into memory, or the arrays of an .npz by name."""
    with path.open("rb") as file:
        start = file.read(len(ARRAY))
    if not start.startswith((ARCHIVE, ARRAY)):
        found = "is empty" if not start else f"begins with {start!r}"
        raise DataError(
            f"{path} is not a readable NumPy file: it {found}. Write it with numpy.savez or numpy.save.", path=path
        )
    try:
        _check_sizes(path, start)
        if start == ARRAY:
            with contextlib.suppress(
                ValueError, OSError
            ):  # no elements, Python objects, or a file system that maps nothing
                return np.load(path, mmap_mode="c", allow_pickle=False)
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise DataError(f"{path} is not a readable NumPy file of numbers: {error}", path=path) from error
        raise
    except Exception as error:  # a damaged archive raises one of a dozen types
        reason = "it holds Python objects; texts are saved after .astype(str)" if "pickle" in str(error) else str(error)
        raise DataError(f"{path} is not a readable NumPy file of numbers: {reason}.", path=path) from error


def _check_sizes(path: Path, start: bytes) -> None:
    """Refuse an array that claims more bytes than its file has, before memory is taken for it.

    Raises:
        ValueError: one does, or a header is damaged. Others where an archive is.
    """
    import zipfile  # takes long to import

    with path.open("rb") as file:
        if start == ARRAY:
            _check_size(file, os.fstat(file.fileno()).st_size, "it")
            return
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if member.filename.endswith(".npy"):
                    with archive.open(member) as array:
                        _check_size(array, member.file_size, member.filename)


def _check_size(file: IO[bytes], size: int, name: str) -> None:
    if (claimed := claimed_bytes(file)) is not None and claimed > size:
        raise ValueError(f"{name} claims to have {claimed} bytes and has {size}")


def _arrays_in(folder: Path, manifest: Manifest | None) -> list[str] | None:
    """Return the names of the arrays in a folder that holds samples as .npy files, `x.npy` or one for each input; else None."""
    names = {file.stem for file in folder.glob("*.npy") if not file.name.startswith(".")}
    wanted = {tensor.name for tensor in manifest.inputs} if manifest is not None else {"x"}
    return sorted(names & {*wanted, "x", "y"}) if "x" in names or wanted <= names else None


def _labels_beside(path: Path) -> np.ndarray | None:
    """Return the labels of samples in `test_x.npy` from `test_y.npy`, if it is there, and say so in a warning."""
    if path.suffix.lower() != ".npy":
        return None
    stem = path.stem
    for match in SAMPLE_WORD.finditer(stem):
        start, end = match.span()
        for word in ("Y", "y") if match[0] == "X" else ("y",) if match[0] == "x" else ("labels", "targets"):
            beside = path.with_name(f"{stem[:start]}{word}{stem[end:]}{path.suffix}")
            if beside != path and beside.is_file():
                warnings.warn(f"{path}: its labels come from {beside.name}.", stacklevel=1)
                return np.asarray(read_numpy(beside))
    return None
