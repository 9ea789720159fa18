import itertools

import numpy as np
import pytest
import torch

from offramp.bundle import Target, open_bundle
from offramp.calibrate.measure.tables import ExitTable, exits_taken
from offramp.errors import DataError, TargetError, UsageError
from offramp.export import attach
from offramp.progress import no_progress
from offramp.runtime import load_uncalibrated
from offramp.sweep import place_exits
from offramp.sweep.exit_places.costs import ExitCosts, as_costs, fit_costs
from offramp.sweep.exit_places.curves import Curve, find_best_thresholds, follow
from offramp.sweep.exit_places.search import Question, nearest_exits, rank_sets
from offramp.tests.zoo import example_net

TRAINING = {"epochs": 2, "recipe": "heads"}


def make_table(right, score, latency_s):
    """Return a table of answers that are right or wrong."""
    right = np.asarray(right, bool)
    return ExitTable(
        score=np.asarray(score, np.float32),
        label=right.astype(int),
        right=right,
        reference_right=right[:, -1],
        differs=(right != right[:, -1:]).astype(np.int8),
        costs=as_costs(latency_s),
    )


def draw_table(accuracies, latency_s, n=1000, seed=0):
    """Draw a table whose exits are right with these shares, and are mostly sure where they are right."""
    rng = np.random.default_rng(seed)
    ease = rng.random(n)[:, None]
    right = ease < np.asarray(accuracies)
    score = np.clip(np.asarray(accuracies) - ease + 0.2 * rng.standard_normal((n, len(accuracies))), -1, 1) / 4 + 0.5
    return make_table(right, score, latency_s)


def brute_area(table, chance, until_s):
    """Return the area under the least concave curve above all threshold vectors, by trying each against each."""
    early = [np.unique([*column, 0.0, 2.0]) for column in table.score[:, :-1].T]
    points = [(0.0, chance)]
    for vector in itertools.product(*early):
        taken = exits_taken(table.score, vector)
        points.append((table.costs.latency_s[taken].mean(), table.right[np.arange(len(taken)), taken].mean()))
    at = np.linspace(0, until_s, 2001)
    best = np.zeros(len(at))
    for (x0, y0), (x1, y1) in itertools.product(points, points):
        if x0 <= x1:
            line = np.interp(at, [x0, x1], [y0, y1]) if x0 < x1 else np.full(len(at), max(y0, y1))
            best = np.maximum(best, np.where(at >= x0, line if y1 >= y0 else np.minimum(line, y0), 0))
    return np.trapezoid(best, at) / until_s


def test_the_curve_is_the_best_of_all_thresholds_and_of_their_mixtures():
    rng = np.random.default_rng(1)
    table = make_table(rng.random((40, 3)) < [0.4, 0.6, 0.8], rng.integers(1, 6, (40, 3)) / 6, [1.0, 2.5, 4.0])
    curve = follow(table, find_best_thresholds(table, 0.1), chance=0.1, until_s=3.8)
    assert curve.area == pytest.approx(brute_area(table, 0.1, 3.8), abs=2e-4)


def test_an_area_is_the_mean_accuracy_up_to_the_whole_network():
    curve = Curve(np.array([[True, True, False, False], [True] * 4]), np.array([[1.0] * 4, [3.0] * 4]), 0.1, 2.0)
    assert curve.area == pytest.approx((0.3 + 0.625) / 2)  # 0.1 to 0.5 at 1 s, then half of the way to 1.0
    more = Curve(np.tile(curve.right, 100), np.tile(curve.latency_s, 100), 0.1, 2.0)
    assert more.area == pytest.approx(curve.area)
    assert np.std(more.draw_areas()) < 0.2 * np.std(curve.draw_areas())


def test_costs_are_fitted_to_chains_and_give_those_of_every_set():
    static_s, passing_s = [1.0, 2.0, 3.0, 5.0], [0.2, 0.1, 0.4]
    truth = ExitCosts(np.array(static_s), np.array(passing_s), 0.05)
    chains = {exits: truth.latency_s(exits).tolist() for exits in [(0, 1, 2, 3), (0, 2, 3), (1, 3)]}
    fitted = fit_costs(static_s, chains)
    assert fitted.passing_s == pytest.approx(passing_s) and fitted.handing_s == pytest.approx(0.05)
    assert fitted.latency_s((1, 2, 3)) == pytest.approx([2.05, 3.15, 5.5])
    assert fitted.latency_s((3,)) == pytest.approx([5.0])


