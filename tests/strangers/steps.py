"""The steps that a stranger's network is taken through, one after another in one process.

    attach -> export -> chain -> fuse -> quantize

A step ends in a line of JSON: `ok`, `refused` (offramp said why), `wrong` (an answer differs), `crash` (any other exception) or
`memory` (none was left). What ends the process in a step is for `watch.py` to say.
"""

import contextlib
import json
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from offramp.bundle import Bundle
from offramp.errors import OfframpError
from offramp.export import attach, compare_variants, export, fuse, quantize
from offramp.runtime import load_uncalibrated
from offramp.runtime.chain.samples import list_parts
from offramp.tests.strangers.networks import find_stranger
from offramp.tests.strangers.watch import FOLLOWS

BATCHES = (1, 3)
EXAMPLES, FRESH, RANGE_SAMPLES = 3, 24, 64
"""Samples to export with, to compare answers on, and to find ranges of int8 on."""

STATISTICS_PASSES, STATISTICS_ROWS = 3, 8
TOLERANCE = 1e-3
"""The largest difference of two logits, relative to the largest logit, that is no wrong answer."""

FAULT = "fault in offramp"


class Wrong(Exception):
    """An answer differs from the one it should be."""


class Course:
    """A network on its way through the steps; each step finds here what the one before left."""

    def __init__(self, stranger: Any, folder: Path) -> None:
        self.stranger, self.folder = stranger, folder
        self.network: Any = None
        self.bundle: Bundle | None = None

    def build(self) -> str | None:
        """Build the network with random weights, and let its normalisations see a few batches."""
        torch.manual_seed(0)
        self.network = self.stranger.build()
        self.network.train()
        with torch.no_grad():
            for seed in range(STATISTICS_PASSES):
                _run(self.network, self.draw(STATISTICS_ROWS, 100 + seed))
        self.network.eval()
        return f"{sum(p.numel() for p in self.network.parameters()) / 1e6:.1f} M parameters"

    def draw(self, rows: int, seed: int) -> Any:
        """Draw samples as the network takes them."""
        return self.stranger.draw(rows, np.random.default_rng(seed))

    def attach(self) -> str | None:
        """Add exits; without this step the network must have exits of its own."""
        self.network = attach(self.network, self.draw(2, 1))
        return ", ".join(self.network.places)

    def export(self) -> str | None:
        """Cut the network into a bundle."""
        self.bundle = export(self.network, self.draw(EXAMPLES, 1), self.folder / "bundle.offramp")
        return f"{len(self.bundle.variant().exits)} exits"

    def chain(self) -> str | None:
        """Hold the logits and labels of every exit against torch's, on samples that the export never saw."""
        worst = 0.0
        with load_uncalibrated(self._exported(), logits=True) as net:
            for rows in BATCHES:
                x = self.draw(rows, 2 + rows)
                expected = torch.stack(list(_run(self.network, x)), 1).numpy()
                found = net.every_exit(x)
                assert found.logits is not None
                worst = max(worst, _check_logits(found.logits, expected, f"at batch {rows}"))
                _check_labels(found.label, expected, f"at batch {rows}")
        return f"differs by {worst:.1g}"

    def fuse(self) -> str | None:
        """Hold the fused file against the chain, with thresholds at which samples leave at every exit."""
        bundle, x = self._exported(), self.draw(FRESH, 3)
        with load_uncalibrated(bundle) as net:
            thresholds = [float(np.median(score)) for score in net.every_exit(x).score.T[:-1]]
            net.thresholds = thresholds
            fused = fuse(bundle, self.folder / "fused.onnx", thresholds=thresholds)
            session = onnxruntime.InferenceSession(fused.path, providers=["CPUExecutionProvider"])
            read = {tensor.name for stage in bundle.variant().stages for tensor in stage.inputs}
            used = [i for i, tensor in enumerate(bundle.manifest.inputs) if tensor.name in read]
            for row in range(FRESH):
                single = [part[row : row + 1] for part in list_parts(x)]
                label, exit_ = session.run(
                    ["label", "exit"], dict(zip(fused.inputs, [single[i] for i in used], strict=True))
                )
                answer = net(single[0] if len(single) == 1 else tuple(single))
                if abs(answer.score - [*thresholds, 0][answer.exit]) < TOLERANCE:
                    continue  # rounding may decide
                if (int(label[0]), int(exit_[0])) != (answer.label, answer.exit):
                    raise Wrong(
                        f"sample {row}: label {label[0]}, exit {exit_[0]}; chain {answer.label}, exit {answer.exit}"
                    )
        return None

    def quantize(self) -> str | None:
        """Add an int8 variant, and say how many labels it changes."""
        bundle = quantize(self._exported(), self.draw(RANGE_SAMPLES, 4))
        shifts = compare_variants(bundle, "int8", bundle.variant().name, self.draw(RANGE_SAMPLES, 5))
        return "same labels " + ", ".join(f"{shift.alike:.2f}" for shift in shifts)

    def _exported(self) -> Bundle:
        assert self.bundle is not None
        return self.bundle


