"""Run the benchmarks of the page: each writes one JSON file, with the machine, the versions, the date and the command beside it.

    python tests/benchmarks/run_all.py [--data FOLDER] [--again] [--brief] [--into docs/benchmarks] [NAME ...]

A benchmark whose file is there is not run again without --again, so a run that was stopped goes on where it was; one that fails
leaves no file, and the others run. Run it on a machine that does nothing else. FOLDER holds CIFAR-10 as
`samples/cifar10/cifar10.py` takes it; without it what needs it is not run. --brief takes the shortest settings, which show only
that everything runs.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from offramp.devices import fingerprint
from offramp.devices.fingerprints import version_of
from offramp.files import check_writable, write_atomically

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
FOLDER = PAGE.with_suffix("")

PACKAGES = (
    "offramp",
    "onnxruntime",
    "openvino",
    "MNN",
    "ai-edge-litert",
    "ncnn",
    "torch",
    "numpy",
    "scipy",
    "earlyon",
    "mapie",
)
MACHINE = ("soc", "module", "cores", "memory", "accelerators", "driver", "power_mode", "max_clocks", "governor", "os")

SAMPLES = "tests/benchmarks/cifar10_samples.py"
RESNET = "samples/cifar10/resnets.py"
DIGITS = "samples/quickstart/digits.py"


class Run(NamedTuple):
    """How the page runs a benchmark: its script and options, the shortest ones, and about how long it takes on two cores."""

    script: str
    options: str
    brief: str
    minutes: int
    needs_data: bool = False


RUNS = {
    "chain": Run("chain.py", "", "--seconds 0.2 tiny", 3),
    "engines": Run("engines.py", "", "--seconds 0.2 tiny", 5),
    "search": Run("search.py", "", "--cases 1 --samples 5000", 2),
    "certify": Run("certify.py", "--splits 150 splits cascade free size", "--splits 2 splits cascade free size", 10),
    "recorded": Run(
        "certify.py",
        f"--splits 200 --network {RESNET}:resnet --data {SAMPLES}:test --outside {SAMPLES}:held recorded asked",
        f"--splits 2 --network {DIGITS}:network --data {DIGITS}:calibration --outside {DIGITS}:test recorded asked",
        3,
        needs_data=True,
    ),
    "promises": Run("promises.py", "--calibrations 200", "--calibrations 3 --samples 500 --pool 1000 --fresh 500", 8),
    "predict": Run(
        "predict.py",
        f"--network {RESNET}:resnet --data {SAMPLES}:held --test {SAMPLES}:test",
        "--devices cpu --samples 100",
        8,
        needs_data=True,
    ),
    "busy": Run(
        "predict.py",
        f"--devices cpu --runs 40 load --network {RESNET}:resnet --data {SAMPLES}:held --test {SAMPLES}:test",
        "--devices cpu --runs 2 --samples 100 load",
        6,
        needs_data=True,
    ),
    "compressed": Run(
        "compressed.py",
        f"--network {RESNET}:resnet --pruned pruned50={RESNET}:resnet_pruned50 "
        f"--train {SAMPLES}:train --held {SAMPLES}:held --test {SAMPLES}:test",
        f"--network {DIGITS}:network --train {DIGITS}:training --held {DIGITS}:calibration --test {DIGITS}:test --measure 0.1",
        15,
        needs_data=True,
    ),
    "power": Run("power.py", "--runs 200", "--runs 4 --seconds 1", 6),
    "product": Run("product.py", "", "--rounds 1 --calls 20000 tiny", 4),
    "fuse": Run("fuse.py", "", "--seconds 0.2 plain", 3),
    "deadlines": Run("deadlines.py", "--calls 20000", "--calls 40 tiny", 1),
    "serve": Run("serve.py", "", "--seconds 0.1 --rounds 1", 2),
}


def command_of(name: str, *, brief: bool = False) -> list[str]:
    """Return what runs a benchmark, without the interpreter: script and options."""
    run = RUNS[name]
    options = shlex.split(run.brief if brief else run.options)
    return [(Path("tests/benchmarks") / run.script).as_posix(), *options]


def show(name: str, command: list[str]) -> str:
    """Return a command as one types it; the folder of the data is left open."""
    shown = shlex.join(["python", *command])
    return f"CIFAR10=FOLDER {shown}" if any(SAMPLES in part for part in command) else shown


def commit() -> str:
    """Return the commit of the checkout, with `+` where files differ from it; empty outside git."""
    try:
        done = subprocess.run(["git", "describe", "--always", "--dirty=+"], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def record(name: str, command: list[str], environment: dict[str, str]) -> dict[str, Any] | None:
    """Run a benchmark and return what it wrote, with everything about the run; None where it failed."""
    load = psutil.getloadavg()[0]
    started, start = datetime.now(timezone.utc), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        done = subprocess.run([sys.executable, *command, "--json", str(path)], cwd=ROOT, env=environment)
        if done.returncode or not path.exists():
            return None
        result = json.loads(path.read_bytes())
    seconds = time.monotonic() - start
    result.pop("fingerprint", None)
    here = fingerprint()
    return {
        "benchmark": name,
        "command": show(name, command),
        "date": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "load_before": round(load, 2),
        "commit": commit(),
        "machine": {field: here[field] for field in MACHINE if here.get(field, "unknown") != "unknown"},
        "versions": {"python": here["python"]} | {package: version_of(package) for package in PACKAGES},
        "result": result,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RUNS))
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--brief", action="store_true")
    parser.add_argument("--into", type=Path, default=FOLDER, metavar="FOLDER")
    options = parser.parse_args()
    if unknown := set(options.names) - set(RUNS):
        parser.error(f"There is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(RUNS)}.")
    if options.data and not (options.data / "cifar10_test.npz").is_file():
        parser.error(f"{options.data} holds no cifar10_test.npz; samples/cifar10/cifar10.py says what is in it.")
    if options.brief and options.into.resolve() == FOLDER:
        parser.error("Figures of the shortest settings are not for the page: say --into another folder.")
    environment = os.environ | ({"CIFAR10": str(options.data.resolve())} if options.data else {})
    wanted = {}
    for name in options.names or RUNS:
        if RUNS[name].needs_data and not options.data and not options.brief:
            print(f"{name}: not run, since it needs --data FOLDER (make benchmarks DATA=FOLDER)", flush=True)
        elif (options.into / f"{name}.json").exists() and not options.again:
            print(f"{name}: there already; --again runs it again", flush=True)
        else:
            wanted[name] = command_of(name, brief=options.brief)
    if not options.brief:
        minutes = sum(RUNS[name].minutes for name in wanted)
        print(f"To run: {', '.join(wanted) or 'nothing'}; about {minutes} minutes on two cores", flush=True)
    failed = []
    for name, command in wanted.items():
        print(f"\n{name}, about {RUNS[name].minutes} minutes: {show(name, command)}", flush=True)
        check_writable(options.into / f"{name}.json")
        found = record(name, command, environment)
        if found is None:
            failed.append(name)
            continue
        write_atomically(options.into / f"{name}.json", (json.dumps(found, indent=1) + "\n").encode())
        print(f"{name}: took {found['seconds'] / 60:.1f} minutes", flush=True)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}; what they say stands above. The same command runs only these again.")


if __name__ == "__main__":
    main()
