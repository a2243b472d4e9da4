"""Whole rows for a weighted sample, chosen so that tables keep their weighted counts. Post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from dpsynth.privacy.source import FloatArray, IntArray

# Passes of swaps, and the share of the rows that each looks at: few at once, as each swap changes what others are worth.
PASSES, LOOKED_AT = 3000, 0.001
# All pairs of columns are watched where rows times pairs are no more than this.
WATCHED = 100_000_000


def pair_cells(rows: IntArray, sizes: Sequence[int]) -> NDArray[np.int32]:
    """The cell of each pair of columns that each coded row falls into, shape (rows, pairs)."""
    pairs = list(combinations(range(len(sizes)), 2))
    cells = np.empty((len(rows), len(pairs)), np.int32)
    first = 0
    for i, (a, b) in enumerate(pairs):
        cells[:, i] = first + rows[:, a] * sizes[b] + rows[:, b]
        first += sizes[a] * sizes[b]
    return cells


def swapped(
    chosen: IntArray, cells: NDArray[np.int32], weights: FloatArray, rng: np.random.Generator, *, passes: int = PASSES
) -> IntArray:
    """`chosen` with rows exchanged where that brings the tables' counts closer to the weighted ones.

    chosen: indices of rows, shape (n,).  cells: the cell of each table that each row falls into, shape (rows, tables); cells of
    different tables have different numbers.  weights: of the rows, not negative.

    What goes down is sum(R^2 / sqrt(E + 1)), with E the expected counts of all cells and R the chosen rows' counts less E: by
    how much, for row j in the place of row i, follows from a sum over the cells of either. Rows come in by weight, so that what
    no table holds stays as the weights have it. Drawing rows one by one would add the sampling noise of n rows to every table.
    """
    n, tables = len(chosen), cells.shape[1]
    size = int(cells.max(initial=-1)) + 1
    cumulative = np.cumsum(weights)
    expected = np.zeros(size)
    for table in range(tables):
        expected += np.bincount(cells[:, table], weights=weights, minlength=size)
    counts = np.bincount(cells[chosen].ravel(), minlength=size)
    expected *= n / cumulative[-1]
    excess, worth = counts - expected, 1 / np.sqrt(expected + 1.0)
    price = np.zeros(len(cells))
    for table in range(tables):
        price += worth[cells[:, table]]
    chosen, k = chosen.copy(), max(int(LOOKED_AT * n), 1)
    for _ in range(passes):
        places = np.unique(rng.integers(0, n, k))
        incoming = np.minimum(np.searchsorted(cumulative, rng.random(len(places)) * cumulative[-1]), len(weights) - 1)
        pull = 2 * excess * worth
        leaves = pull[cells[chosen[places]]].sum(1) - price[chosen[places]]
        comes = pull[cells[incoming]].sum(1) + price[incoming]
        out, into = np.argsort(-leaves), np.argsort(comes)
        better = leaves[out] > comes[into]
        places, incoming = places[out[better]], incoming[into[better]]
        excess -= np.bincount(cells[chosen[places]].ravel(), minlength=size)
        excess += np.bincount(cells[incoming].ravel(), minlength=size)
        chosen[places] = incoming
    return chosen
