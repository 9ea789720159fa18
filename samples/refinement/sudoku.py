"""Sudoku of 6 x 6 cells, in boxes of 2 x 3, each with one solution; made on the spot.

There are 28,200,960 full grids, which are 39,168 once their digits are renamed so that the first row is 1 to 6. Those are cut at
random into training, calibration and test, so the parts share no solution, even after renaming. A puzzle is one of them with its
digits renamed at random and cells emptied, in random order, as long as one solution is left, down to a number of givens that is
drawn for each: 8 to 24. Few can go below 10.
"""

import functools
import itertools

import numpy as np

SIDE, CELLS = 6, 36
GIVENS = 8, 24
PARTS = {"training": (0.0, 0.6), "calibration": (0.6, 0.8), "test": (0.8, 1.0)}
ROW, COLUMN = np.divmod(np.arange(CELLS), SIDE)
GROUPS = np.array([of == k for of in (ROW, COLUMN, ROW // 2 * 2 + COLUMN // 3) for k in range(SIDE)])
"""Which cells each row, column and box has, bool (18, 36)."""

PEERS = np.array([GROUPS[GROUPS[:, cell]].any(0) for cell in range(CELLS)]) & ~np.eye(CELLS, dtype=bool)


@functools.cache
def full_grids() -> np.ndarray:
    """Return all full grids whose first row is 0 to 5, as digits from 0, uint8 (39168, 36), in a fixed random order."""
    rows = np.array(list(itertools.permutations(range(SIDE))), np.uint8)
    boxes = (1 << rows[:, :3]).sum(1)
    upper, lower = np.nonzero(boxes[:, None] & boxes == 0)  # a band: two rows whose boxes hold each digit once
    bands = np.concatenate([rows[upper], rows[lower]], 1)
    bits = (1 << (rows[upper] + 6 * np.arange(SIDE))) | (1 << (rows[lower] + 6 * np.arange(SIDE)))
    used = bits.sum(1)  # which digits each column has
    order = used.argsort()
    first, second = np.nonzero(used[upper == 0][:, None] & used == 0)
    last = (1 << 36) - 1 - used[upper == 0][first] - used[second]
    start, end = (np.searchsorted(used[order], last, side) for side in ("left", "right"))
    pair = np.repeat(np.arange(len(last)), end - start)
    third = order[np.arange(len(pair)) - np.repeat(np.cumsum(end - start) - end, end - start)]
    grids = np.concatenate([bands[upper == 0][first[pair]], bands[second[pair]], bands[third]], 1)
    return np.random.default_rng(0).permutation(grids)


def draw(part: str, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw puzzles, float32 (N, 36) with 0 for an empty cell, and their solutions, int64 (N, 36); digits are 1 to 6."""
    rng = np.random.default_rng([seed, list(PARTS).index(part)])
    low, high = (round(share * len(full_grids())) for share in PARTS[part])
    names = rng.permuted(np.tile(np.arange(SIDE, dtype=np.uint8), (count, 1)), axis=1)
    solution = np.take_along_axis(names, full_grids()[rng.integers(low, high, count)], 1)
    given = np.ones((count, CELLS), bool)
    order = rng.permuted(np.tile(np.arange(CELLS), (count, 1)), axis=1)
    wanted = rng.integers(GIVENS[0], GIVENS[1] + 1, count)
    for cells in order.T:
        rows = np.flatnonzero(given.sum(1) > wanted)
        given[rows, cells[rows]] = False
        given[rows, cells[rows]] = has_other(solution[rows], given[rows], cells[rows])
    return np.where(given, solution + 1, 0).astype(np.float32), solution.astype(np.int64) + 1


def has_other(solution: np.ndarray, given: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """Tell for each puzzle, bool (N,), whether a grid fits its givens (N, 36) that differs from the solution in one cell (N,).

    All puzzles are searched together: what is possible is narrowed down; where that ends, one digit is tried, then the others.
    """
    n = len(solution)
    possible = np.where(given, 1 << solution, 63).astype(np.uint8)
    possible[np.arange(n), cell] ^= 1 << solution[np.arange(n), cell]
    owner, found = np.arange(n), np.zeros(n, bool)
    while len(owner):
        alive = _narrow(possible)
        possible, owner = possible[alive], owner[alive]
        count = COUNT[possible]
        found[owner[(count == 1).all(1)]] = True
        going = ~found[owner]
        possible, owner, count = possible[going], owner[going], count[going]
        # Branch at the cell with the fewest digits left, in two: its lowest digit, or any other.
        at = np.arange(len(owner)), np.where(count > 1, count, 9).argmin(1)
        lowest = possible[at] & -possible[at]
        other = possible.copy()
        other[at] ^= lowest
        possible[at] = lowest
        possible, owner = np.concatenate([possible, other]), np.tile(owner, 2)
    return found


COUNT = np.array([bin(bits).count("1") for bits in range(64)])


def _narrow(possible: np.ndarray) -> np.ndarray:
    """Take from cells, in place, what their peers have for sure; return which grids (N,) have no contradiction."""
    alive = np.ones(len(possible), bool)
    rows = np.arange(len(possible))
    while len(rows):
        before = possible[rows]
        after = before.copy()
        sure = np.where(COUNT[before] == 1, before, 0).astype(np.uint8)
        for cell in range(CELLS):
            after[:, cell] &= ~np.bitwise_or.reduce(sure[:, PEERS[cell]], axis=1)
        for group in GROUPS:  # a digit that has one place left in a group goes there
            cells = after[:, group]
            once, twice = np.zeros((2, len(cells)), np.uint8)
            for digit in cells.T:
                twice |= once & digit
                once |= digit
            alive[rows[once != 63]] = False
            only = cells & (once & ~twice)[:, None]
            after[:, group] = np.where(only > 0, only, cells)
        possible[rows] = after
        alive[rows[(after == 0).any(1)]] = False
        rows = rows[(after != before).any(1) & alive[rows]]
    return alive
