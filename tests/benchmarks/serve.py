"""What does a server cost beside the local runtime, and do batches across requests pay? Two servers on 127.0.0.1, by turns.

python tests/benchmarks/serve.py [BUNDLE] [--seconds 2] [--rounds 5] [--clients 1 16] [--json result.json]

One server answers requests that wait together, the other one by one. Clients keep their connections and send one sample after the
other, as JSON and as bytes. For each: requests per second, the median latency, and the server's processor time for a request.
Beside that stands the local runtime: calls per second and processor time of `net(x)`.
"""

import argparse
import http.client
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from offramp.bundle import open_bundle
from offramp.bundle.golden import read_golden
from offramp.runtime import Net, load
from offramp.runtime.protocol import Message, write_request

ARCHIVED = Path(__file__).parents[1] / "bundle" / "archive" / "v0.1-dense.offramp"

MODES = ("together", "alone")


def start(bundle: Path, mode: str) -> tuple[subprocess.Popen[str], int]:
    """Start a server in a process of its own; return it and its port."""
    command = [sys.executable, "-m", "offramp", "serve", str(bundle), "--name", "net", "--port", "0", f"--{mode}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in iter(process.stderr.readline, ""):
        if found := re.search(r"serving .*:(\d+)$", line):
            return process, int(found[1])
    raise SystemExit("The server did not start.")


def send(port: int, message: Message, seconds: float, into: list[float]) -> None:
    """Send one request after the other for some seconds; write their latencies."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        connection.request("POST", "/v2/models/net/infer", message.body, message.headers)
        response = connection.getresponse()
        response.read()
        assert response.status == 200
        into.append(time.perf_counter() - begun)


def load_up(process: psutil.Process, port: int, message: Message, clients: int, seconds: float) -> dict[str, float]:
    """Let clients send at once; return the figures."""
    latencies: list[float] = []
    before, begun = process.cpu_times(), time.perf_counter()
    threads = [threading.Thread(target=send, args=(port, message, seconds, latencies)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after, spent_s = process.cpu_times(), time.perf_counter() - begun
    cpu_s = after.user + after.system - before.user - before.system
    return {
        "per_s": len(latencies) / spent_s,
        "latency_us": statistics.median(latencies) * 1e6,
        "cpu_us": cpu_s / len(latencies) * 1e6,
    }


def call(net: Net, sample: Any, seconds: float) -> dict[str, float]:
    """Call the local runtime for some seconds; return the same figures."""
    latencies = []
    begun, cpu_s = time.perf_counter(), time.process_time()
    while time.perf_counter() < begun + seconds:
        latencies.append(net(sample).latency_s)
    cpu_s, spent_s = time.process_time() - cpu_s, time.perf_counter() - begun
    return {
        "per_s": len(latencies) / spent_s,
        "latency_us": statistics.median(latencies) * 1e6,
        "cpu_us": cpu_s / len(latencies) * 1e6,
    }


def measure(path: Path, seconds: float, rounds: int, clients: list[int]) -> dict[str, dict[str, float]]:
    """Measure everything by turns; return the median figures of each by its name."""
    bundle = open_bundle(path)
    golden = read_golden(bundle, bundle.variant()).inputs
    one = {
        tensor.name: a.take([0], tensor.batch_axis) for tensor, a in zip(bundle.manifest.inputs, golden, strict=True)
    }
    messages = {"JSON": write_request(one, binary=False), "bytes": write_request(one)}
    net = load(bundle)
    servers = {mode: start(path, mode) for mode in MODES}
    found: dict[str, list[dict[str, float]]] = {}
    try:
        for _ in range(rounds):
            found.setdefault("net(x)", []).append(call(net, one, seconds))
            for count in clients:
                for form, message in messages.items():
                    for mode, (process, port) in servers.items():
                        name = f"{form}, {count} client{'s' * (count > 1)}, {mode}"
                        figures = load_up(psutil.Process(process.pid), port, message, count, seconds)
                        found.setdefault(name, []).append(figures)
    finally:
        for process, _ in servers.values():
            process.terminate()
            process.wait()
    return {
        name: {key: float(np.median([row[key] for row in rows])) for key in rows[0]} for name, rows in found.items()
    }


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?", default=ARCHIVED)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copytree(options.bundle, Path(folder) / "b.offramp")
        found = measure(copied, options.seconds, options.rounds, options.clients)
    for name, row in found.items():
        print(f"{name:28}  {row['per_s']:8.0f} /s  {row['latency_us']:8.0f} us  {row['cpu_us']:7.0f} us of processor")
    if options.json:
        options.json.write_text(json.dumps({"seeds": {}, "rows": found}, indent=1))


if __name__ == "__main__":
    main()
