"""The user's example made into golden samples, and the capture that they lead."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...bundle import Preprocess
from ...errors import DataError, UsageError, require
from ..graph.axes import BATCH, Axes, count_samples, resolve_axes, take_samples
from .captured import Captured
from .onnx_file import OnnxFile
from .preprocess import is_channels_first, normalise_images
from .torch_module import capture_torch, forward_names

GOLDEN_SAMPLES = 3
"""Samples that verify the chain and become the golden ones."""

ONE_IMAGE = "preprocess is for networks that take one image: give an example of that alone."


def capture_with_example(
    model: Any,
    example: Any,
    *,
    exits: Sequence[str] | None,
    gates: Sequence[str],
    axes: Any,
    preprocess: Preprocess | None,
) -> tuple[Captured, list[np.ndarray]]:
    """Capture a network and make its golden samples: three different ones, one array per input as the bundle takes them.

    Raises:
        UsageError, DataError, ModelError, MissingError: as for `export`.
    """
    if isinstance(model, (str, os.PathLike)):
        return _capture_onnx(OnnxFile(model, axes), example, exits=exits, gates=gates, preprocess=preprocess)
    torch = require("torch", extra="export")
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"A network is a torch.nn.Module or the path of an .onnx file, not a {type(model).__name__}.")
    if example is None:
        raise UsageError(
            "A torch network needs an example: samples with their batch axis, such as torch.randn(1, 3, 32, 32)."
        )
    names, arrays = _as_arrays(example)
    by_name = bool(names)
    names = names or forward_names(model, len(arrays))
    layout = resolve_axes(axes, names, arrays)
    golden = inputs = _golden(arrays, layout)
    if preprocess is not None:
        if len(golden) != 1:
            raise UsageError(ONE_IMAGE)
        kinds = [str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()]
        inputs = [normalise_images(golden[0], preprocess, channels_first=True, dtype=kinds[0] if kinds else "float32")]
    return capture_torch(model, inputs, names=names, axes=layout, by_name=by_name, exits=exits, gates=gates), golden


def _capture_onnx(
    file: OnnxFile, example: Any, *, exits: Sequence[str] | None, gates: Sequence[str], preprocess: Preprocess | None
) -> tuple[Captured, list[np.ndarray]]:
    if example is None:
        arrays = file.draw(GOLDEN_SAMPLES)
        if preprocess is not None:
            first = is_channels_first(arrays[0].shape, preprocess)
            shape = np.moveaxis(arrays[0], 1, 3).shape if first else arrays[0].shape
            arrays = [np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)]
    else:
        names, arrays = _as_arrays(example)
        if names:
            known = [str(value.name) for value in file.inputs]
            if sorted(names) != sorted(known):
                raise UsageError(
                    f"The example is for the inputs {', '.join(names)}; {file.path} has {', '.join(known)}."
                )
            arrays = [arrays[names.index(name)] for name in known]
    if preprocess is None:
        file.check(arrays)
        golden = _golden(arrays, file.axes)
        return file.capture(golden, exits=exits, gates=gates), golden
    if len(arrays) != 1:
        raise UsageError(ONE_IMAGE)
    golden = _golden(arrays, [(BATCH, None, None, None)])
    shape, dtype = tuple(file.shapes[0]), file.inputs[0].dtype
    assert dtype is not None
    first = is_channels_first(shape, preprocess)
    normal = normalise_images(golden[0], preprocess, channels_first=first, dtype=dtype.numpy().name)
    file.check([normal])
    return file.capture([normal], exits=exits, gates=gates), golden


def _as_arrays(example: Any) -> tuple[list[str], list[np.ndarray]]:
    """Return the names of the inputs, where the example has some, and an array for each."""
    by_name = isinstance(example, Mapping)
    names = [str(name) for name in example] if by_name else []
    parts = example.values() if by_name else example if isinstance(example, (list, tuple)) else [example]
    if not len(parts):
        raise DataError("The example is empty: give samples with their batch axis, for several inputs a tuple of them.")
    return names, [_as_array(part) for part in parts]


def _as_array(example: Any) -> np.ndarray:
    if hasattr(example, "detach"):
        try:
            example = example.detach().cpu().numpy()
        except TypeError as error:
            raise DataError(
                f"The example is {example.dtype}, which NumPy does not have. Use float32 or float16."
            ) from error
    try:
        array = np.asarray(example)
    except ValueError as error:
        raise DataError(f"The example is no array: {error}") from error
    if array.ndim < 1 or 0 in array.shape or array.dtype.kind not in "fiub":
        raise DataError(f"The example is {array.dtype} {array.shape}: it must be numbers with a batch axis, (N, ...).")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("The example holds NaN or infinity.")
    return array


def _golden(arrays: Sequence[np.ndarray], axes: Sequence[Axes]) -> list[np.ndarray]:
    """Make `GOLDEN_SAMPLES` samples of the example; where it has fewer, repeated ones are changed so that no two are alike."""
    n = count_samples(arrays, axes)
    golden = []
    for array, own in zip(take_samples(arrays, axes, np.arange(GOLDEN_SAMPLES) % n), axes, strict=True):
        rows = np.moveaxis(array, own.index(BATCH), 0)
        for i in range(n, GOLDEN_SAMPLES):
            # Scaled floats stay like their kind; whole numbers, which may be indices, only change places.
            rows[i] = rows[i] * (1 - (i - n + 1) / 8) if array.dtype.kind == "f" else np.roll(rows[i], i)
        golden.append(array)
    return golden
