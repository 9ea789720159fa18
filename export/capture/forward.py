"""The parameters of a torch network's forward, which name its inputs."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["forward_names", "forward_parameters", "takes_by_name"]


def forward_names(module: "torch.nn.Module", inputs: int) -> list[str]:
    """Return the names of the first parameters of a network's forward; `input2` and so on for further inputs."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [name for name, p in forward_parameters(module).items() if p.kind in kinds][:inputs]
    return names + [f"input{i}" for i in range(len(names), inputs)]


def takes_by_name(module: Any, names: Sequence[str]) -> bool:
    """Tell whether a network's forward has parameters of these names, but they are not its first ones in this order."""
    parameters = forward_parameters(module)
    return forward_names(module, len(names)) != list(names) and all(name in parameters for name in names)


def forward_parameters(module: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a network's forward.

    A module that passes all inputs on names the inner module that takes them as its attribute `takes_inputs`.
    """
    inner: Any = getattr(module, "takes_inputs", None)
    return inspect.signature((inner if hasattr(inner, "forward") else module).forward).parameters
