"""What lives while a calibration measures: the reference network, the loaded configuration, the board's state, stored work."""

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import TypeVar

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from ...bundle import Variant
from ...bundle.across import Across
from ...bundle.calibration import Conditions
from ...bundle.manifest import NEVER
from ...devices import fingerprint, identify
from ...devices.state import BoardState, throttled_between
from ...errors import UnsupportedError
from ...runtime import EveryExit, Net, joined_stages, load_static
from ...runtime.chain.samples import Samples
from ...runtime.loading import load_uncalibrated
from ...runtime.opening import open_network
from ...runtime.placement import AUTO, one_device_per_stage
from ...runtime.request import LoadOptions, chain_parts
from ...runtime.selection import packages_of
from ..judging import Judge, ReferenceAnswers
from ..requests import PlacedVariant, Request
from ..truth import Truth
from .answers import record_answers
from .latency import Turn, force_exits, latencies, measure, run_alone
from .noise import comparison_noise, describe_drift, machine_noise, part_medians, pool_falling
from .pauses import describe_pauses
from .resume import Part, Resume, Work
from .tables import Costs

__all__ = ["TIMED_SAMPLES", "LoadedConfiguration", "Run", "Session"]

TIMED_SAMPLES = 1024
"""Samples that latencies and joules are measured on."""

Key = TypeVar("Key", bound=Hashable)


class Run(Struct, frozen=True):
    """What is measured again, in turns with others.

    Attributes:
        variant, placement: the variant, and the device of each stage.
        shares: of a chain the share of samples that leave at each exit, which is forced.
        static: the exit at which a static network ends; None for the chain.
        thresholds: of a chain: where they never take an exit it runs as it is loaded, with stages joined.
    """

    variant: Variant
    placement: tuple[str, ...]
    shares: tuple[float, ...] = ()
    static: int | None = None
    thresholds: tuple[float, ...] = ()


class LoadedConfiguration(Struct, frozen=True):
    """A variant that is loaded where it was placed: its chain, and the static networks that end at each of its exits.

    A chain across two variants has no static networks but theirs.
    """

    variant: Variant
    net: Net
    statics: tuple[Net, ...]

    @property
    def placement(self) -> tuple[str, ...]:
        """The device of each stage."""
        return self.net.provenance.devices


