"""An engine that breaks when a test says so: ONNX Runtime's CPU behind a device `breaking:0`, which fails, lies or hangs."""

import sys
import threading
from collections.abc import Callable, Mapping
from queue import Empty
from typing import Any

import numpy as np

from offramp.runtime.chain.faults import StageThread
from offramp.runtime.engines import onnxruntime

NAME = "offramp.runtime.engines.breaking"


class BreakingEngine:
    """Counts its runs, and breaks the ones that it is told to.

    Attributes:
        calls: how many runs have begun.
        plan: says what the n-th run of a file does: "" what it should, "fail", "nan", "nan inside" (only what crosses to the next
            stage), "label", "score", or "hang" until `let_go`.
        threads: those that hang.
    """

    PACKAGE = "onnxruntime"

    def __init__(self) -> None:
        self.calls = 0
        self.plan: Callable[[int, str], str] = lambda n, file: ""
        self.threads: set[threading.Thread] = set()
        self.going = threading.Event()

    def list_places(self) -> dict[str, str]:
        """Return its one place."""
        return {"0": "breaks"}

    def compile_stage(self, stage: Any, place: str, *, threads: int, built: bytes | None = None) -> "BreakingStage":
        """Compile a stage for the CPU."""
        return BreakingStage(self, onnxruntime.compile_stage(stage, "cpu", threads=threads), stage)

    def break_at(self, number: int, deed: str, *, on: bool = False) -> None:
        """Count anew, and break the run of that number; with `on` all later ones, too."""
        self.calls = 0
        self.plan = lambda n, file: deed if n == number or (on and n > number) else ""

    def let_go(self) -> None:
        """End the runs that hang."""
        self.going.set()
        for thread in self.threads:
            thread.join(60)
        self.threads.clear()
        self.going.clear()

    def wait(self, thread: StageThread, limit_s: float) -> BaseException | None:
        """Wait for a thread as long as it does not hang, in place of a time."""
        while True:
            try:
                return thread.wait(0.002)
            except Empty:
                if thread in self.threads:
                    raise


class BreakingStage:
    """A stage that runs on the CPU unless it is to break."""

    def __init__(self, engine: BreakingEngine, stage: Any, file: Any) -> None:
        self._engine, self._stage, self._file = engine, stage, file
        self.runs_on, self.memory, self.allocate = "breaking", stage.memory, stage.allocate
        self.batches, self.clones, self.half = stage.batches, stage.clones, stage.half

    def bind(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Callable[[], None]:
        """Tie memory to the stage."""
        engine, run = self._engine, self._stage.bind(inputs, outputs)

        def broken() -> None:
            engine.calls += 1
            deed = engine.plan(engine.calls - 1, self._file.path.name)
            if deed == "hang":
                engine.threads.add(threading.current_thread())
                engine.going.wait(60)
            if deed == "fail":
                raise RuntimeError("the device is gone")
            run()
            for name, array in outputs.items():
                is_inside = name in self._file.boundaries
                if (
                    deed == "hang"
                    or (deed == "nan" and array.dtype.kind == "f")
                    or (deed == "nan inside" and is_inside)
                ):
                    array.fill(np.nan if array.dtype.kind == "f" else 4)
                elif deed == "label" and array.dtype.kind == "i":
                    array.fill(99)
                elif deed == "score" and array.dtype.kind == "f" and array.ndim == 1:
                    array.fill(7.0)

        return broken

    def infer(self, inputs: Any, outputs: Any) -> Any:
        """Run once into new arrays."""
        return self._stage.infer(inputs, outputs)

    def clone(self) -> "BreakingStage":
        """Return the stage itself."""
        return self


def install(monkeypatch: Any) -> BreakingEngine:
    """Put the engine where engines are found, for one test."""
    engine = BreakingEngine()
    monkeypatch.setitem(sys.modules, NAME, engine)
    return engine
