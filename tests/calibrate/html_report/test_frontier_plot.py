"""The plot beside the recommendation: what has a label, what the target allows, and what is promised."""

import re

import pytest
from msgspec.structs import replace

from offramp.bundle import Target, read_calibration
from offramp.calibrate.html_report.contents import Report
from offramp.calibrate.html_report.figures import NARROW, render_plot
from offramp.calibrate.html_report.frontier_plot import WIDTH, make_frontier
from offramp.calibrate.html_report.plots import draw_plots


def report_of(found):
    """Return the report of a calibration on its first point."""
    return Report(
        bundle="dense.offramp",
        network="Dense",
        class_names=None,
        made="",
        calibrated="",
        offramp="",
        sha256={},
        point=next(iter(found.points)),
        elsewhere="",
        calibration=found,
        chain=found.chains[0],
        measured=None,
    )


@pytest.fixture
def found(calibrated):
    return read_calibration(calibrated.calibrations()[0])


def draw(found, *, energy=False):
    """Return the wide and the narrow drawing."""
    wide, narrow = render_plot("why", make_frontier(report_of(found), energy=energy)).split("\n<svg", 1)
    return wide, narrow


def test_it_is_drawn_for_wide_and_for_narrow_pages_with_the_page_own_colours(found):
    wide, narrow = draw(found)
    assert 'class="broad"' in wide and f'width="{WIDTH}"' in wide
    assert 'class="narrow"' in narrow and f'width="{NARROW}"' in narrow
    for drawn in (wide, narrow):
        assert "var(--red)" in drawn and "var(--text)" in drawn and "what the target allows" in drawn
        assert "<title>operating point default\naccuracy" in drawn


def test_a_point_of_which_nothing_is_promised_has_another_mark(found):
    bare = replace(found.point, certificate=None, promise="Nothing is promised.")
    assert ">operating point, promised<" in draw(found)[0]
    unpromised = draw(replace(found, points={"default": bare}))[0]
    assert ">operating point, nothing promised<" in unpromised and ">operating point, promised<" not in unpromised


def test_marks_at_one_place_share_a_label(found):
    k = found.point.rival or 0
    static = found.statics[k]
    point = replace(
        found.point,
        static=static.exit,
        rival=k,
        placement=(static.device,),
        thresholds=(),
        exit_shares=(1.0,),
        exit_latency_s=(static.latency_s,),
        latency_s=static.latency_s,
        accuracy=static.accuracy,
    )
    drawn = draw(replace(found, points={"default": point}))[0]
    assert re.search(rf">default = best static: exit {static.exit}( = [^<]*)?<", drawn)


def test_a_static_network_that_is_far_off_stands_at_the_edge_with_its_figure(found):
    first = found.statics[0]
    near = [
        replace(first, accuracy=found.point.accuracy + 0.001 * k, latency_s=found.point.latency_s) for k in range(4)
    ]
    far = replace(first, accuracy=0.0123)
    point = replace(found.point, rival=None, target=Target(max_latency_s=1.0))
    made = make_frontier(
        report_of(replace(found, statics=(*near, far), frontier=(), points={"default": point})), energy=False
    )
    assert re.search(r">exit \d \(1\.23%[,)]", render_plot("why", made))


def test_any_name_can_be_drawn_without_a_word(found, recwarn):
    names = ["a\x01b\x00\n", "n" * 400, "\N{CJK UNIFIED IDEOGRAPH-70B9}", ""]
    plots = draw_plots(report_of(replace(found, points=dict.fromkeys(names, found.point))))
    assert all("<svg" in plot and "n" * 60 not in re.sub("<title>[^<]*", "", plot) for plot in plots.values())
    assert not [warning for warning in recwarn if "lyph" in str(warning.message) or "layout" in str(warning.message)]


def test_a_dollar_sign_in_a_name_is_text_and_not_a_formula(found):
    drawn = draw(replace(found, points={"$x_$ <b>": found.point}))[0]
    assert "$x_$ &lt;b&gt;" in drawn
