"""What goes to stages on servers and comes back, and what that costs."""

from collections.abc import Iterable

import numpy as np

from ...bundle import Target
from ...errors import UsageError
from ...runtime import Net
from ...runtime.chain.samples import Samples

__all__ = ["link_bytes", "read_link_price"]


def read_link_price(targets: Iterable[Target]) -> float:
    """Return the joules of a byte that targets name; 0 if none does.

    Raises:
        UsageError: they name different ones.
    """
    prices = {target.link_j_per_byte for target in targets if target.needs_energy} or {None}
    if len(prices) > 1:
        raise UsageError("link_j_per_byte is a fact of the link: give all targets of an energy the same.")
    return prices.pop() or 0.0


def link_bytes(net: Net, x: Samples) -> np.ndarray:
    """Return how many bytes of messages a sample costs that leaves at each exit, float64 (exits,)."""
    stages = [link.compiled for link in net._links]
    if not any(hasattr(stage, "last_bytes") for stage in stages):
        return np.zeros(len(stages))
    net.every_exit(x[:1])
    return np.cumsum([float(getattr(stage, "last_bytes", 0)) for stage in stages])
