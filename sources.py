"""What the command line is given by name: networks and functions in Python files, samples in files and folders."""

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError, MissingError, ModelError, OfframpError, UsageError, require, unknown
from .schema import Tensor

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm")


def call_function(source: str) -> Any:
    """Call `file.py:function` without arguments and return what it returns.

    The file's folder is on the import path while it runs, so that it may import its neighbours.

    Raises:
        UsageError: there is no such file or function.
        ModelError: the file or the function fails; the message names the line.
    """
    name, _, function = source.rpartition(":")
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(f"offramp_source_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
        found = getattr(module, function, None)
        if not callable(found):
            raise unknown(f"function in {path}", function, [n for n, v in vars(module).items() if callable(v)])
        return found()
    except OfframpError:
        raise
    except Exception as error:
        raise ModelError(f"{source} failed{_where(error, path)}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))


def load_network(source: str) -> Any:
    """Return what `export` takes from `file.py:function` or `model.onnx`.

    Raises:
        UsageError: the name is neither, or nothing is there.
        ModelError: the function fails.
    """
    if source.endswith(".onnx"):
        return Path(source)
    if ".py:" in source:
        return call_function(source)
    raise UsageError(f"A network is named file.py:function or model.onnx, not {source!r}.")


def load_samples(source: str, tensor: Tensor | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Load samples, and labels where there are some.

    Args:
        source: an `.npz` file with `x` and perhaps `y`; an `.npy` file of samples; an image; a folder of images, or of one
            folder of images per class, whose labels follow the folders' sorted names; or `file.py:function` that returns
            `x` or `(x, y)`.
        tensor: the network's input. Images are resized to it; for float inputs their pixels are scaled to 0..1 and
            nothing else, so a network that was trained on normalised pixels needs a function.

    Returns:
        Samples (N, ...) and labels (N,) or None.

    Raises:
        UsageError: nothing is there, or its kind is not known.
        DataError: the file is not what its name says, or holds no samples.
        ModelError: the function fails.
        MissingError: it may not be read, or images need a package that is not installed.
    """
    if ".py:" in source:
        return _as_samples(call_function(source), source)
    path = Path(source)
    if not path.exists():
        raise UsageError(f"There is no file or folder {path}.")
    try:
        if path.is_dir():
            return _load_folder(path, tensor)
        if path.suffix in (".npz", ".npy"):
            return _load_numpy(path)
        if path.suffix.lower() in IMAGES:
            return _load_images([path], tensor), None
    except OSError as error:
        raise MissingError(f"Cannot read {error.filename or path}: {error.strerror or error}.") from error
    raise UsageError(f"Samples come from .npz, .npy, an image, a folder of images or file.py:function, not {path}.")


def labelled(samples: tuple[np.ndarray, np.ndarray | None], source: str) -> tuple[np.ndarray, np.ndarray]:
    """Insist on labels.

    Raises:
        DataError: there are none.
    """
    x, y = samples
    if y is None:
        raise DataError(f"{source} has no labels: give `y` beside `x`, or a folder of images per class.")
    return x, y


def _as_samples(value: Any, source: str) -> tuple[np.ndarray, np.ndarray | None]:
    parts: Any = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, None)
    arrays: list[Any] = [part.detach().cpu().numpy() if hasattr(part, "detach") else part for part in parts]
    try:
        return np.asarray(arrays[0]), None if arrays[1] is None else np.asarray(arrays[1])
    except ValueError as error:
        raise DataError(f"{source} does not return arrays x or (x, y): {error}") from error


def _load_numpy(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded, None
        with loaded:
            if "x" not in loaded:
                raise DataError(f"{path} has no array `x`; it has {', '.join(loaded.files) or 'none'}.")
            return loaded["x"], loaded.get("y")
    except DataError:
        raise
    except PermissionError:
        raise
    except Exception as error:  # a damaged archive raises one of a dozen types
        raise DataError(f"{path} is not a readable NumPy file of numbers: {error}") from error


def _load_folder(path: Path, tensor: Tensor | None) -> tuple[np.ndarray, np.ndarray | None]:
    classes = sorted(folder for folder in path.iterdir() if folder.is_dir())
    groups = [_images_in(folder) for folder in classes] if classes else [_images_in(path)]
    files = [file for group in groups for file in group]
    if not files:
        raise DataError(f"The data set is empty: there are no images in {path}.")
    labels = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return _load_images(files, tensor), labels if classes else None


def _images_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGES)


def _load_images(files: list[Path], tensor: Tensor | None) -> np.ndarray:
    """Decode images into the network's layout: float (N, channel, height, width) or (N, height, width, channel)."""
    pil = require("PIL.Image", extra="calibrate")
    if tensor is None:
        raise UsageError("Images need a network whose input says their size; give arrays (.npz) here.")
    shape = tuple(axis for axis in tensor.shape if axis is not None)
    first = len(shape) == 3 and shape[0] in (1, 3)
    if not first and not (len(shape) == 3 and shape[2] in (1, 3)):
        raise DataError(f"The network takes samples of shape {shape}, which are no images with 1 or 3 channels.")
    channels, height, width = shape if first else (shape[2], *shape[:2])
    x = np.empty((len(files), height, width, channels), np.uint8)
    for i, file in enumerate(files):
        try:
            with pil.open(file) as image:
                small = image.convert("L" if channels == 1 else "RGB").resize((width, height), pil.Resampling.BILINEAR)
        except PermissionError:
            raise
        except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
            raise DataError(f"{file} is not a readable image: {error}") from error
        x[i] = np.asarray(small).reshape(height, width, channels)
    x = x.transpose(0, 3, 1, 2) if first else x
    return np.ascontiguousarray(x if tensor.dtype == "uint8" else x.astype(tensor.dtype) / 255)


def _where(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f" in line {lines[-1]}" if lines else ""
