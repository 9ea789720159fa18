"""The engines that run stages, one module or package each. A module put here is an engine; beside it only `ALIASES` may name it.

A device is named by an engine's module and a place it runs on, `openvino:CPU`, or by one of the short names in `ALIASES`: `cpu`,
`cuda:0`. Only the engine of a device that is asked for is imported. How a stage gets from its file to a run:

    StageFile --- compile_stage(stage, place) ---> Compiled --- bind(inputs, outputs) ---> Run --- run() ---> outputs are filled
                                                      |                                     |
                                    once per load, `clone` for clones      once per memory; called for every sample

A new engine is a module here with:

- `PACKAGE`, the package that does the work;
- `list_places()`, what of it exists on this machine;
- `compile_stage(stage, place, *, threads, built=None)`, which returns an object with the attributes and the three methods of
  `Compiled`;
- `describe_build` and `build` too, if compiling takes so long that it is done ahead (`Builder`), and `check_place` if that is
  done on another machine (`CrossBuilder`);
- `CONVERTS = True` if a converter makes another graph of a stage, whose answers are then compared with the golden ones;
- `UNCUT = True` if it runs a whole network as one graph and stops at each exit, where it has all stages.

It imports its package only inside functions, since `engines` imports all modules. A module whose name begins with `_` is a helper
and no engine. Errors need not name device or stage: whoever compiles adds both.
"""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, cast

from msgspec import Struct

from ...bundle import Exit, Tensor
from ...errors import MissingError, UnsupportedError, quoted

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "HOST",
    "SIMULATOR",
    "Builder",
    "Compiled",
    "CrossBuilder",
    "Device",
    "Engine",
    "Run",
    "StageFile",
    "engines",
    "find_device",
    "is_builder",
    "is_converter",
    "is_cross_builder",
    "lacks_memory",
    "name_device",
    "pin_shapes",
    "raise_out_of_memory",
    "runs_uncut",
]

ALIASES = {"cpu": "onnxruntime", "cuda": "onnxruntime", "http": "remote", "https": "remote"}
"""First parts of device names that mean a place of an engine: `cuda` of `cuda:0` is a place of ONNX Runtime."""
Run = Callable[[], object]
MOST_DEVICE = 100
"""The most characters of a device's name that is no address; engines repeat it in messages."""

MOST_REASON = 200
"""The most characters of an engine's reason, which repeats what a graph says."""

HOST = "host"
"""The memory that numpy sees."""

SIMULATOR = "simulator"
"""A place named `simulator` or `simulator:...` computes on the CPU what a device would. `auto` passes over it."""


class StageFile(Struct, frozen=True):
    """The file of a stage, to be compiled.

    Attributes:
        path: the ONNX file.
        inputs: the stage's inputs, by their names in the file.
        outputs: the names of the outputs that will be bound; an engine may leave out the others.
        guarded: the same stage with guards on its inputs, for ONNX Runtime on x86-64; see `export/cut/guards.py`.
        weights: the file beside it with its external data, the only one that it may read. None for files of our own, which
            engines read by their names.
        weights_bytes: the size of that file.
        read: returns what a file holds, compared with its hash. Engines run these bytes or a copy: who opens a file of a bundle
            by its name may find another one there than the one that was compared.
        copy: copies a file to where nobody else writes, all files of a variant to one folder, and returns the copy's path. It was
            compared with its hash, too, and is there until the engine has compiled the stage.
        boundaries: the inputs and outputs that only stages see, by name. An engine may keep them in a layout of its own.
        digest: what the manifest says of the stage's files: equal for stages that compute the same. Empty for files of our own.
        exits: those at which it ends: one, or all of the network's in order for an engine that runs it uncut (`UNCUT`). For
            engines that make scores and labels beside the graph; see `_decisions.py`.
        made: the tensors that it makes for later stages, and the logits or the parts of the answers of `exits`.
    """

    path: Path
    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    guarded: Path | None = None
    weights: Path | None = None
    weights_bytes: int = 0
    read: Callable[[Path], bytes] = Path.read_bytes
    copy: Callable[[Path], Path] = Path
    boundaries: frozenset[str] = frozenset()
    digest: str = ""
    exits: tuple[Exit, ...] = ()
    made: tuple[Tensor, ...] = ()

    def copied(self, path: Path | None = None) -> Path:
        """Return the path of a copy of the stage, or of its guarded form, with its weights beside it, where nobody else writes.

        For engines that read files by their names.

        Raises:
            BundleError: a file is damaged.
            MissingError: a file cannot be read, or the temporary folder cannot be written.
        """
        if self.weights is not None:
            self.copy(self.weights)
        return self.copy(path or self.path)


