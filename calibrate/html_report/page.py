"""The page of a report: its template filled in, with the plots and the script that draws them inside."""

import base64
import hashlib
from importlib import resources
from typing import Any

from ...bundle import OperatingPoint
from ...bundle.calibration import EARLY_SUFFIX, StaticPoint
from ...bundle.findings import show_worst
from ...errors import require
from ...units import show_share, show_thresholds, show_time
from .contents import Report
from .figures import show_placement, show_runs, show_static
from .plots import draw_plots

PROBABILITIES = ("max_softmax", "ensemble")
"""Rules whose score estimates the probability that the label is right."""


def check_packages() -> None:
    """See that the packages are there that a page takes.

    Raises:
        MissingError: bokeh or jinja2 is not installed.
    """
    for package in ("bokeh", "jinja2"):
        require(package, extra="report")


def render_page(report: Report) -> str:
    """Return the page as HTML.

    The page loads nothing: styles, scripts and pictures are inside, and its content security policy forbids everything else. Only
    scripts with a sha256 that the policy names may run, so text from a bundle cannot run as a script.

    Raises:
        MissingError: bokeh or jinja2 is not installed.
    """
    check_packages()
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
        "rightness": lambda value: _show_rightness(value, has_losses(report)),
        "percent": lambda value: "-" if value is None else show_share(value),
        "worst": show_worst,
        "millijoules": lambda joules: "-" if joules is None else f"{joules * 1e3:.4g}",
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
        has_losses=has_losses(report),
        has_disagreement=has_disagreement(report),
        is_probability=report.measured is not None and report.measured.rule in PROBABILITIES,
        plots={name: jinja2.utils.markupsafe.Markup(place) for name, place in places.items()},
        style=jinja2.utils.markupsafe.Markup(_read("page.css")),
        scripts=[jinja2.utils.markupsafe.Markup(part) for part in scripts],
        hashes=[base64.b64encode(hashlib.sha256(part.encode()).digest()).decode() for part in scripts],
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


def _show_rightness(accuracy: float | None, of_losses: bool) -> str:
    """Write an accuracy, or the mean loss that it is 1 less than."""
    return "-" if accuracy is None else show_share(1 - accuracy if of_losses else accuracy)


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


def _compare_predictions(report: Report) -> list[tuple[str, str, str]]:
    """Return rows of a name, what calibration predicted for the measured point, and what was measured."""
    measured = report.measured
    if measured is None or measured.benchmark is None or measured.point is None:
        return []
    point, benchmark = report.calibration.points[measured.point], measured.benchmark
    mean = show_time(benchmark.early.mean_s)
    rows = []
    if point.drop_interval is not None and point.drop is not None:
        of_losses = has_losses(report)
        what = ("loss", "loss added") if of_losses else ("accuracy", "accuracy drop")
        predicted, found = (_show_rightness(each, of_losses) for each in (point.accuracy, benchmark.early.accuracy))
        rows.append((what[0], predicted, found))
        drops = _show_drop(point.drop, point.drop_interval), _show_drop(benchmark.drop, benchmark.drop_interval)
        rows.append((f"{what[1]}, 95 % interval", *drops))
    rows.append(("mean latency", show_time(point.latency_s), mean))
    by_shares_s = sum(
        share * latency_s for share, latency_s in zip(benchmark.exit_shares, point.exit_latency_s, strict=True)
    )
    rows.append(("mean latency by the measured shares", show_time(by_shares_s), mean))
    expected = zip(point.exit_shares, point.exit_latency_s, strict=True)
    measured_exits = zip(benchmark.exit_shares, benchmark.exit_latency_s, strict=True)
    for k, ((share, latency_s), (measured_share, measured_s)) in enumerate(zip(expected, measured_exits, strict=True)):
        rows.append((f"share that leaves at exit {k}", show_share(share), show_share(measured_share)))
        rows.append((f"mean latency of leaving at exit {k}", show_time(latency_s), show_time(measured_s)))
    return rows


def _show_drop(drop: float, interval: tuple[float, float]) -> str:
    return f"{show_share(drop)} ({show_share(interval[0])} to {show_share(interval[1])})"
