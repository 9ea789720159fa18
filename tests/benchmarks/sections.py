"""The sections of the benchmark page: each function makes Markdown of the JSON that the benchmark of its name wrote.

A docstring is what the page says of its section: the title, and what was measured.
"""

from math import sqrt
from statistics import mean, median
from typing import Any

from tables import ENGINES, show, span, table

LONG_S = 1e-3
"""From here on noise hides what Python takes, which is the difference of two times."""

MOST_ERROR = 0.03
"""Predictions of mean latency shall be within this."""

SEARCHES = {
    "zoom": "from a coarse grid to the fine one",
    "descent": "coordinate descent, what more than 6 exits get",
    "greedy": "earlyon 0.3.0's, exit after exit, restated",
    "fractions": "MSDNet's: the same share leaves at each exit",
    "shared": "one threshold for all exits",
    "finer": "offramp's default: the whole grid, then between its values",
}


def chain(result: dict[str, Any]) -> list[str]:
    """Chain overhead.

    All samples take all exits, so nothing is saved: this is what running a network in stages costs. Ratios are CPU time over
    that of the whole graph with the same outputs, run by one call in bound memory, on one thread, the median over turns in
    random order: 1 is as fast, more is slower.
    """
    rows = [row if row["whole_s"] < LONG_S else {**row, "python_s_per_stage": None} for row in result["results"]]
    lines = []
    for device in dict.fromkeys(row["device"] for row in rows):
        for name, what in (("net", "offramp"), ("plain", "the plain loop"), ("earlyon", "earlyon")):
            found = [row["ratio"][name] for row in rows if row["device"] == device and name in row["ratio"]]
            if found:
                where = "PyTorch" if name == "earlyon" else ENGINES.get(device, device)
                lines.append(show("- {}: {} took {} times the whole graph's time.", where, what, span(found)))
    if not any("earlyon" in row["ratio"] for row in rows):
        lines.append("- earlyon is missing: it was not installed (`pip install --no-deps earlyon==0.3.0`).")
    legend = (
        "`Bare chain` is one bound call per stage; `offramp` is what users call, and `Python` what it takes more than the bare "
        "chain, where the whole graph takes less than a millisecond. `Plain loop` is `session.run` stage by stage. `earlyon` is "
        "its staged model in PyTorch, the only engine that it has: its ratio is of engine and staging both. `Batch` is 16 "
        "samples of which half leave at each exit: going through the stages together, over each sample alone. `Joined` is a "
        "sample that leaves at the second exit where the first is never taken: joined stages over single ones."
    )
    shown = table(
        rows,
        "Network | Mmac | Stages | Engine | Whole graph, us | Bare chain | offramp | Python, us per stage | Plain loop | earlyon"
        " | Batch | Joined | Turns",
        "{network} | {mmac:.2f} | {stages} | {device!e} | {whole_s!u} | {ratio[chain]:.2f} | {ratio[net]:.2f} | "
        "{python_s_per_stage!u} | {ratio[plain]:.2f} | {ratio[earlyon]:.2f} | {together:.2f} | {joined:.2f} | {turns}",
    )
    return [shown, legend, "\n".join(lines)]


def search(result: dict[str, Any]) -> list[str]:
    """Search of thresholds.

    Thresholds are searched on synthetic tables of scores, whose cheapest vector on a grid of 32 values per exit is known. A gap
    is the mean cost above that optimum under the same limit on lost accuracy; one below 0 lies between the grid's values.
    """
    gaps, many = result["gaps"], result["many"]
    ways = [
        {"way": f"`{name}`: {SEARCHES[name]}", "mean": mean(gap), "most": max(gap), "cases": len(gap)}
        | {"seconds": median(gaps["seconds"][name])}
        for name, gap in gaps["gap"].items()
    ]
    deep = [
        {"seconds": seconds, "cost": cost, "shared": shared}
        for seconds, cost, shared in zip(many["seconds"], many["cost"], many["shared"], strict=True)
    ]
    grid = (
        "Counting the whole joint grid of 5 exits, {vectors:,} threshold vectors on {samples:,} samples, takes {seconds:.2f} s "
        "and {grown_mb:.0f} MB more memory at most."
    )
    return [
        table(
            ways,
            "Way, 5 exits | Mean gap | Largest gap | Median seconds | Cases",
            "{way} | {mean:+.2%} | {most:+.2%} | {seconds:.2f} | {cases}",
        ),
        show(grid, **result["grid"]),
        table(
            deep,
            "12 exits, seconds | Mean cost | With one threshold for all exits",
            "{seconds:.2f} | {cost:.4f} | {shared:.4f}",
        ),
    ]


