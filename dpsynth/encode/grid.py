"""From noisy histograms to cells: ranges, intervals, groups. Post-processing alone; nothing here sees a row."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from dpsynth.privacy.source import BoolArray, FloatArray, IntArray

# A single count stands out when it is this many standard deviations of its noise above zero.
SIGNIFICANT = 5.5
# A run of cells counts as occupied when its sum stands so far out that, of histograms of noise alone, no more than this
# share has such a run: half of it for runs among the likely cells, half for the (many more) others.
FALSE_ALARM = 1 / 2000


class Growth(NamedTuple):
    """How a span goes on over cells next to it: runs of up to `reach` that stand `deviations` of their noise above zero."""

    deviations: float
    reach: int


# A bucket of a range too many makes values four times too large; an interval too many, within a range, costs little; a whole
# number too many is a value that cannot occur.
OVER_BUCKETS, OVER_INTERVALS, OVER_WHOLE = Growth(4.0, 2), Growth(3.0, 4), Growth(4.5, 32)
MAX_INTERVALS = 512
EQUAL_WIDTHS = 20
PER_DECADE = 12
# The noise hides a label whose count is no more than so many sd above 0.
HIDDEN = 3.0


def occupied_span(
    counts: FloatArray, sigma: float, *, growth: Growth, likely: BoolArray | None = None
) -> tuple[int, int] | None:
    """(first, last + 1) of the cells that hold rows, as far as the noise lets one see; None where nothing is seen.

    An end lies where the outermost significant run of cells ends, each run being as short as its significance allows: so a
    single heavy cell and a broad thin tail are both found. From there it goes on over neighbouring cells on lesser evidence.
    likely: cells where rows are expected beforehand; runs of these pass on less evidence than others.
    """
    likely = np.zeros(len(counts), bool) if likely is None else likely
    last, first = _outer_end(counts, sigma, likely), len(counts) - _outer_end(counts[::-1], sigma, likely[::-1])
    if first >= last:
        return None
    need = growth.deviations * sigma
    last += _grown(counts[last:], need, growth.reach)
    first -= _grown(counts[:first][::-1], need, growth.reach)
    return first, last


def _grown(beyond: FloatArray, need: float, reach: int) -> int:
    """How many of the cells next to an occupied span look occupied, too; a run of k <= reach cells needs need * sqrt(k)."""
    grown = 0
    while grown < len(beyond):
        runs = np.cumsum(beyond[grown : grown + reach])
        seen = np.flatnonzero(runs > need * np.sqrt(np.arange(1, len(runs) + 1)))
        if not len(seen):
            break
        grown += int(seen[0]) + 1
    return grown


def _outer_end(counts: FloatArray, sigma: float, likely: BoolArray) -> int:
    """End of the last significant run; 0 where there is none."""
    total = np.concatenate([[0.0], np.cumsum(counts)])
    unlikely = np.concatenate([[0], np.cumsum(~likely)])
    high, low = _out_of(len(counts) * (len(counts) + 1) / 2), _out_of(_runs_within(likely))
    open_starts = np.ones(len(counts), bool)  # starts whose shortest significant run is still to be found
    end = 0
    for length in range(1, len(counts) + 1):
        starts = len(counts) - length + 1
        runs = total[length:] - total[:starts]
        need = np.where(unlikely[length:] == unlikely[:starts], low, high) * sigma * math.sqrt(length)
        found = np.flatnonzero(open_starts[:starts] & (runs > need))
        open_starts[found] = False
        outer = [start for start in found if start + length > end and _is_even(counts[start : start + length])]
        end = max([end, *(int(start) + length for start in outer)])
    return end


def _runs_within(likely: BoolArray) -> float:
    """Number of runs that hold likely cells alone."""
    blocks = np.diff(np.flatnonzero(np.diff(likely, prepend=False, append=False)))[::2]
    return float((blocks * (blocks + 1) / 2).sum())


def _out_of(runs: float) -> float:
    """Standard deviations above zero that noise passes in one of `runs` with half the chance of FALSE_ALARM, at most."""
    return NormalDist().inv_cdf(1 - FALSE_ALARM / 2 / max(runs, 1.0))


def _is_even(run: FloatArray) -> bool:
    """Whether a run owes its significance to all of it, not to a few cells that a longer one then trails behind."""
    outer_parts = np.cumsum(run[::-1]) / np.sqrt(np.arange(1, len(run) + 1))
    return bool(outer_parts.max() <= 1.5 * outer_parts[-1])


def intervals(edges: FloatArray, counts: FloatArray, step: float | None, n: int) -> FloatArray:
    """Edges of about n intervals over [edges[0], edges[-1]], the more in a bucket the more of the rows it holds.

    edges: B + 1 bucket edges.  counts: B noisy counts.  Within a bucket intervals are of equal width, at least `step`.
    """
    shares = np.maximum(counts, 0) + 1e-9
    parts = np.maximum(np.rint(n * shares / shares.sum()), 1).astype(int)
    cut = [np.linspace(lo, hi, k, endpoint=False) for lo, hi, k in zip(edges[:-1], edges[1:], parts, strict=True)]
    out = np.append(np.concatenate(cut), edges[-1])
    return np.unique(np.rint(out / step) * step) if step else np.unique(out)


def decades(low: float, high: float, step: float | None, n: int = MAX_INTERVALS) -> FloatArray:
    """Edges in (low, high) that get wider with their distance from 0: PER_DECADE to each power of ten, fewer where `n`, the
    number of intervals that the line is worth, is small.

    For a line of which only the bounds are known: amounts mostly lie close to 0, however far their bounds are apart.
    """
    far = max(abs(low), abs(high), 1e-300)
    smallest = max(step or 0.0, far * 1e-6)
    dense = int(np.clip(n // 8, 2, PER_DECADE))
    ladder = 10.0 ** (np.arange(math.floor(math.log10(smallest)) * dense, math.log10(far) * dense) / dense)
    edges = np.concatenate([-ladder, [0.0], ladder])
    if step:
        edges = np.rint(edges / step) * step
    inside: FloatArray = np.unique(edges[(edges > low) & (edges < high)])
    return inside


def sentinels(low: float, high: float, step: float | None) -> list[float]:
    """Numbers in [low, high) that tables often use as codes or caps: 0, -1, and those of nines alone, of either sign.

    They depend on no row; counting them apart costs no more than counting the interval around them.
    """
    nines = [10.0**k - 1 for k in range(1, 10)]
    candidates = [0.0, -1.0, *nines, *(-n for n in nines)]
    return sorted(c for c in candidates if low <= c < high and (step is None or c % step == 0))


def expected_shares(low: FloatArray, high: FloatArray, edges: FloatArray, counts: FloatArray) -> FloatArray:
    """Share of rows that each cell [low, high) would hold if every bucket of a coarser histogram were even inside.

    edges, counts: the coarser histogram, B + 1 edges and B noisy counts.  Cells of no width (atoms) get 0.
    """
    mass = np.concatenate([[0.0], np.cumsum(np.maximum(counts, 0.0) + 1e-9)])
    shares: FloatArray = (np.interp(high, edges, mass) - np.interp(low, edges, mass)) / mass[-1]
    return shares


def denoise(counts: FloatArray, expected: FloatArray, sigma: float) -> FloatArray:
    """Noisy counts of neighbouring cells -> non-negative weights, smooth where the noise hides what is there.

    counts: each with noise of sd `sigma`.  expected: what each cell would hold, up to a factor, if nothing were seen; above 0.
    Cells are split in halves again and again. How a part divides is taken from the counts as far as it stands out of
    the noise (by 1 - variance / square, as James and Stein do), and from what is expected for the rest. So broad shapes, whose
    noise averages out, are kept, and so is a heap that stands out of its neighbours. The total is kept where it is above 0.
    """
    sums, before = (np.concatenate([[0.0], np.cumsum(x)]) for x in (counts, expected))
    weights = np.zeros(len(counts))
    open_parts = [(0, len(counts), max(float(counts.sum()), 0.0))] if len(counts) else []
    while open_parts:
        start, end, weight = open_parts.pop()
        if end - start == 1 or weight == 0:
            weights[start] = weight
            continue
        middle = (start + end) // 2
        left = float((before[middle] - before[start]) / (before[end] - before[start]))
        total = float(sums[end] - sums[start])
        if total > 0:
            difference = float(sums[middle] - sums[start]) - left * total
            variance = sigma**2 * ((middle - start) * (1 - left) ** 2 + (end - middle) * left**2)
            if difference**2 > variance:
                left = float(np.clip(left + (1 - variance / difference**2) * difference / total, 0.0, 1.0))
        open_parts += [(start, middle, left * weight), (middle, end, (1 - left) * weight)]
    return weights


def line_groups(low: FloatArray, high: FloatArray, counts: FloatArray, *, quantiles: int, least: float) -> IntArray:
    """Groups of neighbouring cells, cut where people look: at EQUAL_WIDTHS bins of the line, and these in parts that hold
    about one in `quantiles` of its rows.

    low, high: ends of each cell.  counts: noisy, non-negative.  A cell with more than an even share stands alone (0, 40 hours a
    week); after that the lightest group joins its lighter neighbour until none holds less than `least` of the rows. Equal
    counts alone would cut a heavy middle finely, where noise drowns it, and leave a tail whole.
    """
    total = float(counts.sum())
    if not len(counts) or total <= 0:
        return np.zeros(len(counts), np.int64)
    span = max(float(high[-1] - low[0]), 1e-300)
    width = np.clip(np.floor((low - low[0]) / span * EQUAL_WIDTHS), 0, EQUAL_WIDTHS - 1)
    heavy = counts >= total / EQUAL_WIDTHS
    light = np.where(heavy, 0.0, counts)
    bins = width.astype(np.int64)
    mass = np.bincount(bins, weights=light, minlength=EQUAL_WIDTHS)
    parts = np.maximum(np.rint(mass / total * quantiles), 1.0)[bins]
    start = (np.cumsum(mass) - mass)[bins]
    place = (np.cumsum(light) - light / 2 - start) / np.maximum(mass[bins], 1e-300)
    part = np.clip(np.floor(place * parts), 0, parts - 1)
    cut = (np.diff(bins) != 0) | (np.diff(part) != 0) | heavy[1:] | heavy[:-1]
    groups: IntArray = np.concatenate([[0], np.cumsum(cut)])
    return _lightest_joined(groups, counts, least * total)


def _lightest_joined(groups: IntArray, counts: FloatArray, least: float) -> IntArray:
    mass = np.bincount(groups, weights=counts).tolist()
    ends = list(range(1, len(mass) + 1))  # each group holds those before its end
    while len(mass) > 1:
        i = int(np.argmin(mass))
        if mass[i] >= least:
            break
        j = i - 1 if i == len(mass) - 1 or (i > 0 and mass[i - 1] <= mass[i + 1]) else i + 1
        first, second = min(i, j), max(i, j)
        mass[first] += mass.pop(second)
        ends.pop(first)
    joined: IntArray = np.searchsorted(ends, groups, side="right")
    return joined


def even_groups(counts: FloatArray, at_most: int) -> IntArray:
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


def pooled(counts: FloatArray, sigma: float, total: float) -> FloatArray:
    """Noisy counts of labels -> non-negative weights: those that noise hides are alike, as far as one can see.

    counts: each with noise of sd `sigma`.  total: what they sum to, better known than their sum is.
    A label above HIDDEN sd keeps its count. The others have what is left of the total, shrunk towards equal parts the
    more of their scatter the noise explains (James, Stein). To cut at zero and scale would keep the noise of every label
    whose noise was positive.
    """
    weights = np.maximum(counts, 0.0)
    hidden = counts <= HIDDEN * sigma
    if not hidden.any():
        return weights
    left = float(np.clip(total - weights[~hidden].sum(), 0.0, HIDDEN * sigma * hidden.sum()))
    inside = counts[hidden]
    scatter = float(((inside - inside.mean()) ** 2).sum()) / max(len(inside) - 3, 1)
    keep = max(0.0, 1 - sigma**2 / scatter) if len(inside) > 3 and scatter > 0 else 0.0
    shrunk = np.maximum(left / len(inside) + keep * (inside - inside.mean()), 0.0)
    weights[hidden] = shrunk * (left / shrunk.sum()) if shrunk.sum() > 0 else 0.0
    return weights


def label_groups(counts: FloatArray, at_most: int, least: float = 0.0) -> IntArray:
    """Large cells each alone, at most `at_most - 1` of them; those that hold less than `least` of all go together."""
    large = np.argsort(-counts, kind="stable")
    if len(counts) > at_most:
        large = large[: at_most - 1]
    large = large[counts[large] >= least * counts.sum()]
    if len(large) >= len(counts) - 1:
        return np.arange(len(counts))
    groups = np.full(len(counts), len(large), np.int64)
    groups[large] = np.arange(len(large))
    return groups


def intervals_worth(n_units: float, sigma: float) -> int:
    """How many intervals a histogram should have so that each holds about two sd of its noise."""
    return int(np.clip(n_units / (2 * max(sigma, 1e-9)), 16, MAX_INTERVALS))


def groups_worth(n_units: float, sigma: float) -> int:
    """How many groups a column should have so that a table of two columns is not all noise: k^2 cells of sd sigma on n."""
    return int(np.clip(math.sqrt(0.25 * max(n_units, 1.0) / max(sigma, 1e-9)), 4, 32))
