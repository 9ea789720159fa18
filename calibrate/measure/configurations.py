"""Ways to run: a variant where it is placed, as a chain, and as the static networks that end at each of its exits.

Each way is loaded, recorded and measured, and let go before the next, so that a board holds one chain and its static
networks at a time. Beside each runs the yardstick, the whole network of the bundle's first variant; latencies of different ways
are compared in its measure, since a machine's own speed drifts.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from ...bundle import Bundle, Variant
from ...devices.meter import Meter
from ...progress import Progress
from ...runtime import EveryExit, Net, load_static
from ...runtime.chain.samples import Samples
from ...runtime.loading import load_uncalibrated
from ...runtime.placement import AUTO, one_device_per_stage
from .answers import record
from .energy import ExitEnergies, measure_energy, model_energy
from .latency import Turn, force_exits, latencies, measure, run_alone
from .resume import Kept
from .tables import Costs, Table

MIXED = 1024
"""Samples that latencies are measured on."""


class Setting(Struct, frozen=True, kw_only=True):
    """What every way is measured with.

    Attributes:
        whole, device: the yardstick, and where it runs.
        x, outer: the samples, and those from outside where there are some.
        kept: where what is done is kept, should the process be killed.
        meter: measures energy; None leaves it out.
        fingerprint: of the device.
        rng: draws samples, and the order of measurement.
        progress: is told what is being done.
    """

    whole: Net
    device: str
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
        return self.net.provenance.devices


class Answers(Struct, frozen=True):
    """What the exits of a chain say of samples, and by exit what static networks say that run elsewhere than its stages."""

    chain: EveryExit
    apart: dict[int, EveryExit]


class Way(Struct, frozen=True, kw_only=True):
    """A way that was measured.

    Attributes:
        variant, placement: what ran where.
        answers, outer: what is said of the samples, and of those from outside where there are some.
        chain: what leaving at each exit of the chain costs.
        statics: what the static network that ends at each exit costs.
        yardstick_s: median latency of the yardstick meanwhile.
        drifts_alike: whether the yardstick runs on one of its devices, so that it tells how that drifts.
    """

    variant: Variant
    placement: tuple[str, ...]
    answers: Answers
    outer: Answers | None
    chain: Costs
    statics: tuple[Costs, ...]
    yardstick_s: float
    drifts_alike: bool

    def drift(self, yardstick_s: float) -> float:
        """Return how much longer everything takes when the yardstick takes `yardstick_s`, as far as that tells."""
        return yardstick_s / self.yardstick_s if self.drifts_alike else 1.0

    @property
    def passing_s(self) -> tuple[float, ...]:
        """What each exit but the last takes from samples that do not leave there; see `points.Chain`."""
        if len(set(self.placement)) > 1:
            return ()
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
        placement = (AUTO,) if device == AUTO else one_device_per_stage(device, len(variant.stages))
        key = variant.name, placement
        if key not in self._opened:
            self.close()
            net = self._held.enter_context(load_uncalibrated(self._bundle, device, variant=variant.name, **self._how))
            ran = list(net.provenance.devices)
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


def measure_way(setting: Setting, opened: Opened, variant: Variant, *, seconds: float) -> Way:
    """Record all samples, and measure what leaving at each exit costs, the exits in equal shares.

    A static network says what the chain's exit says where both run on one device; where not, it is recorded by itself.

    Args:
        setting: with what.
        opened: the way; `variant` is what it runs.
        seconds: spent on latencies.
    """
    part = {"variant": variant.name, "digest": variant.digest, "placement": ", ".join(opened.placement)}
    exits = len(opened.statics)
    turns: dict[str, Turn] = {"chain": force_exits(opened.net, (1 / exits,) * exits, rng=setting.rng)}
    turns |= {f"static{k}": run_alone(static) for k, static in enumerate(opened.statics)}
    answers = _record(setting, opened, setting.x, part | {"samples": "given"})
    outer = None if setting.outer is None else _record(setting, opened, setting.outer, part | {"samples": "outside"})
    times, yardstick_s = measure_turns(setting, turns, seconds=seconds)
    power_w = None
    if setting.meter is not None:
        energies = _measure_energy(setting, opened.net, times["chain"], part)
        power_w = np.array([one.energy_j / one.latency_s for one in energies.exits])
    drawn = [None if power_w is None else power_w[k : k + 1] for k in range(exits)]
    return Way(
        variant=variant,
        placement=opened.placement,
        answers=answers,
        outer=outer,
        chain=Costs(times["chain"], power_w),
        statics=tuple(Costs(times[f"static{k}"], drawn[k]) for k in range(exits)),
        yardstick_s=yardstick_s,
        drifts_alike=setting.device in opened.placement,
    )


def _record(setting: Setting, opened: Opened, x: Samples, part: dict[str, str]) -> Answers:
    """Return what the chain says of samples, and what static networks say that run elsewhere than its stages."""
    apart = {
        k: setting.record(static, x, part | {"static": str(k)})
        for k, static in enumerate(opened.statics)
        if len(set(opened.placement[: k + 1])) > 1
    }
    return Answers(setting.record(opened.net, x, part), apart)


def measure_turns(
    setting: Setting, turns: Mapping[str, Turn], *, seconds: float
) -> tuple[dict[str, tuple[np.ndarray, ...]], float]:
    """Measure some turns interleaved with the yardstick.

    Args:
        setting: with what; up to `MIXED` samples that are drawn are used.
        turns, seconds: as for `measure`.

    Returns:
        For each turn the latencies in seconds of each of its contenders, and the yardstick's median latency meanwhile.
    """
    drawn = setting.x[setting.rng.permutation(len(setting.x))[:MIXED]]
    every = {f"turn {name}": turn for name, turn in turns.items()} | {"yardstick": run_alone(setting.whole)}
    results = measure(every, drawn, rng=setting.rng, progress=setting.progress, seconds=seconds)
    times = {name: tuple(latencies(one) for one in results[f"turn {name}"]) for name in turns}
    return times, float(np.median(latencies(results["yardstick"][0])))


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
        label=answers.label,
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
    found = measure_energy(
        net, setting.x[:MIXED], setting.meter, fingerprint=setting.fingerprint, progress=setting.progress
    )
    setting.kept.save(part, msgspec.json.encode(found))
    return found
