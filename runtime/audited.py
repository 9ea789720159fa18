"""A network that checks its own promise: a random share of its inputs runs on to the last exit, and is compared."""

import math
import random
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from ..bundle import Bundle, Calibration, OperatingPoint, Variant
from ..bundle.manifest import NEVER
from ..errors import AuditWarning, OfframpError, UsageError
from .audit.collecting import Collector
from .audit.evidence import share_bound_of
from .audit.keeping import Alarm, Keeper, Picked
from .audit.options import Audit, Disagreement
from .audit.states import MOST_EDGES, AuditState, pool_exits
from .chain.forks import LIVING
from .chain.net import Net
from .chain.results import BatchResult, Result
from .chain.runner import Setup
from .chain.samples import check_samples, prepare_single, split_inputs
from .chain.stats import Family, Stats
from .notices import warn_caller

__all__ = ["AuditedNet", "find_promise", "start_audit"]


class Picker:
    """Picks inputs for a network and its clones; whether one is picked is decided before it is seen.

    Args:
        share: of the inputs.
        keeper: takes what is picked.

    Attributes:
        left: the number of calls up to the next that is picked.
        takes: whether there was room for it when it was drawn.
    """

    def __init__(self, share: float, keeper: Keeper) -> None:
        self._rate = math.log1p(-share) if share < 1 else -math.inf
        self._draw = random.Random().random
        self.keeper, self.left, self.takes = keeper, 1, True
        self.draw()

    def draw(self) -> bool:
        """Draw the next input that is picked. Return whether this one is taken."""
        taken = self.takes
        self.left = 1 + int(min(math.log(1 - self._draw()) / self._rate, 1e18))  # of the least shares it is infinite
        self.takes = self.keeper.has_room
        if not taken:
            self.keeper.missed += 1
        return taken and not self.keeper.is_ended


class AuditedNet(Net):
    """A network of which a random share of the inputs is audited; made by `load(..., audit=...)`."""

    _picker: Picker
    _audit: Audit
    _calibrated: tuple[float, ...]
    _scored: int
    """The number of the exit whose scores are counted: the first that is taken."""

    _unclosed: "weakref.WeakSet[AuditedNet]"
    passes_over_faults = False
    """True if a comparison that fails leaves out its input, and False if it ends the audit."""

    def _count_anew(self, family: Family) -> None:
        super()._count_anew(family)
        del self._note_exit  # so that the method of this class takes its place
        self._unclosed.add(self)

    def _note_exit(self, k: int) -> None:
        """Note where a call's input left, and pick it if it is its turn. The call still has its memory."""
        self._tally.recent_exits.append(k)
        picker = self._picker
        picker.left -= 1
        if picker.left <= 0:
            try:
                if picker.draw():
                    self._pick_single(k)
            except Exception as error:
                self._give_up(error)

    def _pick_single(self, k: int) -> None:
        setup, keeper = self._setup, self._picker.keeper
        assert setup.memory is not None
        if not self._is_of_point(setup):
            return
        (_, _, _, label, early, _), *later = [step for step in setup.steps if step[0] >= k]
        given, disagreement = label[0], None if later and keeper.runs_on else 0.0
        runs_on = disagreement is None
        if runs_on and self._audit.in_call:
            early = early and {name: part[None].copy() for name, part in early.items()}
            for _, run, _, label, last, _ in later:
                run()
            disagreement = float(label[0] != given)
            if self._audit.disagreement is not None and not self._classes:
                disagreement = measure(
                    self._audit.disagreement, early, {n: part[None].copy() for n, part in last.items()}
                )
        needed = disagreement is None or keeper.collects
        sample = tuple(np.array(place) for place in setup.memory.single.inputs) if needed else None
        first = next((step[2][0] for step in setup.steps if step[0] == self._scored), None)
        score = None if first is None else float(first)
        keeper.put(Picked(k, given, sample, disagreement if keeper.runs_on else None, score))

    def _is_of_point(self, setup: Setup) -> bool:
        """Return True while the network runs as it was loaded, not at other thresholds."""
        return setup.point is not None and setup.thresholds == self._calibrated

    def _answer_by(self, x: Any, deadline_s: float) -> Result:
        """Answer by a deadline; then judge the input as if it had none, if it is its turn."""
        picker = self._picker
        if self._lock._is_owned() or not (picker.keeper.runs_on or self._audit.in_call):
            return super()._answer_by(x, deadline_s)
        was_of_point = self._is_of_point(self._setup)
        result = super()._answer_by(x, deadline_s)
        picker.left -= 1
        if picker.left <= 0:
            try:
                if picker.draw() and was_of_point and self._is_of_point(self._setup):
                    parts = prepare_single(split_inputs(x, self._inputs), self._inputs)
                    self._pick_row(tuple(map(np.array, parts)), None, 0)
            except Exception as error:
                self._give_up(error)
        return result

    def batch(self, x: Any) -> BatchResult:
        """Run many samples, as `Net.batch` does."""
        if self._lock._is_owned():
            return super().batch(x)
        was_of_point = self._is_of_point(self._setup)  # another thread may switch it before the batch, and after
        result = super().batch(x)
        picker, n = self._picker, len(result.exit)
        at = picker.left - 1
        try:
            samples = check_samples(x, self._inputs) if at < n else None
            while at < n:
                if picker.draw() and was_of_point and self._is_of_point(self._setup):
                    assert samples is not None
                    parts = zip(samples.arrays, self._inputs, strict=True)
                    sample = tuple(
                        np.array(np.moveaxis(a[at : at + 1], 0, t.batch_axis or 0), t.dtype) for a, t in parts
                    )
                    self._pick_row(sample, int(result.exit[at]), int(result.label[at]))
                at += picker.left
            picker.left = at + 1 - n
        except Exception as error:
            self._give_up(error)
        return result

    def _give_up(self, error: Exception) -> None:
        """Go on without an input that cannot be compared, or end the audit."""
        keeper = self._picker.keeper
        if self.passes_over_faults and not isinstance(error, UsageError):  # which is the user's function's
            keeper.missed += 1
        else:
            keeper.stop(error)

    def _pick_row(self, sample: tuple[np.ndarray, ...], k: int | None, label: int) -> None:
        keeper, picked = self._picker.keeper, Picked(k, label, sample, None)
        if k == len(self.exits) - 1:
            picked = replace(picked, disagreement=0.0)
        elif self._audit.in_call and (keeper.runs_on or k is None):
            picked = compare(self, self._audit.disagreement, self._calibrated, picked)
        keeper.put(picked if keeper.runs_on else replace(picked, disagreement=None))

    def stats(self, *, reset: bool = False) -> Stats:
        """Return what `Net.stats` does, with what the audit shows. The audit's counts are not reset."""
        return replace(super().stats(reset=reset), audit=self._picker.keeper.audit())

    def close(self) -> None:
        """Let go of the engine's memory, as `Net.close` does; the last of a network's clones ends the audit."""
        super().close()
        self._unclosed.discard(self)
        if not self._unclosed:
            self._picker.keeper.stop()
            self._picker.keeper.wait()


