"""A recommendation needs a sure gain; a draw goes to the simpler network."""

import re

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Target
from offramp.bundle.manifest import NEVER
from offramp.calibrate.advice import name_uncertain
from offramp.calibrate.certify.points import make_points
from offramp.calibrate.certify.unproven import name_careful
from offramp.calibrate.measure.noise import comparison_noise
from offramp.calibrate.measure.tables import Costs, ExitTable
from offramp.calibrate.search import choice
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.gains import Gain, measure_gain
from offramp.calibrate.search.picks import make_picks, rivals
from offramp.calibrate.search.predictions import predict_point
from offramp.calibrate.verdict import Unproven, judge
from offramp.tests.fakes.configurations import fake_configuration
from offramp.tests.zoo import exit_tables

TARGET = Target(max_drop=0.05)


def make_table(costs_us, *, n=4000, leave=0.6, noise=0.0, accuracy=0.9, lost=0.0, seed=0):
    """Samples of which a share is sure at each early exit and loses little there; the others lose all."""
    rng = np.random.default_rng(seed)
    exits = len(costs_us)
    whole = rng.random(n) < accuracy
    score = rng.random((n, exits)).astype(np.float32) * 0.5
    score[rng.random((n, exits)) < leave] += 0.5
    right = np.repeat(whole[:, None], exits, 1)
    right[:, :-1] &= rng.random((n, exits - 1)) >= np.where(score[:, :-1] < 0.5, 1.0, lost)
    return ExitTable(
        score=score,
        label=right.astype(int),
        right=right,
        reference_right=whole,
        differs=(right != whole[:, None]).astype(np.int8),
        costs=Costs(tuple(np.array([us, 1.001 * us]) * 1e-6 for us in costs_us), noise=noise),
    )


def contend(table, *, variant="fp32", parent=None, static=None, select=0.2):
    cut = int(select * len(table))
    return Contender(
        configuration=fake_configuration(variant, table.exits if static is None else static + 1, parent=parent),
        static=static,
        selecting=table.rows(np.arange(cut)),
        reporting=table.rows(np.arange(cut, len(table))),
    )


def static_of(table, us, *, noise=0.0, **how):
    costs = Costs((np.array([us, 1.001 * us]) * 1e-6,), noise=noise)
    last = table.exits - 1
    return contend(replace(table.columns([last], costs), is_reference=True), static=last, **how)


def recommend(contenders, target=TARGET, *, least_gain=0.05):
    targets = {"default": target}
    picks = make_picks(contenders, targets, least_gain=least_gain)
    statics = [each for each in contenders if each.static is not None]
    return picks["default"], make_points(picks, targets, statics, confidence=0.9)


@pytest.mark.parametrize(
    ("static_us", "least_gain", "headline"),
    [
        (230, 0.05, "Use early exit: "),
        (230, 0.4, "Do not use early exit here: "),
        (164, 0.05, "Early exit is not surely worth it here: "),
    ],
)
def test_early_exit_is_recommended_only_for_a_sure_gain_above_the_least(static_us, least_gain, headline):
    pays = headline.startswith("Use")
    table = make_table((100, 250))  # 160 us in the mean where six in ten leave
    _, points = recommend([contend(table), static_of(table, static_us)], least_gain=least_gain)
    early = points["default"] if pays else points["default-early"]
    assert points["default"].exits_early == early.pays == pays
    low, high = early.gain_interval
    assert low < early.gain < high and early.gain == pytest.approx(1 - early.latency_s / (static_us * 1.0005e-6))
    if not pays:
        interval = f"95 % interval {low:.1%} to {high:.1%}, where at least {least_gain:.0%} is asked for"
        assert early.verdict.startswith(headline) and interval in early.verdict


def test_no_more_than_everything_can_be_saved():
    assert Gain(of="latency", share=0.4, error=0.4, least=0.05).interval == (pytest.approx(0.4 - 1.96 * 0.4), 1.0)


def test_noise_of_the_machine_makes_a_gain_unsure():
    table = make_table((100, 250))
    assert recommend([contend(table), static_of(table, 200)])[1]["default"].exits_early
    shaky = make_table((100, 250), noise=0.1)
    assert not recommend([contend(shaky), static_of(shaky, 200, noise=0.1)])[1]["default"].exits_early