def test_costs_that_noise_makes_negative_are_none():
    fitted = fit_costs([1.0, 2.0, 3.0], {(0, 1, 2): [1.0, 1.9, 3.1]})
    assert min(fitted.passing_s) >= 0


def test_every_set_is_ranked_as_when_it_is_judged_alone():
    table = draw_table([0.4, 0.55, 0.6, 0.8, 0.9], np.zeros(5))
    costs = ExitCosts(np.array([1.0, 2.0, 3.0, 6.0, 9.0]), np.array([0.3, 0.2, 0.5, 0.2]), 0.1)
    question = Question(chance=0.1, until_s=9.0)
    ranked = rank_sets(table, costs, question, no_progress)
    assert len({each.exits for each in ranked}) == 2**4 - 1 and all(each.exits[-1] == 4 for each in ranked)
    assert [each.worth for each in ranked] == sorted((each.worth for each in ranked), reverse=True)
    for each in ranked:
        part = table.columns(each.exits, as_costs(costs.latency_s(each.exits)))
        halves = part.rows(slice(0, None, 2)), part.rows(slice(1, None, 2))
        areas = [question.judge(*halves).area, question.judge(*halves[::-1]).area]
        assert each.worth == pytest.approx(np.mean(areas))


def test_an_exit_that_tells_nothing_new_is_left_out():
    """Exit 1 answers as exit 0 does and exit 2 is right no more often: passing either takes time for nothing."""
    table = draw_table([0.5, 0.5, 0.5, 0.9], np.zeros(4))
    table = make_table(table.right[:, [0, 0, 0, 3]], table.score[:, [0, 0, 0, 3]], np.zeros(4))
    costs = ExitCosts(np.array([1.0, 2.0, 4.0, 8.0]), np.full(3, 0.5))
    assert rank_sets(table, costs, Question(chance=0.1, until_s=8.0), no_progress)[0].exits == (0, 3)


def test_dear_heads_make_sets_smaller():
    table = draw_table([0.45, 0.55, 0.65, 0.75, 0.9], np.zeros(5))
    static_s, question = np.array([1.0, 2.0, 3.0, 4.0, 8.0]), Question(chance=0.1, until_s=8.0)
    cheap, dear = (
        rank_sets(table, ExitCosts(static_s, np.full(4, passing)), question, no_progress)[0].exits
        for passing in (0.0, 2.0)
    )
    assert len(dear) < len(cheap) and len(dear) == 2


def test_a_target_is_compared_by_its_goal_among_sets_that_meet_it():
    table = draw_table([0.3, 0.7, 0.9], np.zeros(3))
    costs = ExitCosts(np.array([1.0, 2.0, 6.0]), np.array([0.1, 0.1]))
    question = Question(chance=0.1, until_s=6.0, target=Target(max_drop=0.01))
    for each in rank_sets(table, costs, question, no_progress):
        part = table.columns(each.exits, as_costs(costs.latency_s(each.exits)))
        halves = part.rows(slice(0, None, 2)), part.rows(slice(1, None, 2))
        goals = []
        for half, other in (halves, halves[::-1]):
            thresholds = question.choose_thresholds(half)
            taken = exits_taken(half.score, thresholds)
            assert half.lost[np.arange(len(half)), taken].mean() <= 0.01
            goals.append(other.costs.latency_s[exits_taken(other.score, thresholds)].mean())
        assert each.worth == pytest.approx(-np.mean(goals))


def test_fractions_of_the_work_give_the_nearest_places_once():
    assert nearest_exits([0.1, 0.4, 0.7], [0.15, 0.2, 0.6]) == (0, 2, 3)


def make_network():
    torch.manual_seed(0)
    return attach(example_net.plain(), torch.zeros(2, 1, 8, 8), at=["1", "3"])


@pytest.fixture(scope="module")
def data():
    x, y = example_net.data(700)
    return [(torch.from_numpy(x[:300]), torch.from_numpy(y[:300]))], (x[300:], y[300:])


