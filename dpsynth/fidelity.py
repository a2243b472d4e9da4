"""How close is a synthetic table to the real one? For the owner: it reads real rows, books nothing, and stays inside.

Every figure stands between its ceiling (what another real sample reaches: a holdout, or two halves of the real table) and
its floor (the real columns, each shuffled by itself: perfect columns, no dependence), so that a number means something.
What may leave is the gate's report, which is made of DP measurements (see `gate`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsynth.encode.parse import numbers
from dpsynth.privacy.errors import SchemaError
from dpsynth.privacy.source import Cells, FloatArray, IntArray, Numbers, Strings
from dpsynth.schema import Schema
from dpsynth.sources import read

if TYPE_CHECKING:
    from rich.console import Group

BINS, LABELS = 10, 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """One table against the real one. Distances: 0 is equal; means over columns or pairs.

    tv1 / tv2: total variation distance of one- / two-column tables.  mean / sd: difference of means / of standard deviations,
    in real standard deviations.  missing: difference of missing shares.  association: difference of correlations
    (Pearson between numbers, Cramer's V otherwise).
    """

    tv1: float
    tv2: float
    mean: float
    sd: float
    missing: float
    association: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnScore:
    """One column: TVD, and for numbers the means and standard deviations (real, synthetic)."""

    name: str
    tv1: float
    ceiling: float
    means: tuple[float, float] | None
    sds: tuple[float, float] | None
    missing: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class PairScore:
    """One pair of columns: TVD, and association in the real, synthetic and ceiling table."""

    first: str
    second: str
    tv2: float
    ceiling: float
    real: float
    synthetic: float
    other: float


@dataclass(frozen=True, kw_only=True, slots=True)
class FidelityReport:
    """Fidelity of a synthetic table, each figure with its ceiling and floor. PRIVATE: made from real rows.

    ceiling_of: what the ceiling is ("holdout" or "two halves of the real table").  skipped: columns that were not compared.
    quality: SDMetrics' quality score, if it was asked for.
    """

    synthetic: Scores
    ceiling: Scores
    floor: Scores
    columns: tuple[ColumnScore, ...]
    pairs: tuple[PairScore, ...]
    ceiling_of: str
    skipped: tuple[str, ...]
    quality: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {"private": "made from real rows; keep inside"} | asdict(self)

    def to_html(self, path: str | Path) -> None:
        """Write the internal report, marked as private."""
        from dpsynth.report.internal import render

        Path(path).write_text(render(self), encoding="utf-8")

    def __rich__(self) -> Group:
        from dpsynth.report.terminal import fidelity_tables

        return fidelity_tables(self)


def evaluate(
    real: Any, synthetic: Any, holdout: Any = None, schema: Schema | None = None, *, sdmetrics: bool = False
) -> FidelityReport:
    """Compare a synthetic table with the real one. For the owner's eyes: reads real rows and books nothing.

    real, synthetic, holdout: anything that `fit` reads, with the same columns.  holdout: real rows that were not learned from.
    schema: columns of kind id and identifiers are skipped.  sdmetrics: add SDMetrics' quality score.
    Raises SchemaError where columns are missing.
    """
    tables = {"real": read(real).cells, "synthetic": read(synthetic).cells}
    if holdout is not None:
        tables["other"] = read(holdout).cells
    names, skipped = _comparable(tables, schema)
    bins = {name: _Bins.of(tables["real"][name]) for name in names}
    coded = {which: {name: bins[name].code(cells[name]) for name in names} for which, cells in tables.items()}
    values = {
        which: {name: bins[name].values(cells[name]) for name in names if bins[name].edges is not None}
        for which, cells in tables.items()
    }
    rng = np.random.default_rng(0)
    base = "real"
    if holdout is None:
        base = "half"
        n = len(next(iter(coded["real"].values())))
        order = rng.permutation(n)
        for which, rows in (("half", order[: n // 2]), ("other", order[n // 2 :])):
            coded[which] = {name: codes[rows] for name, codes in coded["real"].items()}
            values[which] = {name: v[rows] for name, v in values["real"].items()}
    coded["shuffled"], values["shuffled"] = _shuffled(coded["real"], values["real"], rng)
    sizes = {name: bins[name].size for name in names}
    compared = {
        "synthetic": _Comparison("real", "synthetic", coded, values, sizes),
        "ceiling": _Comparison(base, "other", coded, values, sizes),
        "floor": _Comparison("real", "shuffled", coded, values, sizes),
    }
    return FidelityReport(
        synthetic=compared["synthetic"].scores(),
        ceiling=compared["ceiling"].scores(),
        floor=compared["floor"].scores(),
        columns=_column_scores(compared["synthetic"], compared["ceiling"]),
        pairs=_pair_scores(compared["synthetic"], compared["ceiling"]),
        ceiling_of="holdout" if holdout is not None else "two halves of the real table",
        skipped=skipped,
        quality=_quality(real, synthetic, names) if sdmetrics else None,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Bins:
    """How a column is cut for comparison: quantile edges of a number line, or the most frequent labels."""

    edges: FloatArray | None
    labels: dict[str, int]
    scale: Any

    @classmethod
    def of(cls, cells: Cells) -> _Bins:
        scale = _scale(cells)
        if scale is not None:
            values = numbers(cells, scale)
            known = values[~np.isnan(values)]
            edges = np.unique(np.quantile(known, np.linspace(0, 1, BINS + 1)[1:-1])) if len(known) else np.zeros(0)
            return cls(edges, {}, scale)
        strings = _as_strings(cells)
        counts = np.bincount(strings.codes[strings.codes >= 0], minlength=len(strings.uniques))
        top = np.argsort(-counts, kind="stable")[:LABELS]
        return cls(None, {str(strings.uniques[i]): k for k, i in enumerate(top)}, None)

    @property
    def size(self) -> int:
        return (len(self.edges) + 1 if self.edges is not None else len(self.labels) + 1) + 1

    def code(self, cells: Cells) -> IntArray:
        if self.edges is not None:
            values = numbers(cells, self.scale)
            return np.where(np.isnan(values), self.size - 1, np.searchsorted(self.edges, values, side="right"))
        strings = _as_strings(cells)
        per_label = [self.labels.get(str(u), len(self.labels)) for u in strings.uniques]
        return np.append(np.array(per_label, np.int64), self.size - 1)[strings.codes]

    def values(self, cells: Cells) -> FloatArray:
        return numbers(cells, self.scale)


def _scale(cells: Cells) -> Any:
    """The number line that a column lies on; None for labels. Strings of a CSV file are read where nearly all are numbers."""
    if isinstance(cells, Numbers):
        return "number"
    known = (cells.codes >= 0).sum()
    for scale in ("number", "datetime"):
        if known and (~np.isnan(numbers(cells, scale))).sum() >= 0.95 * known:
            return scale
    return None


def _as_strings(cells: Cells) -> Strings:
    if isinstance(cells, Strings):
        return cells
    uniques, codes = np.unique(cells.data, return_inverse=True)
    labels = np.array([f"{u:g}" for u in uniques], dtype=object)
    return Strings(np.where(np.isnan(cells.data), -1, codes).astype(np.int32), labels)


def _comparable(tables: Mapping[str, Mapping[str, Cells]], schema: Schema | None) -> tuple[list[str], tuple[str, ...]]:
    """Columns to compare, and those that are skipped: ids, identifiers, and labels that hardly ever repeat."""
    names: list[str] = []
    skipped: list[str] = []
    for name, cells in tables["real"].items():
        for which, table in tables.items():
            if name not in table:
                raise SchemaError(f"column {name!r} is missing in the {which} table")
        declared = schema[name] if schema is not None and name in schema else None
        is_id = declared is not None and (declared.kind == "id" or declared.role == "identifier")
        unique = isinstance(cells, Strings) and len(cells.uniques) > max(50, 0.5 * len(cells)) and _scale(cells) is None
        (skipped if is_id or unique else names).append(name)
    if not names:
        raise SchemaError("no column can be compared: all hold identifiers")
    return names, tuple(skipped)


def _shuffled(
    coded: Mapping[str, IntArray], values: Mapping[str, FloatArray], rng: np.random.Generator
) -> tuple[dict[str, IntArray], dict[str, FloatArray]]:
    """Each column in an order of its own."""
    orders = {name: rng.permutation(len(codes)) for name, codes in coded.items()}
    return {n: c[orders[n]] for n, c in coded.items()}, {n: v[orders[n]] for n, v in values.items()}


class _Comparison:
    """One coded table (`other`) against a base; every pair's table is counted once."""

    def __init__(
        self,
        base: str,
        other: str,
        coded: Mapping[str, Mapping[str, IntArray]],
        values: Mapping[str, Mapping[str, FloatArray]],
        sizes: Mapping[str, int],
    ) -> None:
        self.sizes, self.names = sizes, list(sizes)
        self.values = (values[base], values[other])
        sides = (coded[base], coded[other])
        self.one = {a: tuple(_shares(side[a], sizes[a]) for side in sides) for a in self.names}
        self.tv1 = {a: _tv(*shares) for a, shares in self.one.items()}
        self.tv2: dict[tuple[str, str], float] = {}
        self.association: dict[tuple[str, str], tuple[float, float]] = {}
        for a, b in itertools.combinations(self.names, 2):
            tables = [_shares(side[a] * sizes[b] + side[b], sizes[a] * sizes[b]) for side in sides]
            self.tv2[a, b] = _tv(*tables)
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
        real, other = (float(shares[-1]) for shares in self.one[name])
        return real, other

    def scores(self) -> Scores:
        moments = [m for m in map(self.moments, self.names) if m is not None and m[1][0] > 0]
        return Scores(
            tv1=_mean(self.tv1.values()),
            tv2=_mean(self.tv2.values()),
            mean=_mean(abs(m[0][0] - m[0][1]) / m[1][0] for m in moments),
            sd=_mean(abs(m[1][0] - m[1][1]) / m[1][0] for m in moments),
            missing=_mean(abs(r - s) for r, s in map(self.missing, self.names)),
            association=_mean(abs(r - s) for r, s in self.association.values()),
        )


def _column_scores(synthetic: _Comparison, ceiling: _Comparison) -> tuple[ColumnScore, ...]:
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


def _pair_scores(synthetic: _Comparison, ceiling: _Comparison) -> tuple[PairScore, ...]:
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


def _shares(codes: IntArray, size: int) -> FloatArray:
    return np.bincount(codes, minlength=size) / max(len(codes), 1)


def _tv(a: FloatArray, b: FloatArray) -> float:
    return 0.5 * float(np.abs(a - b).sum())


def _mean(values: Any) -> float:
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


def _quality(real: Any, synthetic: Any, names: list[str]) -> float:
    from dpsynth.adapters.sdv_quality import quality

    return quality(real, synthetic, names)
