"""The temporal rule of each operating point: how little must have changed for the last answer to be given again.

Candidates are fixed before anything is recorded: differences from 0.005 to 1, each 26 % above the one before. So every clip may
test them, and none need choose. They are tested from the smallest on, until the first failure; what passed is promised together
(fixed-sequence testing, see `certify/exact_tests.py`). The mean of a clip is one draw: its samples depend on each other, clips do
not.
"""

import os
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from ..bundle import Bundle, Calibration, OperatingPoint, Reuse, opened, read_calibration, write_calibration
from ..errors import DataError, OfframpError, TargetError, UsageError, unknown_name
from ..files import check_writable
from ..progress import Progress, no_progress
from ..runtime import Net, Result, load
from ..runtime.chain.reuse import ReuseDeadline, Reuser
from ..runtime.chain.runner import Setup
from ..runtime.chain.samples import Samples
from ..runtime.selection import find_calibration
from ..units import show_confidence, show_share
from .certify.exact_tests import certify_mean
from .certify.promises import count_needed
from .labels import SampleSet, check_data
from .parts import Parts, group_means, read_groups

__all__ = ["calibrate_reuse"]

DIFFERENCES = tuple(0.005 * 10 ** (step / 10) for step in range(24))
"""The candidates, in the order in which they are tested."""

MOST_IN_ROW = 10
"""By default an answer is given again so often at most."""

MOST_TIMED, ROUNDS = 1000, 5
"""So many samples, at most about, are timed with the rule and without it, so often."""


class Recorded(NamedTuple):
    """What every candidate would have done.

    Attributes:
        losses: float64 (clips, candidates): the mean of what is limited.
        shares: float64 (clips, candidates): the share of the samples that got the last answer again.
    """

    losses: np.ndarray
    shares: np.ndarray


class Recorder:
    """Stands where a `Reuser` does, and runs every sample on. Beside it, every candidate does what it would.

    Args:
        net: the network.
        rules: the candidates.

    Attributes:
        labels: what each candidate says of the last sample, int64 (candidates,).
        reuses: which of them gave an earlier answer again, bool (candidates,).
    """

    def __init__(self, net: Net, rules: Sequence[Reuse]) -> None:
        self._reusers = [Reuser(net, rule) for rule in rules]
        self.labels, self.reuses = np.zeros(len(rules), np.int64), np.zeros(len(rules), bool)

    def forget(self) -> None:
        """Start a clip."""
        for each in self._reusers:
            each.forget()

    def find(self, setup: Setup) -> Result | None:
        """Give no answer again."""
        return None

    def keep(self, setup: Setup, result: Result) -> None:
        """Note what each candidate does."""
        for k, each in enumerate(self._reusers):
            last = each.find(setup) if result.exit else None
            if last is None:
                each.keep(setup, result)
            self.labels[k], self.reuses[k] = (last or result).label, last is not None


