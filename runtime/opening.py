"""From the parts of a network to one that runs: stages compiled for their devices, chained, and watched."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..bundle import OperatingPoint
from ..bundle.across import Across
from ..bundle.manifest import NEVER
from ..errors import BundleError, EngineWarning, MissingError, TrustError, UnsupportedError
from ..progress import debug
from .building import Jobs, compile_stages, may_run_uncut
from .chain.lazy import return_memory
from .chain.memory import Span
from .chain.net import Net
from .chain.results import Provenance, StageProvenance
from .chain.samples import check_samples
from .engines import Compiled, find_device, is_converter
from .notices import warn_caller
from .placement import AUTO, one_device_per_stage
from .request import LoadOptions, NetworkParts, uncut_parts

if TYPE_CHECKING:
    from ..devices.meter import Meter
    from ..devices.watch import Watch

__all__ = ["let_go", "open_network"]


def open_network(
    parts: NetworkParts,
    device: str | Sequence[str],
    options: LoadOptions,
    *,
    point: OperatingPoint | None = None,
    points: Mapping[str, OperatingPoint] | None = None,
    lets_go: bool = True,
) -> Net:
    """Compile the stages of a network and chain them.

    Args:
        parts: the stages and exits.
        device: a device, one for each stage, or `auto`.
        options: how they are loaded.
        point: the operating point that the network runs.
        points: the points between which it can switch.
        lets_go: False if lazy stages stay, for what clones them.
    """
    if options.lazy:
        from .lazy_stages import prepare_lazy  # most networks have none

        parts = prepare_lazy(parts, options.lazy)
    make_net: Callable[..., Net] = Net
    guard = None
    if options.is_guarded:
        from .guarded import GuardedNet, make_guard  # most products watch for no faults

        guard = make_guard(parts, options, partial(open_network, point=point, points=points))
        make_net = partial(GuardedNet, guard=guard)
        options = replace(options, on_fault="raise", stage_limit_s=None)
    # A wrong name of a meter is refused before anything is built for minutes. `auto` depends on what runs in the end.
    watch = None if options.meter == "auto" else _watch_power(options.meter)
    reason = None
    if device == AUTO:
        options = replace(options, fallback=None)
        devices, reason = _choose_devices(parts, options, point)
        warn_caller(reason, EngineWarning)
    else:
        devices = one_device_per_stage(device, len(parts.stages))
    net = _chain(parts, devices, options, make_net, point=point, points=points, reason=reason, watch=watch)
    if options.is_for_use:
        _refuse_wrong(parts, net, options)
    if lets_go:
        let_go(net)
    if options.is_for_use and parts.bundle.signed is not None:
        from ..bundle.policies import remember_release

        remember_release(parts.bundle.signed)
    if guard is not None:
        guard.begin()
    return net


def _refuse_wrong(parts: NetworkParts, net: Net, options: LoadOptions) -> None:
    """Refuse a network with builds that came with the bundle, or with conversions, that does not give the golden answers."""
    if any(stage.built == "bundle" for stage in net.provenance.stages):
        from .golden_check import refuse_wrong_builds

        refuse_wrong_builds(parts, net)
    elif converted := [
        name for name in dict.fromkeys(net.provenance.devices) if is_converter(find_device(name).engine)
    ]:
        from .golden_check import refuse_wrong_conversions

        refuse_wrong_conversions(parts, net, converted, logits=options.logits, threads=options.threads)


def let_go(net: Net) -> None:
    """Let go of the stages that are loaded when they are used."""
    for stage in net.lazy_stages:
        stage.let_go()


def _watch_power(meter: "str | Meter | None", devices: Sequence[str] = ()) -> "Watch | None":
    """Return a watch of the board's power, if there is to be one."""
    if meter is None:
        return None
    from .power import watch_power  # most products watch none

    return watch_power(meter, devices)


