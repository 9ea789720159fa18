import itertools
from statistics import NormalDist

import numpy as np
import pytest
from msgspec.structs import replace

from offramp.bundle import Certificate, Target
from offramp.calibrate.certify.paths import lay_candidates
from offramp.calibrate.certify.points import describe_promise, make_points
from offramp.calibrate.certify.promises import certify_path
from offramp.calibrate.measure.tables import Costs, ExitTable, exits_taken, mean_at
from offramp.calibrate.search.contenders import Contender
from offramp.calibrate.search.fewer_exits import with_exits
from offramp.calibrate.search.objective import find_thresholds, limit_values, meets_limits
from offramp.calibrate.search.picks import make_picks
from offramp.tests.fakes.configurations import fake_configuration

COSTS_S = np.array([1e-4, 2e-4, 4e-4])


def draw(n, seed=0, *, whole=True, costs_s=COSTS_S, energy=None, gain=0.0):
    """Answers of three exits whose score tells how likely each is right; the last is the reference unless `whole` is False."""
    rng = np.random.default_rng(seed)
    score = rng.beta(3, 1.2, (n, 3)).astype(np.float32)
    right = rng.random((n, 3)) < np.clip(0.75 * score + [0.0, 0.1, 0.25 + gain], 0, 1)
    yard = right[:, -1] if whole else rng.random(n) < 0.92
    times = tuple(rng.uniform(0.9, 1.1, 2000) * cost for cost in costs_s)
    differs = np.where(right == yard[:, None], 0, 1).astype(np.int8)
    return ExitTable(
        score=score,
        label=right.astype(int),
        right=right,
        reference_right=yard,
        differs=differs,
        costs=Costs(times, None if energy is None else energy / costs_s),
    )


def brute_force(table, target, steps=14):
    """The best goal over a grid of thresholds that keeps every limit, by running every vector."""
    grid = [*np.quantile(table.score, np.linspace(0, 1, steps)).tolist(), 2.0]
    best = None
    for thresholds in itertools.product(grid, repeat=2):
        taken = exits_taken(table.score, thresholds)
        if meets_limits(table, target, taken):
            goal = {"latency": table.costs.latency_s, "energy": table.costs.energy_j, "accuracy": table.wrong}[
                target.goal
            ]
            best = min(best or (np.inf,), (mean_at(goal, taken),))
    return None if best is None else best[0]


@pytest.mark.parametrize(
    "limits",
    [
        {"max_drop": 0.02},
        {"min_accuracy": 0.72},
        {"max_disagreement": 0.2},
        {"max_latency_s": 2.2e-4},
        {"deadline_s": 3e-4, "max_late": 0.3},
        {"max_energy_j": 3e-3},
        {"max_energy_j": 3e-3, "max_drop": 0.08},
        {"goal": "energy", "max_drop": 0.05},
        {"goal": "energy", "max_drop": 0.05, "deadline_s": 3e-4, "max_late": 0.6},
        {"goal": "accuracy", "max_latency_s": 2.4e-4, "max_disagreement": 0.25},
    ],
)
def test_what_is_found_keeps_every_limit_and_is_as_good_as_any_of_a_grid(limits):
    table, target = draw(3000, energy=np.array([1e-3, 2.5e-3, 4e-3])), Target(**limits)
    found = find_thresholds(table, target, margin=0.0)
    taken = exits_taken(table.score, found)
    assert meets_limits(table, target, taken)
    goal = {"latency": table.costs.latency_s, "energy": table.costs.energy_j, "accuracy": table.wrong}[target.goal]
    assert mean_at(goal, taken) <= brute_force(table, target) * (1 + 1e-9)


def test_a_chain_that_never_leaves_early_still_loses_what_its_last_exit_does():
    table = draw(4000, whole=False)
    lost, _ = limit_values(table, Target(max_drop=0.05))["max_drop"]
    never = exits_taken(table.score, (2.0, 2.0))
    assert mean_at(lost, never) == pytest.approx(table.reference_right.mean() - table.right[:, -1].mean()) != 0
    assert find_thresholds(table, Target(max_drop=1e-9), margin=0.0) is None or mean_at(lost, never) <= 0


def test_a_static_network_is_a_chain_of_one_exit():
    table = draw(500).columns([1], Costs((np.full(9, 1e-4),)))
    assert find_thresholds(table, Target(max_latency_s=2e-4), margin=1.0) == ()
    assert find_thresholds(table, Target(max_latency_s=0.5e-4), margin=1.0) is None
    assert exits_taken(table.score, ()).tolist() == [0] * 500


