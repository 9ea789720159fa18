"""A stage in LiteRT, tied to memory, and what of it a delegate runs."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ....devices import version_of
from ....errors import BundleError, UnsupportedError
from .. import HOST, Run, StageFile, pin_shapes

__all__ = ["LiteRtStage"]


class LiteRtStage:
    """A stage in LiteRT. Each binding has an interpreter of its own, and they may run at once.

    The stage takes one sample at a time: the file is for one batch size.
    """

    memory, allocate, batches, clones = HOST, None, False, True

    def __init__(self, start: Callable[[], Any], stage: StageFile, library: str | None) -> None:
        self.half = library is not None
        self._start, self._stage = start, stage
        self._spare: Any = start()  # for the first binding: it shows what LiteRT cannot run
        self.runs_on = self._describe(self._spare, library)

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
            if name not in found:
                raise BundleError(
                    f"LiteRT's form of {self._stage.path} has no {name}. Export the network anew.",
                    path=self._stage.path,
                )
            tensor = found[name]
            shape, dtype = tuple(tensor["shape"].tolist()), np.dtype(tensor["dtype"])
            fits = np.can_cast(dtype, array.dtype) if is_read else np.can_cast(array.dtype, dtype)
            if shape != array.shape or not fits:
                raise UnsupportedError(
                    f"LiteRT's form of {self._stage.path} has {name} as {dtype} {list(shape)}, not as {array.dtype} "
                    f"{list(array.shape)}.",
                    path=self._stage.path,
                )
            pairs.append((interpreter.tensor(tensor["index"]), array))
        return pairs

    def infer(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Run the stage once into new arrays."""
        interpreter = self._spare = self._spare or self._start()
        details = {tensor["name"]: tensor for tensor in interpreter.get_output_details()}
        arrays = {name: np.empty(details[name]["shape"], details[name]["dtype"]) for name in outputs if name in details}
        run = self.bind(inputs, arrays)
        self._spare = interpreter
        run()
        return arrays

    def try_zeros(self) -> None:
        """Run zeros.

        Raises:
            UnsupportedError: LiteRT cannot.
        """
        shapes = pin_shapes(self._stage, "litert:cpu")
        zeros = {tensor.name: np.zeros(shapes[tensor.name], tensor.dtype) for tensor in self._stage.inputs}
        try:
            self.infer(zeros, self._stage.outputs)
        except RuntimeError as error:
            raise UnsupportedError(f"LiteRT cannot run {self._stage.path}: {error}.", path=self._stage.path) from error

    def clone(self) -> "LiteRtStage":
        """Return the stage itself: its bindings run at once."""
        return self


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
