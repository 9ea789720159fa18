import itertools

import numpy as np
import pytest

from offramp.calibrate.search import MARGIN, VECTORS, choose, evaluate_grid, exits_taken, threshold_grid
from offramp.calibrate.statistics import paired_error
from offramp.errors import UsageError
from offramp.schema import NEVER, Target


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


@pytest.mark.parametrize(("exits", "values"), [(2, 32), (3, 20), (4, 9), (5, 6)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_grid_equals_brute_force_over_all_threshold_vectors(exits, values, seed):
    score, right = table(700, exits, seed)
    costs = np.cumsum(np.random.default_rng(seed).uniform(0.5, 2, exits)) * 1e-4
    grids = threshold_grid(score, values=values)
    grid, truth = evaluate_grid(score, right, costs, grids), brute_force(score, right, costs, grids)
    assert grid.drop.size == np.prod([len(g) for g in grids])
    for name in ("drop", "drop_error"):
        assert np.abs(getattr(grid, name) - truth[name]).max() <= 1e-12
    assert np.abs(grid.cost - truth["cost"]).max() <= 1e-12 * costs[-1]
    assert np.abs(grid.cost_error - truth["cost_error"]).max() <= 1e-6 * costs[-1]


@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_the_best_feasible_vector(seed):
    score, right = table(500, 3, seed)
    costs = [1.0, 2.0, 4.0]
    grids = threshold_grid(score, values=12)
    truth = brute_force(score, right, costs, grids)
    vectors = [np.array(vector) for vector in itertools.product(*grids)]

    bound = (truth["drop"] + MARGIN * truth["drop_error"]).ravel()
    bound[-1] = 0
    feasible = np.flatnonzero(bound <= 0.03)
    chosen = choose(evaluate_grid(score, right, costs, grids), Target(max_drop=0.03))
    at = next(i for i, vector in enumerate(vectors) if tuple(vector.astype(float)) == chosen)
    assert at in feasible and truth["cost"].ravel()[at] <= truth["cost"].ravel()[feasible].min() + 1e-9

    feasible = np.flatnonzero((truth["cost"] + MARGIN * truth["cost_error"]).ravel() <= 2.5)
    chosen = choose(evaluate_grid(score, right, costs, grids), Target(max_latency_s=2.5))
    at = next(i for i, vector in enumerate(vectors) if tuple(vector.astype(float)) == chosen)
    assert at in feasible and truth["drop"].ravel()[at] <= truth["drop"].ravel()[feasible].min() + 1e-9


def test_no_drop_allowed_means_never_leaving_early():
    score, right = table(300, 3)
    right[:, 0] = right[:, 1] = False
    grid = evaluate_grid(score, right, [1, 2, 3], threshold_grid(score))
    assert choose(grid, Target(max_drop=0.0)) == (NEVER, NEVER)


def test_a_latency_that_no_vector_reaches_gives_none():
    score, right = table(300, 3)
    grid = evaluate_grid(score, right, [1, 2, 3], threshold_grid(score))
    assert choose(grid, Target(max_latency_s=0.9)) is None


def test_thresholds_are_scores_that_were_seen():
    score, _ = table(1000, 3)
    for k, grid in enumerate(threshold_grid(score)):
        assert grid.dtype == np.float32 and grid[0] == 0 and grid[-1] == NEVER and (np.diff(grid) > 0).all()
        assert set(grid[1:-1]) <= set(score[:, k])


def test_many_exits_stay_within_the_memory_bound():
    score, right = table(2000, 9)
    grids = threshold_grid(score)
    assert np.prod([len(grid) for grid in grids]) <= VECTORS
    assert choose(evaluate_grid(score, right, range(1, 10), grids), Target(max_drop=0.05)) is not None


def test_more_exits_than_can_be_searched_are_refused():
    score, _ = table(100, 12)
    with pytest.raises(UsageError, match="at most 11 exits"):
        threshold_grid(score)


def test_constant_scores_are_searched():
    score = np.full((100, 3), 0.5, np.float32)
    right = np.ones((100, 3), bool)
    assert choose(evaluate_grid(score, right, [1, 2, 3], threshold_grid(score)), Target(max_drop=0.05)) is not None


def test_the_exit_taken_is_the_first_at_or_above_its_threshold():
    score = np.array([[0.5, 0.1, 0.1], [0.4, 0.9, 0.1], [0.4, 0.1, 0.0]], np.float32)
    assert exits_taken(score, (0.5, 0.2)).tolist() == [0, 1, 2]
