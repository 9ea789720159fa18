"""The inputs of somebody's torch network: an example for each, and the way the network takes them. Needs torch."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import DataError
from ...runtime.chain.samples import list_parts
from ..capture.forward import forward_names, forward_parameters, takes_by_name
from ..graph.axes import BATCH, first_line, resolve_axes

__all__ = ["ExampleInputs", "call_network", "map_inputs", "read_inputs", "split_batch"]


class ExampleInputs(NamedTuple):
    """Samples for every input of a network.

    Attributes:
        names: of the inputs.
        tensors: the samples of each input.
        batch_axes: the axis of each tensor that grows with the number of samples.
        by_name: the network takes its inputs by their names, not in their order.
    """

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    batch_axes: tuple[int, ...]
    by_name: bool

    @property
    def rows(self) -> int:
        """The number of samples."""
        return int(self.tensors[0].shape[self.batch_axes[0]])

    def of(self, rows: int) -> "ExampleInputs":
        """Return this many samples; if there are fewer, they are repeated in turn."""
        order = torch.arange(rows) % self.rows
        parts = [
            x.index_select(axis, order.to(x.device)) for x, axis in zip(self.tensors, self.batch_axes, strict=True)
        ]
        return self._replace(tensors=tuple(parts))

    def replaced(self, position: int, tensor: Tensor) -> "ExampleInputs":
        """Return the same samples but for one input."""
        parts = (*self.tensors[:position], tensor, *self.tensors[position + 1 :])
        return self._replace(tensors=parts)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> "ExampleInputs":
        """Return the samples with a function applied to each input."""
        return self._replace(tensors=tuple(map(function, self.tensors)))

    def run(self, network: Callable[..., Any]) -> Any:
        """Return what a network, or a function with the same arguments, gives. It gets copies, which it may change."""
        parts = [x.clone() for x in self.tensors]
        return network(**dict(zip(self.names, parts, strict=True))) if self.by_name else network(*parts)

    def __str__(self) -> str:
        return ", ".join(f"{tuple(x.shape)} {x.dtype}" for x in self.tensors)


def read_inputs(network: nn.Module, example: Any, axes: Any) -> ExampleInputs:
    """Return an example as tensors on the network's device.

    Args:
        network: takes the example.
        example: a tensor or array, a tuple of several, or a mapping from the names of the inputs.
        axes: the names of the inputs' axes, as `export` takes them.

    Raises:
        DataError: a part is no array with a batch axis, or the parts differ in their number of samples.
        UsageError: the axes do not fit the example.
    """
    is_named = isinstance(example, Mapping)
    values = list(example.values()) if is_named else list_parts(example)
    names = [str(name) for name in example] if is_named else forward_names(network, len(values))
    for name, x in zip(names, values, strict=True):
        if not isinstance(x, (Tensor, np.ndarray)) or not x.ndim:
            raise DataError(
                f"The example of input {name} is a {type(x).__name__}; it is a tensor or array with a batch axis, (N, ...). "
                "Several inputs are a tuple or dict of such; leave out what is None."
            )
    if not values:
        raise DataError(
            "The example is empty: it is an array with a batch axis, (N, ...), or a tuple or dict of several."
        )
    batch_axes = [axes_of_input.index(BATCH) for axes_of_input in resolve_axes(axes, names, values)]
    rows = {x.shape[axis] for x, axis in zip(values, batch_axes, strict=True)}
    if len(rows) != 1 or 0 in rows:
        raise DataError(
            f"The inputs of the example hold {sorted(rows)} samples along their batch axis: give the same number of "
            "each, at least one. For a batch axis that is not the first, name the axes with axes=."
        )
    device = next((p.device for p in network.parameters()), None)
    try:
        tensors = [
            torch.as_tensor(x.copy() if isinstance(x, np.ndarray) else x.detach(), device=device) for x in values
        ]
    except TypeError as error:  # of a dtype that torch does not have
        raise DataError(f"The example cannot become tensors: {first_line(error)}") from error
    by_name = is_named and _go_by_name(network, names)
    if by_name:
        _check_names(network, dict.fromkeys(names))
    else:  # the names of what the network's forward has no parameter for stay as they were given
        known = forward_names(network, len(values))
        names = [
            given if name == f"input{i}" else name for i, (given, name) in enumerate(zip(names, known, strict=True))
        ]
    return ExampleInputs(tuple(names), tuple(tensors), tuple(batch_axes), by_name)


def _go_by_name(network: nn.Module, names: list[str]) -> bool:
    """Tell whether a network takes a dict by its names. A single input may have any name; of several, none is mistaken so."""
    return len(names) > 1 or takes_by_name(network, names)


def _check_names(network: nn.Module, x: Mapping[str, Any]) -> None:
    """Refuse a dict that a network's forward does not take by its names.

    Raises:
        DataError: a name is unknown or missing.
    """
    try:
        inspect.Signature(list(forward_parameters(network).values())).bind(**x)
    except TypeError as error:
        raise DataError(
            f"The inputs {', '.join(map(str, x))} are not those of the network's forward: {error}. Name them as its parameters."
        ) from error


def call_network(network: nn.Module, x: Any) -> Any:
    """Return what a network gives for its inputs: a tensor, a tuple or list in their order, or a mapping from their names."""
    if isinstance(x, Mapping):
        if not _go_by_name(network, list(x)):
            return network(*x.values())
        _check_names(network, x)
        return network(**x)
    return network(*x) if isinstance(x, (tuple, list)) else network(x)


def map_inputs(x: Any, function: Callable[[Any], Tensor]) -> Any:
    """Return inputs with a function applied to each: a mapping, a list of several tensors or arrays, or a single one."""
    if isinstance(x, Mapping):
        return {str(name): function(part) for name, part in x.items()}
    if isinstance(x, (tuple, list)) and all(isinstance(part, (Tensor, np.ndarray)) for part in x):
        return [function(part) for part in x]
    return function(x)


def split_batch(batch: Any) -> tuple[Any, Any]:
    """Return inputs and labels of a batch of a loader.

    Raises:
        DataError: it is something else.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        parts = f" of {len(batch)} parts" if isinstance(batch, (tuple, list)) else ""
        raise DataError(f"A batch of the loader is (inputs, labels), not a {type(batch).__name__}{parts}.")
    return batch[0], batch[1]
