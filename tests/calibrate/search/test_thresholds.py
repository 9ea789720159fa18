import itertools

import numpy as np
import pytest

from offramp.bundle.manifest import NEVER
from offramp.calibrate.intervals import paired_error
from offramp.calibrate.measure.tables import exits_taken
from offramp.calibrate.search.thresholds import MARGIN, Limit, Problem, solve, threshold_grids
from offramp.tests.helpers.grids import evaluate


def table(n, exits, seed=0):
    """Scores and correctness that rise with depth, with ties and scores at both ends."""
    rng = np.random.default_rng(seed)
    score = np.clip(np.round(rng.beta(4, 1.5, (n, exits)), 2), 0, 1).astype(np.float32)
    right = rng.random((n, exits)) < 0.55 + 0.4 * score * np.linspace(0.6, 1, exits)
    return score, right


def brute_force(score, right, costs, grids):
    """Run every threshold vector on every sample."""
    shape = [len(grid) for grid in grids]
    n, out = len(score), {name: np.empty(shape) for name in ("drop", "drop_error", "cost", "cost_error")}
    for where in itertools.product(*(range(size) for size in shape)):
        thresholds = [grid[i] for grid, i in zip(grids, where, strict=True)]
        taken = np.full(n, score.shape[1] - 1)
        for k in reversed(range(len(thresholds))):
            taken[score[:, k] >= thresholds[k]] = k
        early, cost = right[np.arange(n), taken], np.asarray(costs)[taken]
        lost, won = (right[:, -1] & ~early).sum(), (early & ~right[:, -1]).sum()
        out["drop"][where], out["drop_error"][where] = (lost - won) / n, paired_error(lost, won, n)
        out["cost"][where], out["cost_error"][where] = cost.mean(), cost.std() / n**0.5
    return out


def paired(right):
    """What leaving at each exit loses against the last: int8 (N, exits) of -1, 0 and 1."""
    return right[:, -1:].astype(np.int8) - right.astype(np.int8)


def cheapest(score, right, costs, max_drop, margin=0.0):
    lost = paired(right)
    return Problem(score, np.asarray(costs, float), lost, (Limit(lost, max_drop, margin),))


def means(score, right, costs, thresholds):
    taken = exits_taken(score, thresholds)
    return np.asarray(costs)[taken].mean(), paired(right)[np.arange(len(score)), taken].mean()


