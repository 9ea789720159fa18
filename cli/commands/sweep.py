"""The command `offramp sweep`: its options, one call, and what it prints."""

import click

from ..options import as_json, examples
from ..output import advises, conclude, note, print_result, progress_bars, table


@click.command(epilog=examples("offramp sweep sweep.yaml --workers 2"))
@click.argument("file")
@click.option("--scheduler", help="A Dask scheduler whose workers run the trials, such as tcp://10.0.0.2:8786.")
@click.option(
    "--workers",
    default=0,
    show_default=True,
    help="Without --scheduler: processes of this machine that run trials; 0 runs them in this one.",
)
@as_json
def sweep(file: str, scheduler: str | None, workers: int, as_json: bool) -> None:
    """Train, shrink and export the networks that FILE describes, and gather the best in one bundle for calibrate."""
    from ...sweep import sweep as run_sweep
    from ...sweep.page import TITLES, show_row

    with (
        advises("What is done is kept: the same command goes on from there."),
        progress_bars() as progress,
    ):
        found = run_sweep(file, scheduler=scheduler, workers=workers, progress=progress, notice=note)
    files = {"table": found.table, "bundle": found.bundle, "report": found.report}
    document = {"rows": found.rows} | {name: path and str(path) for name, path in files.items()}
    last = [show_row(row, found.rows) for row in found.rows if row.rung == found.rows[-1].rung]
    where = [f"{name}: {path}" for name, path in files.items() if path]
    then = ["offramp", "calibrate", str(found.bundle), "SAMPLES"] if found.bundle else []
    shown = "\n".join([table([TITLES, *last]), "", *where])
    print_result(document, as_json, lambda: conclude(shown, None, then))