def _run(network: Any, x: Any) -> Any:
    """Run a torch network on samples drawn as arrays."""
    with torch.no_grad():
        return network(*[torch.from_numpy(array) for array in list_parts(x)])


def _check_logits(found: np.ndarray, expected: np.ndarray, where: str) -> float:
    """Return the largest relative difference of the logits (rows, exits, classes) of any exit.

    Raises:
        Wrong: it is too large.
    """
    if found.shape != expected.shape:
        raise Wrong(f"{where}: logits {found.shape}, torch's {expected.shape}")
    scale = np.abs(expected).max(axis=(0, 2), keepdims=True) + 1e-30
    errors = (np.abs(found - expected) / scale).max(axis=(0, 2))
    if not (errors <= TOLERANCE).all():
        raise Wrong(f"{where}: logits of exit {int(np.argmax(errors))} differ by {errors.max():.2g} of the largest")
    return float(errors.max())


def _check_labels(found: np.ndarray, expected: np.ndarray, where: str) -> None:
    """See that the labels (rows, exits) are those of the largest logits, but where two logits are nearly the same.

    Raises:
        Wrong: another label.
    """
    top = np.take_along_axis(expected, found[..., None], -1)[..., 0]
    behind = (expected.max(-1) - top) / (np.abs(expected).max(-1) + 1e-30)
    if not (behind <= TOLERANCE).all():
        raise Wrong(f"{where}: label {found[behind > TOLERANCE][0]} is not torch's")


def run_steps(course: Any, steps: tuple[str, ...], write: Callable[[dict[str, Any]], None]) -> None:
    """Take a network through steps; `write` gets a record as each begins and as it ends."""
    for step in ("build", *steps):
        write({"step": step, "begins": True})
        _reset_peak()
        start = time.perf_counter()
        outcome, words = _outcome_of(getattr(course, step))
        seconds = round(time.perf_counter() - start, 2)
        write({"step": step, "outcome": outcome, "seconds": seconds, "peak_mb": _peak_mb(), "words": words})
        if outcome != "ok" and step in ("build", *FOLLOWS):
            return


def _outcome_of(step: Callable[[], str | None]) -> tuple[str, str]:
    """Run a step; return its outcome, and what it noted or why it did not pass."""
    try:
        return "ok", step() or ""
    except Wrong as error:
        return "wrong", str(error)
    except MemoryError as error:
        return "memory", str(error)
    except OfframpError as error:
        return ("crash" if FAULT in str(error) else "refused"), f"{type(error).__name__}: {error}"
    except Exception as error:
        return "crash", re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:500]


def _reset_peak() -> None:
    """Let the peak of memory begin anew, where Linux allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> int:
    """Return the largest resident memory since `_reset_peak`, in MB."""
    try:
        (kb,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(kb) // 1000


def main() -> None:
    """Run steps of one network: NAME STEP,STEP FOLDER FILE. What happens is appended to FILE, a line of JSON each."""
    name, steps, folder, file = sys.argv[1:]
    with Path(file).open("a", buffering=1) as lines:
        run_steps(
            Course(find_stranger(name), Path(folder)),
            tuple(steps.split(",")),
            lambda record: print(json.dumps(record), file=lines, flush=True),
        )


if __name__ == "__main__":
    main()
