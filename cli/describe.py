"""Results in words and tables, as the commands print them."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..units import show_mj, show_share, show_thresholds, show_time, show_us
from .output import conclude, table

if TYPE_CHECKING:
    import numpy as np

    from ..bundle import Bundle, Calibration, OperatingPoint, Reuse, Tensor, Variant
    from ..cache import CachedBuild
    from ..calibrate import ExitEnergies
    from ..devices.state import State
    from ..devices.watch import Power
    from ..export import Shift
    from ..runtime import Built, Diagnosis, Net, Result
    from ..runtime.chain.stats import Stats

BUILDS_NOTE = (
    "built in the bundle (engines/), run by their devices: no hash in the manifest covers them. Remove the folder if you do not "
    "trust whoever made the bundle"
)


LEAST_SHOWN_BIAS = 5e-5
"""A correction of the drop that is smaller than 0.01 % when it is rounded is not shown."""


VERBS = {
    "gate": "scores fitted, from",
    "keep": "exits kept of",
    "prune": "pruned from",
    "quantize": "quantised from",
}
"""How a variant was made from its parent, in words."""


def describe_bundle(bundle: "Bundle") -> str:
    """Describe a bundle and each of its variants."""
    manifest = bundle.manifest
    inputs = ", ".join(f"{tensor.name} {tensor.dtype} {_shape(tensor)}" for tensor in manifest.inputs)
    answer = f"{manifest.classes} classes" if manifest.classes else f"answers {', '.join(manifest.answer)}"
    head = f"{bundle.path}  {manifest.network}, {answer}, input {inputs}"
    if manifest.captured == "torchscript":
        head += "\ncaptured by TorchScript, which records one run: torch's dynamo exporter could not"
    parts = [head, *(_describe_variant(variant) for variant in manifest.variants)]
    if builds := bundle.builds():
        lines = [f"  {where}: {', '.join(names)}" for where, names in builds.items()]
        parts.append("\n".join([BUILDS_NOTE, *lines]))
    return "\n\n".join(parts)


def describe_made(bundle: "Bundle", path: str) -> str:
    """Return what is in a bundle that a command has made or added to, where it lies, and what may come next."""
    return conclude(describe_bundle(bundle), path, propose_calibration(bundle, path))


def propose_calibration(bundle: "Bundle", path: str) -> list[str]:
    """Return the words of the command that calibrates a bundle; it needs a loss where the network does not classify."""
    words = ["offramp", "calibrate", path, "SAMPLES", "--max-drop", "0.01"]
    return words if bundle.manifest.classes else [*words, "--loss", "LOSS"]


def _describe_variant(variant: "Variant") -> str:
    size = sum(file.bytes for file in variant.files.values())
    head = f"variant {variant.name}  {variant.precision}, rule {variant.rule}, {len(variant.exits)} exits, {size / 1e6:.2f} MB"
    if variant.origin is not None:
        verb = VERBS[variant.origin.how]
        settings = [
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in variant.origin.settings.items()
            if value is not None
        ]
        head += f"\n  {verb} {variant.origin.parent}: {', '.join(settings)}".rstrip(": ")
    if variant.error is not None:
        largest = "logit" if variant.exits[0].logits else "value"
        # What was made in a bundle is compared with itself: how it differs from its parent stands elsewhere.
        original = "the original" if variant.origin is None else f"{variant.name} uncut"
        head += f"\n  differs from {original} by {variant.error:.2g} of the largest {largest}"
        head += f"; rounding moves {original} by {variant.own_error:.2g}" if variant.own_error is not None else ""
    lines: list[tuple[str, ...]] = [("exit", "name", "Mmac of stage", "Mmac static", "file", "enters the stage")]
    from ..bundle.variant_names import kept_numbers

    names = [exit_.name for exit_ in variant.exits]
    if variant.origin is not None and (numbers := kept_numbers(variant)):
        names = [f"{name} ({k} in {variant.origin.parent})" for name, k in zip(names, numbers, strict=True)]
    for k, (stage, exit_) in enumerate(zip(variant.stages, variant.exits, strict=True)):
        enters = ", ".join(f"{tensor.name} {_shape(tensor)}" for tensor in stage.inputs)
        lines.append((str(k), names[k], f"{stage.macs / 1e6:.2f}", f"{exit_.macs / 1e6:.2f}", stage.file, enters))
    if any(exit_.place for exit_ in variant.exits):
        places = ["attached to", *(exit_.place or "" for exit_ in variant.exits)]
        lines = [(*line[:2], place, *line[2:]) for line, place in zip(lines, places, strict=True)]
    return f"{head}\n{table(lines)}"


def describe_shifts(variant: str, parent: str, shifts: Sequence["Shift"], *, has_labels: bool = True) -> str:
    """Describe how the answers of a new variant differ from its parent's at each exit."""
    if not has_labels:
        rows = [(str(shift.exit), show_share(shift.alike), f"{shift.score_shift:+.4f}") for shift in shifts]
        return table([("exit", "alike within 1 %", "score shift"), *rows])
    lines = [("exit", f"accuracy of {variant}", f"of {parent}", "same label", "score shift")]
    for shift in shifts:
        accuracy, parent_accuracy = map(_share_or_dash, (shift.accuracy, shift.parent_accuracy))
        alike = show_share(shift.alike)
        lines.append((str(shift.exit), accuracy, parent_accuracy, alike, f"{shift.score_shift:+.4f}"))
    return table(lines)


