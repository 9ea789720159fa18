"""Stages on ONNX Runtime, by public calls only: `cpu`, `cuda:0`, `onnxruntime:tensorrt:0`."""

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...devices.board import is_x86_64
from ...errors import BundleError, MissingError, OfframpError, UnsupportedError, require
from ...progress import is_debugging
from . import HOST, Run, StageFile, raise_out_of_memory

if TYPE_CHECKING:
    import numpy as np

PACKAGE = "onnxruntime"

PROVIDERS = {
    "cpu": ("CPUExecutionProvider", HOST),
    "cuda": ("CUDAExecutionProvider", "cuda"),
    "tensorrt": ("TensorrtExecutionProvider", "cuda"),
}
"""For each kind of place the execution provider, and the memory in which its stages hand tensors to each other."""

MOST_IN_MEMORY = 16 << 20
"""Weights of more bytes are read from a private copy."""

NO_FOLDER = "/dev/null/none"
"""A folder that cannot exist."""

SHAPE_OPERATORS = {
    *(
        "Shape",
        "Size",
        "Gather",
        "Concat",
        "Unsqueeze",
        "Squeeze",
        "Slice",
        "Cast",
        "Identity",
        "Constant",
        "ConstantOfShape",
    ),
    *("Add", "Sub", "Mul", "Div", "Range", "Equal", "Where", "ReduceProd", "MemcpyFromHost", "MemcpyToHost"),
}
"""Operators that compute shapes; providers leave them to the CPU on purpose."""


def list_places() -> dict[str, str]:
    """Return the places whose provider is in this build of ONNX Runtime. Whether a GPU exists shows when a stage is compiled."""
    ort = require("onnxruntime", extra="onnxruntime")
    available = ort.get_available_providers()
    places = {kind if kind == "cpu" else f"{kind}:0": provider for kind, (provider, _) in PROVIDERS.items()}
    return {place: provider for place, provider in places.items() if provider in available}


def compile_stage(stage: StageFile, place: str, *, threads: int, built: bytes | None = None) -> "OnnxRuntimeStage":
    """Load an ONNX file for a place.

    Several threads do not spin while they wait, so that other processes keep their share of the cores.

    Raises:
        MissingError: ONNX Runtime or the provider is missing.
        UnsupportedError: the provider does not run all of the stage.
        BundleError: ONNX Runtime cannot read the file.
    """
    ort = require("onnxruntime", extra="onnxruntime")
    kind, number = _parse(place)
    provider = PROVIDERS[kind][0]
    if provider not in ort.get_available_providers():
        raise MissingError(
            f"This build of ONNX Runtime {ort.__version__} has no {provider}, which {place} needs. Install one that has: "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu (on a Jetson the wheel that NVIDIA offers).",
            package="onnxruntime-gpu",
        )
    # Guards were measured on x86-64: elsewhere ONNX Runtime may not block its tensors.
    blocks = kind == "cpu" and is_x86_64()
    path = stage.guarded if blocks and stage.guarded is not None else stage.path
    settings = {"device_id": str(number)}
    if kind == "cuda":
        settings["use_tf32"] = "0"  # else float32 is computed in 10 bits, and scores move
    providers = [provider if kind == "cpu" else (provider, settings)]
    try:
        session = _open_session(ort, stage, path, functools.partial(_options, ort, kind, threads), providers)
    except OfframpError:
        raise
    except Exception as error:  # its exception types are private and differ between versions
        raise_out_of_memory(error, path, place)
        if kind != "cpu":
            raise UnsupportedError(f"{provider} cannot run {path} on {place}: {error}", path=path) from error
        raise BundleError(f"ONNX Runtime {ort.__version__} cannot load {path}: {error}", path=path) from error
    runs_on = provider if kind == "cpu" else _assert_provider(session, provider, place)
    return OnnxRuntimeStage(
        ort,
        session,
        f"ONNX Runtime {ort.__version__}, {runs_on}",
        memory=PROVIDERS[kind][1],
        number=number,
        batches=kind != "tensorrt",  # this provider builds its engine anew for every new batch size
    )


