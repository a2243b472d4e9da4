"""What a gate asks, and what it learns of the rows during the fit.

All of it is count-form: distances (L1, in units) between the rows' tables and those of the very table that a release will
write, and counts of groups. One unit moves such a distance by at most 1 whatever the table's size or number of cells, so a small
slice buys it to within a few units; it is divided by the noisy number of units afterwards. What is asked is fixed before a row
is looked at: by `Gate` and by the roles in the schema.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dpsynth.encode.codec import Codec
from dpsynth.gate.tables import by_column, chance, names_of_codes, queries, shuffled, table
from dpsynth.learn import Domain
from dpsynth.privacy.errors import PrivacyError
from dpsynth.privacy.source import Codes, FloatArray, IntArray
from dpsynth.privacy.table import PrivateTable
from dpsynth.split import GATE_PARTS, watched


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What a release must meet; fixed before the fit.

    max_tv1 / max_tv2: total variation distance, averaged over columns / pairs, that is allowed above the floor which chance alone
    puts between two samples of this size.  max_lost: share of the dependence that may be lost, over all pairs and in each watched
    one: 0 is as far from the rows as chance, 1 as far as independent columns are.
    pairs: pairs of columns to watch; None = those among the target and the sensitive columns.
    groups: columns whose groups, and the groups of each two, must not be missing from the output; None = the sensitive columns.
    max_shortfall: share of a group that may be missing.  min_group: share of the units from which on a group is watched.
    confidence: of the verdict, shared by the checks (Bonferroni).
    candidates: tables that are drawn from the model, of which the first that looks close enough is measured and released; more than one
    take a part of the gate's slice, the same whether the first or none looks so.
    """

    max_tv1: float = 0.05
    max_tv2: float = 0.10
    max_lost: float = 0.5
    pairs: tuple[tuple[str, str], ...] | None = None
    groups: tuple[str, ...] | None = None
    max_shortfall: float = 0.25
    min_group: float = 0.05
    confidence: float = 0.95
    candidates: int = 1

    def __post_init__(self) -> None:
        if not (0 < self.max_tv1 <= 1 and 0 < self.max_tv2 <= 1 and 0.5 < self.confidence < 1):
            raise PrivacyError("gate: max_tv1 and max_tv2 lie in (0, 1], confidence in (0.5, 1)")
        if not all(0 < x < 1 for x in (self.max_lost, self.max_shortfall, self.min_group)):
            raise PrivacyError("gate: max_lost, max_shortfall and min_group lie in (0, 1)")
        if isinstance(self.candidates, bool) or not isinstance(self.candidates, int) or not 1 <= self.candidates <= 100:
            raise PrivacyError("gate: candidates is a whole number from 1 to 100")
        if self.pairs is not None:
            object.__setattr__(self, "pairs", tuple((str(a), str(b)) for a, b in self.pairs))
            if any(a == b for a, b in self.pairs):
                raise PrivacyError("gate: a pair to watch is one of two columns")
        if self.groups is not None:
            object.__setattr__(self, "groups", tuple(map(str, self.groups)))

    @property
    def names(self) -> frozenset[str]:
        """Columns that are asked for by name."""
        return frozenset(itertools.chain(self.groups or (), *(self.pairs or ())))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairMeasured:
    """A watched pair: noisy TVD between the rows and the reference table (tv), and its columns shuffled (independent)."""

    first: str
    second: str
    tv: float
    independent: float
    floor: float
    sigma: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupsMeasured:
    """Noisy numbers of units in the groups that one or two columns make, flat in C order of their codes."""

    columns: tuple[str, ...]
    names: tuple[str, ...]
    units: tuple[float, ...]
    sigma: float


@dataclass(frozen=True, kw_only=True, slots=True)
class GateMeasurement:
    """What the slice bought of the rows, against the reference table; all under DP.

    tv1 / tv2: TVD of each column's table / mean TVD of its tables with each other column (with some, where there are many).
    sigma: noise sd of each value.  independent: mean TVD of all pairs from the reference table with each column shuffled, with its
    own sd.  floor1 / floor2: what chance alone would give, from the synthetic table.  units: noisy number of units.
    unwatched: columns that were to be watched but are not modelled.
    candidate: which of the gate's candidates was measured, from 1; 0 where none looked close enough, and the last was.
    """

    gate: Gate
    columns: tuple[str, ...]
    tv1: tuple[float, ...]
    tv2: tuple[float, ...]
    sigma: float
    independent: float
    independent_sigma: float
    floor1: float
    floor2: float
    units: float
    pairs: tuple[PairMeasured, ...] = ()
    groups: tuple[GroupsMeasured, ...] = ()
    unwatched: tuple[str, ...] = ()
    candidate: int = 1

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, obj: dict[str, Any]) -> GateMeasurement:
        body: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in obj.items()}
        body["gate"] = Gate(**obj["gate"])
        body["pairs"] = tuple(PairMeasured(**p) for p in obj["pairs"])
        body["groups"] = tuple(
            GroupsMeasured(
                columns=tuple(g["columns"]), names=tuple(g["names"]), units=tuple(g["units"]), sigma=g["sigma"]
            )
            for g in obj["groups"]
        )
        return cls(**body)


