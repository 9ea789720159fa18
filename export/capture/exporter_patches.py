"""What torch's exporters are helped with: adaptive pooling to sizes that do not divide, and recurrent layers."""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ...errors import ModelError

ADAPTIVE_POOLS: dict[Any, tuple[int, Callable[..., torch.Tensor]]] = {
    F.adaptive_avg_pool1d: (1, torch.mean),
    F.adaptive_avg_pool2d: (2, torch.mean),
    F.adaptive_avg_pool3d: (3, torch.mean),
    F.adaptive_max_pool1d: (1, torch.amax),
    F.adaptive_max_pool2d: (2, torch.amax),
    F.adaptive_max_pool3d: (3, torch.amax),
    torch.adaptive_avg_pool1d: (1, torch.mean),
    torch._C._nn.adaptive_avg_pool2d: (2, torch.mean),
    torch._C._nn.adaptive_avg_pool3d: (3, torch.mean),
}


class SlicedPooling(TorchFunctionMode):
    """While this is active, adaptive pooling to a size that does not divide its input is done by slices."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the call where it is such a pooling."""
        kwargs = kwargs or {}
        pool = ADAPTIVE_POOLS.get(function)
        if pool is not None and not kwargs.get("return_indices"):
            axes, reduce = pool
            names = dict(zip(("input", "output_size"), args, strict=False)) | kwargs
            x = names.get("input", names.get("self"))
            sizes = _sizes(x, names["output_size"], axes)
            if sizes is not None:
                for i, size in enumerate(sizes):
                    x = _pool_axis(x, i - axes, size, reduce)
                return x
        return function(*args, **kwargs)


class QuietRecurrent(TorchFunctionMode):
    """While this is active, comparisons of sizes within torch's own recurrent layers give no tracer warning."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hide the warning where the layers ask; what they decide is compared afterwards, at other sizes."""
        if (
            function is torch.Tensor.__bool__
            and sys._getframe(1).f_globals.get("__name__") == torch.nn.modules.rnn.__name__
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return function(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _sizes(x: torch.Tensor, wanted: Any, axes: int) -> list[int] | None:
    """Return the output sizes where one of them does not divide its axis.

    Raises:
        ModelError: such an axis is dynamic.
    """
    wanted = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted] * axes
    sizes, uneven = [], False
    for i, size in enumerate(wanted):
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # tracing warns of int(); a size that really changes fails the checks that follow
            length = x.shape[i - axes]
            if isinstance(length, torch.SymInt) and size not in (1, None):
                raise ModelError(
                    f"Adaptive pooling to {size} over an axis whose length differs from call to call cannot be exported: "
                    "pool to 1, or fix the length."
                )
            sizes.append(int(length) if size is None else int(size))
            uneven = uneven or (size not in (1, None) and int(length) % int(size) != 0)
    return sizes if uneven else None


def _pool_axis(x: torch.Tensor, axis: int, size: int, reduce: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Pool one axis; pooling is separable, since every window is a box.

    Window i covers floor(i * length / size) to ceil((i + 1) * length / size), as torch's documentation of adaptive pooling says.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        length = int(x.shape[axis])
    bounds = [(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    return torch.cat([reduce(x.narrow(axis, a, b - a), axis, keepdim=True) for a, b in bounds], axis)
