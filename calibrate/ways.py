"""Ways to run: a variant where it is placed, as a chain, and as the static networks that end at each of its exits.

Each way is loaded, recorded and measured, and let go before the next, so that a board holds one of them at a time. Beside each
runs the yardstick, the whole network of the bundle's first variant; latencies of different ways are compared in its measure,
since a machine's own speed drifts.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from ..bundle import Bundle
from ..devices.meter import Meter
from ..runtime import EveryExit, Net, load_static
from ..runtime.loading import load_uncalibrated
from ..runtime.placing import AUTO, spread
from ..runtime.samples import Samples
from ..schema import Variant
from .energy import ExitEnergies, energy_per_exit, model_energy
from .measure import Turn, force_exits, latencies, measure, run_alone
from .record import Kept, record
from .samples import Progress
from .targets import Costs, Table

MIXED = 1024
"""Samples that latencies are measured on."""


class Setting(Struct, frozen=True, kw_only=True):
    """What every way is measured with.

    Attributes:
        whole: the yardstick.
        x, outer: the samples, and those from outside where there are some.
        kept: where what is done is kept, should the process be killed.
        meter: measures energy; None leaves it out.
        fingerprint: of the device.
        rng: draws samples, and the order of measurement.
        progress: is told what is being done.
    """

    whole: Net
    x: Samples
    outer: Samples | None
    kept: Kept
    meter: Meter | None
    fingerprint: dict[str, str]
    rng: np.random.Generator
    progress: Progress

    def record(self, net: Net, x: Samples, part: dict[str, str]) -> EveryExit:
        """Record samples; see `record.record`."""
        return record(net, x, kept=self.kept, part=part, progress=self.progress)


class Opened(Struct, frozen=True):
    """A way that is loaded: its chain, and the static networks that end at each exit."""

    net: Net
    statics: tuple[Net, ...]

    @property
    def placement(self) -> tuple[str, ...]:
        """The device of each stage."""
        return tuple(stage.device for stage in self.net.provenance.stages)


class Way(Struct, frozen=True, kw_only=True):
    """A way that was measured.

    Attributes:
        variant, placement: what ran where.
        answers, outer: what every exit says of the samples, and of those from outside where there are some.
        chain: what leaving at each exit of the chain costs.
        statics: what the static network that ends at each exit costs.
        yardstick_s: mean latency of the yardstick, in whose measure all latencies are given.
    """

    variant: Variant
    placement: tuple[str, ...]
    answers: EveryExit
    outer: EveryExit | None
    chain: Costs
    statics: tuple[Costs, ...]
    yardstick_s: float

    @property
    def passing_s(self) -> tuple[float, ...]:
        """What each exit but the last takes from samples that do not leave there; see `points.Chain`."""
        extra = self.chain.latency_s - np.array([static.latency_s[0] for static in self.statics])
        return tuple(np.diff(extra).tolist())


class Opener:
    """Loads one way at a time, and keeps it until another is asked for.

    Args:
        bundle: the bundle.
        how: threads, fallback and progress, as for `runtime.load`.
    """

    def __init__(self, bundle: Bundle, how: Mapping[str, Any]) -> None:
        self._bundle, self._how = bundle, dict(how)
        self._held, self._opened = ExitStack(), dict[tuple[str, tuple[str, ...]], Opened]()

    def open(self, variant: Variant, device: str | Sequence[str]) -> Opened:
        """Load a variant on a device, or on one for each stage."""
        placement = (AUTO,) if device == AUTO else spread(device, len(variant.stages))
        key = variant.name, placement
        if key not in self._opened:
            self.close()
            net = self._held.enter_context(load_uncalibrated(self._bundle, device, variant=variant.name, **self._how))
            ran = [stage.device for stage in net.provenance.stages]
            self._opened[key] = Opened(net, tuple(self.open_static(variant, ran, k) for k in range(len(ran))))
        return self._opened[key]

    def open_static(self, variant: Variant, placement: Sequence[str], exit_: int) -> Net:
        """Load the static network that ends at an exit, where the chain's stage to that exit runs."""
        return self._held.enter_context(
            load_static(self._bundle, placement[exit_], variant=variant.name, exit=exit_, threads=self._how["threads"])
        )

    def close(self) -> None:
        """Let go what is loaded."""
        self._held.close()
        self._opened.clear()