def test_of_few_samples_the_disagreement_stands_for_the_drop():
    table, target = draw(400), Target(max_drop=0.1)
    found = find_thresholds(table, target, margin=0.0, is_cautious=True)
    assert meets_limits(table, Target(max_disagreement=0.1), exits_taken(table.score, found))
    assert not meets_limits(
        table, Target(max_disagreement=0.1), exits_taken(table.score, find_thresholds(table, target, margin=0.0))
    )
    both = Target(max_drop=0.1, min_accuracy=0.7)
    assert meets_limits(
        table, both, exits_taken(table.score, find_thresholds(table, both, margin=0.0, is_cautious=True))
    )


@pytest.mark.parametrize(
    "limits",
    [
        {"max_drop": 0.03},
        {"min_accuracy": 0.72},
        {"max_disagreement": 0.15},
        {"max_latency_s": 2.4e-4},
        {"deadline_s": 3e-4, "max_late": 0.4},
        {"max_drop": 0.06, "max_latency_s": 3.1e-4},
    ],
)
def test_a_promise_is_broken_no_more_often_than_it_says(limits):
    target, pool = Target(**limits), draw(40_000, seed=1)
    known = draw(4000, seed=2)
    path = lay_candidates(known, find_thresholds(known, target, margin=1.28), target, tested=1500)
    kept = [meets_limits(pool, target, exits_taken(pool.score, step.tolist())) for step in path]
    rng, broken, certified = np.random.default_rng(3), 0, 0
    for _ in range(60):
        step, why = certify_path(pool.rows(rng.integers(0, 40_000, 1500)), target, path, delta=0.1)
        certified += step is not None
        broken += step is not None and not kept[step]
        assert (step is None) == bool(why)
    assert certified >= 30
    assert broken <= 13  # of 60, more than 13 has a chance of 1 in 500 where the true one is a tenth


@pytest.mark.parametrize("limits", [{"max_latency_s": 2.4e-4}, {"deadline_s": 3e-4, "max_late": 0.3}])
def test_a_promise_of_costs_counts_in_how_few_timings_there_are(limits):
    target, pool, known = Target(**limits), draw(50_000, seed=1), draw(4000, seed=2)
    rng, broken, certified = np.random.default_rng(3), 0, 0
    spread = 0.4  # of a latency, log-normal
    for _ in range(40):
        times, proof = (
            Costs(tuple(cost * rng.lognormal(-(spread**2) / 2, spread, 50) for cost in COSTS_S)) for _ in range(2)
        )
        one = replace(known, costs=times)
        thresholds = find_thresholds(one, target, margin=1.28)
        if thresholds is None:
            continue
        path = lay_candidates(one, thresholds, target, tested=1500)
        table = replace(pool.rows(rng.integers(0, 50_000, 1500)), costs=times, proof=proof)
        step, _ = certify_path(table, target, path, delta=0.1)
        if step is None:
            continue
        certified += 1
        shares = np.bincount(exits_taken(pool.score, path[step].tolist()), minlength=3) / len(pool)
        late = [1 - NormalDist(-(spread**2) / 2, spread).cdf(np.log(3e-4 / cost)) for cost in COSTS_S]
        truth = shares @ (COSTS_S if "max_latency_s" in limits else late)
        broken += bool(truth > next(iter(target.limits.values())))
    assert certified >= 12
    assert broken <= 10  # of 40, more than 10 has a chance of 1 in 700 where the true one is a tenth


def test_candidates_begin_where_it_is_safe_and_go_towards_the_goal():
    known = draw(3000)
    for limits, first, rising in (
        ({"max_drop": 0.05}, 1e-2, True),
        ({"max_latency_s": 2.5e-4}, 1.0, False),
    ):
        target = Target(**limits)
        path = lay_candidates(known, find_thresholds(known, target, margin=0.0), target, tested=1500)
        early = [(exits_taken(known.score, step.tolist()) < 2).mean() for step in path]
        assert early[0] == pytest.approx(first, abs=0.02) and early == sorted(early, reverse=not rising)
    target = Target(max_drop=0.05, max_latency_s=3.5e-4)
    path = lay_candidates(known, find_thresholds(known, target, margin=0.0), target, tested=1500)
    assert meets_limits(known, target, exits_taken(known.score, path[0].tolist()))
    early = [(exits_taken(known.score, step.tolist()) < 2).mean() for step in path]
    assert early == sorted(early)


