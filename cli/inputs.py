"""What a command's arguments name: lines, samples and their groups; networks and batches come from `calibrate`."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..bundle import Manifest
from ..calibrate import grouped_samples, named_sources
from ..calibrate.named_sources import load_batches, load_samples
from ..calibrate.sample_files import labelled
from ..calibrate.user_code import call_function, executing
from ..errors import DataError, ModelError, UsageError, require
from ..files import os_errors_explained
from ..progress import Progress, no_progress

if TYPE_CHECKING:
    from ..runtime.chain.samples import Samples

__all__ = [
    "load_batches",
    "load_classes",
    "load_grouped",
    "load_labelled",
    "load_module",
    "load_network",
    "load_run_samples",
    "load_samples",
]


def load_network(source: str, weights: str | None = None) -> Any:
    """Return what `export` takes from `file.py:function` or `model.onnx`.

    Args:
        source: the network's name.
        weights: a file with its parameters, as `export.load_weights` takes it.

    Raises:
        UsageError: the name is of another kind, there is no such file or function, or the parameters are not the network's.
        ModelError: the function fails, or returns no module for the parameters.
    """
    network = named_sources.load_network(source)
    if weights is None:
        return network
    from ..export import load_weights

    if isinstance(network, Path) or not isinstance(network, require("torch", extra="export").nn.Module):
        raise ModelError(f"--weights are for a torch.nn.Module, and {source} gives a {type(network).__name__}.")
    return load_weights(network, weights)


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


def load_classes(source: str) -> list[str]:
    """Return the names of classes: the lines of a text file without the empty ones.

    Raises:
        UsageError: there is no such file.
        DataError: the file is not text.
        MissingError: it may not be read.
    """
    path = Path(source)
    if not path.is_file():
        raise UsageError(
            f"--classes takes a text file with the name of one class per line, in the order of their numbers. There is no file "
            f"{source:.80}.",
            path=path,
        )
    try:
        with os_errors_explained(path, "read"):
            text = path.read_text(
                encoding="utf-8-sig"
            )  # Windows writes a byte order mark, which is no part of the first line
            return [line.strip() for line in text.splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8: {error.reason}.", path=path) from error


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
