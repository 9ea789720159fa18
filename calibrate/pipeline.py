"""Calibrate: record, measure, search, certify, recommend.

samples --+-- a fifth, or better, data from outside --> which way, which thresholds, a path through them
          +-- the others ----------------------------> every figure, and the promises
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from .. import __version__
from ..bundle import Bundle, Calibration, Target, Variant, opened, read_calibration, write_calibration
from ..bundle.calibration import CALIBRATION_SCHEMA, Chain, Conditions, Exclusion, Latency, StaticPoint
from ..bundle.target import CAREFUL
from ..bundle.writing import check_replaceable
from ..devices import fingerprint
from ..devices.meter import Meter
from ..devices.state import BoardState, State, throttled_between
from ..errors import OfframpError, TargetError, UnsupportedError, UsageError
from ..files import check_writable
from ..progress import Progress, no_progress
from ..runtime import load_static
from ..runtime.selection import belongs, packages_of
from .advice import advise, explain_failure, name_unpromised
from .certify.points import make_points
from .labels import check_classes, check_data, check_labels
from .measure.configurations import Answers, Opened, Opener, Setting, Way, measure_turns, measure_way, table_of
from .measure.latency import Turn, force_exits, run_alone
from .measure.resume import Kept, hash_samples
from .measure.tables import Costs, Table
from .requests import choose_variants, flatten, key_of, name_file, name_targets, pair_devices, split_samples
from .search.contenders import Contender
from .search.exclusions import find_gates
from .search.frontier import lay_frontier
from .search.picks import Pick, find, pick
from .search.predictions import Named

MEASURE_S = 6.0
"""Time spent on measuring latencies of a way, half of it before its thresholds are known."""


def calibrate(
    bundle: str | os.PathLike[str] | Bundle,
    data: Any,
    target: Target | Mapping[str, Target] | None = None,
    *,
    device: str | Sequence[str] = "cpu",
    also: Sequence[str | Sequence[str]] = (),
    threads: int = 1,
    fallback: str | None = None,
    variant: str | Sequence[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    confidence: float = 0.9,
    outside: Any = None,
    meter: Meter | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> Calibration:
    """Find the best way to run a bundle on this device that keeps a target, promise it, and store it.

    Every variant is recorded and measured wherever it may be placed, as a chain and as static networks; a compressed one that is
    slower than its parent there, or much worse, is kept and marked but takes no part in the search. A fifth of the samples, at
    least 200 and at most half, or, better, data from outside chooses among them and among the thresholds; every figure and the
    promise come from the others. Candidates laid through the best thresholds are tested on those from the safe end, and the last
    one before the first that fails is taken; see `certify`. All points together are promised with the given confidence. Use
    samples that the network was not trained on.

    A calibration that was killed goes on where it was when it is called again with the same arguments: recordings and joules are
    kept in the cache until it is done.

    Args:
        bundle: the bundle or its folder.
        data: samples as `Net.batch` takes them, and labels int (N,); with labels None only
            disagreement with the whole network and costs can be limited.
        target: what to optimise under which limits, or several by the names of their points; the first is what `load` takes.
            By default `balanced`, `accurate` and `eco`: the least latency, with a meter energy, at a drop of at most 1, 0.5
            and 2 %.
        device, threads, fallback: as for `runtime.load`.
        also: other devices, or one for each stage, to try too.
        variant: name of the variant to calibrate, or several; all by default.
        output: where to store the calibration; in the bundle's `calibrations/` by default, as `default.json`, or as
            `<variant>.json` where one other variant than the first is named. There one that misses a target replaces none that
            meets its own.
        confidence: with what probability all promises are to be kept.
        outside: other samples and labels (or none), such as training data, that choose; all of `data` then certify.
        meter: what measures energy; see `devices.choose_meter`. Takes some minutes for each way.
        seed: draws the split and the order of measurement.
        progress: called with what is being done, how much is done, and how much there is.

    Returns:
        The calibration, which has been stored unless its notes say otherwise; its points say what they promise and whether
        early exit pays.

    Raises:
        DataError: the samples do not fit the network, there are too few of them, or the labels are not this network's.
        TargetError: nothing keeps the limits, or all variants are slower or worse than their parents; nothing is stored.
        UsageError: an argument does not make sense, or a target needs labels or a meter that are not given.
        BundleError, MissingError: as for `runtime.load`; MissingError too where the output cannot be written.
        MeasurementError: the meter failed; see `energy.measure_runs`.
    """
    bundle = opened(bundle)
    x, y = check_data(data, bundle.manifest)
    outer, outer_y = (None, None) if outside is None else check_data(outside, bundle.manifest, name="outside")
    if outer is not None and hash_samples(outer) == hash_samples(x):
        raise UsageError(
            "outside holds the same samples as data: what chooses must not certify too. Leave outside out."
        )
    targets = name_targets(target, has_labels=y is not None, meter=meter)
    if not 0.5 <= confidence < 1:
        raise UsageError(f"confidence is a probability from 0.5 to below 1, such as 0.9, not {confidence}.")
    if outer is not None and outer_y is None and any(one.min_accuracy is not None for one in targets.values()):
        raise UsageError(
            "Without labels outside cannot choose for min_accuracy: limit max_drop instead, or give labels."
        )
    variants = choose_variants(bundle, variant)
    first = bundle.manifest.variants[0]
    if output is None:
        path = bundle.path / "calibrations" / f"{name_file(first, variants)}.json"
        check_writable(path)
    else:
        path = check_replaceable(output)
    rng = np.random.default_rng(seed)
    select, report = split_samples(len(x), outer is not None, rng)
    pairs = pair_devices(variants, [device, *also])
    meant = None if meter is None else f"{meter.name}: {meter.scope}"
    state = BoardState()
    before = state()
    with ExitStack() as stack:
        opener = Opener(bundle, {"threads": threads, "fallback": fallback, "progress": progress})
        stack.callback(opener.close)
        pairs, left_out = (pairs, []) if variant is not None else _leave_out_unsupported(opener, pairs)
        loaded = opener.open(*pairs[0])
        where = loaded.placement[-1]
        whole = stack.enter_context(load_static(bundle, where, variant=first.name, threads=threads))
        packages = packages_of([*loaded.placement, *flatten(also)])
        fields = fingerprint(packages=packages, threads=threads, meter=meant)
        kept = Kept(key_of(fields, repr([device, *also]), x, outer))
        setting = Setting(
            whole=whole,
            device=where,
            x=x,
            outer=outer,
            kept=kept,
            meter=meter,
            fingerprint=fields,
            rng=rng,
            progress=progress,
        )
        ways = [measure_way(setting, opener.open(one, placed), one, seconds=MEASURE_S / 2) for one, placed in pairs]
        yard, said, outer_said = _ask_yardstick(setting, first, ways)
        if y is not None:
            check_classes(y)
            check_labels(y, said, bundle.manifest.classes)
        contenders: list[Contender] = []
        for at, way in enumerate(ways):
            known = _make_tables(way.answers, said, y, way, rows=select)
            table = _make_tables(way.answers, said, y, way, rows=report)
            if way.outer is not None and outer_said is not None:
                known = _make_tables(way.outer, outer_said, outer_y, way)
            contenders += _contenders(at, known, table, is_yardstick=at == yard)
        now_s = ways[-1].yardstick_s
        scaled = _scale(contenders, ways, now_s)
        gates = find_gates(scaled, ways, bundle.manifest.variants, device=where, yardstick_s=now_s)
        allowed = [one for one in scaled if one.way not in gates]
        if not allowed:
            reasons = " ".join(gate.reason for gate in gates.values())
            raise TargetError(f"{reasons} Calibrate with other variants too: leave out --variant.")
        picks = _pick(allowed, targets, gates.values())
        chosen = ways[next(iter(picks.values())).chain.way]
        loaded = opener.open(chosen.variant, chosen.placement)
        picks, now_s = _measure_picks(setting, opener, loaded, ways, picks, targets)
    contenders = _scale(contenders, ways, now_s)
    conditions = _conditions(before, state())
    statics = [one for one in contenders if one.static is not None]
    keys = [(one.way, one.static) for one in statics]
    for rival in (one.rival for one in picks.values()):
        if rival is not None:
            statics[keys.index((rival.way, rival.static))] = rival  # measured anew
    names = [Named(way.variant.name, way.placement) for way in ways]
    points = make_points(picks, targets, names, statics, confidence=confidence, progress=progress)
    packages = packages_of([name for point in points.values() for name in point.placement])
    calibration = Calibration(
        schema=CALIBRATION_SCHEMA,
        offramp=__version__,
        variants={one.name: one.digest for one in (first, *(way.variant for way in ways))},
        fingerprint=fingerprint(packages=packages, threads=threads, meter=meant),
        conditions=conditions,
        confidence=confidence,
        seed=seed,
        select_samples=len(contenders[0].known),
        report_samples=len(report),
        outside=outer is not None,
        meter=meant,
        chains=tuple(_describe_chain(one, ways[one.way]) for one in contenders if one.static is None),
        statics=tuple(_describe_static(one, ways[one.way]) for one in statics),
        frontier=lay_frontier([one for one in contenders if one.way not in gates], names, points, progress=progress),
        points=points,
        gates=tuple(gates.values()),
        notes=(
            *left_out,
            *name_unpromised(picks, targets, points, [name.variant for name in names]),
            *advise(picks, targets, points, chosen.passing_s, conditions, chosen.variant.name),
        ),
    )
    if output is None and not calibration.met and _is_good(path, bundle):
        stays = (
            f"This one misses a target and was not stored: {path} stays as it was. To store this one, name a file (-o)."
        )
        return replace(
            calibration, notes=(*calibration.notes, stays)
        )  # what was recorded stays, for who names a file next
    write_calibration(path, calibration)
    kept.clear()
    return calibration


def _is_good(path: Path, bundle: Bundle) -> bool:
    """Tell whether a calibration lies at a path that meets its targets, of what the bundle holds."""
    try:
        found = read_calibration(path)
    except OfframpError:
        return False
    return found.met and belongs(bundle, found)


def _leave_out_unsupported(
    opener: Opener, pairs: Sequence[tuple[Variant, str | Sequence[str]]]
) -> tuple[list[tuple[Variant, str | Sequence[str]]], list[str]]:
    """Return the pairs that can be loaded, and of those that cannot why not.

    Raises:
        UnsupportedError: none can.
    """
    kept, left_out = [], []
    for pair in pairs:
        one, placed = pair
        try:
            opener.open(one, placed)
            kept.append(pair)
        except UnsupportedError as error:
            if not kept and pair is pairs[-1]:
                raise
            left_out.append(
                f"{one.name} on {placed if isinstance(placed, str) else ', '.join(placed)} is left out: {error}"
            )
    return kept, left_out


def _ask_yardstick(
    setting: Setting, first: Variant, ways: Sequence[Way]
) -> tuple[int | None, np.ndarray, np.ndarray | None]:
    """Return which way holds the yardstick, and the labels that it gives the samples, and those from outside."""
    for at, way in enumerate(ways):
        if way.variant is first and way.placement[-1] == setting.device and not way.answers.apart:
            outer = None if way.outer is None else way.outer.chain.label[:, -1]
            return at, way.answers.chain.label[:, -1], outer
    part = {"variant": first.name, "digest": first.digest, "placement": f"whole on {setting.device}"}
    said = setting.record(setting.whole, setting.x, part | {"samples": "given"}).label[:, 0]
    if setting.outer is None:
        return None, said, None
    return None, said, setting.record(setting.whole, setting.outer, part | {"samples": "outside"}).label[:, 0]


def _make_tables(
    answers: Answers, whole: np.ndarray, y: np.ndarray | None, way: Way, *, rows: Any = slice(None)
) -> list[Table]:
    """Return the tables of a way's chain and of its static networks, of some rows."""
    chain = table_of(answers.chain, whole, y, way.chain)
    found = [chain]
    for k, costs in enumerate(way.statics):
        apart = answers.apart.get(k)
        found.append(chain.columns([k], costs) if apart is None else table_of(apart, whole, y, costs))
    return [table.rows(rows) for table in found]


