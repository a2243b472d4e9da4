"""What the columns are: from a source and a (partial) schema to codes, under DP.

    identifiers   noisy votes of the PII detector: which columns are dropped and regenerated, which are scrubbed
    schema        noisy histograms over fixed grids: kind, decimals, range
    vocabulary    stability histograms: categories, frequent values
    mappings      which value of one column goes with which of another, where that is declared to be so but not how
    one-way       the histogram of each column over its fine cells

A fact that the schema declares is taken from there and costs nothing. Everything else comes out of a noisy answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np

from dpsynth.conclusions import (
    as_numbers,
    declared_range,
    filled_in,
    kind_of,
    precise_mean,
    step_of,
    together,
    total_of,
    without_identifiers,
)
from dpsynth.constraints import Constraint, Determines, in_order
from dpsynth.declared import BY_SCHEMA, declared, is_declared, may_be_numbered, needs_votes
from dpsynth.encode.cells import FineCells, LabelCells, LineCells
from dpsynth.encode.codec import Codec
from dpsynth.encode.from_counts import codec_from
from dpsynth.encode.grid import (
    MAX_INTERVALS,
    OVER_BUCKETS,
    decades,
    groups_worth,
    intervals,
    intervals_worth,
    occupied_span,
    sentinels,
)
from dpsynth.encode.questions import Classifier, FormOf, IdentifierIn, RangeOf, StepOf
from dpsynth.enforce import SCALES, Rules, cuts, made_column
from dpsynth.mapping import learned
from dpsynth.models.protocol import Steps
from dpsynth.privacy.errors import SchemaError
from dpsynth.privacy.pii import (
    CELL_CLASSES,
    LOOKED_AT,
    NUMBERS_LOOKED_AT,
    Decision,
    Holds,
    NumberForms,
    are_long,
    decide,
    made_up_labels,
    repeats,
)
from dpsynth.privacy.source import ROWS_PER_UNIT, Coding, FloatArray
from dpsynth.privacy.table import Measurement, PrivateTable, Vocabulary
from dpsynth.schema import Column, Kind, Schema
from dpsynth.sources import SourceColumn
from dpsynth.split import COUNTED_PART, Split
from dpsynth.values import as_label

Treatment = Literal["modelled", "scrubbed text", "fake", "id", "unit id", "determined"]

# Intervals of a number line whose dependents are to be found.
MAPPED_INTERVALS = 64
# An integer column spanning at most this many values gets a cell for each.
WHOLE = 512
# Of the price of the votes on strings, what those on long numbers cost, where a table has some: nearly all of them must agree.
NUMBERS_PART = 0.3
# Of the identifiers' share, what the numbers of different values cost, which tell labels from texts.
DISTINCT_PART = 0.3
# So many standard deviations of noise above a count there is hardly ever more.
SURE = 3.0
# A second look for categories is worth its price where more than this share of the rows is left without one.
FEW = 0.02
# Share of the texts of a declared text column that are dropped where they are in a language that is not read; more stop the run.
STRAYS = 0.02
# Of its price, what is spent where no such column is.
UNNEEDED = 0.2
# A group of a number line holds this share of the units at least, or as many as the noise of a pair's table makes up.
LEAST_SHARE = 0.002
# Of the schema stage's share for a column: what its form and its step get where they are asked; its range gets the rest.
FORM_PART, STEP_PART = 0.1, 0.15


class Detector(Classifier, Protocol):
    """The PII detector, as far as learning needs it."""

    def scrub(self, texts: Sequence[str], *, drop_unread: float = 0.0) -> list[str]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnFacts:
    """What became of one column. All of it is public, declared or bought.

    column: its facts, filled in.  treatment: how its synthetic values are made.  reason: why, in words.
    codec: how it is coded, where it is modelled.
    """

    column: Column
    treatment: Treatment
    reason: str
    codec: Codec | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no value of the column is known, nor that it has texts, so that all its cells are missing."""
        if self.codec is None or not isinstance(self.codec.cells, LabelCells) or self.codec.cells.labels:
            return False
        told = self.treatment == "scrubbed text" and self.codec.shares[self.codec.cells.other] > 0
        return self.treatment in ("modelled", "scrubbed text") and not told


