"""Latencies measured side by side.

    block 0:  [ chain x16 ] [ static 3 x16 ] [ forced exits, mixed, x32 ]
    block 1:  [ forced exits, mixed, x32 ] [ chain x16 ] [ static 3 x16 ]      order drawn anew
    ...

Machines drift and share their cores, so every network runs in every block, on the same samples. Within its turn a network runs
alone, as in a product, with warm caches. The exits of one chain are forced in the mix in which they occur, since a stage that
seldom runs is cold when it does: forced in equal shares the exits took 6 to 9 % too long, each on its own 1 to 2 % too short.
No sample is discarded: an outlier is as likely in one network's turns as in another's. With a `Pace` the process sleeps before
each call, as a product does that is called ten times a second.
"""

import copy
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from time import perf_counter
from typing import TypeVar

import numpy as np
from msgspec.structs import replace

from ...progress import Progress, no_progress
from ...runtime import Net, Result
from ...runtime.chain.samples import Samples
from ..pace import BACK_TO_BACK, Pace

LEAST_BLOCKS = 8
"""Blocks that are measured, however slow the network is."""

UNREACHED = 1.5
"""A threshold that no score reaches, though its exit is not one that is never taken."""

Turn = Callable[[Samples], Sequence[Sequence[Result]]]
"""Runs a block of samples; returns the results of each of its networks, or of each exit that it forces."""

Key = TypeVar("Key", bound=Hashable)
"""Names a turn: any object, such as the network that runs."""


def force_exits(
    net: Net, shares: Sequence[float], *, rng: np.random.Generator, pace: Pace = BACK_TO_BACK, every: int = 1
) -> Turn:
    """Make the turn that leaves a chain at exits drawn at random, whatever the scores; each exit occurs at least once per block.

    Args:
        net: the chain.
        shares: the share of samples that leave at each exit, (exits,); they sum to 1.
        rng: draws the exits.
        pace: of the calls.
        every: of so many blocks one is measured.
    """
    forced = leave_at_each(net)
    count = len(forced)
    blocks = itertools.count()

    def turn(x: Samples) -> Sequence[Sequence[Result]]:
        results: list[list[Result]] = [[] for _ in range(count)]
        if next(blocks) % every:
            return results
        drawn = np.concatenate([np.arange(count), rng.choice(count, 2 * pace.block, p=shares)])
        for i, k in enumerate(rng.permutation(drawn)):
            pace.wait()
            results[k].append(forced[k](x[i % len(x)]))
        return results

    return turn


def leave_at_each(net: Net) -> list[Net]:
    """Make for each exit a copy of a chain that always leaves there; the copies share its stages and memory.

    Exits before it that the chain may take are called and passed, since stages are joined only where an exit is never taken.
    """
    forced = [copy.copy(net) for _ in net.exits]
    for k, chain in enumerate(forced):
        passed = [max(threshold, UNREACHED) for threshold in net.thresholds[:k]]
        chain.thresholds = passed + [0.0] * (len(forced) - 1 - k)
    return forced


def forced_latencies(
    net: Net,
    x: Samples,
    *,
    seconds: float = 3.0,
    seed: int = 0,
    pace: Pace = BACK_TO_BACK,
    progress: Progress = no_progress,
) -> list[float]:
    """Measure the mean latency of leaving at each exit, in seconds, all exits in equal shares."""
    rng, shares = np.random.default_rng(seed), np.full(len(net.exits), 1 / len(net.exits))
    turns = {"forced": force_exits(net, shares.tolist(), rng=rng, pace=pace)}
    results = measure(turns, x, rng=rng, progress=progress, seconds=seconds, block=pace.block)["forced"]
    return [float(latencies(exit_results).mean()) for exit_results in results]


def run_alone(net: Net, *, pace: Pace = BACK_TO_BACK) -> Turn:
    """Make the turn of a single network, called at a pace."""

    def turn(x: Samples) -> Sequence[Sequence[Result]]:
        results = []
        for sample in x:
            pace.wait()
            results.append(net(sample))
        return [results]

    return turn


def measure(
    turns: Mapping[Key, Turn],
    x: Samples,
    *,
    rng: np.random.Generator,
    progress: Progress,
    seconds: float | None = None,
    block: int = BACK_TO_BACK.block,
) -> dict[Key, list[list[Result]]]:
    """Run every turn on every block of samples, interleaved.

    Args:
        turns: by their keys.
        x: the samples.
        rng: draws the order within each block.
        progress: is told after each block.
        seconds: stop after the block in which this much time has passed, but not before `LEAST_BLOCKS` blocks, going round the
            samples as often as it takes; None runs every sample once.
        block: samples per turn.

    Returns:
        For each turn, the results of each of its networks or exits; a network that runs alone keeps the order of the samples.
    """
    for turn in turns.values():  # first calls allocate and compile
        turn(x[:block])
    collected: dict[Key, list[list[Result]]] = {key: [] for key in turns}
    start, keys, done = perf_counter(), list(turns), 0
    blocks = -(-len(x) // block)
    while True:
        part = x[done % blocks * block : (done % blocks + 1) * block]
        for i in rng.permutation(len(keys)):
            results = turns[keys[i]](part)
            collected[keys[i]] = collected[keys[i]] or [[] for _ in results]
            for earlier, new in zip(collected[keys[i]], results, strict=True):
                earlier.extend(_without_answer(result) for result in new)
        done += 1
        if seconds is None:
            progress("measuring", min(done * block, len(x)), len(x))
            if done == blocks:
                return collected
        else:
            share = min((perf_counter() - start) / seconds, done / LEAST_BLOCKS, 1.0)
            progress("measuring", int(share * 100), 100)
            if share == 1:
                return collected


def _without_answer(result: Result) -> Result:
    """Return a result without boxes or masks, of which thousands would fill the memory."""
    return result if result.answer is None else replace(result, answer=None)


def latencies(results: Sequence[Result]) -> np.ndarray:
    """Return the latencies in seconds, float64 (N,)."""
    return np.array([result.latency_s for result in results])
