"""The layers that make a network's answers, whose channels pruning leaves, found by gradients. Needs torch."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..capture.answers import group_outputs
from ..capture.outputs import flatten_outputs

__all__ = ["find_answer_layers", "name_answers", "trace_outputs"]

PRODUCT_GRADIENTS = re.compile("Addmm|Mm|Bmm|Convolution|Linear")
"""Names of torch's gradient functions of convolutions and matrix products."""

LAYOUT_GRADIENTS = re.compile("T|Transpose|Permute|Expand")
"""Names of torch's gradient functions that may stand between a weight and its product."""


class _Sources(TorchFunctionMode):
    """Remembers what tensors without gradients, such as an argmax, were made of."""

    def __init__(self) -> None:
        super().__init__()
        # By id: the tensor too, or its id might be given out again.
        self._made: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        sources: dict[int, Tensor] = {}
        for x in tree_leaves((args, kwargs)):
            sources |= self.find(x)
        if sources:
            self._made |= {
                id(x): (x, sources) for x in tree_leaves(output) if isinstance(x, Tensor) and not x.requires_grad
            }
        return output

    def find(self, x: Any) -> dict[int, Tensor]:
        """Return the tensors with gradients that a value is, or was made of, by their ids."""
        if isinstance(x, Tensor) and x.requires_grad:
            return {id(x): x}
        return self._made[id(x)][1] if id(x) in self._made else {}


def name_answers(outputs: Mapping[str, Tensor], answer: Sequence[str]) -> list[str]:
    """Return which outputs of a network hold answers, or may hold them.

    Args:
        outputs: of the network, by name.
        answer: the names of the parts of an answer; none for logits, (batch, classes) or stacked (exit, batch, class), or for all
            outputs if none has such a shape.
    """
    if answer:
        return [output for parts in group_outputs(outputs, answer).values() for output in parts.values()]
    return [name for name, value in outputs.items() if value.ndim in (2, 3)] or list(outputs)


def trace_outputs(network: nn.Module, inputs: Sequence[Tensor], names: Collection[str] | None = None) -> list[Tensor]:
    """Run a network; return the tensors with gradients that its outputs, or those of some names, are or were made of."""
    with _Sources() as sources:
        outputs = flatten_outputs(network(*inputs))
    found: dict[int, Tensor] = {}
    for name, value in outputs.items():
        found |= sources.find(value) if names is None or name in names else {}
    return list(found.values())


def find_answer_layers(network: nn.Module, inputs: Sequence[Tensor], names: Collection[str]) -> list[nn.Module]:
    """Return the layers that make the outputs of these names: walking back from each, the first products with a weight."""
    todo: list[Any] = [value.grad_fn for value in trace_outputs(network, inputs, names)]
    seen, weights = set[Any](), set[int]()
    while todo:
        function = todo.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        sources = [source for source, _ in function.next_functions if source is not None]
        if PRODUCT_GRADIENTS.search(function.name()):
            # Leaves of the graph have a `variable`, the parameter itself; a weight may be transposed before its product.
            transposed = [g for f in sources if LAYOUT_GRADIENTS.match(f.name()) for g, _ in f.next_functions]
            if parameters := {id(leaf.variable) for leaf in (*sources, *transposed) if hasattr(leaf, "variable")}:
                weights |= parameters
                continue
        todo += sources
    return [m for m in network.modules() if id(getattr(m, "weight", None)) in weights]