@dataclass(frozen=True, kw_only=True, slots=True)
class Domain:
    """The columns in the table's order, and what was measured of them one by one.

    histograms: noisy counts over the *groups* of each codec (the model's codes), by column; includes ROWS_PER_UNIT.
    rows_codec: codec of the number of rows per unit, where there is a unit.  n_units / n_rows: noisy totals.
    rules: the declared constraints, with every mapping known, on these columns.
    """

    facts: tuple[ColumnFacts, ...]
    histograms: Mapping[str, Measurement]
    rows_codec: Codec | None
    n_units: float
    n_rows: int
    rules: Rules

    @property
    def codecs(self) -> tuple[Codec, ...]:
        """Codecs of what the model sees, in order; rows per unit last."""
        modelled = tuple(f.codec for f in self.facts if f.codec is not None)
        return modelled + ((self.rows_codec,) if self.rows_codec else ())

    @property
    def schema(self) -> Schema:
        return Schema.learned((f.column for f in self.facts), self.rules.constraints)


def learn(
    table: PrivateTable,
    sources: Sequence[SourceColumn],
    schema: Schema | None,
    *,
    split: Split,
    detector: Detector | None,
    key: str,
    progress: Steps,
    written: bool = False,
) -> Domain:
    """Fill in what the schema leaves open. detector: needed where a string column's kind is not declared.  written: whether a language
    model will write texts, which takes scrubbed ones and a part of the budget."""
    learner = _Learner(table, split, detector, key, progress, schema.constraints if schema is not None else (), written)
    learner.reasons = {s.name: BY_SCHEMA for s in sources if is_declared(s, schema)}
    voted_on = [s.name for s in sources if s.name != table.unit and needs_votes(s, schema)]
    numbers = [s.name for s in sources if s.name != table.unit and may_be_numbered(s, schema)]
    return learner.run([declared(source, schema) for source in sources], voted_on, numbers)


