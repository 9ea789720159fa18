"""The engines that run stages, one module each: a module put here is an engine, and nothing else names it.

A device is named by an engine's module and a place it runs on, `openvino:CPU`, or by one of the short names in `ALIASES`: `cpu`,
`cuda:0`. `Engine` says what a module offers, `Compiled` what a compiled stage does. Modules import their package only inside
functions, since all modules are looked through for a name.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, runtime_checkable

from msgspec import Struct

from ...bundle import Tensor
from ...errors import MissingError, UnsupportedError

if TYPE_CHECKING:
    import numpy as np

Run = Callable[[], object]
HOST = "host"
"""The memory that numpy sees."""
SIMULATOR = "simulator"
"""A place of this name, or that begins with it and a colon, computes what a device would, on the CPU: `auto` passes over it."""


class StageFile(Struct, frozen=True):
    """A stage to compile.

    Attributes:
        path: its ONNX file; external data lie beside it.
        inputs: what it reads, by the names in the file.
        outputs: the names of the outputs that will be bound; an engine may leave the others out.
        guarded: the same stage with guards on its inputs, for ONNX Runtime on x86-64; see `export/guard.py`.
        check: sees that the files are what they should be; an engine calls it before it reads them.
    """

    path: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    guarded: Path | None = None
    check: Callable[[], object] = lambda: None


def pin_shapes(stage: StageFile, place: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a stage's inputs at batch 1, for places that want every shape fixed.

    Raises:
        UnsupportedError: an axis differs from call to call.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in stage.inputs:
        if named := [axis for axis in tensor.shape if isinstance(axis, str)]:
            raise UnsupportedError(
                f"{place} takes fixed shapes only, and the axis {named[0]} of {tensor.name} in {stage.path.name} differs from "
                "call to call. Export the network at one length (without that name in the axes) for it."
            )
        shapes[tensor.name] = tuple(1 if axis is None else int(axis) for axis in tensor.shape)
    return shapes


class Compiled(Protocol):
    """A stage compiled for a device.

    Attributes:
        runs_on: what runs it, as the engine reports it.
        memory: where tensors lie that stages hand to each other: `HOST`, or a name that stages share which share a memory.
        allocate: makes room for a tensor of a shape and dtype in that memory; None where it is the host's.
        batches: whether it takes more than one sample at once.
        clones: whether its bindings may run in several threads at once.
        half: whether float32 is computed in half precision, as NPUs do.
    """

    runs_on: str
    memory: str
    allocate: Callable[[tuple[int, ...], Any], Any] | None
    batches: bool
    clones: bool
    half: bool

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Run:
        """Tie memory to the stage and return what runs it, without arguments, from the inputs into the outputs.

        What is tied are arrays (C-contiguous, of the stage's dtypes and shapes), which stay in place, so that one stage's output
        is the next one's input; or what `allocate` gave. The function returned keeps all of it alive.

        Raises:
            BundleError: the stage has no input or output of a name.
        """
        ...

    def infer(self, inputs: Mapping[str, "np.ndarray"], outputs: Sequence[str]) -> dict[str, "np.ndarray"]:
        """Run the stage once into new arrays, for outputs whose shapes are not known beforehand."""
        ...


class Engine(Protocol):
    """What a module here offers.

    Attributes:
        PACKAGE: the package that does the work, under which its version is looked up; also the extra that brings it.
        ALIASES: first parts of device names that mean a place of this engine without naming the engine.
    """

    PACKAGE: str
    ALIASES: tuple[str, ...]

    def list_places(self) -> dict[str, str]:
        """Return the places that exist here, each with a description.

        Raises:
            MissingError: the package is not installed or does not load.
        """
        ...

    def compile_stage(self, stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> Compiled:
        """Compile a stage, or take what was built ahead.

        Args:
            stage: the stage.
            place: where it is to run.
            threads: threads that it may use.
            built: what `Builder.build` made.

        Raises:
            MissingError: the package or the place is not here.
            UnsupportedError: the place is here and cannot run all of the stage; names the node, where the engine tells.
            BundleError: the engine cannot read the stage, or what was built.
        """
        ...


@runtime_checkable
class Builder(Engine, Protocol):
    """An engine that takes long to compile a stage, and can do so ahead."""

    def describe_build(self, place: str) -> dict[str, str]:
        """Return what of the engine and the device decides whether a stage that was built ahead fits, by name.

        Where `architecture`, `threads` or `offramp` decide nothing, it gives them a value of its own that is always the same.
        """
        ...

    def build(self, stage: StageFile, place: str, *, threads: int) -> bytes:
        """Compile a stage ahead into bytes that `compile_stage` takes as `built`."""
        ...


@runtime_checkable
class CrossBuilder(Builder, Protocol):
    """A builder whose stages are built on another machine than runs them: its builds belong into the bundle, never into a cache.

    `build` and `describe_build` work without the device.
    """

    def check_place(self, place: str) -> None:
        """See that stages can run on a place.

        Raises:
            MissingError: they cannot here.
        """
        ...


class Device(NamedTuple):
    """A place of an engine, by the name under which it is asked for."""

    name: str
    engine: Engine
    place: str


def engines() -> dict[str, Engine]:
    """Return every engine by its module's name; the ones that need no engine's name in front come first."""
    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    found = {name: importlib.import_module(f"{__name__}.{name}") for name in names}
    return cast(dict[str, Engine], dict(sorted(found.items(), key=lambda item: not item[1].ALIASES)))


def find_device(name: str) -> Device:
    """Find the engine that serves a device name.

    Raises:
        MissingError: none does.
    """
    first, _, place = name.partition(":")
    known = engines()
    for module, engine in known.items():
        if first == module and place:
            return Device(name_device(module, engine, place), engine, place)
        if first in engine.ALIASES:
            return Device(name, engine, name)
    names = [alias for engine in known.values() for alias in engine.ALIASES] + [f"{module}:..." for module in known]
    raise MissingError(
        f"There is no device {name!r}. Devices are named {', '.join(names)}; offramp doctor lists those that are here."
    )


def name_device(module: str, engine: Engine, place: str) -> str:
    """Return the name by which a place is asked for."""
    return place if place.partition(":")[0] in engine.ALIASES else f"{module}:{place}"
