"""What audits show, of one device or of many together."""

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from ...errors import UsageError
from ...units import show_confidence, show_share
from .evidence import doubt, renewed_limit, shares_doubt
from .states import AuditState, find_states, read_state

__all__ = ["FieldAudit", "describe_alarm", "logs_of_doubt", "read_audits", "summarise"]

CONFIDENCE = 0.95

MOST_LOG = 700.0
"""A larger e-value is shown as e to this, so that it stays a number."""


class FieldAudit(Struct, frozen=True, kw_only=True):
    """What an operating point does in the field, by a random share of its inputs.

    Attributes:
        variant: the start of the digest of what runs.
        point: the operating point's name.
        devices: how many states were added.
        audited, disagreeing: how many inputs were compared with the last exit, and how many of them differed (or the sum of
            their disagreements).
        promised: the share that may disagree; None if that is unknown, and exits alone are watched.
        e_value: the evidence against "at most the promised share disagrees": an alarm at 1 / `chance[0]`.
        shares_e_value: the evidence against "inputs leave where the calibration's did": an alarm at 1 / `chance[1]`. None if
            the calibrated shares are unknown.
        scores_e_value: the evidence against "the first exit that is taken is as sure as in the calibration": an alarm at
            1 / `chance[1]`. None if the calibrated scores are unknown.
        chance: of a false alarm of disagreement, and of shares and of scores each.
        alarms: what raises an alarm: `disagreement`, `shares`, `scores`.
        alarmed_devices: how many devices raised one by themselves, each with its own chance of a false one.
        renewed: at most this share disagrees, by what the field has shown; None before anything is shown.
        confidence: of the renewed promise, at all times together.
        exit_shares, calibrated_shares: the share of inputs that leaves at each exit, in the field and in the calibration.
        score_shares, calibrated_score_shares: the share of inputs in each bin of those scores; empty if they are unknown.
        missed: picked inputs that this process could not audit, because others were waiting.
        notice: what is wrong with the audit, in words; empty if nothing is.

    Example:
        >>> import numpy as np
        >>> from offramp.runtime import Audit, load
        >>> early = next(name for name, point in load("digits.offramp").points.items() if point.exits_early)
        >>> net = load("digits.offramp", point=early, audit=Audit(share=1.0, in_call=True))
        >>> results = [net(x) for x in np.load("test.npz")["x"][:50]]
        >>> net.stats().audit.devices
        1
    """

    variant: str
    point: str
    devices: int
    audited: int
    disagreeing: float
    promised: float | None
    e_value: float
    shares_e_value: float | None
    scores_e_value: float | None
    chance: tuple[float, float]
    alarms: tuple[str, ...]
    alarmed_devices: int
    renewed: float | None
    confidence: float
    exit_shares: tuple[float, ...]
    calibrated_shares: tuple[float, ...]
    score_shares: tuple[float, ...]
    calibrated_score_shares: tuple[float, ...]
    missed: int = 0
    notice: str = ""

    @property
    def promise(self) -> str:
        """The renewed promise in words."""
        if self.renewed is None:
            return "Nothing is shown by the field yet."
        return (
            f"With {show_confidence(1 - self.confidence)} confidence, at all times together, at most "
            f"{show_share(self.renewed)} of inputs like these get another answer than the last exit gives, by "
            f"{self.audited} audited inputs."
        )


def logs_of_doubt(state: AuditState) -> dict[str, float]:
    """Return the logarithm of each e-value by its name; those that are unknown are left out."""
    logs = {}
    if state.promised is not None:
        logs["disagreement"] = doubt(state.disagreeing, state.audited, state.promised)
    if state.calibrated:
        logs["shares"] = shares_doubt(state.calibrated, state.exits)
    if state.scores:
        logs["scores"] = shares_doubt(state.known_scores, state.scores)
    return logs


def find_alarms(state: AuditState) -> tuple[str, ...]:
    """Return what raises an alarm by these counts."""
    chances = dict(zip(("disagreement", "shares", "scores"), (*state.chance, state.chance[1]), strict=True))
    return tuple(name for name, log in logs_of_doubt(state).items() if log >= -math.log(chances[name]))


def describe_alarm(name: str, audit: FieldAudit) -> str:
    """Say what an alarm means."""
    if name == "disagreement":
        return (
            f"{audit.disagreeing:g} of {audit.audited} audited inputs disagree with the last exit, and at most "
            f"{show_share(audit.promised or 0)} may: the inputs are others than those of the calibration."
        )
    if name == "scores":
        return (
            f"The first exit's scores, from low to high, lie in shares of {_show_shares(audit.score_shares)} where those of the "
            f"calibration lay in {_show_shares(audit.calibrated_score_shares)}: they are others."
        )
    return (
        f"Inputs leave at the exits in shares of {_show_shares(audit.exit_shares)}, and those of the calibration left in "
        f"{_show_shares(audit.calibrated_shares)}: they are others."
    )


