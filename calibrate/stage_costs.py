"""What each stage of a chain takes, and what it costs that its tensors come from another device."""

import math
from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from ..bundle import Variant
from ..runtime import Provenance

__all__ = ["StageCost", "find_stage_costs"]


class StageCost(Struct, frozen=True):
    """One stage on the device where it was placed.

    Attributes:
        device, runs_on: its device, and what really runs it as the engine reports it.
        latency_s: latency of leaving at this stage's exit minus the latency of leaving one exit earlier; for stage 0, all of it.
        crossing_bytes: bytes of one sample's tensors that come from stages on another device; tensors of open size do not count.
        crossing_s: how much longer the stage takes here than in a chain wholly on its device; None if no tensor crosses.

    Example:
        >>> from offramp.calibrate import bench, load_samples
        >>> stages = bench("digits.offramp", load_samples("test.npz", "digits.offramp")).stages
        >>> [(stage.device, stage.crossing_bytes) for stage in stages]
        [('cpu', 0), ('cpu', 0), ('cpu', 0)]
    """

    device: str
    runs_on: str
    latency_s: float
    crossing_bytes: int
    crossing_s: float | None


def find_stage_costs(
    variant: Variant, provenance: Provenance, mean_s: Mapping[str, np.ndarray]
) -> tuple[StageCost, ...]:
    """Return what each stage takes, from the mean latencies of leaving at each exit of the chain and of those on one device."""
    producers: dict[str, str] = {}
    costs = []
    own_s = np.diff(mean_s["forced"], prepend=0.0)
    for k, (stage, ran) in enumerate(zip(variant.stages, provenance.stages, strict=True)):
        crossing = [tensor for tensor in stage.inputs if producers.get(tensor.name, ran.device) != ran.device]
        producers |= {tensor.name: ran.device for tensor in stage.outputs}
        extra_s = None
        if crossing:
            extra_s = float(own_s[k] - np.diff(mean_s[f"on {ran.device}"], prepend=0.0)[k])
        sized = [tensor for tensor in crossing if tensor.is_sized]
        size = sum(math.prod(tensor.at(1)) * np.dtype(tensor.dtype).itemsize for tensor in sized)
        costs.append(StageCost(ran.device, ran.runs_on, float(own_s[k]), size, extra_s))
    return tuple(costs)
