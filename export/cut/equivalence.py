"""The comparison that every variant must pass before it is committed: its stages and static networks beside the original."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct

from ...bundle import Exit, Stage, Tensor
from ...bundle.manifest import NEVER, Precision
from ...errors import CheckError, ModelError
from ...runtime import EveryExit, Net
from ...runtime.engines import Compiled, StageFile
from ...runtime.engines.onnxruntime import compile_stage
from ..graph.axes import count_samples, sizes_of, take_samples
from ..graph.running import relative_error
from .boundaries import Prober

__all__ = ["LOGITS_TOLERANCE", "Original", "verify_chain"]

LOGITS_TOLERANCE: dict[Precision, float] = {"fp64": 1e-5, "fp32": 1e-5, "fp16": 4e-3, "int8": 5e-2}
"""The largest allowed max|a - b| / max|b| between the chain's logits a and the original's b, both on ONNX Runtime.

Half precision rounds at 1e-3. A quantised value halfway between two steps may be rounded to either when an engine fuses other
operators.
"""

SHRINKING_TOLERANCE = 1e-2
"""Tolerance between a sample run alone and the same sample in a batch from which others have left. Larger than fp16 rounding."""


class Original(Struct, frozen=True, kw_only=True):
    """The network that a chain is compared with.

    Attributes:
        inputs: what it takes, as the manifest lists it.
        classes: how many.
        precision: what it computes in; its entry in `LOGITS_TOLERANCE` is allowed.
        run: from samples, one array for each input, to the logits (N, classes) of every exit.
        noise: the largest difference of its logits with and without its engine's optimisations, relative to the largest logit.
            Twice that is allowed if it is more than the precision's tolerance.
    """

    inputs: tuple[Tensor, ...]
    classes: int
    precision: Precision
    run: Callable[[Sequence[np.ndarray]], list[np.ndarray]]
    noise: float = 0.0

    @property
    def tolerance(self) -> float:
        """The largest relative difference of logits that is allowed."""
        return max(LOGITS_TOLERANCE[self.precision], 2 * self.noise)


def verify_chain(stages: Sequence[Stage], exits: Sequence[Exit], original: Original, prober: Prober) -> EveryExit:
    """Compare the chain and every static network with the original at batch 1, at all golden samples, and at other lengths.

    Args:
        stages, exits: what was written into the prober's folder.
        original: what they are compared with.
        prober: the golden samples.

    Returns:
        The chain's answers at every exit for each golden sample run alone.

    Raises:
        CheckError: an exit's logits differ by more than the original's tolerance.
        ModelError: a gate leaves 0..1.
    """
    golden, axes = prober.inputs, prober.axes
    alone = [original.run(take_samples(golden, axes, [i])) for i in range(count_samples(golden, axes))]
    expected = [np.concatenate([logits[k] for logits in alone]) for k in range(len(exits))]
    compiled: dict[str, Compiled] = {}
    for stage in stages:  # stages that are the same computation share a file
        compiled[stage.file] = compiled.get(stage.file) or _compile(prober.folder, stage)
    with _open_net([compiled[stage.file] for stage in stages], stages, exits, original) as net:
        answers = _compare_chain(net, exits, expected, original, prober)
        if any(stage.guarded for stage in stages):
            _compare_unguarded(stages, exits, expected, original, prober)
        _check_shrinking(net, golden, answers, max(SHRINKING_TOLERANCE, 2 * original.tolerance))
    for exit_, logits in zip(exits, expected, strict=True):
        _compare_static(exit_, logits, original, prober)
    return answers


def _compare_chain(
    net: Net, exits: Sequence[Exit], expected: Sequence[np.ndarray], original: Original, prober: Prober
) -> EveryExit:
    """Compare the chain at batch 1, at all golden samples in one batch, and at other lengths; return the answers at batch 1."""
    golden, axes, others = prober.inputs, prober.axes, prober.others
    n, tolerance = count_samples(golden, axes), original.tolerance
    names = [f"Exit {name}" for name in net.exits]
    answers = net.run_every_exit(tuple(golden), size=1)  # which lets a gate before its sigmoid pass
    _compare(answers, expected, names, "at batch 1", tolerance)
    _check_scores(answers, exits)
    _compare(net.every_exit(tuple(golden), size=n), original.run(golden), names, f"at batch {n}", tolerance)
    for other in others:
        sizes = ", ".join(f"{name} {size}" for name, size in sizes_of(other, axes).items())
        _compare(net.every_exit(tuple(other)), original.run(other), names, f"with {sizes}", tolerance)
    return answers


def _compare_unguarded(
    stages: Sequence[Stage], exits: Sequence[Exit], expected: Sequence[np.ndarray], original: Original, prober: Prober
) -> None:
    """Compare the stages without guards, which all engines but ONNX Runtime run."""
    plain = [_compile(prober.folder, msgspec.structs.replace(stage, guarded=None)) for stage in stages]
    with _open_net(plain, stages, exits, original) as net:
        names = [f"Exit {name}" for name in net.exits]
        _compare(net.every_exit(tuple(prober.inputs)), expected, names, "without guards", original.tolerance)


def _compare_static(exit_: Exit, expected: np.ndarray, original: Original, prober: Prober) -> None:
    static = Stage(file=exit_.static, inputs=original.inputs, outputs=(), macs=exit_.macs)
    with _open_net([_compile(prober.folder, static)], [static], [exit_], original) as net:
        name = f"The static network that ends at exit {exit_.name}"
        answers = net.every_exit(tuple(prober.inputs))
        _compare(answers, [expected], [name], "at batch 1", original.tolerance)


def _compile(folder: Path, stage: Stage) -> Compiled:
    guarded = None if stage.guarded is None else folder / stage.guarded
    return compile_stage(StageFile(folder / stage.file, stage.inputs, (), guarded), "cpu", threads=1)


def _open_net(compiled: list[Compiled], stages: Sequence[Stage], exits: Sequence[Exit], original: Original) -> Net:
    return Net(compiled, stages, exits, inputs=original.inputs, classes=original.classes, logits=True)


def _check_scores(answers: EveryExit, exits: Sequence[Exit]) -> None:
    for k, exit_ in enumerate(exits):
        low, high = float(answers.score[:, k].min()), float(answers.score[:, k].max())
        if not (low >= 0 and high <= 1 + 1e-6):
            raise ModelError(
                f"The score of exit {exit_.name} runs from {low:.3g} to {high:.3g} on the example, but a score lies between 0 "
                "and 1. A gate before its sigmoid goes with the rule gate_logit."
            )


def _check_shrinking(net: Net, golden: Sequence[np.ndarray], answers: EveryExit, tolerance: float) -> None:
    """See that samples that leave a batch early do not change the answers of those that stay in it."""
    assert answers.logits is not None
    n, exits = len(answers.score), len(net.exits)
    for k in range(exits - 1):
        median = float(np.sort(answers.score[:, k])[n // 2])
        net.thresholds = [median if j == k else NEVER for j in range(exits - 1)]
        batch = net.batch(tuple(golden))
        expected = answers.logits[np.arange(n), batch.exit]
        assert batch.logits is not None
        error = relative_error(batch.logits, expected)
        if not error <= tolerance:
            raise CheckError(
                f"The network mixes the samples of a batch: the logits of the samples that stay after exit {net.exits[k]} change "
                f"by {error:.2g} of the largest logit when other samples leave. Scales found for each batch do that. Nothing was "
                "written."
            )


def _compare(
    answers: EveryExit, expected: Sequence[np.ndarray], names: Sequence[str], where: str, tolerance: float
) -> None:
    assert answers.logits is not None
    for k, (logits, name) in enumerate(zip(expected, names, strict=True)):
        error = relative_error(answers.logits[:, k], logits)
        if not error <= tolerance:
            raise CheckError(
                f"{name} differs from the original network {where} by {error:.2g} of its largest logit; {tolerance:.2g} is "
                "allowed. Nothing was written."
            )