def certify(result: dict[str, Any]) -> list[str]:
    """Certificate.

    Promises are made from many draws of labelled samples of a population whose truth is known; A and B are synthetic ones.
    Shown are how often the truth breaks the promise, and the mean cost of what was promised: 1 is the whole network, which runs
    where no promise can be given.
    """
    rows = [row for part in ("splits", "cascade", "recorded") for row in result.get(part, [])]
    promised = (
        "Promised is a drop of at most {max_drop:.1%}, and at most {delta:.1%} of the promises may break: of {most} draws, at "
        "most {over:.1%} but for one time in forty. `exact`: offramp's test of paired losses; a shared threshold is one for all "
        "exits."
    )
    most = max(row["splits"] for row in rows)
    delta = result["delta"]
    over = delta + 1.96 * sqrt(max(0.0, delta * (1 - delta)) / most)
    ways: dict[str, dict[str, Any]] = {}
    for row in rows:
        ways.setdefault(row["way"], {"way": row["way"]})[f"{row['scenario']} {row['n']}"] = row
    draws = list(dict.fromkeys(f"{row['scenario']} {row['n']}" for row in rows))
    heads = " | ".join(["Way: broken of the draws, mean cost", *(f"{key} samples" for key in draws)])
    cells = [f"{{{key}[broken]:.1%}} of {{{key}[splits]}}, {{{key}[cost]:.3f}}" for key in draws]
    blocks = [
        show(promised, **result, most=most, over=over),
        table(ways.values(), heads, " | ".join(["{way}", *cells])),
    ]
    if "cascade" in result:
        blocks.append(
            "`cascade` and `over-sure` are two synthetic networks made apart, the small one a tenth of the large one; in the "
            "second it is over-sure. There 1 is the large network alone."
        )
    if not any("MAPIE" in way for way in ways):
        blocks.append("MAPIE is missing: it was not installed (`pip install mapie==1.6.0 scikit-learn`).")
    if "asked" in result:
        heads = "Labels | Of all | Same certificate | Broken | Mean cost | Draws"
        labels = "{scenario}, {n} samples: {labels} | {share:.1%} | {same:.1%} | {broken:.1%} | {cost:.3f} | {splits}"
        blocks.append(table(result["asked"], heads, labels))
    if "free" in result:
        heads = "Without labels | Disagreement promised | Broken | Mean cost | Mean true drop | Draws"
        free = "{scenario}, {n} samples | {most:.1%} | {broken:.1%} | {cost:.3f} | {drop:.2%} | {splits}"
        blocks.append(table(result["free"], heads, free))
    if "size" in result:
        heads = "The exact test at its worst | Share won | Wrong, computed | Wrong, simulated | Draws"
        size = "{n} samples | {share:.4f} | {computed:.3%} | {simulated:.3%} | {draws}"
        blocks.append(table(result["size"], heads, size))
    return blocks


def recorded(result: dict[str, Any]) -> list[str]:
    """Certificate on a trained network.

    The same where the population is what a trained network says of the samples that it is tested on, and an exit costs its
    multiply-accumulates. Draws are made with replacement.
    """
    return certify(result)


def predict(result: dict[str, Any]) -> list[str]:
    """Predicted against measured latency.

    A network is calibrated for five limits on the accuracy drop; each operating point then runs on other samples, and its mean
    latency is compared with what the calibration's costs predict at the exit shares that occurred. Then each exit but the last is
    left out in turn.
    """
    points, fewer, lines = [], [], []
    for device, found in result["devices"].items():
        errors = [abs(row["error"]) for row in found["points"]]
        apart = mean(abs(row["error_less_drift"]) for row in found["points"])
        line = (
            "- {!e}: the error is {:.1%} in the mean and {:.1%} at worst; less the machine's drift, {:.1%} in the mean."
        )
        lines.append(show(line, device, mean(errors), max(errors), apart))
        points += [{"device": device, **row} for row in found["points"]]
        for row in found.get("fewer", []):
            fewer.append({"device": device, "error": row["predicted_s"] / row["measured_s"] - 1, **row})
    shown = table(
        points,
        "Drop allowed | Share per exit | Measured, us | Predicted, us | Error | Without the machine's drift"
        " | By costs of the same run",
        "{drop:.2%}, {device!e} | {shares!l} | {measured_s!u} | {predicted_s!u} | {error:+.1%} | {error_less_drift:+.1%} | "
        "{error_same_run:+.1%}",
    )
    left = table(
        fewer,
        "Exit left out | Leaving at exit | With all exits, us | Predicted, us | Measured, us | Error",
        "{left_out}, {device!e} | {exit} | {full_s!u} | {predicted_s!u} | {measured_s!u} | {error:+.1%}",
    )
    network = show("The network is `{network}`, run on {samples:,} samples that calibration never saw.", **result)
    return [network, shown, "\n".join(lines), *([left] if fewer else [])]