class _Learner:
    """One run of the four stages. Holds what each has found so far; every value in it is public or noisy."""

    def __init__(
        self,
        table: PrivateTable,
        split: Split,
        detector: Detector | None,
        key: str,
        progress: Steps,
        constraints: tuple[Constraint, ...],
        written: bool,
    ) -> None:
        self.written = written
        self.constraints = constraints
        self.table, self.split, self.detector, self.key, self.progress = table, split, detector, key, progress
        self.total = table.account.reserved.mu_squared
        self.reasons: dict[str, str] = {}
        self.treatments: dict[str, Treatment] = {}
        self.distinct: dict[str, float] = {}
        self.of_people: set[str] = set()  # columns of labels that are names for the most part
        self.ranges: dict[str, tuple[FloatArray, FloatArray]] = {}
        self.steps: dict[str, float | None] = {}
        self.vocabularies: dict[str, Vocabulary] = {}
        self.guessed: dict[str, set[float]] = {}
        self.totals: list[tuple[float, float]] = []  # noisy counts of all units, and their variances
        self.known: dict[str, float] = {}  # units whose cell is not missing
        self.unclear: set[str] = set()  # columns whose kind noise hides

    def run(self, columns: list[Column], voted_on: Sequence[str], numbers: Sequence[str]) -> Domain:
        columns = [self._unit(c) if c.name == self.table.unit else c for c in columns]
        self._follow(self.constraints)
        columns = self._identifiers(columns, voted_on)
        columns = self._schema(columns)
        if self.written:
            self._scrub(columns)
        columns = self._numbers(columns, numbers)
        columns = self._vocabulary(columns)
        self._mappings({c.name: c for c in columns})
        return self._one_way(columns)

    def _open(self, columns: list[Column]) -> list[Column]:
        """Columns that are to be modelled."""
        return [c for c in columns if self.treatments.get(c.name) not in ("fake", "id", "unit id", "determined")]

    def _follow(self, constraints: Sequence[Constraint]) -> None:
        """Columns that are made from others, by a rule that is known, are not looked at."""
        for making in in_order(constraints):
            if not isinstance(making, Determines) or making.pairs:
                self.treatments[making.result], self.reasons[making.result] = "determined", str(making)

    def _unit(self, column: Column) -> Column:
        self.treatments[column.name] = "unit id"
        self.reasons[column.name] = "names the privacy unit; replaced by surrogate ids"
        return replace(column, kind="id", bounds=None, categories=None, integer=None, decimals=None, nullable=False)

    # -- identifiers ---------------------------------------------------------------------------------------------------

    def _identifiers(self, columns: list[Column], voted_on: Sequence[str]) -> list[Column]:
        for c in columns:
            if c.role == "identifier" and c.name not in self.treatments:
                self.treatments[c.name], self.reasons[c.name] = "fake", "declared an identifier"
            elif c.kind == "id" and c.name not in self.treatments:
                self.treatments[c.name], self.reasons[c.name] = "id", "declared an id; regenerated"
        open_names = [c.name for c in self._open(columns) if c.name in voted_on]
        if open_names:
            columns = self._vote(columns, open_names)
        self._scrub(columns)
        return columns

    def _scrub(self, columns: list[Column]) -> None:
        texts = [c.name for c in self._open(columns) if c.kind == "text" and c.name not in self.treatments]
        if texts:
            self.progress.stage("scrubbing text", len(texts))
        for name in texts:
            self.treatments[name] = "scrubbed text"
            # A stray text in another language is dropped, for it must not stop the run. On a column of them the votes have stopped.
            most = 1.0 if name in self.distinct else STRAYS
            scrub = partial(self._need_detector(name).scrub, drop_unread=most)
            self.table.rewrite(name, scrub)
            self.progress.advance()

    def _need_detector(self, name: str) -> Detector:
        if self.detector is None:
            raise SchemaError(f"column {name!r} holds strings of no declared kind, so the PII detector must look at it")
        return self.detector

    def _vote(self, columns: list[Column], names: list[str]) -> list[Column]:
        self.progress.stage("looking for identifiers", len(names))
        share = self.split.identifiers * self.total
        counted = self.table.distinct(names, mu_squared=DISTINCT_PART * share, stage="identifiers")
        self.distinct = {name: float(m.values[0]) for name, m in zip(names, counted, strict=True)}
        for name, different in zip(names, counted, strict=True):
            rate = LOOKED_AT / max(self.distinct[name], 1.0)
            votes, sigma = self._votes_on(
                name, self._need_detector(name), rate, (1 - DISTINCT_PART) * share / len(names)
            )
            at_most = float(different.values[0]) + SURE * different.sigma
            labels = repeats(at_most, sum(votes.values()))
            is_open = next(c.kind for c in columns if c.name == name) is None
            holds: Holds = "numbers" if not is_open else "labels" if labels else "texts"
            decision = decide(name, votes, sigma, holds=holds)
            self.reasons[name] = decision.reason
            if decision.action == "drop":
                columns = self._dropped(columns, name, decision)
            elif decision.labels or decision.action == "scrub":
                kind: Kind = "categorical" if decision.labels else "text"
                if decision.entity is not None:
                    self.of_people.add(name)
                columns = [replace(c, kind=kind) if c.name == name else c for c in columns]
            self.progress.advance()
        return columns

    def _votes_on(
        self, name: str, classifier: Classifier, rate: float, mu_squared: float
    ) -> tuple[dict[str, float], float]:
        """(noisy counts of each class of cells, of those that were not looked at and of missing ones; their noise)."""
        coding = IdentifierIn(name, classifier, len(CELL_CLASSES), min(1.0, rate), self.key)
        (votes,) = self.table.counts(
            [[coding]], mu_squared=mu_squared, stage="identifiers", labels=[f"votes on {name}"]
        )
        classes = (*CELL_CLASSES, "not looked at", "missing")
        return dict(zip(classes, votes.values.tolist(), strict=True)), votes.sigma

    def _dropped(self, columns: list[Column], name: str, decision: Decision) -> list[Column]:
        self.treatments[name] = "fake"
        update: dict[str, Any] = {"role": "identifier", "entity": decision.entity, "nullable": False}
        update |= {"kind": None, "integer": None, "decimals": None}  # a fake is written as a string
        return [replace(c, **update) if c.name == name else c for c in columns]

    def _numbers(self, columns: list[Column], names: Sequence[str]) -> list[Column]:
        """Vote on columns of long numbers whose names say nothing; the ranges that were bought tell which those are."""
        long = [c.name for c in self._open(columns) if c.name in names and are_long(*self.ranges[c.name])]
        for name in long:
            cells = max(float(self.ranges[name][1].sum()), 1.0)
            each = NUMBERS_PART * self.split.identifiers * self.total / len(long)
            votes, sigma = self._votes_on(name, NumberForms(), NUMBERS_LOOKED_AT / cells, each)
            decision = decide(name, votes, sigma, holds="numbers")
            self.reasons[name] = decision.reason
            if decision.action == "drop":
                columns = self._dropped(columns, name, decision)
        return columns

    # -- schema --------------------------------------------------------------------------------------------------------

    def _schema(self, columns: list[Column]) -> list[Column]:
        self.progress.stage("learning the schema")
        unknown = [c for c in self._open(columns) if c.kind is None]
        each = self.split.schema * self.total / max(len(self._open(columns)), 1)
        forms = self._ask([FormOf(c.name) for c in unknown], "form", FORM_PART * each)
        seen = {c.name: kind_of(m) for c, m in zip(unknown, forms, strict=True)}
        self.unclear = {name for name, kind in seen.items() if kind is None}
        kinds: dict[str, Kind] = {name: kind or "categorical" for name, kind in seen.items()}  # nothing is made up
        self.known = {c.name: float(m.values[1:].sum()) for c, m in zip(unknown, forms, strict=True)}
        columns = [replace(c, kind=kinds[c.name]) if c.name in kinds else c for c in columns]
        lines = [c for c in self._open(columns) if c.kind in SCALES]
        stepless = [c for c in lines if not c.integer and c.decimals is None]
        for c, m in zip(
            stepless,
            self._ask([StepOf(c.name, SCALES[c.kind]) for c in stepless], "step", STEP_PART * each),
            strict=True,
        ):
            self.steps[c.name] = step_of(m, SCALES[c.kind])
        for c in lines:
            if c.bounds is None:
                asked = FORM_PART * (c.name in kinds) + STEP_PART * (c.name in self.steps)
                self.ranges[c.name] = self._range(RangeOf(c.name, SCALES[c.kind]), (1 - asked) * each)
            else:
                self.ranges[c.name] = declared_range(c, self._step_of(c))
        return columns

    def _range(self, grid: RangeOf, mu_squared: float) -> tuple[FloatArray, FloatArray]:
        """Edges of the buckets that look occupied, from the first to the last, and their noisy counts."""
        (m,) = self._ask([grid], "range", mu_squared)
        counts = m.values[:-1]
        top = int(np.argmax(counts))  # where nothing is seen
        first, last = occupied_span(counts, m.sigma, growth=OVER_BUCKETS, likely=grid.likely) or (top, top + 1)
        return grid.edges[first : last + 1], counts[first:last]

    def _ask(self, codings: Sequence[Coding], what: str, each: float) -> list[Measurement]:
        if not codings:
            return []
        labels = [f"{what} of {c.column}" for c in codings]
        found = self.table.counts([[c] for c in codings], mu_squared=each * len(codings), stage="schema", labels=labels)
        self.totals += [total_of(m) for m in found if len(m.values) < 16]
        return found

    def _step_of(self, column: Column) -> float | None:
        if column.integer:
            return 1.0
        if column.decimals is not None:
            return 10.0**-column.decimals
        return self.steps.get(column.name)

    # -- vocabulary ----------------------------------------------------------------------------------------------------

    def _vocabulary(self, columns: list[Column]) -> list[Column]:
        needing = [c for c in self._open(columns) if self._needs_vocabulary(c)]
        asked, strings = [c.name for c in needing], sum(c.kind in ("categorical", "text") for c in needing)
        share = self.split.vocabulary_of(strings, len(asked) - strings)
        self.progress.stage("finding frequent values", len(asked))
        again = [c.name for c in needing if c.kind == "categorical" and c.name in self.known]
        delta = self.table.account.reserved.delta * (1 - 1e-9) / (2 if again else 1)
        self._look(asked, share * self.total, delta, "vocabulary")
        if again:  # where nothing is lacking, delta is spent on a little more precision
            lacking = [name for name in again if self._lacks_values(name)]
            share = self.split.rare_values if lacking else UNNEEDED * self.split.rare_values
            self._look(lacking or again, share * self.total, delta, "rare-values")
        for c in needing:
            if c.name in self.distinct and self.treatments.get(c.name) != "scrubbed text":
                self._make_up_labels(c.name)
        for c in self._open(columns):
            found = self.vocabularies.get(c.name)
            if c.name in self.unclear or c.kind != "categorical" or found is None or found.values:
                continue
            if self.distinct.get(c.name, 0) > LOOKED_AT:
                self.treatments[c.name] = "id"
                self.reasons[c.name] = "nearly all values differ; regenerated as ids"
                columns = [replace(o, kind="id") if o.name == c.name else o for o in columns]
        return columns

    def _look(self, names: list[str], mu_squared: float, delta: float, stage: str) -> None:
        """Buy the frequent values of columns; what a second look finds is added to the first's."""
        for name in names:
            found = self.table.vocabulary(
                name, mu_squared=mu_squared / len(names), delta=delta / len(names), stage=stage
            )
            self.vocabularies[name] = together(self.vocabularies.get(name), without_identifiers(found))
            self.progress.advance()

    def _make_up_labels(self, name: str) -> None:
        """Replace frequent values that are identifiers by made-up ones, in the rows too, so that no model sees them.

        Free: what the values are was bought, and a row's cell is replaced by a function of that cell alone.
        """
        found = self.vocabularies[name]
        labels = [v for v in found.values if isinstance(v, str)]
        rng = np.random.default_rng(list(self.key.encode()))
        made = made_up_labels(labels, name, self._need_detector(name), rng, of_people=name in self.of_people)
        if not made:
            return
        self.table.rewrite(name, lambda cells: [made.get(cell, cell) for cell in cells])
        self.vocabularies[name] = replace(
            found, values=tuple(made.get(v, v) if isinstance(v, str) else v for v in found.values)
        )
        self.reasons[name] += f"; {len(made)} of its labels were identifiers or read like names, and are made up"

    def _lacks_values(self, name: str) -> bool:
        """Whether many rows hold values that were not found."""
        found, known = self.vocabularies[name], self.known[name]
        noise = found.sigma * math.sqrt(len(found.values) + 1)
        return known - float(found.counts.sum()) > max(4 * noise, FEW * known)

    def _needs_vocabulary(self, column: Column) -> bool:
        if column.kind in ("categorical", "text"):
            return column.categories is None
        if column.kind == "boolean":
            return False
        edges, _ = self.ranges[column.name]
        step = self._step_of(column)
        return step is None or (edges[-1] - edges[0]) / step > WHOLE

    # -- mappings ------------------------------------------------------------------------------------------------------

    def _mappings(self, columns: Mapping[str, Column]) -> None:
        """Buy the mappings that were not declared; the dependent columns then follow from the others."""
        open_ones = [c for c in self.constraints if isinstance(c, Determines) and not c.pairs]
        if not open_ones:
            return
        self.progress.stage("finding what follows from what", len(open_ones))
        each = self.split.mappings * self.total / len(open_ones)
        found: dict[Constraint, Constraint] = {}
        for c in open_ones:
            by, dependent = (self._cells(columns[name], MAPPED_INTERVALS) for name in c.columns)
            found[c] = learned(self.table, c, by, dependent, mu_squared=each)
            self.progress.advance()
        self.constraints = tuple(found.get(c, c) for c in self.constraints)
        self._follow(self.constraints)

    # -- one-way -------------------------------------------------------------------------------------------------------

    def _one_way(self, columns: list[Column]) -> Domain:
        modelled = self._open(columns)
        d = len(modelled) + (self.table.unit is not None)
        sigma = math.sqrt(max(d, 1) / (self.split.one_way * self.total))
        self.progress.stage("measuring columns")
        budget = self.split.one_way * self.total
        written = self.written and any(c.kind == "text" for c in modelled)
        if d == 1 and not written:  # nothing to measure together: all but the gate's slice goes here
            budget = self.table.account.left.mu_squared - self.split.gate * self.total
        # Columns of labels first: their totals say how many intervals a number line is worth.
        lines = [c for c in modelled if c.kind in SCALES]
        labels = [c for c in modelled if c not in lines]
        found = [c for c in labels if d > 1 and c.name in self.vocabularies]  # counted once already
        fine = self._count([self._cells(c, 0) for c in labels if c not in found], budget / max(d, 1))
        fine += self._count([self._cells(c, 0) for c in found], COUNTED_PART * budget / max(d, 1))
        self.totals += [total_of(m) for _, m in fine]
        pieces = intervals_worth(precise_mean(self.totals), sigma) if self.totals else MAX_INTERVALS
        cells = [self._cells(c, pieces) for c in lines]
        if self.table.unit is not None:
            counts_to = tuple(float(k) for k in range(1, self.table.max_rows + 1))
            cells.append(LineCells(ROWS_PER_UNIT, "number", counts_to, (), 1.0))
        fine += self._count(cells, budget / max(d, 1))
        if not fine:
            raise SchemaError("no column is left to model: all hold identifiers")
        order = {c.name: i for i, c in enumerate(modelled)}
        fine.sort(key=lambda pair: order.get(pair[0].column, len(order)))
        self.totals += [total_of(m) for c, m in fine if isinstance(c, LineCells)]
        n_units = precise_mean(self.totals)
        # The noise that one table of a pair will carry, to choose how many groups a column is worth.
        pairs = min(4 * len(fine), len(fine) * (len(fine) - 1) // 2)
        pair_sigma = math.sqrt(max(pairs, 1) / max(0.55 * self.total, 1e-300))
        codecs, counted = [], []
        for c, m in fine:
            both = self._combine(c, m)
            counted.append(both)
            column = next((o for o in modelled if o.name == c.column), None)
            codec = codec_from(
                c,
                both.values,
                both.sigma,
                other_sigma=m.sigma,
                total=n_units,
                quantiles=3 * groups_worth(n_units, pair_sigma) // 2,
                least=max(LEAST_SHARE, min(0.5 * pair_sigma / max(n_units, 1.0), 0.1)),
                nullable=column.nullable if column is not None else False,
                coarse=self.ranges.get(c.column),
                trim=column is None or column.bounds is None,
                tentative=self.guessed.get(c.column, ()),
            )
            codecs.append(codec)
        by_name = {c.column: c for c in codecs}
        by_name = Rules(constraints=self.constraints, columns={c.name: c for c in columns}, codecs=by_name).aligned()
        histograms = {}
        for codec, m in zip(by_name.values(), counted, strict=True):
            grouped = np.bincount(codec.groups, weights=m.values, minlength=codec.size).astype(np.float64)
            histograms[codec.column] = Measurement(values=grouped, sigma=m.sigma)
        return self._domain(columns, by_name, histograms, n_units)

    def _count(self, cells: Sequence[FineCells], mu_squared_each: float) -> list[tuple[FineCells, Measurement]]:
        if not cells:
            return []
        labels = ["rows per unit" if c.column == ROWS_PER_UNIT else c.column for c in cells]
        measured = self.table.counts(
            [[c] for c in cells], mu_squared=mu_squared_each * len(cells), stage="one-way", labels=labels
        )
        return list(zip(cells, measured, strict=True))

    def _cells(self, column: Column, pieces: int) -> FineCells:
        """The fine cells of one column; a number line is cut into about `pieces` intervals."""
        if column.kind == "boolean":
            return LabelCells(column.name, ("False", "True"))
        if column.kind in ("categorical", "text"):
            found = self.vocabularies.get(column.name)
            labels = column.categories if column.categories is not None else found.values if found else ()
            return LabelCells(column.name, tuple(map(as_label, labels)))
        scale = SCALES[column.kind]
        edges, counts = self.ranges[column.name]
        step = self._step_of(column)
        if column.name not in self.vocabularies and step is not None:
            low, high = math.ceil(edges[0] / step), math.ceil(edges[-1] / step)
            whole = [round(i * step, 9) for i in range(low, max(high, low + 1))]
            return LineCells(column.name, scale, tuple(map(float, whole)), (), step)
        found_values = self.vocabularies[column.name].values
        bought = {float(v) for v in as_numbers(found_values, scale)}
        guessed = set(sentinels(edges[0], edges[-1], step)) - bought if scale == "number" else set()
        self.guessed[column.name] = guessed
        places = intervals(edges, counts, step, pieces)
        if column.bounds is not None:  # nothing is known of where in its bounds the column lies
            places = np.union1d(places, decades(edges[0], edges[-1], step, pieces))
        atoms = sorted(bought | guessed)
        # An interval ends at each outermost atom that was bought and at each guess, so that what lies beyond can be seen to be empty.
        ends = (
            guessed | {min(bought, default=0.0), max(bought, default=0.0)} | set(cuts(self.constraints, column, step))
        )
        within = [end for end in ends if places[0] < end < places[-1]]
        return LineCells(column.name, scale, tuple(atoms), tuple(np.union1d(places, within).tolist()), step)

    def _combine(self, cells: FineCells, measured: Measurement) -> Measurement:
        """The one-way counts together with the vocabulary's, where both count the same labels (inverse variance); sigma is that
        of these labels."""
        found = self.vocabularies.get(cells.column)
        if found is None or not isinstance(cells, LabelCells) or not found.values:
            return measured
        values = measured.values.copy()
        w = measured.sigma**-2 / (measured.sigma**-2 + found.sigma**-2)
        k = len(found.values)
        values[:k] = w * values[:k] + (1 - w) * found.counts
        return Measurement(values=values, sigma=(measured.sigma**-2 + found.sigma**-2) ** -0.5)

    def _domain(
        self, columns: list[Column], by_name: dict[str, Codec], histograms: dict[str, Measurement], n_units: float
    ) -> Domain:
        facts: list[ColumnFacts] = []
        for column in columns:
            codec = by_name.get(column.name)
            facts.append(
                ColumnFacts(
                    column=filled_in(column, codec, self._step_of(column), written=self.written) if codec else column,
                    treatment=self.treatments.get(column.name, "modelled"),
                    reason=self.reasons.get(column.name, "no identifiers: its type is not a string"),
                    codec=codec,
                )
            )
        filled = {f.column.name: f.column for f in facts}
        for making in in_order(self.constraints):
            filled[making.result] = made_column(making, filled)
        facts = [replace(f, column=filled[f.column.name]) for f in facts]
        rows_codec = by_name.get(ROWS_PER_UNIT)
        n_rows = n_units
        if rows_codec is not None:
            # Rows weigh 1/k, so the cell of k holds the number of units with k rows.
            n_rows = float(np.arange(1, self.table.max_rows + 1) @ (rows_codec.shares[:-1] * n_units))
        return Domain(
            facts=tuple(facts),
            histograms=histograms,
            rows_codec=rows_codec,
            n_units=max(n_units, 1.0),
            n_rows=max(round(n_rows), 1),
            rules=Rules(constraints=self.constraints, columns=filled, codecs=by_name),
        )
