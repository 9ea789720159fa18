"""What a bundle's manifest says: typed, and validated while it is decoded."""

import hashlib
import math
import re
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ..errors import DataError, UsageError, unknown_name

SCHEMA = 2
PLAIN = "[A-Za-z0-9][A-Za-z0-9._-]*"
NEVER = 2.0
"""The threshold that no score reaches: the exit is never taken."""

Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]


Dtype = Literal[
    "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"
]


Precision = Literal["fp16", "fp32", "fp64", "int8"]


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """A frozen part of an artefact that refuses fields it does not know."""


class Tensor(Record, frozen=True):
    """A named tensor.

    Attributes:
        name: as in the graph.
        dtype: of its values.
        shape: one entry per axis: a size; `None` (JSON null) for the batch axis, and a shape without one does not depend on the
            batch; or a name for an axis that differs from call to call, such as the length of a sequence. Axes of the same name
            are equally long.
    """

    name: str
    dtype: Dtype
    shape: tuple[Count | Annotated[str, Meta(min_length=1)] | None, ...]

    def __post_init__(self) -> None:
        if self.shape.count(None) > 1:
            raise ValueError(f"tensor {self.name} has several batch axes: {self.shape}")

    @property
    def batch_axis(self) -> int | None:
        """The axis that grows with the batch; None where there is none."""
        return self.shape.index(None) if None in self.shape else None

    @property
    def is_sized(self) -> bool:
        """Whether every axis but the batch has a fixed size: (None, 3, 32, 32) does, (None, "time", 64) does not."""
        return not any(isinstance(axis, str) for axis in self.shape)

    def at(self, batch: int) -> tuple[int, ...]:
        """Return the shape at a batch size: (None, 3, 32, 32) at 8 is (8, 3, 32, 32). Its named axes have been sized."""
        return tuple(batch if axis is None else int(axis) for axis in self.shape)

    def fits(self, shape: Sequence[int], lengths: dict[str, int]) -> bool:
        """Return True if an array of this shape can be the tensor.

        Args:
            shape: of the array, batch axis included.
            lengths: the sizes of named axes that are known so far; it learns new ones, and later tensors must agree with them.
        """
        if len(shape) != len(self.shape):
            return False
        for size, axis in zip(shape, self.shape, strict=True):
            if isinstance(axis, str) and (size == 0 or lengths.setdefault(axis, size) != size):
                return False
            if isinstance(axis, int) and size != axis:
                return False
        return True


class Stage(Record, frozen=True):
    """What runs between two exits.

    The passes of a loop share one file. In it inputs, outputs and head have the names of the first stage that uses it, and the
    others' correspond in order; a last pass may make fewer outputs.

    Attributes:
        file: its graph.
        inputs: the network's inputs and the boundary tensors that it reads.
        outputs: the boundary tensors that it makes for later stages; the head's outputs are named by its exit.
        macs: its multiply-accumulates for one sample, head included.
        guarded: the same graph with guards on its inputs, where ONNX Runtime was measured to run that faster; see
            `export/guard.py`.
    """

    file: str
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1)]
    outputs: tuple[Tensor, ...]
    macs: Count
    guarded: str | None = None

    def serves(self, other: "Stage") -> bool:
        """Tell whether this stage's file fits another stage, by its signature."""
        pairs = [*zip(self.inputs, other.inputs, strict=False), *zip(self.outputs, other.outputs, strict=False)]
        fits = len(self.inputs) == len(other.inputs) and len(self.outputs) >= len(other.outputs)
        return fits and all((a.dtype, a.shape) == (b.dtype, b.shape) for a, b in pairs)


class Exit(Record, frozen=True):
    """One exit.

    Attributes:
        name: what people call it.
        logits: the output with its logits, (batch, classes).
        score: the output that says how sure it is, float32 (batch,), 0 to 1.
        label: the output with the likeliest class, int64 (batch,).
        static: the graph of the static network that ends at it, without the earlier heads.
        macs: all multiply-accumulates for one sample of that static network.
        temperature: what has divided the logits before the score was made of them.
    """

    name: str
    logits: str
    score: str
    label: str
    static: str
    macs: Count
    temperature: Annotated[float, Meta(gt=0)] = 1.0


