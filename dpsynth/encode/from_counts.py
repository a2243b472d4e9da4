"""A column's codec from the noisy counts of its fine cells. Post-processing: nothing here sees a row."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from dpsynth.encode.cells import FineCells, LabelCells, LineCells
from dpsynth.encode.codec import Codec
from dpsynth.encode.grid import (
    OVER_INTERVALS,
    OVER_WHOLE,
    SIGNIFICANT,
    denoise,
    expected_shares,
    label_groups,
    line_groups,
    occupied_span,
    pooled,
)
from dpsynth.privacy.source import FloatArray, IntArray

MAX_LABELS = 64
# A span of cells is believed where it holds this share, at least, of what the coarser histogram saw.
CREDIBLE = 0.5
# A guessed atom is kept when it stands this many sd of its noise above zero: there are a dozen guesses to a column.
STANDS_OUT = 4.0

# Edges and noisy counts of the histogram from which a line's range was learned (or its declared bounds, and ones).
Coarse = tuple[FloatArray, FloatArray]


def codec_from(
    cells: FineCells,
    counts: FloatArray,
    sigma: float,
    *,
    other_sigma: float | None = None,
    total: float,
    quantiles: int,
    least: float,
    nullable: bool | None,
    coarse: Coarse | None = None,
    trim: bool = True,
    tentative: Collection[float] = (),
) -> Codec:
    """Shares and groups of fine cells.

    counts: noisy counts, shape (cells.size,), of noise sd `sigma`.  other_sigma: that of other labels and missing cells, where it
        differs.  total: what they should sum to, as far as one can see.
    quantiles, least: see `line_groups`; least also for labels.  nullable: None = learned.
    coarse: what to expect inside a group where the noise hides it.  trim: cut ends that hold nothing, as far as one can see.
    tentative: atoms that were not bought but guessed; those that do not stand out go back into the interval around them.
    """
    known, missing = counts[: cells.missing], float(counts[cells.missing])
    other_sigma = other_sigma or sigma
    if isinstance(cells, LineCells):
        weights, groups = _line(cells, _settled(cells, known, sigma, tentative), sigma, quantiles, least, coarse, trim)
    else:
        weights, groups = _labels(cells, known, sigma, other_sigma, total - max(missing, 0.0), least)
    nothing = not _seen(known[weights > 0], sigma) and known.sum() <= SIGNIFICANT * sigma * np.sqrt(len(known))
    if nullable is not False and missing > SIGNIFICANT * other_sigma and nothing:
        weights = np.zeros(len(weights))  # a column of missing cells, as far as one can see
    if nullable is None:
        nullable = missing > SIGNIFICANT * other_sigma or not weights.sum() > 0
    shares = np.append(weights, max(missing, 0.0) if nullable else 0.0)
    if not shares.sum() > 0:  # the noise drowned all of it
        shares[-1 if nullable or not len(weights) else slice(0, -1)] = 1.0
    if nullable and not weights.sum() > 0:
        groups = np.zeros(cells.size, np.int64)
    else:
        # Missing cells of a column that has none, by declaration or as far as one can see, go with its largest group.
        largest = int(np.argmax(np.bincount(groups, weights=weights))) if len(groups) else 0
        groups = np.append(groups, groups.max(initial=-1) + 1 if nullable else largest)
    return Codec(cells, shares / shares.sum(), groups.astype(np.int64))


def _seen(kept: FloatArray, sigma: float) -> bool:
    """Whether cells that were given weight hold rows, or noise alone, as far as one can see."""
    if not len(kept):
        return False
    # Cells of no weight are mostly those whose noise fell below zero: for what is left, the mean of |noise| is its share.
    total = kept.sum() - len(kept) * sigma * np.sqrt(2 / np.pi)
    return bool(max(float(kept.max()), total / np.sqrt(len(kept))) > SIGNIFICANT * sigma)


def _line(
    cells: LineCells, known: FloatArray, sigma: float, quantiles: int, least: float, coarse: Coarse | None, trim: bool
) -> tuple[FloatArray, IntArray]:
    place = np.arange(len(known))
    # Where each cell is one value, a value too many would be one that cannot occur; an interval too many costs little.
    seen = occupied_span(known, sigma, growth=OVER_INTERVALS if cells.edges else OVER_WHOLE) if trim else None
    if seen and cells.edges:
        seen = _cut_at_atoms(cells, known, sigma, *seen)
    if seen and coarse is not None and float(_by_coarse(cells, coarse)[slice(*seen)].sum()) < CREDIBLE:
        seen = None  # noise hides most of what the coarser histogram saw
    # Where nothing is to be seen in single cells, the range that was learned before is all that is known.
    first, last = seen or (0, len(known))
    within_span = (place >= first) & (place < last)
    known = np.where(within_span, known, 0.0)
    weights = np.maximum(known, 0.0)
    if coarse is not None:
        # Atoms stand for themselves, but where all cells are single values: whole numbers, and neighbours are alike.
        smoothed = within_span & ((cells.low < cells.high) if cells.edges else True)
        expected = _expected(cells, coarse)[smoothed]
        weights[smoothed] = denoise(known[smoothed], expected, sigma)
        if not weights.sum() > 0:
            weights[smoothed] = expected * max(float(coarse[1].sum()), 1.0)
    within = slice(first, last)
    groups = np.zeros(len(known), np.int64)
    groups[within] = line_groups(
        cells.low[within], cells.high[within], weights[within], quantiles=quantiles, least=least
    )
    groups[last:] = groups[max(last - 1, 0)]
    return weights, _joined(groups, weights)


def _expected(cells: LineCells, coarse: Coarse) -> FloatArray:
    """What to expect of each cell, where nothing is seen: half by the coarser histogram, half alike for all."""
    even = np.full(len(cells.low), 1 / max(len(cells.low), 1))
    return 0.5 * even + 0.5 * _by_coarse(cells, coarse)


def _by_coarse(cells: LineCells, coarse: Coarse) -> FloatArray:
    """Share of each cell, if every bucket of the coarser histogram were even inside; of a whole number, that up to the next."""
    high = cells.high if cells.edges or cells.step is None else cells.low + cells.step
    return expected_shares(cells.low, high, *coarse)


def _cut_at_atoms(cells: LineCells, known: FloatArray, sigma: float, first: int, last: int) -> tuple[int, int]:
    """A span whose ends go no further than its outermost atoms where nothing is to be seen beyond those: it was the atom
    that made a run across it significant."""
    atoms = first + np.flatnonzero((cells.low == cells.high)[first:last])
    if len(atoms):
        need = OVER_INTERVALS.deviations * sigma
        above, below = known[atoms[-1] + 1 : last], known[first : atoms[0]]
        last = last if above.sum() > need * np.sqrt(len(above)) else int(atoms[-1]) + 1
        first = first if below.sum() > need * np.sqrt(len(below)) else int(atoms[0])
    return first, last


def _settled(cells: LineCells, known: FloatArray, sigma: float, tentative: Collection[float]) -> FloatArray:
    """Counts with those of guessed atoms that do not stand out given to the interval next to them towards zero, which holds
    their value or ends at it: a cap such as 99999 must not make what lies beyond it look occupied."""
    out = known.copy()
    atoms = np.flatnonzero(cells.low == cells.high)
    for atom in atoms[np.isin(cells.low[atoms], list(tentative)) & (known[atoms] <= STANDS_OUT * sigma)]:
        value = cells.low[atom]
        below = np.flatnonzero((cells.high == value) & (cells.low < value)) if value > 0 else np.zeros(0, np.int64)
        around = below if len(below) else np.flatnonzero((cells.low <= value) & (cells.high > value))
        if len(around):
            out[around[0]] += out[atom]
            out[atom] = 0.0
    return out


def _joined(groups: IntArray, weights: FloatArray) -> IntArray:
    """Groups with those that hold nothing joined to the one before (the first to the one after).

    Whatever falls there, noise for the most part, is then drawn from cells that do hold rows.
    """
    held = np.flatnonzero(np.bincount(groups, weights=weights) > 0)
    if not len(held):
        return groups
    joined: IntArray = np.maximum(np.searchsorted(held, groups, side="right") - 1, 0)
    return joined


def _labels(
    cells: LabelCells, known: FloatArray, sigma: float, other_sigma: float, total: float, least: float
) -> tuple[FloatArray, IntArray]:
    # Other labels than the declared or found ones get nothing where they do not stand out.
    weights = np.append(pooled(known[: cells.other], sigma, total), max(known[cells.other], 0.0))
    if known[cells.other] <= SIGNIFICANT * other_sigma:
        weights[cells.other] = 0.0
    groups = label_groups(weights, MAX_LABELS, least)
    if weights[cells.other] == 0:  # nothing is drawn of it: a code of its own would only make every table larger
        groups[cells.other] = groups[int(np.argmax(weights))]
        groups = np.unique(groups, return_inverse=True)[1]
    return weights, groups
