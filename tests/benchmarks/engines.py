"""Each engine beside ONNX Runtime, over networks of 0.1 to 1,800 million multiply-accumulates, float32 and int8, one thread.

    python tests/benchmarks/engines.py [--seconds 10] [--json result.json] [NETWORK ...]

Every engine runs the whole graph with all exits by one bound call, and the chain with all exits taken. All take turns in an order
drawn anew; a ratio is the median over turns, in process CPU time. What an engine refuses stands in the result with its reason.
"""

import argparse
import functools
import json
import random
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from chain import SEEDS, measure, whole
from ladder import LADDER
from offramp.errors import OfframpError
from offramp.export import export, quantize
from offramp.runtime import load_uncalibrated
from tables import ENGINES

PRECISIONS = ("fp32", "int8")


def open_calls(bundle, variant, device, x):
    """Return what runs the whole graph on a device, and what runs the chain."""
    net = load_uncalibrated(bundle, device, variant=variant, threads=1)
    return {"whole": whole(bundle, device, x, variant)[0], "net": functools.partial(net, x)}


def compare(bundle, variant, x, seconds):
    """Return a row for each engine that runs a variant, and the reasons of those that do not."""
    calls: dict[tuple[str, str], Any] = {}
    refused = {}
    for device in ENGINES:
        try:
            calls |= {(device, what): call for what, call in open_calls(bundle, variant, device, x).items()}
        except OfframpError as error:
            refused[device] = str(error).replace(f"{bundle.path}/", "")
    times = measure(calls, seconds)

    def ratio(over, under):
        return median(a / b for a, b in zip(times[over], times[under], strict=True))

    rows = [
        {
            "device": device,
            "whole_s": median(times[device, "whole"]),
            "beside": ratio((device, "whole"), ("cpu", "whole")),
            "chain": ratio((device, "net"), (device, "whole")),
            "turns": len(times[device, "whole"]),
        }
        for device in ENGINES
        if (device, "whole") in times
    ]
    return rows, refused


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(LADDER), metavar="NETWORK")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(SEEDS["order of turns"])
    results, refusals = [], []
    print(f"{'network':10} {'Mmac':>7} {'variant':8} {'engine':13} {'whole us':>10} {'beside':>7} {'chain':>6}")
    for name in options.networks:
        make, shape = LADDER[name]
        torch.manual_seed(SEEDS["weights"])
        x = np.random.default_rng(SEEDS["samples"]).standard_normal((1, *shape)).astype(np.float32)
        with tempfile.TemporaryDirectory() as folder:
            bundle = export(make().eval(), np.concatenate([x, x[:, :, ::-1]]), Path(folder) / "b.offramp")
            bundle = quantize(bundle, np.concatenate([x, x[:, :, ::-1]]))
            mmac = bundle.variant().exits[-1].macs / 1e6
            for variant in PRECISIONS:
                rows, refused = compare(bundle, variant, x, options.seconds)
                about = {"network": name, "variant": variant}
                results += [about | {"mmac": mmac} | row for row in rows]
                refusals += [about | {"device": device, "reason": reason} for device, reason in refused.items()]
                for row in rows:
                    print(
                        f"{name:10} {mmac:7.1f} {variant:8} {row['device']:13} {row['whole_s'] * 1e6:10.1f} "
                        f"{row['beside']:7.3f} {row['chain']:6.3f}",
                        flush=True,
                    )
                for device, reason in refused.items():
                    print(f"{name:10} {mmac:7.1f} {variant:8} {device:13} refused: {reason}", flush=True)
    if options.json:
        Path(options.json).write_text(json.dumps({"seeds": SEEDS, "results": results, "refused": refusals}, indent=1))


if __name__ == "__main__":
    main()