def test_a_static_network_that_was_held_up_now_and_then_is_no_reason_for_early_exit():
    """Two stalls made its mean eight times as long: that figure is noise, and so is the gain against it."""
    calls = np.full(1600, 1e-4)
    calls[[300, 900]] = 0.56
    noise = comparison_noise([calls], np.full(1600, 3e-4))
    static = (make_table((100, 250)).columns([1], Costs((calls,), noise=noise)), ())
    gain = measure_gain((make_table((100, 250)), (0.5,)), static, TARGET, least=0.05)
    assert calls.mean() > 7.9e-4 and gain.share > 0.7 and not gain.is_sure
    assert gain.interval[0] < -1 and np.isfinite(gain.interval).all()


def test_the_interval_of_a_gain_holds_it_though_few_parts_show_the_noise():
    """With 1.96 standard errors of 8 parts it does in 91 %."""
    rng, held, runs = np.random.default_rng(0), 0, 1000
    rival = (make_table((100, 200), n=4).columns([1], Costs((np.full(2, 2e-4),))), ())
    for _ in range(runs):
        calls = 1e-4 * (1 + 0.05 * rng.standard_normal(8))
        costs = Costs((calls,), noise=comparison_noise([calls], np.full(8, 1e-4)))
        low, high = measure_gain((replace(rival[0], costs=costs), ()), rival, TARGET, least=0.0).interval
        held += low <= 0.5 <= high
    assert held >= 0.935 * runs


def test_a_static_network_that_was_held_up_gets_its_place_back_when_it_is_measured_again():
    table = make_table((100, 150, 900))

    def static_to(exit_, us, noise):
        costs = Costs((np.array([us, 1.001 * us]) * 1e-6,), noise=noise)
        column = replace(table.columns([2], costs), is_reference=True)  # each loses nothing
        return contend(column, static=exit_)

    stalled, best, slow = static_to(0, 500, 0.5), static_to(1, 400, 0.01), static_to(2, 900, 0.01)
    (pick,) = make_picks([contend(table), stalled, best, slow], {"default": TARGET}).values()
    assert pick.best_static is best and rivals(pick, TARGET) == [stalled]
    costs = {pick: table.costs, best: best.selecting.costs, stalled: Costs((np.array([2e-4, 2.001e-4]),), noise=0.01)}
    again = choice._choose_again("default", pick, TARGET, costs, None)
    assert again.best_static.key == stalled.key and [each.key for each in again.other_statics] == [best.key, slow.key]


def test_a_latency_that_is_noise_is_called_so():
    table = make_table((100, 250))
    quiet, noisy = static_of(table, 200, noise=0.02), static_of(table, 800, noise=0.87)
    assert name_uncertain([contend(table), quiet]) == []
    (note,) = name_uncertain([contend(table), quiet, noisy])
    assert "latency of the static network to exit 1 of fp32 on cpu is noise" in note and "87% of it. Measure" in note


@pytest.mark.parametrize(
    ("static_us", "headline"),
    [
        (163, "Use early exit: "),
        (155, "Use early exit, which alone is promised: "),
        (150, "Do not use early exit here: "),
    ],
)
def test_a_static_network_without_a_promise_replaces_promised_early_exit_only_if_it_is_surely_better(
    static_us, headline
):
    """The selecting samples prefer early exit by far, so that only that is tested."""
    chain = replace(contend(make_table((100, 250))), selecting=contend(make_table((100, 250), leave=0.95)).selecting)
    static = static_of(make_table((100, 250)), static_us)
    static = replace(
        static,
        selecting=replace(chain.selecting.columns([1], static.selecting.costs)),
        reporting=replace(static.reporting, is_reference=False),
    )
    _, points = recommend([chain, static])
    pays = headline.startswith("Use")
    early = points["default"] if pays else points["default-early"]
    assert points["default"].exits_early == early.pays == pays and early.verdict.startswith(headline)
    assert early.certificate is not None and early.rival == 0 and early.gain < 0.05
    assert ("nothing is promised of it" in early.verdict) == pays


