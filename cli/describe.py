"""Results in words and tables, as the commands print them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..bundle import Bundle, Calibration, OperatingPoint, Tensor, Variant
from ..units import show_thresholds
from .output import table

if TYPE_CHECKING:
    from ..calibrate.measure.energy import ExitEnergies
    from ..devices.state import State
    from ..devices.watch import Power
    from ..export.variants.comparison import Shift
    from ..runtime import Diagnosis, Result
    from ..runtime.chain.stats import Stats


def _describe_meter(found: Any) -> str:
    """Say by what joules were measured and of what; a modelled meter's scope says all."""
    return str(found.scope) if found.grade == "modelled" else f"{found.grade}, {found.meter}: {found.scope}"


def describe_bundle(bundle: Bundle) -> str:
    """Describe a bundle and each of its variants."""
    manifest = bundle.manifest
    inputs = ", ".join(f"{tensor.name} {tensor.dtype} {_shape(tensor)}" for tensor in manifest.inputs)
    head = f"{bundle.path}  {manifest.network}, {manifest.classes} classes, input {inputs}"
    if manifest.captured == "torchscript":
        head += "\ncaptured by TorchScript, which records one run: torch's dynamo exporter could not"
    return "\n\n".join([head, *(_describe_variant(variant) for variant in manifest.variants)])


def _describe_variant(variant: Variant) -> str:
    size = sum(file.bytes for file in variant.files.values())
    head = f"variant {variant.name}  {variant.precision}, rule {variant.rule}, {len(variant.exits)} exits, {size / 1e6:.2f} MB"
    if variant.origin is not None:
        how = {"keep": "exits kept of", "prune": "pruned from", "quantize": "quantised from"}[variant.origin.how]
        settings = [(name, value) for name, value in variant.origin.settings.items() if value is not None]
        set_ = ", ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings
        )
        head += f"\n  {how} {variant.origin.parent}: {set_}".rstrip(": ")
    lines = [("exit", "name", "Mmac of stage", "Mmac static", "file", "enters the stage")]
    for k, (stage, exit_) in enumerate(zip(variant.stages, variant.exits, strict=True)):
        enters = ", ".join(f"{tensor.name} {_shape(tensor)}" for tensor in stage.inputs)
        lines.append((str(k), exit_.name, f"{stage.macs / 1e6:.2f}", f"{exit_.macs / 1e6:.2f}", stage.file, enters))
    return f"{head}\n{table(lines)}"


def describe_shifts(variant: str, parent: str, shifts: Sequence["Shift"]) -> str:
    """Describe what compression changed at each exit."""
    lines = [("exit", f"accuracy of {variant}", f"of {parent}", "same label", "score shift")]
    for one in shifts:
        ours, theirs = ("-" if share is None else f"{share:.2%}" for share in (one.accuracy, one.parent_accuracy))
        lines.append((str(one.exit), ours, theirs, f"{one.alike:.2%}", f"{one.score_shift:+.4f}"))
    return table(lines)


def _shape(tensor: Tensor) -> str:
    return "x".join("N" if axis is None else str(axis) for axis in tensor.shape)


