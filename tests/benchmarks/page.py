"""Make the benchmark page and its plots from the JSON that `run_all.py` wrote; nothing is measured here.

    python tests/benchmarks/page.py [--from docs/benchmarks] [--page docs/benchmarks.md]

The plots are written beside the JSON, as SVG. The same JSON gives the same page, byte for byte.
"""

import argparse
import inspect
import json
import os
from pathlib import Path
from typing import Any

from offramp.files import write_atomically
from plots import PLOTS, draw
from run_all import FOLDER, PAGE, RUNS, command_of, show
from sections import SECTIONS
from tables import table

INTRO = """# Benchmarks

offramp beside what one would use instead: plain loops, [earlyon](https://pypi.org/project/earlyon/),
[MAPIE](https://pypi.org/project/MAPIE/), static compression. Every figure on this page comes from the JSON files that
`make benchmarks` wrote; each section names its command and its file. A result holds for the machine that it was measured on."""

MACHINE = {
    "soc": "processor",
    "max_clocks": "highest clocks",
    "power_mode": "power mode",
    "os": "operating system",
}


def title_of(section: Any) -> tuple[str, str]:
    """Return a section's title and what was measured, from its docstring."""
    title, _, about = inspect.cleandoc(section.__doc__).partition(".\n\n")
    return title, " ".join(about.split())


def describe_missing(name: str) -> str:
    """Say that a benchmark was not run, and how to run it."""
    run, needs = RUNS[name], ""
    if run.needs_data:
        needs = (
            " It needs CIFAR-10: `make benchmarks DATA=FOLDER`, with a folder as `samples/cifar10/cifar10.py` takes it."
        )
    return f"**This was not run**: there is no `{name}.json`.{needs} Its command:\n\n```text\n{show(name, command_of(name))}\n```"


def write_section(section: Any, found: dict[str, Any] | None, folder: str) -> str:
    """Return a section in Markdown."""
    name, (title, about) = section.__name__, title_of(section)
    if found is None:
        return "\n\n".join([f"## {title}", about, describe_missing(name)])
    source = f"Figures: [{name}.json]({folder}/{name}.json). Command:\n\n```text\n{found['command']}\n```"
    plot = [f"![{PLOTS[name].__doc__}]({folder}/{name}.svg)"] if name in PLOTS else []
    return "\n\n".join([f"## {title}", about, *section(found["result"]), *plot, source])


def describe_machines(runs: dict[str, dict[str, Any]]) -> str:
    """Say which machines and versions the runs had: one table for each that differs."""
    groups: dict[str, list[str]] = {}
    for name, found in runs.items():
        groups.setdefault(json.dumps([found["machine"], found["versions"]]), []).append(name)
    blocks = []
    for key, names in groups.items():
        machine, versions = json.loads(key)
        rows = [{"what": MACHINE.get(field, field), "text": text} for field, text in machine.items()]
        rows.append({"what": "versions", "text": ", ".join(f"{package} {text}" for package, text in versions.items())})
        blocks.append(table(rows, f"{', '.join(names)} | Machine and versions", "{what} | {text}"))
    return "\n\n".join(["## Machine and versions", *blocks])


def describe_runs(runs: dict[str, dict[str, Any]]) -> str:
    """Say when each benchmark ran, for how long, from which commit, with which seeds."""
    rows = [
        {
            **found,
            "minutes": found["seconds"] / 60,
            "seeds": "; ".join(f"{what} {seed}" for what, seed in found["result"]["seeds"].items()),
        }
        for found in runs.values()
    ]
    shown = table(
        rows,
        "Benchmark | Date | Minutes | Load before | Commit | Seeds",
        "{benchmark} | {date} | {minutes:.1f} | {load_before:.2f} | {commit} | {seeds}",
    )
    about = (
        "`Load before` is the machine's load average over the minute before, in which the benchmark above may have run. "
        "A `+` behind a commit means that files differed from it."
    )
    return "\n\n".join(["## Runs", about, shown])


def render(folder: Path, page: Path) -> str:
    """Return the page for the JSON in a folder; its links are relative to where the page will lie."""
    files = {section.__name__: folder / f"{section.__name__}.json" for section in SECTIONS}
    runs = {name: json.loads(path.read_bytes()) for name, path in files.items() if path.exists()}
    link = Path(os.path.relpath(folder, page.parent)).as_posix()
    blocks = [INTRO, *(write_section(section, runs.get(section.__name__), link) for section in SECTIONS)]
    if runs:
        blocks += [describe_machines(runs), describe_runs(runs)]
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, default=FOLDER)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    options.page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(options.page, render(options.folder, options.page).encode())
    for name in PLOTS:
        path = options.folder / f"{name}.json"
        if path.exists():
            draw(name, json.loads(path.read_bytes())["result"], path.with_suffix(".svg"))
    print(f"page: {options.page}")


if __name__ == "__main__":
    main()
