"""The stages of a network as models of their own, for chains elsewhere that have the same bundle."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..bundle import Bundle, Tensor, Variant
from ..errors import DataError, MissingError, OfframpError, UsageError, quoted
from ..runtime.chain.memory import Link
from ..runtime.chain.net import Net
from ..runtime.chain.samples import Samples
from ..runtime.engines import lacks_memory
from ..runtime.loading import load_static
from ..runtime.opening import open_network
from ..runtime.protocol import InferRequest
from ..runtime.request import LoadOptions, chain_parts
from .tasks import Answered, ServedTensors, Task, Values

__all__ = ["ServedStage", "open_stages"]

MOST_STEP = float(np.finfo(np.float32).max) / 127
"""The product of a larger one and an int8 may be infinite."""


class ServedStage(ServedTensors):
    """One stage of a network, for a chain elsewhere that hands it what crosses the boundary.

    Inputs and outputs have the names of the stage's file: the boundaries, and the score, label and answer of its exit. An input
    of float32 may also come as float16; or as int8, and then the request's parameter `step.NAME` is the value of 1.

    Args:
        name: the last part of its address.
        link: the stage in its network.
        boundaries: the tensors between stages, by name.
        digest: tells which files the stage is made of.
    """

    def __init__(self, name: str, link: Link, boundaries: Mapping[str, Tensor], digest: str) -> None:
        self.name, self._compiled = name, link.compiled
        parts = {tensor.name: tensor for tensor in link.parts.values()}
        heads = {
            link.exit.score: Tensor(name=link.exit.score, dtype="float32", shape=(None,)),
            link.exit.label: Tensor(name=link.exit.label, dtype="int64", shape=(None,)),
        }
        known = {**boundaries, **parts, **heads}
        self.inputs = tuple(self._rename(known[own], in_file) for in_file, own in link.reads.items())
        self.outputs = tuple(self._rename(known[own], in_file) for in_file, own in link.writes.items())
        self.usual = tuple(tensor.name for tensor in self.outputs)
        self.about = {"exit": link.exit.name, "digest": digest, "takes": "float32 float16 int8"}

    def _rename(self, tensor: Tensor, name: str) -> Tensor:
        """Return a tensor under another name; its batch is 1 if the stage takes no other."""
        axes = tuple(1 if axis is None and not self._compiled.batches else axis for axis in tensor.shape)
        return Tensor(name=name, dtype=tensor.dtype, shape=axes)

    def takes(self, tensor: Tensor) -> tuple[str, ...]:
        """Return the datatypes in which an input may come."""
        return ("FP32", "FP16", "INT8") if tensor.dtype == "float32" else super().takes(tensor)

    def make_task(self, arrays: Values, request: InferRequest) -> Task:
        """Return the task of a request with these inputs."""
        aligned = []
        for tensor in self.inputs:
            array = arrays[tensor.name]
            if array.dtype == np.int8 and tensor.dtype == "float32":
                step = request.parameters.get(f"step.{tensor.name}")
                if not isinstance(step, (int, float)) or not 0 < step <= MOST_STEP:
                    raise DataError(
                        f"{tensor.name} is INT8: the parameter step.{tensor.name} is the value of 1, above 0 and at most "
                        f"{MOST_STEP:.3g}."
                    )
                array = array * np.float32(step)
            aligned.append(np.require(array, tensor.dtype, requirements=["C", "A"]))
        return Task(Samples(tuple(aligned)), request)

    def start(self, *, is_first: bool) -> Callable[[Sequence[Task]], list[Answered]]:
        """Return what answers tasks in one thread."""
        compiled = self._compiled if is_first else self._compiled.clone()
        if compiled is None:
            raise UsageError(f"Stage {self.name} runs in one thread only: serve it with one worker.")
        names = [tensor.name for tensor in self.inputs]

        def answer(tasks: Sequence[Task]) -> list[Answered]:
            try:
                return [(compiled.infer(dict(zip(names, t.samples.arrays, strict=True)), t.wanted), {}) for t in tasks]
            except OfframpError:
                raise
            except Exception as error:  # each engine has its own
                if lacks_memory(error):
                    raise MissingError(f"The memory is too small to run {self.name} on this.") from error
                raise DataError(f"{self.name} does not run on these inputs: {quoted(error)}.") from error

        return answer


def open_stages(bundle: Bundle, name: str, net: Net, variant: Variant, *, threads: int = 1) -> tuple[ServedStage, ...]:
    """Return each stage of a chain, and each static network, as models by the names of their files: `digits:stage1`.

    Who places a stage on this server calibrates its static networks here, too.

    Args:
        bundle: the bundle.
        name: the network's.
        net: the network as it was loaded. Its chain is loaded once more if it is a static network, or runs uncut.
        variant: the variant or chain that was loaded.
        threads: threads that the engine may use within a stage.
    """
    devices, exits = net.provenance.devices, len(variant.exits)
    chain = net
    if [stage.file for stage in net._stages] != [stage.file for stage in variant.stages]:
        devices = devices if len(devices) == exits else (devices[0],) * exits
        options = LoadOptions(threads, logits=True, uncut=False)
        chain = open_network(chain_parts(bundle, variant), devices, options)
    statics = []
    if variant.name in {each.name for each in bundle.manifest.variants}:  # a chain across two variants has none
        statics = [
            load_static(bundle, device, variant=variant.name, exit=k, threads=threads, logits=True)
            for k, device in enumerate(devices)
        ]
    known = {t.name: t for stage in variant.stages for t in (*stage.inputs, *stage.outputs)}
    stages: dict[str, ServedStage] = {}
    for each in (chain, *statics):
        for stage, link, made in zip(each._stages, each._links, each.provenance.stages, strict=True):
            model = f"{name}:{Path(stage.file).stem}"
            stages.setdefault(model, ServedStage(model, link, known, made.digest))
    return tuple(stages.values())
