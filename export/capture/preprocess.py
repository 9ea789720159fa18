"""Preprocessing in the graph: its first nodes turn a camera's uint8 image into what the network takes."""

import numpy as np
import onnx_ir as ir
from msgspec.structs import replace

from ...bundle import Preprocess
from ...errors import DataError, ModelError
from ..graph.axes import BATCH
from ..graph.edits import insert_tape
from .captured import Captured

__all__ = ["add_preprocess", "is_channels_first", "normalise_images"]


def normalise_images(
    images: np.ndarray, preprocess: Preprocess, *, channels_first: bool, dtype: str = "float32"
) -> np.ndarray:
    """Return uint8 images (N, height, width, channel) as the network takes them: floats, (N, channel, height, width) if asked.

    Raises:
        DataError: they are not such images.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != len(preprocess.mean):
        raise DataError(
            f"With preprocess, samples are uint8 images (N, height, width, {len(preprocess.mean)}), "
            f"not {images.dtype} {images.shape}."
        )
    scale, shift = _find_scale_and_shift(preprocess)
    x = images.astype(np.float32) * scale + shift
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if channels_first else x, dtype)


def is_channels_first(shape: "tuple[int | str | None, ...]", preprocess: Preprocess) -> bool:
    """Tell from the shape of a network's input whether it is (batch, channel, height, width).

    Raises:
        ModelError: it takes no images with that many channels.
    """
    channels = len(preprocess.mean)
    if len(shape) != 4 or channels not in (shape[1], shape[3]):
        raise ModelError(f"preprocess is for images of {channels} channels, but the network takes {tuple(shape)}.")
    return shape[1] == channels


def add_preprocess(captured: Captured, preprocess: Preprocess) -> Captured:
    """Put scaling and normalising before a captured network, whose input becomes uint8 (batch, height, width, channel).

    Raises:
        ModelError: the network does not take one input of float images.
    """
    graph = captured.model.graph
    if len(graph.inputs) != 1:
        raise ModelError(f"preprocess is for networks that take one image; this one has {len(graph.inputs)} inputs.")
    (floats,) = graph.inputs
    assert floats.shape is not None and floats.dtype is not None
    is_float = floats.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
    if not is_float or captured.axes[0].index(BATCH) != 0:
        raise ModelError(
            f"preprocess is for networks that take float images, batch first; {floats.name} is {floats.dtype.name}."
        )
    shape = tuple(axis if isinstance(axis, int) else axis.value for axis in floats.shape)
    channels_first = is_channels_first(shape, preprocess)
    layout = (0, 2, 3, 1) if channels_first else (0, 1, 2, 3)
    pixels = ir.Value(name=floats.name, type=ir.TensorType(ir.DataType.UINT8))
    pixels.shape = ir.Shape([shape[i] for i in layout])
    floats.name = f"{floats.name}.normalised"
    _insert_normalising(graph, pixels, floats, preprocess, channels_first=channels_first)
    graph.inputs[0] = pixels
    reference, names, dtype = captured.reference, captured.axes[0], floats.dtype.numpy().name
    return replace(
        captured,
        axes=[tuple(names[i] for i in layout)],
        reference=lambda inputs: reference(
            [normalise_images(inputs[0], preprocess, channels_first=channels_first, dtype=dtype)]
        ),
    )


def _insert_normalising(
    graph: ir.Graph, pixels: ir.Value, floats: ir.Value, preprocess: Preprocess, *, channels_first: bool
) -> None:
    """Compute from the pixels what the graph reads as `floats`, in its first nodes."""
    assert floats.dtype is not None
    tape = ir.tape.Tape()
    scale, shift = (array.reshape(-1, 1, 1) if channels_first else array for array in _find_scale_and_shift(preprocess))
    # The cast is the first node, since TensorRT does nothing else with uint8. It goes by way of half precision, which holds every
    # pixel exactly and costs ONNX Runtime nothing: in one cast from uint8 to float, Qualcomm's QNN 2.7 makes 1.0 of all but 0.
    x = tape.op("Cast", [tape.op("Cast", [pixels], {"to": ir.DataType.FLOAT16})], {"to": ir.DataType.FLOAT})
    x = tape.op("Transpose", [x], {"perm": [0, 3, 1, 2]}) if channels_first else x
    x = tape.op("Mul", [x, tape.initializer(ir.tensor(scale), name="offramp.scale")])
    x = tape.op("Add", [x, tape.initializer(ir.tensor(shift), name="offramp.shift")])
    if floats.dtype != ir.DataType.FLOAT:
        x = tape.op("Cast", [x], {"to": floats.dtype})
    x.dtype, x.shape = floats.dtype, floats.shape
    floats.replace_all_uses_with(x)
    insert_tape(graph, tape)


def _find_scale_and_shift(preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
