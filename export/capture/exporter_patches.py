"""Patches for torch's exporters: adaptive pooling to sizes that do not divide, attention, and recurrent layers."""

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


class Decompositions(TorchFunctionMode):
    """While this is active, what the exporters do not know is computed by what they know.

    Adaptive pooling to a size that does not divide its input is computed by slices; attention over other than four axes by its
    products.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the call if it is such a pooling or attention."""
        kwargs = kwargs or {}
        if function is F.scaled_dot_product_attention and not kwargs.get("enable_gqa"):
            query = args[0] if args else kwargs["query"]
            if query.ndim != 4:
                return _attend(*args, **kwargs)
        pool = ADAPTIVE_POOLS.get(function)
        if pool is not None and not kwargs.get("return_indices"):
            axes, reduce = pool
            names = dict(zip(("input", "output_size"), args, strict=False)) | kwargs
            x = names.get("input", names.get("self"))
            sizes = _uneven_sizes(x, names["output_size"], axes)
            if sizes is not None:
                for i, size in enumerate(sizes):
                    x = _pool_axis(x, i - axes, size, reduce)
                return x
        return function(*args, **kwargs)


class QuietRecurrent(TorchFunctionMode):
    """While this is active, comparisons of sizes within torch's own recurrent layers give no tracer warning."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Hide the warning if the layers compare; the graph is compared afterwards at other sizes."""
        if (
            function is torch.Tensor.__bool__
            and sys._getframe(1).f_globals.get("__name__") == torch.nn.modules.rnn.__name__
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return function(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **_: Any,
) -> torch.Tensor:
    """Attention as the documentation of torch's `scaled_dot_product_attention` defines it, without dropout."""
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = scores.softmax(-1)
    if attn_mask is not None:  # a query that may see nothing gets 0, not the NaN of a softmax over nothing
        weights = weights.masked_fill(scores.amax(-1, keepdim=True) == float("-inf"), 0.0)
    return weights @ value


def _uneven_sizes(x: torch.Tensor, wanted: Any, axes: int) -> list[int] | None:
    """Return the output sizes if one of them does not divide its axis, else None.

    Raises:
        ModelError: a pooled axis is dynamic and its output size is not 1.
    """
    wanted = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted] * axes
    sizes, uneven = [], False
    for i, size in enumerate(wanted):
        with warnings.catch_warnings():
            # Tracing warns of int(); a size that really changes fails the checks that follow.
            warnings.simplefilter("ignore")
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
