"""The comparison that every export must pass before it is committed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from ...bundle import Exit, Stage, Tensor
from ...bundle.manifest import NEVER, Precision
from ...errors import CheckError, ModelError
from ...runtime import EveryExit, Net
from ...runtime.engines import Compiled, StageFile
from ...runtime.engines.onnxruntime import compile_stage
from ..graph.axes import Axes, count_samples, sizes_of, take_samples
from ..graph.running import relative_error

LOGITS_TOLERANCE: dict[Precision, float] = {"fp64": 1e-5, "fp32": 1e-5, "fp16": 4e-3, "int8": 5e-2}
"""The largest max|a - b| / max|b| between the chain's logits and the original's, on the same engine.

Half precision rounds at 1e-3. A quantised value that lies between two steps may fall to either when an engine fuses otherwise.
"""

SHRINKING_TOLERANCE = 1e-2
"""The same between samples alone and in a batch that shrinks; beyond what half precision rounds."""


def verify_chain(
    folder: Path,
    stages: Sequence[Stage],
    exits: Sequence[Exit],
    *,
    inputs: Sequence[Tensor],
    axes: Sequence[Axes],
    classes: int,
    golden: Sequence[np.ndarray],
    others: Sequence[Sequence[np.ndarray]],
    precision: Precision,
    noise: float,
    reference: Callable[[Sequence[np.ndarray]], list[np.ndarray]],
) -> EveryExit:
    """Compare the chain and every static network with the original at batch 1, at all golden samples, and at other lengths.

    `noise` is how far the original is from itself when the engine optimises otherwise; twice that is allowed.

    Returns:
        What the chain says of each golden sample on its own.

    Raises:
        CheckError: an exit's logits differ by more than `LOGITS_TOLERANCE`.
        ModelError: a gate leaves 0..1.
    """
    n, tolerance = count_samples(golden, axes), max(LOGITS_TOLERANCE[precision], 2 * noise)
    files: dict[str, Compiled] = {}
    for stage in stages:
        files[stage.file] = files.get(stage.file) or _compile(folder, stage)
    compiled = [files[stage.file] for stage in stages]
    names = [f"Exit {exit_.name}" for exit_ in exits]
    with Net(compiled, stages, exits, inputs=inputs, classes=classes, logits=True) as net:
        answers = net.every_exit(tuple(golden), size=1)
        whole = reference(golden)
        alone = [reference(take_samples(golden, axes, [i])) for i in range(n)]
        joined = [np.concatenate([values[k] for values in alone]) for k in range(len(exits))]
        _compare(answers, joined, names, "at batch 1", tolerance)
        _compare(net.every_exit(tuple(golden), size=n), whole, names, f"at batch {n}", tolerance)
        for other in others:
            sizes = ", ".join(f"{name} {size}" for name, size in sizes_of(other, axes).items())
            _compare(net.every_exit(tuple(other)), reference(other), names, f"with {sizes}", tolerance)
        _check_scores(answers, exits)
        if any(stage.guarded for stage in stages):  # what other engines run
            plain = [_compile(folder, msgspec.structs.replace(stage, guarded=None)) for stage in stages]
            with Net(plain, stages, exits, inputs=inputs, classes=classes, logits=True) as unguarded:
                _compare(unguarded.every_exit(tuple(golden)), joined, names, "without guards", tolerance)
        _check_compaction(net, golden, answers, max(SHRINKING_TOLERANCE, 2 * tolerance))
    for k, exit_ in enumerate(exits):
        static = Stage(file=exit_.static, inputs=tuple(inputs), outputs=(), macs=exit_.macs)
        with Net([_compile(folder, static)], [static], [exit_], inputs=inputs, classes=classes, logits=True) as net:
            name = f"The static network that ends at exit {exit_.name}"
            _compare(net.every_exit(tuple(golden)), [joined[k]], [name], "at batch 1", tolerance)
    return answers


def _compile(folder: Path, stage: Stage) -> Compiled:
    guarded = None if stage.guarded is None else folder / stage.guarded
    return compile_stage(StageFile(folder / stage.file, stage.inputs, (), guarded), "cpu", threads=1)


def _check_scores(answers: EveryExit, exits: Sequence[Exit]) -> None:
    for k, exit_ in enumerate(exits):
        low, high = float(answers.score[:, k].min()), float(answers.score[:, k].max())
        if not (low >= 0 and high <= 1 + 1e-6):
            raise ModelError(
                f"The score of exit {exit_.name} runs from {low:.3g} to {high:.3g} on the example, but a score lies between 0 "
                "and 1. A gate before its sigmoid goes with the rule gate_logit."
            )


def _check_compaction(net: Net, golden: Sequence[np.ndarray], answers: EveryExit, allowed: float) -> None:
    """Let the samples of a batch leave at different exits, which must not change what the others get."""
    assert answers.logits is not None
    n = len(answers.score)
    for k in range(len(net.exits) - 1):
        never, middle = [NEVER] * len(net.exits), float(np.sort(answers.score[:, k])[n // 2])
        net.thresholds = [*never[:k], middle, *never[k + 1 : -1]]
        batch = net.batch(tuple(golden))
        expected = answers.logits[np.arange(n), batch.exit]
        assert batch.logits is not None
        error = relative_error(batch.logits, expected)
        if not error <= allowed:
            raise CheckError(
                f"The network mixes the samples of a batch: what is left after exit {net.exits[k]} changes by {error:.2g} of the "
                "largest logit when other samples leave, as it does where scales are found per batch. Nothing was written."
            )


def _compare(ours: EveryExit, theirs: Sequence[np.ndarray], names: Sequence[str], where: str, tolerance: float) -> None:
    assert ours.logits is not None
    for k, (values, name) in enumerate(zip(theirs, names, strict=True)):
        error = relative_error(ours.logits[:, k], values)
        if not error <= tolerance:
            raise CheckError(
                f"{name} differs from the original network {where} by {error:.2g} of its largest logit; {tolerance:.2g} is "
                "allowed. Nothing was written."
            )