def _contenders(at: int, known: Sequence[Table], table: Sequence[Table], *, is_yardstick: bool) -> list[Contender]:
    """Return a way's chain and its static networks; the last of these may be the yardstick itself."""
    found = [Contender(way=at, static=None, known=known[0], table=table[0])]
    for k in range(len(known) - 1):
        is_whole = is_yardstick and k == len(known) - 2
        ends = [replace(one[k + 1], is_whole=is_whole) for one in (known, table)]
        found.append(Contender(way=at, static=k, known=ends[0], table=ends[1]))
    return found


def _scale(contenders: Sequence[Contender], ways: Sequence[Way], yardstick_s: float) -> list[Contender]:
    """Return contenders with the latencies that they have when the yardstick takes this long."""
    return [one.with_costs(one.known.costs.scaled(ways[one.way].drift(yardstick_s))) for one in contenders]


def _pick(
    contenders: Sequence[Contender], targets: Mapping[str, Target], gates: Iterable[Exclusion]
) -> dict[str, Pick]:
    picks = pick(contenders, targets)
    for name, one in picks.items():
        if one.thresholds is None and one.rival is None:
            reasons = [gate.reason for gate in gates]
            raise TargetError(" ".join([explain_failure(name, targets[name], contenders), *reasons]))
    return picks