@pytest.fixture(scope="module")
def placed(data, tmp_path_factory):
    """What was found when the process was killed in the middle first; the folder; and what was done by the second call."""
    folder, steps = tmp_path_factory.mktemp("placed"), []

    def die(what, done, total):
        if what == "trying sets of exits":
            raise KeyboardInterrupt

    arguments = {"training": TRAINING, "tuning": {"epochs": 1, "lr": 0.01}, "seconds": 0.1}
    with pytest.raises(KeyboardInterrupt):
        place_exits(make_network(), *data, folder, progress=die, **arguments)
    found = place_exits(make_network(), *data, folder, progress=lambda what, *_: steps.append(what), **arguments)
    return found, folder, steps


def test_the_bundle_has_the_chosen_exits_and_no_others(placed):
    found, _, _ = placed
    bundle = open_bundle(found.bundle)
    variant = bundle.variant(found.variant)
    assert len(variant.exits) == len(found.chosen.places) + 1 == len(found.chosen.latency_s)
    assert found.tuned.places == found.chosen.places and found.chosen.is_measured
    with load_uncalibrated(bundle) as net:
        assert len(net.exits) == len(variant.exits)


def test_others_stand_beside_the_chosen_set(placed):
    found, _, _ = placed
    rivals = {rival.name: rival for rival in found.rivals}
    assert {"second best", "auto", "equal shares", "1 alone", "3 alone"} == set(rivals)
    for rival in rivals.values():
        assert rival.gain == pytest.approx(found.chosen.area - rival.exits.area)
        assert rival.exits.area_interval[0] <= rival.exits.area <= rival.exits.area_interval[1]
    assert found.sets == 3 and found.selecting + found.reporting == 400
    for name in (*rivals, "chosen, tuned", found.bundle):
        assert name in str(found)


def test_a_call_after_a_kill_trains_and_measures_only_what_is_missing(placed):
    _, _, steps = placed
    assert "training all exits" not in steps and "recording" in steps  # of the tuned exits
    assert steps.index("trying sets of exits") == 0 and "tuning the chosen exits" in steps


def test_without_tuning_the_exits_are_kept_in_the_bundle_of_all(placed, data):
    found, folder, _ = placed
    again = place_exits(make_network(), *data, folder, training=TRAINING, seconds=0.1)
    assert again.chosen == found.chosen and again.tuned is None
    assert again.variant in [variant.name for variant in open_bundle(again.bundle).manifest.variants]


def test_a_target_has_its_figures_and_one_that_no_set_meets_is_said(placed, data):
    _, folder, _ = placed
    aimed = place_exits(make_network(), *data, folder, training=TRAINING, seconds=0.1, target=Target(max_drop=0.1))
    assert aimed.chosen.mean_latency_s <= max(aimed.chosen.latency_s) and len(aimed.chosen.thresholds) in (1, 2)
    assert f"{aimed.chosen.accuracy:.2%}" in str(aimed) and "mean us" in str(aimed)
    with pytest.raises(TargetError, match="No set of exits meets the target"):
        place_exits(make_network(), *data, folder, training=TRAINING, seconds=0.1, target=Target(min_accuracy=0.99))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"training": {"epoch": 3}}, "epochs"),
        ({"tuning": {"recipe": "heads"}}, "how many epochs"),
        ({"training": {"epochs": 1, "loss": torch.nn.functional.mse_loss}}, "has no loss"),
        ({"target": "fast"}, "target is a Target"),
        ({"target": Target(max_energy_j=1.0)}, "not by"),
        ({"target": Target(max_drop=0.01, by="class")}, "not by"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_before_anything_trains(arguments, says, data, tmp_path):
    with pytest.raises(UsageError, match=says):
        place_exits(make_network(), *data, tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_networks_and_samples_that_do_not_do_are_refused(data, tmp_path):
    batches, (x, y) = data
    with pytest.raises(UsageError, match='at="all"'):
        place_exits(example_net.plain(), batches, (x, y), tmp_path)
    alone = attach(example_net.plain(), torch.zeros(2, 1, 8, 8), at=["3"])
    with pytest.raises(UsageError, match="1 exits besides its own"):
        place_exits(alone, batches, (x, y), tmp_path)
    with pytest.raises(DataError, match="at least 100"):
        place_exits(make_network(), batches, (x[:99], y[:99]), tmp_path)
    with pytest.raises(UsageError, match="pair"):
        place_exits(make_network(), batches, x, tmp_path)
    deep = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(16)), torch.nn.Linear(8, 4))
    many = attach(deep, torch.zeros(2, 8), at="all")
    with pytest.raises(UsageError, match="Attach fewer, such as at="):
        place_exits(many, batches, (x, y), tmp_path)
