"""What people name in arguments and files: networks, samples and batches, of files and of functions in Python files."""

from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Manifest
from ..errors import DataError, UsageError, explain_source, require
from ..progress import Progress, no_progress
from . import sample_files
from .datasets import read_samples
from .labels import check_label_form
from .sample_files import labelled
from .user_code import call_function, executing

__all__ = ["load_batches", "load_network", "load_samples"]


def load_network(source: str) -> Any:
    """Return what `export` takes from `file.py:function` or `model.onnx`.

    Raises:
        UsageError: the name is of another kind, or there is no such file or function.
        ModelError: the function fails.
    """
    if source.endswith(".onnx"):
        return Path(source)
    if ".py:" in source:
        return _check_network(call_function(source), source)
    raise UsageError(f"A network is named file.py:function or model.onnx, not {source!r}.{explain_source(source)}")


def _check_network(value: Any, source: str) -> Any:
    """Return what a function gives, if it may be a network.

    Raises:
        UsageError: it is something else, such as samples.
    """
    is_data = isinstance(value, (tuple, list, dict)) or hasattr(value, "__array__") or hasattr(value, "__next__")
    if not is_data and value is not None and not isinstance(value, (bool, int, float, bytes)):
        return value
    what = f"a {type(value).__name__}, as samples are" if is_data else repr(value)[:40]
    raise UsageError(f"{source} gives {what}, not a network: a torch.nn.Module, or the path of an ONNX file.")


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


def load_batches(source: str, manifest: Manifest | None, *, batch: int, seed: int, has_labels: bool = True) -> Any:
    """Load samples to train with, as batches (inputs, labels) of torch tensors. Several inputs are a dict by name, or a tuple.

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
    parts = list(x.values()) if isinstance(x, dict) else list(x) if isinstance(x, tuple) else [x]
    if len(counts := {len(part) for part in parts}) > 1:
        shown = ", ".join(map(str, sorted(counts)))
        raise DataError(
            f"The inputs in {source} differ in their number of samples: {shown}. Their first axis is the batch."
        )
    (count,) = counts
    if not count:
        raise DataError(f"The data set is empty: {source} has no samples.")
    if has_labels:
        check_label_form(y, count, name=source)
        y = y.astype(np.int64)
    elif not isinstance(y, np.ndarray):
        raise DataError(
            f"{source} has targets of several parts, or of several lengths: return batches (inputs, targets), as a torch "
            "DataLoader gives them."
        )
    elif y.shape[:1] != (count,):
        raise DataError(
            f"{source} has {count} samples but targets of shape {y.shape}: one target per sample is needed."
        )
    stack, tensor = torch.utils.data.StackDataset, torch.as_tensor
    inputs = (
        stack(**{name: tensor(part) for name, part in x.items()})
        if isinstance(x, dict)
        else stack(*map(tensor, x))
        if isinstance(x, tuple)
        else tensor(x)
    )
    samples = stack(inputs, tensor(y))
    generator = torch.Generator().manual_seed(seed)
    return torch.utils.data.DataLoader(samples, batch, shuffle=True, generator=generator)