def _measure_picks(
    setting: Setting,
    opener: Opener,
    loaded: Opened,
    ways: Sequence[Way],
    picks: Mapping[str, Pick],
    targets: Mapping[str, Target],
) -> tuple[dict[str, Pick], float]:
    """Measure what was picked side by side, each target's chain in the mix in which its samples leave, and search again.

    What an exit costs depends on how often the others are taken, and that on the thresholds. Where costs are limited they are
    measured once more for the promise, since the first time chooses. Returns the yardstick's latency too.
    """
    turns = dict[str, Turn]()
    for name, one in picks.items():
        turns[name] = force_exits(loaded.net, one.shares().tolist(), rng=setting.rng)
        if one.rival is not None and (key := repr((one.rival.way, one.rival.static))) not in turns:
            way = ways[one.rival.way]
            turns[key] = run_alone(opener.open_static(way.variant, way.placement, one.rival.static or 0))
    seconds = MEASURE_S / 2 * len(picks)
    times, yardstick_s = measure_turns(setting, turns, seconds=seconds)
    proof: dict[str, tuple[np.ndarray, ...]] = {}
    if any(name not in CAREFUL for target in targets.values() for name in target.limits):
        proof, _ = measure_turns(setting, turns, seconds=seconds)
    measured = {}
    for name, one in picks.items():
        chain = _with_times(one.chain, name, times, proof)
        rival = one.rival and _with_times(one.rival, repr((one.rival.way, one.rival.static)), times, proof)
        found = find([chain] if rival is None else [chain, rival], targets[name])
        if rival is not None and found[1] is None:
            rival = None
        if found[0] is None and rival is None:
            raise TargetError(explain_failure(name, targets[name], [chain]))
        others = [other for other in one.others if find([other], targets[name])[0] is not None]
        measured[name] = Pick(chain, found[0], rival, tuple(others))
    return measured, yardstick_s