def measure(function: Disagreement, early: Mapping[str, np.ndarray], last: Mapping[str, np.ndarray]) -> float:
    """Return what a function of the user's says of two answers.

    Raises:
        UsageError: it is no number from 0 to 1.
    """
    value = np.asarray(function(early, last), float)
    if value.size != 1 or not 0 <= value.item() <= 1:
        raise UsageError(f"The audit's disagreement is one number from 0 to 1, not {value!r:.60}.")
    return float(value.item())


def compare(net: Net, function: Disagreement | None, thresholds: Sequence[float], picked: Picked) -> Picked:
    """Run a picked input through every exit and return it with how far its answer is from the last exit's.

    The answer is the one that was given; of a call with a deadline the one that these thresholds give.
    """
    assert picked.sample is not None
    every = net.every_exit(picked.sample if len(picked.sample) > 1 else picked.sample[0])
    k, score = picked.exit, every.score[0].tolist()
    if k is None:
        k = next(k for k, threshold in enumerate((*thresholds, 0.0)) if score[k] >= threshold)
        taken = (sure for sure, threshold in zip(score, thresholds, strict=False) if threshold < NEVER)
        picked = replace(picked, exit=k, label=int(every.label[0, k]), score=next(taken, None))
    if function is None:
        return replace(picked, disagreement=float(every.label[0, -1] != picked.label))
    return replace(picked, disagreement=measure(function, every.parts(k), every.parts(len(net.exits) - 1)))


def find_promise(
    calibration: Calibration, point: OperatingPoint, audit: Audit, *, classifies: bool
) -> tuple[float | None, float, str]:
    """Return the share of inputs that may disagree with the chain's last exit, the chance of a false alarm that is left, and why.

    A certificate of disagreement counts where that exit is the reference: it is promised against the reference. Else the upper
    bound of the calibrated share counts. It is too low with half of the chance, and the other half is left.
    """
    if audit.promised is not None:
        return audit.promised, audit.chance, ""
    is_reference = point.variant == next(iter(calibration.variants))
    certificate = point.certificate
    if certificate is not None and "max_disagreement" in certificate.limits and is_reference:
        return certificate.limits["max_disagreement"], audit.chance, ""
    share = point.disagreement if point.own_disagreement is None and is_reference else point.own_disagreement
    if not classifies or share is None:
        why = "The calibration does not know how often this variant disagrees with its own last exit"
        remedy = "Calibrate again, or give Audit(promised=...)"
        if not classifies:
            why, remedy = "No disagreement of these answers is promised", "Give Audit(disagreement=..., promised=...)"
        return None, audit.chance, f"{why}: exits alone are watched. {remedy}."
    n = count_samples(calibration, point)
    return share_bound_of(math.ceil(share * n - 1e-9), n, chance=audit.chance / 2), audit.chance / 2, ""