@pytest.mark.parametrize(("exits", "values"), [(2, 32), (3, 20), (4, 9), (5, 6)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_grid_equals_brute_force_over_all_threshold_vectors(exits, values, seed):
    score, right = table(700, exits, seed)
    costs = np.cumsum(np.random.default_rng(seed).uniform(0.5, 2, exits)) * 1e-4
    grids = threshold_grids(score, values=values)
    truth = brute_force(score, right, costs, grids)
    drop, cost = evaluate(score, [paired(right), costs], grids)
    assert drop.mean.size == np.prod([len(g) for g in grids])
    assert np.abs(drop.mean - truth["drop"]).max() <= 1e-12
    truth["drop_error"].flat[-1] = 0  # never leaving early is the last exit itself
    assert np.abs(drop.error - truth["drop_error"]).max() <= 1e-12
    assert np.abs(cost.mean - truth["cost"]).max() <= 1e-12 * costs[-1]
    assert np.abs(cost.error - truth["cost_error"]).max() <= 1e-6 * costs[-1]


@pytest.mark.parametrize("seed", range(5))
def test_what_is_found_on_a_grid_is_the_best_that_keeps_the_limits(seed):
    score, right = table(500, 3, seed)
    costs = np.array([1.0, 2.0, 4.0])
    grids = threshold_grids(score, values=12)
    truth = brute_force(score, right, costs, grids)

    def at(found):
        return tuple(int(np.flatnonzero(grid == np.float32(t))[0]) for grid, t in zip(grids, found, strict=True))

    bound = truth["drop"] + MARGIN * truth["drop_error"]
    bound.flat[-1] = 0
    found = at(solve(cheapest(score, right, costs, 0.03, MARGIN), values=12, fine_values=12))
    assert bound[found] <= 0.03 and truth["cost"][found] <= truth["cost"][bound <= 0.03].min() + 1e-9

    late = truth["cost"] + MARGIN * truth["cost_error"]
    lost = paired(right)
    problem = Problem(score, lost, costs, (Limit(costs, 2.5, MARGIN),))
    found = at(solve(problem, values=12, fine_values=12))
    assert late[found] <= 2.5 and truth["drop"][found] <= truth["drop"][late <= 2.5].min() + 1e-9


@pytest.mark.parametrize("seed", range(4))
def test_zoom_finds_the_best_of_the_whole_grid_and_better_between_its_values(seed):
    score, right = table(4000, 5, seed)
    score += np.random.default_rng(seed).uniform(0, 0.009, score.shape).astype(np.float32)
    problem = cheapest(score, right, [1, 2, 3, 4, 5], 0.02)
    whole, zoomed, finer = solve(problem, fine_values=32), solve(problem, values=8, fine_values=32), solve(problem)
    costs = [means(score, right, [1, 2, 3, 4, 5], one)[0] for one in (whole, zoomed, finer)]
    assert costs[1] <= costs[0] * 1.01 and costs[2] <= costs[0]  # from so coarse a grid it may end beside the best


@pytest.mark.parametrize("exits", [9, 12])
def test_many_exits_are_searched_within_memory_and_keep_their_limits(exits):
    score, right = table(3000, exits)
    costs = np.arange(1, exits + 1)
    found = solve(cheapest(score, right, costs, 0.05), memory_mb=32)
    cost, drop = means(score, right, costs, found)
    assert drop <= 0.05
    # One threshold for all exits is a vector too.
    shared = [means(score, right, costs, [t] * (exits - 1)) for t in np.linspace(0, 1, 101)]
    assert cost <= min(cost for cost, drop in shared if drop <= 0.05)


def test_descent_is_as_good_as_the_whole_grid():
    score, right = table(3000, 5)
    problem = cheapest(score, right, [1, 2, 3, 4, 5], 0.02)
    whole = means(score, right, [1, 2, 3, 4, 5], solve(problem))[0]
    descended = means(score, right, [1, 2, 3, 4, 5], solve(problem, memory_mb=1))[0]
    assert descended <= whole * 1.005


def test_several_limits_hold_together():
    score, right = table(2000, 4)
    costs, late = np.array([1.0, 2, 3, 4]), np.array([0.0, 0.1, 0.3, 0.6])
    lost = paired(right)
    found = solve(Problem(score, costs, lost, (Limit(lost, 0.05), Limit(late, 0.2))))
    taken = exits_taken(score, found)
    assert late[taken].mean() <= 0.2 and lost[np.arange(2000), taken].mean() <= 0.05


def test_no_drop_allowed_means_never_leaving_early():
    score, right = table(300, 3)
    right[:, 0] = right[:, 1] = False
    assert solve(cheapest(score, right, [1, 2, 3], 0.0, MARGIN)) == (NEVER, NEVER)


def test_a_limit_that_no_vector_keeps_gives_none():
    score, right = table(300, 3)
    costs = np.array([1.0, 2, 3])
    assert solve(Problem(score, paired(right), costs, (Limit(costs, 0.9),))) is None


def test_thresholds_are_scores_that_were_seen():
    score, _ = table(1000, 3)
    for k, grid in enumerate(threshold_grids(score)):
        assert grid.dtype == np.float32 and grid[0] == 0 and grid[-1] == NEVER and (np.diff(grid) > 0).all()
        assert set(grid[1:-1]) <= set(score[:, k])


def test_constant_scores_are_searched():
    score = np.full((100, 3), 0.5, np.float32)
    assert solve(cheapest(score, np.ones((100, 3), bool), [1, 2, 3], 0.05)) == (0.0, 0.0)


def test_the_exit_taken_is_the_first_at_or_above_its_threshold():
    score = np.array([[0.5, 0.1, 0.1], [0.4, 0.9, 0.1], [0.4, 0.1, 0.0]], np.float32)
    assert exits_taken(score, (0.5, 0.2)).tolist() == [0, 1, 2]