def _with_times(one: Contender, turn: str, times: Mapping[str, Any], proof: Mapping[str, Any]) -> Contender:
    power_w = one.known.costs.power_w
    return one.with_costs(Costs(times[turn], power_w), Costs(proof[turn], power_w) if proof else None)


def _conditions(before: State, after: State) -> Conditions:
    return Conditions(
        (before.clock_hz, after.clock_hz),
        (before.temperature_c, after.temperature_c),
        throttled_between(before, after),
    )


def _describe_chain(chain: Contender, way: Way) -> Chain:
    costs, right = chain.table.costs, chain.table.right
    return Chain(
        variant=way.variant.name,
        placement=way.placement,
        exits=tuple(_describe_times(times) for times in costs.times_s),
        passing_s=way.passing_s,
        exit_energy_j=() if costs.energy_j is None else tuple(costs.energy_j.tolist()),
        accuracy=() if right is None else tuple(right.mean(axis=0).tolist()),
    )


def _describe_times(times_s: np.ndarray) -> Latency:
    p50, p90, p99 = (float(value) for value in np.percentile(times_s, [50, 90, 99]))
    return Latency(float(times_s.mean()), p50, p90, p99)


def _describe_static(one: Contender, way: Way) -> StaticPoint:
    table, energy_j = one.table, one.table.costs.energy_j
    return StaticPoint(
        variant=way.variant.name,
        device=way.placement[one.static or 0],
        exit=one.static or 0,
        accuracy=None if table.right is None else float(table.right.mean()),
        drop=None if table.right is None else float(table.lost.mean()),
        disagreement=float(table.differs.mean()),
        latency_s=float(table.costs.latency_s[0]),
        energy_j=None if energy_j is None else float(energy_j[0]),
    )
