"""How wrong the answers of a network that does not classify are, worked out while they are recorded.

Only two numbers for each sample and exit are kept of boxes and masks: the loss, and the disagreement with the reference.
"""

import hashlib
from collections.abc import Callable
from functools import partial
from types import CodeType
from typing import Any

import numpy as np
from msgspec import Struct

from ..bundle import Manifest
from ..errors import UsageError
from ..runtime import EveryExit, Net
from ..runtime.chain.samples import Samples
from .losses import Loss, evaluate, read_loss
from .truth import Truth

__all__ = ["DISAGREEMENT", "LOSS", "Judge", "Judging", "read_judging"]

LOSS, DISAGREEMENT = "loss", "disagreement"
"""What is kept of answers, by these names."""


class Judging(Struct, frozen=True):
    """The functions that say how wrong answers are.

    Attributes:
        loss: of an answer and what is true; None without targets.
        disagreement: of an answer and the reference's; None if losses alone are compared.
        names: of both, as they are stored.
    """

    loss: Loss | None
    disagreement: Loss | None
    names: tuple[str, str]

    @property
    def key(self) -> str:
        """Differs for functions that differ, as far as their code shows it."""
        return " ".join([*self.names, *(_hash_code(each) for each in (self.loss, self.disagreement))])


class Judge(Struct, frozen=True):
    """Judges the answers to some samples.

    Attributes:
        judging: the functions.
        truth: what is true of the samples; None if it is not known.
        reference: answers for comparison; None if nothing is compared with it.
    """

    judging: Judging
    truth: Truth | None
    reference: Net | None

    def judge(self, x: Samples, rows: slice, answers: EveryExit) -> EveryExit:
        """Return answers to these rows of the samples with nothing but their losses and disagreements, float32 (N,) each."""
        assert answers.answers is not None
        numbers = np.arange(len(x))[rows]
        truth = None if self.truth is None else self.truth[rows].read()
        whole = None
        if self.reference is not None and self.judging.disagreement is not None:
            (whole,) = self.reference.every_exit(x[rows]).answers or ({},)
        judged = []
        for answer in answers.answers:
            kept: dict[str, np.ndarray] = {}
            if self.judging.loss is not None and truth is not None:
                kept[LOSS] = evaluate(self.judging.loss, answer, truth, numbers)
            if self.judging.disagreement is not None and whole is not None:
                kept[DISAGREEMENT] = evaluate(
                    self.judging.disagreement, answer, _alone(whole), numbers, what=DISAGREEMENT
                )
            judged.append({name: values.astype(np.float32) for name, values in kept.items()})
        return EveryExit(answers.label, answers.score, None, tuple(judged))


def read_judging(
    manifest: Manifest,
    loss: "str | Loss | None",
    disagreement: "str | Loss | None",
    *,
    has_truth: bool,
    limits_disagreement: bool,
) -> Judging | None:
    """Return the functions that judge answers; None for a network that classifies, whose labels are right or wrong.

    Args:
        manifest: of the network.
        loss, disagreement: as `calibrate` takes them.
        has_truth: whether there are targets.
        limits_disagreement: whether max_disagreement is among the limits.

    Raises:
        UsageError: one is missing, or cannot be used.
    """
    if manifest.classes:
        if loss is not None or disagreement is not None:
            raise UsageError(
                "This network classifies, and its labels are right or wrong: leave loss and disagreement out."
            )
        return None
    parts = ", ".join(manifest.answer)
    if has_truth and loss is None:
        raise UsageError(
            f"The network answers with {parts}: say how wrong an answer is, such as loss='absolute:90' (--loss), or "
            "'file.py:function'."
        )
    if not has_truth and disagreement is None:
        raise UsageError(
            f"The samples have no targets, so only disagreement with the whole network can be limited: say how far answers "
            f"({parts}) are apart, such as disagreement='absolute:90' (--disagreement)."
        )
    if limits_disagreement and disagreement is None:
        raise UsageError(
            f"max_disagreement limits how far answers ({parts}) are from the whole network's: say how far apart they are, "
            "such as disagreement='absolute:90' (--disagreement)."
        )
    return Judging(
        read_loss(loss) if has_truth and loss is not None else None,
        None if disagreement is None else read_loss(disagreement, between_answers=True),
        (_name(loss), _name(disagreement)),
    )


def _alone(parts: dict[str, np.ndarray]) -> Any:
    """Return what the reference answers as targets are given: a single part without its name."""
    return next(iter(parts.values())) if len(parts) == 1 else parts


def _name(given: "str | Loss | None") -> str:
    return (
        given if isinstance(given, str) else "" if given is None else getattr(given, "__qualname__", repr(type(given)))
    )


def _hash_code(function: Callable[..., Any] | None) -> str:
    """Return a hash of what a function does: the same in every process, and another once it calls something else."""
    functions = (function.func, *function.args) if isinstance(function, partial) else (function,)
    codes = [each.__code__ for each in functions if hasattr(each, "__code__")]
    return hashlib.sha256("".join(map(_describe_code, codes)).encode()).hexdigest() if codes else ""


def _describe_code(value: Any) -> str:
    """Describe code, or a constant in it, without addresses and without the order of sets, which differ between processes."""
    if isinstance(value, CodeType):
        return "".join([value.co_code.hex(), repr(value.co_names), *map(_describe_code, value.co_consts)])
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
