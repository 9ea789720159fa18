"""The page of a report: its template filled in, with plots and pictures inside."""

import base64
from importlib import resources
from typing import Any

from ...bundle import Calibration, OperatingPoint
from ...bundle.calibration import EARLY_SUFFIX, WHOLE_NETWORK_PROMISE, StaticPoint
from ...bundle.findings import show_worst
from ...errors import require
from ...units import show_share, show_thresholds
from .columns import show_joules_column, show_times_column
from .contents import Report
from .figures import show_placement, show_runs, show_static
from .plots import draw_plots
from .predictions import compare_exits, compare_points, show_rightness
from .recommendations import recommend

PROBABILITIES = ("max_softmax", "ensemble")
"""Rules whose score estimates the probability that the label is right."""


def check_packages() -> None:
    """See that the packages are there that a page takes.

    Raises:
        MissingError: jinja2, matplotlib or Pillow is not installed.
    """
    for package in ("jinja2", "matplotlib", "PIL.Image"):
        require(package, extra="report")


def render_page(report: Report) -> str:
    """Return the page as HTML.

    The page loads nothing and runs nothing: styles, plots and pictures are inside, and its content security policy forbids
    scripts and everything that is not inside.

    Raises:
        MissingError: jinja2, matplotlib or Pillow is not installed.
    """
    check_packages()
    jinja2 = require("jinja2", extra="report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    of_losses = has_losses(report)
    environment.filters |= {
        "times": show_times_column,
        "joules": show_joules_column,
        "rightness": lambda value: show_rightness(value, of_losses=of_losses),
        "percent": lambda value: "-" if value is None else show_share(value),
        "worst": show_worst,
        "thresholds": show_thresholds,
        "placement": show_placement,
        "runs": show_runs,
        "recommendation": recommend,
        "picture": lambda content: f"data:image/png;base64,{base64.b64encode(content).decode()}",
    }
    safe = jinja2.utils.markupsafe.Markup
    asked = report.calibration.asked_for
    main = next(
        (name for name in (report.point, report.point.removesuffix(EARLY_SUFFIX)) if name in asked), next(iter(asked))
    )
    page: str = environment.from_string(_read("page.html.jinja")).render(
        report=report,
        calibration=report.calibration,
        measured=report.measured,
        main=main,
        points=asked,
        whole_promise=WHOLE_NETWORK_PROMISE,
        board=_name_board(report.calibration.fingerprint),
        statics=_compare_statics(report),
        predictions=compare_points(report, of_losses=of_losses),
        exits=compare_exits(report),
        latencies=_list_latencies(report.calibration),
        has_losses=of_losses,
        has_disagreement=has_disagreement(report),
        is_probability=report.measured is not None and report.measured.rule in PROBABILITIES,
        plots={name: safe(plot) for name, plot in draw_plots(report).items()},
        style=safe(_read("page.css")),
    )
    return page


def has_losses(report: Report) -> bool:
    """Return True if answers are judged by losses: the network does not classify."""
    return report.calibration.point.target.counts == "losses"


def has_disagreement(report: Report) -> bool:
    """Return True if the calibration's disagreements are of labels or answers.

    Where losses are compared, that is known if disagreement was limited or the truth is missing; else they may be of losses.
    """
    points = report.calibration.points.values()
    return not has_losses(report) or any(p.accuracy is None or p.target.max_disagreement is not None for p in points)


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _name_board(fingerprint: dict[str, str]) -> str:
    names = [fingerprint.get(field, "unknown") for field in ("module", "soc", "architecture")]
    return next((name for name in names if name != "unknown"), "this device")


def _compare_statics(report: Report) -> list[dict[str, Any]]:
    """Return the rows of the table of networks: the report's point first, then every static network."""
    calibration, point = report.calibration, report.calibration.points[report.point]
    rows = []
    for name, candidate in calibration.points.items():
        if name in (report.point, report.point + EARLY_SUFFIX):
            note = "recommended" if name in calibration.asked_for and candidate.met else ""
            rows.append(_row(f"{name}: {show_runs(candidate)}", candidate, point, note))
    for i, static in enumerate(calibration.statics):
        note = "" if calibration.took_part(static) else "never recommended"
        if i == point.rival:
            note = "best static network"
        rows.append(_row(f"{show_static(static.exit)}, {static.variant} on {static.device}", static, point, note))
    return rows


def _row(name: str, figures: OperatingPoint | StaticPoint, point: OperatingPoint, note: str) -> dict[str, Any]:
    return {
        "name": name,
        "accuracy": figures.accuracy,
        "drop": figures.drop,
        "disagreement": figures.disagreement,
        "latency_s": figures.latency_s,
        "ratio": figures.latency_s / point.latency_s if point.latency_s else 1.0,
        "energy_j": figures.energy_j,
        "is_point": figures is point,
        "note": note,
    }


def _list_latencies(calibration: Calibration) -> dict[str, Any]:
    """Return the rows of the table of exits, whose latencies have one unit and equally many decimals."""
    exits = [(chain, k) for chain in calibration.chains for k in range(len(chain.exits))]
    values: list[float | None] = []
    for chain, k in exits:
        latency = chain.exits[k]
        values += [latency.mean_s, latency.p50_s, latency.p90_s, latency.p99_s]
        values.append(chain.passing_s[k] if k < len(chain.passing_s) else None)
    column = show_times_column(values)
    rows = [
        {
            "name": f"exit {k} of {chain.variant}",
            "device": chain.placement[k],
            "texts": column.texts[5 * i : 5 * i + 5],
            "accuracy": chain.accuracy[k] if chain.accuracy else None,
        }
        for i, (chain, k) in enumerate(exits)
    ]
    return {"unit": column.unit, "rows": rows}
