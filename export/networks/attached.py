"""The network with heads that `attach` returns. Needs torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from ...errors import ModelError
from .answers import ALONE, Answer, answer_of
from .heads import arrange, features_of, hooked
from .masks import Mask
from .places import Place

__all__ = ["Attached"]


class Attached(nn.Module):
    """A network with heads on the outputs of some of its modules. Printed, it says where they are and how they read.

    Attributes:
        network: the plain network.
        heads: one module per place: features -> an answer, logits (batch, classes) for a classifier.
        places: the names of the places, in the order in which they run.
        attached: a `Place` for each head: its share of the network's work, and which axes of the features it takes for what.
        notes: what is not as it was asked for, a sentence each.
        frozen: True if `network` stays in eval mode while the heads train.
    """

    def __init__(
        self,
        network: nn.Module,
        attached: Sequence[Place],
        heads: Sequence[nn.Module],
        *,
        frozen: bool,
        answer: Sequence[str] = (),
        mask: Mask | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.network, self.heads = network, nn.ModuleList(heads)
        self.attached, self.notes = tuple(attached), tuple(notes)
        self.places = tuple(place.name for place in attached)
        self.frozen, self._mask, self._answer = frozen, mask, tuple(answer)

    @property
    def takes_inputs(self) -> nn.Module:
        """The module that all inputs are passed to; `export` names the inputs by its forward."""
        return self.network

    @property
    def exit_places(self) -> dict[str, str]:
        """The name of the place of each exit, by the name that `export` gives the exit: {"exit0": "layer1.0"}."""
        return {f"exit{k}": name for k, name in enumerate(self.places)}

    def forward(self, *inputs: Any, **named: Any) -> list[Any]:
        """Return the answer of every exit, the network's own last: a tensor, logits (batch, classes), or a dict of tensors."""
        features, answer = self.read_features(*inputs, **named)
        keep = self._read_mask(inputs, named)
        exits = []
        for place, head, x in zip(self.attached, self.heads, features, strict=True):
            x = arrange(x, place.layout)
            exits.append(head(x, keep) if place.mask and keep is not None else head(x))
        return [*exits, answer.get(ALONE, answer)]

    def read_features(self, *inputs: Any, **named: Any) -> tuple[list[Tensor], Answer]:
        """Return the features at every place, as the network has them, and the parts of the network's own answer.

        Raises:
            ModelError: a module ran less often than on the example, or gave no features.
        """
        wanted = {(place.module, place.run) for place in self.attached}
        runs: Counter[str] = Counter()
        recorded: dict[tuple[str, int], Tensor] = {}

        def record(name: str, _module: nn.Module, _: Any, output: Any) -> None:
            runs[name] += 1
            if (name, runs[name]) in wanted and (features := features_of(output)) is not None:
                recorded[name, runs[name]] = features.clone()  # the next layer may change its input in place

        # Not by the module that a hook is called with: torch.export stands in for shared modules, each time with another object.
        names = {place.module for place in self.attached}
        with hooked({self.network.get_submodule(name): partial(record, name) for name in names}):
            answer = answer_of(self.network(*inputs, **named), self._answer)
        for place in self.attached:
            if (place.module, place.run) not in recorded:
                raise ModelError(
                    f"The exit at {place.name} has no features on this input: {place.module} ran {runs[place.module]} times. "
                    "A module that runs another number of times for other inputs cannot have an exit there."
                )
        return [recorded[place.module, place.run] for place in self.attached], answer

    def _read_mask(self, inputs: Sequence[Any], named: Mapping[str, Any]) -> Tensor | None:
        """Return where tokens count, booleans (batch, tokens); None if no mask was given."""
        if self._mask is None:
            return None
        position = self._mask.position
        mask = named.get(self._mask.name, inputs[position] if position < len(inputs) else None)
        return None if mask is None else self._mask.keeps(mask)

    def _get_name(self) -> str:
        """Return the name of the network's class, by which torch prints this module."""
        return str(self.network._get_name())  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """Return a line for each place, and the notes, for print()."""
        return "\n".join([*(f"exit {k} at {place}" for k, place in enumerate(self.attached)), *self.notes])

    def train(self, mode: bool = True) -> "Attached":
        """Set the mode of the heads and of the network; a frozen network stays in eval mode."""
        super().train(mode)
        self.network.train(mode and not self.frozen)
        return self
