"""Latencies of a bundle with all exits, and of variants of it with some, measured on the device beside each other."""

from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
from msgspec import Struct

from ...bundle import Bundle, open_bundle
from ...calibrate.measure.latency import Turn, force_exits, latencies, measure, run_alone
from ...export import keep
from ...progress import Progress
from ...runtime import load_static, load_uncalibrated
from ...runtime.chain.samples import Samples
from .search import Exits

__all__ = ["Timing", "keep_exits", "measure_sets"]

Run = tuple[str, Exits]


class Timing(Struct, frozen=True, kw_only=True):
    """Median latencies of one measurement, in units of the whole network's beside them; a machine's own speed drifts.

    Attributes:
        whole_s: the latency of the whole network, in seconds.
        statics: of the static network that ends at each exit that was measured, by its number.
        chains: for each set of exits, of leaving at each.
    """

    whole_s: float
    statics: dict[int, float]
    chains: list[tuple[Exits, tuple[float, ...]]]


def keep_exits(bundle: Bundle, exits: Exits) -> tuple[Bundle, str]:
    """Return the bundle with a variant that has these exits of the first one, and the variant's name; made if it is not there."""
    bundle = open_bundle(bundle.path)  # it may have got variants since
    first = bundle.variant()
    if len(exits) == len(first.exits):
        return bundle, first.name
    name = f"{first.name}-exits{'-'.join(map(str, exits))}"
    if name not in [variant.name for variant in bundle.manifest.variants]:
        bundle = keep(bundle, exits, name=name)
    return bundle, name


def measure_sets(
    bundle: Bundle,
    x: Samples,
    sets: Sequence[Exits],
    *,
    statics: Sequence[int] = (),
    device: str,
    threads: int,
    seconds: float,
    progress: Progress,
) -> Timing:
    """Measure the chains of some sets of exits, and static networks beside them.

    Args:
        bundle: with all exits in its first variant.
        x: samples to run.
        sets: numbers of exits; each gets a variant in the bundle.
        statics: the exits whose static networks are measured, besides the last.
        device, threads: where they run, as for `load`.
        seconds: how long it takes, about.
        progress: is told as it goes on.
    """
    last = len(bundle.variant().exits) - 1
    rng = np.random.default_rng(0)
    turns: dict[Hashable, Turn] = {}
    with ExitStack() as stack:
        for k in sorted({*statics, last}):
            net = stack.enter_context(load_static(bundle, device, exit=k, threads=threads))
            turns[k] = run_alone(net)
        for exits in sets:
            bundle, name = keep_exits(bundle, exits)
            net = stack.enter_context(load_uncalibrated(bundle, device, variant=name, threads=threads))
            turns[exits] = force_exits(net, np.full(len(exits), 1 / len(exits)).tolist(), rng=rng)
        results = measure(turns, x, rng=rng, progress=progress, seconds=seconds)
    medians = {key: [float(np.median(latencies(each))) for each in forced] for key, forced in results.items()}
    whole_s = medians[last][0]
    relative: Mapping[Hashable, tuple[float, ...]] = {
        key: tuple(each / whole_s for each in found) for key, found in medians.items()
    }
    return Timing(
        whole_s=whole_s,
        statics={k: relative[k][0] for k in sorted({*statics, last})},
        chains=[(exits, relative[exits]) for exits in sets],
    )
