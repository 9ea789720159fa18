"""The comparison that every variant must pass before it is committed: its stages and static networks beside the original."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from msgspec import Struct
from msgspec.structs import replace

from ...bundle import Exit, Stage, Tensor
from ...bundle.manifest import NEVER, Precision
from ...devices.sysfs import read_text
from ...errors import CheckError, ModelError
from ...progress import Progress
from ...runtime import EveryExit, Net
from ...runtime.chain.parts import Parts
from ...runtime.engines import Compiled, StageFile
from ...runtime.engines.onnxruntime import compile_stage
from ...runtime.golden_check import allow_own, compare_parts
from ..graph.axes import count_samples, sizes_of, take_samples
from ..graph.running import describe_difference, relative_error
from .boundaries import Prober

__all__ = ["Original", "Verified", "allow_error", "check_scales", "verify_chain"]

LOGITS_TOLERANCE: dict[Precision, float] = {"fp64": 1e-5, "fp32": 1e-5, "fp16": 4e-3, "int8": 5e-2}
"""The largest allowed max|a - b| / max|b| between the chain's logits a and the original's b, both on ONNX Runtime.

Half precision rounds at 1e-3. A quantised value halfway between two steps may be rounded to either when an engine fuses other
operators.
"""

OWN_INT8_ERRORS = 2
"""Allowed a quantised network is this times its own error, without an upper end: what it differs by are whole steps."""

MIXING_FACTOR = 3
"""A sample alone and the same among others may differ by this times the tolerance: each differs from the exact one."""

MIXING_HINT = (
    "Samples are mixed by a batch normalisation without running statistics, a mean or maximum over the batch, and a scale found "
    "for each batch: let each sample be computed alone. Nothing was written."
)


def allow_error(precision: Precision, own_error: float | None) -> float:
    """Return the largest relative difference of logits that is allowed, by the precision and the original's own error."""
    more = OWN_INT8_ERRORS * (own_error or 0.0) if precision == "int8" else allow_own(own_error)
    return max(LOGITS_TOLERANCE[precision], more)


class Original(Struct, frozen=True, kw_only=True):
    """The network that a chain is compared with.

    Attributes:
        inputs: what it takes, as the manifest lists it.
        classes: how many; 0 if the network does not classify.
        precision: what it computes in; its entry in `LOGITS_TOLERANCE` is allowed.
        run: from samples, one array for each input, to the parts of every exit's answers, (N, ...).
        measure_own_error: returns how far rounding takes its own answers, relative to the largest, or None if that cannot be
            known. It is called where the precision's tolerance does not suffice.
    """

    inputs: tuple[Tensor, ...]
    classes: int
    precision: Precision
    run: Callable[[Sequence[np.ndarray]], list[Parts]]
    measure_own_error: Callable[[], float | None]


