"""The command `offramp go`: its options, the steps that it runs, and what it prints."""

import contextlib
import io
import json
import shlex
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from ..options import as_json, examples
from ..output import advises, as_step, conclude, note, print_result, telling_once
from ..verbosity import is_quiet

if TYPE_CHECKING:
    from ..project import Project, ProjectStep

DONE, LEFT, FAILED, WAITS = "done", "nothing changed", "failed", "not run"


@click.command(epilog=examples("offramp go", "offramp go product.yaml --json"))
@click.argument("project", default="offramp.yaml")
@click.option("--again", is_flag=True, help="Run every step, also those of which nothing changed.")
@as_json
@advises("Steps that are done are kept: the same command goes on with the next.")
def go(project: str, again: bool, as_json: bool) -> None:
    """Run the steps of PROJECT, by default offramp.yaml, that are not done yet: `offramp init` writes such a file.

    What steps print goes to stderr, a summary to stdout. The exit code is that of the step that failed.
    """
    with telling_once():
        summary, text = _run_steps(Path(project), again=again, as_json=as_json)
    print_result(summary, as_json, lambda: text)
    if code := summary["exit_code"]:
        click.get_current_context().exit(code)


def _run_steps(path: Path, *, again: bool, as_json: bool) -> tuple[dict[str, Any], str]:
    """Run what is not done yet; return a summary, as a document and as text."""
    from ..app import app
    from ..project import DoneSteps, find_first, read_done, read_project, set_aside, write_done

    plan = read_project(path, app.commands)
    digests = [step.digest() for step in plan.steps]
    first = find_first(plan, digests, DoneSteps() if again else read_done(plan))
    rows: list[dict[str, Any]] = [{"step": step.command, "state": LEFT} for step in plan.steps[:first]]
    code = 0
    for k, step in enumerate(plan.steps[first:], first):
        if code:
            rows.append({"step": step.command, "state": WAITS})
            continue
        is_first = step.makes_bundle and not any(each.makes_bundle for each in plan.steps[:k])
        if is_first and (before := set_aside(plan)) is not None:
            note(f"Note: {plan.bundle} is made anew; as it was it lies in {before}.")
        note(f"Step {k + 1} of {len(plan.steps)}: offramp {shlex.join((step.command, *step.arguments))}")
        started = monotonic()
        digests[k] = step.digest()  # once more: it may read what an earlier step has just written
        code, result = _run(step, as_json=as_json)
        seconds = round(monotonic() - started, 1)
        rows.append({"step": step.command, "state": FAILED if code else DONE, "seconds": seconds, "result": result})
        if not code:
            write_done(plan, digests[: k + 1])
        elif not step.makes_variant:  # a calibration that fails may have added a variant with fewer exits
            write_done(plan, digests[:k])
    return {"bundle": plan.bundle, "steps": rows, "exit_code": code}, _describe(plan, rows, code)


def _run(step: "ProjectStep", *, as_json: bool) -> tuple[int, Any]:
    """Run a step; return its exit code, and with `as_json` its result."""
    from ..app import exit_code_of

    words = [step.command, *step.arguments]
    printed = io.StringIO()
    with as_step(), contextlib.redirect_stdout(printed) if as_json or is_quiet() else contextlib.nullcontext():
        code = exit_code_of([*words, *["--json"] * as_json])
    try:
        return code, json.loads(printed.getvalue()) if as_json else None
    except ValueError:  # it ended before there was one
        return code, None


def _describe(project: "Project", rows: list[dict[str, Any]], code: int) -> str:
    """Return what was done, what came out, and what comes next."""
    from ..output import table

    lines = [[row["step"], row["state"], f"{row['seconds']:.1f} s" if "seconds" in row else ""] for row in rows]
    parts = [table([["step", "", ""], *lines])]
    for row, step in zip(rows, project.steps, strict=True):
        if step.output is not None and row["state"] in (DONE, LEFT):
            parts.append(f"{step.command} wrote {step.output}{' before' * (row['state'] == LEFT)}")
    if code:
        parts.append("The next run goes on with the step that failed.")
        return conclude("\n".join(parts), None, ["offramp", "go", str(project.path)])
    if project.digest_bundle() is None:
        return "\n".join(parts)
    wrote = project.bundle if any(row["state"] == DONE for row in rows) else None
    return conclude("\n".join(parts), wrote, ["offramp", "run", project.bundle, "SAMPLES"])