def _chain(
    parts: NetworkParts,
    devices: Sequence[str],
    options: LoadOptions,
    make_net: Callable[..., Net] = Net,
    *,
    point: OperatingPoint | None = None,
    points: Mapping[str, OperatingPoint] | None = None,
    reason: str | None = None,
    watch: "Watch | None" = None,
) -> Net:
    """Compile stages for their devices and chain them by `make_net`; `reason` says why `auto` chose the devices."""
    usable = list(options.joins)
    if point is not None:
        others = [p for p in (points or {}).values() if p.engines == point.engines]
        usable = [p.thresholds for p in (point, *others)]
    joined, deferred = dict[Span, Compiled](), dict[str, Compiled]()
    uncut = _compile_uncut(parts, devices, options)
    with Jobs(parts, options) as jobs:
        if uncut is not None:
            parts, compiled, stages = uncut
        elif any(max(each, default=0.0) >= NEVER for each in usable):
            from .joined_stages import compile_joined, defer_stages  # most points take every exit

            joined = compile_joined(jobs, parts, devices, options, usable)
            deferred = {} if point is None else defer_stages(jobs, parts, options, joined, point.thresholds)
        if uncut is None:
            compiled, stages = compile_stages(jobs, parts, devices, options, deferred)
    return_memory()
    fell_back = [k for k, stage in enumerate(stages) if stage.device != devices[k]]
    joined = {span: each for span, each in joined.items() if not any(span[0] <= k <= span[1] for k in fell_back)}
    if options.lazy:
        from .lazy_stages import make_lazy

        compiled = make_lazy(parts, compiled, stages, options)
    manifest, has_sources = parts.bundle.manifest, parts.uncut or isinstance(parts.variant, Across)
    return make_net(
        compiled,
        parts.stages,
        parts.exits,
        inputs=manifest.inputs,
        table_rows=manifest.table_rows,
        classes=manifest.classes,
        logits=options.logits,
        point=point,
        points=points,
        provenance=Provenance(stages, reason, str(parts)),
        watch=watch or _watch_power(options.meter, [stage.device for stage in stages]),
        first_exit=parts.first_exit,
        joined=joined,
        sources=[parts.source(k) for k in range(len(parts.stages))] if has_sources else None,
    )


def _compile_uncut(
    parts: NetworkParts, devices: Sequence[str], options: LoadOptions
) -> tuple[NetworkParts, list[Compiled], tuple[StageProvenance, ...]] | None:
    """Compile a chain as one graph, if an engine stops at its exits; None if it does not, or cannot run the whole.

    Then the stages are compiled, which shows what of it the engine cannot run.
    """
    if not may_run_uncut(parts, devices, options):
        return None
    uncut = uncut_parts(parts)
    try:
        with Jobs(uncut, options) as jobs:
            return uncut, *compile_stages(jobs, uncut, devices, replace(options, fallback=None), {})
    except (BundleError, MissingError) as error:
        if isinstance(error, TrustError) or not (options.fallback or isinstance(error, UnsupportedError)):
            raise
        debug("%s does not run uncut: %s", parts, error)
        return None


def _choose_devices(
    parts: NetworkParts, options: LoadOptions, point: OperatingPoint | None
) -> tuple[tuple[str, ...], str]:
    """Measure the devices of this machine on the golden samples; return those that `auto` chooses, and why."""
    from ..bundle.golden import read_golden
    from .auto import choose_devices

    golden = read_golden(parts.bundle, parts.variant)
    names = [end.name for end in parts.variant.exits]
    columns = [names.index(end.name) for end in parts.exits]
    shares = point.exit_shares if point else (0.0,) * (len(columns) - 1) + (1.0,)
    samples = check_samples(golden.inputs, parts.bundle.manifest.inputs)
    quiet = replace(options, meter=None, lazy=0, release_after_s=None)  # a trial watches no power

    def open_on(devices: Sequence[str]) -> Net:
        net = _chain(parts, devices, quiet)
        _refuse_wrong(parts, net, quiet)  # here, where another device can take its place
        return net

    return choose_devices(open_on, list(samples), golden.score[:, columns].tolist(), shares)
