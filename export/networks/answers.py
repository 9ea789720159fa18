"""The answer in what somebody's plain network returns: one tensor, or tensors by name. Needs torch."""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

from torch import Tensor

from ...errors import ModelError, unknown_name

__all__ = ["ALONE", "Answer", "answer_of", "count_classes", "name_parts", "show_answer"]

ALONE = ""
"""The name of an answer that is one tensor without a name."""

Answer = dict[str, Tensor]
"""The parts of an answer, each (batch, ...), by name; `ALONE` is the name of an only one without a name."""


def answer_of(output: Any, names: Sequence[str] = ()) -> Answer:
    """Return the answer in the output of a plain network.

    That is a tensor alone, or from a dict or dataclass the parts that are named. Where none is named, it is the logits: the only
    matrix of floats, or that called `logits`; where there are none, all tensors.

    Raises:
        UsageError: the output has no part of a name.
        ModelError: the output holds no tensor, a part is no float tensor, or it has no batch axis.
    """
    parts = name_parts(output) or ({ALONE: output} if isinstance(output, Tensor) else {})
    for name in names:
        if name not in parts or name == ALONE:
            raise unknown_name("part of the network's answer", name, [part for part in parts if part])
    if names:
        answer = {name: parts[name] for name in names}
    else:
        answer = {name: x for name, x in parts.items() if isinstance(x, Tensor)}
        matrices = {name: x for name, x in answer.items() if x.ndim == 2 and x.is_floating_point()}
        if "logits" in matrices or len(matrices) == 1:
            answer = {ALONE: matrices["logits"] if "logits" in matrices else next(iter(matrices.values()))}
        elif len(answer) == 1:
            answer = {ALONE: next(iter(answer.values()))}
    if not answer:
        has_exits = isinstance(output, (list, tuple)) and len(output) > 1 and all(isinstance(x, Tensor) for x in output)
        raise ModelError(
            f"The network returns a {type(output).__name__}; exits go on a network that returns one tensor, or tensors by name "
            "in a dict or dataclass. Wrap a network that returns something else in a module that does."
            f"{' If these tensors are exits already, export takes the network as it is.' if has_exits else ''}"
        )
    for name, x in answer.items():
        if not isinstance(x, Tensor) or not x.is_floating_point() or not x.ndim:
            what = f"{x.dtype} {tuple(x.shape)}".removeprefix("torch.") if isinstance(x, Tensor) else type(x).__name__
            raise ModelError(
                f"{f'The part {name} of what the network returns' if name else 'What the network returns'} is {what}; the heads "
                "of exits give floats (batch, ...). Return what it is made of, such as the logits in front of an argmax, or "
                "name the other parts: answer=[...]."
            )
    return answer


def count_classes(answer: Answer) -> int | None:
    """Return the number of classes, or of other numbers, if an answer is one matrix (batch, classes); else None."""
    x = answer.get(ALONE)
    return int(x.shape[1]) if x is not None and x.ndim == 2 else None


def show_answer(answer: Any) -> str:
    """Return the shape of a tensor, or the names and shapes of parts: `boxes (4, 5, 36), classes (4, 10, 36)`."""
    if isinstance(answer, Mapping):
        return ", ".join(f"{name} {show_answer(x)}".strip() for name, x in answer.items())
    return str(tuple(answer.shape)) if isinstance(answer, Tensor) else f"a {type(answer).__name__}"


def name_parts(output: Any) -> Mapping[str, Any]:
    """Return the parts of a dict or dataclass by their names; nothing for another kind of output."""
    if isinstance(output, Mapping):
        return output
    return vars(output) if is_dataclass(output) else {}
