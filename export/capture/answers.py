"""The answers among the outputs of a network that does not classify: for each exit the same named parts, of any shape."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import get_args

import numpy as np

from ...bundle.manifest import PLAIN_NAME, TAKEN_NAMES
from ...bundle.tensor import Dtype
from ...errors import ModelError, UsageError, unknown_name

__all__ = ["check_answer_names", "choose_answers", "group_outputs"]


def check_answer_names(answer: Sequence[str], class_names: Sequence[str] | None) -> None:
    """See that the parts of an answer can be called so, before anything is captured.

    Raises:
        UsageError: they cannot, or there are names of classes too.
    """
    for name in answer:
        if name in TAKEN_NAMES or "." in name or not re.fullmatch(PLAIN_NAME, name):
            raise UsageError(
                f"A part of an answer cannot be called {name!r:.60}: begin with a letter or digit, take letters, digits, - "
                f"and _, and none of {', '.join(TAKEN_NAMES)}."
            )
    if len(set(answer)) < len(answer):
        raise UsageError(f"A part is named twice in answer: {', '.join(answer)}.")
    if answer and class_names is not None:
        raise UsageError(
            "class_names are for networks that classify: leave out class_names (--classes), or answer (--answer)."
        )


def group_outputs(
    outputs: Collection[str], answer: Sequence[str], gates: Sequence[str] = ()
) -> dict[str, dict[str, str]]:
    """Find the parts of answers among the names of outputs.

    The output that holds part `boxes` of exit `exit0` is called `exit0.boxes`, or `boxes.exit0`; `exit0` will do if an answer has
    one part, and the output is no gate.

    Returns:
        By exit the name of the output that holds each part; an exit may lack some.
    """
    found: dict[str, dict[str, str]] = {}
    for output in outputs:
        for part in answer:
            if output.endswith(f".{part}"):
                found.setdefault(output.removesuffix(f".{part}"), {})[part] = output
            elif output.startswith(f"{part}."):
                found.setdefault(output.removeprefix(f"{part}."), {})[part] = output
    if len(answer) == 1 and not found:
        found = {output: {answer[0]: output} for output in outputs if output not in gates}
    return found


def choose_answers(
    one: Mapping[str, np.ndarray],
    many: Mapping[str, np.ndarray],
    answer: Sequence[str],
    exits: Sequence[str] | None,
    gates: Sequence[str] = (),
) -> dict[str, dict[str, str]]:
    """Find the exits whose answers are made of these parts.

    Args:
        one, many: the network's outputs for one sample and for several, by name.
        answer: the names of the parts.
        exits: the names of the exits, in order; None for all that have a part.
        gates: the names of the outputs that are gates; one may be a part too, by its name.

    Returns:
        By exit, in order, the name of the output that holds each part.

    Raises:
        UsageError: an exit of a name is not there.
        ModelError: there are fewer than two exits, an exit lacks a part, or a part is no batch of numbers or has several
            dtypes.
    """
    found = group_outputs(many, answer, gates)
    for name in exits or ():
        if name not in found:
            raise unknown_name("exit", name, found)
    chosen = {name: found[name] for name in (found if exits is None else exits)}
    if len(chosen) < 2:
        raise ModelError(
            f"The outputs {', '.join(many)} hold {len(chosen)} exit with an answer of {', '.join(answer)}; early exit needs at "
            f"least two. Return one dict for each exit: [{{{answer[0]!r}: ...}}, ...], or call an ONNX file's outputs "
            f"exit0.{answer[0]}, exit1.{answer[0]}."
        )
    for name, outputs in chosen.items():
        if missing := [part for part in answer if part not in outputs]:
            raise ModelError(
                f"Exit {name} has no {missing[0]}, which is named as a part of every answer. There are: {', '.join(many)}."
            )
        for output in outputs.values():
            _check_part(output, one[output], many[output])
    for part in answer:
        dtypes = {outputs[part]: str(many[outputs[part]].dtype) for outputs in chosen.values()}
        if len(set(dtypes.values())) > 1:
            each = ", ".join(f"{output} is {dtype}" for output, dtype in dtypes.items())
            raise ModelError(f"The exits give {part} in several dtypes: {each}. Convert it to one.")
    return {name: {part: outputs[part] for part in answer} for name, outputs in chosen.items()}


def _check_part(name: str, one: np.ndarray, many: np.ndarray) -> None:
    """See that an output is a batch of numbers.

    Raises:
        ModelError: its first axis is not the batch, it is of a dtype that no bundle holds, or a value is not finite.
    """
    if not one.ndim or one.ndim != many.ndim or len(one) != 1 or len(many) < 2 or one.shape[1:] != many.shape[1:]:
        raise ModelError(
            f"Output {name} has the shape {one.shape} for one sample and {many.shape} for several; the first axis of an answer's "
            "part is the batch, and the others have the same sizes for every sample."
        )
    if many.dtype.name not in get_args(Dtype):
        raise ModelError(f"Output {name} is {many.dtype}, which no bundle holds: return {', '.join(get_args(Dtype))}.")
    if many.dtype.kind == "f" and not np.isfinite(many).all():
        raise ModelError(
            f"Output {name} holds NaN or infinity on the example, whose values are finite. Look for weights that are NaN, a "
            f"division by zero, or values too large for {many.dtype}."
        )
