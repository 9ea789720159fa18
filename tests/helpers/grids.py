"""Every threshold vector of a grid, evaluated at once."""

from offramp.calibrate.search.counting import bin_scores, count_means


def evaluate(score, values, grids):
    """Return the means of some values, each as `Limit.values`, for every vector of a grid of rising candidates."""
    return count_means(bin_scores(score, grids), [len(grid) for grid in grids], len(score), values)
