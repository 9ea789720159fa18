"""Somebody's network made into one graph, its exits, and a way to run the original."""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...bundle import Preprocess
from ...errors import UsageError, require
from ..graph.axes import BATCH, resolve_axes, sizes_of
from .captured import Captured
from .example import GOLDEN_SAMPLES, make_golden, read_example
from .exit_order import find_order, reorder_exits
from .forward import forward_names
from .onnx_file import OnnxFile
from .preprocess import add_preprocess, is_channels_first, normalise_images
from .torch_module import capture_torch, find_network

__all__ = ["Captured", "capture"]

ONE_IMAGE = "preprocess is for networks that take one image: give an example of that alone."

log = logging.getLogger(__name__)


def capture(
    model: Any,
    example: Any,
    *,
    exits: Sequence[str] | None = None,
    gates: Sequence[str] = (),
    answer: Sequence[str] = (),
    axes: Any = None,
    preprocess: Preprocess | None = None,
    sort: bool | None = False,
) -> tuple[Captured, list[np.ndarray]]:
    """Capture a torch network or an ONNX file, with its preprocessing in the graph and its exits in order.

    Args:
        model, example, exits, gates, answer, axes, preprocess, sort: as for `export`.

    Returns:
        The network, and its golden inputs: three different samples, one array for each input as the bundle takes them.

    Raises:
        UsageError, DataError, ModelError, MissingError: as for `export`.
    """
    if isinstance(model, (str, os.PathLike)):
        network, golden = _capture_file(OnnxFile(model, axes), example, exits, gates, answer, preprocess)
    else:
        network, golden = _capture_module(model, example, exits, gates, answer, axes, preprocess)
    if preprocess is not None:
        network = add_preprocess(network, preprocess)
    network = reorder_exits(network, find_order(network, sizes_of(golden, network.axes), sort=sort))
    log.debug(
        "%s captured by %s: %s, exits %s", network.name, network.captured_by, network.precision, list(network.exits)
    )
    return network, golden


def _capture_module(
    model: Any,
    example: Any,
    exits: Sequence[str] | None,
    gates: Sequence[str],
    answer: Sequence[str],
    axes: Any,
    preprocess: Preprocess | None,
) -> tuple[Captured, list[np.ndarray]]:
    torch = require("torch", extra="export")
    if not isinstance(model, torch.nn.Module):
        swapped = " Samples are the second argument." if isinstance(model, (tuple, np.ndarray, torch.Tensor)) else ""
        raise UsageError(
            f"A network is a torch.nn.Module or the path of an .onnx file, not a {type(model).__name__}.{swapped}"
        )
    if example is None:
        raise UsageError(
            "A torch network needs an example: samples with their batch axis, such as torch.randn(1, 3, 32, 32)."
        )
    model = find_network(model)
    names, arrays = read_example(example)
    by_name = bool(names)
    names = names or forward_names(model, len(arrays))
    layout = resolve_axes(axes, names, arrays)
    golden = inputs = make_golden(arrays, layout)
    if preprocess is not None:
        if len(golden) != 1:
            raise UsageError(ONE_IMAGE)
        dtypes = [str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()]
        dtype = dtypes[0] if dtypes else "float32"
        inputs = [normalise_images(golden[0], preprocess, channels_first=True, dtype=dtype)]
    network = capture_torch(
        model, inputs, names=names, axes=layout, by_name=by_name, exits=exits, gates=gates, answer=answer
    )
    return network, golden


def _capture_file(
    file: OnnxFile,
    example: Any,
    exits: Sequence[str] | None,
    gates: Sequence[str],
    answer: Sequence[str],
    preprocess: Preprocess | None,
) -> tuple[Captured, list[np.ndarray]]:
    arrays = _draw_example(file, preprocess) if example is None else _order_example(file, example)
    if preprocess is None:
        golden = make_golden(file.convert(arrays), file.axes)
        return file.capture(golden, exits=exits, gates=gates, answer=answer), golden
    if len(arrays) != 1:
        raise UsageError(ONE_IMAGE)
    golden = make_golden(arrays, [(BATCH, None, None, None)])
    shape, dtype = tuple(file.shapes[0]), file.inputs[0].dtype
    assert dtype is not None
    channels_first = is_channels_first(shape, preprocess)
    floats = normalise_images(golden[0], preprocess, channels_first=channels_first, dtype=dtype.numpy().name)
    return file.capture(file.convert([floats]), exits=exits, gates=gates, answer=answer), golden


def _draw_example(file: OnnxFile, preprocess: Preprocess | None) -> list[np.ndarray]:
    """Draw random samples; with preprocess, random uint8 images (N, height, width, channel) of the input's size."""
    arrays = file.draw(GOLDEN_SAMPLES)
    if preprocess is None:
        return arrays
    channels_first = is_channels_first(arrays[0].shape, preprocess)
    shape = np.moveaxis(arrays[0], 1, 3).shape if channels_first else arrays[0].shape
    return [np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)]


def _order_example(file: OnnxFile, example: Any) -> list[np.ndarray]:
    """Read the user's example and put its arrays into the order of the file's inputs."""
    names, arrays = read_example(example)
    if not names:
        return arrays
    inputs = [str(value.name) for value in file.inputs]
    if sorted(names) != sorted(inputs):
        raise UsageError(
            f"The example is for the inputs {', '.join(names)}; {file.path} has {', '.join(inputs)}. Name the arrays like "
            f"the inputs{', or x if there is one' if len(inputs) == 1 else ''}; labels are y.",
            path=file.path,
        )
    return [arrays[names.index(name)] for name in inputs]
