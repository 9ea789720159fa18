"""Do audits in the field keep what they say, and what do they cost? Counts are simulated; the cost is measured.

python tests/benchmarks/audit.py [--runs 2000] [--calls 50000] [--json result.json] [PART ...]

alarms    simulated counts of a product that may disagree in 2 % of its calls (alpha 1 %): how often it alarms though it keeps
          that, how often it renews (95 %) what does not hold, and after how many audited inputs it alarms where it does not keep
          that. Every call is audited, which is the hardest, or 1 % of them, as for the times to the alarm; `killed` is the same
          with a kill every 5,000 calls on average, which loses what was counted since the last write, 600 calls apart; `merged`
          are three such devices, looked at together after every call as they were written last, so that an alarm is seen late
renewed   what is promised after how many audited inputs
shares    exit shares that are the calibration's (of 1,000 samples), and others: how often and when there is an alarm
cost      a network with audits off and on, interleaved, in process CPU time: beside what r (last - early) / mean says
"""

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from offramp.bundle import Target, open_bundle, read_calibration
from offramp.runtime.audit.evidence import doubt, renewed_limit, shares_doubt, trust

PROMISED, ALPHA, DELTA = 0.02, 0.01, 0.05
FACTS = {0.03: 2080, 0.04: 580, 0.06: 172, 0.10: 55}
"""Audited inputs until the alarm, by the true share that disagrees."""

KILL_EVERY, WRITE_EVERY = 5000, 600
WAYS = {"one device": (1, False), "killed": (1, True), "merged": (3, False), "merged, killed": (3, True)}


def find_bounds(calls):
    """Return by the number of audited inputs the least count that alarms, and the greatest that renews the promise at 2 %."""
    alarm, renews = np.empty(calls + 1, int), np.empty(calls + 1, int)
    least, most = 0, -1
    for n in range(calls + 1):
        while least <= n and doubt(least, n, PROMISED) < -math.log(ALPHA):
            least += 1
        while most < n and trust(most + 1, n, PROMISED) >= -math.log(DELTA):
            most += 1
        alarm[n], renews[n] = least, most
    return alarm, renews


def run_device(rng, p, calls, share, *, killed, unit=1):
    """Return counts (audited, disagreeing) after each call as the process knows them, and as they were written last.

    Where all `calls` are audited because the others are left out, `unit` calls lie between them.
    """
    kill_every, write_every = KILL_EVERY // unit, WRITE_EVERY // unit
    audited = rng.random(calls) < share
    differs = audited & (rng.random(calls) < p)
    seen = np.stack([np.cumsum(audited), np.cumsum(differs)])
    if not killed:
        return seen, seen
    live, saved = np.empty_like(seen), np.empty_like(seen)
    kept, start = np.zeros((2, 1), int), 0
    while start < calls:
        end = min(calls, start + rng.geometric(1 / kill_every))
        since = seen[:, start:end] - (seen[:, [start - 1]] if start else 0)
        at = np.arange(end - start) // write_every * write_every - 1  # the call after which it was written last
        written = np.where(at < 0, 0, since[:, at])
        live[:, start:end], saved[:, start:end] = kept + since, kept + written
        kept, start = saved[:, [end - 1]], end
    return live, saved