def describe_calibration(calibration: Calibration) -> str:
    """Describe a calibration: its points, what was measured beside them, and what is recommended."""
    where = "from outside" if calibration.outside else "of them"
    lines = [
        f"{calibration.select_samples} samples {where} chose, {calibration.report_samples} others gave the figures; energy: "
        f"{calibration.meter or 'not measured'}"
    ]
    for name, point in calibration.points.items():
        lines += ["", *_describe_point(name, point)]
    rows = [("static network", "device", "accuracy", "mean us", "mJ", "")]
    for one in calibration.statics:
        right = f"{1 - one.disagreement:.2%} alike" if one.accuracy is None else f"{one.accuracy:.2%}"
        joules = "-" if one.energy_j is None else f"{one.energy_j * 1e3:.4g}"
        mark = "" if calibration.took_part(one) else "never recommended"
        rows.append(
            (f"{one.variant} to exit {one.exit}", one.device, right, f"{one.latency_s * 1e6:.0f}", joules, mark)
        )
    lines += ["", table(rows)]
    lines += [
        "",
        *(f"{name}: {point.verdict}" for name, point in calibration.asked_for.items()),
    ]
    notes = [*(gate.reason for gate in calibration.gates), *calibration.notes]
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _describe_point(name: str, point: OperatingPoint) -> list[str]:
    lines = [f"point {name}: {point.target}", f"  runs         {point.engines}"]
    if point.static is None:
        lines += [
            f"  thresholds   {show_thresholds(point.thresholds)}",
            f"  exit shares  {', '.join(f'{share:.1%}' for share in point.exit_shares)}",
        ]
    if point.accuracy is not None and point.full_accuracy is not None:
        lines.append(f"  accuracy     {point.accuracy:.2%} (whole network {point.full_accuracy:.2%})")
    if point.drop is not None and point.drop_interval is not None:
        low, high = point.drop_interval
        lines.append(f"  drop         {point.drop:.2%}, 95 % interval {low:.2%} to {high:.2%}")
    else:
        lines.append(f"  disagreement {point.disagreement:.2%} with the whole network")
    lines.append(f"  mean latency {point.latency_s * 1e6:.0f} us predicted")
    if point.late is not None and point.target.deadline_s is not None:
        lines.append(f"  late         {point.late:.2%} above {point.target.deadline_s * 1e6:.0f} us predicted")
    if point.energy_j is not None:
        lines.append(f"  mean energy  {point.energy_j * 1e3:.4g} mJ predicted")
    return [*lines, f"  promise      {point.promise or 'none'}"]


def describe_results(results: Sequence["Result"], names: Sequence[str] | None) -> str:
    """Describe what a network says of samples, a line each; classes by their names where there are some."""
    lines = [("sample", "label", "score", "exit", "latency us")]
    for i, r in enumerate(results):
        label = names[r.label] if names else str(r.label)
        lines.append((str(i), label, f"{r.score:.4f}", str(r.exit), f"{r.latency_s * 1e6:.1f}"))
    return table(lines)


def describe_stats(stats: "Stats") -> str:
    """Describe what a network has done, and what power the board drew meanwhile."""
    lines = [("inferences", str(stats.inferences))]
    lines += [(f"left at exit {k}", f"{share:.1%}") for k, share in enumerate(stats.exit_shares)]
    lines += [(f"latency {name}", f"{seconds * 1e6:.1f} us") for name, seconds in stats.latency_s.items()]
    if stats.power is not None:
        if stats.power.mean_w is not None:
            lines.append(("mean power", f"{stats.power.mean_w:.4g} W"))
        if stats.energy_per_inference_j is not None:
            lines.append(("energy per inference", f"{stats.energy_per_inference_j * 1e3:.4g} mJ, rest included"))
        if stats.power.grade:
            lines.append(("meter", _describe_meter(stats.power)))
        if stats.power.mean_w is None or stats.power.problem:
            lines.append(("no power", stats.power.problem or "the run was too short to read the meter"))
    lines += _describe_state(stats.state)
    return table(lines)


def describe_power(seen: "Power", now_w: dict[str, float] | None = None) -> str:
    """Describe what a watch has seen of each rail, and the sum."""
    head = ("rail", *(("now W",) if now_w is not None else ()), "min W", "mean W", "max W", "J")
    lines: list[tuple[str, ...]] = [head]
    for name, rail in seen.rails.items():
        now = () if now_w is None else (f"{now_w[name]:.3f}" if name in now_w else "-",)
        lines.append(
            (name, *now, f"{rail.min_w:.3f}", f"{rail.mean_w:.3f}", f"{rail.max_w:.3f}", f"{rail.energy_j:.4g}")
        )
    parts = [table(lines)] if seen.rails else []
    if seen.mean_w is not None:
        parts.append(f"{seen.energy_j:.4g} J +- {seen.half_j:.2g} J in {seen.seen_s:.1f} s, mean {seen.mean_w:.4g} W")
    parts.append(_describe_meter(seen))
    if seen.unseen_s:
        parts.append(f"not seen for {seen.unseen_s:.1f} s: {seen.problem or 'reads failed'}")
    if seen.throttled:
        parts.append(f"throttled meanwhile: {', '.join(seen.throttled)}")
    return "\n".join(parts)


