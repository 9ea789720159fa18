"""The device `auto`: what is here is measured, and the fastest chosen."""

import warnings
from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from ..bundle.manifest import NEVER
from ..errors import EngineWarning, MissingError, OfframpError
from .chain.net import Net
from .engines import SIMULATOR, engines, name_device
from .placement import describe_devices

CANDIDATE_S = 0.3
"""Time spent on each candidate."""

LEAST_ROUNDS = 5
"""Rounds that are measured however slow the network is."""

SCORE_ERROR = 0.02
"""How far an exit's score may be from the golden one on a device that `auto` may choose: what half precision differs by."""


def choose_devices(
    open_on: Callable[[Sequence[str]], Net],
    samples: Sequence[object],
    scores: Sequence[Sequence[float]],
    shares: Sequence[float],
) -> tuple[tuple[str, ...], str]:
    """Measure the chain on every device that is here, and on the fastest one for each stage, and choose.

    A candidate costs the mean over the exits of its median latency when inputs leave there, weighted by how often they do.

    Args:
        open_on: loads the chain on a device for each stage.
        samples: what is run, as `Net` takes it.
        scores: what the exits should say of the samples, (samples, exits).
        shares: how often inputs leave at each exit, (exits,), summing to 1.

    Returns:
        The devices, and why they were chosen.

    Raises:
        MissingError: nothing runs the chain here.
    """
    stages, nets, left = len(shares), {}, []
    for module, engine in engines().items():
        try:
            places = engine.list_places()
        except MissingError as error:
            left.append(f"{module}: {error}")
            continue
        for place in places:
            name = name_device(module, engine, place)
            if place.partition(":")[0] == SIMULATOR:
                left.append(f"{name}: its latency says nothing of the device.")
                continue
            try:
                net = _open_right(open_on, (name,) * stages, samples, scores)
            except OfframpError as error:
                left.append(f"{name}: {error}")
            else:
                nets[(name,) * stages] = net
    if not nets:
        raise MissingError(f"No device runs this network. {' '.join(left)}")
    costs = _measure(nets, samples, shares)
    best = min(costs, key=lambda devices: costs[devices][0])
    # The first stage's cost holds what every call takes; the others' are differences of leaving one exit later.
    per_stage = {devices: [b - a for a, b in zip((0.0, *t), t, strict=False)] for devices, (_, t) in costs.items()}
    mixed = tuple(min(per_stage, key=lambda devices: per_stage[devices][k])[k] for k in range(stages))
    if mixed not in costs:
        try:
            pair = {best: nets[best], mixed: _open_right(open_on, mixed, samples, scores)}
        except OfframpError as error:
            left.append(f"{describe_devices(mixed)}: {error}")
        else:
            again = _measure(pair, samples, shares)
            costs |= again
            best = min(again, key=lambda devices: again[devices][0])
    listed = ", ".join(f"{describe_devices(devices)} {cost * 1e6:.0f} us" for devices, (cost, _) in costs.items())
    skipped = f" Left out: {' '.join(left)}" if left else ""
    return best, f"auto chose {describe_devices(best)} by the mean latency measured here: {listed}.{skipped}"


def _open_right(
    open_on: Callable[[Sequence[str]], Net],
    devices: tuple[str, ...],
    samples: Sequence[object],
    scores: Sequence[Sequence[float]],
) -> Net:
    """Load the chain and see that it says of the samples what it should.

    Raises:
        MissingError: it does not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)
        net = open_on(devices)
    stages = len(devices)
    for sample, right in zip(samples, scores, strict=True):
        for k in range(stages):
            net.thresholds = (NEVER,) * k + (0.0,) * (stages - 1 - k)
            if not abs(net(sample).score - right[k]) <= SCORE_ERROR:
                raise MissingError(f"its score at exit {k} is off by more than {SCORE_ERROR}.")
    return net


def _measure(
    nets: dict[tuple[str, ...], Net], samples: Sequence[object], shares: Sequence[float]
) -> dict[tuple[str, ...], tuple[float, list[float]]]:
    """Return for each chain its cost, and its median latency when inputs leave at each exit; all are run in turn."""
    exits = len(shares)
    times: dict[tuple[str, ...], list[list[float]]] = {devices: [[] for _ in shares] for devices in nets}
    start, rounds = perf_counter(), 0
    while rounds < LEAST_ROUNDS or perf_counter() - start < CANDIDATE_S * len(nets):
        for devices, net in nets.items():
            for k in range(exits):
                net.thresholds = (NEVER,) * k + (0.0,) * (exits - 1 - k)
                net(samples[0])
                times[devices][k].append(net(samples[rounds % len(samples)]).latency_s)
        rounds += 1
    found = {}
    for devices, at_exit in times.items():
        medians = [float(np.median(latencies)) for latencies in at_exit]
        found[devices] = sum(share * t for share, t in zip(shares, medians, strict=True)), medians
    return found