def _shape(tensor: "Tensor") -> str:
    return "x".join("N" if axis is None else str(axis) for axis in tensor.shape)


def describe_calibration(calibration: "Calibration") -> str:
    """Describe a calibration: its points, the static networks beside them, and its verdicts."""
    from ..calibrate.compared import find_noise

    selecting, reporting = calibration.select_samples, calibration.report_samples
    if calibration.outside:
        split = f"Thresholds were chosen on {selecting} samples of other data; all figures come from the {reporting} samples."
    else:
        split = f"Thresholds were chosen on {selecting} of the samples; all figures come from the other {reporting}."
    if calibration.groups is not None:
        split += f" They are of {calibration.groups} groups, over which figures are means: each group counts alike."
    energy = f"Energy: {calibration.meter}." if calibration.meter else "Energy was not measured."
    pace = "back to back" if calibration.every_s is None else f"every {show_time(calibration.every_s)}"
    lines = [f"{split} {energy} Calls were measured {pace}."]
    for name, point in calibration.points.items():
        lines += ["", *_describe_point(name, point, find_noise(calibration, point) or 0.0)]
    has_losses = calibration.point.target.counts == "losses"
    rows = [("static network", "device", "loss" if has_losses else "accuracy", "mean us", "mJ", "")]
    for static in calibration.statics:
        same = f"{show_share(1 - static.disagreement)} alike"
        lost = same if static.drop is None else f"a drop of {show_share(static.drop)}"
        accuracy = lost if static.accuracy is None else show_share(abs(has_losses - static.accuracy))
        figures = accuracy, _us(static.latency_s, 0), _mj(static.energy_j)
        mark = "" if calibration.took_part(static) else "never recommended"
        rows.append((f"{static.variant} to exit {static.exit}", static.device, *figures, mark))
    lines += ["", table(rows), ""]
    lines += [f"{name}: {point.verdict}" for name, point in calibration.asked_for.items()]
    notes = [*(gate.reason for gate in calibration.gates), *calibration.notes]
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def describe_loads(loads: Mapping[str, Mapping[str, int]]) -> str:
    """Say how many bytes of graphs and weights each point of a calibration loads, by variant."""
    lines = []
    for name, variants in loads.items():
        each = f": {', '.join(f'{variant} {size / 1e6:.3g}' for variant, size in variants.items())}"
        lines.append(
            f"point {name} loads {sum(variants.values()) / 1e6:.3g} MB of files{each if len(variants) > 1 else ''}"
        )
    return "\n".join(lines)


