"""From noisy histograms to cells: ranges, intervals, groups. Post-processing alone; nothing here sees a row."""

from __future__ import annotations

import math

import numpy as np

from dpsynth.privacy.source import FloatArray, IntArray

# A sum of cells counts as occupied when it stands this many standard deviations of its noise above zero. A histogram of
# 1,000 cells has 2,000 sums to look at: one in 1,700 such histograms would show an empty sum as occupied.
SIGNIFICANT = 5.0
INTERVALS = 512


def occupied_span(counts: FloatArray, sigma: float) -> tuple[int, int]:
    """(first, last + 1) of the cells that hold rows, as far as the noise lets one see.

    Sums over a binary tree of cells are compared with their noise; each end is followed down to the finest sum that is still
    significant, so a single heavy cell and a broad thin tail are both found. Where nothing is, the largest cell.
    """
    levels = [np.append(counts, np.zeros(2 ** math.ceil(math.log2(max(len(counts), 2))) - len(counts)))]
    sizes = [np.append(np.ones(len(counts)), np.zeros(len(levels[0]) - len(counts)))]
    while len(levels[-1]) > 1:
        levels.append(levels[-1].reshape(-1, 2).sum(axis=1))
        sizes.append(sizes[-1].reshape(-1, 2).sum(axis=1))
    occupied = [c > SIGNIFICANT * sigma * np.sqrt(np.maximum(s, 1)) for c, s in zip(levels, sizes, strict=True)]
    for i in range(1, len(occupied)):
        occupied[i] |= occupied[i - 1].reshape(-1, 2).any(axis=1)
    if not occupied[-1][0]:
        top = int(np.argmax(counts))
        return top, top + 1
    first, last = _follow(occupied, 0), _follow(occupied, 1)
    return first[0], min(last[1], len(counts))


def _follow(occupied: list[np.ndarray[tuple[int], np.dtype[np.bool_]]], side: int) -> tuple[int, int]:
    """Cells of the finest occupied node at one end (side 0 = lowest, 1 = highest)."""
    node = 0
    for level in range(len(occupied) - 1, 0, -1):
        children = (2 * node + side, 2 * node + 1 - side)
        down = next((c for c in children if occupied[level - 1][c]), None)
        if down is None:
            return node * 2**level, (node + 1) * 2**level
        node = down
    return node, node + 1


def intervals(edges: FloatArray, counts: FloatArray, step: float | None, n: int = INTERVALS) -> FloatArray:
    """Edges of about n intervals over [edges[0], edges[-1]], the more in a bucket the more of the rows it holds.

    edges: B + 1 bucket edges.  counts: B noisy counts.  Within a bucket intervals are of equal width, at least `step`.
    """
    shares = np.maximum(counts, 0) + 1e-9
    parts = np.maximum(np.rint(n * shares / shares.sum()), 1).astype(int)
    cut = [np.linspace(lo, hi, k, endpoint=False) for lo, hi, k in zip(edges[:-1], edges[1:], parts, strict=True)]
    out = np.append(np.concatenate(cut), edges[-1])
    return np.unique(np.rint(out / step) * step) if step else np.unique(out)


def smooth(counts: FloatArray, widths: FloatArray, groups: IntArray, sigma: float) -> FloatArray:
    """Noisy fine counts -> non-negative weights: within each group shrunk towards an even spread over `widths`.

    James-Stein: the more of a group's scatter the noise explains, the flatter it gets. Cells of zero width (atoms) keep
    their own counts. A group's total is kept where it is positive.
    """
    weights = np.maximum(counts, 0.0)
    for group in np.unique(groups):
        inside = np.flatnonzero((groups == group) & (widths > 0))
        total = counts[inside].sum()
        if len(inside) < 2 or total <= 0:
            continue
        even = total * widths[inside] / widths[inside].sum()
        scatter = float(((counts[inside] - even) ** 2).mean())
        keep = max(0.0, 1 - sigma**2 / scatter) if scatter > 0 else 0.0
        shrunk = np.maximum(even + keep * (counts[inside] - even), 0.0)
        weights[inside] = shrunk * (total / shrunk.sum())
    return weights


def line_groups(counts: FloatArray, at_most: int) -> IntArray:
    """Groups of neighbouring cells; a heavy cell stands alone, the others are cut into groups of about equal counts.

    Where heavy cells (such as 0) hold nearly everything, the rest still gets groups down to a quarter of an even share.
    """
    total = max(float(counts.sum()), 1e-9)
    heavy = counts >= total / at_most
    rest = float(counts[~heavy].sum())
    target = max(rest / max(at_most - int(heavy.sum()), 1), total / (4 * at_most))
    groups = np.zeros(len(counts), np.int64)
    group, mass = 0, 0.0
    for i, count in enumerate(counts):
        if i and (heavy[i] or heavy[i - 1] or mass + count / 2 >= target):
            group, mass = group + 1, 0.0
        groups[i], mass = group, mass + count
    return groups


def label_groups(counts: FloatArray, at_most: int) -> IntArray:
    """The `at_most - 1` largest cells each alone, all others together."""
    if len(counts) <= at_most:
        return np.arange(len(counts))
    groups = np.full(len(counts), at_most - 1, np.int64)
    groups[np.argsort(-counts, kind="stable")[: at_most - 1]] = np.arange(at_most - 1)
    return groups


def groups_worth(n_units: float, sigma: float) -> int:
    """How many groups a column should have so that a table of two columns is not all noise: k^2 cells of sd sigma on n."""
    return int(np.clip(math.sqrt(0.25 * max(n_units, 1.0) / max(sigma, 1e-9)), 4, 32))