class Comparer:
    """Compares answers with an original's.

    Attributes:
        original: the original.
        error: the largest difference that was found and allowed, relative to the largest value.
        own_error: the original's own error; None if it was not measured, since the precision's tolerance sufficed.
    """

    def __init__(self, original: Original) -> None:
        self.original, self.error = original, 0.0
        self.own_error: float | None = None
        self._is_measured = False

    def allowed(self, error: float) -> float:
        """Return what is allowed of an error: the original's own error is measured only if the precision allows less."""
        precision = self.original.precision
        if not self._is_measured and not error <= LOGITS_TOLERANCE[precision]:
            self.own_error, self._is_measured = self.original.measure_own_error(), True
        return allow_error(precision, self.own_error)

    def compare(self, answers: EveryExit, expected: Sequence[Parts], names: Sequence[str], where: str) -> None:
        """Compare the answers of every exit.

        Raises:
            CheckError: they differ by more than is allowed.
        """
        for k, (parts, name) in enumerate(zip(expected, names, strict=True)):
            error = relative_error(answers.parts(k), parts)
            if not error <= (allowed := self.allowed(error)):
                difference = describe_difference(answers.parts(k), parts, error, allowed)
                raise CheckError(
                    f"{name} differs from the original network {where} {difference}{self._explain()} Nothing was written."
                )
            self.error = max(self.error, error)

    def check_alike(self, ours: Parts, theirs: Parts, what: str) -> None:
        """See that answers to the same samples, in one batch and in another, are alike.

        Raises:
            CheckError: they are not. `what` says whose answers they are.
        """
        absolute, largest = compare_parts(ours, theirs)
        error = absolute / max(largest, compare_parts(theirs, ours)[1])  # alone, logits may be rounding errors of 0
        if not error <= (allowed := MIXING_FACTOR * self.allowed(error / MIXING_FACTOR)):
            difference = describe_difference(ours, theirs, error, allowed)
            raise CheckError(f"The network mixes the samples of a batch: {what} {difference} {MIXING_HINT}")

    def _explain(self) -> str:
        """Say how exact the original is, and what processors without VNNI do."""
        own = self.own_error
        text = "" if own is None else f" Rounding alone moves the original's own answers by {own:.2g}."
        if self.original.precision == "int8" and _lacks_vnni():
            text += (
                " This processor has no VNNI, so sums of 8-bit products can overflow in it, in one graph and not in the other: "
                "quantise the weights to 7 bits (reduce_range=True in ONNX Runtime's quantize_static)."
            )
        return text


class Verified(NamedTuple):
    """What a comparison found.

    Attributes:
        answers: the chain's at every exit for each golden sample run alone.
        error: the largest difference from the original's answers, relative to the largest value.
        own_error: the original's own error in the same measure; None if it was not measured.
    """

    answers: EveryExit
    error: float
    own_error: float | None


def check_scales(graph: ir.Graph) -> None:
    """See that no value is quantised with a scale that is found for the whole batch.

    Raises:
        ModelError: a node does that, so each sample's answer depends on the others.
    """
    nodes = [str(node.name) for node in graph.all_nodes() if node.op_type.startswith("DynamicQuantize")]
    if nodes:
        raise ModelError(
            "The network is quantised dynamically: each scale is found for the whole batch, so a sample's answer depends on the "
            "samples beside it. Quantise statically (offramp quantize, or quantize_static in ONNX Runtime).",
            nodes=nodes,
        )


def verify_chain(
    stages: Sequence[Stage], exits: Sequence[Exit], original: Original, prober: Prober, progress: Progress
) -> Verified:
    """Compare the chain and every static network with the original at batch 1, at all golden samples, and at other lengths.

    Args:
        stages, exits: what was written into the prober's folder.
        original: what they are compared with.
        prober: the golden samples.
        progress: called after the chain and each static network.

    Raises:
        CheckError: an exit's answers differ by more than is allowed, or the network mixes the samples of a batch.
        ModelError: a gate leaves 0..1.
    """
    progress("comparing with the original", 0, len(exits) + 1)
    golden, axes, comparer = prober.inputs, prober.axes, Comparer(original)
    n, names = count_samples(golden, axes), [exit_.name for exit_ in exits]
    alone = [original.run(take_samples(golden, axes, [i])) for i in range(n)]
    expected = [
        {part: np.concatenate([answers[k][part] for answers in alone]) for part in alone[0][k]}
        for k in range(len(exits))
    ]
    batched = original.run(golden)
    for name, together, single in zip(names, batched, expected, strict=True):
        comparer.check_alike(
            together, single, f"alone, a sample's answer at exit {name} differs from that among {n} samples"
        )
    compiled: dict[str, Compiled] = {}
    for stage in stages:  # stages that are the same computation share a file
        compiled[stage.file] = compiled.get(stage.file) or _compile(prober.folder, stage)
    with _open_net([compiled[stage.file] for stage in stages], stages, exits, original) as net:
        answers = _compare_chain(net, exits, expected, batched, comparer, prober)
        _check_shrinking(net, prober, answers, comparer)
    if any(stage.guarded for stage in stages):  # without guards, as all engines but ONNX Runtime run them
        plain = [_compile(prober.folder, replace(stage, guarded=None)) for stage in stages]
        with _open_net(plain, stages, exits, original) as net:
            comparer.compare(net.every_exit(tuple(golden)), expected, _exit_names(net), "without guards")
    for k, (exit_, parts) in enumerate(zip(exits, expected, strict=True)):
        progress("comparing with the original", k + 1, len(exits) + 1)
        _compare_static(exit_, parts, comparer, prober)
    progress("comparing with the original", len(exits) + 1, len(exits) + 1)
    return Verified(answers, comparer.error, comparer.own_error)