def lacks_memory(error: BaseException) -> bool:
    """Tell whether an engine failed for want of memory: each says so by a type and in words of its own."""
    words = "bad_alloc|failed to allocate|cannot allocate memory|out.of.memory"
    return isinstance(error, MemoryError) or re.search(words, str(error), re.IGNORECASE) is not None


def pin_shapes(stage: StageFile, device: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a stage's inputs at batch 1, for devices that want every shape fixed: `{"x": (1, 3, 32, 32)}`.

    Raises:
        UnsupportedError: an axis has a name, so its length differs from call to call.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in stage.inputs:
        if named := [axis for axis in tensor.shape if isinstance(axis, str)]:
            raise UnsupportedError(
                f"{device} takes fixed shapes only, and the axis {named[0]} of {tensor.name} in {stage.path.name} differs from "
                "call to call. Export the network at one length (without that name in the axes) for it.",
                path=stage.path,
            )
        shapes[tensor.name] = tuple(1 if axis is None else int(axis) for axis in tensor.shape)
    return shapes


def raise_out_of_memory(error: Exception, path: Path, place: str) -> None:
    """Raise another error if an engine's own says that memory ran out, which is no fault of a file or a device.

    Args:
        error: what the engine raised while it compiled or loaded a stage.
        path: the stage.
        place: where it was to run.

    Raises:
        MissingError: memory ran out.
    """
    if lacks_memory(error):
        raise MissingError(
            f"The memory is too small for {path} on {place}. Give the process more, or take a smaller network: "
            f"{quoted(error, MOST_REASON) or type(error).__name__}",
            path=path,
        ) from error


class Compiled(Protocol):
    """A stage compiled for a device.

    Attributes:
        runs_on: what runs the stage, as the engine reports it.
        memory: the memory in which stages hand tensors to each other: `HOST`, or a name that is equal for stages that share a
            device's memory.
        allocate: makes room for a tensor of a shape and dtype in that memory; None for the host's.
        batches: True if the stage takes more than one sample at once.
        clones: True if the stage may have several bindings, of which perhaps only one runs at a time.
        half: True if float32 is computed in half precision, as NPUs do.
    """

    runs_on: str
    memory: str
    allocate: Callable[[tuple[int, ...], Any], Any] | None
    batches: bool
    clones: bool
    half: bool

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Run:
        """Tie memory to the stage; return a function without arguments that runs it from the inputs into the outputs.

        If the engine can be told to stop, the function has an attribute `stop`: from another thread `stop(True)` lets the run
        that is under way end with an error, and `stop(False)` lets the next ones run.

        Args:
            inputs, outputs: by name an array (C-contiguous, of the stage's dtype and shape), or memory that `allocate` gave. They
                stay in place, so that one stage's output is the next stage's input. The function returned keeps them alive.

        Raises:
            BundleError: the stage has no input or output of a name.
        """
        ...

    def infer(self, inputs: Mapping[str, "np.ndarray"], outputs: Sequence[str]) -> dict[str, "np.ndarray"]:
        """Run the stage once into new arrays, for outputs whose shapes are not known before."""
        ...

    def clone(self) -> "Compiled | None":
        """Return the stage for a chain in another thread: itself if its bindings run at once, None if no other chain may use it.

        Raises:
            MissingError: memory is too small for another.
        """
        ...


class Engine(Protocol):
    """What every engine's module offers.

    Attributes:
        PACKAGE: the package that does the work; its version is looked up under this name.
    """

    PACKAGE: str

    def list_places(self) -> dict[str, str]:
        """Return the places that exist on this machine, each with a description: `{"CPU": "Intel Core i7"}`.

        Raises:
            MissingError: the package is not installed or does not load.
        """
        ...

    def compile_stage(self, stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> Compiled:
        """Compile a stage, or load a build of it.

        Args:
            stage: the stage.
            place: where it is to run.
            threads: threads that it may use.
            built: what `Builder.build` returned.

        Raises:
            MissingError: the package or the place is missing.
            UnsupportedError: the place exists and cannot run all of the stage. `nodes` names the nodes, if the engine tells.
            BundleError: the engine cannot read the stage or the build.
        """
        ...


class Builder(Engine, Protocol):
    """An engine that takes long to compile a stage, and can do so ahead."""

    def describe_build(self, place: str) -> dict[str, str]:
        """Return by name what decides whether a build fits the engine and the device of this machine.

        The caller adds `architecture`, `threads` and `offramp`. An engine for which one of them decides nothing gives it a value
        that is always the same, such as `{"threads": "any"}`.
        """
        ...

    def build(self, stage: StageFile, place: str, *, threads: int) -> bytes:
        """Compile a stage ahead into bytes that `compile_stage` takes as `built`."""
        ...


class CrossBuilder(Builder, Protocol):
    """A builder for another machine than the one that runs the stages. Its builds go into the bundle, never into a cache.

    `build` and `describe_build` work without the device.
    """

    def check_place(self, place: str) -> None:
        """Check that stages can run on a place of this machine.

        Raises:
            MissingError: they cannot.
        """
        ...


def is_builder(engine: Engine) -> TypeGuard[Builder]:
    """Return True if an engine builds stages ahead."""
    return hasattr(engine, "build")  # isinstance of a protocol takes twenty times as long, at each load


def is_converter(engine: Engine) -> bool:
    """Return True if an engine makes graphs of its own of stages by a converter that may err in silence: it has CONVERTS."""
    return getattr(engine, "CONVERTS", False)


def runs_uncut(engine: Engine) -> bool:
    """Return True if an engine stops at each exit of a whole network and goes on from there: it has UNCUT."""
    return getattr(engine, "UNCUT", False)


def is_cross_builder(engine: Engine) -> TypeGuard[CrossBuilder]:
    """Return True if an engine builds stages ahead, on another machine."""
    return hasattr(engine, "check_place")


class Device(Struct, frozen=True):
    """A place of an engine, with the name by which users ask for it."""

    name: str
    engine: Engine
    place: str


def engines() -> dict[str, Engine]:
    """Return every engine by its module's name; those with short names for their places come first."""
    import pkgutil  # takes a millisecond to import, and `find_device` does without

    names = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    ordered = sorted(names, key=lambda name: name not in ALIASES.values())
    return {name: cast(Engine, importlib.import_module(f"{__name__}.{name}")) for name in ordered}


def find_device(name: str) -> Device:
    """Return the engine and the place that a device name stands for. Whether the device exists shows when it is used.

    Raises:
        MissingError: no engine has such a device.
    """
    first, _, place = name.partition(":")
    is_short = len(name) <= MOST_DEVICE or ALIASES.get(first, first) == "remote"  # which quotes addresses
    if first in ALIASES and is_short:
        return Device(name, cast(Engine, importlib.import_module(f"{__name__}.{ALIASES[first]}")), name)
    if place and is_short and first.isidentifier() and not first.startswith("_"):
        module = f"{__name__}.{first}"
        try:
            engine = cast(Engine, importlib.import_module(module))
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
        else:
            return Device(name_device(first, place), engine, place)
    short = (f"{name}://..." if module == "remote" else name for name, module in ALIASES.items())
    names = [*short, *(f"{module}:..." for module in engines() if module != "remote")]
    raise MissingError(
        f"There is no device '{quoted(name)}'. Devices are named {', '.join(names)}; offramp doctor lists those that are here."
        f"{_propose(first.lower(), place, [known.partition(':')[0] for known in names])}",
        device=name,
    )


def _propose(first: str, place: str, known: Sequence[str]) -> str:
    """Return a sentence with the device whose first part is nearest to an unknown one; nothing if none is near."""
    import difflib

    near = difflib.get_close_matches(first, known, n=1, cutoff=0.7)
    rest = place or ("" if near and near[0] in ALIASES else "...")
    return f" Did you mean '{':'.join(filter(None, [near[0], quoted(rest)]))}'?" if near else ""


def name_device(module: str, place: str) -> str:
    """Return the name by which users ask for a place: `cuda:0` of ONNX Runtime, `openvino:CPU` of OpenVINO."""
    return place if ALIASES.get(place.partition(":")[0]) == module else f"{module}:{place}"