def test_the_error_of_a_gain_is_that_of_repeated_draws():
    target, gains, errors = Target(max_drop=0.05), [], []
    for seed in range(200):
        table = make_table((100, 250), n=500, seed=seed)
        costs = Costs((np.full(9, 2.2e-4),))
        gain = measure_gain((table, (0.5,)), (table.columns([1], costs), ()), target, least=0.05)
        gains.append(gain.share)
        errors.append(gain.error)
    assert np.mean(errors) == pytest.approx(np.std(gains), rel=0.2)


@pytest.mark.parametrize("goal", ["latency", "accuracy"])
def test_samples_that_depend_on_each_other_make_a_gain_less_sure(goal):
    table, target = make_table((100, 250), lost=0.2), Target(goal=goal, max_latency_s=1e-3)
    gains = []
    for independent in (1.0, 0.04):
        given = replace(table, independent=independent)
        static = given.columns([1], Costs((np.full(9, 2.2e-4),)))
        gains.append(measure_gain((static, ()), (given, (0.5,)), target, least=0.05))
    assert gains[0].of == gains[1].of == goal and gains[1].error == pytest.approx(5 * gains[0].error)


def test_a_draw_in_accuracy_goes_by_latency():
    table, goal = make_table((100, 250)), Target(goal="accuracy", max_latency_s=1e-3)
    assert recommend([contend(table), static_of(table, 250)], goal)[1]["default"].exits_early
    assert not recommend([contend(table), static_of(table, 160)], goal)[1]["default"].exits_early


def test_the_parent_is_preferred_to_a_variant_that_is_not_surely_faster_by_the_least_gain():
    table = make_table((100, 250))
    for us, chosen in ((245, "fp32"), (200, "int8")):
        variant = make_table((us / 2.5, us))
        pick, _ = recommend([contend(table), contend(variant, variant="int8", parent="fp32"), static_of(table, 900)])
        assert pick.chain.configuration.variant.name == chosen
    statics = [static_of(table, 100), static_of(table, 97, variant="int8", parent="fp32")]
    assert recommend([contend(table), *statics])[0].best_static is statics[0]
    statics = [static_of(table, 100), static_of(table, 80, variant="int8", parent="fp32")]
    assert recommend([contend(table), *statics])[0].best_static is statics[1]


def test_fewer_exits_are_preferred_to_more_that_are_not_surely_faster():
    more = make_table((100, 101, 250))
    more.right[:, 1], more.label[:, 1], more.differs[:, 1] = False, 2, 1  # nothing can leave at exit 1
    for last_us, chosen in ((255, "fewer"), (320, "fp32")):
        costs = Costs(tuple(np.array([us, 1.001 * us]) * 1e-6 for us in (100, last_us)))
        fewer = contend(more.columns([0, 2], costs), variant="fewer", parent="fp32")
        pick, _ = recommend([contend(more), fewer, static_of(more, 900)])
        assert pick.chain.configuration.variant.name == chosen


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (300, "150 samples do not prove that they keep the target. About 300 could. Until then the static network is"),
        (
            60,
            "30 samples cannot show at 92% confidence that an accuracy drop is at most 2.00%. About 700 could. Measured: ",
        ),
    ],
)
def test_too_few_samples_make_the_verdict_unknown_and_say_how_many_would_tell(n, words):
    table = make_table((100, 250), n=n, lost=0.01)
    _, points = recommend([contend(table, select=0.5), static_of(table, 190, select=0.5)], Target(max_drop=0.02))
    verdict = points["default"].verdict
    assert not points["default"].exits_early and verdict.startswith("Not known yet whether early exit pays here: ")
    assert words in verdict


def test_a_chain_that_is_always_run_whole_does_not_make_the_verdict_certain_because_its_times_are_noise():
    table = make_table((100, 250), n=60, lost=0.01)
    chain, static = contend(table), predict_point(static_of(table, 245), (), TARGET)
    never, tried = (predict_point(chain, (threshold,), TARGET) for threshold in (NEVER, 0.5))
    unproven = Unproven(tried, Gain("latency", 0.4, 0.05, 0.05), samples=30, needed=700)
    _, verdict = judge(never, replace(static, promise=""), Gain("latency", -0.02, 0.13, 0.05), unproven)
    assert verdict.startswith("Not known yet whether early exit pays here: ") and "About 700 could." in verdict


