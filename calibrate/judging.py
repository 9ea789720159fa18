"""How wrong the answers of a network that does not classify are, worked out while they are recorded.

Only two numbers for each sample and exit are kept of boxes and masks: the loss, and the disagreement with the reference.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from msgspec import Struct

from ..bundle import Manifest
from ..errors import UsageError
from ..runtime import EveryExit, Net
from ..runtime.chain.samples import Samples
from .losses import Loss, evaluate, read_loss
from .truth import Truth

__all__ = ["DISAGREEMENT", "LOSS", "Judge", "Judging", "ReferenceAnswers", "read_judging"]

LOSS, DISAGREEMENT = "loss", "disagreement"
"""What is kept of answers, by these names."""

MOST_KEPT_BYTES = 100_000_000
"""The reference's answers that are kept take so much memory at most."""


class Judging(Struct, frozen=True):
    """The functions that say how wrong answers are.

    Attributes:
        loss: of an answer and what is true; None if that is not known.
        disagreement: of an answer and the reference's, both by the names of their parts; None if losses alone are compared.
        names: of both, as they are stored.
    """

    loss: Loss | None
    disagreement: Loss | None
    names: tuple[str, str]

    @property
    def key(self) -> str:
        """Differs for functions that differ, as far as their code shows it."""
        return " ".join([*self.names, *(_hash_code(each) for each in (self.loss, self.disagreement))])


class ReferenceAnswers:
    """The reference's answers to some samples: it is asked once for what fits into `MOST_KEPT_BYTES`, and each time for the rest.

    Args:
        net: the reference.
    """

    def __init__(self, net: Net) -> None:
        self._net = net
        self._kept: dict[tuple[int, int], Mapping[str, np.ndarray]] = {}
        self._free_bytes = MOST_KEPT_BYTES

    def of(self, x: Samples, rows: slice) -> Mapping[str, np.ndarray]:
        """Return its answers to these rows of the samples, which are the same ones at each call."""
        key = rows.start, rows.stop
        if key in self._kept:
            return self._kept[key]
        (whole,) = self._net.every_exit(x[rows]).answers or ({},)
        size = sum(part.nbytes for part in whole.values())
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._kept[key] = whole
        return whole


class Judge(Struct, frozen=True):
    """Judges the answers to some samples.

    Attributes:
        judging: the functions.
        truth: what is true of the samples; None if it is not known.
        reference: its answers, for comparison; None if nothing is compared with it.
        keep: is given the answers of every exit and the rows of their samples, before they are judged; it may keep some.
    """

    judging: Judging
    truth: Truth | None
    reference: ReferenceAnswers | None
    keep: Callable[[slice, Sequence[Mapping[str, np.ndarray]]], None] | None = None

    def judge(self, x: Samples, rows: slice, answers: EveryExit) -> EveryExit:
        """Return answers to these rows of the samples with nothing but their losses and disagreements, float32 (N,) each."""
        assert answers.answers is not None
        if self.keep is not None:
            self.keep(rows, answers.answers)
        numbers = np.arange(len(x))[rows]
        truth = None if self.truth is None else self.truth[rows].read()
        whole = None
        if self.reference is not None and self.judging.disagreement is not None:
            whole = self.reference.of(x, rows)
        judged = []
        for answer in answers.answers:
            kept: dict[str, np.ndarray] = {}
            if self.judging.loss is not None and truth is not None:
                kept[LOSS] = evaluate(self.judging.loss, answer, truth, numbers)
            if self.judging.disagreement is not None and whole is not None:
                kept[DISAGREEMENT] = evaluate(self.judging.disagreement, answer, whole, numbers, what=DISAGREEMENT)
            judged.append({name: values.astype(np.float32) for name, values in kept.items()})
        return EveryExit(answers.label, answers.score, None, tuple(judged))


def read_judging(
    manifest: Manifest, loss: "str | Loss | None", disagreement: "str | Loss | None", *, has_truth: bool
) -> Judging | None:
    """Return the functions that judge answers; None for a network that classifies, whose labels are right or wrong.

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
            "The samples come without the truth: limit max_disagreement, how far answers are from the whole network's, and say "
            f"how far answers ({parts}) are apart, such as disagreement='absolute:90' (--disagreement)."
        )
    return Judging(
        read_loss(loss) if has_truth and loss is not None else None,
        None if disagreement is None else read_loss(disagreement),
        (_name(loss), _name(disagreement)),
    )


def _name(given: "str | Loss | None") -> str:
    return (
        given if isinstance(given, str) else "" if given is None else getattr(given, "__qualname__", repr(type(given)))
    )


def _hash_code(function: Callable[..., Any] | None) -> str:
    """Return the hash of a function's code, of the values that it is bound to, and of what it uses of its own file by name."""
    digest, seen = hashlib.sha256(), set[int]()
    left: list[Any] = [function]
    while left:
        each = left.pop()
        if isinstance(each, partial):
            left += [each.func, *each.args, *each.keywords.values()]
        elif isinstance(each, MethodType):
            left.append(each.__func__)
        elif isinstance(each, CodeType):
            digest.update(each.co_code + repr(each.co_names).encode())
            left += each.co_consts
        elif isinstance(each, FunctionType) and id(each) not in seen:
            seen.add(id(each))
            own = [each.__globals__[name] for name in _names_of(each.__code__) if name in each.__globals__]
            left += [value for value in own if getattr(value, "__globals__", each.__globals__) is each.__globals__]
            left += [
                each.__code__,
                *(each.__defaults__ or ()),
                *(cell.cell_contents for cell in each.__closure__ or ()),
            ]
        elif isinstance(each, (tuple, list)):
            left += each
        elif isinstance(each, frozenset):
            digest.update(repr(sorted(map(repr, each))).encode())
        elif isinstance(each, (bool, int, float, str, bytes)):
            digest.update(repr(each).encode())
        elif isinstance(each, np.ndarray):
            digest.update(each.tobytes())
    return digest.hexdigest()


def _names_of(code: CodeType) -> list[str]:
    """Return the names that code uses, and the code within it."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return [*code.co_names, *(name for each in inner for name in _names_of(each))]