def calibrate_reuse(
    bundle: str | os.PathLike[str] | Bundle,
    data: Any,
    groups: Any,
    *,
    max_disagreement: float | None = None,
    max_drop: float | None = None,
    points: Sequence[str] | None = None,
    calibration: str | os.PathLike[str] | None = None,
    most_in_row: int = MOST_IN_ROW,
    confidence: float = 0.9,
    threads: int = 1,
    progress: Progress = no_progress,
) -> Calibration:
    """Find for operating points how little must have changed for the last answer to be given again, and store the rules.

    Every sample runs on once at each point, on the devices of the point. Each clip is one draw: give clips that were recorded
    independently, as many as a promise takes (about 60 for a limit of 5 %, 300 for 1 %), and choose the limit before. What is
    lost is counted against the same point running every sample on; so it adds to what the point itself loses.

    Args:
        bundle: the bundle or its folder. It has a calibration.
        data: samples in the order of time as `Net.batch` takes them, and labels (N,) or None, as for `calibrate`.
        groups: the clip of each sample, (N,), as for `calibrate`. Samples of a clip need not stand together.
        max_disagreement: the largest share of samples that may get another answer, the mean over clips. Needs no labels.
        max_drop: instead, the accuracy that may be lost.
        points: the names of the operating points; by default all with early exit.
        calibration: its file; by default the one in the bundle that fits.
        most_in_row: how often one answer may be given again, from 1 to 1000.
        confidence: the probability that the rules of all points keep the limit.
        threads: threads that the engine may use within a stage.
        progress: called with what is being done, how much is done, and how much there is.

    Returns:
        The calibration as it was stored. Each point's `reuse` says what is promised, what it saves, and whether it pays.

    Raises:
        UsageError: an argument does not make sense, the bundle has no calibration or no point with early exit, or its first
            stage hands nothing on that can be compared.
        DataError: the samples do not fit the network, or there are too few.
        TargetError: of some point not even the smallest difference can be promised; nothing is stored.
        BundleError, MissingError: as for `runtime.load`.

    Example:
        >>> import numpy as np
        >>> from offramp.calibrate import calibrate_reuse
        >>> x, clips = np.load("test.npz")["x"], np.arange(200) // 4  # still pictures: hardly one resembles the one before
        >>> made = calibrate_reuse("digits.offramp", (x, None), clips, max_disagreement=0.1)
        >>> made.early.reuse.limit, made.early.reuse.clips
        ('max_disagreement', 50)
    """
    limit, most = _check_limit(max_disagreement, max_drop, most_in_row, confidence)
    opened_bundle = opened(bundle)
    manifest = opened_bundle.manifest
    if not manifest.classes:
        raise UsageError(
            "Losses are counted of labels, and this network does not classify. Give Stream a Reuse by hand."
        )
    samples = check_data(data, manifest)
    if limit == "max_drop" and (samples.y is None or samples.has_unknown):
        raise UsageError("max_drop needs the label of every sample. Without labels limit max_disagreement.")
    clips = read_groups(groups, data[0], len(samples))
    if clips is None or clips.count < 2:
        raise DataError("Give the clip of each sample as groups, and two clips at least: each is one draw.")
    path, found = _find_stored(opened_bundle, calibration, threads)
    chosen = _choose_points(found, points)
    delta, rules = (1 - confidence) / len(chosen), {}
    for name in chosen:
        with load(opened_bundle, point=name, calibration=found, threads=threads) as net:
            recorded = record_clips(net, samples, clips, limit, most_in_row, progress)
            step = certify_rule(recorded, limit, most, delta=delta, name=name)
            rule = Reuse(
                difference=DIFFERENCES[step],
                most_in_row=int(most_in_row),
                limit=limit,
                most=most,
                confidence=float(confidence),
                rules=len(chosen),
                clips=len(recorded.losses),
                samples=len(samples),
                loss=float(recorded.losses[:, step].mean()),
                share=float(recorded.shares[:, step].mean()),
            )
            with_rule_s, plain_s = _time(net, rule, samples.x, clips)
            rules[name] = replace(rule, latency_s=with_rule_s, plain_latency_s=plain_s)
    made = {name: replace(point, reuse=rules.get(name, point.reuse)) for name, point in found.points.items()}
    found = replace(found, points=made)
    write_calibration(path, found)
    return found


def _check_limit(disagreement: Any, drop: Any, most_in_row: Any, confidence: Any) -> tuple[str, float]:
    """Return the limit's name and the limit.

    Raises:
        UsageError: an argument is out of range.
    """
    given = [(n, v) for n, v in (("max_disagreement", disagreement), ("max_drop", drop)) if v is not None]
    if len(given) != 1:
        raise UsageError("Give one limit: max_disagreement=0.02, say, or max_drop=0.01.")
    (name, most), *_ = given
    for what, value, least in ((name, most, 0.0), ("confidence", confidence, 0.5)):
        if isinstance(value, bool) or not isinstance(value, (int, float, Real)) or not least < float(value) < 1:
            raise UsageError(f"{what} is a fraction above {least:g} and below 1, not {value!r:.30}.")
    if (
        isinstance(most_in_row, bool)
        or not isinstance(most_in_row, (int, Integral))
        or not 1 <= int(most_in_row) <= 1000
    ):
        raise UsageError(f"most_in_row is a whole number from 1 to 1000, not {most_in_row!r:.30}.")
    return name, float(most)


def _find_stored(
    bundle: Bundle, calibration: str | os.PathLike[str] | None, threads: int
) -> tuple[str | os.PathLike[str], Calibration]:
    """Return the calibration that is to get rules, and its file, which can be written.

    Raises:
        UsageError: there is none, or the bundle is packed.
    """
    if calibration is not None:
        given = read_calibration(calibration)
        check_writable(Path(calibration))
        return calibration, given
    bundle.check_changeable("calibrations", "Name a calibration outside it (--calibration). ")
    found = find_calibration(bundle, threads=threads)
    if found is None:
        raise UsageError(f"{bundle.path} has no calibration that fits. Run: offramp calibrate", path=bundle.path)
    return next(path for path in bundle.calibrations() if _read_or_none(path) == found), found