def _options(ort: Any, kind: str, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # What fails is raised; a GPU's libraries say more in the log, and whoever looks for a fault wants warnings.
    options.log_severity_level = 2 if is_debugging() else 4 if kind == "cpu" else 3
    if threads > 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if kind != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _open_session(ort: Any, stage: StageFile, path: Path, make_options: Callable[[], Any], providers: list[Any]) -> Any:
    """Open a graph and weights from the bytes whose hashes were compared: small ones in memory, large ones from a private copy.

    ONNX Runtime copies bytes, while it maps a file and drops what it has packed, so a copy takes less memory. Only a copy serves
    versions before 1.24, and graphs whose branches or loops have external weights of their own. Memory serves large weights where
    a copy cannot be written, and on Windows, which removes no file that is mapped. No other provider is fallen back to: ONNX
    Runtime would say so on stdout.
    """
    start = functools.partial(ort.InferenceSession, providers=providers, enable_fallback=0)
    options = make_options()
    takes_bytes = stage.weights is not None and hasattr(options, "add_external_initializers_from_files_in_memory")
    if not takes_bytes or (stage.weights_bytes > MOST_IN_MEMORY and os.name != "nt"):
        try:
            copy = stage.copied(path)
        except MissingError:
            if not takes_bytes:
                raise
        else:
            return start(str(copy), options)
    assert stage.weights is not None
    graph, weights = stage.read(path), stage.read(stage.weights)
    # Without these bytes' file the graph finds nothing: no other file may be read.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", NO_FOLDER)
    if weights:
        options.add_external_initializers_from_files_in_memory([stage.weights.name], [weights], [len(weights)])
    try:
        return start(graph, options)
    except Exception as error:
        if NO_FOLDER not in str(error):
            raise
    return start(str(stage.copied(path)), make_options())


def _parse(place: str) -> tuple[str, int]:
    """Return kind and number of a place: `cuda:1` is ("cuda", 1), and `cuda` is ("cuda", 0)."""
    kind, _, number = place.partition(":")
    if kind not in PROVIDERS or not re.fullmatch("[0-9]{0,4}", number) or (kind == "cpu" and number):
        raise MissingError(
            f"ONNX Runtime has no place {place!r}. It has cpu, cuda:0 and tensorrt:0 (as onnxruntime:tensorrt:0)."
        )
    return kind, int(number or 0)


def _assert_provider(session: Any, provider: str, place: str) -> str:
    """Return which providers run how many nodes of a session: "CUDAExecutionProvider (12 nodes)".

    Raises:
        MissingError: the provider did not load.
        UnsupportedError: the provider left work to the CPU.
    """
    if provider not in session.get_providers():
        raise MissingError(
            f"{provider} did not load, so {place} cannot be used: is there a GPU, with driver and CUDA libraries of the "
            "version that this build of ONNX Runtime names? To run on the CPU instead, ask for it: fallback='cpu'."
        )
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before ONNX Runtime 1.24
        return f"{provider}, as far as this version tells"
    assignment = read_assignment(session)
    others = {name: nodes for name, nodes in assignment.items() if name != provider}
    left = [node for nodes in others.values() for node in nodes if node.op_type not in SHAPE_OPERATORS]
    if left or provider not in assignment:
        operators = ", ".join(sorted({node.op_type for node in left})) or "every node"
        raise UnsupportedError(
            f"{provider} does not run all of the stage on {place}: {operators} would run on the CPU. "
            "To run the stage on the CPU instead, ask for it: fallback='cpu'.",
            nodes=[node.name for node in left],
        )
    helpers = [f"{name} ({', '.join(sorted({node.op_type for node in nodes}))})" for name, nodes in others.items()]
    return ", ".join([f"{provider} ({len(assignment[provider])} nodes)", *helpers])


def read_assignment(session: Any) -> dict[str, list[Any]]:
    """Return the nodes that each provider runs, of a session with `session.record_ep_graph_assignment_info`."""
    nodes: dict[str, list[Any]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, []).extend(part.get_nodes())
    return nodes


class OnnxRuntimeStage:
    """A stage in an ONNX Runtime session. Any number of its bindings may run at once."""

    clones = True

    def __init__(
        self,
        ort: Any,
        session: Any,
        runs_on: str,
        *,
        memory: str = HOST,
        number: int = 0,
        batches: bool = True,
        half: bool = False,
    ) -> None:
        self.runs_on = runs_on
        self.half = half
        self.batches = batches
        self.memory = memory if memory == HOST else f"{memory}:{number}"
        # No bound method: an object that held itself would keep a GPU's memory until the garbage collector comes by.
        self.allocate: Callable[[tuple[int, ...], Any], Any] | None = None
        if memory != HOST:
            self.allocate = functools.partial(_allocate, ort, memory, number)
        self._ort = ort
        self._session = session

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Run:
        """Tie arrays or device memory to the session's inputs and outputs.

        The CPU uses arrays in place. For another device an input array is copied there before each run, since ONNX Runtime
        copies it only once, when it is bound. ONNX Runtime itself copies results into an output array.

        Raises:
            BundleError: the stage has no input or output of a name.
        """
        binding = self._session.io_binding()
        copies: list[Run] = []
        try:
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, self._take(value, copies))
            for name, value in outputs.items():
                binding.bind_ortvalue_output(name, self._wrap(value))
        except Exception as error:
            raise BundleError(
                f"A stage and its manifest do not fit together: {error} Export the network anew."
            ) from error
        options = self._ort.RunOptions()
        # Without this entry the public call looks for a CUDA graph id, fails inside and takes ten times as long.
        options.add_run_config_entry("gpu_graph_id", "-1")
        run = functools.partial(self._session.run_with_iobinding, binding, options)
        if copies:
            run = functools.partial(_copy_and_run, tuple(copies), run)
        run.stop = functools.partial(setattr, options, "terminate")  # type: ignore[attr-defined]
        return run

    def infer(self, inputs: Mapping[str, "np.ndarray"], outputs: Sequence[str]) -> dict[str, "np.ndarray"]:
        """Run the session once into new arrays."""
        return dict(zip(outputs, self._session.run(list(outputs), dict(inputs)), strict=True))

    def clone(self) -> "OnnxRuntimeStage":
        """Return the stage itself: its bindings run at once."""
        return self

    def _wrap(self, value: Any) -> Any:
        """Return an array as an OrtValue over the same memory."""
        is_ours = isinstance(value, self._ort.OrtValue)
        return value if is_ours else self._ort.OrtValue.ortvalue_from_numpy(value)

    def _take(self, value: Any, copies: list[Run]) -> Any:
        """Return an input as an OrtValue; one that must be copied to the device first adds its copy to `copies`."""
        if self.allocate is None or isinstance(value, self._ort.OrtValue):
            return self._wrap(value)
        on_device = self.allocate(value.shape, value.dtype)
        copies.append(functools.partial(on_device.update_inplace, value))
        return on_device


def _allocate(ort: Any, memory: str, number: int, shape: tuple[int, ...], dtype: Any) -> Any:
    import numpy

    return ort.OrtValue.ortvalue_from_shape_and_type(shape, numpy.dtype(dtype).type, memory, number)


def _copy_and_run(copies: Sequence[Run], run: Run) -> None:
    for copy in copies:
        copy()
    run()