def count_samples(calibration: Calibration, point: OperatingPoint) -> int:
    """Return for how many independent samples those count that a point's figures come from; of groups each counts as one."""
    certificate = point.certificate
    if certificate is not None and certificate.independent is not None:
        return certificate.independent
    return calibration.groups or calibration.report_samples


def start_audit(
    net: Net,
    audit: "float | Audit",
    on_alarm: Callable[[Alarm], Any] | None,
    *,
    bundle: Bundle,
    variant: Variant,
    calibration: Calibration | None,
) -> Net:
    """Return a network that is audited in the place of one that is not; warn and return that where there is nothing to audit.

    Raises:
        UsageError: the audit cannot be as it is asked for.
    """
    audit = audit if isinstance(audit, Audit) else Audit(share=audit)
    classes, point = bundle.manifest.classes, net.point
    if classes and audit.disagreement is not None:
        raise UsageError("Labels are compared as they are: leave disagreement= out.")
    if calibration is None or point is None or not point.exits_early:
        why = "there is no calibration" if point is None else "a static network runs"
        warn_caller(f"Nothing is audited: {why}, so no input leaves early.", AuditWarning)
        return net
    promised, chance, why = find_promise(calibration, point, audit, classifies=classes > 0)
    if promised is not None and not classes and audit.disagreement is None:
        raise UsageError("Answers that are no labels are compared by a function: give Audit(disagreement=...).")
    if why:
        warn_caller(why, AuditWarning)
    n = count_samples(calibration, point)
    calibrated, scores = ([round(share * n) for share in shares] for shares in (point.exit_shares, point.score_shares))
    counts_scores = 0 < len(point.score_edges) <= MOST_EDGES
    keeper = Keeper(
        AuditState(
            device="new",
            variant=variant.digest[:16],
            point=point.name[:100],
            promised=promised,
            chance=(chance, audit.chance),
            calibrated=pool_exits(calibrated),
            exits=pool_exits([0] * len(net.exits)),
            edges=point.score_edges if counts_scores else (),
            known_scores=tuple(scores) if counts_scores else (),
            scores=(0,) * len(scores) if counts_scores else (),
        ),
        folder=None if audit.state is None else Path(audit.state),
        compare=None if audit.in_call or promised is None else _comparer(net, audit),
        collector=_collector(net, audit),
        on_alarm=on_alarm,
    )
    keeper.note(why)
    return _replace_class(net, audit, keeper)


def _comparer(net: Net, audit: Audit) -> Callable[[Picked], Picked | None]:
    """Return what runs picked inputs in another thread.

    Raises:
        UsageError: the engine has no memory for two threads.
    """
    try:
        runner = net._apart(threads=True)
    except UsageError as error:
        raise UsageError(f"{error} Or audit within the call: Audit(in_call=True).", device=error.device) from error
    return partial(_compare_apart, runner, audit, net.thresholds)


def _compare_apart(runner: Net, audit: Audit, thresholds: Sequence[float], picked: Picked) -> Picked | None:
    """Return a picked input with its disagreement; None if a stage failed that the network is to pass over."""
    try:
        return compare(runner, audit.disagreement, thresholds, picked)
    except OfframpError as error:
        if isinstance(error, UsageError) or not getattr(runner, "passes_over_faults", False):
            raise
        return None


def _collector(net: Net, audit: Audit) -> Callable[[], Collector] | None:
    if audit.collect is None:
        return None
    folder, names, axes = Path(audit.collect), net.inputs, [tensor.batch_axis or 0 for tensor in net._inputs]
    return lambda: Collector(folder, audit.collect_mb, names, axes)


def _replace_class(net: Net, audit: Audit, keeper: Keeper) -> AuditedNet:
    """Return a network with the stages and the memory of another, which is not used any more."""
    other: AuditedNet = object.__new__(_audited(type(net)))  # type: ignore[arg-type]
    other.__dict__.update(net.__dict__)
    other._picker, other._audit, other._calibrated = Picker(audit.share, keeper), audit, net.thresholds
    other._scored = next((k for k, threshold in enumerate(net.thresholds) if threshold < NEVER), -1)
    other._unclosed = weakref.WeakSet()
    weakref.finalize(other._picker, keeper.stop).atexit = False
    other._count_anew(net._tally.family)
    LIVING.add(other)
    return other


@cache
def _audited(base: type[Net]) -> type[AuditedNet]:
    return AuditedNet if base is Net else type("AuditedNet", (base, AuditedNet), {})