class File(Record, frozen=True):
    """A file of a variant.

    Attributes:
        bytes: its size.
        sha256: of its content, in hexadecimal.
    """

    bytes: Count
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Origin(Record, frozen=True):
    """What a variant was made from, and how.

    Attributes:
        parent: the variant it was made from, which stands before it.
        how: the function of `export/` that made it.
        settings: what that function was told, in words and figures by name.
    """

    parent: str
    how: Literal["keep", "prune", "quantize"]
    settings: dict[str, str | int | float | None]


class Variant(Record, frozen=True):
    """One form of the network. File names are relative to its folder, which variants with the same weights share.

    Attributes:
        name: unique in the bundle.
        folder: where its files lie, `variants/<folder>`.
        precision: what it computes in: `fp16`, `fp32` or `fp64`, or `int8` where it is quantised.
        rule: how its scores are made.
        weights: the external data of every graph beside it; empty where all weights lie in the graphs.
        whole: the graph of the whole network, every exit's logits, score and label among its outputs.
        golden: the golden samples.
        stages: first to last, one per exit.
        exits: first to last.
        files: every file named here, by its name.
        origin: where it comes from; None for what was exported.
    """

    name: Annotated[str, Meta(pattern=f"^{PLAIN}$")]
    folder: str
    precision: Precision
    rule: str
    weights: str
    whole: str
    golden: str
    stages: Annotated[tuple[Stage, ...], Meta(min_length=2)]
    exits: Annotated[tuple[Exit, ...], Meta(min_length=2)]
    files: dict[str, File]
    origin: Origin | None = None

    def __post_init__(self) -> None:
        if len(self.stages) != len(self.exits):
            raise ValueError(f"variant {self.name} has {len(self.stages)} stages for {len(self.exits)} exits")
        first: dict[str, Stage] = {}
        for stage in self.stages:
            if not first.setdefault(stage.file, stage).serves(stage):
                raise ValueError(f"two stages of variant {self.name} share {stage.file}, which fits one of them only")
        named = [self.weights, self.whole, self.golden]
        named += [stage.file for stage in self.stages] + [point.static for point in self.exits]
        guarded = {stage.guarded for stage in self.stages if stage.guarded is not None}
        if strange := guarded & set(named):
            raise ValueError(f"variant {self.name} names {', '.join(strange)} as a guarded stage and as something else")
        named += guarded
        for name in named:
            if name not in self.files:
                raise ValueError(f"variant {self.name} names {name}, which its list of files lacks")
        for name in self.files:
            if not re.fullmatch(f"variants/{PLAIN}/{PLAIN}", f"{self.folder}/{name}"):
                raise ValueError(f"the path {self.folder}/{name} leads outside the bundle's variants")

    @property
    def digest(self) -> str:
        """The sha256 of all that decides what this variant computes, golden samples and guards left out; calibrations name it."""
        record = msgspec.to_builtins(self)
        del record["folder"], record["origin"], record["files"][self.golden]
        for stage in record["stages"]:
            record["files"].pop(stage.pop("guarded"), None)
        return hashlib.sha256(msgspec.json.encode(record, order="sorted")).hexdigest()


class Preprocess(Record, frozen=True):
    """How a camera's image becomes what the network was trained on.

    Scaling and normalising are done in the first stage, (pixel / 255 - mean) / std per channel; resizing is done before.

    Attributes:
        mean, std: per channel, on pixels from 0 to 1.
        resize: `stretch` to the input's size; `crop` so that the shorter side fits and the middle stays; `pad` so that the
            longer side fits, with black around.
        crop: for `crop`, the share of the resized image's sides that stays: 0.875 is 224 of 256, as torchvision evaluates.
        interpolation: how pixels are interpolated, with antialiasing (Pillow's filters).
    """

    mean: Annotated[tuple[float, ...], Meta(min_length=1)]
    std: Annotated[tuple[Annotated[float, Meta(gt=0)], ...], Meta(min_length=1)]
    resize: Literal["stretch", "crop", "pad"] = "stretch"
    crop: Annotated[float, Meta(gt=0, le=1)] = 1.0
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise UsageError(f"mean has {len(self.mean)} channels and std {len(self.std)}: give one each per channel.")
        if not all(math.isfinite(value) for value in (*self.mean, *self.std)):
            raise UsageError(f"mean and std are finite numbers, not {self.mean} and {self.std}.")
        if min(self.std) <= 0 or not 0 < self.crop <= 1:
            raise UsageError(f"std is above 0 and crop between 0 and 1, not {self.std} and {self.crop}.")
        for name, known in (
            ("resize", ("stretch", "crop", "pad")),
            ("interpolation", ("bilinear", "bicubic", "nearest")),
        ):
            if getattr(self, name) not in known:
                raise unknown_name(name, str(getattr(self, name)), known)