def _compare_chain(
    net: Net,
    exits: Sequence[Exit],
    expected: Sequence[Parts],
    batched: Sequence[Parts],
    comparer: Comparer,
    prober: Prober,
) -> EveryExit:
    """Compare the chain at batch 1, at all golden samples in one batch, and at other lengths; return the answers at batch 1."""
    golden, axes, others = prober.inputs, prober.axes, prober.others
    n, names = count_samples(golden, axes), _exit_names(net)
    answers = net.run_every_exit(tuple(golden), size=1)  # which lets a gate before its sigmoid pass
    comparer.compare(answers, expected, names, "at batch 1")
    _check_scores(answers, exits)
    comparer.compare(net.every_exit(tuple(golden), size=n), batched, names, f"at batch {n}")
    for other in others:
        sizes = ", ".join(f"{name} {size}" for name, size in sizes_of(other, axes).items())
        comparer.compare(net.every_exit(tuple(other)), comparer.original.run(other), names, f"with {sizes}")
    return answers


def _compare_static(exit_: Exit, expected: Parts, comparer: Comparer, prober: Prober) -> None:
    static = Stage(file=exit_.static, inputs=comparer.original.inputs, outputs=(), macs=exit_.macs)
    with _open_net([_compile(prober.folder, static)], [static], [exit_], comparer.original) as net:
        name = f"The static network that ends at exit {exit_.name}"
        comparer.compare(net.every_exit(tuple(prober.inputs)), [expected], [name], "at batch 1")


def _exit_names(net: Net) -> list[str]:
    return [f"Exit {name}" for name in net.exits]


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


def _check_shrinking(net: Net, prober: Prober, answers: EveryExit, comparer: Comparer) -> None:
    """See that samples that leave a batch early do not change the answers of those that stay in it.

    At each exit in turn the surest sample leaves. The others stay, at least two of them and in another order.
    """
    # No more samples than in the comparisons before: large networks take gigabytes for each.
    rows = np.arange(len(answers.score))[::-1]
    samples = tuple(take_samples(prober.inputs, prober.axes, rows))
    for k, name in enumerate(net.exits[:-1]):
        second, surest = np.sort(answers.score[:, k])[-2:]
        net.thresholds = [float(second + surest) / 2 if j == k else NEVER for j in range(len(net.exits) - 1)]
        batch = net.batch(samples)
        what = f"when samples leave at exit {name}, the answers of those that stay change"
        if batch.logits is not None and answers.logits is not None:
            comparer.check_alike({"logits": batch.logits}, {"logits": answers.logits[rows, batch.exit]}, what)
        for exit_ in np.unique(batch.exit) if batch.answer else ():
            there = batch.exit == exit_
            ours = {part: np.array([*values[there]]) for part, values in (batch.answer or {}).items()}
            theirs = {part: values[rows[there]] for part, values in answers.parts(int(exit_)).items()}
            comparer.check_alike(ours, theirs, what)


def _lacks_vnni() -> bool:
    """Tell whether this is an x86 processor that multiplies 8-bit values in pairs whose 16-bit sums overflow."""
    flags = re.search(r"^flags\s*:(.*)$", read_text(Path("/proc/cpuinfo")) or "", re.M)
    return flags is not None and "avx2" in flags[1] and "vnni" not in flags[1]
