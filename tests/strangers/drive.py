"""Strangers' networks taken through attach, export, chain, fuse and quantize, each in a process of its own.

    make strangers                                         # installs the libraries into .strangers, and runs all (hours)
    .strangers/bin/python tests/strangers/drive.py --out found.jsonl --steps attach,export timm/resnet18 transformers/Bert
    .strangers/bin/python tests/strangers/drive.py --table found.jsonl

Networks have random weights and normalisations that saw three batches; nothing is downloaded. Each step of each network gives a
line of JSON: `ok`, `refused` with its sentence, `wrong` (an answer differs from torch's, or the fused file's from the chain's),
`crash`, `time` or `memory`. What the file already holds is not run again.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from offramp.tests.strangers.networks import list_strangers
from offramp.tests.strangers.table import by_network, make_table
from offramp.tests.strangers.watch import FOLLOWS, STEPS, Limits, read_records, watch_process

BAD = ("wrong", "crash")


def is_done(found: dict[str, dict[str, Any]], steps: Sequence[str]) -> bool:
    """Tell whether a network needs no further run: each step has a record, or one before it let no other follow."""
    for step in ("build", *steps):
        if step not in found:
            return False
        outcome = found[step]["outcome"]
        if outcome in ("time", "memory") or (outcome != "ok" and step in ("build", *FOLLOWS)):
            return True
    return True


def run_network(name: str, steps: Sequence[str], limits: Limits) -> list[dict[str, Any]]:
    """Take one network through steps in a process of its own; return a record for each."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        command = [sys.executable, "-m", "offramp.tests.strangers.steps", name, ",".join(steps), scratch]
        file = folder / "records.jsonl"
        records = watch_process([*command, str(file)], file, folder / "log", limits)
    return [{"name": name} | record for record in records]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("names", nargs="*", help="networks, or file.py:function; a library's name stands for all of it")
    parser.add_argument("--steps", default=",".join(STEPS), help="steps in their order (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="networks at a time (default: 1)")
    parser.add_argument("--timeout-s", type=float, default=600, help="seconds for each step (default: 600)")
    parser.add_argument("--memory-mb", type=float, default=6000, help="memory of each process (default: 6000)")
    parser.add_argument("--out", type=Path, default=Path("strangers.jsonl"), help="the file to go on with")
    parser.add_argument("--table", type=Path, metavar="FILE", help="run nothing, but print the tables of a file")
    parser.add_argument("--list", action="store_true", help="print the names of all networks")
    found = parser.parse_args(arguments)
    found.steps = tuple(found.steps.split(","))
    if unknown := [step for step in found.steps if step not in STEPS]:
        parser.error(f"unknown step {unknown[0]!r}; known: {', '.join(STEPS)}")
    return found


def choose_names(wanted: Sequence[str]) -> list[str]:
    """Return the networks that are asked for: all without names, all of a library by its name."""
    known = list_strangers()
    chosen = [
        name for want in wanted for name in ([name for name in known if name.partition("/")[0] == want] or [want])
    ]
    if strange := [name for name in chosen if ":" not in name and name not in known]:
        raise SystemExit(f"There is no network {strange[0]!r}: --list names all.")
    return chosen or known


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and print the tables; 1 if an answer was wrong or a process crashed."""
    options = parse(arguments)
    if options.list:
        print("\n".join(list_strangers()))
        return 0
    file = options.table or options.out
    if options.table is None:
        _run_all(options)
    records = read_records(file)
    print(make_table(records))
    return int(any(record["outcome"] in BAD for steps in by_network(records).values() for record in steps.values()))


def _run_all(options: argparse.Namespace) -> None:
    """Run the networks that are not done, and append what comes of each to the file."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # else torch's threads wait by spinning
    names, known = choose_names(options.names), by_network(read_records(options.out))
    todo = [name for name in names if not is_done(known.get(name, {}), options.steps)]
    limits = Limits(options.timeout_s, options.memory_mb)
    with ThreadPoolExecutor(options.jobs) as pool, options.out.open("a") as out:
        out.write("\n")  # behind what a killed driver left unfinished
        runs = {pool.submit(run_network, name, options.steps, limits): name for name in todo}
        for count, run in enumerate(as_completed(runs), 1):
            records = run.result()
            out.writelines(json.dumps(record) + "\n" for record in records)
            out.flush()
            shown = " ".join(f"{record['step']}:{record['outcome']}" for record in records)
            print(f"{count}/{len(todo)} {runs[run]} {shown}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