def run_way(way, p, calls, share, runs, bounds, unit=1):
    """Return of many runs after how many audited inputs each alarms, or None; if a promise was broken; and its last limit."""
    devices, killed = WAYS[way]
    alarm, renews = bounds
    rng = np.random.default_rng([devices, killed, int(p * 1000), int(share * 1000)])
    times: list[int | None] = []
    limits: list[float] = []
    broken = 0
    for _ in range(runs):
        each = [run_device(rng, p, calls // devices, share, killed=killed, unit=unit) for _ in range(devices)]
        n, k = each[0][0] if devices == 1 else sum(saved for _, saved in each)
        hit = np.flatnonzero(k >= alarm[n])
        times.append(int(n[hit[0]]) if len(hit) else None)
        broken += bool((k <= renews[n]).any())
        if len(limits) < 100:
            limits.append(renewed_limit(int(k[-1]), int(n[-1]), chance=DELTA))
    return times, broken / runs, median(limits)


def simulate_alarms(options):
    bounds = find_bounds(options.calls)
    found = {}
    for share in (1.0, 0.01):
        for way in WAYS:
            times, broken, limit = run_way(way, PROMISED, options.calls, share, options.runs, bounds)
            false = sum(t is not None for t in times) / options.runs
            row = {"false_alarms": false, "broken": broken, "renewed": limit, "audited_to_alarm": {}}
            print(f"{way:15s} audited {share:4.0%}  false alarms {false:.2%} (at most {ALPHA:.0%})", flush=True)
            print(
                f"{'':15s} a promise of {PROMISED:.0%} renewed though it is not below: {broken:.2%} (at most {DELTA:.0%})"
            )
            for p, fact in FACTS.items() if share < 1 else ():
                times, _, _ = run_way(way, p, 9 * fact, 1.0, options.runs, bounds, unit=round(1 / share))
                middle = median(math.inf if t is None else t for t in times)
                row["audited_to_alarm"][str(p)] = middle
                print(
                    f"{'':15s} true {p:.0%}: alarm after {middle:6.0f} audited inputs (median; {middle / fact - 1:+.0%})"
                )
            found[f"{way}, {share:g}"] = row
    return found


def simulate_renewed(options):
    """Print what is promised by how many audited inputs, at true shares below 2 %."""
    found = {}
    for p in (0.002, 0.01):
        for n in (500, 2000, 10000, 50000):
            rng = np.random.default_rng(n)
            limits = [renewed_limit(int(k), n, chance=DELTA) for k in rng.binomial(n, p, 100)]
            found[f"{p:g}, {n}"] = median(limits)
            print(f"true {p:.1%}, {n:6d} audited: at most {median(limits):.2%} (median)")
    return found


SHARES = {
    "the same": ((0.6, 0.3, 0.1), (0.6, 0.3, 0.1)),
    "the same, rare": ((0.97, 0.02, 0.01), (0.97, 0.02, 0.01)),
    "5 to 10 points": ((0.6, 0.3, 0.1), (0.5, 0.35, 0.15)),
    "10 to 20 points": ((0.6, 0.3, 0.1), (0.4, 0.4, 0.2)),
    "10 of two exits": ((0.9, 0.1), (0.8, 0.2)),
}


def simulate_shares(options, samples=1000):
    found = {}
    for name, (there, here) in SHARES.items():
        rng = np.random.default_rng(len(name))
        picked, times = (options.calls // 100 if there == here else 3000), []
        runs = options.runs if there == here else options.runs // 20
        for _ in range(runs):
            calibrated = rng.multinomial(samples, there).tolist()
            exits, counts, time_ = rng.choice(len(here), size=picked, p=here).tolist(), [0] * len(here), None
            for n, k in enumerate(exits):
                counts[k] += 1
                if shares_doubt(calibrated, counts) >= -math.log(ALPHA):
                    time_ = n + 1
                    break
            times.append(time_)
        hits = [t for t in times if t is not None]
        found[name] = {"alarms": len(hits) / runs, "picked_to_alarm": median(hits) if hits else None}
        after = f", after {median(hits):.0f} picked inputs (median)" if hits else ""
        print(
            f"{name:16s} {there} then {here}: alarms in {len(hits) / runs:.2%} of runs of {picked}{after}", flush=True
        )
    return found


def build_uneven():
    """Return a network whose second stage takes long."""
    import torch
    from torch import nn

    class Uneven(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.early = nn.Linear(64, 512), nn.Linear(512, 10)
            self.second = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8)))
            self.late = nn.Linear(512, 10)

        def forward(self, x):
            y = torch.tanh(self.first(x))
            return [4 * self.early(y), self.late(torch.tanh(self.second(y)))]

    return Uneven().eval()


def measure_cost(options):
    from offramp.calibrate import calibrate
    from offramp.export import export
    from offramp.runtime import Audit, load

    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 64)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        bundle = export(build_uneven(), x[:3], Path(folder) / "uneven.offramp")
        calibrate(bundle, (x, None), Target(max_disagreement=0.5), measure_s=0.3)
        calibration = read_calibration(open_bundle(bundle.path).calibrations()[0])
        name = next(name for name, point in calibration.points.items() if point.exits_early)
        left = calibration.points[name].exit_shares[0]
        audits = {
            "off": None,
            "off again": None,
            "hardly ever": Audit(share=1e-9),
            "1 % in the call": Audit(in_call=True),
            "10 % in the call": Audit(share=0.1, in_call=True),
            "1 % in a thread": Audit(),
            "to exit 0": None,
            "to the last exit": None,
        }
        nets = {way: load(bundle, point=name, audit=audit) for way, audit in audits.items()}
        nets["to exit 0"].thresholds, nets["to the last exit"].thresholds = [0.0], [2.0]
        times: dict[str, list[float]] = {way: [] for way in nets}
        for _ in range(options.rounds):
            for way in rng.permutation(list(nets)).tolist():
                net = nets[way]
                start = time.process_time()
                for sample in x[:300]:
                    net(sample)
                times[way].append((time.process_time() - start) / 300)
        for net in nets.values():
            net.close()
    means = {way: float(np.mean(spent)) for way, spent in times.items()}
    early, last = means["to exit 0"], means["to the last exit"]
    formula = {
        "1 % in the call": 0.01 * left * (last - early) / means["off"],
        "10 % in the call": 0.1 * left * (last - early) / means["off"],
        "1 % in a thread": 0.01 * left * last / means["off"],
    }
    print(f"{left:.0%} leave early, after {early * 1e6:.0f} us, the others after {last * 1e6:.0f} us")
    found: dict[str, Any] = {"early_s": early, "last_s": last, "left_early": left}
    for way, spent in times.items():
        ratio = means[way] / means["off"]
        noise = float(np.std(np.array(spent) / np.array(times["off"])) / len(spent) ** 0.5)
        more_us = median(np.array(spent) - np.array(times["off"])) * 1e6
        found[way] = {"ratio": ratio, "noise": noise, "median_more_us": more_us, "formula": formula.get(way)}
        said = f", formula {formula[way]:+.2%}" if way in formula else ""
        print(
            f"{way:16s} {means[way] * 1e6:7.1f} us a call, {ratio - 1:+.2%} +- {noise:.2%}, median {more_us:+.2f} us{said}"
        )
    return found


PARTS = {"alarms": simulate_alarms, "renewed": simulate_renewed, "shares": simulate_shares, "cost": measure_cost}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--calls", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {}
    for part in options.parts or PARTS:
        print(f"\n{part}")
        found[part] = PARTS[part](options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