def _describe_point(name: str, point: "OperatingPoint", noise: float) -> list[str]:
    lines = [f"point {name}: {point.target}", f"  runs         {point.engines}"]
    if point.exits_early:
        lines += [
            f"  thresholds   {show_thresholds(point.thresholds)}",
            f"  exit shares  {', '.join(f'{share:.1%}' for share in point.exit_shares)}",
        ]
    if point.accuracy is not None and point.full_accuracy is not None:
        what, shares = "accuracy", [point.accuracy, point.full_accuracy]
        if point.target.counts == "losses":
            what, shares = "loss    ", [1 - share for share in shares]
        lines.append(f"  {what}     {show_share(shares[0])} (whole network {show_share(shares[1])})")
    if point.full_accuracy_interval is not None:
        low, high = map(show_share, point.full_accuracy_interval)
        lines.append(f"  accuracy     unknown without all labels: the whole network's is from {low} to {high}")
    if point.drop is not None and point.drop_interval is not None:
        low, high = map(show_share, point.drop_interval)
        bias = f"; these samples chose the step too: corrected by {show_share(point.choice_bias)}"
        corrected = bias if abs(point.choice_bias) >= LEAST_SHOWN_BIAS else ""
        kind = "drop      " if point.target.counts == "labels" else "loss added"
        lines.append(f"  {kind}   {show_share(point.drop)}, 95 % interval {low} to {high}{corrected}")
    else:
        lines.append(f"  disagreement {show_share(point.disagreement)} with the whole network")
    if point.worst:
        from ..bundle.findings import show_worst  # `offramp -h` needs no bundle

        lines.append(f"  {'class' if point.target.by == 'class' else 'group'}        {show_worst(point.worst)}")
    known = f"; the machine's own noise is {noise:.1%} of it" if noise else ""
    lines.append(f"  mean latency {show_us(point.latency_s)} predicted{known}")
    if point.late is not None and point.target.deadline_s is not None:
        deadline = show_us(point.target.deadline_s)
        lines.append(f"  late         {show_share(point.late)} above {deadline} predicted")
    if point.energy_j is not None:
        lines.append(f"  mean energy  {show_mj(point.energy_j)} predicted")
    if point.reuse is not None:
        lines.append(f"  reuse        at a difference of at most {point.reuse.difference:.3g}. {point.reuse.promise}")
    return [*lines, f"  promise      {point.promise or 'none'}"]


def describe_reuse(name: str, rule: "Reuse") -> str:
    """Describe when the last answer is given again at an operating point."""
    lines = [
        f"point {name}: the last answer again at a difference of at most {rule.difference:.3g}, {rule.most_in_row} in a row",
        f"  on {rule.clips} clips  {show_share(rule.share)} of the samples got it; lost {show_share(rule.loss)}",
        f"  promise      {rule.promise}",
        f"  verdict      {rule.verdict}",
    ]
    return "\n".join(lines)


def describe_network(net: "Net") -> str:
    """Say what a loaded network runs: `the chain of fp32 on cpu, point balanced, thresholds 0.8500, never`."""
    where = ", ".join(dict.fromkeys(net.provenance.devices))
    point = f"point {net.point.name}" if net.point else "without a calibration"
    thresholds = f", thresholds {show_thresholds(net.thresholds)}" if net.thresholds else ""
    return f"{net.provenance.network} on {where}, {point}{thresholds}"


def describe_results(results: Sequence["Result"], names: Sequence[str] | None) -> str:
    """Describe a network's answers, a line per sample; with the names of the classes if there are any."""
    answer = results[0].answer if results else None
    lines = [("sample", "label" if answer is None else ", ".join(answer), "score", "exit", "latency us")]
    for i, result in enumerate(results):
        label = names[result.label] if names else str(result.label)
        if result.answer is not None:
            label = ", ".join(_describe_array(part) for part in result.answer.values())
        lines.append((str(i), label, f"{result.score:.4f}", str(result.exit), _us(result.latency_s)))
    return table(lines)


def _describe_array(array: "np.ndarray") -> str:
    """Show a single number as it is, of other arrays dtype and shape."""
    return f"{array.item():.6g}" if array.size == 1 else f"{array.dtype} {'x'.join(map(str, array.shape))}"