def test_a_promise_that_is_more_careful_than_its_target_is_explained():
    table = make_table((100, 250), n=300, lost=0.01)
    both, targets = [contend(table, select=0.5), static_of(table, 900, select=0.5)], {"default": Target(max_drop=0.02)}
    picks = make_picks(both, targets)
    points = make_points(picks, targets, [both[1]], confidence=0.9)
    assert points["default"].certificate is not None and points["default"].exits_early
    (note,) = name_careful(picks, targets, points)
    assert "but 150 samples do not prove that they keep the target." in note
    assert "it loses less than its target allows (a drop of " in note


def test_samples_that_depend_on_each_other_are_counted_as_independent_ones_where_more_are_asked_for():
    table = replace(make_table((100, 250), n=1500, lost=0.01), independent=0.2)
    _, points = recommend([contend(table, select=0.5), static_of(table, 190, select=0.5)], Target(max_drop=0.02))
    words = re.search(r"but (\d+) independent samples do not prove .*\. About (\d+) could\.", points["default"].verdict)
    assert words and int(words[1]) == 150 < int(words[2])


def test_a_least_gain_below_one_percent_is_shown_as_it_is():
    gain = Gain("latency", share=0.004, error=0.001, least=0.005)
    table = make_table((100, 250))
    early, static = (
        predict_point(each, how, TARGET) for each, how in ((contend(table), (0.5,)), (static_of(table, 165), ()))
    )
    pays, verdict = judge(early, replace(static, promise=""), gain)
    assert not pays and "where at least 0.5% is asked for" in verdict


def test_a_gain_in_accuracy_is_that_of_the_figures_that_are_shown():
    """Both are corrected for the choice of the step by the reporting samples."""
    table = exit_tables.make_table(3000, exits=3, temperatures=exit_tables.UNEVEN[:3])
    static = static_of(table, 2e5)
    _, points = recommend([contend(table), static], Target(goal="accuracy", max_disagreement=0.05))
    early = points.get("default-early", points["default"])
    assert early.choice_bias > 0.0001 and "% accuracy)" in early.verdict
    assert early.gain == pytest.approx(early.accuracy - float(static.reporting.right.mean()))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_disagreement": 0.1}, "a disagreement of"),
        ({"min_accuracy": 0.6}, "an accuracy of"),
        ({"max_drop": 0.1}, "a drop of"),
    ],
)
def test_a_careful_promise_is_explained_by_what_its_target_limits(limits, words):
    table = exit_tables.make_table(100, exits=3, temperatures=exit_tables.UNEVEN[:3])
    both, targets = [contend(table, select=0.5), static_of(table, 9e6, select=0.5)], {"default": Target(**limits)}
    picks = make_picks(both, targets)
    notes = name_careful(picks, targets, make_points(picks, targets, [both[1]], confidence=0.9))
    assert [note.count(words) for note in notes] == [2]


def test_a_missed_limit_of_time_is_not_blamed_on_accuracy_that_was_won():
    early = predict_point(contend(make_table((100, 250))), (0.5,), Target(max_latency_s=1e-6))
    _, verdict = judge(replace(early, drop=-0.01), None)
    assert verdict.startswith("The target is missed on the reporting samples: ") and "below" not in verdict


def test_thresholds_that_miss_a_target_that_a_static_network_meets_do_not_make_it_missed():
    table = make_table((100, 250))
    early, static = predict_point(contend(table), (0.0,), TARGET), predict_point(static_of(table, 300), (), TARGET)
    assert static.met and not early.met
    pays, verdict = judge(early, static, Gain("latency", 0.5, 0.01, 0.05))
    assert not pays and verdict.startswith("Do not use early exit here: its best thresholds miss the target")
    assert verdict.endswith("meets it.")


def test_a_gain_below_zero_is_a_saving_below_zero():
    table = make_table((100, 250))
    early, static = predict_point(contend(table), (0.5,), TARGET), predict_point(static_of(table, 150), (), TARGET)
    _, verdict = judge(early, static, Gain("latency", -0.1, 0.1, 0.05))
    assert "time saved -10.0%, 95 % interval -29.6% to 9.6%" in verdict
