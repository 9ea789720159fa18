"""The comparison that every export must pass before it is committed."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import CheckError
from ..runtime import EveryExit, Net
from ..runtime.engines import compile_stage
from ..schema import NEVER, Exit, Stage, Tensor

TOLERANCE = 1e-5
"""The largest max|a - b| / max|b| between the chain's logits and the original's; for half precision four of its steps."""

MIXED = 1e-2
"""The same between samples alone and in a batch that shrinks; beyond what half precision rounds."""


def verify_chain(
    folder: Path,
    stages: Sequence[Stage],
    exits: Sequence[Exit],
    signature: Tensor,
    classes: int,
    golden: np.ndarray,
    reference: Callable[[np.ndarray], list[np.ndarray]],
) -> EveryExit:
    """Compare the chain and every static network with the original at batch 1 and at all golden samples together.

    Returns:
        What the chain says of each golden sample on its own.

    Raises:
        CheckError: an exit's logits differ by more than `TOLERANCE`.
    """
    compiled = [compile_stage(folder / stage.file, device="cpu", threads=1) for stage in stages]
    with Net(compiled, stages, exits, inputs=signature, classes=classes, logits=True) as net:
        answers = net.every_exit(golden, size=1)
        together = net.every_exit(golden, size=len(golden))
        _check_compaction(net, golden, answers)
    alone = [reference(golden[i : i + 1]) for i in range(len(golden))]
    whole = reference(golden)
    for k, exit_ in enumerate(exits):
        _compare(answers, k, np.concatenate([values[k] for values in alone]), f"Exit {exit_.name} at batch 1")
        _compare(together, k, whole[k], f"Exit {exit_.name} at batch {len(golden)}")
        static = Stage(file=exit_.static, inputs=(signature,), outputs=(), macs=exit_.macs)
        engine = compile_stage(folder / exit_.static, device="cpu", threads=1)
        with Net([engine], [static], [exit_], inputs=signature, classes=classes, logits=True) as net:
            _compare(net.every_exit(golden), 0, whole[k], f"The static network that ends at exit {exit_.name}")
    return answers


def _check_compaction(net: Net, golden: np.ndarray, answers: EveryExit) -> None:
    """Let the samples of a batch leave at different exits, which must not change what the others get."""
    assert answers.logits is not None
    for k in range(len(net.exits) - 1):
        never, middle = [NEVER] * len(net.exits), float(np.sort(answers.score[:, k])[len(golden) // 2])
        net.thresholds = [*never[:k], middle, *never[k + 1 : -1]]
        batch = net.batch(golden)
        expected = answers.logits[np.arange(len(golden)), batch.exit]
        error = float(np.abs(batch.logits - expected).max() / max(float(np.abs(expected).max()), 1e-30))
        if not error <= MIXED:
            raise CheckError(
                f"The network mixes the samples of a batch: what is left after exit {net.exits[k]} changes by {error:.2g} of the "
                "largest logit when other samples leave. Nothing was written."
            )


def _compare(ours: EveryExit, k: int, theirs: np.ndarray, what: str) -> None:
    assert ours.logits is not None
    error = float(np.abs(ours.logits[:, k] - theirs).max() / max(float(np.abs(theirs).max()), 1e-30))
    tolerance = max(TOLERANCE, 4 * float(np.finfo(theirs.dtype).eps))
    if not error <= tolerance:
        raise CheckError(
            f"{what} differs from the original network by {error:.2g} of its largest logit; {tolerance:.2g} is allowed. "
            "Nothing was written."
        )
