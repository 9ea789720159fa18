"""The device `auto`: the devices of this machine are measured, and the fastest is chosen."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import numpy as np
from msgspec import Struct

from ..bundle.manifest import NEVER
from ..errors import EngineWarning, MissingError, OfframpError
from ..progress import debug
from ..units import show_us
from .chain.net import Net
from .engines import SIMULATOR, engines, name_device
from .placement import describe_devices

__all__ = ["choose_devices"]

CANDIDATE_S = 0.3
"""Time spent on measuring each candidate."""

LEAST_ROUNDS = 5
"""Rounds that are measured however slow the network is."""

SCORE_ERROR = 0.02
"""How far an exit's score may be from the golden one on a device that `auto` may choose. Half precision differs by that much."""

Devices = tuple[str, ...]
"""The device of each stage."""


class Cost(Struct, frozen=True):
    """What a candidate takes.

    Attributes:
        mean_s: mean latency, weighted by how often inputs leave at each exit.
        exits_s: median latency of leaving at each exit.
    """

    mean_s: float
    exits_s: list[float]

    @property
    def stages_s(self) -> list[float]:
        """What each stage adds. The first stage's time includes what every call takes."""
        return [late - early for early, late in zip((0.0, *self.exits_s), self.exits_s, strict=False)]


class GoldenRun(Struct, frozen=True):
    """The golden samples: which scores a candidate must give for them, and how often inputs leave at each exit.

    Attributes:
        samples: as `Net` takes them.
        scores: the golden score at each exit, (samples, exits).
        shares: how often inputs leave at each exit, (exits,), summing to 1.
    """

    samples: Sequence[object]
    scores: Sequence[Sequence[float]]
    shares: Sequence[float]


def choose_devices(
    open_on: Callable[[Sequence[str]], Net],
    samples: Sequence[object],
    scores: Sequence[Sequence[float]],
    shares: Sequence[float],
) -> tuple[Devices, str]:
    """Measure the chain on every device of this machine, and on the fastest device for each stage; choose.

    Args:
        open_on: loads the chain on a device for each stage.
        samples, scores: inputs as `Net` takes them, and their golden score at each exit, (samples, exits).
        shares: how often inputs leave at each exit, (exits,), summing to 1. A candidate costs the mean over the exits of its
            median latency when inputs leave there, weighted so.

    Returns:
        The devices, and why they were chosen.

    Raises:
        MissingError: no device of this machine runs the chain.
    """
    golden = GoldenRun(samples, scores, shares)
    nets, refusals = _open_everywhere(open_on, golden)
    if not nets:
        raise MissingError(f"No device runs this network. {_list_refusals(refusals)}", device="auto")
    costs = _measure(nets, golden)
    best = min(costs, key=lambda devices: costs[devices].mean_s)
    mixed = tuple(min(costs, key=lambda devices: costs[devices].stages_s[k])[k] for k in range(len(shares)))
    if mixed not in costs:
        try:
            pair = {best: nets[best], mixed: _open_checked(open_on, mixed, golden)}
        except OfframpError as error:
            refusals.append(f"{describe_devices(mixed)}: {error}")
        else:
            pair_costs = _measure(pair, golden)
            costs |= pair_costs
            best = min(pair_costs, key=lambda devices: pair_costs[devices].mean_s)
    listed = ", ".join(f"{describe_devices(devices)} {show_us(cost.mean_s)}" for devices, cost in costs.items())
    skipped = f" Left out: {_list_refusals(refusals)}" if refusals else ""
    for devices, cost in costs.items():
        debug("%s: leaving at the exits takes %s s", describe_devices(devices), cost.exits_s)
    reason = f"auto chose {describe_devices(best)} by the mean latency measured here: {listed}.{skipped}"
    debug("%s", reason)
    return best, reason


def _list_refusals(refusals: Sequence[str]) -> str:
    """Write why devices were left out, of which some end with a command and some with a full stop."""
    return f"{'; '.join(why.rstrip('.') for why in refusals)}."


def _open_everywhere(
    open_on: Callable[[Sequence[str]], Net], golden: GoldenRun
) -> tuple[dict[Devices, Net], list[str]]:
    """Load the chain on each device of this machine; return the nets that answer rightly, and why the others do not take part."""
    nets: dict[Devices, Net] = {}
    refusals: list[str] = []
    stages = len(golden.shares)
    for module, engine in engines().items():
        try:
            places = engine.list_places()
        except MissingError as error:
            refusals.append(f"{module}: {error}")
            continue
        for place in places:
            name = name_device(module, place)
            if place.partition(":")[0] == SIMULATOR:
                refusals.append(f"{name}: a simulator's latency is not the device's.")
                continue
            try:
                nets[(name,) * stages] = _open_checked(open_on, (name,) * stages, golden)
            except OfframpError as error:
                refusals.append(f"{name}: {error}")
    return nets, refusals


def _open_checked(open_on: Callable[[Sequence[str]], Net], devices: Devices, golden: GoldenRun) -> Net:
    """Load the chain and compare its scores with the golden ones.

    Raises:
        MissingError: a score differs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)
        net = open_on(devices)
    stages = len(devices)
    for sample, scores in zip(golden.samples, golden.scores, strict=True):
        for k in range(stages):
            net.thresholds = _leave_at(k, stages)
            if not abs(net(sample).score - scores[k]) <= SCORE_ERROR:
                raise MissingError(f"its score at exit {k} is off by more than {SCORE_ERROR}.", device=devices[k])
    return net


def _leave_at(exit_: int, exits: int) -> tuple[float, ...]:
    """Return thresholds by which every input leaves at one exit."""
    return (NEVER,) * exit_ + (0.0,) * (exits - 1 - exit_)


def _measure(nets: Mapping[Devices, Net], golden: GoldenRun) -> dict[Devices, Cost]:
    """Return what each chain takes. The chains run in turn, so that the machine's drift meets all of them."""
    exits, samples = len(golden.shares), golden.samples
    times: dict[Devices, list[list[float]]] = {devices: [[] for _ in golden.shares] for devices in nets}
    start, rounds = perf_counter(), 0
    while rounds < LEAST_ROUNDS or perf_counter() - start < CANDIDATE_S * len(nets):
        for devices, net in nets.items():
            for k in range(exits):
                net.thresholds = _leave_at(k, exits)
                net(samples[0])
                times[devices][k].append(net(samples[rounds % len(samples)]).latency_s)
        rounds += 1
    costs = {}
    for devices, by_exit in times.items():
        medians = [float(np.median(latencies)) for latencies in by_exit]
        mean_s = sum(share * median for share, median in zip(golden.shares, medians, strict=True))
        costs[devices] = Cost(mean_s, medians)
    return costs