class Session:
    """Loads one configuration at a time beside the reference, so that a board holds one chain and its static networks.

    Attributes:
        request: what was asked for.
        placed: the variants and devices that can be loaded here, as far as they were tried.
        notes: what was left out and why, in words.
        reference, reference_device: the whole network of the first variant, and where it runs.
        reference_parts_s: its latencies in parts of each measurement, which show how the machine's speed changes; see `noise`.
        resume: stored work of an unfinished calibration.
    """

    reference: Net
    reference_device: str
    resume: Resume

    def __init__(self, request: Request) -> None:
        self.request = request
        self.placed, self.notes = request.placed, list[str]()
        self.reference_parts_s = list[np.ndarray]()
        self._recorded = dict[Hashable, EveryExit]()
        self._known = dict[Hashable, EveryExit]()
        self._answers = dict[Work, ReferenceAnswers]()
        self._board = BoardState()
        self._before = self._board()
        self._nets = ExitStack()
        self._loaded = dict[tuple[str, tuple[str, ...]], LoadedConfiguration]()
        self._reference_held = ExitStack()

    def __enter__(self) -> "Session":
        try:
            self._open_all()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_all(self) -> None:
        request = self.request
        for device in reversed(request.devices):  # one that is missing here is refused before anything is measured
            with suppress(UnsupportedError):
                self.open(next(placed for placed in self.placed if placed.device == device))
        loaded = next(self.open_each())
        self.reference_device = loaded.placement[-1]
        self.reference = self._reference_held.enter_context(
            load_static(
                request.bundle, self.reference_device, variant=request.reference_variant.name, threads=request.threads
            )
        )
        fields = self.fingerprint([*loaded.placement, *request.other_devices])
        self.resume = Resume(request.resume_key(fields))

    def tell_whole(self, done: int) -> None:
        """Report how many of all configurations are measured, and choosing behind them, in hundredths.

        Counted from 1, so that whoever shows what remains knows from the first one on how long each takes.
        """
        self.request.progress("calibrating", 100 * done + 1, 100 * len(self.placed) + 101)

    def open_each(self) -> Iterator[LoadedConfiguration]:
        """Load one configuration after the other. Those that cannot be loaded are left out with a note of the reason.

        Raises:
            UnsupportedError: none can be loaded, or variants were named and one of them cannot.
        """
        for placed in self.placed:
            try:
                loaded = self.open(placed)
            except UnsupportedError as error:
                if self.request.is_variant_named or self.placed == (placed,):
                    raise
                self.placed = tuple(other for other in self.placed if other is not placed)
                self.notes.append(f"{placed} is left out: {error}")
            else:
                yield loaded

    def open(self, placed: PlacedVariant) -> LoadedConfiguration:
        """Load a variant on a device, or on one for each stage; what was loaded before is let go."""
        variant, request = placed.variant, self.request
        placement = (AUTO,) if placed.device == AUTO else one_device_per_stage(placed.device, len(variant.stages))
        key = variant.name, placement
        if key not in self._loaded:
            self._nets.close()
            self._loaded.clear()
            net = self._nets.enter_context(
                load_uncalibrated(
                    request.bundle,
                    placed.device,
                    variant=variant.name,
                    threads=request.threads,
                    fallback=request.fallback,
                    progress=request.progress,
                )
            )
            devices = net.provenance.devices
            statics: tuple[Net, ...] = ()
            if not isinstance(variant, Across):  # whose static networks are those of its two variants
                statics = tuple(self.open_static(variant, device, k) for k, device in enumerate(devices))
            self._loaded[key] = LoadedConfiguration(variant, net, statics)
        return self._loaded[key]

    def open_static(self, variant: Variant, device: str, exit_: int) -> Net:
        """Load the static network that ends at an exit; it is let go with the loaded configuration."""
        return self._nets.enter_context(
            load_static(self.request.bundle, device, variant=variant.name, exit=exit_, threads=self.request.threads)
        )

    def open_joined(self, loaded: LoadedConfiguration, thresholds: Sequence[tuple[float, ...]]) -> Net:
        """Load a chain once more with the stages joined that `load` joins at these thresholds, since exits are never taken."""
        bundle, request = self.request.bundle, self.request
        options = LoadOptions(request.threads, fallback=request.fallback, joins=thresholds)
        parts = chain_parts(bundle, bundle.chain(loaded.variant.name))
        return self._nets.enter_context(open_network(parts, loaded.placement, options))

    def record(self, net: Net, x: Samples, part: Part, *, like: EveryExit | None = None) -> EveryExit:
        """Record the answers of a network, unless its graph answered before for another variant; see `record_answers`.

        A chain is compared with the static networks to its exits, if those are known, as those of a variant with fewer exits are.
        """
        request, graph = self.request, _identify_graph(part)
        if graph in self._recorded:
            return self._recorded[graph]
        exits = _identify_exits(part)
        if exits and all(each in self._known for each in exits):
            known = [self._known[each] for each in exits]
            like = EveryExit(np.hstack([each.label for each in known]), np.hstack([each.score for each in known]))
        judge = None
        if request.judging is not None:
            samples = request.samples if part.work == "given" else request.outside
            truth = samples.y if samples is not None and isinstance(samples.y, Truth) else None
            judge = Judge(request.judging, truth, self._answers.setdefault(part.work, ReferenceAnswers(self.reference)))
        answers = record_answers(
            net,
            x,
            judge=judge,
            progress=request.progress,
            threads=request.threads,
            resume=self.resume,
            part=part,
            save_s=request.save_s,
            like=like,
        )
        if answers is not like:
            self._recorded[graph] = answers
        if part.static is not None:
            self._known[graph] = answers
        return answers

    def measure_turns(
        self, turns: Mapping[Key, Turn], *, seconds: float, joined: Mapping[Key, Sequence[float]] | None = None
    ) -> tuple[dict[Key, Costs], np.ndarray]:
        """Measure some turns interleaved with the reference, on up to `TIMED_SAMPLES` samples drawn at random.

        Args:
            turns: what is measured.
            seconds: for how long.
            joined: the thresholds of those whose stages run as one where an exit is never taken.

        Returns:
            For each turn the costs of each of its exits, without power, and the reference's latencies at the same time.
        """
        request, x = self.request, self.request.samples.x
        drawn = x[request.rng.permutation(len(x))[:TIMED_SAMPLES]]
        every: dict[Hashable, Turn] = dict(turns.items())
        every[self.reference] = run_alone(self.reference, pace=request.pace)
        results = measure(
            every, drawn, rng=request.rng, progress=request.progress, seconds=seconds, block=request.pace.block
        )
        reference_s = latencies(results[self.reference][0])
        self.reference_parts_s.append(part_medians(reference_s))
        costs = {}
        for key in turns:
            thresholds = (joined or {}).get(key, ())
            times_s = pool_falling([latencies(exit_results) for exit_results in results[key]], thresholds)
            costs[key] = Costs(
                times_s,
                noise=comparison_noise(times_s, reference_s),
                machine_noise=machine_noise(times_s, self.reference_parts_s),
                joined=len(thresholds) > 0,
            )
        return costs, reference_s

    def measure_runs(self, runs: Mapping[Key, Run], *, seconds: float) -> tuple[dict[Key, Costs], np.ndarray]:
        """Measure a chain in some shares, and static networks, as `measure_turns` does. The chains, which
        are all of one variant in one placement, stand first."""
        request, turns, joined = self.request, dict[Key, Turn](), dict[Key, Sequence[float]]()
        chains = [run for run in runs.values() if run.static is None]
        never = [run.thresholds for run in chains if max(run.thresholds, default=0.0) >= NEVER]
        as_loaded: Net | None = None
        if never and joined_stages.DEVICE in chains[0].placement:
            as_loaded = self.open_joined(self.open(PlacedVariant(chains[0].variant, chains[0].placement)), never)
        for key, run in runs.items():
            if run.static is not None:
                net = self.open_static(run.variant, run.placement[0], run.static)
                turns[key] = run_alone(net, pace=request.pace)
                continue
            net = self.open(PlacedVariant(run.variant, run.placement)).net
            if as_loaded is not None and run.thresholds in never:
                chain = copy.copy(as_loaded)
                chain.thresholds = run.thresholds
                if chain.joins_stages:
                    net = chain
                    joined[key] = run.thresholds
            turns[key] = force_exits(net, run.shares, rng=request.rng, pace=request.pace)
        if as_loaded is not None and not joined:
            as_loaded.close()  # as with weights that are too large to be there once more
        return self.measure_turns(turns, seconds=seconds, joined=joined)

    def try_pauses(self) -> list[str]:
        """Try what pauses between calls would change, for a sixth of the time of one configuration, if no pace was given."""
        request = self.request
        if request.pace.every_s is not None:
            return []
        return describe_pauses(self.reference, request.samples.x, seconds=request.measure_s / 6)

    def describe_drift(self) -> list[str]:
        """Say in a note how far the machine's speed changed while it was measured; no note if it changed little."""
        return describe_drift(self.reference_parts_s, identify().how_to_fix_clocks)

    def fingerprint(self, devices: Sequence[str]) -> dict[str, str]:
        """Return the fingerprint of the board and of the software behind some devices."""
        return fingerprint(
            packages=packages_of(list(devices)), threads=self.request.threads, meter=self.request.meter_name
        )

    def conditions(self) -> Conditions:
        """Return the board's state at the start of the session and now."""
        before, now = self._before, self._board()
        return Conditions(
            (before.clock_hz, now.clock_hz),
            (before.temperature_c, now.temperature_c),
            throttled_between(before, now),
        )

    def close(self) -> None:
        """Let go all networks."""
        self._nets.close()
        self._loaded.clear()
        self._reference_held.close()


def _identify_exits(part: Part) -> list[Hashable]:
    """Return what the static networks are known by that end at each exit of a chain on one device; empty for another part."""
    if part.static is not None or len(set(part.placement)) > 1:
        return []
    return [_identify_graph(replace(part, static=k)) for k in range(len(part.variant.exits))]


def _identify_graph(part: Part) -> Hashable:
    """Return what decides the answers of a network: variants with fewer exits share the static networks of their parents."""
    variant, placement, static = part.variant, part.placement, part.static
    if static is None:
        return variant.name, placement, part.work
    return variant.folder, variant.exits[static].static, placement[min(static, len(placement) - 1)], part.work