def describe_stats(stats: "Stats") -> str:
    """Describe a network's inferences so far, and the power that the board drew meanwhile."""
    lines = [("inferences", str(stats.inferences))]
    lines += [(f"left at exit {k}", f"{share:.1%}") for k, share in enumerate(stats.exit_shares)]
    lines += [(f"latency {name}", show_us(seconds, 1)) for name, seconds in stats.latency_s.items()]
    if stats.slowdown is not None:
        lines.append(("against calibration", f"{stats.slowdown:.2f} times as long"))
    if stats.power is not None:
        if stats.power.mean_w is not None:
            lines.append(("mean power", f"{stats.power.mean_w:.4g} W"))
        if stats.energy_per_inference_j is not None:
            lines.append(("energy per inference", f"{show_mj(stats.energy_per_inference_j)}, rest included"))
        if stats.power.grade:
            meter = _describe_meter(stats.power.meter, stats.power.scope, stats.power.grade)
            lines.append(("meter", meter))
        if stats.power.mean_w is None or stats.power.problem:
            lines.append(("no power", stats.power.problem or "the run was too short to read the meter"))
    lines += _describe_state(stats.state)
    return "\n".join([table(lines), *([f"notice: {stats.notice}"] if stats.notice else [])])


def describe_power(power: "Power", now_w: dict[str, float] | None = None) -> str:
    """Describe the power and energy of each rail, and their sum.

    Args:
        power: what a watch has seen.
        now_w: the power of each rail since the last time, in watts; None to leave it out.
    """
    head = ("rail", *(("now W",) if now_w is not None else ()), "min W", "mean W", "max W", "J")
    lines: list[tuple[str, ...]] = [head]
    for name, rail in power.rails.items():
        now = () if now_w is None else (f"{now_w[name]:.3f}" if name in now_w else "-",)
        watts = (f"{value:.3f}" for value in (rail.min_w, rail.mean_w, rail.max_w))
        lines.append((name, *now, *watts, f"{rail.energy_j:.4g}"))
    parts = [table(lines)] if power.rails else []
    if power.mean_w is not None:
        joules = f"{power.energy_j:.4g} J +- {power.half_j:.2g} J"
        parts.append(f"{joules} in {power.seen_s:.1f} s, mean {power.mean_w:.4g} W")
    parts.append(_describe_meter(power.meter, power.scope, power.grade))
    if power.unseen_s:
        parts.append(f"not seen for {power.unseen_s:.1f} s: {power.problem or 'reads failed'}")
    if power.throttled:
        parts.append(f"throttled meanwhile: {', '.join(power.throttled)}")
    return "\n".join(parts)


def describe_energies(energies: "ExitEnergies") -> str:
    """Describe what leaving at each exit costs in joules."""
    lines = [("exit", "mJ", "95 % interval", "mJ beyond rest", "95 % interval", "us")]
    for exit_ in energies.exits:
        joules = (
            _mj(exit_.energy_j),
            _mj_interval(exit_.interval_j),
            _mj(exit_.net_j),
            _mj_interval(exit_.net_interval_j),
        )
        lines.append((str(exit_.exit), *joules, _us(exit_.latency_s)))
    parts = [table(lines)]
    if energies.stage_j and energies.idle_w is not None:
        stages = [("stage", "mJ beyond rest", "95 % interval")]
        for k, (stage_j, interval_j) in enumerate(zip(energies.stage_j, energies.stage_interval_j, strict=True)):
            stages.append((str(k), _mj(stage_j), _mj_interval(interval_j)))
        assert energies.residual is not None and energies.mixed_error is not None
        parts.append(table(stages))
        parts.append(
            f"rest {energies.idle_w:.4g} W; the sum of the stages differs from the measured exits by "
            f"{show_share(energies.residual)}, and from a mix of exits by {energies.mixed_error:+.2%}"
        )
        if energies.every_s is not None:
            parts.append(f"inferences every {show_time(energies.every_s)}, the rest until the next one included in mJ")
        parts.append(f"{energies.trials} rounds of {energies.window_s:.3g} s windows, {energies.discarded} discarded")
    if throttled := sum(exit_.throttled for exit_ in energies.exits):
        parts.append(f"the board throttled in {throttled} of the windows that were used, even when repeated")
    parts.append(_describe_meter(energies.meter, energies.scope, energies.grade))
    return "\n".join(parts)