def _show_shares(shares: Iterable[float]) -> str:
    return ", ".join(f"{share:.1%}" for share in shares)


def _share_out(counts: Sequence[int]) -> tuple[float, ...]:
    return tuple(count / max(1, sum(counts)) for count in counts)


def summarise(
    states: Sequence[AuditState], *, confidence: float = CONFIDENCE, missed: int = 0, notice: str = ""
) -> FieldAudit:
    """Add states of one subject; what was counted is then as if one device had counted it.

    An alarm that a single device has ever raised stays. Several devices raise one together by what they have counted.
    """
    exits = [sum(counts) for counts in zip(*(state.exits for state in states), strict=True)]
    state = msgspec.structs.replace(
        states[0],
        exits=tuple(exits),
        scores=tuple(sum(counts) for counts in zip(*(state.scores for state in states), strict=True)),
        audited=sum(state.audited for state in states),
        disagreeing=math.fsum(state.disagreeing for state in states),
    )
    logs = {name: math.exp(min(log, MOST_LOG)) for name, log in logs_of_doubt(state).items()}
    limit = renewed_limit(state.disagreeing, state.audited, chance=1 - confidence) if state.audited else 1.0
    return FieldAudit(
        variant=state.variant,
        point=state.point,
        devices=len(states),
        audited=state.audited,
        disagreeing=state.disagreeing,
        promised=state.promised,
        e_value=logs.get("disagreement", 1.0),
        shares_e_value=logs.get("shares"),
        scores_e_value=logs.get("scores"),
        chance=state.chance,
        alarms=state.alarms if len(states) == 1 else find_alarms(state),
        alarmed_devices=sum(bool(state.alarms) for state in states),
        renewed=limit if limit < 1 else None,
        confidence=confidence,
        exit_shares=_share_out(exits),
        calibrated_shares=_share_out(state.calibrated),
        score_shares=_share_out(state.scores),
        calibrated_score_shares=_share_out(state.known_scores),
        missed=missed,
        notice=notice,
    )


def read_audits(
    paths: "str | os.PathLike[str] | Iterable[str | os.PathLike[str]]", *, confidence: float = CONFIDENCE
) -> tuple[FieldAudit, ...]:
    """Read states of audits, from one device or from a fleet, and add those of the same operating point.

    A device that is given twice counts once, by its latest state.

    Args:
        paths: files of states, or folders that hold some.
        confidence: of the renewed promise.

    Returns:
        What the field shows of each operating point and its promise.

    Raises:
        UsageError: nothing is at a path, or `confidence` is out of range.
        BundleError: a state is damaged.
        MissingError: a state cannot be read.

    Example:
        >>> from offramp.runtime import read_audits
        >>> read_audits([])
        ()
    """
    if not 0.5 <= confidence < 1:
        raise UsageError(f"confidence is a number from 0.5 to below 1, not {confidence!r:.30}.")
    latest: dict[str, tuple[Path, AuditState]] = {}
    each = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    for path in [file for given in each for file in find_states(Path(given))]:
        state = read_state(path)
        seen = latest.get(state.device)
        older, newer = sorted([state, seen[1] if seen else state], key=lambda one: (one.sequence, one.audited))
        if not _continues(older, newer):
            raise UsageError(
                f"{path} and {seen[0] if seen else path} are of one device and have counted apart: its folder was copied to "
                "another device. Leave one out, and ship no folder of states with a product.",
                path=path,
            )
        if seen is None or newer is state:
            latest[state.device] = path, state
    groups: dict[tuple[object, ...], list[AuditState]] = {}
    for _, state in latest.values():
        groups.setdefault(state.subject, []).append(state)
    return tuple(summarise(states, confidence=confidence) for states in groups.values())


def _continues(older: AuditState, newer: AuditState) -> bool:
    """Return True if the newer state may come from the older one: counts only rise."""
    pairs = [
        (older.audited, newer.audited),
        (older.disagreeing, newer.disagreeing),
        *zip(older.exits, newer.exits, strict=False),
        *zip(older.scores, newer.scores, strict=False),
    ]
    same = older.sequence < newer.sequence or pairs == [(b, b) for _, b in pairs]
    return older.subject == newer.subject and same and all(a <= b + 1e-9 for a, b in pairs)
