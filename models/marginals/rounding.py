"""Whole rows for a weighted sample, chosen so that tables keep their weighted counts. Post-processing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dpsynth.privacy.source import FloatArray, IntArray

# Passes of swaps, and the share of the rows that each looks at: few at once, as each swap changes what others are worth.
PASSES, LOOKED_AT = 3000, 0.001
# All pairs of columns are watched where rows times pairs are no more than this.
WATCHED = 100_000_000
# Rows that are handled at once: what they need stays in the processor's cache.
_CHUNK = 1024
# Expected counts are rounded to one over this.
_GRID = 2.0**20


def pair_cells(rows: IntArray, sizes: Sequence[int]) -> NDArray[np.int32]:
    """The cell of each pair of columns that each coded row falls into, shape (rows, pairs)."""
    d, wide = len(sizes), torch.tensor(sizes, dtype=torch.int32)
    columns = torch.from_numpy(np.ascontiguousarray(rows.T, np.int32))
    cells = torch.empty((len(rows), d * (d - 1) // 2), dtype=torch.int32)
    held = torch.cat([int(sizes[a]) * wide[a + 1 :] for a in range(d)])
    firsts = held.cumsum(0, dtype=torch.int32) - held
    for start in range(0, len(rows), _CHUNK):
        part = columns[:, start : start + _CHUNK]
        after = [torch.addcmul(part[a + 1 :], part[a], wide[a + 1 :, None]) for a in range(d)]
        cells[start : start + _CHUNK] = (torch.cat(after) + firsts[:, None]).t()
    return cells.numpy()


def _tally(cells: NDArray[np.int32], weights: FloatArray, size: int) -> FloatArray:
    """Weight of the rows in each cell, shape (size,). weights: of the rows."""
    total, places, each = torch.zeros(size, dtype=torch.float64), torch.from_numpy(cells), torch.from_numpy(weights)
    for start in range(0, len(cells), _CHUNK):
        part = places[start : start + _CHUNK]
        total.index_add_(0, part.reshape(-1), each[start : start + _CHUNK].repeat_interleave(part.shape[1]))
    return total.numpy()


def _sums(cells: NDArray[np.int32], values: FloatArray) -> FloatArray:
    """Sum of the values of each row's cells, shape (rows,). values: of the cells."""
    out = [values.take(cells[start : start + _CHUNK]).sum(1) for start in range(0, len(cells), _CHUNK)]
    return np.concatenate(out) if out else np.zeros(0)


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
    n, size = len(chosen), int(cells.max(initial=-1)) + 1
    cumulative = np.cumsum(weights)
    counts = _tally(cells, np.bincount(chosen, minlength=len(cells)).astype(np.float64), size)
    expected = _tally(cells, weights, size) * (n / cumulative[-1])
    # On a grid, so that counting up and down is exact, in whatever order.
    excess = counts - np.rint(expected * _GRID) / _GRID
    worth = 1 / np.sqrt(expected + 1.0)
    pull, price = 2 * worth, _sums(cells, worth)
    chosen, k = chosen.copy(), max(int(LOOKED_AT * n), 1)
    for _ in range(passes):
        places = np.unique(rng.integers(0, n, k))
        incoming = np.minimum(np.searchsorted(cumulative, rng.random(len(places)) * cumulative[-1]), len(weights) - 1)
        old, new = cells[chosen[places]], cells[incoming]
        leaves = (excess.take(old) * pull.take(old)).sum(1) - price[chosen[places]]
        comes = (excess.take(new) * pull.take(new)).sum(1) + price[incoming]
        out, into = np.argsort(-leaves), np.argsort(comes)
        better = leaves[out] > comes[into]
        out, into = out[better], into[better]
        np.subtract.at(excess, old[out].ravel(), 1.0)
        np.add.at(excess, new[into].ravel(), 1.0)
        chosen[places[out]] = incoming[into]
    return chosen