class Manifest(Record, frozen=True):
    """What a bundle holds.

    Attributes:
        schema: the version of this form.
        offramp: the version of offramp that wrote it.
        network: what was exported: a class's name, or a file's.
        captured: how the graph was had: by torch's `dynamo` exporter, by its older `torchscript` one, which records one run,
            or from an `onnx` file.
        classes: how many there are.
        class_names: one per class; None where they have none.
        preprocess: set where the network takes uint8 images (batch, height, width, channel); None elsewhere.
        inputs: of the network, the same for every variant.
        variants: the whole network of the first is the reference that losses are counted against; parents stand before the
            variants made from them.
    """

    schema: int
    offramp: str
    network: str
    captured: Literal["dynamo", "torchscript", "onnx"]
    classes: Annotated[int, Meta(ge=2)]
    class_names: tuple[str, ...] | None
    preprocess: Preprocess | None
    inputs: Annotated[tuple[Tensor, ...], Meta(min_length=1)]
    variants: Annotated[tuple[Variant, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        if len({variant.name for variant in self.variants}) < len(self.variants):
            raise ValueError(f"two variants have the same name: {', '.join(variant.name for variant in self.variants)}")
        for i, variant in enumerate(self.variants):
            if variant.origin and variant.origin.parent not in [before.name for before in self.variants[:i]]:
                raise ValueError(f"variant {variant.name} is made from {variant.origin.parent}, which is not before it")
        if self.class_names is not None and len(self.class_names) != self.classes:
            raise ValueError(f"there are {len(self.class_names)} class names for {self.classes} classes")
        if any(None not in tensor.shape for tensor in self.inputs):
            raise ValueError("an input has no batch axis")
        named = not all(tensor.is_sized for tensor in self.inputs)
        for variant in self.variants:
            tensors = [tensor for stage in variant.stages for tensor in stage.outputs]
            if not named and not all(tensor.is_sized for tensor in tensors):
                raise ValueError(f"a tensor of variant {variant.name} has a named axis, but no input has one")
            known = list(self.inputs)
            for stage in variant.stages:
                for tensor in stage.inputs:
                    if tensor not in known:
                        raise ValueError(f"{variant.name}/{stage.file} reads {tensor.name}, which nothing before makes")
                known += stage.outputs


def find_layout(inputs: Sequence[Tensor]) -> tuple[int, int, int, bool]:
    """Return channels, height, width, and whether the channels come first.

    Raises:
        DataError: the network takes no images of 1 or 3 channels and a fixed size.
    """
    shape = inputs[0].shape[1:]
    if (
        len(inputs) == 1
        and inputs[0].shape[0] is None
        and len(shape) == 3
        and all(isinstance(axis, int) for axis in shape)
    ):
        sizes = [int(axis) for axis in shape if axis is not None]
        if sizes[0] in (1, 3):
            return sizes[0], sizes[1], sizes[2], True
        if sizes[2] in (1, 3):
            return sizes[2], sizes[0], sizes[1], False
    if len(inputs) == 1 and not inputs[0].is_sized:
        raise DataError(f"The network takes images of any size, {shape}: give arrays (.npz) of the size you want.")
    takes = ", ".join(str(shape if len(inputs) == 1 else tensor.shape) for tensor in inputs)
    raise DataError(
        f"The network takes samples of shape {takes}, which are no images with 1 or 3 channels: give arrays (.npz)."
    )
