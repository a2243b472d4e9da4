"""Whole rows chosen by swaps: tables keep their weighted counts, and what no table holds is left alone."""

from __future__ import annotations

import numpy as np

from dpsynth.models.marginals.rounding import pair_cells, swapped


def test_cells_of_pairs_are_told_apart() -> None:
    cells = pair_cells(np.array([[1, 2, 0], [0, 2, 1]]), (2, 3, 2))
    assert cells.tolist() == [[5, 6 + 2, 10 + 4], [2, 6 + 1, 10 + 5]]


def test_swaps_bring_tables_to_their_weighted_counts_and_keep_triples() -> None:
    rng = np.random.default_rng(5)
    sizes = (4, 6, 5, 3)
    first = rng.integers(0, 4, 12_000)
    rows = np.stack([first, (first + rng.integers(0, 3, 12_000)) % 6, rng.integers(0, 5, 12_000), first % 3], axis=1)
    logs = rng.normal(0, 0.7, len(rows)) + 0.5 * (rows[:, 1] == rows[:, 2])
    weights, cells, n = np.exp(logs), pair_cells(rows, sizes), 4000
    start = rng.choice(len(rows), n, p=weights / weights.sum())
    chosen = swapped(start, cells, weights, rng)
    expected = np.bincount(cells.ravel(), weights=np.repeat(weights, cells.shape[1])) * n / weights.sum()

    def off(index: np.ndarray) -> float:
        counts = np.bincount(cells[index].ravel(), minlength=len(expected))
        return float(np.abs(counts - expected).sum())

    assert len(chosen) == n and off(chosen) < 0.2 * off(start)
    triple = rows[:, 0] * 30 + rows[:, 1] * 5 + rows[:, 2]
    share = np.bincount(triple, weights=weights, minlength=120) / weights.sum()
    apart = np.abs(np.bincount(triple[chosen], minlength=120) / n - share).sum()
    assert apart < np.abs(np.bincount(triple[start], minlength=120) / n - share).sum()


def test_one_row_and_no_tables() -> None:
    rng = np.random.default_rng(0)
    rows = np.array([[0], [1]])
    assert len(swapped(np.array([1]), pair_cells(rows, (2,)), np.ones(2), rng, passes=5)) == 1
