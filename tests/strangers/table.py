"""What came of the networks, as tables: rates for each step and library, and every sentence of those that did not pass."""

from collections.abc import Iterable, Sequence
from typing import Any

from offramp.cli.output import table
from offramp.tests.strangers.watch import STEPS

LEAST_ALIKE = 0.8
"""An int8 variant that keeps fewer labels than this at some exit is listed."""

MOST_LISTED = 8

Records = dict[str, dict[str, dict[str, Any]]]
"""Records by network and step."""


def by_network(records: Iterable[dict[str, Any]]) -> Records:
    """Sort records; of two for the same step of a network the later one counts."""
    found: Records = {}
    for record in records:
        found.setdefault(record["name"], {})[record["step"]] = record
    return found


def make_table(records: Iterable[dict[str, Any]]) -> str:
    """Return all tables as text."""
    networks = by_network(records)
    every = [{"name": name} | record for name, steps in networks.items() for record in steps.values()]
    failed = [record for record in every if record["outcome"] != "ok"]
    parts = [table([("library", *STEPS), *_rates(networks)])]
    if failed:
        rows = [(r["name"], r["step"], r["outcome"], r["words"].replace("\n", " ")) for r in failed]
        parts.append(table([("did not pass", "step", "outcome", "why"), *rows]))
    if changed := [
        r for r in every if r["step"] == "quantize" and r["outcome"] == "ok" and _least_alike(r) < LEAST_ALIKE
    ]:
        parts.append(table([("int8 changes many labels", "of each exit"), *((r["name"], r["words"]) for r in changed)]))
    for key, unit in ("seconds", "s"), ("peak_mb", "MB"):
        most = sorted(every, key=lambda record: -record[key])[:MOST_LISTED]
        parts.append(table([(f"most {unit}", "step", unit), *((r["name"], r["step"], f"{r[key]:.0f}") for r in most)]))
    return "\n\n".join(parts)


def _rates(networks: Records) -> list[Sequence[str]]:
    """Return a row for each library and one for all: how many passed each step, of those that came to it."""
    libraries = sorted({name.partition("/")[0] for name in networks})
    rows: list[Sequence[str]] = []
    for library in [*libraries, "all"]:
        cells = []
        for step in STEPS:
            outcomes = [
                steps[step]["outcome"]
                for name, steps in networks.items()
                if step in steps and library in (name.partition("/")[0], "all")
            ]
            passed = outcomes.count("ok")
            cells.append(f"{passed} of {len(outcomes)} ({passed / len(outcomes):.0%})" if outcomes else "-")
        rows.append((library, *cells))
    return rows


def _least_alike(record: dict[str, Any]) -> float:
    """Return the smallest share of labels that int8 kept at any exit."""
    return min(float(share) for share in record["words"].removeprefix("same labels ").split(", "))
