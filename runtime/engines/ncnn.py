"""Networks on the CPU by Tencent's ncnn, which is small and made for Arm: `ncnn:cpu`, and in half precision `ncnn:cpu-fp16`.

Where all stages are placed here, the network runs uncut: what ncnn computes for an exit stays in its extractor, which goes on
from there to the next exit. Nothing is copied from stage to stage.

    x ---> extractor ---> logits 0 ---> score, label ---> sure enough?   no ---> the same extractor ---> logits 1 ---> ...

ncnn has no operators for scores and labels, so they are made beside it. The converter pnnx is a package of its own, which only a
workstation needs. It takes some graphs and makes others of them, so what was converted must give the golden answers.
"""

import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ...bundle import Tensor
from ...errors import BundleError, MissingError, UnsupportedError, quoted, require
from ..graph_bytes import join_graphs
from ..graph_values import inline_weights, read_model, take_floats, without_unread_inputs
from . import HOST, StageFile, pin_shapes, raise_out_of_memory
from ._decisions import Decisions, split_decisions
from ._pnnx import convert, single_shape

__all__ = ["CONVERTS", "PACKAGE", "UNCUT", "build", "compile_stage", "describe_build", "list_places"]

PACKAGE = "ncnn"

CONVERTS = UNCUT = True

HALF = "cpu-fp16"

PLACES = ("cpu", HALF)

MOST_AXES = 4
"""An array of ncnn has no more, beside the batch."""

OUT_OF_MEMORY = -100

MOST_MODEL_BYTES = (1 << 31) - 1
"""No ONNX file holds more."""


class Build(msgspec.Struct, frozen=True):
    """A network as ncnn has it.

    Attributes:
        param, weights: ncnn's two files.
        inputs: the tensors that ncnn reads as `in0`, `in1`, ...
        outputs: those that it gives as `out0`, `out1`, ...
        decisions: what is made beside it.
    """

    param: bytes
    weights: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    decisions: Decisions


def list_places() -> dict[str, str]:
    """Return the CPU; not in half precision, which nothing chooses that was not asked to.

    Raises:
        MissingError: the package is not installed or does not load.
    """
    _import()
    return {"cpu": f"the processor, in float32; {PACKAGE}:{HALF} in half precision"}


def describe_build(place: str) -> dict[str, str]:
    """Return the version of ncnn. A build fits every processor and any number of threads."""
    return {"engine": f"{PACKAGE} {_import().__version__}", "threads": "any", "architecture": "any"}


def build(stage: StageFile, place: str, *, threads: int) -> bytes:
    """Convert a stage, or a whole network, at batch 1, and try whether it runs.

    Raises:
        MissingError: a package is missing, or memory is too small.
        UnsupportedError: ncnn cannot run the stage, it is quantised, or an axis has a name.
        BundleError: the file is no graph.
    """
    ncnn = _check(place)
    _refuse(stage, place)
    try:
        content = stage.read(stage.path)
        weights = b"" if stage.weights is None else stage.read(stage.weights)
        answers = [tensor.name for exit_ in stage.exits for tensor in stage.made if tensor.name in exit_.outputs]
        given = [tensor.name for tensor in stage.inputs]
        decisions = split_decisions(read_model(content), answers, given, stage.outputs, weights)
        model = without_unread_inputs(inline_weights(join_graphs([content], decisions.engine), weights))
        if images := [tensor.name for tensor in stage.inputs if tensor.dtype == "uint8"]:
            model = take_floats(model, images)
        parts = read_model(model)
        inputs, outputs = (tuple(name.decode() for name in names) for names in (parts.inputs, parts.outputs))
    except (ValueError, LookupError, RecursionError) as error:
        raise BundleError(
            f"{stage.path} cannot be read: {quoted(error)}. Export the network anew.", path=stage.path
        ) from error
    _refuse_dtypes(stage, place, (*inputs, *outputs))
    if len(model) > MOST_MODEL_BYTES:
        raise UnsupportedError(f"{stage.path} is too large to be converted for ncnn: 2 GiB.", path=stage.path)
    tensors = {tensor.name: tensor for tensor in stage.inputs}
    param, converted = convert(model, [tensors[name] for name in inputs], len(outputs), stage, half=place == HALF)
    made = msgspec.msgpack.encode(Build(param, converted, inputs, outputs, decisions))
    _open(ncnn, made, stage, place, threads).try_zeros()
    return made