def busy(result: dict[str, Any]) -> list[str]:
    """Predicted latency on a busy machine.

    Calibrations and measurements are made anew while a busy process runs and stands by turns. The mean latency that a calibration
    predicts, times how much slower the whole network is than it was then, is compared with the measured one.
    """
    blocks = [show("The network is `{network}`, run on {samples:,} samples that calibration never saw.", **result)]
    for device, found in result["devices"].items():
        rows = found["load"]
        within = [row for row in rows if abs(row["error"]) <= MOST_ERROR]
        silent = [row for row in rows if abs(row["error"]) > MOST_ERROR and not row["warned"]]
        low, high = interval(len(within), len(rows))
        line = (
            "On {!e} {} of {} predictions are within {:.0%} of what was measured (95 % interval of the share {:.0%} to {:.0%}); "
            "of the others {} had no warning. The error is {:.1%} in the mean, the noise that calibrations and measurements tell "
            "{:.1%}, and the machine {:.2f} times as slow as it was."
        )
        means = [mean(abs(row[name]) for row in rows) for name in ("error", "noise", "slowdown")]
        blocks.append(show(line, device, len(within), len(rows), MOST_ERROR, low, high, len(silent), *means))
    return blocks


def interval(count: int, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share."""
    z, share = 1.96, count / n
    middle, half = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def compressed(result: dict[str, Any]) -> list[str]:
    """CIFAR-10: early exit beside static compression.

    One trained network in every static form (whole, cut at an exit, int8, pruned) and early exit of each, one sample at a time on
    one thread. All rows run on the test images, interleaved in one run.
    """
    about = (
        "{samples[train]:,} images find the ranges of int8, {samples[held]:,} that training never saw choose and certify, "
        "{samples[test]:,} test images judge. `Certified` says whether a drop of at most {max_drop:.1%} against the whole "
        "network in fp32 holds, with a chance of {delta:.1%} to be wrong each: of static networks by all images held back, of "
        "early exit by the four fifths of them that did not choose; `peak MB` is the most that a fresh process holds."
    )
    rows = [
        {"number": k, "kept": "yes" if row["certified"] else "no", **row} for k, row in enumerate(result["rows"], 1)
    ]
    shown = table(
        rows,
        "Network | Certified | Accuracy, held back | Accuracy, test | Mean, us | p50, us | p99, us | MB | Peak MB"
        " | Share per exit",
        "{number}. {name} | {kept} | {held_accuracy:.2%} | {accuracy:.2%} | {mean_s!u} | {p50_s!u} | {p99_s!u} | {bytes!m} | "
        "{peak_bytes!m} | {shares!l}",
    )
    statics = [row for row in rows if row["certified"] and len(row["shares"]) == 1]
    ours = [row for row in rows if row["name"] == "early exit, all variants"]
    words = "" if statics else "No static network is certified. "
    for rival in sorted(statics, key=lambda row: row["mean_s"])[:1]:
        words += show("The fastest certified static network is {name}, {mean_s!u} us in the mean. ", **rival)
    for row in ours if statics else []:
        words += show("Early exit over all variants takes {mean_s!u} us; the static network takes ", **row)
        words += f"{rival['mean_s'] / row['mean_s']:.2f} times that (above 1 early exit is faster, below 1 slower)."
    words += "" if ours else "No early exit over all variants kept the promise."
    reasons = [f"- {name}, no early exit: {' '.join(why.split())}" for name, why in result["no_early_exit"].items()]
    return [show(about, **result), shown, words, *(["\n".join(reasons)] if reasons else [])]


def power(result: dict[str, Any]) -> list[str]:
    """Energy on the simulated board, and what metering costs.

    A simulated board's true joules are known, so measured joules per exit are compared with the truth. Reading meters is timed on
    trees of files as boards have them, on this machine, not on those boards.
    """
    energy = table(
        result["energy"],
        "Sensor's period, window | Worst error | Mean error | Intervals that hold the truth, per exit | Of one window | Runs",
        "{case} | {worst_error:.3%} | {mean_error:+.4%} | {coverage!l} | {window_coverage:.1%} | {runs}",
    )
    read = table(
        result["read"],
        "Board's files | Rails | Files | Reading all rails, us | Bare reads, us",
        "{board} | {rails} | {files} | {all_us:.1f} | {bare_us:.1f}",
    )
    shares = [{"what": what, "share": share} for what, share in result["sampling"].items()]
    beside = (
        "A call of {call_us:.1f} us takes {ratio:.3f} times as long while the meter is read; off over off, which is noise, gives "
        "{noise:.3f}."
    )
    sampling = table(shares, "In the background | CPU time, of one core", "{what} | {share:.2%}")
    return [energy, read, sampling, show(beside, **result["chain"])]


def product(result: dict[str, Any]) -> list[str]:
    """Start-up and memory.

    Fresh processes load a network and run one sample, by offramp and by a bare ONNX Runtime session that runs the whole network.
    Two threads run clones of a chain, and a long loop shows whether memory grows.
    """
    cold = {name: 1e3 * value if name.endswith("_s") else value for name, value in result["cold_start"].items()}
    hashing = "Checking the files' hashes, besides"
    cells = {
        "A bare session's first result": "{bare_cpu_s:.1f} ms of CPU",
        "offramp's, beyond that": "{extra_cpu_s:.1f} ms of CPU",
        **({hashing: "{hashing_cpu_s:.2f} ms of CPU"} if "hashing_cpu_s" in cold else {}),
        "Memory of a bare session at its first result": "{bare_bytes!m} MB",
        "offramp's memory, beyond that": "{extra_bytes!m} MB",
    }
    if "calibrated_cpu_s" in cold:
        cells["offramp's with a calibration, beyond that"] = "{calibrated_cpu_s:.1f} ms of CPU"
    rows = [{"what": what, "value": show(form, **cold)} for what, form in cells.items()]
    for device in (key.removeprefix("two_clones ") for key in result if key.startswith("two_clones ")):
        engine = ENGINES.get(device, device)
        clones, grown = result[f"two_clones {device}"], result[f"growth_bytes {device}"]
        rows.append({"what": f"Calls of two clones in two threads over one, {engine}", "value": f"{clones:.2f}"})
        rows.append({"what": f"Memory that {result['calls']:,} calls add, {engine}", "value": f"{grown / 1e6:.3f} MB"})
    return [table(rows, show("`{network}` | Median of {rounds} rounds", **result), "{what} | {value}")]


def engines(result: dict[str, Any]) -> list[str]:
    """Engines.

    What changing the engine brings on top of early exit. The whole graph with all exits, run by one call in bound memory, on each
    engine; and the chain with all exits taken on the same engine. Ratios are CPU time on one thread, the median over turns in
    random order: below 1 is faster.
    """
    rows = result["results"]
    shown = table(
        rows,
        "Network | Mmac | Variant | Engine | Whole graph, us | Over ONNX Runtime | Chain over whole | Turns",
        "{network} | {mmac:.2f} | {variant} | {device!e} | {whole_s!u} | {beside:.2f} | {chain:.2f} | {turns}",
    )
    lines = []
    for network, variant in dict.fromkeys((row["network"], row["variant"]) for row in rows):
        best = min(
            (row for row in rows if (row["network"], row["variant"]) == (network, variant)),
            key=lambda row: row["beside"],
        )
        form = "- {network}, {variant}: {device!e} is fastest, at {beside:.2f} of ONNX Runtime's time."
        lines.append(show(form, **best))
    heads, cells = "Refused | Variant | Engine | What it says", "{network} | {variant} | {device!e} | {reason}"
    refused = [table(result["refused"], heads, cells)] if result["refused"] else []
    return [shown, "\n".join(lines), *refused]


def fuse(result: dict[str, Any]) -> list[str]:
    """Fused file.

    The fused ONNX file beside the chain, on ONNX Runtime with one thread, in CPU time per sample, where about the same share of
    samples leaves at every exit. `Plain run` is the fused file by Python's `session.run`, without bound memory. `Bare chain` is
    a loop of bound calls without checks and statistics, as the fused file is called.
    """
    ratios = [row["ratio"] for row in result["results"]]
    shown = table(
        result["results"],
        "Network | Mmac | Chain, us | Fused, us | Fused over chain | Quartiles | Plain run over chain | Fused over bare chain"
        " | Share per exit | Blocks",
        "{network} | {mmacs:.2f} | {chain_us:.1f} | {fused_us:.1f} | {ratio:.3f} | "
        "{ratio_quartiles[0]:.3f} to {ratio_quartiles[1]:.3f} | {plain_run_ratio:.3f} | {bare_ratio:.3f} | "
        "{exit_shares!l} | {blocks}",
    )
    words = f"The fused file takes {span(ratios)} times the chain's time, {median(ratios):.2f} in the median of the networks."
    return [shown, words]


def deadlines(result: dict[str, Any]) -> list[str]:
    """Deadlines on busy cores.

    A network runs in one thread while other processes compute without pause. No exit is taken by its threshold: only deadlines
    end a call. An answer is late if a clock around the call says so, whatever its mark; `in the first stage` are late calls that
    no earlier exit could have saved, and `far` is later than any stage's p99.9. A mark is wrong where its times contradict it.
    """
    rows = [{**row, "name": name, "exits": " ".join(map(str, row["exits"]))} for name, row in result["rows"].items()]
    shown = table(
        rows,
        "Deadline | us | Late | Marked late | Late in the first stage | Far | Answers of each exit | Wrong marks: late | cut",
        "{name} | {deadline_s!u} | {late:.2%} | {marked_late:.2%} | {first_stage_late:.2%} | {beyond_p999:.2%} | {exits} | "
        "{wrong_late} | {wrong_cut}",
    )
    return [show("`{network}`, {calls:,} calls by turns, at a load of {load:.1f} processes.", **result), shown]


def serve(result: dict[str, Any]) -> list[str]:
    """A server beside the local runtime.

    Clients on the same machine keep their connections and send one sample after the other, to a server that answers waiting
    requests together and to one that answers them alone, by turns. `net(x)` is the local runtime. The network is the
    tests' smallest, so that what is seen is the server's own.
    """
    rows = [{"name": name, **row} for name, row in result["rows"].items()]
    heads = "Requests | Per second | Median latency, us | Processor time each, us"
    return [table(rows, heads, "{name} | {per_s:,.0f} | {latency_us:,.0f} | {cpu_us:,.0f}")]


def promises(result: dict[str, Any]) -> list[str]:
    """Promises of a mean loss.

    Networks whose answers are no labels are promised a mean loss. What the segmentation sample says of canvases is recorded; each
    of many calibrations draws from the recordings, searches and certifies as `calibrate` does, and other canvases tell the truth.
    Cost is in multiply-accumulates: 1 is the whole network, which runs where nothing can be promised. `As calibrate` tests losses
    by bets that recalculate what they still have to win, and answers that are right or wrong exactly; plain bets do not
    recalculate.
    """
    blocks = []
    if "calibrations" in result:
        about = (
            "{calibrations} calibrations draw {samples:,} canvases each from {pool:,}; {fresh:,} others tell the truth. The mean "
            "loss of the whole network is {whole:.2%}; an answer is wrong if its loss is above {wrong_above:.2%}. At most "
            "{delta:.1%} of the promises may break."
        )
        blocks.append(show(about, **result))
    if "broken" in result:
        heads = "Promised | At most | Test | Broken | Binomial error | Nothing promised | Mean cost"
        cells = "{promised} | {most:.2%} | {way} | {broken:.1%} | {error:.1%} | {nothing:.1%} | {cost:.3f}"
        blocks.append(table(result["broken"], heads, cells))
    ways = "{exact:.1%} | {recalculating bets:.1%} | {plain bets:.1%}"
    if "power" in result:
        heads = "How often each test certifies | Truly | Exact | Recalculating bets | Plain bets"
        blocks.append(table(_by_way(result["power"]), heads, f"{{promised}} | {{true:.2%}} | {ways}"))
    if "known" in result:
        heads = (
            "Differences of known chances, 1% promised | Truly | Share won | Exact | Recalculating bets | Plain bets"
        )
        blocks.append(table(_by_way(result["known"]), heads, f"{{n:,}} samples | {{drop:.1%}} | {{won:.1%}} | {ways}"))
    return blocks


def _by_way(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for all tests of the same, with the share that each certifies by its name."""
    found: dict[Any, dict[str, Any]] = {}
    for row in rows:
        about = {key: value for key, value in row.items() if key not in ("way", "certified")}
        found.setdefault(tuple(about.values()), about)[row["way"]] = row["certified"]
    return list(found.values())


SECTIONS = (
    chain,
    engines,
    search,
    certify,
    recorded,
    promises,
    predict,
    busy,
    compressed,
    power,
    product,
    fuse,
    deadlines,
    serve,
)
