"""Two coded tables beside each other: every table of one and two columns is counted once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dpsynth.fidelity.coded import Coded
from dpsynth.fidelity.results import ColumnScore, PairScore
from dpsynth.privacy.source import FloatArray, IntArray

TRIPLES = 64


class Comparison:
    """One coded table (`other`) against a base; every pair's table is counted once."""

    def __init__(self, base: Coded, other: Coded) -> None:
        self.base, self.other = base, other
        sizes = base.sizes
        self.sizes, self.names = sizes, list(sizes)
        self.values = (base.values, other.values)
        sides = (base.codes, other.codes)
        self.one = {a: tuple(shares(side[a], sizes[a]) for side in sides) for a in self.names}
        self.tv1 = {a: tv(*both) for a, both in self.one.items()}
        self.tv2: dict[tuple[str, str], float] = {}
        self.association: dict[tuple[str, str], tuple[float, float]] = {}
        for a, b in itertools.combinations(self.names, 2):
            tables = [shares(side[a] * sizes[b] + side[b], sizes[a] * sizes[b]) for side in sides]
            self.tv2[a, b] = tv(*tables)
            self.association[a, b] = self._association(a, b, tables)

    def _association(self, a: str, b: str, tables: Sequence[FloatArray]) -> tuple[float, float]:
        if a in self.values[0] and b in self.values[0]:
            first, second = (_pearson(v[a], v[b]) for v in self.values)
        else:
            first, second = (_cramers_v(t.reshape(self.sizes[a], self.sizes[b])) for t in tables)
        return first, second

    def moments(self, name: str) -> tuple[tuple[float, float], tuple[float, float]] | None:
        """((real mean, other mean), (real sd, other sd)) of a numeric column."""
        if name not in self.values[0] or any(np.isnan(v[name]).all() for v in self.values):
            return None
        real, other = (v[name][~np.isnan(v[name])] for v in self.values)
        return (float(real.mean()), float(other.mean())), (float(real.std()), float(other.std()))

    def missing(self, name: str) -> tuple[float, float]:
        real, other = (float(side[-1]) for side in self.one[name])
        return real, other

    def triples(self) -> float:
        """Mean TVD of at most `TRIPLES` triples of columns, the same for every table of these columns."""
        every = list(itertools.combinations(self.names, 3))
        chosen = np.random.default_rng(0).permutation(len(every))[:TRIPLES]
        return mean(self._triple(*every[i]) for i in chosen)

    def _triple(self, a: str, b: str, c: str) -> float:
        size = self.sizes[a] * self.sizes[b] * self.sizes[c]
        flat = [(s.codes[a] * self.sizes[b] + s.codes[b]) * self.sizes[c] + s.codes[c] for s in (self.base, self.other)]
        return tv(*(shares(codes, size) for codes in flat))

    def deciles(self, name: str) -> float | None:
        """Mean distance of the nine deciles of a numeric column, in standard deviations of the base."""
        if (moments := self.moments(name)) is None or not moments[1][0] > 0:
            return None
        at = np.linspace(0.1, 0.9, 9)
        first, second = (np.nanquantile(v[name], at) for v in self.values)
        return float(np.abs(first - second).mean()) / moments[1][0]


def column_scores(synthetic: Comparison, ceiling: Comparison) -> tuple[ColumnScore, ...]:
    out = []
    for name in synthetic.names:
        moments = synthetic.moments(name)
        out.append(
            ColumnScore(
                name=name,
                tv1=synthetic.tv1[name],
                ceiling=ceiling.tv1[name],
                means=moments[0] if moments else None,
                sds=moments[1] if moments else None,
                missing=synthetic.missing(name),
            )
        )
    return tuple(out)


def pair_scores(synthetic: Comparison, ceiling: Comparison) -> tuple[PairScore, ...]:
    """Pairs by real association, strongest first."""
    pairs = [
        PairScore(
            first=a,
            second=b,
            tv2=tv2,
            ceiling=ceiling.tv2[a, b],
            real=synthetic.association[a, b][0],
            synthetic=synthetic.association[a, b][1],
            other=ceiling.association[a, b][1],
        )
        for (a, b), tv2 in synthetic.tv2.items()
    ]
    return tuple(sorted(pairs, key=lambda p: -abs(p.real)))


def shares(codes: IntArray, size: int) -> FloatArray:
    return np.bincount(codes, minlength=size) / max(len(codes), 1)


def tv(a: FloatArray, b: FloatArray) -> float:
    return 0.5 * float(np.abs(a - b).sum())


def mean(values: Any) -> float:
    known = list(values)
    return float(np.mean(known)) if known else 0.0


def _pearson(a: FloatArray, b: FloatArray) -> float:
    """Pearson correlation over rows where both are known; 0 where one is constant."""
    both = ~(np.isnan(a) | np.isnan(b))
    if both.sum() < 2:
        return 0.0
    x, y = a[both] - a[both].mean(), b[both] - b[both].mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0 else 0.0


def _cramers_v(table: FloatArray) -> float:
    """Cramer's V of a table of shares; 0 where a column is constant."""
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    table = table[rows > 0][:, columns > 0]
    expected = np.outer(rows[rows > 0], columns[columns > 0])
    least = min(table.shape) - 1
    return math.sqrt(float(((table - expected) ** 2 / expected).sum()) / least) if least > 0 else 0.0
