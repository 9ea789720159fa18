"""Stages on ONNX Runtime's CPU provider, by public calls only."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BundleError, require
from . import Arrays, Run

if TYPE_CHECKING:
    import numpy as np


def compile_stage(path: Path, *, threads: int) -> "Session":
    """Compile an ONNX file.

    Args:
        path: the file; its external data lie beside it.
        threads: intra-op threads. They do not spin when there is more than one, so that other processes keep their share.

    Raises:
        MissingError: ONNX Runtime is not installed.
        BundleError: it cannot read the file.
    """
    ort = require("onnxruntime", extra="onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if threads > 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exception types are private and differ between versions
        raise BundleError(f"ONNX Runtime {ort.__version__} cannot load {path}: {error}") from error
    return Session(ort, session)


class Session:
    """An ONNX Runtime session."""

    def __init__(self, ort: Any, session: Any) -> None:
        self._ort = ort
        self._session = session
        # Without this entry the public call looks for a CUDA graph id, fails inside and takes ten times as long.
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", "-1")

    def bind(self, inputs: Arrays, outputs: Arrays) -> Run:
        """Tie arrays to the session's inputs and outputs without copying them.

        Raises:
            BundleError: the stage has no input or output of a name.
        """
        binding = self._session.io_binding()
        try:
            for name, array in inputs.items():
                binding.bind_ortvalue_input(name, self._ort.OrtValue.ortvalue_from_numpy(array))
            for name, array in outputs.items():
                binding.bind_ortvalue_output(name, self._ort.OrtValue.ortvalue_from_numpy(array))
        except Exception as error:
            raise BundleError(
                f"A stage and its manifest do not fit together: {error} Export the network anew."
            ) from error
        return functools.partial(self._session.run_with_iobinding, binding, self._options)

    def infer(self, inputs: Arrays, outputs: Sequence[str]) -> dict[str, "np.ndarray"]:
        """Run the session once into new arrays."""
        return dict(zip(outputs, self._session.run(list(outputs), dict(inputs)), strict=True))
