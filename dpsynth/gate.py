"""The fidelity gate: is the synthetic table close enough to the rows to be released?

What it decides from is measured once, during the fit, with a reserved slice of the budget: the distances (L1, in units)
between the rows' one- and two-column tables and those of the very table that a release will write. One unit moves a
distance by at most 1 whatever the table's size, so the slice buys the distances to within a few units. Judging a table
afterwards reads no private row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dpsynth.encode.codec import Codec
from dpsynth.enforce import Rules, violations
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.source import FloatArray, IntArray
from dpsynth.privacy.table import PrivateTable
from dpsynth.sources import read
from dpsynth.split import pairs_looked_at

if TYPE_CHECKING:
    import pandas as pd

    from dpsynth.synthesizer import Synthesizer

Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What a release must meet.

    max_tv1 / max_tv2: total variation distance, averaged over columns / pairs, that is allowed above the floor which chance alone
    puts between two samples of this size.  confidence: of the verdict, shared by the checks (Bonferroni).
    """

    max_tv1: float = 0.05
    max_tv2: float = 0.10
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not (0 < self.max_tv1 <= 1 and 0 < self.max_tv2 <= 1 and 0.5 < self.confidence < 1):
            raise PrivacyError("gate: max_tv1 and max_tv2 lie in (0, 1], confidence in (0.5, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class GateMeasurement:
    """What the slice bought: noisy distances between the rows and the reference table, by column.

    tv1 / tv2: TVD of the column's table / mean TVD of its tables with each other column (with some, where there are many).  sigma: noise sd of each value.
    floor1 / floor2: what chance alone would give, from the synthetic table.  All under DP.
    """

    gate: Gate
    columns: tuple[str, ...]
    tv1: tuple[float, ...]
    tv2: tuple[float, ...]
    sigma: float
    floor1: float
    floor2: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> GateMeasurement:
        body: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in obj.items() if k != "gate"}
        return cls(gate=Gate(**obj["gate"]), **body)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check: a value with its confidence interval against a threshold."""

    name: str
    value: float
    low: float
    high: float
    threshold: float
    verdict: Verdict
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnCheck:
    """Distances of one column, with the sd of their noise."""

    name: str
    tv1: float
    tv2: float
    noise: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GateReport:
    """The verdict on one synthetic table. Shareable: made of DP measurements and the synthetic table alone."""

    verdict: Verdict
    checks: tuple[Check, ...]
    columns: tuple[ColumnCheck, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    table: PrivateTable,
    codecs: Sequence[Codec],
    reference: IntArray,
    weights: FloatArray,
    gate: Gate,
    mu_squared: float,
) -> GateMeasurement:
    """Spend the gate's slice.

    reference: coded rows of the table that will be released, shape (n, columns).  weights: units that each row stands for,
    shape (n,), adding up to the noisy number of units.
    """
    from scipy.sparse import coo_array

    d = len(codecs)
    queries = _queries(d)
    partners = max(2 * (len(queries) - d) // d, 1)
    # d answers on columns, weighted to count as much as the d sums over the pairs with each of a column's partners.
    asked = [(a, a, partners) for a in range(d)] + [
        (d + a, i, 1) for i, q in enumerate(queries) if len(q) == 2 for a in q
    ]
    rows, columns, entries = np.array(asked, np.int64).T
    floors: list[float] = []

    def tables() -> Iterator[FloatArray]:
        for query in queries:
            counts = _table(codecs, reference, weights, query)
            floors.append(0.5 * math.sqrt(2 / math.pi) * float(np.sqrt(counts).sum()) / n)
            yield counts

    n = float(weights.sum())
    measured = table.distances(
        [[codecs[a] for a in query] for query in queries],
        tables(),
        weights=coo_array((entries, (rows, columns)), shape=(d if d == 1 else 2 * d, len(queries))).tocsr(),
        mu_squared=mu_squared,
        stage="gate",
        label="distances of columns and pairs from the synthetic table",
    )
    to_tv = 1 / (2 * n * partners)
    values = measured.values * to_tv
    return GateMeasurement(
        gate=gate,
        columns=tuple(c.column for c in codecs),
        tv1=tuple(values[:d].tolist()),
        tv2=tuple(values[d:].tolist()),
        sigma=measured.sigma * to_tv,
        floor1=float(np.mean(floors[:d])),
        floor2=float(np.mean(floors[d:])) if d > 1 else 0.0,
    )


def judge(synth: Synthesizer, table: pd.DataFrame) -> GateReport:
    """The verdict on a synthetic table: passes only where the whole confidence interval does.

    Reads the synthetic table and what was measured during the fit; no private row. A table other than the one that was
    measured is held to the distance between the two on top (triangle inequality).
    """
    from scipy.special import ndtri

    m = synth.gate
    d = len(m.columns)
    drift1, drift2 = synth.drift(table)
    checks = []
    z = -float(ndtri((1 - m.gate.confidence) / (2 if m.tv2 else 1)))
    for name, values, allowed, floor, drift in (
        ("columns: mean 1-way TVD", m.tv1, m.gate.max_tv1, m.floor1, drift1),
        ("pairs: mean 2-way TVD", m.tv2, m.gate.max_tv2, m.floor2, drift2),
    ):
        if values:
            margin = z * m.sigma / math.sqrt(d) + drift
            checks.append(_check(name, float(np.mean(values)), margin, allowed + floor, floor))
    checks.append(_leak_check(table))
    if synth.domain.rules.constraints and len(table):
        checks.append(_constraint_check(synth.domain.rules, table))
    verdicts = [c.verdict for c in checks]
    verdict: Verdict = "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"
    pairs = m.tv2 or (0.0,) * d
    columns = tuple(
        ColumnCheck(name=name, tv1=tv1, tv2=tv2, noise=m.sigma)
        for name, tv1, tv2 in zip(m.columns, m.tv1, pairs, strict=True)
        if not name.startswith("\x00")
    )
    return GateReport(verdict=verdict, checks=tuple(checks), columns=columns)


def _check(name: str, value: float, margin: float, threshold: float, floor: float) -> Check:
    low, high = max(value - margin, 0.0), value + margin
    verdict: Verdict = "pass" if high <= threshold else "fail" if low > threshold else "inconclusive"
    detail = f"{value:.3f} (at most {high:.3f}); allowed {threshold:.3f}, of which chance alone makes {floor:.3f}"
    return Check(name=name, value=value, low=low, high=high, threshold=threshold, verdict=verdict, detail=detail)


def _leak_check(table: pd.DataFrame) -> Check:
    """No valid identifier outside the reserved ranges of the fakes. Looks at the synthetic table alone."""
    from dpsynth.privacy.pii import find_leaks

    found = find_leaks(map(str, table.columns))
    for name in table.columns:
        if table[name].dtype == object or str(table[name].dtype) in ("category", "string", "str"):
            for entity, count in find_leaks(str(v) for v in table[name].dropna().unique()).items():
                found[entity] = found.get(entity, 0) + count
    total = float(sum(found.values()))
    kinds = ", ".join(f"{count} {entity}" for entity, count in sorted(found.items())) or "none"
    return Check(
        name="identifiers in the output",
        value=total,
        low=total,
        high=total,
        threshold=0.0,
        verdict="fail" if total else "pass",
        detail=f"valid identifiers outside reserved ranges: {kinds}",
    )


def _constraint_check(rules: Rules, table: pd.DataFrame) -> Check:
    """No row that breaks a declared constraint. Looks at the synthetic table alone."""
    broken = {rule: count for rule, count in violations(rules, read(table).cells).items() if count}
    total = float(sum(broken.values()))
    return Check(
        name="declared constraints",
        value=total,
        low=total,
        high=total,
        threshold=0.0,
        verdict="fail" if total else "pass",
        detail="rows that break one: " + (", ".join(f"{n} of {rule}" for rule, n in broken.items()) or "none"),
    )


def _table(codecs: Sequence[Codec], rows: IntArray, weights: FloatArray, query: tuple[int, ...]) -> FloatArray:
    flat = np.zeros(len(rows), np.int64)
    for a in query:
        flat = flat * codecs[a].size + rows[:, a]
    return np.bincount(flat, weights=weights, minlength=math.prod(codecs[a].size for a in query)).astype(np.float64)


def drift(
    codecs: Sequence[Codec], first: IntArray, second: IntArray, weights: tuple[FloatArray, FloatArray]
) -> tuple[float, float]:
    """Mean 1-way and 2-way TVD between two coded synthetic tables."""
    d = len(codecs)

    def mean(queries: list[tuple[int, ...]]) -> float:
        return float(np.mean([_distance(codecs, first, second, weights, q) for q in queries])) if queries else 0.0

    queries = _queries(d)
    return mean(queries[:d]), mean(queries[d:])


def _queries(d: int) -> list[tuple[int, ...]]:
    """The columns, then the pairs that are looked at: others than those that the model was selected from, where not all are."""
    return [*((a,) for a in range(d)), *pairs_looked_at(d, seed=1)]


def _distance(
    codecs: Sequence[Codec],
    first: IntArray,
    second: IntArray,
    weights: tuple[FloatArray, FloatArray],
    query: tuple[int, ...],
) -> float:
    a, b = (_table(codecs, rows, w, query) for rows, w in zip((first, second), weights, strict=True))
    return 0.5 * float(np.abs(a / a.sum() - b / b.sum()).sum())
