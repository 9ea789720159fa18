"""The page of a report: its template filled in, with the plots and all that draws them inside."""

import base64
import hashlib
from importlib import resources
from typing import Any

from ...bundle import OperatingPoint
from ...bundle.calibration import EARLY_SUFFIX
from ...errors import require
from ...units import show_thresholds, show_time
from .contents import Report
from .plots import draw_plots, show_placement, show_runs

PROBABILITIES = ("max_softmax", "ensemble")
"""Rules whose score is meant to be the probability of being right."""


def render_page(report: Report) -> str:
    """Return the page as HTML.

    It loads nothing: styles, scripts and pictures are inside, and its content security policy forbids the rest. Only scripts
    whose sha256 the policy names may run, so that no text from a bundle can.

    Raises:
        MissingError: bokeh or jinja2 is not installed.
    """
    require("bokeh", extra="report")
    jinja2 = require("jinja2", extra="report")
    from bokeh.embed import components
    from bokeh.resources import Resources

    library = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    plots = draw_plots(report)
    script, places = components(plots, wrap_script=False)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "time": show_time,
        "percent": lambda value: "-" if value is None else f"{value:.2%}",
        "thresholds": show_thresholds,
        "placement": show_placement,
        "runs": show_runs,
        "picture": lambda content: f"data:image/png;base64,{base64.b64encode(content).decode()}",
    }
    scripts = library, script
    template = environment.from_string(_read("page.html.jinja"))
    page: str = template.render(
        report=report,
        calibration=report.calibration,
        measured=report.measured,
        point=report.calibration.points[report.point],
        points=report.calibration.asked_for,
        board=_name_board(report.calibration.fingerprint),
        statics=_compare_statics(report),
        predictions=_compare_predictions(report),
        is_probability=report.measured is not None and report.measured.rule in PROBABILITIES,
        plots={name: jinja2.utils.markupsafe.Markup(place) for name, place in places.items()},
        style=jinja2.utils.markupsafe.Markup(_read("page.css")),
        scripts=[jinja2.utils.markupsafe.Markup(part) for part in scripts],
        hashes=[base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in scripts],
    )
    return page


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _name_board(fingerprint: dict[str, str]) -> str:
    names = [fingerprint.get(field, "unknown") for field in ("module", "soc", "architecture")]
    return next((name for name in names if name != "unknown"), "this device")


def _compare_statics(report: Report) -> list[dict[str, Any]]:
    """Return a row for each way to run beside which the report's point stands, that one first."""
    found, point = report.calibration, report.calibration.points[report.point]
    about = report.point, report.point + EARLY_SUFFIX
    rows = []
    for name, one in found.points.items():
        if name in about:
            note = "recommended" if name in found.asked_for and one.met else ""
            rows.append(_row(f"{name}: {show_runs(one)}", one, point, note))
    for i, static in enumerate(found.statics):
        note = "" if found.took_part(static) else "never recommended"
        if i == point.rival:
            note = "the rival of early exit"
        rows.append(
            _row(f"static network to exit {static.exit}, {static.variant} on {static.device}", static, point, note)
        )
    return rows


def _row(name: str, one: Any, point: OperatingPoint, note: str) -> dict[str, Any]:
    return {
        "name": name,
        "accuracy": one.accuracy,
        "drop": one.drop,
        "disagreement": one.disagreement,
        "latency_s": one.latency_s,
        "ratio": one.latency_s / point.latency_s if point.latency_s else 1.0,
        "energy_j": one.energy_j,
        "is_point": one is point,
        "note": note,
    }


def _compare_predictions(report: Report) -> list[tuple[str, str, str]]:
    """Return what calibration predicted of a point and what was measured, in words."""
    measured = report.measured
    if measured is None or measured.benchmark is None or measured.point is None:
        return []
    point, seen = report.calibration.points[measured.point], measured.benchmark
    rows = []
    if point.accuracy is not None and point.drop_interval is not None and point.drop is not None:
        rows.append(("accuracy", f"{point.accuracy:.2%}", f"{seen.early.accuracy:.2%}"))
        drops = _drop(point.drop, point.drop_interval), _drop(seen.drop, seen.drop_interval)
        rows.append(("accuracy drop, 95 % interval", *drops))
    rows.append(("mean latency", show_time(point.latency_s), show_time(seen.early.mean_s)))
    later_s = sum(share * cost_s for share, cost_s in zip(seen.exit_shares, point.exit_latency_s, strict=True))
    rows.append(("mean latency by the measured shares", show_time(later_s), show_time(seen.early.mean_s)))
    pairs = zip(point.exit_shares, seen.exit_shares, point.exit_latency_s, seen.exit_latency_s, strict=True)
    for k, (share, seen_share, latency_s, seen_s) in enumerate(pairs):
        rows.append((f"share that leaves at exit {k}", f"{share:.2%}", f"{seen_share:.2%}"))
        rows.append((f"mean latency of leaving at exit {k}", show_time(latency_s), show_time(seen_s)))
    return rows


def _drop(drop: float, interval: tuple[float, float]) -> str:
    return f"{drop:.2%} ({interval[0]:.2%} to {interval[1]:.2%})"
