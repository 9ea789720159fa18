"""What a command's arguments name: functions in Python files, networks, samples in files and folders."""

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Manifest
from ..calibrate import sample_files
from ..calibrate.datasets import read_samples
from ..calibrate.sample_files import labelled
from ..errors import DataError, MissingError, ModelError, OfframpError, UsageError, require, unknown_name
from ..files import os_errors_explained
from ..progress import Progress, no_progress
from ..runtime.engines._stdout import printing_to_stderr

if TYPE_CHECKING:
    from ..runtime.chain.samples import Samples


def call_function(source: str) -> Any:
    """Call `file.py:function` without arguments and return what it returns. What is no function is returned itself.

    The file's folder is on the import path while it runs, so that it may import its neighbours.

    Raises:
        UsageError: there is no such file or function.
        ModelError: the file or the function fails; the message names the line.
        MissingError: it runs out of memory.
    """
    name, _, function = source.rpartition(":")
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", path=path)
    path = path.resolve()
    spec = importlib.util.spec_from_file_location(f"offramp_source_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        with _running(source):
            spec.loader.exec_module(module)
            target = getattr(module, function, None)
            if target is None or isinstance(target, ModuleType):
                raise unknown_name(
                    f"function in {path}", function, [key for key, value in vars(module).items() if callable(value)]
                )
            return target() if _is_function(target) else target
    except OfframpError:
        raise
    except MemoryError as error:
        raise MissingError(f"{source} ran out of memory{_show_line(error, path)}.", path=path) from error
    except (Exception, SystemExit) as error:  # a script may end with sys.exit()
        reason = f"{type(error).__name__}: {error}"
        raise ModelError(f"{source} failed{_show_line(error, path)}: {reason}", path=path) from error


@contextlib.contextmanager
def _running(source: str) -> Iterator[None]:
    """Have the folder of `file.py:function` on the import path, and what it prints on stderr, since stdout is for results."""
    folder = str(Path(source.rpartition(":")[0]).resolve().parent)
    sys.path.insert(0, folder)
    try:
        with printing_to_stderr():
            yield
    finally:
        sys.path.remove(folder)


def load_network(source: str) -> Any:
    """Return what `export` takes from `file.py:function` or `model.onnx`.

    Raises:
        UsageError: the name is of another kind, or there is no such file or function.
        ModelError: the function fails.
    """
    if source.endswith(".onnx"):
        return Path(source)
    if ".py:" in source:
        return call_function(source)
    raise UsageError(f"A network is named file.py:function or model.onnx, not {source!r}.")


def load_lines(source: str) -> list[str]:
    """Return the lines of a text file without the empty ones.

    Raises:
        UsageError: there is no such file.
        DataError: the file is not text.
        MissingError: it may not be read.
    """
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"There is no file {path}.", path=path)
    try:
        with os_errors_explained(path, "read"):
            text = path.read_text(
                encoding="utf-8-sig"
            )  # Windows writes a byte order mark, which is no part of the first line
            return [line.strip() for line in text.splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8: {error.reason}.", path=path) from error


def load_samples(
    source: str, manifest: Manifest | None = None, *, progress: Progress = no_progress
) -> tuple[Any, np.ndarray | None]:
    """Load samples, and labels if there are any, as `calibrate.load_samples` does, from files or from `file.py:function`.

    Args:
        source: a file or a folder, or `file.py:function` that returns what `calibrate.load_samples` takes.
        manifest: of the bundle that the samples are for.
        progress: is told what is being read.

    Returns:
        Samples as the network takes them, and labels (N,) or None.

    Raises:
        ModelError: the function fails.
        UsageError, DataError, MissingError: as for `calibrate.load_samples`.
    """
    if ".py:" in source:
        with _running(source):  # also while it is read: it may be a generator
            return read_samples(call_function(source), manifest, name=source, progress=progress)
    if source.endswith(".py"):
        raise UsageError(f"Name the function that returns the samples: {source}:function", path=source)
    return sample_files.load_samples(source, manifest, progress=progress)


def load_labelled(source: str, manifest: Manifest, *, progress: Progress = no_progress) -> tuple[Any, np.ndarray]:
    """Load samples and labels as `load_samples` does.

    Raises:
        DataError: there are no labels.
        ModelError, UsageError, MissingError: as for `load_samples`.
    """
    return labelled(load_samples(source, manifest, progress=progress), source)


def load_run_samples(source: str, manifest: Manifest, *, progress: Progress = no_progress) -> "Samples":
    """Load samples to run, in the network's dtypes. A single sample may lack the batch axis.

    Raises:
        ModelError, UsageError, DataError, MissingError: as for `load_samples`; DataError also if the samples do not fit.
    """
    from ..runtime.chain.samples import convert_samples

    x, _ = load_samples(source, manifest, progress=progress)
    tensor = manifest.inputs[0]
    if len(manifest.inputs) == 1 and isinstance(x, np.ndarray) and x.ndim == len(tensor.shape) - 1:
        x = np.expand_dims(x, tensor.shape.index(None))
    return convert_samples(x, manifest.inputs)


def load_batches(source: str, manifest: Manifest | None, *, batch: int, seed: int) -> Any:
    """Load samples to train with, as batches (inputs, labels) of torch tensors.

    Args:
        source: `file.py:function` that returns batches, as a torch DataLoader gives them, or anything that `load_samples` takes.
            Samples are then shuffled anew for each pass.
        manifest: of the network's bundle, if there is one.
        batch: samples in a batch, unless the function makes the batches.
        seed: seed for the order of the samples.

    Raises:
        DataError: there are no labels, or not exactly one for each sample.
        UsageError, ModelError, MissingError: as for `load_samples`; MissingError also if torch is not installed.
    """
    torch = require("torch", extra="export")
    value = call_function(source) if ".py:" in source else None
    is_data = value is None or isinstance(value, (tuple, list, dict)) or hasattr(value, "shape")
    if not is_data and hasattr(value, "__iter__") and hasattr(value, "__len__"):
        return value
    if value is None:
        given = load_samples(source, manifest)
    else:
        with _running(source):
            given = read_samples(value, manifest, name=source, progress=no_progress)
    x, y = labelled(given, source)
    if isinstance(x, (dict, tuple)):
        raise DataError(
            f"{source} has several inputs: return batches (inputs, labels), as a torch DataLoader gives them."
        )
    if y.shape != (len(x),) or not len(x):
        raise DataError(f"{source} has {len(x)} samples but labels of shape {y.shape}: one label per sample is needed.")
    if y.dtype.kind not in "iu":
        raise DataError(f"The labels of {source} are {y.dtype}; they must be whole numbers, the index of the class.")
    samples = torch.utils.data.TensorDataset(torch.as_tensor(x), torch.as_tensor(y.astype(np.int64)))
    generator = torch.Generator().manual_seed(seed)
    return torch.utils.data.DataLoader(samples, batch, shuffle=True, generator=generator)


def _is_function(target: Any) -> bool:
    """Return whether what a name means is to be called: a function or a class, not a network, a loader or an array."""
    is_network = hasattr(target, "state_dict") and hasattr(target, "parameters")
    return isinstance(target, type) or (callable(target) and not is_network)


def _show_line(error: BaseException, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f" in line {lines[-1]}" if lines else ""