def test_too_few_samples_say_how_many_would_do():
    table = draw(150)
    path = np.full((3, 2), 2.0, np.float32)
    step, why = certify_path(table, Target(max_disagreement=0.01), path, delta=0.1)
    assert step is None and "150 samples cannot show at 90% confidence" in why and "About 500 could" in why
    _, why = certify_path(table, Target(max_disagreement=0.01), path, delta=0.00012)
    assert "at 99.988% confidence" in why
    step, why = certify_path(table, Target(min_accuracy=0.999), path, delta=0.1)
    assert step is None and "even the most cautious candidate has a share of wrong labels of" in why


def contenders(slow=1.0):
    """Two chains, of which the second is `slow` times as slow, with their static networks."""
    found = []
    for variant, factor in (("fp32", 1.0), ("int8", slow)):
        configuration = fake_configuration(variant, 3)
        selecting, reporting = (draw(2000, seed, costs_s=COSTS_S * factor) for seed in (4, 5))
        found.append(Contender(configuration=configuration, static=None, selecting=selecting, reporting=reporting))
        for k in range(3):
            costs = Costs((np.full(9, COSTS_S[k] * factor * 0.95),))
            ends = [
                replace(one.columns([k], costs), is_reference=variant == "fp32" and k == 2)
                for one in (selecting, reporting)
            ]
            found.append(Contender(configuration=configuration, static=k, selecting=ends[0], reporting=ends[1]))
    return found


def statics_of(every):
    return [one for one in every if one.static is not None]


def test_one_chain_is_picked_for_all_targets_and_each_gets_its_best_static_network():
    targets = {"fast": Target(max_drop=0.1), "right": Target(max_drop=0.01)}
    for slow, variant in ((0.8, "int8"), (1.2, "fp32")):
        picks = make_picks(contenders(slow), targets)
        assert {one.chain.configuration.variant.name for one in picks.values()} == {variant}
        best = picks["right"].best_static
        assert best.static == 2 and best.configuration.variant.name == variant
        assert picks["fast"].thresholds < picks["right"].thresholds


def test_promises_share_what_may_go_wrong():
    targets = {"a": Target(max_drop=0.1), "b": Target(max_drop=0.05)}
    both = contenders()
    picks = make_picks(both, targets)
    points = make_points(picks, targets, statics_of(both), confidence=0.9)
    chains = [point for point in points.values() if point.static is None]
    assert {point.certificate.promises for point in chains} == {2}
    assert all("(all 2 promises of this calibration together)" in point.promise for point in chains)
    alone = make_points({"a": picks["a"]}, {"a": targets["a"]}, statics_of(both), confidence=0.9)
    early = next(point for point in alone.values() if point.static is None)
    assert early.certificate.promises == 1 and "together" not in early.promise
    assert early.certificate.step >= chains[0].certificate.step


def test_a_static_network_that_is_better_is_recommended_and_the_chain_stands_beside_it():
    targets = {"a": Target(max_drop=0.01)}
    slow = [
        one if one.static is not None else one.with_costs(Costs(tuple(np.full(9, 1e-3 * (k + 1)) for k in range(3))))
        for one in contenders()
    ]
    picks = make_picks(slow, targets)
    assert picks["a"].prefers_static(targets["a"])
    points = make_points(picks, targets, statics_of(slow), confidence=0.9)
    assert points["a"].static == 2 and points["a"].placement == ("cpu",)
    assert points["a-early"].static is None and not points["a-early"].pays
    assert points["a"].verdict == points["a-early"].verdict and "Do not use early exit" in points["a"].verdict


def test_words_of_promises():
    target = Target(min_accuracy=0.9, max_latency_s=1e-3, deadline_s=2e-3, max_disagreement=0.02)
    certificate = Certificate(target.limits, 0.9, 1, 500, 3, 10)
    assert describe_promise(certificate, target) == (
        "With 90% confidence the accuracy on inputs like these is at least 90.00%, at most 2.00% of inputs like these get "
        "another label than the whole network gives them, the mean latency on inputs like these is at most 1000 us and at most "
        "1.00% of inputs like these take longer than 2000 us, by 500 samples taken as independent."
    )


def test_a_chain_with_fewer_exits_is_predicted_from_what_passing_an_exit_costs():
    (chain, *_) = contenders()
    less = with_exits(chain, (0, 2), (2e-5, 5e-5), (0.0, 0.0, 0.0))
    assert less.selecting.score.shape == (2000, 2)
    assert less.selecting.costs.latency_s == pytest.approx(chain.selecting.costs.latency_s[[0, 2]] - [0, 5e-5])