def measure(
    rows: PrivateTable, domain: Domain, reference: IntArray, weights: FloatArray, gate: Gate, mu_squared: float
) -> GateMeasurement:
    """Spend the gate's slice.

    reference: coded rows of the table that will be released, shape (n, columns).  weights: units that each row stands for,
    shape (n,), adding up to the noisy number of units.
    """
    asking = _Asking(rows, domain.codecs, reference, weights)
    modelled = [f.column for f in domain.facts if f.codec is not None and f.treatment == "modelled"]
    pairs, groups, unwatched = watched(modelled, gate)
    several = len(asking.codecs) > 1
    asked = {"independent": several, "pairs": bool(pairs), "groups": bool(groups)}
    part = {name: GATE_PARTS[name] * mu_squared * needed for name, needed in asked.items()}
    independent, independent_sigma = asking.independent(part["independent"]) if several else (0.0, 0.0)
    of_pairs = tuple(asking.pairs(pairs, part["pairs"]))
    counted = tuple(asking.groups(groups, part["groups"]))
    values, sigma, floors = asking.distances(mu_squared - math.fsum(part.values()))
    d = len(asking.codecs)
    return GateMeasurement(
        gate=gate,
        columns=tuple(c.column for c in asking.codecs),
        tv1=tuple(values[:d].tolist()),
        tv2=tuple(values[d:].tolist()),
        sigma=sigma,
        independent=independent,
        independent_sigma=independent_sigma,
        floor1=float(np.mean(floors[:d])),
        floor2=float(np.mean(floors[d:])) if several else 0.0,
        units=asking.n,
        pairs=of_pairs,
        groups=counted,
        unwatched=unwatched,
    )


class _Asking:
    """The questions of one gate, against one reference table."""

    def __init__(self, rows: PrivateTable, codecs: Sequence[Codec], reference: IntArray, weights: FloatArray) -> None:
        self.rows, self.codecs, self.reference, self.weights = rows, tuple(codecs), by_column(reference), weights
        self.n = float(weights.sum())
        self.at = {c.column: i for i, c in enumerate(self.codecs)}
        self.shuffled = shuffled(self.reference)

    def coding(self, query: Iterable[int]) -> list[Codec]:
        return [self.codecs[a] for a in query]

    def tables(self, rows: Codes, asked: Iterable[Sequence[int]]) -> Iterator[FloatArray]:
        for query in asked:
            yield table(self.codecs, rows, self.weights, query)

    def distances(self, mu_squared: float) -> tuple[FloatArray, float, list[float]]:
        """(TVD of each column, then of each column's pairs on average; their sd; chance of each query)."""
        from scipy.sparse import coo_array

        d, asked = len(self.codecs), queries(len(self.codecs))
        partners = max(2 * (len(asked) - d) // d, 1)
        # d answers on columns, weighted to count as much as the d sums over the pairs with each of a column's partners.
        entries = [(a, a, partners) for a in range(d)]
        entries += [(d + a, i, 1) for i, q in enumerate(asked) if len(q) == 2 for a in q]
        places, columns, weights = np.array(entries, np.int64).T
        floors: list[float] = []

        def with_chance() -> Iterator[FloatArray]:
            for counts in self.tables(self.reference, asked):
                floors.append(chance(counts))
                yield counts

        measured = self.rows.distances(
            [self.coding(query) for query in asked],
            with_chance(),
            weights=coo_array((weights, (places, columns)), shape=(d if d == 1 else 2 * d, len(asked))).tocsr(),
            mu_squared=mu_squared,
            stage="gate",
            label="distances of columns and pairs from the synthetic table",
        )
        to_tv = 1 / (2 * self.n * partners)
        return measured.values * to_tv, measured.sigma * to_tv, floors

    def independent(self, mu_squared: float) -> tuple[float, float]:
        """Mean TVD of all pairs from a table of the same columns without dependence, and its sd."""
        asked = queries(len(self.codecs))[len(self.codecs) :]
        measured = self.rows.distances(
            [self.coding(query) for query in asked],
            self.tables(self.shuffled, asked),
            weights=np.ones((1, len(asked)), np.int64),
            mu_squared=mu_squared,
            stage="gate",
            label="distance of pairs from independent columns",
        )
        to_tv = 1 / (2 * self.n * len(asked))
        return float(measured.values[0]) * to_tv, measured.sigma * to_tv

    def pairs(self, pairs: Sequence[tuple[str, str]], mu_squared: float) -> Iterator[PairMeasured]:
        if not pairs:
            return
        asked = [(self.at[a], self.at[b]) for a, b in pairs]
        measured = self.rows.distances(
            [self.coding(query) for query in (*asked, *asked)],
            itertools.chain(self.tables(self.reference, asked), self.tables(self.shuffled, asked)),
            weights=np.eye(2 * len(asked), dtype=np.int64),
            mu_squared=mu_squared,
            stage="gate",
            label="distances of watched pairs",
        )
        to_tv = 1 / (2 * self.n)
        values = (measured.values * to_tv).tolist()
        floors = map(chance, self.tables(self.reference, asked))
        for (a, b), tv, apart, floor in zip(pairs, values, values[len(pairs) :], floors, strict=False):
            yield PairMeasured(first=a, second=b, tv=tv, independent=apart, floor=floor, sigma=measured.sigma * to_tv)

    def groups(self, groups: Sequence[tuple[str, ...]], mu_squared: float) -> Iterator[GroupsMeasured]:
        if not groups:
            return
        coded = [self.coding(self.at[name] for name in names) for names in groups]
        labels = [f"groups of {' x '.join(names)}" for names in groups]
        measured = self.rows.counts(coded, mu_squared=mu_squared, stage="gate", labels=labels)
        for names, codecs, counts in zip(groups, coded, measured, strict=True):
            each = itertools.product(*map(names_of_codes, codecs))
            yield GroupsMeasured(
                columns=names,
                names=tuple(" and ".join(parts) for parts in each),
                units=tuple(counts.values.tolist()),
                sigma=counts.sigma,
            )
