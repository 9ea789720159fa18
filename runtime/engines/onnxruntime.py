"""Stages on ONNX Runtime, by public calls only: `cpu`, `cuda:0`, `onnxruntime:tensorrt:0`."""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...devices.board import is_x86_64
from ...errors import BundleError, MissingError, UnsupportedError, require
from . import HOST, Run, Source

if TYPE_CHECKING:
    import numpy as np

PACKAGE = "onnxruntime"
ALIASES = ("cpu", "cuda")

PROVIDERS = {
    "cpu": ("CPUExecutionProvider", HOST),
    "cuda": ("CUDAExecutionProvider", "cuda"),
    "tensorrt": ("TensorrtExecutionProvider", "cuda"),
}
"""For each kind of place its execution provider, and the memory that its stages hand tensors over in."""

ON_HOST = {
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
"""Operators that providers leave to the CPU on purpose, since they compute shapes."""


def list_places() -> dict[str, str]:
    """Return the places whose provider is part of this build; whether there is a GPU shows when a stage is compiled."""
    ort = require("onnxruntime", extra="onnxruntime")
    there = ort.get_available_providers()
    places = {kind if kind == "cpu" else f"{kind}:0": provider for kind, (provider, _) in PROVIDERS.items()}
    return {place: provider for place, provider in places.items() if provider in there}


def compile_stage(source: Source, place: str, *, threads: int, built: bytes | None = None) -> "Session":
    """Load an ONNX file for a place.

    Threads do not spin when there is more than one, so that other processes keep their share.

    Raises:
        MissingError: ONNX Runtime or the provider is not here.
        UnsupportedError: the provider does not run all of the stage.
        BundleError: ONNX Runtime cannot read the file.
    """
    ort = require("onnxruntime", extra="onnxruntime")
    kind, number = _parse(place)
    provider = PROVIDERS[kind][0]
    if provider not in ort.get_available_providers():
        raise MissingError(
            f"This build of ONNX Runtime {ort.__version__} has no {provider}, which {place} needs. Install one that has: "
            "pip uninstall onnxruntime, then pip install onnxruntime-gpu (on a Jetson the wheel that NVIDIA offers)."
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if threads > 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if kind != "cpu":
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Guards were measured on x86-64: elsewhere ONNX Runtime may not block its tensors.
    blocks = kind == "cpu" and is_x86_64()
    path = source.guarded if blocks and source.guarded is not None else source.path
    source.check()
    settings = {"device_id": str(number)}
    if kind == "cuda":
        settings["use_tf32"] = "0"  # else float32 is computed in 10 bits, and scores move
    wanted = provider if kind == "cpu" else (provider, settings)
    try:
        session = ort.InferenceSession(str(path), options, providers=[wanted])
    except Exception as error:  # its exception types are private and differ between versions
        if kind != "cpu":
            raise UnsupportedError(f"{provider} cannot run {path} on {place}: {error}") from error
        raise BundleError(f"ONNX Runtime {ort.__version__} cannot load {path}: {error}") from error
    runs_on = provider if kind == "cpu" else _assert_provider(session, provider, place)
    return Session(
        ort,
        session,
        f"ONNX Runtime {ort.__version__}, {runs_on}",
        memory=PROVIDERS[kind][1],
        number=number,
        batches=kind != "tensorrt",  # which builds its engine anew for a batch it has not seen
    )


def _parse(place: str) -> tuple[str, int]:
    """Read `cpu`, `cuda` or `cuda:1`."""
    kind, _, number = place.partition(":")
    if kind not in PROVIDERS or not re.fullmatch("[0-9]{0,4}", number) or (kind == "cpu" and number):
        raise MissingError(
            f"ONNX Runtime has no place {place!r}. It has cpu, cuda:0 and tensorrt:0 (as onnxruntime:tensorrt:0)."
        )
    return kind, int(number or 0)


def _assert_provider(session: Any, provider: str, place: str) -> str:
    """Return what runs a session, by the nodes that each provider got.

    Raises:
        MissingError: the provider did not load.
        UnsupportedError: work was left to the CPU.
    """
    if provider not in session.get_providers():
        raise MissingError(
            f"{provider} did not load, so {place} cannot be used: is there a GPU, with driver and CUDA libraries of the "
            "version that this build of ONNX Runtime names? To run on the CPU instead, ask for it: fallback='cpu'."
        )
    if not hasattr(session, "get_provider_graph_assignment_info"):  # before ONNX Runtime 1.24
        return f"{provider}, as far as this version tells"
    nodes = {name: [node.op_type for node in own] for name, own in read_assignment(session).items()}
    left = sorted({op for name, ops in nodes.items() if name != provider for op in ops} - ON_HOST)
    if left or provider not in nodes:
        raise UnsupportedError(
            f"{provider} does not run all of the stage on {place}: {', '.join(left) or 'every node'} would run on the CPU. "
            "To run the stage on the CPU instead, ask for it: fallback='cpu'."
        )
    others = [f"{name} ({', '.join(sorted(set(ops)))})" for name, ops in nodes.items() if name != provider]
    return ", ".join([f"{provider} ({len(nodes[provider])} nodes)", *others])


def read_assignment(session: Any) -> dict[str, list[Any]]:
    """Return the nodes that each provider got, of a session that was told to record them."""
    nodes: dict[str, list[Any]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, []).extend(part.get_nodes())
    return nodes


class Session:
    """An ONNX Runtime session; any number of bindings of it may run at once."""

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
        # Not a method: a session that held itself would keep a GPU's memory until the garbage collector comes by.
        self.allocate: Callable[[tuple[int, ...], Any], Any] | None = None
        if memory != HOST:
            self.allocate = functools.partial(_allocate, ort, memory, number)
        self._ort = ort
        self._session = session
        # Without this entry the public call looks for a CUDA graph id, fails inside and takes ten times as long.
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", "-1")

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Run:
        """Tie arrays or device memory to the session's inputs and outputs.

        Arrays are used in place by the CPU. For a device an input array is copied there before each run, since ONNX Runtime
        would copy it only once, when it is bound; into an output array ONNX Runtime copies by itself.

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
        run = functools.partial(self._session.run_with_iobinding, binding, self._options)
        return functools.partial(_copy_and_run, tuple(copies), run) if copies else run

    def infer(self, inputs: Mapping[str, "np.ndarray"], outputs: Sequence[str]) -> dict[str, "np.ndarray"]:
        """Run the session once into new arrays."""
        return dict(zip(outputs, self._session.run(list(outputs), dict(inputs)), strict=True))

    def _wrap(self, value: Any) -> Any:
        is_ours = isinstance(value, self._ort.OrtValue)
        return value if is_ours else self._ort.OrtValue.ortvalue_from_numpy(value)

    def _take(self, value: Any, copies: list[Run]) -> Any:
        if self.allocate is None or isinstance(value, self._ort.OrtValue):
            return self._wrap(value)
        there = self.allocate(value.shape, value.dtype)
        copies.append(functools.partial(there.update_inplace, value))
        return there


def _allocate(ort: Any, memory: str, number: int, shape: tuple[int, ...], dtype: Any) -> Any:
    import numpy

    return ort.OrtValue.ortvalue_from_shape_and_type(shape, numpy.dtype(dtype).type, memory, number)


def _copy_and_run(copies: Sequence[Run], run: Run) -> None:
    for copy in copies:
        copy()
    run()
