"""The Sudokus of the refinement sample have one solution, and the parts share none."""

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = str(Path(__file__).parents[2] / "samples/refinement")


@pytest.fixture(scope="module")
def sudoku():
    sys.path.insert(1, FOLDER)
    import sudoku

    yield sudoku
    sys.path.remove(FOLDER)


def rename(grids):
    """Rename the digits of grids (N, 36), from 1, so that the first row is 1 to 6."""
    return [tuple((np.argsort(grid[:6]) + 1)[grid - 1].tolist()) for grid in grids]


def solve(puzzle, peers):
    """Return all solutions of a puzzle, (36,) with 0 for an empty cell, by trying every digit."""
    empty = np.flatnonzero(puzzle == 0)
    if not len(empty):
        return [tuple(puzzle.tolist())]
    free = {int(cell): set(range(1, 7)) - set(puzzle[peers[cell]].tolist()) for cell in empty}
    cell = min(free, key=lambda each: len(free[each]))
    found = []
    for digit in free[cell]:
        puzzle[cell] = digit
        found += solve(puzzle, peers)
    puzzle[cell] = 0
    return found


def test_each_puzzle_has_the_one_solution_that_is_given(sudoku):
    puzzles, solutions = sudoku.draw("test", 60)
    assert puzzles.dtype == np.float32 and solutions.dtype == np.int64 and len(set((puzzles > 0).sum(1))) > 8
    for puzzle, solution in zip(puzzles, solutions, strict=True):
        assert solve(puzzle.astype(int), sudoku.PEERS) == [tuple(solution.tolist())]


def test_all_full_grids_are_there_and_the_parts_share_none(sudoku):
    grids = sudoku.full_grids() + 1
    assert len(grids) == len(np.unique(grids, axis=0)) == 39_168  # times 6! names: 28,200,960
    assert all((np.sort(grids[:, group], 1) == np.arange(1, 7)).all() for group in sudoku.GROUPS)
    parts = [set(rename(sudoku.draw(part, 300)[1])) for part in sudoku.PARTS]
    assert all(a.isdisjoint(b) for a in parts for b in parts if a is not b)


def test_a_seed_gives_the_same_puzzles(sudoku):
    first, again, other = (sudoku.draw("training", 5, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
