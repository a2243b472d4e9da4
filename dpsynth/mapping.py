"""Functional dependences without a mapping: the most frequent dependent of each value, from noisy counts.

The two columns are counted together, value by value, once. Where that table would be too large, the dependent's number is
found bit by bit instead, each by a noisy majority. What the noise hides goes with the most frequent dependent of all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpsynth.constraints import Determines
from dpsynth.encode.cells import FineCells, LabelCells, LineCells
from dpsynth.privacy.source import Cells, FloatArray, IntArray
from dpsynth.privacy.table import PrivateTable
from dpsynth.values import Item, Value

# Cells of a table of two columns that are counted at once.
MAX_CELLS = 2**22
# A value's most frequent dependent is believed where it stands this many sd of its noise above zero.
STANDS_OUT = 4.0
# Of a value's bits the least and the mean must be so many sd ahead.
CLEAR = (1.5, 3.0)
STAGE = "mappings"


@dataclass(frozen=True)
class BitOf:
    """One binary digit of a cell's number."""

    cells: FineCells
    bit: int

    @property
    def column(self) -> str:
        return self.cells.column

    @property
    def size(self) -> int:
        return 2

    def encode(self, cells: Cells) -> IntArray:
        return (self.cells.encode(cells) >> self.bit) & 1


def learned(
    table: PrivateTable, constraint: Determines, by: FineCells, dependent: FineCells, *, mu_squared: float
) -> Determines:
    """The constraint with a mapping that `mu_squared` buys: a dependent for each fine cell of the column, missing included."""
    label = f"{by.column} x {dependent.column}"
    if by.size * dependent.size <= MAX_CELLS:
        (m,) = table.counts([[by, dependent]], mu_squared=mu_squared, stage=STAGE, labels=[label])
        found = _most_frequent(m.values.reshape(by.size, dependent.size), m.sigma, dependent)
    else:
        bits = [BitOf(dependent, i) for i in range((dependent.size - 1).bit_length())]
        ms = table.counts(
            [[by, bit] for bit in bits],
            mu_squared=mu_squared,
            stage=STAGE,
            labels=[f"{label}, bit {b.bit}" for b in bits],
        )
        found = _by_majority(np.stack([m.values.reshape(by.size, 2) for m in ms]), ms[0].sigma, dependent)
    values = _values(dependent)
    pairs = [(key, values[found[i]]) for i, key in enumerate(_keys(by)) if not _is_other(by, i)]
    return Determines(constraint.column, constraint.dependent, mapping=pairs)


def _most_frequent(counts: FloatArray, sigma: float, dependent: FineCells) -> IntArray:
    if isinstance(dependent, LabelCells) and dependent.labels:
        counts[:, dependent.other] = -np.inf  # it has no value to show
    best = counts.argmax(axis=1)
    total = np.where(np.isfinite(counts), np.maximum(counts, 0), 0).sum(axis=0)
    out: IntArray = np.where(counts.max(axis=1) > STANDS_OUT * sigma, best, total.argmax())
    return out


def _by_majority(counts: FloatArray, sigma: float, dependent: FineCells) -> IntArray:
    """counts: shape (bits, values, 2)."""
    ahead = counts[:, :, 1] - counts[:, :, 0]
    number = ((ahead > 0) << np.arange(len(ahead))[:, None]).sum(axis=0)
    # Where one dependent holds all rows, each bit is as far ahead: noise alone has some that are not, and a lower mean.
    clear = (np.abs(ahead).min(axis=0) > CLEAR[0] * sigma) & (np.abs(ahead).mean(axis=0) > CLEAR[1] * sigma)
    fits = clear & (number < dependent.size)
    if isinstance(dependent, LabelCells):
        fits &= number != dependent.other
    held = np.bincount(number[fits], weights=counts[0, fits].sum(axis=1), minlength=dependent.size)
    out: IntArray = np.where(fits, number, held.argmax())
    return out


def _is_other(cells: FineCells, i: int) -> bool:
    return isinstance(cells, LabelCells) and i == cells.other


def _keys(cells: FineCells) -> list[Item]:
    """Each fine cell as a value or range of a mapping; missing is None."""
    if isinstance(cells, LabelCells):
        return [*cells.labels, None, None]
    ends = zip(_public(cells, cells.low), _public(cells, cells.top), strict=True)
    return [*(low if low == high else (low, high) for low, high in ends), None]


def _values(cells: FineCells) -> Sequence[Value]:
    """A value for each fine cell; missing is None."""
    if isinstance(cells, LabelCells):
        return [*cells.labels, None, None]
    middles = cells.values(np.arange(cells.size - 1), np.full(cells.size - 1, 0.5))
    return [*_public(cells, middles), None]


def _public(cells: LineCells, places: FloatArray) -> list[Value]:
    """Places on a number line as they stand in a schema."""
    if cells.scale == "datetime":
        return [str(np.datetime64(round(place), "us")) for place in places.tolist()]
    if cells.scale == "timedelta":
        return [place / 1e6 for place in places.tolist()]
    return [
        int(place) if cells.step is not None and cells.step >= 1 else place
        for place in places.tolist()
        if math.isfinite(place)
    ]