def _choose_points(calibration: Calibration, names: Sequence[str] | None) -> dict[str, OperatingPoint]:
    """Return the operating points that get a rule.

    Raises:
        UsageError: there is no such point, or none exits early.
    """
    if isinstance(names, str):
        names = [names]
    for name in names or ():
        if name not in calibration.points:
            raise unknown_name("operating point", str(name), calibration.points)
    asked = {name: calibration.points[name] for name in (names or calibration.points)}
    early = {name: point for name, point in asked.items() if point.exits_early}
    if not early:
        raise UsageError("A static network has no stages to leave out: name points with early exit.")
    return early


def record_clips(
    net: Net, samples: SampleSet, clips: Parts, limit: str, most_in_row: int, progress: Progress = no_progress
) -> Recorded:
    """Run every sample on, and see what each candidate would have done.

    Args:
        net: the network at the operating point.
        samples: with labels, if a drop is limited.
        clips: of the samples; a clip's samples are in the order of time.
        limit: `max_disagreement` or `max_drop`.
        most_in_row: how often an answer may be given again.
        progress: is told how many samples are done.
    """
    recorder = Recorder(net, [Reuse(difference=each, most_in_row=most_in_row) for each in DIFFERENCES])
    n, no_deadline = len(samples), ReuseDeadline(recorder)
    losses, reuses = np.empty((n, len(DIFFERENCES))), np.empty((n, len(DIFFERENCES)), bool)
    done = 0
    for _, rows in clips.each():
        recorder.forget()
        for row in rows.tolist():
            result = net(samples.x[row], no_deadline)
            if limit == "max_drop":
                truth = samples.y[row]  # type: ignore[index]
                losses[row] = float(result.label == truth) - (recorder.labels == truth)
            else:
                losses[row] = recorder.labels != result.label
            reuses[row] = recorder.reuses
            done += 1
            progress("running the clips", done, n)
    numbers = clips.number
    columns = range(len(DIFFERENCES))
    return Recorded(
        np.stack([group_means(losses[:, k], numbers) for k in columns], 1),
        np.stack([group_means(reuses[:, k], numbers) for k in columns], 1),
    )


def certify_rule(recorded: Recorded, limit: str, most: float, *, delta: float, name: str = "") -> int:
    """Return the index of the candidate that saves most among those that keep the limit.

    Args:
        recorded: what each candidate did.
        limit: `max_disagreement` or `max_drop`.
        most: to what it is limited.
        delta: the chance of a false promise.
        name: the operating point's, for the message.

    Raises:
        TargetError: not even the first candidate can be promised.
    """
    order = np.random.default_rng(0).permutation(
        len(recorded.losses)
    )  # clips may have been recorded in a drifting order
    least = -1.0 if limit == "max_drop" else 0.0
    passed = 0
    for losses in recorded.losses[order].T:
        if not certify_mean(losses, most, least=least, most=1.0, delta=delta):
            break
        passed += 1
    if passed:
        return int(recorded.shares[:, :passed].mean(axis=0).argmax())  # the first of equal ones
    seen = recorded.losses[:, 0]
    needed = count_needed(seen, most, limit, delta, are_groups=True)
    if needed is None:
        why = f"even the smallest difference loses {show_share(float(seen.mean()))} on these clips"
    else:
        why = f"{len(seen)} clips cannot show it at {show_confidence(delta)} confidence. About {needed} could"
    raise TargetError(f"No rule for {name or 'this point'} keeps {limit} at {show_share(most)}: {why}.")


def _time(net: Net, rule: Reuse, x: Samples, clips: Parts) -> tuple[float, float]:
    """Return the mean time of a sample with a rule and without it, each clip in turn with and without."""
    reuser, timed, count = Reuser(net, rule), [], 0
    parts = list(clips.each())
    for k in np.random.default_rng(0).permutation(len(parts)):
        timed.append([x[row] for row in parts[k][1].tolist()])
        count += len(timed[-1])
        if count >= MOST_TIMED:
            break
    means = []
    for number in range(ROUNDS):
        spent = {True: 0.0, False: 0.0}
        for place, clip in enumerate(timed):
            for with_rule in (True, False) if (number + place) % 2 else (False, True):
                call = reuser if with_rule else net
                reuser.forget()
                start = perf_counter()
                for sample in clip:
                    call(sample)
                spent[with_rule] += perf_counter() - start
        means.append((spent[True] / count, spent[False] / count))
    with_rule_s, plain_s = (median(times) for times in zip(*means, strict=True))
    return with_rule_s, plain_s


def _read_or_none(path: Any) -> Calibration | None:
    try:
        return read_calibration(path)
    except OfframpError:  # another one, which does not matter here
        return None