def describe_builds(builds: Sequence["Built"]) -> str:
    """Describe stages that were compiled ahead."""
    if not builds:
        return "There is nothing to build ahead: these engines compile a stage when it is loaded and keep nothing."
    lines = [("stage", "device", "MB", "", "path")]
    for built in builds:
        state = "was there" if built.was_there else "built"
        lines.append((built.stage, built.device, f"{built.bytes / 1e6:.2f}", state, built.path))
    return table(lines)


def describe_cache(folder: Path, entries: Sequence["CachedBuild"]) -> str:
    """Describe the entries of the cache, which lies in a folder."""
    lines = [("stage", "device", "engine", "MB", "used", "entry")]
    for build in entries:
        device, engine = (build.entry.key.get(name, "") for name in ("device", "engine"))
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(build.used_s))
        lines.append((build.entry.label, device, engine, f"{build.entry.bytes / 1e6:.2f}", used, build.folder[:12]))
    total = sum(build.entry.bytes for build in entries) / 1e6
    return f"{table(lines)}\n{len(entries)} entries, {total:.2f} MB in {folder}"


def _us(seconds: float, digits: int = 1) -> str:
    """Write microseconds for a column whose head names the unit."""
    return f"{seconds * 1e6:.{digits}f}"


def _mj(joules: float | None) -> str:
    """Write millijoules for a column whose head names the unit."""
    return "-" if joules is None else f"{joules * 1e3:.4g}"


def _mj_interval(interval_j: tuple[float, float] | None) -> str:
    return "-" if interval_j is None else f"{_mj(interval_j[0])} to {_mj(interval_j[1])}"


def _share_or_dash(share: float | None) -> str:
    return "-" if share is None else show_share(share)


def _describe_meter(meter: str, scope: str, grade: str | None) -> str:
    """Say what measured the joules, and what they cover; the scope of a modelled meter says both."""
    return scope if grade == "modelled" else f"{grade}, {meter}: {scope}"


def _describe_state(state: "State") -> list[tuple[str, str]]:
    lines = []
    if state.clock_hz is not None:
        lines.append(("clock now", f"{state.clock_hz / 1e6:.0f} MHz"))
    if state.temperature_c is not None:
        lines.append(("temperature now", f"{state.temperature_c:.1f} C"))
    if state.throttling:
        lines.append(("throttled now", ", ".join(state.throttling)))
    return lines


def describe_diagnosis(diagnosis: "Diagnosis") -> str:
    """Describe what this board is, and which engines and meters work on it."""
    lines = [
        ("board", f"{diagnosis.board.name} ({diagnosis.board.kind})"),
        *diagnosis.fingerprint.items(),
        *_describe_state(diagnosis.state),
    ]
    for engine in diagnosis.engines:
        lines.append((f"engine {engine.package}", engine.version or str(engine.problem)))
        lines += [(f"device {name}", description) for name, description in engine.devices.items()]
    for name, is_installed in diagnosis.extras.items():
        state = "installed" if is_installed else f"not installed; pip install 'offramp[{name}]'"
        lines.append((f"extra {name}", state))
    for meter in diagnosis.meters:
        chosen = ", which auto takes" if meter.name == diagnosis.meter else ""
        lines.append((f"meter {meter.name}", f"{meter.scope}{chosen}"))
        for rail in meter.rails:
            power = f"{rail.power_w:.3f} W" if rail.power_w is not None else str(rail.problem)
            lines.append((f"  rail {rail.name}", f"{power}, {rail.role}: {rail.covers}"))
    for unavailable in diagnosis.unavailable:
        lines.append((f"no meter {unavailable.meter}", f"{unavailable.reason}. {unavailable.remedy}".rstrip()))
    lines += [(f"looked for {kind}", places) for kind, places in diagnosis.looked_for.items()]
    return table(lines)
