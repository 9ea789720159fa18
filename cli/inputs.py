"""What a command's arguments name: functions in Python files, networks, samples in files and folders."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Manifest
from ..calibrate import grouped_samples, sample_files
from ..calibrate.datasets import read_samples
from ..calibrate.sample_files import labelled
from ..calibrate.user_code import call_function, executing
from ..errors import DataError, ModelError, UsageError, require
from ..files import os_errors_explained
from ..progress import Progress, no_progress

if TYPE_CHECKING:
    from ..runtime.chain.samples import Samples


def load_network(source: str, weights: str | None = None) -> Any:
    """Return what `export` takes from `file.py:function` or `model.onnx`.

    Args:
        source: the network's name.
        weights: a file with its parameters, as `export.load_weights` takes it.

    Raises:
        UsageError: the name is of another kind, there is no such file or function, or the parameters are not the network's.
        ModelError: the function fails, or returns no module for the parameters.
    """
    if source.endswith(".onnx"):
        if weights is not None:
            raise UsageError(f"--weights are for a torch network: {source} has its own.")
        return Path(source)
    if ".py:" in source:
        network = call_function(source)
        return network if weights is None else _give_weights(network, source, weights)
    raise UsageError(f"A network is named file.py:function or model.onnx, not {source!r}.")


def load_module(source: str, weights: str | None, command: str) -> Any:
    """Return a torch network that a command trains.

    Raises:
        UsageError: it is an ONNX file, or as for `load_network`.
        ModelError: as for `load_network`.
    """
    network = load_network(source, weights)
    if isinstance(network, Path):
        raise UsageError(
            f"{command} takes a torch network, file.py:function, not {source}: ONNX files cannot be trained."
        )
    return network


def _give_weights(network: Any, source: str, weights: str) -> Any:
    from ..export import load_weights

    torch = require("torch", extra="export")
    if not isinstance(network, torch.nn.Module):
        raise ModelError(f"--weights are for a torch.nn.Module, and {source} returns a {type(network).__name__}.")
    return load_weights(network, weights)


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
        with executing(source):  # also while it is read: it may be a generator
            return read_samples(call_function(source), manifest, name=source, progress=progress)
    if source.endswith(".py"):
        raise UsageError(f"Name the function that returns the samples: {source}:function", path=source)
    return sample_files.load_samples(source, manifest, progress=progress)


def load_grouped(
    source: str, groups: str | None, manifest: Manifest, *, progress: Progress = no_progress
) -> tuple[tuple[Any, np.ndarray | None], np.ndarray | None]:
    """Load samples as `load_samples` does, and their groups as `calibrate.load_grouped` does; None without `groups`."""
    if groups is None:
        return load_samples(source, manifest, progress=progress), None
    is_function = ".py:" in source
    with executing(source) if is_function else contextlib.nullcontext():
        given = call_function(source) if is_function else source
        x, y, parts = grouped_samples.load_grouped(given, groups, manifest, progress=progress)
    return (x, y), parts


def load_labelled(
    source: str, manifest: Manifest, *, groups: str | None = None, progress: Progress = no_progress
) -> tuple[tuple[Any, np.ndarray], np.ndarray | None]:
    """Load samples, and labels or the truth, as `load_samples` does; and groups if they are named.

    Raises:
        DataError: there are no labels.
        ModelError, UsageError, MissingError: as for `load_samples`.
    """
    samples, parts = load_grouped(source, groups, manifest, progress=progress)
    return labelled(samples, source, classifies=manifest.classes > 0), parts


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


def load_batches(source: str, manifest: Manifest | None, *, batch: int, seed: int, has_labels: bool = True) -> Any:
    """Load samples to train with, as batches (inputs, labels) of torch tensors.

    Args:
        source: `file.py:function` that returns batches, as a torch DataLoader gives them, or anything that `load_samples` takes.
            Samples are then shuffled anew for each pass.
        manifest: of the network's bundle, if there is one.
        batch: samples in a batch, unless the function makes the batches.
        seed: seed for the order of the samples.
        has_labels: False for targets of any kind, (N, ...), in place of labels.

    Raises:
        DataError: there are no labels or targets, or not exactly one for each sample.
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
        with executing(source):
            given = read_samples(value, manifest, name=source, progress=no_progress)
    x, y = labelled(given, source)
    if isinstance(x, (dict, tuple)):
        raise DataError(
            f"{source} has several inputs: return batches (inputs, labels), as a torch DataLoader gives them."
        )
    if not has_labels:
        if not isinstance(y, np.ndarray):
            raise DataError(
                f"{source} has targets of several parts, or of several lengths: return batches (inputs, targets), as a torch "
                "DataLoader gives them."
            )
        if y.shape[:1] != (len(x),) or not len(x):
            raise DataError(
                f"{source} has {len(x)} samples but targets of shape {y.shape}: one target per sample is needed."
            )
    elif y.shape != (len(x),) or not len(x):
        raise DataError(f"{source} has {len(x)} samples but labels of shape {y.shape}: one label per sample is needed.")
    elif y.dtype.kind not in "iu":
        raise DataError(f"The labels of {source} are {y.dtype}; they must be whole numbers, the index of the class.")
    y = y.astype(np.int64) if has_labels else y
    samples = torch.utils.data.TensorDataset(torch.as_tensor(x), torch.as_tensor(y))
    generator = torch.Generator().manual_seed(seed)
    return torch.utils.data.DataLoader(samples, batch, shuffle=True, generator=generator)