def measure_way(
    setting: Setting, opened: Opened, variant: Variant, *, seconds: float, yardstick_s: float | None
) -> Way:
    """Record all samples, and measure what leaving at each exit costs, the exits in equal shares.

    Args:
        setting: with what.
        opened: the way; `variant` is what it runs.
        seconds: spent on latencies.
        yardstick_s: as for `measure_turns`.
    """
    part = {"variant": variant.name, "digest": variant.digest, "placement": ", ".join(opened.placement)}
    answers = setting.record(opened.net, setting.x, part | {"samples": "given"})
    outer = None if setting.outer is None else setting.record(opened.net, setting.outer, part | {"samples": "outside"})
    exits = len(opened.statics)
    turns: dict[str, Turn] = {"chain": force_exits(opened.net, (1 / exits,) * exits, rng=setting.rng)}
    turns |= {f"static{k}": run_alone(static) for k, static in enumerate(opened.statics)}
    times = measure_turns(setting, turns, seconds=seconds, yardstick_s=yardstick_s)
    drawn_w, energy_j = None, None
    if setting.meter is not None:
        energies = _measure_energy(setting, opened.net, times["chain"], part)
        energy_j = np.array([one.energy_j for one in energies.exits])
        drawn_w = energy_j / np.array([one.latency_s for one in energies.exits])
    statics = []
    for k in range(exits):
        alone = times[f"static{k}"]
        statics.append(Costs(alone, None if drawn_w is None else alone[0].mean() * drawn_w[k : k + 1]))
    return Way(
        variant=variant,
        placement=opened.placement,
        answers=answers,
        outer=outer,
        chain=Costs(times["chain"], energy_j),
        statics=tuple(statics),
        yardstick_s=float(times["whole"][0].mean()),
    )


def measure_turns(
    setting: Setting, turns: Mapping[str, Turn], *, seconds: float, yardstick_s: float | None
) -> dict[str, tuple[np.ndarray, ...]]:
    """Measure some turns interleaved with the yardstick.

    Args:
        setting: with what; up to `MIXED` samples that are drawn are used.
        turns, seconds: as for `measure`.
        yardstick_s: the mean latency of the yardstick in whose measure all are given; None leaves them as they are.

    Returns:
        For each turn, and for `whole`, the latencies in seconds of each of its contenders.
    """
    drawn = setting.x[setting.rng.permutation(len(setting.x))[:MIXED]]
    turns = {**turns, "whole": run_alone(setting.whole)}
    results = measure(turns, drawn, rng=setting.rng, progress=setting.progress, seconds=seconds)
    times = {name: tuple(latencies(one) for one in found) for name, found in results.items()}
    factor = 1.0 if yardstick_s is None else yardstick_s / float(times["whole"][0].mean())
    return {name: tuple(factor * one for one in found) for name, found in times.items()}


def table_of(answers: EveryExit, whole: np.ndarray, y: np.ndarray | None, costs: Costs) -> Table:
    """Return the table of a chain.

    Args:
        answers: what its exits say of some samples.
        whole: what the yardstick says of them, int64 (N,).
        y: their labels, int64 (N,), or None.
        costs: of leaving at each exit.
    """
    return Table(
        score=answers.score,
        right=None if y is None else answers.label == y[:, None],
        whole=None if y is None else whole == y,
        differs=(answers.label != whole[:, None]).astype(np.int8),
        costs=costs,
    )


def _measure_energy(setting: Setting, net: Net, times: Sequence[np.ndarray], part: dict[str, str]) -> ExitEnergies:
    assert setting.meter is not None
    if setting.meter.grade == "modelled":
        (power_w,) = setting.meter.probes[0].read()
        return model_energy([float(one.mean()) for one in times], power_w, fingerprint=setting.fingerprint)
    part = part | {"samples": "energy"}
    if (content := setting.kept.load(part)) is not None:
        return msgspec.json.decode(content, type=ExitEnergies)
    found = energy_per_exit(
        net, setting.x[:MIXED], setting.meter, fingerprint=setting.fingerprint, progress=setting.progress
    )
    setting.kept.save(part, msgspec.json.encode(found))
    return found
