"""A camera's image made into what the network takes, in the graph's first nodes."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ...bundle import Preprocess
from ...errors import DataError, ModelError
from ..graph.axes import BATCH
from .captured import Arrays, Captured


def normalise_images(
    images: np.ndarray, preprocess: Preprocess, *, channels_first: bool, dtype: str = "float32"
) -> np.ndarray:
    """Return uint8 images (N, H, W, C) as the network takes them.

    Raises:
        DataError: they are no such images.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != len(preprocess.mean):
        raise DataError(
            f"With preprocess the example is uint8 images (N, height, width, {len(preprocess.mean)}), "
            f"not {images.dtype} {images.shape}."
        )
    scale, shift = _scale_and_shift(preprocess)
    x = images.astype(np.float32) * scale + shift
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2) if channels_first else x, dtype)


def is_channels_first(shape: "tuple[int | str | None, ...]", preprocess: Preprocess) -> bool:
    """Tell from a network's input (batch, ...) where its channels are.

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
    (old,) = graph.inputs
    assert old.shape is not None and old.dtype is not None
    if (
        old.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
        or captured.axes[0].index(BATCH) != 0
    ):
        raise ModelError(
            f"preprocess is for networks that take float images, batch first; {old.name} is {old.dtype.name}."
        )
    shape = tuple(axis if isinstance(axis, int) else axis.value for axis in old.shape)
    first = is_channels_first(shape, preprocess)
    new = ir.Value(name=old.name, type=ir.TensorType(ir.DataType.UINT8))
    new.shape = ir.Shape([shape[i] for i in ((0, 2, 3, 1) if first else range(4))])
    old.name = f"{old.name}.normalised"
    tape = ir.tape.Tape()
    scale, shift = (array.reshape(-1, 1, 1) if first else array for array in _scale_and_shift(preprocess))
    # Before all else, since TensorRT does nothing else with uint8. By way of half, which holds every pixel and costs ONNX Runtime
    # nothing, since Qualcomm's QNN 2.7 makes 1.0 of all but 0 where uint8 becomes float at once.
    x = tape.op("Cast", [tape.op("Cast", [new], {"to": ir.DataType.FLOAT16})], {"to": ir.DataType.FLOAT})
    x = tape.op("Transpose", [x], {"perm": [0, 3, 1, 2]}) if first else x
    x = tape.op("Mul", [x, tape.initializer(ir.tensor(scale), name="offramp.scale")])
    x = tape.op("Add", [x, tape.initializer(ir.tensor(shift), name="offramp.shift")])
    if old.dtype != ir.DataType.FLOAT:
        x = tape.op("Cast", [x], {"to": old.dtype})
    x.dtype, x.shape, dtype = old.dtype, old.shape, old.dtype.numpy().name
    old.replace_all_uses_with(x)
    graph.inputs[0] = new
    graph.insert_before(next(iter(graph)), tape.nodes)
    for initializer in tape.initializers:
        graph.register_initializer(initializer)
    names = captured.axes[0]
    return captured._replace(
        axes=[tuple(names[i] for i in ((0, 2, 3, 1) if first else range(4)))],
        reference=_after(
            captured.reference, lambda x: normalise_images(x, preprocess, channels_first=first, dtype=dtype)
        ),
    )


def _after(
    reference: Callable[[Arrays], list[np.ndarray]], prepare: Callable[[np.ndarray], np.ndarray]
) -> Callable[[Arrays], list[np.ndarray]]:
    return lambda inputs: reference([prepare(inputs[0])])


def _scale_and_shift(preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)