def describe_energies(found: "ExitEnergies") -> str:
    """Describe what leaving at each exit costs in joules."""
    lines = [("exit", "mJ", "95 % interval", "mJ beyond rest", "95 % interval", "us")]
    for one in found.exits:
        net = "-" if one.net_j is None else f"{one.net_j * 1e3:.4g}"
        cells = (f"{one.energy_j * 1e3:.4g}", _millijoules(one.interval_j), net, _millijoules(one.net_interval_j))
        lines.append((str(one.exit), *cells, f"{one.latency_s * 1e6:.1f}"))
    parts = [table(lines)]
    if found.stage_j and found.idle_w is not None and found.residual is not None and found.mixed_error is not None:
        stages = [("stage", "mJ beyond rest", "95 % interval")]
        for k, (joules, interval) in enumerate(zip(found.stage_j, found.stage_interval_j, strict=True)):
            stages.append((str(k), f"{joules * 1e3:.4g}", _millijoules(interval)))
        parts.append(table(stages))
        parts.append(
            f"rest {found.idle_w:.4g} W; the fit leaves {found.residual:.2%} over, "
            f"and is {found.mixed_error:+.2%} off where exits mix"
        )
        parts.append(f"{found.trials} rounds of {found.window_s:.3g} s windows, {found.discarded} discarded")
    if throttled := sum(one.throttled for one in found.exits):
        parts.append(f"the board throttled in {throttled} of the windows that are kept, in each repetition")
    parts.append(_describe_meter(found))
    return "\n".join(parts)


def _millijoules(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0] * 1e3:.4g} to {interval[1] * 1e3:.4g}"


def _describe_state(state: "State") -> list[tuple[str, str]]:
    lines = []
    if state.clock_hz is not None:
        lines.append(("clock now", f"{state.clock_hz / 1e6:.0f} MHz"))
    if state.temperature_c is not None:
        lines.append(("temperature now", f"{state.temperature_c:.1f} C"))
    if state.throttling:
        lines.append(("throttled now", ", ".join(state.throttling)))
    return lines


def describe_diagnosis(found: "Diagnosis") -> str:
    """Describe what this board is, and which engines and meters work on it."""
    lines = [
        ("board", f"{found.board.name} ({found.board.kind})"),
        *found.fingerprint.items(),
        *_describe_state(found.state),
    ]
    for engine in found.engines:
        lines.append((f"engine {engine.package}", engine.version or str(engine.problem)))
        lines += [(f"device {name}", what) for name, what in engine.devices.items()]
    for name, there in found.extras.items():
        lines.append((f"extra {name}", "installed" if there else f"not installed; pip install 'offramp[{name}]'"))
    for meter in found.meters:
        chosen = ", which auto takes" if meter.name == found.meter else ""
        lines.append((f"meter {meter.name}", f"{meter.scope}{chosen}"))
        for rail in meter.rails:
            power = f"{rail.power_w:.3f} W" if rail.power_w is not None else str(rail.problem)
            lines.append((f"  rail {rail.name}", f"{power}, {rail.role}: {rail.covers}"))
    for one in found.unavailable:
        lines.append((f"no meter {one.meter}", f"{one.reason}. {one.remedy}".rstrip()))
    lines += [(f"looked for {kind}", what) for kind, what in found.looked_for.items()]
    return table(lines)