def _refuse(stage: StageFile, place: str) -> None:
    """Refuse what ncnn cannot run, or computes in another precision than the bundle says.

    Raises:
        UnsupportedError: it is so.
    """
    shapes, device = pin_shapes(stage, f"{PACKAGE}:{place}"), f"{PACKAGE}:{place}"
    content = stage.read(stage.path)
    if b"DequantizeLinear" in content:
        raise UnsupportedError(
            f"{device} runs no int8 variant: pnnx does not read {stage.path}, which holds QuantizeLinear and DequantizeLinear. "
            "Load a variant in float32 on it.",
            path=stage.path,
        )
    for tensor in (*stage.inputs, *stage.made):
        if not tensor.is_sized:
            raise UnsupportedError(
                f"{device} takes fixed shapes only, and {tensor.name} in {stage.path.name} is {list(tensor.shape)}.",
                path=stage.path,
            )
        if len(shapes.get(tensor.name, ())) > MOST_AXES + (tensor.batch_axis is not None):
            raise UnsupportedError(f"{device} takes arrays of 4 axes, and {tensor.name} has more.", path=stage.path)


def _refuse_dtypes(stage: StageFile, place: str, names: Sequence[str]) -> None:
    """Refuse tensors of ncnn's part that are not float32, or images.

    Raises:
        UnsupportedError: there is one.
    """
    for tensor in (*stage.inputs, *stage.made):
        is_image = tensor in stage.inputs and tensor.dtype == "uint8"
        if tensor.name in names and tensor.dtype != "float32" and not is_image:
            half = f" Load a variant in float32, on {PACKAGE}:{HALF} for half precision." * (tensor.dtype == "float16")
            raise UnsupportedError(
                f"{PACKAGE}:{place} takes float32 and uint8 and gives float32, and {tensor.name} of {stage.path} is "
                f"{tensor.dtype}.{half}",
                path=stage.path,
            )


