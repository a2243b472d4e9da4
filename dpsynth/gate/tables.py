"""Tables of coded rows, and the distances between them. Nothing here is private."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpsynth.encode.cells import LabelCells
from dpsynth.encode.codec import Codec
from dpsynth.privacy.source import Codes, FloatArray, IntArray
from dpsynth.split import pairs_looked_at

# Mean of |X - Y| of two counts with mean m each, over the root of m: sqrt(2 / pi) sqrt(2).
_APART = 2 / math.sqrt(math.pi)
# A distance above chance that says nothing of dependence: tables whose columns hardly depend on each other are no better kept.
WEAK = 0.02


# A coded table, shape (rows, codecs), and the units that each of its rows stands for.
Reference = tuple[IntArray, FloatArray]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Compared:
    """A synthetic table beside the one that the gate measured, in codes of the columns that both have.

    reference / coded: shape (rows, codecs).  weights: units that each row stands for, of both.
    """

    codecs: tuple[Codec, ...]
    reference: IntArray
    coded: IntArray
    weights: tuple[FloatArray, FloatArray]

    def places(self, names: Sequence[str]) -> tuple[int, ...]:
        at = {c.column: i for i, c in enumerate(self.codecs)}
        return tuple(at[name] for name in names)

    def drift(self, names: Sequence[str]) -> float:
        """TVD between the two tables over some columns."""
        return distance(self.codecs, self.reference, self.coded, self.weights, self.places(names))

    def units(self, names: Sequence[str], total: float) -> FloatArray:
        """Units in each cell of the synthetic table over some columns, scaled to `total`."""
        counts = table(self.codecs, self.coded, self.weights[1], self.places(names))
        return counts * (total / max(float(counts.sum()), 1e-300))


def by_column(rows: Codes) -> Codes:
    """The rows, shape (rows, codecs), laid out column by column, as hundreds of tables read them, in the smallest type."""
    return rows.astype(np.min_scalar_type(int(rows.max(initial=0))), order="F")


def table(codecs: Sequence[Codec], rows: Codes, weights: FloatArray, query: Sequence[int]) -> FloatArray:
    """Weighted contingency table of some columns, flat in C order."""
    flat = rows[:, query[0]].astype(np.int64)
    for a in query[1:]:
        flat *= codecs[a].size
        flat += rows[:, a]
    return np.bincount(flat, weights=weights, minlength=math.prod(codecs[a].size for a in query)).astype(np.float64)


def chance(counts: FloatArray) -> float:
    """TVD that chance alone puts between two samples of the size of this one, about; a little less where cells are few."""
    return 0.5 * _APART * float(np.sqrt(counts).sum()) / max(float(counts.sum()), 1.0)


def still(apart: float, lost: float) -> float:
    """Distance above chance at which no more than a share of the dependence is lost. apart: that of independent columns."""
    return WEAK + lost * max(apart, 0.0)


def queries(d: int) -> list[tuple[int, ...]]:
    """The columns, then the pairs that are looked at: others than those that the model was selected from, where not all are."""
    return [*((a,) for a in range(d)), *pairs_looked_at(d, seed=1)]


def drift(
    codecs: Sequence[Codec], first: Codes, second: Codes, weights: tuple[FloatArray, FloatArray]
) -> tuple[float, float]:
    """Mean 1-way and 2-way TVD between two coded synthetic tables."""
    d = len(codecs)
    if first is second and weights[0] is weights[1]:
        return 0.0, 0.0
    first, second = by_column(first), by_column(second)

    def mean(asked: list[tuple[int, ...]]) -> float:
        return float(np.mean([distance(codecs, first, second, weights, q) for q in asked])) if asked else 0.0

    asked = queries(d)
    return mean(asked[:d]), mean(asked[d:])


def distance(
    codecs: Sequence[Codec],
    first: Codes,
    second: Codes,
    weights: tuple[FloatArray, FloatArray],
    query: Sequence[int],
) -> float:
    a, b = (table(codecs, rows, w, query) for rows, w in zip((first, second), weights, strict=True))
    return 0.5 * float(np.abs(a / a.sum() - b / b.sum()).sum())


def shuffled(rows: Codes) -> Codes:
    """The rows with each column in an order of its own: the same columns, independent of each other."""
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(column) for column in rows.T]).T if rows.size else rows


def names_of_codes(codec: Codec) -> list[str]:
    """A name for each code: its labels, or the span of its intervals."""
    described = codec.cells.describe()
    out = []
    for code in range(codec.size):
        held = [i for i in np.flatnonzero(codec.groups == code) if codec.shares[i] > 0]
        held = held or np.flatnonzero(codec.groups == code)[:1].tolist()
        if isinstance(codec.cells, LabelCells) or len(held) == 1:
            out.append(", ".join(described[i] for i in held))
        else:
            out.append(f"{described[held[0]].split(' to ')[0]} to {described[held[-1]].split(' to ')[-1]}")
    return out
