"""A stage in LiteRT, tied to memory, and what of it a delegate runs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from ....devices import version_of
from ....errors import BundleError, UnsupportedError
from .. import HOST, Run, StageFile
from .converter import CHANNELS_LAST

__all__ = ["LiteRtStage"]


class LiteRtStage:
    """A stage in LiteRT. Each binding has an interpreter of its own, and they may run at once.

    The stage takes one sample at a time: the file is for one batch size.
    """

    batches, clones = False, True

    def __init__(self, start: Callable[[], Any], stage: StageFile, library: str | None) -> None:
        self.half = library is not None
        self._start, self._stage = start, stage
        self._spare: Any = start()  # for the first binding: it shows what LiteRT cannot run
        self.runs_on = self._describe(self._spare, library)
        details = (*self._spare.get_input_details(), *self._spare.get_output_details())
        turned = any(tensor["name"].endswith(CHANNELS_LAST) for tensor in details)
        self.memory = "litert" if turned else HOST
        self.allocate = _allocate if turned else None

    def _describe(self, interpreter: Any, library: str | None) -> str:
        """Say what runs the stage, as the interpreter reports it.

        Raises:
            UnsupportedError: a delegate that was asked for takes nothing of the stage.
        """
        nodes, taken = find_delegated(interpreter)
        name = "XNNPACK" if library is None else f"delegate {library}"
        left = Counter(node["op_name"] for node in nodes if node["index"] not in taken)
        if library is not None and not taken:
            raise UnsupportedError(
                f"The delegate {library} takes no node of {self._stage.path}: all would run on the CPU.",
                path=self._stage.path,
            )
        rest = f"; beside it {', '.join(sorted(left))}" if left else ""
        return f"LiteRT {version_of('ai-edge-litert')}, {name} ({len(taken)} of {len(nodes)} nodes{rest})"

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Run:
        """Tie arrays to an interpreter, which has memory of its own; each run copies in and out.

        Raises:
            BundleError: a tensor is not the stage's.
            UnsupportedError: what was converted has another shape or dtype.
            MissingError: memory is too small.
        """
        interpreter, self._spare = self._spare or self._start(), None
        into = self._tie(interpreter, inputs, interpreter.get_input_details(), is_read=False)
        out = self._tie(interpreter, outputs, interpreter.get_output_details(), is_read=True)
        invoke = interpreter.invoke

        def run() -> None:
            # LiteRT's memory may move in a run, so nobody keeps a view of it.
            for tensor, array in into:
                tensor()[...] = array
            invoke()
            for tensor, array in out:
                array[...] = tensor()

        return run

    def _tie(
        self, interpreter: Any, arrays: Mapping[str, Any], details: Sequence[dict[str, Any]], *, is_read: bool
    ) -> list[tuple[Callable[[], np.ndarray], Any]]:
        """Return for each array the function that gives a view of LiteRT's memory, which is copied from or into the array."""
        found, pairs = {tensor["name"]: tensor for tensor in details}, []
        for name, array in arrays.items():
            is_turned = name + CHANNELS_LAST in found
            tensor = found.get(name + CHANNELS_LAST * is_turned)
            if tensor is None:
                raise BundleError(
                    f"LiteRT's form of {self._stage.path} has no {name}. Export the network anew.",
                    path=self._stage.path,
                )
            shape, dtype = tuple(tensor["shape"].tolist()), np.dtype(tensor["dtype"])
            fits = np.can_cast(dtype, array.dtype) if is_read else np.can_cast(array.dtype, dtype)
            seen = array.transpose(0, 2, 3, 1) if is_turned and array.ndim == 4 else array
            is_flat = shape == (1, array.size) != array.shape
            if not fits or (shape != seen.shape and not is_flat):
                raise UnsupportedError(
                    f"LiteRT's form of {self._stage.path} has {name} as {dtype} {list(shape)}, not as {array.dtype} "
                    f"{list(seen.shape)}.",
                    path=self._stage.path,
                )
            view = interpreter.tensor(tensor["index"])
            pairs.append((partial(_view_flat, view, array.shape) if is_flat else view, seen))
        return pairs

    def infer(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Refuse: a chain asks this of stages whose shapes are not known before, and the shapes of a file are fixed."""
        raise UnsupportedError("LiteRT takes fixed shapes only.", path=self._stage.path)

    def try_zeros(self) -> None:
        """Run zeros.

        Raises:
            UnsupportedError: LiteRT cannot.
        """
        interpreter = self._spare
        for tensor in interpreter.get_input_details():
            interpreter.tensor(tensor["index"])().fill(0)
        try:
            interpreter.invoke()
        except RuntimeError as error:
            raise UnsupportedError(f"LiteRT cannot run {self._stage.path}: {error}.", path=self._stage.path) from error

    def clone(self) -> "LiteRtStage":
        """Return the stage itself: its bindings run at once."""
        return self


def _allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return an array of a shape. A map lies in memory as (N, H, W, C)."""
    if len(shape) != 4 or dtype not in ("float32", "uint8", "int8"):
        return np.zeros(shape, dtype)
    return np.zeros((shape[0], *shape[2:], shape[1]), dtype).transpose(0, 3, 1, 2)


def _view_flat(view: Callable[[], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    return view().reshape(shape)


def find_delegated(interpreter: Any) -> tuple[list[dict[str, Any]], set[int]]:
    """Return the nodes of a file, and the numbers of those that a delegate runs.

    LiteRT lists the nodes of the file, and after them one named DELEGATE for each part that it gave to a delegate.
    """
    every = interpreter._get_ops_details()
    nodes = [node for node in every if node["op_name"] != "DELEGATE"]
    makers = {tensor: node for node in nodes for tensor in node["outputs"]}
    taken: set[int] = set()
    for part in every[len(nodes) :]:
        ends, todo = {*part["inputs"]}, [*part["outputs"]]
        while todo:
            tensor = todo.pop()
            node = None if tensor in ends else makers.get(tensor)
            if node is not None and node["index"] not in taken:
                taken.add(node["index"])
                todo.extend(node["inputs"])
    return nodes, taken