def compile_stage(stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> "NcnnStage":
    """Load the build of a stage, or build it.

    Raises:
        MissingError: a package or the place is missing, or memory is too small.
        UnsupportedError: ncnn cannot run the stage.
        BundleError: ncnn cannot read the build.
    """
    ncnn = _check(place)
    if built is None:
        built = build(stage, place, threads=threads)
    return _open(ncnn, built, stage, place, threads)


def _open(ncnn: Any, content: bytes, stage: StageFile, place: str, threads: int) -> "NcnnStage":
    """Load a build. ncnn reads weights from files only."""
    try:
        built = msgspec.msgpack.decode(content, type=Build)
        net = ncnn.Net()
        options = net.opt
        options.num_threads, options.use_vulkan_compute, options.use_bf16_storage = threads, False, False
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(options, name, place == HALF)
        with tempfile.TemporaryDirectory(prefix="offramp.") as folder:
            param, weights = Path(folder, "stage.param"), Path(folder, "stage.bin")
            param.write_bytes(built.param)
            weights.write_bytes(built.weights)
            if net.load_param(str(param)) or net.load_model(str(weights)):
                raise BundleError(f"ncnn cannot load the build of {stage.path}.", path=stage.path)
        return NcnnStage(ncnn, net, built, stage, place)
    except (MissingError, BundleError):
        raise
    except Exception as error:  # of msgspec, of ncnn, or a build that lacks something
        raise_out_of_memory(error, stage.path, place)
        raise BundleError(f"ncnn cannot load the build of {stage.path}: {quoted(error)}", path=stage.path) from error


class NcnnSession:
    """A sample on its way through a network. What runs for its exits shares it.

    Attributes:
        extractor: what ncnn has computed so far.
        values: what was made so far, by name; constants, too.
    """

    __slots__ = ("__weakref__", "extractor", "values")

    def __init__(self) -> None:
        self.extractor: Any = None
        self.values: dict[str, np.ndarray] = {}


class NcnnStage:
    """A stage in ncnn, or a whole network, of which each binding runs one exit, after those before it.

    Any number of bindings runs at once: each sample has an extractor of its own.
    """

    memory, allocate, batches, clones = HOST, None, False, True

    def __init__(self, ncnn: Any, net: Any, built: Build, stage: StageFile, place: str) -> None:
        self.half = place == HALF
        uncut = ", uncut" * (len(stage.exits) > 1)
        self.runs_on = f"ncnn {ncnn.__version__}, CPU{' in half precision' * self.half}{uncut}"
        self._ncnn, self._net, self._stage, self._inputs = ncnn, net, stage, built.inputs
        self._decisions = built.decisions
        self._constants = {name: constant.array for name, constant in built.decisions.constants.items()}
        self._blobs = {name: f"out{k}" for k, name in enumerate(built.outputs)}
        self._makers = {each.makes: each.compiled(self._constants) for each in built.decisions.makings}
        self._tensors = {tensor.name: tensor for tensor in (*stage.inputs, *stage.made)}
        for exit_ in stage.exits:
            self._tensors[exit_.score] = Tensor(name=exit_.score, dtype="float32", shape=(None,))
            self._tensors[exit_.label] = Tensor(name=exit_.label, dtype="int64", shape=(None,))
        self._sessions: weakref.WeakValueDictionary[int, NcnnSession] = weakref.WeakValueDictionary()

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Callable[[], object]:
        """Tie arrays to the network up to an exit; each run copies in and out.

        Bindings to the same inputs share an extractor, which that of the first exit starts.

        Raises:
            BundleError: a tensor is not the stage's.
        """
        if strange := [name for name in (*inputs, *outputs) if name not in self._tensors]:
            raise BundleError(
                f"{self._stage.path} has no {strange[0]}. Export the network anew.", path=self._stage.path
            )
        session = self._share(inputs)
        begins = len(self._stage.exits) < 2 or self._stage.exits[0].score in outputs
        needed, makings = self._decisions.needed_for(outputs)
        extracted = [(name, self._blobs[name], self._tensors[name].at(1)) for name in needed]
        steps = [(each.makes, self._makers[each.makes], each.reads) for each in makings]
        floats = {name: inputs[name] for name in self._inputs}
        images = [(name, array) for name, array in floats.items() if array.dtype != np.float32]
        floats |= {name: np.empty(array.shape, np.float32) for name, array in images}
        into = [(f"in{k}", self._wrap(name, array)) for k, (name, array) in enumerate(floats.items())]
        cast = [(floats[name], array) for name, array in images]
        start = self._constants | dict(inputs)
        out, create = list(outputs.items()), self._net.create_extractor

        def run(_kept: object = (inputs, floats)) -> None:  # ncnn's arrays do not keep those that they wrap
            if begins:
                session.extractor = extractor = create()
                session.values = values = start.copy()
                for place, array in cast:
                    place[...] = array
                for blob, mat in into:  # a copy: layers write into it, and read its channels by aligned addresses
                    if extractor.input(blob, mat.clone()):
                        raise RuntimeError(f"ncnn does not take {blob}")
            else:
                extractor, values = session.extractor, session.values
            for name, blob, shape in extracted:
                if name not in values:
                    code, mat = extractor.extract(blob)
                    if code:
                        raise MemoryError if code == OUT_OF_MEMORY else RuntimeError(f"ncnn ends with error {code}")
                    values[name] = np.asarray(mat).reshape(shape)
            for name, make, reads in steps:
                if name not in values:
                    values[name] = make(*[values[read] for read in reads])
            for name, array in out:
                array[...] = values[name]

        return run

    def _share(self, inputs: Mapping[str, Any]) -> NcnnSession:
        """Return the session of these inputs, which lives as long as a binding to them."""
        if len(self._stage.exits) < 2:
            return NcnnSession()
        key = id(next(iter(inputs.values())))  # bindings keep the array
        return self._sessions.setdefault(key, NcnnSession())

    def _wrap(self, name: str, array: np.ndarray) -> Any:
        """Return an array as ncnn reads it, without its axis for the batch."""
        return self._ncnn.Mat(array.reshape(single_shape(self._tensors[name])))

    def infer(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Run the stage once into new arrays."""
        tensors = [self._tensors[name] for name in outputs]
        arrays = {tensor.name: np.empty(tensor.at(1), tensor.dtype) for tensor in tensors}
        self.bind(inputs, arrays)()
        return arrays

    def try_zeros(self) -> None:
        """Run zeros.

        Raises:
            UnsupportedError: ncnn cannot.
        """
        zeros = {tensor.name: np.zeros(tensor.at(1), tensor.dtype) for tensor in self._stage.inputs}
        try:
            self.infer(zeros, self._stage.outputs)
        except (RuntimeError, ValueError, KeyError) as error:
            raise UnsupportedError(
                f"ncnn does not run what pnnx made of {self._stage.path}: {quoted(error)}", path=self._stage.path
            ) from error

    def clone(self) -> "NcnnStage":
        """Return the stage itself."""
        return self


def _import() -> Any:
    return require("ncnn", extra="ncnn")


def _check(place: str) -> Any:
    if place not in PLACES:
        raise MissingError(
            f"ncnn has no place {place!r:.60}. It has {' and '.join(f'{PACKAGE}:{each}' for each in PLACES)}.",
            device=f"{PACKAGE}:{place}",
        )
    return _import()
